"""The samples of one graph input: preprocessed batches, thumbnails, the unit of perturbation, a digest."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..errors import InputError, UsageError
from .axes import Target, channel_axis
from .deviation import deviation, evenly_spread, without_zeros
from .geometry import Geometry, fit
from .images import IMAGE_CHANNELS
from .preprocess import Preprocessing
from .selection import Opened

Array = npt.NDArray[Any]
logger = logging.getLogger(__name__)

_BLOCK_BYTES = 1 << 26


class Samples:
    """The samples of one graph input, read when asked for. Made by :func:`open_samples`.

    Attributes
    ----------
    names
        One name per sample: a file's name within its folder, or ``x_test[17]``.
    positions
        Where each sample stands in its source, (n,), ascending: what other arrays of the source are aligned by.
    labels
        (n,) of int64, or None.
    classes
        What the labels are called, empty where only numbers are known.
    shape
        One sample as the model takes it, without batch axis.
    layout
        What its axes are, such as ``("channel", "y", "x")``.
    dtype
        Element type of batches: the model's own, but float32 where that is a float of 16 bits, and NumPy's text (``U``)
        where that is text.
    units
        Names of a sample's values along its only axis, such as a table's columns; None where they have none.
    preprocessing
        What was done to the values, for the recipe.
    unreadable
        Name and reason of every sample that had to be left out.
    available
        How many samples the source has, those left out and those beyond the limit included.

    Examples
    --------
    >>> samples = onnxinfo.open_samples("digits.npz:images", shape=(1, 8, 8), limit=3, labels="digits.npz:labels")
    >>> len(samples), samples.names[2], samples.labels.tolist(), samples.batch([0, 2]).shape
    (3, 'images[2]', [1, 4, 5], (2, 1, 8, 8))
    """

    def __init__(self, opened: Opened, target: Target, preprocessing: Preprocessing, shape: tuple[int, ...]) -> None:
        self.names, self.labels, self.classes = opened.source.names, opened.labels, opened.classes
        self.positions = np.asarray(opened.positions, dtype=np.int64)
        self.unreadable, self.available = opened.unreadable, opened.available
        self.shape, self.layout = shape, target.names
        self.dtype = opened.source.dtype if target.is_text else target.dtype
        self.units = opened.units
        self.preprocessing = preprocessing
        self._source, self._boxes = opened.source, opened.boxes

    def __len__(self) -> int:
        return len(self.names)

    @property
    def is_image(self) -> bool:
        """Whether samples are images."""
        return self.preprocessing.size is not None

    def batch(self, indices: Sequence[int]) -> Array:
        """Return preprocessed samples as the model takes them.

        Parameters
        ----------
        indices
            Positions among the samples, any order.

        Returns
        -------
        ndarray
            (len(indices), *shape), C-contiguous, of type ``dtype``.

        Raises
        ------
        InputError
            A sample has NaN or infinite values, does not fit the model's element type, or cannot be read any more.
        """
        if len(indices) == 0:
            return np.empty((0, *self.shape), dtype=self.dtype)
        values = self._values(indices)
        if self.dtype.kind == "U":
            return values
        finished = self._floats(values, indices) if self.dtype.kind == "f" else self._integers(values, indices)
        if self.is_image and self.layout[0] == "channel":
            finished = np.moveaxis(finished, -1, 1)
        return np.ascontiguousarray(finished)

    def _values(self, indices: Sequence[int]) -> Array:
        """Stored values at the model's size, images channels last."""
        if not self.is_image or all(self.geometry(index).identity for index in indices):
            return self._source.stack(indices)
        return np.stack([self.geometry(index).image(self._source.load(index)) for index in indices])

    def _floats(self, values: Array, indices: Sequence[int]) -> Array:
        if values.dtype.kind == "f":
            self._check(np.isfinite(values), indices, "has NaN or infinite values; remove or replace it")
            if self.preprocessing.preset is not None and self.preprocessing.scale == 1:
                inside = (values >= -0.01) & (values <= 1.01)
                preset = f"which preset {self.preprocessing.preset} takes floats to be in"
                self._check(
                    inside, indices, f"has values outside 0..1, {preset}; give the scale=... that brings them there"
                )
        finished = self.preprocessing.normalise(values, self._channel_axis(values.ndim), self.dtype)
        bits = 8 * self.dtype.itemsize
        self._check(np.isfinite(finished), indices, f"has values too large for {bits}-bit floats; give scale=...")
        return finished

    def _channel_axis(self, ndim: int) -> int:
        if self.is_image:
            return ndim - 1
        return 1 + (self._channel if self._channel is not None else -1)

    def _integers(self, values: Array, indices: Sequence[int]) -> Array:
        low, high = (0, 1) if self.dtype.kind == "b" else (np.iinfo(self.dtype).min, np.iinfo(self.dtype).max)
        inside = (values >= low) & (values <= high)
        self._check(inside, indices, f"has values outside {low}..{high}, what the model's {self.dtype} input takes")
        return values.astype(self.dtype)

    def _check(self, good: npt.NDArray[np.bool_], indices: Sequence[int], complaint: str) -> None:
        if not good.all():
            first = int(np.argmin(good.reshape(len(indices), -1).all(axis=1)))
            raise InputError(f"sample {self.names[indices[first]]} {complaint}")

    def geometry(self, index: int) -> Geometry:
        """Return which region of the original image a sample shows, to map boxes and masks into the model's input.

        Raises
        ------
        UsageError
            The samples are no images.
        """
        size, resize = self.preprocessing.size, self.preprocessing.resize
        if size is None or resize is None:
            raise UsageError("boxes and masks need images, the model's input is " + " x ".join(self.layout))
        box, scale = (None, 1.0) if self._boxes is None else (self._boxes[index], self.preprocessing.box_scale or 1.0)
        try:
            return fit(self._source.size(index), size, resize, box, scale)
        except InputError as error:
            raise InputError(f"sample {self.names[index]}: {error}") from None

    def thumbnails(self, indices: Sequence[int], size: int = 64) -> npt.NDArray[np.uint8] | None:
        """Return what the model sees, after resize and crop and before normalisation.

        Parameters
        ----------
        indices
            Positions among the samples.
        size
            Longer side at most, in pixels; smaller images stay as they are.

        Returns
        -------
        ndarray or None
            (len(indices), h, w, 3) of uint8, RGB; None where samples are no grey, RGB or RGBA images. Floats in 0..1 or
            0..255 are shown as such, others stretched from their least to their greatest value, image by image.
        """
        if not self.is_image or self.shape[self.layout.index("channel")] not in IMAGE_CHANNELS:
            return None
        height, width = self._thumbnail_size(size)
        shown = np.empty((len(indices), height, width, 3), dtype=np.uint8)
        for place, index in enumerate(indices):
            pixels = _visible(self._values([index])[0])
            picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels[..., :3])
            shown[place] = np.asarray(picture.convert("RGB").resize((width, height), Image.Resampling.BILINEAR))
        return shown

    def _thumbnail_size(self, longest: int) -> tuple[int, int]:
        height, width = self.shape[self.layout.index("y")], self.shape[self.layout.index("x")]
        shrink = min(1.0, longest / max(height, width))
        return max(1, round(height * shrink)), max(1, round(width * shrink))

    @cached_property
    def unit(self) -> Array | None:
        """The unit of perturbation over all values, see :meth:`unit_over`."""
        return self.unit_over(None)

    def unit_over(self, counted: npt.NDArray[np.bool_] | None) -> Array | None:
        """The unit of perturbation: standard deviation in the model's input space, broadcastable to ``shape``.

        Per channel for images and series, per feature for tabular data. 1 where the preprocessing divides by a standard
        deviation; else estimated from at most ``UNIT_SAMPLES`` samples, evenly spread. A channel or feature that never
        varies has the root mean square of the others' deviations. None where the input is no float.

        Parameters
        ----------
        counted
            Which values count, (samples, *shape); None: all.

        Raises
        ------
        InputError
            Nothing varies at all.
        """
        if self.dtype.kind != "f":
            return None
        axis = self._channel
        extent = [size if position == axis else 1 for position, size in enumerate(self.shape)]
        if self.preprocessing.std is not None:
            return np.ones(extent, dtype=self.dtype)
        some = evenly_spread(len(self))
        own = deviation(
            (self.batch([index])[0] for index in some), axis, None if counted is None else (counted[i] for i in some)
        )
        if not own.any():
            raise InputError(
                f"the {len(self)} samples are constant (zero standard deviation); give other samples, or std=..."
            )
        if constant := int((own == 0).sum()):
            logger.info("%d of %d %ss never vary: their unit is that of the others", constant, own.size, self._entry)
        return without_zeros(own).reshape(extent).astype(self.dtype)

    @property
    def _entry(self) -> str:
        return "value" if self._channel is None else self.layout[self._channel]

    @property
    def _channel(self) -> int | None:
        return channel_axis(self.layout)

    def make_anonymous(self) -> None:
        """Name samples by their position, ``sample 0``, and forget their names, and those of their classes.

        The digest stays that of the samples under their own names.
        """
        self.digest()
        self.names = self._source.names = [f"sample {index}" for index in range(len(self))]
        self.classes = []
        self.unreadable = [("", reason) for _, reason in self.unreadable]

    def digest(self) -> str:
        """Return a SHA-256 over contents, names, order and preprocessing of the samples."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        model = {"shape": self.shape, "layout": self.layout, "dtype": self.dtype.str}
        recipe = {"preprocessing": self.preprocessing.to_dict(), **model}
        total = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode())
        for block in self._blocks():
            for index, content in zip(block, self._source.checksums(block), strict=True):
                total.update(hashlib.sha256(self.names[index].encode()).digest() + content)
                if self._boxes is not None:
                    total.update(np.asarray(self._boxes[index], dtype="<f8").tobytes())
        return total.hexdigest()

    def _blocks(self) -> Iterator[range]:
        largest = max(4 * math.prod(self.shape), self._source.row_bytes)
        step = max(1, _BLOCK_BYTES // max(1, largest))
        for start in range(0, len(self), step):
            yield range(start, min(start + step, len(self)))

    def check(self) -> None:
        """Make sure, before work begins, that every sample can be given to the model.

        Raises
        ------
        InputError
            One cannot; the message names it.
        """
        if self.is_image:
            for index in range(len(self)):
                self.geometry(index)
        if self.dtype.kind == "f" and self._source.dtype.kind in "biu" and self._source.dtype.itemsize == 1:
            return  # bytes always fit
        for block in self._blocks():
            self.batch(block)


def _visible(pixels: Array) -> npt.NDArray[np.uint8]:
    if pixels.dtype == np.uint8:
        return pixels
    values = pixels.astype(np.float64)
    low, high = values.min(), values.max()
    if low >= 0 and high <= 255:
        low, high = 0.0, 1.0 if high <= 1 else 255.0
    return np.asarray((values - low) / ((high - low) or 1.0) * 255 + 0.5).astype(np.uint8)
