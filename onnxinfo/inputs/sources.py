"""Sources of samples: image files or arrays, read selectively and named as users name them."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from .images import ImageFiles, checksum, decode
from .rows import Rows

Array = npt.NDArray[Any]


class Source(ABC):
    """Chosen samples as stored, apart from the order of axes.

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
        """Return samples of equal shape, stacked along a first axis."""
        return np.stack([self.load(index) for index in indices])

    @property
    @abstractmethod
    def row_bytes(self) -> int:
        """Memory per sample, in bytes, when several are read at once."""

    @abstractmethod
    def size(self, index: int) -> tuple[int, int]:
        """Return height and width of an image."""

    @abstractmethod
    def checksums(self, indices: Sequence[int]) -> list[bytes]:
        """Return digests that identify the samples' contents."""


class FileSource(Source):
    """Image files, decoded on demand.

    Parameters
    ----------
    found
        The files.
    channels
        Number of channels that the model takes: 1, 3 or 4.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, found: ImageFiles, channels: int) -> None:
        self.names: list[str] = []
        self._found, self._channels = found, channels
        self._probed: dict[int, tuple[tuple[int, int], bytes]] = {}
        self._positions: list[int] = []
        self._facts: list[tuple[tuple[int, int], bytes]] = []

    def probe(self, position: int) -> None:
        """Decode a file once to check, before work begins, that it is intact.

        Raises
        ------
        InputError
            The file cannot be read; the message is only the reason.
        """
        data = self._found.read(position)
        height, width, _ = decode(data, self._channels).shape
        self._probed[position] = (height, width), checksum(data)

    def choose(self, positions: Sequence[int]) -> None:
        """Select these probed files as the samples."""
        self.names = [self._found.names[position] for position in positions]
        self._positions = list(positions)
        self._facts = [self._probed[position] for position in positions]

    row_bytes = 0

    def load(self, index: int) -> Array:
        """Return the decoded image.

        Raises
        ------
        InputError
            The file has changed since it was probed, or is missing.
        """
        try:
            data = self._found.read(self._positions[index])
        except InputError as error:
            raise InputError(f"{self.names[index]}: {error}; it could be read when the run began") from None
        if checksum(data) != self._facts[index][1]:
            raise InputError(f"{self.names[index]} has changed since the run began; start again")
        return decode(data, self._channels)

    def size(self, index: int) -> tuple[int, int]:
        """Return height and width of the upright image."""
        return self._facts[index][0]

    def checksums(self, indices: Sequence[int]) -> list[bytes]:
        """Return the SHA-256 digests of the files as probed."""
        return [self._facts[index][1] for index in indices]


class ArraySource(Source):
    """Rows of an array.

    Parameters
    ----------
    rows
        The whole array.
    positions
        Rows to use as samples, ascending.
    channel_axis
        Channel axis of an image row (0 or 2), or None without one; ignored for other data.
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
        if values.dtype.kind == "b":  # a file may contain bytes other than 0 and 1
            values = values.view(np.uint8) != 0
        if not self._image:
            return values
        return values[..., None] if self._channel_axis is None else np.moveaxis(values, 1 + self._channel_axis, -1)

    def size(self, index: int) -> tuple[int, int]:
        """Return height and width, which are the same for all."""
        sides = [n for axis, n in enumerate(self._rows.shape[1:]) if axis != self._channel_axis]
        return sides[0], sides[1]

    def checksums(self, indices: Sequence[int]) -> list[bytes]:
        """Return SHA-256 digests of the rows' element type, shape and bytes, independent of the file."""
        values = self._rows.read(indices)
        little = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
        head = f"{little.dtype.str} {little.shape[1:]}".encode()
        return [hashlib.sha256(head + row.tobytes()).digest() for row in little]
