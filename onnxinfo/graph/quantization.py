"""Detect whether and how a model is quantized."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from . import protos

#: Formats of quantized models, in order of precedence if a model has several.
DYNAMIC, QOPERATOR, QDQ, WEIGHTS = "dynamic", "QOperator", "QDQ", "weights"

#: Operators that derive the scale from the values that they round.
_DYNAMIC = frozenset({"DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM"})
#: Operators that compute with integers, by prefix of their names.
_INTEGER = ("QLinear", "QGemm", "QAttention", "QEmbed", "QOrdered", "ConvInteger", "MatMulInteger")
#: Operators with quantized weights only.
_WEIGHT_ONLY = frozenset({"MatMulNBits", "MatMulBnb4", "MatMulFpQ4", "GatherBlockQuantized", "QMoE"})
#: Accuracy level of MatMulNBits from which activations are rounded to int8, too.
_ROUNDED_ACTIVATIONS = 4


def quantization(model: onnx.ModelProto) -> str:
    """Return the quantization format of a model.

    Parameters
    ----------
    model
        Any model; bodies of control flow and functions are included.

    Returns
    -------
    str
        ``dynamic``, ``QOperator`` or ``QDQ`` if activations are rounded; ``weights`` if only constants are, so that the
        network computes with floats; empty for a float model.
    """
    constants = _constants(model)
    found = {_format(node, constants) for node in _nodes(model)}
    return next((each for each in (DYNAMIC, QOPERATOR, QDQ, WEIGHTS) if each in found), "")


def rounds(model: onnx.ModelProto) -> bool:
    """Whether a model rounds its activations."""
    return quantization(model) not in ("", WEIGHTS)


def is_integer_operator(node: onnx.NodeProto) -> bool:
    """Whether an operator computes with integers that stand for real numbers, or rounds real numbers to them."""
    return node.op_type in _DYNAMIC or node.op_type.startswith(_INTEGER)


def _nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    yield from protos.nested(model.graph.node)
    for function in model.functions:
        yield from protos.nested(function.node)


def _constants(model: onnx.ModelProto) -> set[str]:
    """Return the names of initializers, of constants, and of tensors obtained by quantizing these."""
    names = protos.initial_names(model.graph)
    for node in _nodes(model):
        for body in protos.bodies(node):
            names |= protos.initial_names(body)
        if node.op_type == "Constant" or (node.op_type == "QuantizeLinear" and _of_constant(node, names)):
            names.update(node.output)
    return names


def _of_constant(node: onnx.NodeProto, constants: set[str]) -> bool:
    return set(node.input[:1]) <= constants


def _format(node: onnx.NodeProto, constants: set[str]) -> str:
    """Return the format that a node belongs to; empty if it rounds nothing."""
    name = node.op_type
    if name in _DYNAMIC:
        return DYNAMIC
    if name.startswith(_INTEGER):
        return QOPERATOR
    if name == "QuantizeLinear":
        return WEIGHTS if _of_constant(node, constants) else QDQ
    if name == "DequantizeLinear":
        return WEIGHTS if _of_constant(node, constants) else ""
    if name in _WEIGHT_ONLY:
        levels = [attribute.i for attribute in node.attribute if attribute.name == "accuracy_level"]
        return DYNAMIC if levels and levels[0] >= _ROUNDED_ACTIVATIONS else WEIGHTS
    return ""
