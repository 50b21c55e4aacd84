"""Reductions and cumulative operators."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .elementwise import any_integer
from .table import Function, Ints, operator

Reduction = Callable[[Tensor, tuple[int, ...], bool], Tensor]


def _sum(x: Tensor, axes: tuple[int, ...], keepdim: bool) -> Tensor:
    return x.sum(axes, keepdim, dtype=x.dtype)


def _mean(x: Tensor, axes: tuple[int, ...], keepdim: bool) -> Tensor:
    if x.is_floating_point():
        return x.mean(axes, keepdim)
    count = torch.Size([x.shape[axis] for axis in axes]).numel()
    return torch.div(_sum(x, axes, keepdim), count, rounding_mode="trunc")


def _prod(x: Tensor, axes: tuple[int, ...], keepdim: bool) -> Tensor:
    for axis in axes:
        x = x.prod(axis, True, dtype=x.dtype)
    return x if keepdim else x.squeeze(axes)


def _l2(x: Tensor, axes: tuple[int, ...], keepdim: bool) -> Tensor:
    if x.is_floating_point():
        return torch.linalg.vector_norm(x, 2, axes, keepdim)
    return _sum(x * x, axes, keepdim).double().sqrt().to(x.dtype)


def lowest(type: torch.dtype) -> float:
    """Return the smallest value of a type."""
    if type == torch.bool:
        return False
    return -math.inf if type.is_floating_point else torch.iinfo(type).min


def highest(type: torch.dtype) -> float:
    """Return the largest value of a type."""
    if type == torch.bool:
        return True
    return math.inf if type.is_floating_point else torch.iinfo(type).max


def _extreme(function: Function, largest: bool) -> Reduction:
    def extreme(x: Tensor, axes: tuple[int, ...], keepdim: bool) -> Tensor:
        if x.numel():
            return function(x, axes, keepdim)
        return torch.full_like(x.sum(axes, keepdim), lowest(x.dtype) if largest else highest(x.dtype), dtype=x.dtype)

    return extreme


def _log_sum_exp(x: Tensor, axes: tuple[int, ...], keepdim: bool) -> Tensor:
    return x.logsumexp(axes, keepdim) if x.is_floating_point() else x.double().logsumexp(axes, keepdim).to(x.dtype)


def _log_sum(x: Tensor, axes: tuple[int, ...], keepdim: bool) -> Tensor:
    return _sum(x, axes, keepdim).log().to(x.dtype)


# Name, reduction, and the first version with axes as an input.
for _name, _reduction, _axes_input in (
    ("ReduceL1", lambda x, axes, keepdim: _sum(x.abs(), axes, keepdim), 18),
    ("ReduceL2", _l2, 18),
    ("ReduceLogSum", _log_sum, 18),
    ("ReduceLogSumExp", _log_sum_exp, 18),
    ("ReduceMax", _extreme(torch.amax, largest=True), 18),
    ("ReduceMean", _mean, 18),
    ("ReduceMin", _extreme(torch.amin, largest=False), 18),
    ("ReduceProd", _prod, 18),
    ("ReduceSum", _sum, 13),
    ("ReduceSumSquare", lambda x, axes, keepdim: _sum(x * x, axes, keepdim), 18),
):

    def _enter(name: str, reduction: Reduction, axes_input: int) -> None:
        @operator(name, versions=(axes_input, None))
        @any_integer
        def reduce(data, axes: Ints = None, *, keepdims=1, noop_with_empty_axes=0):
            if axes:
                return reduction(data, tuple(axes), bool(keepdims))
            if noop_with_empty_axes:
                # The elementwise part remains, such as the square of ReduceSumSquare.
                return reduction(data.unsqueeze(-1), (-1,), False)
            return reduction(data, tuple(range(data.dim())), bool(keepdims))

        @operator(name, versions=(1, axes_input - 1))
        @any_integer
        def reduce_1(data, *, axes=None, keepdims=1):
            return reduction(data, tuple(axes or range(data.dim())), bool(keepdims))

    _enter(_name, _reduction, _axes_input)


@operator()
@any_integer
def ArgMax(data, *, axis=0, keepdims=1, select_last_index=0):
    if not select_last_index:
        return data.argmax(axis, bool(keepdims))
    return data.shape[axis] - 1 - data.flip(axis).argmax(axis, bool(keepdims))


@operator()
@any_integer
def ArgMin(data, *, axis=0, keepdims=1, select_last_index=0):
    if not select_last_index:
        return data.argmin(axis, bool(keepdims))
    return data.shape[axis] - 1 - data.flip(axis).argmin(axis, bool(keepdims))


@operator()
def CumSum(x, axis: Ints, *, exclusive=0, reverse=0):
    return _cumulative(torch.cumsum, 0, x, axis[0], exclusive, reverse)


@operator()
def CumProd(x, axis: Ints, *, exclusive=0, reverse=0):
    return _cumulative(torch.cumprod, 1, x, axis[0], exclusive, reverse)


def _cumulative(function: Function, neutral: int, x: Tensor, axis: int, exclusive: int, reverse: int) -> Tensor:
    x = x.flip(axis) if reverse else x
    if exclusive:
        first = torch.full_like(x.narrow(axis, 0, 1), neutral)
        x = torch.cat([first, x.narrow(axis, 0, x.shape[axis] - 1)], axis)
    y = function(x, axis, dtype=x.dtype)
    return y.flip(axis) if reverse else y
