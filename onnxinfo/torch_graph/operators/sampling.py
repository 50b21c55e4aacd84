"""Sampling at positions computed by the model."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional

from ..host import like
from .table import Ints, operator

_MODES = {"linear": "bilinear", "bilinear": "bilinear", "cubic": "bicubic", "bicubic": "bicubic", "nearest": "nearest"}


@operator()
def GridSample(X, grid, *, align_corners=0, mode="linear", padding_mode="zeros"):
    if mode == "nearest" and padding_mode == "reflection" and not align_corners:
        grid = _on_pixels(grid, X.shape[2:])
    return functional.grid_sample(X, grid, _MODES[mode], padding_mode, bool(align_corners))


def _on_pixels(grid: Tensor, shape: Sequence[int]) -> Tensor:
    """Round positions to pixels before they are reflected, as ONNX does.

    torch rounds afterwards, which differs for reflections about an image's edge (at half a pixel) between two pixels.
    """
    size = like(grid, shape[::-1])
    pixels = (((grid + 1) * size - 1) / 2).round()
    return (2 * pixels + 1) / size - 1


@operator()
def AffineGrid(theta, size: Ints, *, align_corners=0):
    return functional.affine_grid(theta, size, bool(align_corners))
