"""Operators that select, place and sort elements."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..host import is_host, materialized
from .bounds import check_range, check_shape
from .elementwise import any_integer
from .table import Either, Ints, Values, operator


def _counted_from_zero(indices: Tensor, n: int) -> Tensor:
    """Resolve indices counted from the end of an axis of ``n`` elements."""
    return torch.where(indices < 0, indices + n, indices).to(torch.int64)


@operator()
def Gather(data, indices: Either, *, axis=0):
    axis = axis % data.dim()
    if is_host(indices) and not indices.shape:
        return data.select(axis, indices.values[0])
    indices = materialized(indices, data.device).to(device=data.device, dtype=torch.int64)
    if indices.dim():
        return data[(*[slice(None)] * axis, indices)]
    # As an index, a tensor without axes would be read back.
    return data[(*[slice(None)] * axis, indices.unsqueeze(0))].squeeze(axis)


@operator()
def GatherElements(data, indices, *, axis=0):
    return data.gather(axis, _counted_from_zero(indices, data.shape[axis]))


@operator()
def GatherND(data, indices, *, batch_dims=0):
    coordinates = list(indices.unbind(-1))
    # Batch axes are indexed by ranges, broadcast against the indices' other axes.
    shape = indices.shape[:-1]
    batch = [
        torch.arange(n, device=data.device).reshape([-1 if i == axis else 1 for i in range(len(shape))])
        for axis, n in enumerate(shape[:batch_dims])
    ]
    return data[(*batch, *coordinates)]


@operator(versions=(11, None))
@any_integer
def ScatterElements(data, indices, updates, *, axis=0, reduction="none"):
    check_shape("updates", updates, indices.shape)
    indices = _counted_from_zero(indices, data.shape[axis])
    if reduction == "none":
        return data.scatter(axis, indices, updates)
    return data.scatter_reduce(axis, indices, updates, _REDUCTIONS[reduction])


_REDUCTIONS = {"add": "sum", "mul": "prod", "min": "amin", "max": "amax"}


@operator()
def Scatter(data, indices, updates, *, axis=0):
    return ScatterElements(data, indices, updates, axis=axis)


@operator()
def ScatterND(data, indices, updates, *, reduction="none"):
    depth = indices.shape[-1]
    check_shape("updates", updates, (*indices.shape[:-1], *data.shape[depth:]))
    flat = torch.zeros_like(indices[..., 0])
    for coordinate, n in zip(indices.unbind(-1), data.shape[:depth], strict=True):
        check_range("index", coordinate, -n, n - 1)
        flat = flat * n + _counted_from_zero(coordinate, n)
    size = math.prod(data.shape[depth:])
    rows = data.reshape(-1, size)
    flat = flat.reshape(-1, 1).expand(-1, size)
    return ScatterElements(rows, flat, updates.reshape(-1, size), reduction=reduction).reshape(data.shape)


@operator()
def TensorScatter(past_cache, update, write_indices=None, *, mode="linear", axis=-2):
    axis = axis % past_cache.dim()
    check_shape("update", update, [*past_cache.shape[:axis], update.shape[axis], *past_cache.shape[axis + 1 :]])
    steps = torch.arange(update.shape[axis], device=update.device)
    start = (
        torch.zeros(update.shape[0], dtype=torch.int64, device=update.device)
        if write_indices is None
        else write_indices
    )
    positions = start.unsqueeze(1) + steps
    if mode == "circular":
        positions = positions % past_cache.shape[axis]
    shape = [1] * update.dim()
    shape[0], shape[axis] = positions.shape
    return past_cache.scatter(axis, positions.reshape(shape).expand(update.shape), update)


@operator()
def OneHot(indices, depth: Ints, values, *, axis=-1):
    classes = torch.arange(depth[0], device=indices.device)
    wrapped = torch.where(indices < 0, indices + depth[0], indices)
    axis = axis % (indices.dim() + 1)
    shape = [1] * (indices.dim() + 1)
    shape[axis] = -1
    return torch.where(wrapped.unsqueeze(axis) == classes.reshape(shape), values[1], values[0])


@operator()
def NonZero(X: Values):
    return X.nonzero().t()


@operator()
def Compress(input, condition: Values, *, axis=None):
    kept = condition.nonzero().flatten()
    return input.flatten()[kept] if axis is None else input.index_select(axis, kept)


@operator()
@any_integer
def Unique(X: Values, *, axis=None, sorted=1):
    x = X.flatten() if axis is None else X
    along = 0 if axis is None else axis
    _, inverse, counts = torch.unique(x.detach(), return_inverse=True, return_counts=True, dim=along)
    positions = torch.arange(x.shape[along], device=x.device)
    first = torch.full_like(counts, x.shape[along]).scatter_reduce(0, inverse, positions, "amin")
    if not sorted:
        order = first.argsort()
        first, counts, inverse = first[order], counts[order], order.argsort()[inverse]
    return x.index_select(along, first), first, inverse, counts


@operator(versions=(10, None))
@any_integer
def TopK(X, K: Ints, *, axis=-1, largest=1, sorted=1):
    # torch.topk does not specify the order of equal elements; ONNX takes the one with the lower index.
    values, indices = X.sort(dim=axis, descending=bool(largest), stable=True)
    return values.narrow(axis, 0, K[0]), indices.narrow(axis, 0, K[0])


@operator("TopK", versions=(1, 9))
def TopK_1(X, *, axis=-1, k):
    return TopK(X, [k], axis=axis)
