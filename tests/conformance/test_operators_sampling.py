"""Grid sampling, especially at positions exactly between two pixels and beyond the edges."""

from __future__ import annotations

import numpy as np
import pytest
from nodes import assert_same, floats


def positions(size: int, align_corners: int) -> np.ndarray:
    """Normalized positions of every half pixel, from two images to the left to two to the right."""
    pixels = np.arange(-2 * size, 3 * size, 0.5)
    span = max(size - 1, 1) if align_corners else size
    return (2 * pixels + (0 if align_corners else 1)) / span - 1


@pytest.mark.parametrize("align_corners", [0, 1])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("shape", [(3, 4), (1, 5), (7, 2), (1, 1)])
def test_between_pixels_and_beyond_edges(shape: tuple[int, int], mode: str, padding: str, align_corners: int) -> None:
    height, width = (positions(size, align_corners) for size in shape)
    grid = np.stack(np.meshgrid(width, height), -1).astype(np.float32)[None]
    settings = {"opset": 20, "mode": mode, "padding_mode": padding, "align_corners": align_corners}
    assert_same("GridSample", [floats(1, 2, *shape), grid], **settings)


@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
def test_volumes(padding: str) -> None:
    axes = [positions(size, 0)[::3] for size in (5, 4, 3)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1).astype(np.float32)[None]
    assert_same("GridSample", [floats(1, 1, 3, 4, 5), grid], opset=20, mode="nearest", padding_mode=padding)
