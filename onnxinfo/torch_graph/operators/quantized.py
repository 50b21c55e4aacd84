"""Quantized operators with the straight-through estimator: values equal ONNX Runtime's, rounding has gradient one.

Gradients cannot pass integer tensors, so quantized values are represented by integers in a float tensor: float32 if
that is exact, else float64. Inside the range of the quantized type the gradient is that of the unrounded operator,
outside it is zero. Integers stored in the model (weights, zero points) stay integers.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import onnx
import torch
from torch import Tensor

from ..element_types import single, torch_type
from ..nodes import Converted, Graph, Node
from .bounds import is_readable
from .conv import Conv
from .table import bind, converter, operator

# Below this, float32 adds integers without rounding.
_EXACT_IN_FLOAT32 = 2**24
_WIDEST_UINT8 = 255
_WIDEST_BIAS = 2**31
_MINIFLOATS = ("8_e4m3fn", "8_e4m3fnuz", "8_e5m2", "8_e5m2fnuz", "6_e2m3fn", "6_e3m2fn", "4_e2m1fn")


class MiniFloat(NamedTuple):
    """A float type of 4 to 8 bits: its largest value, smallest exponent, and bits of the fraction."""

    largest: float
    exponent: int
    fraction: int


class SmallInteger(NamedTuple):
    """An integer type that numpy lacks or has: its number of bits, lowest and highest value."""

    bits: int
    low: int
    high: int


def _mini_float(type: Any) -> MiniFloat:
    format = ml_dtypes.finfo(type)
    return MiniFloat(float(format.max), int(format.minexp), int(format.nmant))


def _small_integer(type: Any) -> SmallInteger:
    limits = ml_dtypes.iinfo(type)
    return SmallInteger(limits.bits, int(limits.min), int(limits.max))


# By ONNX element type. Tables, because a compiler that traces the graph cannot look into these packages.
MINIFLOATS: dict[int, MiniFloat] = {
    onnx.helper.np_dtype_to_tensor_dtype(np.dtype(type)): _mini_float(type)
    for type in (getattr(ml_dtypes, f"float{format}") for format in _MINIFLOATS)
}
INTEGERS: dict[int, SmallInteger] = {
    number: _small_integer(type)
    for number in onnx.helper.get_all_tensor_dtypes()
    if (type := onnx.helper.tensor_dtype_to_np_dtype(number)).kind in "iu" or "int" in type.name
}


def straight_through(exact: Tensor, smooth: Tensor) -> Tensor:
    """Return the values of ``exact`` with the gradient of ``smooth``."""
    # Infinite values have no difference that could carry a gradient.
    finite = exact.isfinite() & smooth.isfinite()
    return torch.where(finite, smooth + (exact - smooth).detach(), exact)


def round_to_integer(x: Tensor, zero_point: Tensor | int, low: int, high: int) -> Tensor:
    """Round half to even, add the zero point and saturate."""
    # Clamping first gives the same values, and keeps infinities out of the difference that carries the gradient.
    x = single(x).clamp(low - _plain(zero_point), high - _plain(zero_point))
    return straight_through(x.round(), x).add(_plain(zero_point))


def round_to_float(x: Tensor, type: int, saturate: int = 1) -> Tensor:
    """Round half to even to the values of an ONNX float type of 4 to 8 bits."""
    largest, smallest, fraction = MINIFLOATS[type]
    x = single(x)
    exponent = torch.frexp(x.detach()).exponent.clamp(min=smallest + 1) - 1
    step = torch.ldexp(torch.ones_like(x), exponent - fraction)
    rounded = (x / step).round() * step
    if not saturate:
        overflow = math.inf if type == onnx.TensorProto.FLOAT8E5M2 else math.nan
        rounded = torch.where(rounded.abs() > largest, overflow * x.sign(), rounded)
        return straight_through(rounded, x)
    return straight_through(rounded.clamp(-largest, largest), x.clamp(-largest, largest))


def dequantized(x: Tensor, scale: Tensor, zero_point: Tensor | None = None) -> Any:
    """Return ``(x - zero_point) * scale``; scale and zero point must be broadcastable."""
    return centered(x, zero_point).to(scale.dtype) * scale


def requantized(x: Tensor, zero_point: Tensor | None) -> Tensor:
    """Round ``x``, given in units of the scale, to the type of the zero point."""
    if zero_point is None:
        raise NotImplementedError("without a zero point the type of the quantized output is unknown")
    limits = torch.iinfo(zero_point.dtype)
    return round_to_integer(x, zero_point, limits.min, limits.max)


def centered(x: Tensor, zero_point: Tensor | None = None) -> Any:
    """Return ``x - zero_point`` in a type without overflow: int32 for integers, else a float type."""
    return _plain(x) if zero_point is None else _plain(x) - _plain(zero_point)


def _plain(x: Any) -> Any:
    """Widen a tensor to a type that torch can compute with."""
    if not isinstance(x, Tensor) or x.dtype == torch.int32:
        return x
    if x.is_floating_point():
        return x.float() if x.dtype.itemsize < 2 else x
    return x.to(torch.int32 if x.dtype.itemsize < 4 else torch.int64)


def _along(parameter: Tensor | None, x: Tensor, axis: int, block_size: int) -> Tensor | None:
    """Shape scales or zero points to broadcast with ``x``: one per tensor, per index of an axis, or per block."""
    if parameter is None:
        return None
    parameter = _plain(parameter)
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


@operator()
def DequantizeLinear(x, x_scale, x_zero_point=None, *, axis=1, block_size=0, output_dtype=0):
    scale = _along(x_scale, x, axis, block_size)
    zero_point = _along(x_zero_point, x, axis, block_size)
    return dequantized(x, scale.to(torch_type(output_dtype)) if output_dtype else _plain(scale), zero_point)


@operator()
def DynamicQuantizeLinear(x):
    # Rounded values are multiplied by the scale again: without the rounding, the scale's gradient would cancel.
    low, high = x.detach().amin().clamp(max=0), x.detach().amax().clamp(min=0)
    width = (high - low) / _WIDEST_UINT8
    scale = torch.where(width == 0, 1.0, width)
    zero_point = (-low / scale).clamp(0, _WIDEST_UINT8).round().to(torch.uint8)
    # Nothing saturates, but the largest quotient may exceed the last step by a rounding error.
    quotient = x / scale
    return straight_through(requantized(quotient, zero_point), quotient + _plain(zero_point)), scale, zero_point


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
