"""Quantized operators with the straight-through estimator: values equal ONNX Runtime's, rounding has gradient one.

Gradients cannot pass integer tensors, so quantized values are represented by integers in a float tensor: float32 if
that is exact, else float64. Inside the range of the quantized type the gradient is that of the unrounded operator,
outside it is zero. Integers stored in the model (weights, zero points) stay integers.
"""

from __future__ import annotations

import math
from typing import Any

import onnx
import torch
from torch import Tensor

from ..element_types import single, torch_type
from ..nodes import Converted, Graph, Node
from .bounds import is_readable
from .conv import Conv
from .rounding import (
    INTEGERS,
    MINIFLOATS,
    centered,
    dequantized,
    plain,
    requantized,
    round_to_float,
    round_to_integer,
    rounded_pair,
    straight_through,
)
from .table import TENSORS_ONLY, Operator, bind, converter, operator

# Below this, float32 adds integers without rounding.
_EXACT_IN_FLOAT32 = 2**24
_WIDEST_UINT8 = 255
_WIDEST_BIAS = 2**31
# Types of integers that are rounded and restored in one step.
_PAIRED = {onnx.TensorProto.INT8, onnx.TensorProto.UINT8, onnx.TensorProto.INT16, onnx.TensorProto.UINT16}


def _along(parameter: Tensor | None, x: Tensor, axis: int, block_size: int) -> Tensor | None:
    """Shape scales or zero points to broadcast with ``x``: one per tensor, per index of an axis, or per block."""
    if parameter is None:
        return None
    parameter = plain(parameter)
    if parameter.numel() == 1 and parameter.dim() < 2:
        return parameter.reshape(())
    if block_size:
        return parameter.repeat_interleave(block_size, axis).narrow(axis, 0, x.shape[axis])
    if parameter.dim() != 1:
        raise ValueError(f"scales of shape {tuple(parameter.shape)} without a block size; expected one axis")
    return _on_axis(parameter, axis, x.dim())


def _on_axis(parameter: Tensor | None, axis: int, rank: int) -> Tensor | None:
    """Shape one value per index of an axis to broadcast with a tensor of that rank."""
    if parameter is None or parameter.numel() == 1:
        return parameter
    shape = [1] * rank
    shape[axis] = -1
    return parameter.reshape(shape)


def _rows(parameter: Tensor | None) -> Tensor | None:
    """Shape one value per row of a matrix to broadcast with it."""
    return parameter.unsqueeze(-1) if parameter is not None and parameter.dim() == 1 else parameter


@converter("QuantizeLinear")
def quantize_linear(node: Node, graph: Graph) -> Converted:
    """Convert QuantizeLinear, whose result type cannot be derived from the operands' values alone."""
    zero_point = node.inputs[2] if len(node.inputs) > 2 else ""
    declared = (node.attributes.get("output_dtype"), graph.element_type(zero_point))
    type = next((t for t in (*declared, graph.element_type(node.outputs[0])) if t), onnx.TensorProto.UINT8)
    return bind(QuantizeLinear, node, graph, output_dtype=type)


def QuantizeLinear(x, y_scale, y_zero_point=None, *, output_dtype, axis=1, block_size=0, precision=0, saturate=1):
    scale = _along(y_scale, x, axis, block_size)
    zero_point = _along(y_zero_point, x, axis, block_size)
    scale = scale.to(torch_type(precision)) if precision else scale
    quotient = x.to(scale.dtype) / scale
    if output_dtype in MINIFLOATS:
        return round_to_float(quotient if zero_point is None else quotient + zero_point, output_dtype, saturate)
    _, low, high = INTEGERS[output_dtype]
    return round_to_integer(quotient, 0 if zero_point is None else zero_point, low, high)


@converter("DequantizeLinear")
def dequantize_linear(node: Node, graph: Graph) -> Converted:
    """Convert DequantizeLinear; together with the QuantizeLinear before it, if that has the same parameters."""
    producer = graph.producers.get(node.inputs[0])
    if producer is None or not _is_pair(producer, node, graph):
        return bind(DequantizeLinear, node, graph)
    zero_point = graph.constant(node.inputs[2])
    limits, zero, scale = torch.iinfo(zero_point.dtype), int(zero_point), float(graph.constant(node.inputs[1]))
    low, high = limits.min - zero, limits.max - zero
    attributes = {"low": low, "high": high, "limits": (low * scale, high * scale)}
    module = Operator(rounded_pair, {}, TENSORS_ONLY, attributes, len(node.outputs), graph.describe(node))
    return Converted(module, (producer.inputs[0], node.inputs[1]))


def _is_pair(first: Node, second: Node, graph: Graph) -> bool:
    """Whether two nodes round floats by one constant positive scale and zero point, and return them as floats."""
    if first.op_type != "QuantizeLinear" or first.inputs[1:] != second.inputs[1:] or len(second.inputs) < 3:
        return False
    parameters = [graph.initializers.get(name) for name in second.inputs[1:]]
    if any(each is None or math.prod(each.dims) != 1 for each in parameters):
        return False
    if {*first.attributes, *second.attributes} - {"axis"}:
        return False
    types = graph.element_type(first.inputs[0]), graph.element_type(second.inputs[1])
    floats = types == (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT)
    paired = graph.element_type(second.inputs[2]) in _PAIRED
    return floats and paired and float(graph.constant(second.inputs[1])) > 0


def DequantizeLinear(x, x_scale, x_zero_point=None, *, axis=1, block_size=0, output_dtype=0):
    scale = _along(x_scale, x, axis, block_size)
    zero_point = _along(x_zero_point, x, axis, block_size)
    return dequantized(x, scale.to(torch_type(output_dtype)) if output_dtype else plain(scale), zero_point)


@operator()
def DynamicQuantizeLinear(x):
    # Rounded values are multiplied by the scale again: without the rounding, the scale's gradient would cancel.
    low, high = x.detach().amin().clamp(max=0), x.detach().amax().clamp(min=0)
    width = (high - low) / _WIDEST_UINT8
    scale = torch.where(width == 0, 1.0, width)
    zero_point = (-low / scale).clamp(0, _WIDEST_UINT8).round().to(torch.uint8)
    # Nothing saturates, but the largest quotient may exceed the last step by a rounding error.
    quotient = x / scale
    return straight_through(requantized(quotient.detach(), zero_point), quotient), scale, zero_point


@operator()
def MatMulInteger(A, B, a_zero_point=None, b_zero_point=None):
    return whole_matmul(centered(A, _rows(a_zero_point)), centered(B, b_zero_point))


@operator()
def QLinearMatMul(a, a_scale, a_zero_point, b, b_scale, b_zero_point, y_scale, y_zero_point):
    product = whole_matmul(centered(a, _rows(a_zero_point)), centered(b, b_zero_point))
    scale = single(_rows(a_scale)) * single(b_scale) / single(_rows(y_scale))
    return requantized(product.to(scale.dtype) * scale, _rows(y_zero_point))


@operator()
def ConvInteger(x, w, x_zero_point=None, w_zero_point=None, **attributes):
    weight = centered(w, _on_axis(w_zero_point, 0, w.dim()))
    return _whole_conv(centered(x, x_zero_point), weight, None, attributes)


@operator()
def QLinearConv(x, x_scale, x_zero_point, w, w_scale, w_zero_point, y_scale, y_zero_point, B=None, **attributes):
    weight = centered(w, _on_axis(w_zero_point, 0, w.dim()))
    product = _whole_conv(centered(x, x_zero_point), weight, B, attributes)
    scale = x_scale * _on_axis(w_scale, 1, w.dim()) / y_scale
    return requantized(product.to(scale.dtype) * scale, y_zero_point)


def whole_matmul(a: Tensor, b: Tensor) -> Tensor:
    """Multiply matrices of integers of at most nine bits exactly."""
    column = _largest_sum(b, 0 if b.dim() == 1 else -2)
    type = _exact_type(a, b, largest=_WIDEST_UINT8 * column)
    return a.to(type) @ b.to(type)


def _whole_conv(x: Tensor, w: Tensor, bias: Tensor | None, attributes: dict[str, Any]) -> Any:
    """Convolve integers of at most nine bits exactly."""
    largest = _WIDEST_UINT8 * _largest_sum(w.flatten(1), 1) + (0 if bias is None else _largest_of(bias))
    type = _exact_type(x, w, largest=largest)
    return Conv(x.to(type), w.to(type), None if bias is None else bias.to(type), **attributes)


def _largest_sum(x: Tensor, axis: int) -> int:
    """Bound the sums of magnitudes along an axis: by the integers themselves if reading them stalls nothing."""
    if x.is_floating_point() or not is_readable(x):
        return _WIDEST_UINT8 * x.shape[axis]
    return int(x.abs().sum(axis).max())


def _largest_of(bias: Tensor) -> int:
    return int(bias.abs().max()) if is_readable(bias) else _WIDEST_BIAS


def _exact_type(*operands: Tensor, largest: int) -> torch.dtype:
    """Return the float type in which sums of the operands' products, up to the given size, are exact."""
    wide = largest >= _EXACT_IN_FLOAT32 or any(operand.dtype == torch.float64 for operand in operands)
    return torch.float64 if wide else torch.float32
