"""Select samples from a source, with their labels, boxes and positions in the source."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..text import none_has
from .arrays import open_array
from .axes import Target, fits, shape_text
from .images import IMAGE_CHANNELS, ImageFiles
from .labels import LabelSpec, open_labels
from .rows import OneRow, Rows
from .sources import ArraySource, FileSource, Source

Array = npt.NDArray[Any]
#: Boxes to crop to: one row (xmin, ymin, xmax, ymax) per sample of the source, or by sample name, or an array file.
BoxSpec = str | os.PathLike[str] | npt.NDArray[Any] | Mapping[str, Sequence[float]]

#: Maximum number of samples of a source that are considered without a limit.
MAX_SAMPLES = 2_000_000


@dataclass(frozen=True)
class Selection:
    """Number and choice of samples.

    Attributes
    ----------
    limit
        Maximum number; None: all.
    shuffle
        Choose at random instead of the first ones.
    seed
        Random seed of the choice.
    """

    limit: int | None = None
    shuffle: bool = False
    seed: int = 0

    def order(self, count: int) -> Iterable[int]:
        """Return positions in the order of consideration."""
        if count > MAX_SAMPLES and (self.limit is None or self.shuffle):
            raise InputError(
                f"the source has {count} samples, expected at most {MAX_SAMPLES}; give limit=..., without shuffle=True"
            )
        return np.random.default_rng(self.seed).permutation(count).tolist() if self.shuffle else range(count)

    def take(self, count: int, usable: Callable[[int], bool]) -> list[int]:
        """Return the chosen positions in ascending order."""
        return sorted(islice(filter(usable, self.order(count)), self.limit))


@dataclass
class Opened:
    """Chosen samples with their labels, boxes and positions.

    Attributes
    ----------
    source
        The samples.
    positions
        Their positions in the source.
    available
        Number of samples in the source.
    sample_shape
        Shape of a stored sample that is not an image.
    channels
        Number of channels of an image.
    labels, classes
        See :func:`~onnxinfo.inputs.labels.open_labels`.
    boxes
        Box of each sample.
    unreadable
        Name and reason of each sample left out.
    units
        Names of a sample's units, see :class:`~onnxinfo.inputs.rows.Rows`.
    """

    source: Source
    positions: list[int]
    available: int
    sample_shape: tuple[int, ...] = ()
    channels: int = 0
    labels: npt.NDArray[np.int64] | None = None
    classes: list[str] = field(default_factory=list)
    boxes: list[Array] | None = None
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    units: tuple[str, ...] | None = None


def open_files(
    found: ImageFiles, target: Target, selection: Selection, labels: LabelSpec | None, boxes: BoxSpec | None
) -> Opened:
    """Select from image files, leaving out unreadable ones.

    Raises
    ------
    InputError
        The model does not take images of 1, 3 or 4 channels, or no file can be read.
    """
    declared = target.declared("channel") if target.is_image else 0
    channels = declared if isinstance(declared, int) else 3
    if channels not in IMAGE_CHANNELS:
        raise InputError(
            f"image files have 1, 3 or 4 channels, the model takes {shape_text(target.shape)}; give an array instead"
        )
    source = FileSource(found, channels)
    unreadable = list(found.skipped)
    box_of = _box_finder(boxes, found.names)

    def usable(position: int) -> bool:
        try:
            if box_of is not None and box_of(position) is None:
                raise InputError("no box")
            source.probe(position)
        except InputError as error:
            unreadable.append((found.names[position], str(error)))
            return False
        return True

    positions = selection.take(len(found.names), usable)
    if not positions:
        name, reason = unreadable[-1]
        raise InputError(f"none of {len(found.names)} image files can be used; {name}: {reason}")
    source.choose(positions)
    opened = Opened(
        source, positions, len(found.names) + len(found.skipped), channels=channels, unreadable=sorted(unreadable)
    )
    given = (found.labels(), found.classes) if labels is None else open_labels(labels, found.names)
    _attach(opened, given, box_of)
    return opened


def open_rows(
    rows: Rows, target: Target, selection: Selection, labels: LabelSpec | None, boxes: BoxSpec | None
) -> Opened:
    """Select from the rows of an array.

    Raises
    ------
    InputError
        The model does not accept the array's samples.
    """
    expected = "U" if target.is_text else "biuf"
    if rows.dtype.kind not in expected:
        wanted = "text" if target.is_text else "numbers"
        raise InputError(f"{rows.name} has elements of type {rows.dtype}, expected {wanted}")
    if target.dtype.kind in "biu" and rows.dtype.kind == "f":
        raise InputError(f"{rows.name} has elements of type {rows.dtype}, the model takes {target.dtype}; convert it")
    rows = _with_sample_axis(rows, target)
    axis = _image_channel_axis(rows, target) if target.is_image else None
    if not target.is_image and not fits(rows.shape[1:], target.shape):
        raise _misfit(rows, target, "pad, cut or transpose it")
    names = _RowNames(rows)
    box_of = _box_finder(boxes, names)
    unreadable: list[tuple[str, str]] = []

    def usable(position: int) -> bool:
        if box_of is not None and box_of(position) is None:
            unreadable.append((names[position], "no box"))
            return False
        return True

    positions = selection.take(len(rows), usable)
    if not positions:
        raise InputError(f"{rows.name}: {none_has(len(rows), 'sample', 'box')}")
    opened = Opened(
        ArraySource(rows, positions, axis, image=target.is_image),
        positions,
        len(rows),
        sample_shape=rows.shape[1:],
        channels=1 if axis is None else rows.shape[1 + axis],
        unreadable=sorted(unreadable),
        units=rows.units,
    )
    _attach(opened, rows.class_folders() if labels is None else open_labels(labels, names), box_of)
    return opened


class _RowNames(Sequence[str]):
    """Names ``x_test[17]`` for all rows, generated on demand."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, position: Any) -> Any:
        if not 0 <= position < len(self):
            raise IndexError(position)
        return self._rows.name_of(position)


def _attach(
    opened: Opened, labels: tuple[npt.NDArray[np.int64] | None, list[str]], box_of: Callable[[int], Array | None] | None
) -> None:
    values, opened.classes = labels
    opened.labels = None if values is None else values[opened.positions]
    if box_of is not None:
        opened.boxes = [box for box in map(box_of, opened.positions) if box is not None]


def _box_finder(boxes: BoxSpec | None, names: Sequence[str]) -> Callable[[int], Array | None] | None:
    if boxes is None:
        return None
    if isinstance(boxes, Mapping):
        found = boxes
        return lambda position: _box(found.get(names[position]))
    if isinstance(boxes, str | os.PathLike):
        rows = open_array(os.fspath(boxes))
        boxes = rows.read(range(len(rows)))
    table = np.asarray(boxes)
    if table.shape != (len(names), 4) or table.dtype.kind not in "iuf":
        raise InputError(
            f"boxes have shape {table.shape}, expected ({len(names)}, 4): xmin, ymin, xmax, ymax of every sample"
        )
    return lambda position: _box(table[position])


def _box(corners: Any) -> Array | None:
    box = None if corners is None else np.asarray(corners, dtype=np.float64)
    return box if box is not None and np.isfinite(box).all() else None


def _with_sample_axis(rows: Rows, target: Target) -> Rows:
    """Interpret an array with the shape of one sample as one sample."""
    alone = len(rows.shape) == len(target.shape) and fits(rows.shape, target.shape)
    gray = target.is_image and len(rows.shape) == 3 and target.declared("channel") == 1
    return OneRow(rows) if alone and not gray else rows


def _image_channel_axis(rows: Rows, target: Target) -> int | None:
    """Channel axis of a row, 0 or 2; None if it has no such axis and the model takes one channel."""
    shape, declared = rows.shape[1:], target.declared("channel")
    first = target.names[0] == "channel"
    if len(shape) == 2 and not (isinstance(declared, int) and declared != 1):
        return None
    if len(shape) == 3:
        counts = (declared,) if isinstance(declared, int) else IMAGE_CHANNELS
        for axis in (0, 2) if first else (2, 0):
            if shape[axis] in counts and not _misplaced(shape, axis, counts, target):
                return axis
    raise _misfit(rows, target, f"expected {shape_text((declared,))} channels, first or last")


def _misplaced(shape: tuple[int, ...], axis: int, counts: Sequence[int], target: Target) -> bool:
    """Both ends could be the channels, and only the other choice gives sides that the model takes."""
    if shape[2 - axis] not in counts:
        return False
    sides = (target.declared("y"), target.declared("x"))
    here = tuple(n for place, n in enumerate(shape) if place != axis)
    there = tuple(n for place, n in enumerate(shape) if place != 2 - axis)
    return fits(there, sides) and not fits(here, sides)


def _misfit(rows: Rows, target: Target, advice: str) -> InputError:
    actual, declared = shape_text(rows.shape[1:]), shape_text(target.shape)
    return InputError(f"samples of {rows.name} have shape {actual}, the model takes {declared}; {advice}")
