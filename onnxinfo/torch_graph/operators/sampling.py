"""Sampling at positions that the model computes."""

from __future__ import annotations

from torch.nn import functional

from .table import Ints, operator

_MODES = {"linear": "bilinear", "bilinear": "bilinear", "cubic": "bicubic", "bicubic": "bicubic", "nearest": "nearest"}


@operator()
def GridSample(X, grid, *, align_corners=0, mode="linear", padding_mode="zeros"):
    return functional.grid_sample(X, grid, _MODES[mode], padding_mode, bool(align_corners))


@operator()
def AffineGrid(theta, size: Ints, *, align_corners=0):
    return functional.affine_grid(theta, size, bool(align_corners))
