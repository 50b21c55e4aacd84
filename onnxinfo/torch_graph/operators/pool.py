"""Pooling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .reduce import lowest
from .table import Ints, operator
from .windows import Windows, pad_spatial, windows

_MAX_POOL: dict[int, Any] = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}
_AVG_POOL: dict[int, Any] = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}


def _fits(w: Windows) -> bool:
    """Whether torch's pooling accepts the padding directly, which it does up to half a window."""
    return w.symmetric and all(2 * b <= k for b, k in zip(w.before, w.kernel, strict=True))


def _overhang(sizes: Sequence[int], w: Windows, ceil_mode: int) -> list[int]:
    """How far the last windows extend beyond the padding; negative if they end before it."""
    overhang = []
    for n, b, a, s, extent in zip(sizes, w.before, w.after, w.strides, w.extents, strict=True):
        free = n + b + a - extent
        steps = -(-free // s) if ceil_mode else free // s
        # A window that would start in the trailing padding is omitted.
        steps -= bool(ceil_mode and steps * s >= n + b)
        overhang.append(steps * s - free)
    return overhang


def _pad_windows(X: Tensor, w: Windows, ceil_mode: int, value: float) -> Tensor:
    after = [a + o for a, o in zip(w.after, _overhang(X.shape[2:], w, ceil_mode), strict=True)]
    return pad_spatial(X, w.before, after, value)


@operator()
def MaxPool(
    X,
    *,
    kernel_shape,
    auto_pad="NOTSET",
    ceil_mode=0,
    dilations=None,
    pads=None,
    storage_order=0,
    strides=None,
    outputs=1,
):
    w = windows(X.shape[2:], kernel_shape, strides, dilations, auto_pad, pads)
    pool = _MAX_POOL[len(kernel_shape)]
    if _fits(w) and outputs == 1:
        return pool(X, w.kernel, w.strides, w.before, w.dilations, bool(ceil_mode))
    padded = _pad_windows(X, w, ceil_mode, lowest(X.dtype))
    Y, positions = pool(padded, w.kernel, w.strides, 0, w.dilations, return_indices=True)
    return (Y, _whole_tensor_indices(positions, padded.shape[2:], X, w.before, storage_order)) if outputs > 1 else Y


def _whole_tensor_indices(
    positions: Tensor, padded: Sequence[int], X: Tensor, before: Sequence[int], storage_order: int
) -> Tensor:
    """Convert positions in a padded image to positions in the whole tensor, as ONNX counts them."""
    coordinates = []
    for n, b in zip(reversed(padded), reversed(before), strict=True):
        coordinates.append(positions % n - b)
        positions = positions // n
    sizes = list(reversed(X.shape[2:]))
    if storage_order:
        coordinates.reverse()
        sizes.reverse()
    flat, stride = torch.zeros_like(positions), 1
    for coordinate, size in zip(coordinates, sizes, strict=True):
        flat, stride = flat + coordinate * stride, stride * size
    channels = torch.arange(X.shape[0] * X.shape[1], device=X.device).reshape(*X.shape[:2], *[1] * len(sizes))
    return flat + channels * stride


@operator()
def MaxUnpool(X, I, output_shape: Ints = None, *, kernel_shape, pads=None, strides=None):  # noqa: E741
    w = windows(X.shape[2:], kernel_shape, strides, None, "NOTSET", pads)
    natural = [
        (n - 1) * s + k - b - a
        for n, s, k, b, a in zip(X.shape[2:], w.strides, w.kernel, w.before, w.after, strict=True)
    ]
    sizes = [*X.shape[:2], *natural]
    flat = X.new_zeros(torch.Size(sizes).numel()).scatter(0, I.flatten(), X.flatten()).reshape(sizes)
    if output_shape is None:
        return flat
    missing = [m - n for n, m in zip(sizes[2:], output_shape[2:], strict=True)]
    return pad_spatial(flat, [0] * len(missing), missing)


@operator()
def AveragePool(
    X,
    *,
    kernel_shape,
    auto_pad="NOTSET",
    ceil_mode=0,
    count_include_pad=0,
    dilations=None,
    pads=None,
    strides=None,
):
    w = windows(X.shape[2:], kernel_shape, strides, dilations, auto_pad, pads)
    dilated = any(d != 1 for d in w.dilations)
    if _fits(w) and not dilated:
        return _AVG_POOL[len(kernel_shape)](X, w.kernel, w.strides, w.before, bool(ceil_mode), bool(count_include_pad))
    inside = torch.ones(1, 1, *X.shape[2:], dtype=X.dtype, device=X.device)
    if count_include_pad:
        inside = pad_spatial(inside, w.before, w.after, 1.0)
        overhang = _overhang(X.shape[2:], w, ceil_mode)
        inside = pad_spatial(inside, [0] * len(overhang), overhang)
    else:
        inside = _pad_windows(inside, w, ceil_mode, 0.0)
    return _window_sums(_pad_windows(X, w, ceil_mode, 0.0), w) / _window_sums(inside, w)


def _window_sums(X: Tensor, w: Windows) -> Tensor:
    """Sum over the windows of a padded tensor."""
    for axis, (k, s, d) in enumerate(zip(w.kernel, w.strides, w.dilations, strict=True), start=2):
        X = X.unfold(axis, (k - 1) * d + 1, s)[..., ::d].sum(-1)
    return X


@operator(versions=(2, None))
def LpPool(X, *, kernel_shape, auto_pad="NOTSET", ceil_mode=0, dilations=None, p=2, pads=None, strides=None):
    w = windows(X.shape[2:], kernel_shape, strides, dilations, auto_pad, pads)
    return _window_sums(_pad_windows(X.abs().pow(p), w, ceil_mode, 0.0), w).pow(1 / p)


@operator("LpPool", versions=(1, 1))
def LpPool_1(X, *, kernel_shape=None, auto_pad="NOTSET", p=2.0, pads=None, strides=None):
    return LpPool(X, kernel_shape=kernel_shape or X.shape[2:], auto_pad=auto_pad, p=p, pads=pads, strides=strides)


@operator()
def GlobalAveragePool(X):
    return X.mean(tuple(range(2, X.dim())), keepdim=True)


@operator()
def GlobalMaxPool(X):
    return X.amax(tuple(range(2, X.dim())), keepdim=True)


@operator()
def GlobalLpPool(X, *, p=2):
    return torch.linalg.vector_norm(X, p, tuple(range(2, X.dim())), keepdim=True)
