"""Mask of counted units in the analysis input, which excludes the padding of texts."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError, UsageError
from ..text import printable, quoted
from .arrays import open_array, split_key
from .sample_sets import SampleSet
from .samples import Samples

logger = logging.getLogger(__name__)

Array = npt.NDArray[Any]
MaskSpec = str | os.PathLike[str] | Array

#: Value that stands for no mask: all units count.
NO_MASK = "none"
# Names of the axes that hold the positions of a text or series.
_POSITIONS = ("position", "time")
# Parts of the name of a mask that is 1 at the padding instead of 0, or serves another purpose.
_OTHERS = ("pad", "decoder", "decode", "masked", "ignore", "causal")


@dataclass(frozen=True)
class UnitMask:
    """The counted units.

    Attributes
    ----------
    units
        (samples, *shape of the analysis input), False at excluded units.
    source
        Source of the mask.
    from_file
        Whether `source` is a file path.
    """

    units: npt.NDArray[np.bool_]
    source: str
    from_file: bool = False

    def digest(self) -> str:
        """SHA-256 digest of shape and values."""
        return digest_of(self.units)

    def __str__(self) -> str:
        return f"{self.units.mean():.1%} of the units count, by {self.source}"


def digest_of(units: npt.NDArray[np.bool_]) -> str:
    """SHA-256 digest of a mask's shape and values."""
    return hashlib.sha256(repr(units.shape).encode() + np.packbits(units).tobytes()).hexdigest()


def find_unit_mask(samples: SampleSet, shape: Sequence[int], axes: Sequence[str]) -> UnitMask | None:
    """Find the attention mask among a model's inputs.

    It is an input of shape (samples, positions) whose name contains ``mask``, that contains only 0 and 1, and has as
    many positions as the analysis input. Masks of a decoder, and masks whose names say that they are 1 at the padding,
    are ignored; among several, one called ``attention_mask``, ``input_mask`` or ``mask`` is chosen.

    Parameters
    ----------
    samples
        Samples of all graph inputs.
    shape, axes
        Axes of one sample of the analysis input: sizes, and names as in :class:`.graph.channels.Axes`.

    Returns
    -------
    UnitMask or None
        None if there is no mask, or it excludes nothing.
    """
    axis = _position_axis(axes)
    if axis is None:
        return None
    found = {
        name: each.batch(range(len(each)))
        for name, each in samples.inputs.items()
        if "mask" in name.lower()
        and not any(other in name.lower() for other in _OTHERS)
        and each.shape == (shape[axis],)
    }
    found = {name: mask for name, mask in found.items() if np.isin(mask, (0, 1)).all() and (mask == 1).any(1).all()}
    named = [name for name in found if name.lower() in ("attention_mask", "input_mask", "mask")]
    chosen = named if len(found) > 1 else list(found)
    if len(chosen) != 1:
        if found:
            logger.warning(
                "no unit mask is used: %s may be one; name it with unit_mask=...", ", ".join(map(quoted, found))
            )
        return None
    mask = found[chosen[0]] == 1
    if mask.all():
        return None
    return UnitMask(_along(mask, shape, axis), f"graph input {quoted(chosen[0])}")


def open_unit_mask(
    spec: MaskSpec, samples: SampleSet, main: Samples, shape: Sequence[int], axes: Sequence[str]
) -> UnitMask:
    """Open the mask that the user names.

    Parameters
    ----------
    spec
        Name of a graph input; or ``FILE.npz:key``, ``.npy``, ``FILE.h5:/dataset`` or an array, with one row per
        sample of the source. A row has one value per unit, or per position, or broadcasts to the units; 0 and False
        exclude units.
    samples
        Samples of all graph inputs.
    main
        Samples whose positions in their source correspond to the rows.
    shape, axes
        As in :func:`find_unit_mask`.

    Raises
    ------
    UsageError
        The specification is neither a graph input nor an array.
    InputError
        The array cannot be read, does not fit, or excludes all units of a sample.
    """
    if isinstance(spec, str | os.PathLike):
        name = os.fspath(spec)
        source = f"graph input {quoted(name)}" if name in samples.inputs else quoted(name)
        if name not in samples.inputs and split_key(name) is None:
            inputs = ", ".join(map(quoted, samples.inputs))
            raise UsageError(
                f"unit mask {quoted(name)} is neither a graph input nor an array file; expected one of {inputs}, "
                f"FILE.npz:key, .npy, FILE.h5:/dataset, or {NO_MASK}"
            )
        values = _of_input(samples.inputs[name]) if name in samples.inputs else _of_file(name, main)
    else:
        source, values = "the array given", _rows(np.asarray(spec), main, "the unit mask")
    units = _fitted(values != 0, shape, axes, source)
    empty = ~units.reshape(len(units), -1).any(1)
    if empty.any():
        raise InputError(
            f"{source} leaves no unit of sample {printable(main.names[int(np.argmax(empty))])}; a unit mask is 0 where "
            f"units do not count and 1 elsewhere"
        )
    return UnitMask(units, source, isinstance(spec, str | os.PathLike) and os.fspath(spec) not in samples.inputs)


def _of_input(samples: Samples) -> Array:
    return samples.batch(range(len(samples)))


def _of_file(spec: str, main: Samples) -> Array:
    rows = open_array(spec)
    return _rows(rows.read(range(len(rows))), main, quoted(spec))


def _rows(values: Array, main: Samples, what: str) -> Array:
    """Rows of the samples in use."""
    if values.ndim == 0 or len(values) != main.available:
        count = 0 if values.ndim == 0 else len(values)
        raise InputError(f"{what} has {count} rows, expected one for each of {main.available} samples")
    chosen: Array = values[main.positions]
    return chosen


def _fitted(mask: npt.NDArray[np.bool_], shape: Sequence[int], axes: Sequence[str], what: str) -> npt.NDArray[np.bool_]:
    full = (len(mask), *shape)
    axis = _position_axis(axes)
    if mask.shape == full:
        return mask
    if axis is not None and mask.shape == (len(mask), shape[axis]):
        return _along(mask, shape, axis)
    if mask.ndim == len(full) and all(n in (1, size) for n, size in zip(mask.shape, full, strict=True)):
        return np.broadcast_to(mask, full).copy()
    raise InputError(
        f"{what} has shape {mask.shape}, expected a value for each unit, {full}, or for each position of the samples"
    )


def _position_axis(axes: Sequence[str]) -> int | None:
    return next((axis for axis, name in enumerate(axes) if name in _POSITIONS), None)


def _along(mask: npt.NDArray[np.bool_], shape: Sequence[int], axis: int) -> npt.NDArray[np.bool_]:
    """Expand a mask of positions, (samples, positions), to all units."""
    extent = [size if i == axis else 1 for i, size in enumerate(shape)]
    return np.broadcast_to(mask.reshape(len(mask), *extent), (len(mask), *shape)).copy()
