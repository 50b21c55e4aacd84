"""Read arrays in ``.npy`` and ``.npz`` files row by row, in place.

Nothing is unpickled, and a header is checked against the size of the file before memory is allocated. A compressed
``.npz`` (``numpy.savez_compressed``) can only be read from its start: the chosen rows are inflated once and kept in
memory.
"""

from __future__ import annotations

import io
import math
import os
import struct
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..errors import InputError
from ..text import printable, quoted
from .rows import LIBRARY_ERRORS, MAX_RATIO, Array, MemoryRows, Rows, check_declared, listing, reading

#: Maximum size in bytes of rows that must be kept in memory (compressed, or in Fortran order).
MAX_LOADED_BYTES = 1 << 30
#: Members of an ``.npz`` up to this size are verified against their checksum; larger ones are assumed intact.
MAX_VERIFIED_BYTES = 1 << 30
# NumPy refuses headers over 10,000 characters; no more is read to find one.
_HEADER_BYTES = 16_384
_BLOCK = 1 << 20


@dataclass(frozen=True)
class _Header:
    """Declarations and length of the header of a ``.npy`` file."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]
    length: int

    @property
    def nbytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.shape)


def open_npy(path: Path, key: str | None, kinds: str) -> Rows:
    """Open a ``.npy`` file, which has no keys; see :func:`onnxinfo.inputs.arrays.open_array`."""
    if key is not None:
        raise InputError(f"{printable(path)} holds one array and takes no key, got {printable(key)}")
    with open(path, "rb") as file:
        prefix = file.read(_HEADER_BYTES)
        stored = os.fstat(file.fileno()).st_size
    header = _parse_header(prefix, stored, kinds, printable(path))
    return _ordered(header, printable(path), lambda h: _FileRows(path, printable(path.stem), h, 0))


def open_npz(path: Path, key: str | None, kinds: str) -> Rows:
    """Open an array in an ``.npz`` file; see :func:`onnxinfo.inputs.arrays.open_array`."""
    with _archive(path) as archive:
        member = _member(path, archive, key)
        name = printable(member.filename.removesuffix(".npy"))
        what = f"{printable(path)}:{name}"
        _check_member(member, what)
        stored_as_is = member.compress_type == zipfile.ZIP_STORED
        with archive.open(member) as stream:
            prefix = stream.read(_HEADER_BYTES)
            if stored_as_is and member.file_size <= MAX_VERIFIED_BYTES:
                _exhaust(stream)
    header = _parse_header(prefix, member.file_size, kinds, what)
    if stored_as_is:
        start = _member_start(path, member)
        return _ordered(header, what, lambda h: _FileRows(path, name, h, start))
    return _ordered(header, what, lambda h: _DeflatedRows(path, name, h, member.filename))


def array_names(path: Path) -> list[str]:
    """Return the names of the arrays in an ``.npz`` file."""
    with reading(path), _archive(path) as archive:
        return [info.filename.removesuffix(".npy") for info in archive.infolist()]


def check_key(path: Path, key: str) -> None:
    """Raise if an ``.npz`` file does not have this array; the array itself is not read.

    Raises
    ------
    InputError
        The file cannot be read or does not have the array.
    """
    with reading(path), _archive(path) as archive:
        _member(path, archive, key)


def _archive(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise InputError(f"{printable(path)} is not an .npz file ({error})") from None


def _ordered(header: _Header, what: str, open_rows: Callable[[_Header], Rows]) -> Rows:
    """Rows of an array; in Fortran order they are not contiguous, so the whole array is read."""
    if not header.fortran:
        return open_rows(header)
    if header.nbytes > MAX_LOADED_BYTES:
        raise InputError(f"{what} is stored in Fortran order and over {MAX_LOADED_BYTES >> 20} MiB; save it in C order")
    flat = open_rows(replace(header, shape=(1, math.prod(header.shape)), fortran=False))
    return MemoryRows(flat.read([0]).reshape(header.shape, order="F"), flat.name)


class _FileRows(Rows):
    """Contiguous rows in a file, after a header that starts at ``start``."""

    def __init__(self, path: Path, name: str, header: _Header, start: int) -> None:
        self.name, self.shape, self.dtype = name, header.shape, header.dtype
        self._path, self._first = path, start + header.length

    def read(self, indices: Sequence[int]) -> Array:
        data = _empty_rows(self, len(indices))
        size = data.shape[1]
        with reading(self._path), open(self._path, "rb") as file:
            for row, index in zip(data, indices, strict=True):
                file.seek(self._first + index * size)
                if file.readinto(row.data) != size:
                    what = f"{printable(self._path)} ends before {self.name}[{index}]"
                    raise InputError(f"{what}; it has changed since it was opened")
        return data.view(self.dtype).reshape(len(indices), *self.shape[1:])


class _DeflatedRows(Rows):
    """Rows of a compressed member of a zip archive, which can only be read from its start."""

    def __init__(self, path: Path, name: str, header: _Header, member: str) -> None:
        self.name, self.shape, self.dtype = name, header.shape, header.dtype
        self._path, self._header, self._member = path, header, member

    def read(self, indices: Sequence[int]) -> Array:
        what = f"{printable(self._path)}:{self.name}"
        if self._header.nbytes // len(self) * len(indices) > MAX_LOADED_BYTES:
            raise InputError(
                f"{what} is compressed and {len(indices)} samples of it take more than {MAX_LOADED_BYTES >> 20} MiB; "
                "give limit=..., or save it uncompressed by numpy.savez"
            )
        data = _empty_rows(self, len(indices))
        with reading(self._path), zipfile.ZipFile(self._path) as archive, archive.open(self._member) as stream:
            for place in np.argsort(np.asarray(indices, dtype=np.intp), kind="stable"):
                stream.seek(self._header.length + int(indices[place]) * data.shape[1])
                _fill(data[place], stream, what)
            if self._header.nbytes <= MAX_VERIFIED_BYTES:
                _exhaust(stream)
        return data.view(self.dtype).reshape(len(indices), *self.shape[1:])

    def chosen(self, indices: Sequence[int]) -> Rows:
        return MemoryRows(self.read(indices), self.name)


def _empty_rows(rows: Rows, count: int) -> Array:
    return np.empty((count, rows.dtype.itemsize * math.prod(rows.shape[1:])), dtype=np.uint8)


def _fill(target: Array, stream: IO[bytes], what: str) -> None:
    view, filled = target.data, 0
    while filled < len(view):
        block = stream.read(min(_BLOCK, len(view) - filled))
        if not block:
            raise InputError(f"{what} ends before its last row; the file is damaged")
        view[filled : filled + len(block)] = block
        filled += len(block)


def _exhaust(stream: IO[bytes]) -> None:
    """Read to the end, where zipfile verifies the checksum."""
    while stream.read(_BLOCK):
        pass


def _member(path: Path, archive: zipfile.ZipFile, key: str | None) -> zipfile.ZipInfo:
    members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    if key is None and len(members) == 1:
        return next(iter(members.values()))
    if key is None or key not in members:
        wanted = f"has no array {quoted(key)}" if key else f"holds {len(members)} arrays"
        raise InputError(f"{printable(path)} {wanted}; give {printable(path)}:KEY with KEY one of {listing(members)}")
    return members[key]


def _check_member(member: zipfile.ZipInfo, what: str) -> None:
    if member.flag_bits & 1:
        raise InputError(f"{what} is encrypted; expected what numpy.savez writes")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InputError(f"{what} is compressed by zip method {member.compress_type}, expected stored or deflated")
    ratio = 1 if member.compress_type == zipfile.ZIP_STORED else MAX_RATIO
    if member.file_size > ratio * member.compress_size:
        sizes = f"{member.file_size} bytes in {member.compress_size} stored ones"
        raise InputError(f"{what} declares {sizes}; the file is damaged")


def _member_start(path: Path, member: zipfile.ZipInfo) -> int:
    """Offset of a stored member's data, after its local header."""
    with open(path, "rb") as file:
        file.seek(member.header_offset)
        name, extra = struct.unpack("<26xHH", file.read(30))
    start = int(member.header_offset + 30 + name + extra)
    if start + member.file_size > path.stat().st_size:
        raise InputError(f"{printable(path)} ends before {printable(member.filename)} does; the file is damaged")
    return start


def _parse_header(prefix: bytes, stored: int, kinds: str, what: str) -> _Header:
    """Parse a header and check it against the number of stored bytes, including the header."""
    stream = io.BytesIO(prefix)
    try:
        version = np.lib.format.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"version {version}")
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(stream)
    except LIBRARY_ERRORS as error:
        detail = printable(" ".join(str(error).split()))[:120]
        raise InputError(f"{what} has no valid .npy header ({detail}); expected what numpy.save writes") from None
    check_declared(shape, dtype, kinds, what)
    header = _Header(tuple(int(n) for n in shape), bool(fortran), dtype, stream.tell())
    if header.nbytes > stored - header.length:
        sizes = f"{header.nbytes} bytes of shape {header.shape} but holds {stored - header.length}"
        raise InputError(f"{what} declares {sizes}; the file is damaged")
    return header
