"""Operators of object detectors. The choice of boxes is piecewise constant; the values pooled from them are not."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .bounds import check_range
from .table import Floats, Ints, Values, operator


@operator()
def NonMaxSuppression(
    boxes: Values,
    scores: Values,
    max_output_boxes_per_class: Ints = None,
    iou_threshold: Floats = None,
    score_threshold: Floats = None,
    *,
    center_point_box=0,
):
    limit = max_output_boxes_per_class[0] if max_output_boxes_per_class else 0
    overlap = iou_threshold[0] if iou_threshold else 0.0
    least = score_threshold[0] if score_threshold else -math.inf
    selected = [
        torch.tensor([b, c, i])
        for b, corners in enumerate(_corners(boxes.detach(), center_point_box))
        for c in range(scores.shape[1])
        for i in _suppressed(corners, scores[b, c], limit, overlap, least)
    ]
    return torch.stack(selected) if selected else torch.empty(0, 3, dtype=torch.int64)


def _corners(boxes: Tensor, center_point_box: int) -> Tensor:
    """Lower and upper corner of each box."""
    if center_point_box:
        center, size = boxes.split(2, -1)
        return torch.cat([center - size / 2, center + size / 2], -1)
    a, b = boxes.split(2, -1)
    return torch.cat([torch.minimum(a, b), torch.maximum(a, b)], -1)


def _suppressed(boxes: Tensor, scores: Tensor, limit: int, overlap: float, least: float) -> list[int]:
    """Greedily select the boxes of highest score that overlap with no selected one."""
    order = scores.argsort(descending=True, stable=True)
    order = order[scores[order] > least]
    chosen: list[int] = []
    while len(order) and len(chosen) < limit:
        chosen.append(int(order[0]))
        order = order[1:]
        order = order[~(_overlap(boxes[chosen[-1]], boxes[order]) > overlap)]
    return chosen


def _overlap(box: Tensor, others: Tensor) -> Tensor:
    """Intersection over union; NaN, which suppresses nothing, for boxes without area."""
    low, high = torch.maximum(box[:2], others[:, :2]), torch.minimum(box[2:], others[:, 2:])
    intersection = (high - low).clamp(min=0).prod(-1)
    return intersection / ((box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(-1) - intersection)


@operator("RoiAlign", versions=(10, 15))
def RoiAlign_10(X, rois: Values, batch_indices, **attributes):
    return RoiAlign(X, rois, batch_indices, coordinate_transformation_mode="output_half_pixel", **attributes)


@operator(versions=(16, None))
def RoiAlign(
    X,
    rois: Values,
    batch_indices,
    *,
    coordinate_transformation_mode="half_pixel",
    mode="avg",
    output_height=1,
    output_width=1,
    sampling_ratio=0,
    spatial_scale=1.0,
):
    check_range("batch index", batch_indices, 0, X.shape[0] - 1)
    half_pixel = coordinate_transformation_mode == "half_pixel"
    corners = rois * spatial_scale - (0.5 if half_pixel else 0.0)
    pooled = []
    images = X.index_select(0, batch_indices.to(torch.int64))
    for image, (left, top, right, bottom) in zip(images, corners, strict=True):
        # The deprecated mode enlarges degenerate regions to one pixel.
        height, width = (
            (end - start).clamp(min=-math.inf if half_pixel else 1.0) for start, end in ((top, bottom), (left, right))
        )
        rows, row_weights = _samples(top, height, output_height, sampling_ratio, X.shape[2])
        columns, column_weights = _samples(left, width, output_width, sampling_ratio, X.shape[3])
        weights = row_weights[:, :, None, None] * column_weights
        values = image[:, rows[:, :, None, None], columns] * weights
        # (channel, row, sample and neighbor in y, column, sample and neighbor in x)
        if mode == "max" and weights.numel():
            pooled.append(values.amax((2, 4)))
        else:
            pooled.append(values.sum((2, 4)) / max(weights.shape[1] * weights.shape[3] / 4, 1))
    return torch.stack(pooled) if pooled else X.new_zeros(0, X.shape[1], output_height, output_width)


def _samples(start: Tensor, extent: Tensor, bins: int, ratio: int, size: int) -> tuple[Tensor, Tensor]:
    """Neighboring pixels of the sampling points along one axis, and their weights: (bins, 2 * points of a bin)."""
    points = ratio if ratio > 0 else max(math.ceil(float(extent) / bins), 0)
    type, device = start.dtype, start.device
    steps = (torch.arange(points, dtype=type, device=device) + 0.5) / max(points, 1)
    position = start + extent / bins * (torch.arange(bins, dtype=type, device=device).unsqueeze(-1) + steps)
    inside = (position >= -1) & (position <= size)
    position = position.clamp(0, size - 1)
    low = position.floor().long()
    fraction = position - low
    indices = torch.cat([low, (low + 1).clamp(max=size - 1)], -1)
    return indices, torch.cat([1 - fraction, fraction], -1) * inside.repeat(1, 2)


@operator()
def MaxRoiPool(X, rois: Values, *, pooled_shape, spatial_scale=1.0):
    pooled = []
    for batch, *corners in rois.tolist():
        # Round half away from zero; corners are pixel coordinates, inclusive.
        left, top, right, bottom = (math.floor(corner * spatial_scale + 0.5) for corner in corners)
        rows = _bins(top, bottom, pooled_shape[0], X.shape[2])
        columns = _bins(left, right, pooled_shape[1], X.shape[3])
        bins = [X[int(batch), :, row, column].flatten(1) for row in rows for column in columns]
        maxima = [values.amax(1) if values.shape[1] else values.new_zeros(len(values)) for values in bins]
        pooled.append(torch.stack(maxima, 1).unflatten(1, tuple(pooled_shape)))
    return torch.stack(pooled) if pooled else X.new_zeros(0, X.shape[1], *pooled_shape)


def _bins(first: int, last: int, count: int, size: int) -> list[slice]:
    """Split a range of pixels into bins that cover it, and overlap if it is not divisible."""
    extent = max(last - first + 1, 1)
    edges = [(i * extent // count, -(-(i + 1) * extent // count)) for i in range(count)]
    return [slice(*(min(max(first + edge, 0), size) for edge in pair)) for pair in edges]
