"""What the values that a model receives give away about a wrong preprocessing, without labels."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..graph.own_scaling import OwnScaling
from ..inputs.preprocess import PRESETS
from ..inputs.samples import Samples

Array = npt.NDArray[Any]

# Values of bytes exceed this, and values in 0..1 and standardized ones do not.
_BYTES = 16.0
# A model that multiplies its input by less expects bytes; one that multiplies by more and centers, 0..1.
_FOR_BYTES, _FOR_SHARES = 0.02, 2.0
# Fraction of a preset's range that values should cover, and by how much they may exceed it.
_LEAST_COVER, _EXCESS = 0.2, 0.5
# Roughness of images that have as much detail as noise, and its ratio to that in the right order of axes.
_ROUGH, _ROUGHER = 0.5, 1.5


@dataclass(frozen=True)
class Received:
    """Values that a model receives.

    Attributes
    ----------
    minimum, mean, maximum
        Of all values; NaN for text.
    main
        The samples.
    own
        Scaling that the model starts with.
    some
        Some of the images, (n, *shape); None for other samples.
    """

    minimum: float
    mean: float
    maximum: float
    main: Samples
    own: OwnScaling
    some: Array | None


def suspicions(received: Received) -> Iterator[str]:
    """Yield what is probably wrong with images, in plain words, with the remedy."""
    if received.some is None or received.main.dtype.kind != "f" or not math.isfinite(received.mean):
        return
    yield from _scales(received)
    yield from _preset(received)
    if _is_transposed(received.some, received.main.layout):
        yield (
            "the images are as rough as noise and smooth if their axes are read in another order: they were probably "
            "reshaped instead of transposed between channels first and channels last; transpose the array"
        )


def _scales(received: Received) -> Iterator[str]:
    smallest, largest, own = received.minimum, received.maximum, received.own
    spread = f"{smallest:.4g} to {largest:.4g}"
    if largest > _BYTES and own.factor >= _FOR_BYTES:
        yield (
            f"the model's input ranges from {spread}, like bytes, and the model does not scale it down: if it was "
            f"trained on values in 0..1, give scale={1 / 255:.6g} or preset=..."
        )
    if own.factor < _FOR_BYTES and max(abs(smallest), abs(largest)) < _BYTES:
        yield (
            f"the model itself multiplies its input by {own.factor:.3g}, so it expects bytes in 0..255, and gets "
            f"values from {spread}: give scale={255 if received.main.stored.kind == 'f' else 1}, and no preset"
        )
    values = received.main.preprocessing
    if own.centers and own.factor > _FOR_SHARES and (values.mean is not None or values.std is not None):
        yield (
            "the model itself subtracts a mean and divides by a standard deviation, and the preprocessing does so too: "
            "leave out preset, mean and std"
        )


def _preset(received: Received) -> Iterator[str]:
    values = received.main.preprocessing
    if values.preset is None:
        return
    mean, std = PRESETS[values.preset] or ((0.0,), (1.0,))
    low = min(-m / s for m, s in zip(mean, std, strict=True))
    high = max((1 - m) / s for m, s in zip(mean, std, strict=True))
    width, covered = high - low, received.maximum - received.minimum
    outside = max(low - received.minimum, received.maximum - high)
    if covered < _LEAST_COVER * width or outside > _EXCESS * width:
        yield (
            f"the model's input ranges from {received.minimum:.4g} to {received.maximum:.4g}, far from the range of "
            f"preset {values.preset}, {low:.2f} to {high:.2f}: check scale and the stored values"
        )


def _is_transposed(images: Array, layout: tuple[str, ...]) -> bool:
    """Whether images look like noise, and smooth if the same memory is read in the other order of axes."""
    if len(layout) != 3 or images.shape[1 + layout.index("channel")] != 3:
        return False
    y, x = images.shape[1 + layout.index("y")], images.shape[1 + layout.index("x")]
    if min(y, x) < 8:
        return False
    first = images if layout[0] == "channel" else np.moveaxis(images, -1, 1)
    last = np.moveaxis(first, 1, -1)
    own = _roughness(first)
    # The memory of an array with channels last, taken for channels first, and the other way around.
    others = (
        np.moveaxis(np.ascontiguousarray(first).reshape(len(first), y, x, 3), -1, 1),
        np.ascontiguousarray(last).reshape(len(last), 3, y, x),
    )
    return own > _ROUGH and own > _ROUGHER * min(map(_roughness, others))


def _roughness(images: Array) -> float:
    """Mean absolute difference of neighbors, (n, channel, y, x), in standard deviations of a channel."""
    spread = images.std(axis=(2, 3), keepdims=True)
    scaled = images / np.where(spread == 0, 1, spread)
    return float((np.abs(np.diff(scaled, axis=2)).mean() + np.abs(np.diff(scaled, axis=3)).mean()) / 2)
