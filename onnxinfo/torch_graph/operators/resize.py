"""Resizing: every mode of the standard is a linear map applied to one axis after the other."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from .table import Floats, Function, Ints, operator

Array = NDArray[Any]


class Axis(NamedTuple):
    """Resizing of one axis: from ``n`` to ``size`` elements, by ``scale``, from its region ``roi``."""

    n: int
    size: int
    scale: float
    roi: tuple[float, float] = (0.0, 1.0)

    @property
    def exact(self) -> bool:
        """Whether the scale equals the ratio of the sizes."""
        return self.size == self.scale * self.n


class Rule(NamedTuple):
    """Attributes of Resize that determine the position of output elements and the interpolation."""

    mode: str = "nearest"
    coordinate_transformation_mode: str = "half_pixel"
    nearest_mode: str = "round_prefer_floor"
    cubic_coeff_a: float = -0.75
    exclude_outside: int = 0
    antialias: int = 0


@operator(versions=(11, None))
def Resize(
    X,
    roi: Floats = None,
    scales: Floats = None,
    sizes: Ints = None,
    *,
    axes=None,
    extrapolation_value=0.0,
    keep_aspect_ratio_policy="stretch",
    **rule,
):
    axes = range(X.dim()) if axes is None else [axis % X.dim() for axis in axes]
    lengths = [X.shape[axis] for axis in axes]
    resized = _by_sizes(lengths, sizes, keep_aspect_ratio_policy) if sizes else _by_scales(lengths, scales)
    if rule.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        resized = [axis._replace(roi=region) for axis, region in zip(resized, _regions(roi), strict=True)]
    changed = {i: axis for i, axis in zip(axes, resized, strict=True) if axis != Axis(axis.n, axis.n, 1.0)}
    return _resize(X, changed, Rule(**rule), extrapolation_value)


@operator("Resize", versions=(10, 10))
def Resize_10(X, scales: Floats, *, mode="nearest"):
    return Resize(
        X, None, scales, mode=_MODES_BEFORE_11[mode], coordinate_transformation_mode="asymmetric", nearest_mode="floor"
    )


@operator(versions=(9, None))
def Upsample(X, scales: Floats, *, mode="nearest"):
    return Resize_10(X, scales, mode=mode)


@operator("Upsample", versions=(7, 8))
def Upsample_7(X, *, mode="nearest", scales):
    return Resize_10(X, scales, mode=mode)


@operator("Upsample", versions=(1, 6))
def Upsample_1(X, *, height_scale, mode="nearest", width_scale):
    return Resize_10(X, [1.0, 1.0, height_scale, width_scale], mode=mode)


_MODES_BEFORE_11 = {"nearest": "nearest", "linear": "linear", "bilinear": "linear"}


def _regions(roi: Sequence[float]) -> list[tuple[float, float]]:
    count = len(roi) // 2
    return list(zip(roi[:count], roi[count:], strict=True))


def _by_scales(lengths: Sequence[int], scales: Sequence[float]) -> list[Axis]:
    # An exporter that leaves a size open, such as that of the batch, sees that it stays the same.
    scaled = zip(lengths, scales, strict=True)
    return [Axis(n, n if scale == 1 else math.floor(n * scale), scale) for n, scale in scaled]


def _by_sizes(lengths: Sequence[int], sizes: Sequence[int], policy: str) -> list[Axis]:
    scales = [1.0 if size == n else size / n for n, size in zip(lengths, sizes, strict=True)]
    if policy == "stretch":
        return [Axis(n, size, scale) for n, size, scale in zip(lengths, sizes, scales, strict=True)]
    scale = min(scales) if policy == "not_larger" else max(scales)
    return [Axis(n, math.floor(n * scale + 0.5), scale) for n in lengths]


def _resize(X: Tensor, axes: dict[int, Axis], rule: Rule, extrapolation_value: float) -> Tensor:
    if mode := _fused_mode(X, axes, rule):
        corners = rule.coordinate_transformation_mode == "align_corners"
        return functional.interpolate(X, [axes[i].size for i in sorted(axes)], mode=mode, align_corners=corners)
    for i, axis in axes.items():
        if rule.mode == "nearest":
            X = _take(X, i, axis, rule)
        else:
            weights = _weight_table(*axis, *rule).to(X.device, X.dtype)
            X = (X.movedim(i, -1) @ weights.t()).movedim(-1, i)
        if rule.coordinate_transformation_mode == "tf_crop_and_resize":
            outside = _outside_table(*axis, *rule).to(X.device)
            X = torch.where(outside.reshape([-1 if j == i else 1 for j in range(X.dim())]), extrapolation_value, X)
    return X


def _fused_mode(X: Tensor, axes: dict[int, Axis], rule: Rule) -> str | None:
    """Return the mode of torch's own kernel if that is equivalent."""
    spatial = sorted(axes) == list(range(2, X.dim())) and all(axis.exact and axis.size > 1 for axis in axes.values())
    coordinates = rule.coordinate_transformation_mode in ("half_pixel", "pytorch_half_pixel", "align_corners")
    if not (spatial and coordinates and X.is_floating_point()) or rule.antialias or rule.exclude_outside:
        return None
    if rule.mode == "cubic":
        return "bicubic" if X.dim() == 4 and rule.cubic_coeff_a == -0.75 else None
    return {("linear", 3): "linear", ("linear", 4): "bilinear", ("linear", 5): "trilinear"}.get((rule.mode, X.dim()))


def _take(X: Tensor, i: int, axis: Axis, rule: Rule) -> Tensor:
    if factor := _repetitions(*axis, *rule):
        return X.unsqueeze(i + 1).expand(*X.shape[: i + 1], factor, *X.shape[i + 1 :]).flatten(i, i + 1)
    return X.index_select(i, _index_table(*axis, *rule).to(X.device))


def _as_constant(function: Function) -> Function:
    """Let a compiler that traces the graph take the result as a constant: it cannot look into numpy's functions.

    This is what ``torch.compiler.assume_constant_result`` does, which imports the compiler.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


@_as_constant
def _index_table(n, size, scale, roi, *rule) -> Tensor:
    return torch.from_numpy(_nearest(Axis(n, size, scale, roi), Rule(*rule)))


@_as_constant
def _weight_table(n, size, scale, roi, *rule) -> Tensor:
    return torch.from_numpy(_weights(Axis(n, size, scale, roi), Rule(*rule)))


@_as_constant
def _outside_table(n, size, scale, roi, *rule) -> Tensor:
    x = torch.from_numpy(_coordinates(Axis(n, size, scale, roi), Rule(*rule).coordinate_transformation_mode))
    return (x < 0) | (x > n - 1)


@_as_constant
def _repetitions(n, size, scale, roi, *rule) -> int:
    """Number of times that every element is repeated; 0 if that is not what the resize does."""
    factor = size // n
    indices = _nearest(Axis(n, size, scale, roi), Rule(*rule))
    return factor if size == factor * n and np.array_equal(indices, np.arange(size) // max(factor, 1)) else 0


@functools.lru_cache(maxsize=256)
def _coordinates(axis: Axis, mode: str) -> Array:
    """Positions of an axis's output elements among its input elements."""
    n, size, scale, (start, end) = axis
    i = np.arange(size)
    length = n * scale
    if mode == "half_pixel" or (mode == "pytorch_half_pixel" and size > 1):
        return (i + 0.5) / scale - 0.5
    if mode == "half_pixel_symmetric":
        return n / 2 * (1 - size / length) + (i + 0.5) / scale - 0.5
    if mode == "tf_half_pixel_for_nn":
        return (i + 0.5) / scale
    if mode == "asymmetric":
        return i / scale
    if mode == "align_corners":
        return i * ((n - 1) / (length - 1) if length != 1 else 0.0)
    if mode == "tf_crop_and_resize":
        step = (end - start) * (n - 1) / (length - 1) if length != 1 else 0.0
        return (start * (n - 1) if length != 1 else 0.5 * (start + end) * (n - 1)) + i * step
    if mode == "pytorch_half_pixel":
        return np.zeros(size)
    raise ValueError(f"Resize: unknown coordinate_transformation_mode '{mode}'")


@functools.lru_cache(maxsize=256)
def _nearest(axis: Axis, rule: Rule) -> Array:
    x = _coordinates(axis, rule.coordinate_transformation_mode)
    rounded = {
        "round_prefer_floor": np.ceil(x - 0.5),
        "round_prefer_ceil": np.floor(x + 0.5),
        "floor": np.floor(x),
        "ceil": np.ceil(x),
    }[rule.nearest_mode]
    return np.clip(rounded, 0, axis.n - 1).astype(np.int64)


@functools.lru_cache(maxsize=256)
def _weights(axis: Axis, rule: Rule) -> Array:
    """Weight of each input element (column) in each output element (row) of a linear or cubic resize."""
    x = _coordinates(axis, rule.coordinate_transformation_mode)
    # Antialiasing stretches the kernel over as many input elements as an output element covers.
    squeeze = min(axis.scale, 1.0) if rule.antialias else 1.0
    reach = math.ceil((1 if rule.mode == "linear" else 2) / squeeze)
    taps = np.floor(x)[:, None].astype(np.int64) + np.arange(1 - reach, reach + 1)
    distance = np.abs(taps - x[:, None]) * squeeze
    weights = np.clip(1 - distance, 0, 1) if rule.mode == "linear" else _cubic(distance, rule.cubic_coeff_a)
    if rule.exclude_outside:
        weights = np.where((taps < 0) | (taps >= axis.n), 0, weights)
    weights = weights / weights.sum(1, keepdims=True)
    matrix = np.zeros((axis.size, axis.n))
    np.add.at(matrix, (np.arange(axis.size)[:, None], taps.clip(0, axis.n - 1)), weights)
    return matrix


def _cubic(d: Array, a: float) -> Array:
    near = ((a + 2) * d - (a + 3)) * d**2 + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))
