"""Preprocess stored values for the model: ``(x * scale - mean) / std``, by a named preset or explicit numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import UsageError
from .geometry import Resize

Numbers = tuple[float, ...]

#: Mean and standard deviation per channel of images in 0..1, by preset name.
PRESETS: dict[str, tuple[Numbers, Numbers] | None] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "unit": None,
}
_BYTE = 1 / 255


@dataclass(frozen=True)
class Preprocessing:
    """Complete description of the preprocessing: the part of a run's recipe that concerns its inputs.

    Attributes
    ----------
    preset
        Name of the preset, if any.
    scale
        Factor applied to the stored values.
    mean, std
        Offset and divisor of the scaled values, one number or one per channel each; None: 0 and 1.
    resize
        Way in which images were brought to the model's size; None for other data.
    size
        Height and width of the model's input; None for data other than images.
    box_scale
        Enlargement of the box to which an image was cropped; None without boxes.
    """

    preset: str | None = None
    scale: float = 1.0
    mean: Numbers | None = None
    std: Numbers | None = None
    resize: Resize | None = None
    size: tuple[int, int] | None = None
    box_scale: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as JSON-compatible values."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    def normalize(
        self, values: npt.NDArray[Any], axis: int, dtype: npt.DTypeLike = np.float32
    ) -> npt.NDArray[np.floating[Any]]:
        """Return ``(values * scale - mean) / std``.

        Parameters
        ----------
        values
            Stored values of any shape.
        axis
            Axis along which ``mean`` and ``std`` vary.
        dtype
            Float type of the computation.
        """
        kind = np.dtype(dtype)
        with np.errstate(over="ignore", invalid="ignore"):  # overflow is reported with the sample's name
            result = np.array(values, dtype=kind)
            if self.scale != 1:
                result *= np.asarray(self.scale, dtype=kind)
            if self.mean is not None:
                result -= along(self.mean, axis, values.ndim, kind)
            if self.std is not None:
                result /= along(self.std, axis, values.ndim, kind)
        return result


def along(numbers: Numbers, axis: int, ndim: int, dtype: npt.DTypeLike = np.float32) -> npt.NDArray[Any]:
    """Return numbers as an array of ``ndim`` axes that broadcasts along one of them."""
    shape = [1] * ndim
    shape[axis] = -1
    return np.asarray(numbers, dtype=dtype).reshape(shape)


def choose(
    stored: np.dtype[Any],
    *,
    image: bool,
    channels: int | None,
    preset: str | None = None,
    scale: float | None = None,
    mean: Sequence[float] | float | None = None,
    std: Sequence[float] | float | None = None,
) -> Preprocessing:
    """Determine scale, mean and standard deviation: explicit numbers override the preset, the preset the default.

    The default scales 8-bit images by 1/255 and leaves all other data unchanged. A preset's own scale of 1/255 applies
    to 8-bit values; floats are assumed to be in 0..1 already.

    Parameters
    ----------
    stored
        Element type of the samples as stored.
    image
        Whether they are images.
    channels
        Number of values that ``mean`` and ``std`` may have if not one; None without such an axis.
    preset, scale, mean, std
        As given by the user.

    Raises
    ------
    UsageError
        The preset is unknown, a number is not finite, a standard deviation is not positive, or the count differs from
        the model's number of channels.
    """
    if preset is not None and preset not in PRESETS:
        raise UsageError(f"preset {preset!r} is unknown; expected one of {', '.join(PRESETS)}")
    if scale is None and preset is not None and stored.kind in "iu" and stored != np.uint8:
        raise UsageError(f"preset {preset} is for 8-bit or float values, the samples are {stored}; give scale=... too")
    if scale is None:
        scale = _BYTE if stored == np.uint8 and (image or preset is not None) else 1.0
    named = PRESETS[preset] if preset is not None else None
    means = _numbers("mean", mean, named[0] if named else None, channels)
    stds = _numbers("std", std, named[1] if named else None, channels)
    if not math.isfinite(scale) or scale == 0:
        raise UsageError(f"scale {scale} is not usable; expected a finite number that is not 0")
    if stds is not None and min(stds) <= 0:
        raise UsageError(f"std {list(stds)} is not usable; expected positive numbers")
    return Preprocessing(preset, float(scale), means, stds)


def _numbers(
    what: str, given: Sequence[float] | float | None, default: Numbers | None, channels: int | None
) -> Numbers | None:
    if given is None and default is None:
        return None
    numbers = tuple(float(x) for x in np.atleast_1d(np.asarray(default if given is None else given, dtype=np.float64)))
    if not all(math.isfinite(x) for x in numbers):
        raise UsageError(f"{what} {list(numbers)} is not usable; expected finite numbers")
    if len(numbers) != 1 and len(numbers) != channels:
        raise UsageError(
            f"{what} has {len(numbers)} numbers, the model's input has {channels or 'no'} channels; give 1 or as many"
        )
    return numbers
