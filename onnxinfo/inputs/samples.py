"""Samples of one graph input: preprocessed batches, thumbnails, unit of sigma, digest."""

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

from .. import markup
from ..errors import InputError, UsageError
from ..text import numbered, printable
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
    """Samples of one graph input, read lazily. Created by :func:`open_samples`.

    Attributes
    ----------
    names
        One name per sample: the file's name within its folder, or ``x_test[17]``.
    positions
        Position of each sample in its source, (n,), ascending; other arrays of the source are aligned by it.
    labels
        (n,) of int64, or None.
    classes
        Names of the labels; empty if only numbers are known.
    shape
        Shape of one sample in the model, without batch axis.
    layout
        Names of the axes, such as ``("channel", "y", "x")``.
    dtype
        Element type of batches: the model's own, but float32 for 16-bit floats, and NumPy's text (``U``) for text.
    units
        Names of a sample's values along its only axis, such as a table's columns; None if they have none.
    preprocessing
        Preprocessing of the values, for the recipe.
    unreadable
        Name and reason of every sample that was left out.
    available
        Number of samples in the source, including those left out and those beyond the limit.
    order
        Remark on their order, if it is not the one that was given, as that of a DataLoader that shuffles.

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
        self.order = ""
        self._real_names: list[str] = []

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        axes, shape = ", ".join(self.layout), " x ".join(map(str, self.shape))
        labels = "" if self.labels is None else "; with labels"
        return f"<samples: {len(self)} of {self.available}, {self.dtype}, {shape} ({axes}){labels}>"

    def _repr_html_(self) -> str:
        first = ", ".join(map(printable, self.names[:5])) + (", …" if len(self) > 5 else "")
        steps = "; ".join(
            f"{name} {value}" for name, value in self.preprocessing.to_dict().items() if value is not None
        )
        classes = "" if self.labels is None else f"{len(np.unique(self.labels))} different"
        rows: list[tuple[str, object]] = [
            ("samples", f"{len(self)} of {self.available}: {first}"),
            ("shape", f"{' x '.join(map(str, self.shape))} ({', '.join(self.layout)}), {self.dtype}"),
            ("labels", classes + (f": {', '.join(self.classes[:8])}" if self.classes else "")),
            ("preprocessing", steps),
            ("unreadable", len(self.unreadable) or ""),
        ]
        return markup.card("Samples", "", markup.facts(rows))

    @property
    def main(self) -> Samples:
        """Samples that provide names, labels and pictures."""
        return self

    @property
    def stored(self) -> np.dtype[Any]:
        """Element type of the samples as stored."""
        return self._source.dtype

    @property
    def is_image(self) -> bool:
        """Whether samples are images."""
        return self.preprocessing.size is not None

    def batch(self, indices: Sequence[int]) -> Array:
        """Return preprocessed samples in the form that the model takes.

        Parameters
        ----------
        indices
            Positions of the samples, in any order.

        Returns
        -------
        ndarray
            (len(indices), *shape), C-contiguous, of type ``dtype``.

        Raises
        ------
        InputError
            A sample has NaN or infinite values, does not fit the model's element type, or can no longer be read.
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
        """Stored values at the model's size; images have channels last."""
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
        finished = self.preprocessing.normalize(values, self._channel_axis(values.ndim), self.dtype)
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
        """Return the geometry of a sample's image, which maps boxes and masks into the model's input.

        Raises
        ------
        UsageError
            The samples are not images.
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
        """Return pictures of what the model sees, after resize and crop and before normalization.

        Parameters
        ----------
        indices
            Positions of the samples.
        size
            Maximum length of the longer side in pixels; smaller images are not enlarged.

        Returns
        -------
        ndarray or None
            (len(indices), h, w, 3) of uint8, RGB; None if samples are not gray, RGB or RGBA images. Floats in 0..1 or
            0..255 are shown directly, others stretched from minimum to maximum, image by image.
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
        """Unit of sigma over all values; see :meth:`unit_over`."""
        return self.unit_over(None)

    def unit_over(self, counted: npt.NDArray[np.bool_] | None) -> Array | None:
        """Unit of sigma: standard deviation in the model's input space, broadcastable to ``shape``.

        Per channel for images and series, per feature for tabular data. It is 1 if the preprocessing divides by a
        standard deviation; else estimated from at most ``UNIT_SAMPLES`` evenly spaced samples. A constant channel or
        feature gets the root mean square of the others' deviations. None if the input is not a float.

        Parameters
        ----------
        counted
            Counted values, (samples, *shape); None: all.

        Raises
        ------
        InputError
            All values are constant.
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
                f"{numbered(len(self), 'sample')} {'is' if len(self) == 1 else 'are'} constant "
                "(zero standard deviation); give other samples, or std=..."
            )
        if constant := int((own == 0).sum()):
            logger.info("%d of %d %ss are constant: they get the others' unit", constant, own.size, self._entry)
        return without_zeros(own).reshape(extent).astype(self.dtype)

    @property
    def _entry(self) -> str:
        return "value" if self._channel is None else self.layout[self._channel]

    @property
    def _channel(self) -> int | None:
        return channel_axis(self.layout)

    def rename(self, names: Sequence[str]) -> None:
        """Give the samples other names."""
        self.names = self._source.names = list(names)

    def make_anonymous(self) -> None:
        """Name samples by position, ``sample 0``, and drop their own names and those of their classes.

        The digest remains that of the samples under their own names.
        """
        self._real_names = list(self.names)
        self.names = self._source.names = [f"sample {index}" for index in range(len(self))]
        self.classes = []
        self.unreadable = [("", reason) for _, reason in self.unreadable]

    def digest(self) -> str:
        """Return a SHA-256 digest of the samples' contents, names, order and preprocessing."""
        return self._digest

    def digest_of(self, indices: Sequence[int]) -> str:
        """Return the digest that samples at some positions would have by themselves."""
        return self._digest_over(indices)

    @cached_property
    def _digest(self) -> str:
        return self._digest_over(range(len(self)))

    def _digest_over(self, indices: Sequence[int]) -> str:
        model = {"shape": self.shape, "layout": self.layout, "dtype": self.dtype.str}
        recipe = {"preprocessing": self.preprocessing.to_dict(), **model}
        total = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode())
        names = self._real_names or self.names
        for block in self._blocks(indices):
            for index, content in zip(block, self._source.checksums(block), strict=True):
                total.update(hashlib.sha256(names[index].encode()).digest() + content)
                if self._boxes is not None:
                    total.update(np.asarray(self._boxes[index], dtype="<f8").tobytes())
        return total.hexdigest()

    def _blocks(self, indices: Sequence[int] | None = None) -> Iterator[Sequence[int]]:
        chosen = range(len(self)) if indices is None else indices
        largest = max(4 * math.prod(self.shape), self._source.row_bytes)
        step = max(1, _BLOCK_BYTES // max(1, largest))
        for start in range(0, len(chosen), step):
            yield chosen[start : start + step]

    def check(self) -> None:
        """Check, before work begins, that every sample is usable by the model.

        Raises
        ------
        InputError
            A sample is not; the message names it.
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
