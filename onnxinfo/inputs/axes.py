"""Names of a sample's axes, inferred from the shape and element type of the model's input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import ml_dtypes
import numpy as np
import numpy.typing as npt

from ..errors import InputError, UsageError

#: Declared shape of one sample, without the batch axis; a str or None is a dynamic size.
DeclaredShape = tuple[int | str | None, ...]
Layout = Literal["auto", "NCHW", "NHWC", "series"]

_SPATIAL = {2: ("time",), 3: ("y", "x"), 4: ("z", "y", "x")}
# Numbers of channels: gray, two-component, RGB, RGBA.
_FEW = (1, 2, 3, 4)


@dataclass(frozen=True)
class Target:
    """Graph input that samples are opened for.

    Attributes
    ----------
    shape
        Shape of one sample as declared by the model.
    names
        Names of the axes.
    dtype
        Element type of batches: float32 for 16-bit floats, object for text, else the model's own.
    """

    shape: DeclaredShape
    names: tuple[str, ...]
    dtype: np.dtype[Any]

    @property
    def is_text(self) -> bool:
        """Whether the input is text, which the model itself turns into numbers."""
        return self.dtype.kind == "O"

    @property
    def is_image(self) -> bool:
        """Whether the input is an image."""
        return set(self.names) == {"channel", "y", "x"}

    def declared(self, name: str) -> int | str | None:
        """Return the size of an axis as declared by the model."""
        return self.shape[self.names.index(name)]


def describe(shape: DeclaredShape, dtype: npt.DTypeLike, layout: Layout = "auto") -> Target:
    """Describe a graph input by its declaration; see :func:`axis_names`.

    Raises
    ------
    UsageError
        The layout is unknown.
    InputError
        The element type is neither numeric, boolean nor text.
    """
    kind = np.dtype(dtype)
    if kind in (np.float16, ml_dtypes.bfloat16):
        kind = np.dtype(np.float32)
    if kind.kind not in "biufO":
        raise InputError(f"the model takes elements of type {kind}, which samples cannot be read for")
    return Target(tuple(shape), axis_names(tuple(shape), kind, layout), kind)


def channel_axis(names: tuple[str, ...]) -> int | None:
    """Return the axis along which units differ: channels or features; None without one."""
    return next((axis for axis, name in enumerate(names) if name in ("channel", "feature")), None)


def axis_names(shape: DeclaredShape, dtype: np.dtype[Any], layout: Layout = "auto") -> tuple[str, ...]:
    """Name the axes of one sample.

    Token ids are ``position``, tabular data ``feature``, waveforms ``time``, series ``channel, time``, images
    ``channel, y, x``, volumes ``channel, z, y, x``; the channel comes last in a channels-last model.

    Parameters
    ----------
    shape
        Shape as declared by the model, without the batch axis.
    dtype
        Element type of the model's input.
    layout
        ``NCHW``: channels first; ``NHWC``: channels last; ``auto``: the first or last axis, whichever has 1 to 4
        entries, else whichever differs from the other axes, else the first. In a series it is the shorter axis.
        ``series``: a single axis is time, such as that of a waveform, and not the features of a table.

    Returns
    -------
    tuple of str
        One name per axis.

    Raises
    ------
    UsageError
        The layout is unknown.
    """
    if layout not in ("auto", "NCHW", "NHWC", "series"):
        raise UsageError(f"layout {layout!r} is unknown; expected auto, NCHW or NHWC")
    if len(shape) == 1:
        name = "time" if layout == "series" else "feature"
        return (name,) if dtype.kind == "f" else ("position",)
    if len(shape) not in _SPATIAL or (dtype.kind != "f" and len(shape) == 2):
        return tuple(f"axis_{axis}" for axis in range(len(shape)))
    spatial = _SPATIAL[len(shape)]
    first = _series_first(shape) if len(shape) == 2 else _image_first(shape)
    if layout in ("NCHW", "NHWC"):
        first = layout == "NCHW"
    return ("channel", *spatial) if first else (*spatial, "channel")


def _series_first(shape: DeclaredShape) -> bool:
    first, last = shape
    if isinstance(first, int) and isinstance(last, int):
        return first <= last
    return isinstance(first, int) or not isinstance(last, int)  # the dynamic size is the time


def _image_first(shape: DeclaredShape) -> bool:
    if shape[0] in _FEW or shape[-1] in _FEW:
        return shape[0] in _FEW
    sides_first = isinstance(shape[0], int) and shape[0] == shape[1] != shape[-1]
    return not sides_first


def fits(actual: tuple[int, ...], declared: DeclaredShape) -> bool:
    """Whether the model accepts a sample's shape."""
    return len(actual) == len(declared) and all(
        not isinstance(size, int) or size == n for n, size in zip(actual, declared, strict=True)
    )


def shape_text(shape: DeclaredShape) -> str:
    """Return a shape as text, such as ``3x32x32``, with ``?`` for a dynamic size."""
    return "x".join("?" if size is None else str(size) for size in shape) or "scalar"
