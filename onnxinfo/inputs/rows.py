"""Samples along the first axis of an array, in memory or in a file, and helpers shared by readers of array files."""

from __future__ import annotations

import math
import os
import struct
import tokenize
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError, OnnxinfoError
from ..text import printable

Array = npt.NDArray[Any]

#: Maximum size of one sample in bytes.
MAX_ROW_BYTES = 1 << 28
#: Maximum ratio of deflate (1032:1); data that declare more are damaged or malicious.
MAX_RATIO = 1040
#: Errors that libraries raise on damaged files.
LIBRARY_ERRORS = (
    *(ArithmeticError, EOFError, LookupError, MemoryError, OSError, RuntimeError, SyntaxError, TypeError, ValueError),
    *(struct.error, tokenize.TokenError, zipfile.BadZipFile, zlib.error),
)

_LISTED = 20


class Rows(ABC):
    """Samples along the first axis of an array.

    Attributes
    ----------
    name
        Name of the rows: ``x_test`` in ``x_test[17]``.
    shape
        Shape of the whole array, samples first.
    dtype
        Type of the elements.
    axes
        Names of a row's axes; None if shape and type determine them.
    units
        Names of the values along a row's only axis, such as a table's columns; None if they have no names.
    order
        Remark on their order, if it is not the one that was given; empty otherwise.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    axes: tuple[str, ...] | None = None
    units: tuple[str, ...] | None = None
    order: str = ""

    def __len__(self) -> int:
        return self.shape[0]

    def name_of(self, position: int) -> str:
        """Return the name of a row."""
        return f"{self.name}[{position}]"

    def class_folders(self) -> tuple[npt.NDArray[np.int64] | None, list[str]]:
        """Return the class of each row, (rows,), and class names; None and an empty list without class folders."""
        return None, []

    @abstractmethod
    def read(self, indices: Sequence[int]) -> Array:
        """Return rows in the requested order, (len(indices), *shape[1:]).

        Raises
        ------
        InputError
            The rows cannot be read.
        """

    def chosen(self, indices: Sequence[int]) -> Rows:
        """Restrict to these rows, in ascending order; no others will be requested."""
        return _Chosen(self, indices)


class _Chosen(Rows):
    def __init__(self, rows: Rows, indices: Sequence[int]) -> None:
        self.name, self.dtype, self.shape = rows.name, rows.dtype, (len(indices), *rows.shape[1:])
        self.axes, self.units = rows.axes, rows.units
        self._rows, self._indices = rows, indices

    def read(self, indices: Sequence[int]) -> Array:
        return self._rows.read([self._indices[index] for index in indices])


class MemoryRows(Rows):
    """An array in memory.

    Parameters
    ----------
    array
        Samples along the first axis.
    name
        Name of the rows.
    """

    def __init__(self, array: Array, name: str) -> None:
        self.name, self.shape, self.dtype = name, array.shape, array.dtype
        self._array = array

    def read(self, indices: Sequence[int]) -> Array:
        """Return rows, as a copy."""
        return self._array[np.asarray(indices, dtype=np.intp)]


class OneRow(Rows):
    """An array that is a single sample.

    Parameters
    ----------
    rows
        The array.
    """

    def __init__(self, rows: Rows) -> None:
        self.name, self.shape, self.dtype = rows.name, (1, *rows.shape), rows.dtype
        self._rows = rows

    def read(self, indices: Sequence[int]) -> Array:
        """Return the sample as often as requested."""
        whole = self._rows.read(range(len(self._rows)))
        return np.stack([whole for _ in indices]) if len(indices) else np.empty((0, *whole.shape), whole.dtype)


def check_file(path: Path) -> None:
    """Raise an :class:`InputError` if the path is not a regular file."""
    if not os.path.exists(path):
        raise InputError(f"no such file or folder: {printable(path)}")
    if not os.path.isfile(path):
        raise InputError(f"{printable(path)} is not a regular file")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Convert errors that libraries raise on damaged files to an :class:`InputError` that names the file."""
    try:
        yield
    except OnnxinfoError:
        raise
    except LIBRARY_ERRORS as error:
        detail = printable(" ".join(str(error).split())) or type(error).__name__
        raise InputError(f"{printable(path)} cannot be read: {detail}") from None


def check_declared(shape: tuple[int, ...], dtype: np.dtype[Any], kinds: str, what: str) -> None:
    """Check an array's declaration against what samples can be.

    Raises
    ------
    InputError
        The elements are of a kind not in ``kinds`` (NumPy's letters), there are no samples, or a sample is larger than
        ``MAX_ROW_BYTES``.
    """
    if dtype.hasobject or dtype.kind not in kinds or dtype.itemsize == 0:
        raise InputError(f"{what} has elements of type {printable(dtype)}, expected numbers")
    if not shape or min(shape) < 1:
        raise InputError(f"{what} has shape {shape}, expected samples along the first axis and no empty axis")
    if dtype.itemsize * math.prod(shape[1:]) > MAX_ROW_BYTES:
        raise InputError(f"{what} has samples of shape {shape[1:]}, more than {MAX_ROW_BYTES >> 20} MiB each")


def listing(names: Collection[str]) -> str:
    """Return the first few names for a message."""
    shown = [printable(name)[:80] for name in list(names)[:_LISTED]]
    return ", ".join(shown) + (", ..." if len(names) > _LISTED else "") if shown else "nothing"
