"""Rounding with the straight-through estimator, in few passes over memory."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import onnx
import torch
from torch import Tensor

from ..element_types import single
from .bounds import is_readable, is_transformed

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


def straight_through(exact: Tensor, smooth: Tensor) -> Any:
    """Return the values of ``exact`` with the gradient of ``smooth``, a tensor of the same shape."""
    return _StraightThrough.apply(exact.detach(), smooth)


class _StraightThrough(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(exact: Tensor, smooth: Tensor) -> Tensor:
        return exact.view_as(exact)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        return None, gradient

    @staticmethod
    def jvp(ctx: Any, exact: Tensor, smooth: Tensor) -> Tensor:
        return smooth.view_as(smooth)


def round_to_integer(x: Tensor, zero_point: Tensor | int, low: int, high: int) -> Any:
    """Round half to even, add the zero point and saturate; the gradient is one where nothing saturates."""
    zero = _number(zero_point)
    if isinstance(zero, int):
        return _Rounded.apply(single(x), low - zero, high - zero, zero)
    return _RoundedInRange.apply(single(x), low - zero, high - zero).add(zero)


class _Rounded(torch.autograd.Function):
    """Rounding to a range that is the same for the whole tensor."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, low: int, high: int, zero: int) -> Tensor:
        rounded = x.clamp(low, high).round_()
        return rounded.add_(zero) if zero else rounded

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int, int, int], output: Tensor) -> None:
        x, ctx.low, ctx.high, _ = inputs
        ctx.save_for_backward(x)
        ctx.save_for_forward(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (x,) = ctx.saved_tensors
        return torch.ops.aten.hardtanh_backward(gradient, x, ctx.low, ctx.high), None, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: Any) -> Tensor:
        (x,) = ctx.saved_tensors
        return torch.ops.aten.hardtanh_backward(tangent, x, ctx.low, ctx.high)


def rounded_pair(x: Tensor, scale: Tensor, *, low: int, high: int, limits: tuple[float, float]) -> Any:
    """Round to multiples of a scale, as quantizing and dequantizing in turn do.

    Parameters
    ----------
    x
        Real numbers.
    scale
        A single number.
    low, high
        Range of the multiples.
    limits
        The same range in the units of `x`.
    """
    return _RoundedPair.apply(x, scale.reshape(()), low, high, limits)


class _RoundedPair(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, scale: Tensor, low: int, high: int, limits: tuple[float, float]) -> Tensor:
        return (x / scale).clamp(low, high).round_().mul_(scale)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, *_, ctx.limits = inputs
        ctx.save_for_backward(x)
        ctx.save_for_forward(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        (x,) = ctx.saved_tensors
        return torch.ops.aten.hardtanh_backward(gradient, x, *ctx.limits), None, None, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: Any) -> Tensor:
        (x,) = ctx.saved_tensors
        return torch.ops.aten.hardtanh_backward(tangent, x, *ctx.limits)


class _RoundedInRange(torch.autograd.Function):
    """Rounding to a range given by tensors."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
        return x.clamp(low, high).round_()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        x, low, high = ctx.saved_tensors
        return torch.where((x > low) & (x < high), gradient, 0), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: Any) -> Tensor:
        x, low, high = ctx.saved_tensors
        return torch.where((x > low) & (x < high), tangent, 0)


def _number(zero_point: Tensor | int) -> Tensor | int:
    """Return a zero point as a number if it is at hand without waiting for an accelerator."""
    if not isinstance(zero_point, Tensor):
        return zero_point
    return int(zero_point) if is_readable(zero_point) and not zero_point.dim() else plain(zero_point)


def round_to_float(x: Tensor, type: int, saturate: int = 1) -> Any:
    """Round half to even to the values of an ONNX float type of 4 to 8 bits."""
    largest, smallest, fraction = MINIFLOATS[type]
    x = single(x)
    exponent = torch.frexp(x.detach()).exponent.clamp(min=smallest + 1) - 1
    step = torch.ldexp(torch.ones_like(x), exponent - fraction)
    rounded = (x / step).round() * step
    if not saturate:
        overflow = math.inf if type == onnx.TensorProto.FLOAT8E5M2 else math.nan
        rounded = torch.where(rounded.abs() > largest, overflow * x.sign(), rounded)
        # A value that overflows is not near the one that it stands for.
        return torch.where(rounded.isfinite(), straight_through(rounded, x), rounded)
    return straight_through(rounded.clamp(-largest, largest), x.clamp(-largest, largest))


def dequantized(x: Tensor, scale: Tensor, zero_point: Tensor | None = None) -> Any:
    """Return ``(x - zero_point) * scale``; scale and zero point must be broadcastable."""
    whole = centered(x, zero_point).to(scale.dtype)
    # A difference is a tensor of its own, which nothing else reads.
    own = whole is not x and not is_transformed(whole, scale)
    if own and scale.numel() == 1 and not scale.requires_grad and scale.dim() <= whole.dim():
        return whole.mul_(scale)
    return whole * scale


def requantized(x: Tensor, zero_point: Tensor | None) -> Any:
    """Round ``x``, given in units of the scale, to the type of the zero point."""
    if zero_point is None:
        raise NotImplementedError("without a zero point the type of the quantized output is unknown")
    limits = torch.iinfo(zero_point.dtype)
    return round_to_integer(x, zero_point, limits.min, limits.max)


def centered(x: Tensor, zero_point: Tensor | None = None) -> Any:
    """Return ``x - zero_point`` in a type without overflow: int32 for integers, else a float type."""
    return plain(x) if zero_point is None else plain(x) - plain(zero_point)


def plain(x: Any) -> Any:
    """Widen a tensor to a type that torch can compute with."""
    if not isinstance(x, Tensor) or x.dtype == torch.int32:
        return x
    if x.is_floating_point():
        return x.float() if x.dtype.itemsize < 2 else x
    return x.to(torch.int32 if x.dtype.itemsize < 4 else torch.int64)
