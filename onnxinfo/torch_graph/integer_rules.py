"""Rules for :mod:`.integers`: the float nodes that take the place of a quantized node, by operator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper

from .integers import Rewriter, Rounded, Rule, along
from .operators.table import MICROSOFT

#: Rules by operator; names of operators are unique over domains.
RULES: dict[str, Rule] = {}


def _rule(*operators: str) -> Callable[[Rule], Rule]:
    def enter(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(operators, function))
        return function

    return enter


def _inputs(node: onnx.NodeProto, number: int) -> list[str]:
    """Inputs of a node, with empty names for absent optional ones."""
    return [*node.input, *[""] * number][:number]


def _attributes(node: onnx.NodeProto, *left_out: str) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute if a.name not in left_out}


def _store(rewriter: Rewriter, node: onnx.NodeProto, values: str, scale: str, zero_point: str) -> None:
    """Let the integers that a node stores stand for float values, within their range."""
    integers = node.output[0]
    if zero_point:
        values = rewriter.saturated(values, scale, zero_point, rewriter.float_name(integers, scale, zero_point))
    rewriter.rounded[integers] = Rounded(values, scale, zero_point)


@_rule("QuantizeLinear")
def _quantize(rewriter: Rewriter, node: onnx.NodeProto) -> None:
    x, scale, zero_point = _inputs(node, 3)
    rewriter.rounded[node.output[0]] = rewriter.round_float(x, scale, zero_point, node.output[0])


@_rule("DequantizeLinear")
def _dequantize(rewriter: Rewriter, node: onnx.NodeProto) -> None:
    q, scale, zero_point = _inputs(node, 3)
    found = rewriter.rounded.get(q)
    if found is None:
        # Integers that the model is given, or that are not rounded floats.
        rewriter.copy(node)
    elif not found.scale:
        rewriter.emit("Mul", [found.name, _per_channel(rewriter, node, scale)], node.output[0])
    elif rewriter.same(found.scale, scale) and rewriter.same(found.zero_point, zero_point):
        rewriter.rename(node.output[0], found.name)
    elif rewriter.same(found.zero_point, zero_point):
        steps = rewriter.divided(found)
        rewriter.emit("Mul", [steps, scale], node.output[0])
    else:
        raise rewriter.refusal(node, "reads integers with another zero point than they were rounded with")


def _per_channel(rewriter: Rewriter, node: onnx.NodeProto, scale: str) -> str:
    """Name of a scale that broadcasts with the integers that a node dequantizes."""
    value, rank = rewriter.constant(scale), rewriter.rank(node.input[0])
    if value is None or value.size == 1:
        return scale
    if rank is None:
        raise rewriter.refusal(node, "has a scale per channel and an input of unknown rank")
    return rewriter.add_constant(along(value, rank, _attributes(node).get("axis", 1)), scale)


@_rule("DynamicQuantizeLinear")
def _dynamic(rewriter: Rewriter, node: onnx.NodeProto) -> None:
    # Whatever multiplies by the scale gets the right result from unrounded values with a scale of one.
    integers, scale, zero_point = [*node.output, "", ""][:3]
    scale, zero_point = (name or rewriter.free_name(f"{integers}_unused") for name in (scale, zero_point))
    rewriter.define(scale, np.array(1, np.float32))
    rewriter.define(zero_point, np.array(0, np.uint8))
    rewriter.rounded[integers] = Rounded(rewriter.present(node.input[0]), scale, zero_point)


@_rule("MatMulInteger", "MatMulInteger16")
def _product_of_integers(rewriter: Rewriter, node: onnx.NodeProto) -> None:
    a, b, a_zero, b_zero = _inputs(node, 4)
    operands = [rewriter.whole(node, a, a_zero), rewriter.whole(node, b, b_zero)]
    output = node.output[0]
    rewriter.rounded[output] = Rounded(rewriter.emit("MatMul", operands, rewriter.float_name(output, "", "")))


@_rule("ConvInteger")
def _convolution_of_integers(rewriter: Rewriter, node: onnx.NodeProto) -> None:
    x, w, x_zero, w_zero = _inputs(node, 4)
    operands = [rewriter.whole(node, x, x_zero), rewriter.whole(node, w, w_zero, axis=0)]
    output = rewriter.float_name(node.output[0], "", "")
    rewriter.rounded[node.output[0]] = Rounded(rewriter.emit("Conv", operands, output, **_attributes(node)))


@_rule("MatMulIntegerToFloat")
def _rescaled_product(rewriter: Rewriter, node: onnx.NodeProto) -> None:
    a, b, a_scale, b_scale, a_zero, b_zero, bias = _inputs(node, 7)
    operands = [rewriter.real(node, a, a_scale, a_zero), rewriter.real(node, b, b_scale, b_zero)]
    _product(rewriter, operands, bias, node.output[0])


@_rule("DynamicQuantizeMatMul")
def _dynamic_product(rewriter: Rewriter, node: onnx.NodeProto) -> None:
    a, b, b_scale, b_zero, bias = _inputs(node, 5)
    _product(rewriter, [a, rewriter.real(node, b, b_scale, b_zero)], bias, node.output[0])


def _product(rewriter: Rewriter, operands: list[str], bias: str, output: str) -> None:
    if not bias:
        rewriter.emit("MatMul", operands, output)
        return
    product = rewriter.emit("MatMul", operands, rewriter.free_name(f"{output}_product"))
    rewriter.emit("Add", [product, bias], output)


@_rule("QLinearMatMul")
def _matmul(rewriter: Rewriter, node: onnx.NodeProto) -> None:
    a, a_scale, a_zero, b, b_scale, b_zero, scale, zero_point = _inputs(node, 8)
    operands = [rewriter.real(node, a, a_scale, a_zero), rewriter.real(node, b, b_scale, b_zero)]
    product = rewriter.emit("MatMul", operands, rewriter.free_name(f"{node.output[0]}_product"))
    _store(rewriter, node, product, scale, zero_point)


@_rule("QLinearConv")
def _convolution(rewriter: Rewriter, node: onnx.NodeProto) -> None:
    x, x_scale, x_zero, w, w_scale, w_zero, scale, zero_point, bias = _inputs(node, 9)
    data = rewriter.real(node, x, x_scale, x_zero)
    operands = [_channels_first(rewriter, node, data), rewriter.real(node, w, w_scale, w_zero, axis=0)]
    if bias:
        operands.append(_bias(rewriter, node, bias, x_scale, w_scale))
    attributes = _attributes(node, "channels_last")
    sums = rewriter.emit("Conv", operands, rewriter.free_name(f"{node.output[0]}_sums"), **attributes)
    _store(rewriter, node, _channels_back(rewriter, node, sums), scale, zero_point)


def _bias(rewriter: Rewriter, node: onnx.NodeProto, bias: str, *scales: str) -> str:
    """Add the constant bias of a product of scaled integers as floats."""
    value, *factors = (rewriter.constant(name) for name in (bias, *scales))
    known = [np.squeeze(factor) for factor in factors if factor is not None]
    if value is None or len(known) < len(factors):
        raise rewriter.refusal(node, "has a bias or a scale that is computed")
    return rewriter.add_constant((value * np.prod(np.broadcast_arrays(*known), axis=0)).astype(np.float32), bias)


def _permutation(rewriter: Rewriter, node: onnx.NodeProto) -> list[int]:
    """Order of axes that moves channels from the last to the second place; empty if they are there."""
    attributes = _attributes(node)
    if not (attributes.get("channels_last") or node.op_type == "NhwcMaxPool"):
        return []
    rank = rewriter.rank(node.input[0])
    if rank is None:
        raise rewriter.refusal(node, "has channels last and an input of unknown rank")
    return [0, rank - 1, *range(1, rank - 1)]


def _channels_first(rewriter: Rewriter, node: onnx.NodeProto, name: str) -> str:
    order = _permutation(rewriter, node)
    if not order:
        return name
    return rewriter.emit("Transpose", [name], rewriter.free_name(f"{node.output[0]}_first"), perm=order)


def _channels_back(rewriter: Rewriter, node: onnx.NodeProto, name: str) -> str:
    order = _permutation(rewriter, node)
    if not order:
        return name
    return rewriter.emit("Transpose", [name], rewriter.free_name(f"{name}_last"), perm=np.argsort(order).tolist())


@_rule("NhwcMaxPool")
def _max_pool(rewriter: Rewriter, node: onnx.NodeProto) -> None:
    found = rewriter.rounded.get(node.input[0])
    if found is None:
        raise rewriter.refusal(node, "has no counterpart in floats")
    moved = _channels_first(rewriter, node, found.name)
    largest = rewriter.emit("MaxPool", [moved], rewriter.free_name(f"{node.output[0]}_largest"), **_attributes(node))
    rewriter.rounded[node.output[0]] = Rounded(_channels_back(rewriter, node, largest), found.scale, found.zero_point)


@_rule("QGemm")
def _gemm(rewriter: Rewriter, node: onnx.NodeProto) -> None:
    a, a_scale, a_zero, b, b_scale, b_zero, bias, scale, zero_point = _inputs(node, 9)
    attributes = _attributes(node)
    axis = 0 if attributes.get("transB") else 1
    operands = [rewriter.real(node, a, a_scale, a_zero), rewriter.real(node, b, b_scale, b_zero, axis=axis)]
    if bias:
        operands.append(_bias(rewriter, node, bias, a_scale, b_scale))
        attributes["beta"] = float(attributes.get("alpha", 1.0))
    output = rewriter.free_name(f"{node.output[0]}_sums") if scale else node.output[0]
    sums = rewriter.emit("Gemm", operands, output, **attributes)
    if scale:
        _store(rewriter, node, sums, scale, zero_point)


def _operand(rewriter: Rewriter, node: onnx.NodeProto, names: Sequence[str]) -> str:
    """Name of the float tensor for integers, their scale and their zero point."""
    integers, scale, zero_point = names
    return rewriter.real(node, integers, scale, zero_point)


# Operators with a float operator of the same attributes, and the number of their operands.
_PLAIN = {
    "QLinearAdd": ("Add", 2), "QLinearMul": ("Mul", 2), "QLinearSigmoid": ("Sigmoid", 1),
    "QLinearLeakyRelu": ("LeakyRelu", 1), "QLinearSoftmax": ("Softmax", 1),
    "QLinearGlobalAveragePool": ("GlobalAveragePool", 1), "QLinearAveragePool": ("AveragePool", 1),
}  # fmt: skip


@_rule(*_PLAIN)
def _plain(rewriter: Rewriter, node: onnx.NodeProto) -> None:
    operator, number = _PLAIN[node.op_type]
    names = _inputs(node, 3 * number + 2)
    operands = [_operand(rewriter, node, names[3 * i : 3 * i + 3]) for i in range(number)]
    operands = [_channels_first(rewriter, node, name) for name in operands]
    output = rewriter.free_name(f"{node.output[0]}_{operator.lower()}")
    result = rewriter.emit(operator, operands, output, **_attributes(node, "channels_last", "opset"))
    _store(rewriter, node, _channels_back(rewriter, node, result), names[-2], names[-1])


@_rule("QLinearConcat")
def _concat(rewriter: Rewriter, node: onnx.NodeProto) -> None:
    scale, zero_point, *rest = node.input
    parts = [_operand(rewriter, node, rest[i : i + 3]) for i in range(0, len(rest), 3)]
    joined = rewriter.emit("Concat", parts, rewriter.free_name(f"{node.output[0]}_joined"), **_attributes(node))
    _store(rewriter, node, joined, scale, zero_point)


@_rule("QLinearWhere")
def _where(rewriter: Rewriter, node: onnx.NodeProto) -> None:
    condition, *rest = node.input
    operands = [condition, *(_operand(rewriter, node, rest[i : i + 3]) for i in (0, 3))]
    _store(rewriter, node, rewriter.emit("Where", operands, rewriter.free_name(f"{node.output[0]}_chosen")), *rest[6:8])


@_rule("QAttention")
def _attention(rewriter: Rewriter, node: onnx.NodeProto) -> None:
    x, w, bias, x_scale, w_scale, mask, x_zero, w_zero, past = _inputs(node, 9)
    operands = [rewriter.real(node, x, x_scale, x_zero), rewriter.real(node, w, w_scale, w_zero, axis=1), bias]
    rewriter.emit_several("Attention", [*operands, mask, past], node.output, MICROSOFT, **_attributes(node))


@_rule("QEmbedLayerNormalization")
def _embedding(rewriter: Rewriter, node: onnx.NodeProto) -> None:
    names = _inputs(node, 18)
    stored, scales, zeros = names[2:7], names[8:13], names[13:18]
    tensors = [rewriter.real(node, *each) if each[0] else "" for each in zip(stored, scales, zeros, strict=True)]
    operands = [*names[:2], *tensors, names[7]]
    rewriter.emit_several("EmbedLayerNormalization", operands, node.output, MICROSOFT, **_attributes(node))


@_rule("DynamicQuantizeLSTM")
def _recurrence(rewriter: Rewriter, node: onnx.NodeProto) -> None:
    x, w, r, *optional = _inputs(node, 8)
    scales = [*node.input, *[""] * 12][8:12]
    matrices = []
    for name, scale, zero_point in ((w, *scales[:2]), (r, *scales[2:])):
        values, factor, zero = (rewriter.constant(each) for each in (name, scale, zero_point))
        if values is None or factor is None or zero is None:
            raise rewriter.refusal(node, "has weights that are computed")
        # One scale per direction, or one per direction and column; the matrices are those of LSTM, transposed.
        shape = (len(values), 1, -1)
        whole = values.astype(np.int64) - zero.astype(np.int64).reshape(shape)
        matrices.append(
            rewriter.add_constant((whole * factor.reshape(shape)).transpose(0, 2, 1).astype(np.float32), name)
        )
    rewriter.emit_several("LSTM", [x, *matrices, *optional], node.output, "", **_attributes(node))


@_rule("MatMulNBits")
def _few_bits(rewriter: Rewriter, node: onnx.NodeProto) -> None:
    # Its weights are computed to floats; the accuracy level decides whether activations are rounded, too.
    rewriter.emit_several(
        node.op_type, list(node.input), node.output, node.domain, **_attributes(node, "accuracy_level")
    )
