"""Where samples come from: image files or arrays, read one selection at a time and named as a user would name them."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from .images import ImageFiles, checksum, decode, read_bytes
from .rows import Rows

Array = npt.NDArray[Any]


class Source(ABC):
    """The chosen samples as they are stored, apart from the order of axes.

    Attributes
    ----------
    names
        One name per sample.
    dtype
        Element type as stored.
    """

    names: list[str]
    dtype: np.dtype[Any]

    @abstractmethod
    def load(self, index: int) -> Array:
        """Return one sample; images are (height, width, channel)."""

    def stack(self, indices: Sequence[int]) -> Array:
        """Return samples of the same shape, one after the other along a first axis."""
        return np.stack([self.load(index) for index in indices])

    @property
    @abstractmethod
    def row_bytes(self) -> int:
        """Bytes of a sample that are held when several are read at once."""

    @abstractmethod
    def size(self, index: int) -> tuple[int, int]:
        """Return height and width of an image."""

    @abstractmethod
    def checksums(self, indices: Sequence[int]) -> list[bytes]:
        """Return what identifies the samples' contents."""


class FileSource(Source):
    """Image files, decoded when asked for.

    Parameters
    ----------
    found
        The files.
    channels
        How many channels the model takes: 1, 3 or 4.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, found: ImageFiles, channels: int) -> None:
        self.names: list[str] = []
        self._found, self._channels = found, channels
        self._probed: dict[int, tuple[tuple[int, int], bytes]] = {}
        self._paths: list[Path] = []
        self._facts: list[tuple[tuple[int, int], bytes]] = []

    def probe(self, position: int) -> None:
        """Decode one of the files once, so that it is known to be whole before work begins.

        Raises
        ------
        InputError
            It cannot be read; the message is the reason alone.
        """
        data = read_bytes(self._found.paths[position])
        height, width, _ = decode(data, self._channels).shape
        self._probed[position] = (height, width), checksum(data)

    def choose(self, positions: Sequence[int]) -> None:
        """Make these probed files the samples."""
        self.names = [self._found.names[position] for position in positions]
        self._paths = [self._found.paths[position] for position in positions]
        self._facts = [self._probed[position] for position in positions]

    row_bytes = 0

    def load(self, index: int) -> Array:
        """Return the decoded image.

        Raises
        ------
        InputError
            The file has changed since it was probed, or is gone.
        """
        try:
            data = read_bytes(self._paths[index])
        except InputError as error:
            raise InputError(f"{self.names[index]}: {error}; it could be read when the run began") from None
        if checksum(data) != self._facts[index][1]:
            raise InputError(f"{self.names[index]} has changed since the run began; start again")
        return decode(data, self._channels)

    def size(self, index: int) -> tuple[int, int]:
        """Return height and width, upright."""
        return self._facts[index][0]

    def checksums(self, indices: Sequence[int]) -> list[bytes]:
        """Return the SHA-256 of the files as they were when probed."""
        return [self._facts[index][1] for index in indices]


class ArraySource(Source):
    """Rows of an array.

    Parameters
    ----------
    rows
        The whole array.
    positions
        The rows that are the samples, ascending.
    channel_axis
        Of an image row, the axis of its channels (0 or 2), or None where it has none; ignored for other data.
    image
        Whether rows are images.
    """

    def __init__(self, rows: Rows, positions: Sequence[int], channel_axis: int | None, *, image: bool) -> None:
        self.names = [rows.name_of(position) for position in positions]
        self._rows = rows.chosen(positions)
        self.dtype = self._rows.dtype
        self._channel_axis, self._image = channel_axis, image

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return self.dtype.itemsize * math.prod(self._rows.shape[1:])

    def load(self, index: int) -> Array:
        """Return one row."""
        row: Array = self.stack([index])[0]
        return row

    def stack(self, indices: Sequence[int]) -> Array:
        """Return rows as one array."""
        values = self._rows.read(indices)
        if values.dtype.kind == "b":  # a file may hold other bytes than 0 and 1
            values = values.view(np.uint8) != 0
        if not self._image:
            return values
        return values[..., None] if self._channel_axis is None else np.moveaxis(values, 1 + self._channel_axis, -1)

    def size(self, index: int) -> tuple[int, int]:
        """Return height and width, the same for all."""
        sides = [n for axis, n in enumerate(self._rows.shape[1:]) if axis != self._channel_axis]
        return sides[0], sides[1]

    def checksums(self, indices: Sequence[int]) -> list[bytes]:
        """Return the SHA-256 of element type, shape and bytes of the rows, whatever file they lie in."""
        values = self._rows.read(indices)
        little = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
        head = f"{little.dtype.str} {little.shape[1:]}".encode()
        return [hashlib.sha256(head + row.tobytes()).digest() for row in little]
