"""Geometry of resize and crop: which region of the original image the model sees, and where boxes and masks end up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..errors import InputError

#: Ways to bring an image to the model's size. ``crop``: resize to cover, then center crop; ``squash``: resize both
#: sides independently; ``none``: sizes must agree; a number: resize the shorter side to it, then center crop.
Resize = Literal["crop", "squash", "none"] | int


@dataclass(frozen=True)
class Geometry:
    """Region of an image that becomes the model's input.

    Attributes
    ----------
    source
        Height and width of the original image, upright.
    region
        Left, top, right and bottom of the visible region, in pixels of the original.
    output
        Height and width of the model's input.
    """

    source: tuple[int, int]
    region: tuple[float, float, float, float]
    output: tuple[int, int]

    @property
    def identity(self) -> bool:
        """Whether all pixels are unchanged."""
        height, width = self.source
        return self.source == self.output and self.region == (0, 0, width, height)

    def image(self, pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Resize and crop an image, bilinearly with antialiasing, channel by channel.

        Parameters
        ----------
        pixels
            (H, W, C) of the original.

        Returns
        -------
        ndarray
            (h, w, C); integer types are kept, floats become float32.
        """
        if self.identity:
            return pixels
        planes = pixels if pixels.dtype == np.uint8 else pixels.astype(np.float32)
        height, width = self.output
        resized = [
            Image.fromarray(np.ascontiguousarray(planes[..., channel])).resize(
                (width, height), Image.Resampling.BILINEAR, box=self.region
            )
            for channel in range(planes.shape[-1])
        ]
        moved = np.stack([np.asarray(plane) for plane in resized], axis=-1)
        return moved if pixels.dtype.kind == "f" else np.rint(moved).astype(pixels.dtype)

    def boxes(self, boxes: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Map boxes into the model's input, clipped to it.

        Parameters
        ----------
        boxes
            (k, 4): xmin, ymin, xmax, ymax in pixels of the original.

        Returns
        -------
        ndarray
            (k, 4), in pixels of the model's input; a box outside the visible region has no area.
        """
        left, top, right, bottom = self.region
        height, width = self.output
        scale = np.array([width / (right - left), height / (bottom - top)] * 2)
        moved = (np.asarray(boxes, dtype=np.float64).reshape(-1, 4) - np.array([left, top, left, top])) * scale
        return np.asarray(np.clip(moved, 0, np.array([width, height, width, height])), dtype=np.float64)

    def mask(self, mask: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Map a mask into the model's input: pixels that are at least half covered.

        Parameters
        ----------
        mask
            (H, W) of the original; nonzero is foreground.

        Returns
        -------
        ndarray
            (h, w) of bool.

        Raises
        ------
        InputError
            The sizes of mask and image differ.
        """
        inside = np.asarray(mask) != 0
        if inside.shape != self.source:
            raise InputError(f"a mask has shape {inside.shape}, expected that of its image, {self.source}")
        covered: npt.NDArray[np.bool_] = self.image(inside[..., None].astype(np.float32))[..., 0] >= 0.5
        return covered


def fit(
    source: tuple[int, int],
    output: tuple[int, int],
    resize: Resize,
    box: npt.ArrayLike | None = None,
    box_scale: float = 1.5,
) -> Geometry:
    """Return the geometry that brings an image to the model's size.

    Parameters
    ----------
    source
        Height and width of the original image.
    output
        Height and width of the model's input.
    resize
        Way to resize, see :data:`Resize`.
    box
        Xmin, ymin, xmax, ymax in pixels: the image is first cropped to this box, enlarged about its center by
        ``box_scale`` in width and height within the image (the paper's crop for concentration).
    box_scale
        Enlargement of the box; 1.5 in the paper.

    Raises
    ------
    InputError
        The box is empty or lies outside the image, or ``resize`` is ``none`` and the sizes differ.
    """
    area = (0.0, 0.0, float(source[1]), float(source[0])) if box is None else _around(box, box_scale, source)
    width, height = area[2] - area[0], area[3] - area[1]
    if resize == "none":
        if height != output[0] or width != output[1]:
            raise InputError(
                f"{width:g}x{height:g} pixels, the model takes {output[1]}x{output[0]}; resize it, or give resize=..."
            )
        return Geometry(source, area, output)
    if resize == "squash":
        return Geometry(source, area, output)
    zoom = max(output[0] / height, output[1] / width) if resize == "crop" else resize / min(height, width)
    seen_height, seen_width = min(output[0] / zoom, height), min(output[1] / zoom, width)
    left, top = area[0] + (width - seen_width) / 2, area[1] + (height - seen_height) / 2
    return Geometry(source, (left, top, left + seen_width, top + seen_height), output)


def _around(box: npt.ArrayLike, scale: float, source: tuple[int, int]) -> tuple[float, float, float, float]:
    corners = np.asarray(box, dtype=np.float64)
    height, width = source
    if corners.shape != (4,) or not np.isfinite(corners).all() or (corners[2:] <= corners[:2]).any():
        raise InputError(f"box {corners.tolist()} is empty, expected xmin < xmax and ymin < ymax")
    if corners[0] >= width or corners[1] >= height or corners[2] <= 0 or corners[3] <= 0:
        raise InputError(f"box {corners.tolist()} lies outside the image of {width}x{height} pixels")
    center, half = (corners[:2] + corners[2:]) / 2, scale * (corners[2:] - corners[:2]) / 2
    left, top = np.maximum(center - half, 0)
    right, bottom = np.minimum(center + half, (width, height))
    return float(left), float(top), float(right), float(bottom)
