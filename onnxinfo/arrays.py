"""Arrays of samples in ``.npy``, ``.npz`` and HDF5 files, read a few rows at a time.

The files are untrusted: nothing is unpickled, no link leads out of a file, and what a header declares is held against
what the file has before memory is taken. Rows come straight from the file where they lie there as they are (``.npy``,
``np.savez``, HDF5); the chosen rows of a compressed ``.npz`` (``np.savez_compressed``) are inflated once and kept.
"""

from __future__ import annotations

import io
import math
import os
import re
import struct
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from .errors import InputError
from .text import printable

Array = npt.NDArray[Any]

#: Most bytes taken for rows that must be held in memory (compressed ``.npz``, Fortran order).
MAX_LOADED_BYTES = 1 << 30
#: Most bytes of one sample.
MAX_ROW_BYTES = 1 << 28
#: Members of an ``.npz`` up to this size are held against their checksum; larger ones are trusted to be whole.
MAX_VERIFIED_BYTES = 1 << 30
# Deflate cannot shrink data further (1032:1), so what declares more is damaged or hostile.
_MAX_RATIO = 1040
# NumPy refuses headers over 10,000 characters; nothing further is read to look for one.
_HEADER_BYTES = 16_384
_BLOCK = 1 << 20
_CACHE_BYTES = 1 << 27
_LISTED = 20

_CONTAINER = re.compile(r"(?P<path>.+?\.(?P<kind>npz|npy|h5|hdf5))(?::(?P<key>.+))?", re.IGNORECASE | re.DOTALL)
_LIBRARY_ERRORS = (
    *(OSError, RuntimeError, ValueError, KeyError, TypeError, OverflowError, MemoryError, RecursionError, SyntaxError),
    *(NotImplementedError, EOFError, struct.error, zlib.error, zipfile.BadZipFile),
)


class Rows(ABC):
    """Samples along the first axis of an array.

    Attributes
    ----------
    name
        What a row is called, ``x_test`` in ``x_test[17]``.
    shape
        Of the whole array, samples first.
    dtype
        Type of the elements.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __len__(self) -> int:
        return self.shape[0]

    @abstractmethod
    def read(self, indices: Sequence[int]) -> Array:
        """Return rows in the order asked for, (len(indices), *shape[1:]).

        Raises
        ------
        InputError
            They cannot be read.
        """

    def chosen(self, indices: Sequence[int]) -> Rows:
        """Return only these rows, ascending; nothing else will be asked for."""
        return _Chosen(self, indices)


class _Chosen(Rows):
    def __init__(self, rows: Rows, indices: Sequence[int]) -> None:
        self.name, self.dtype, self.shape = rows.name, rows.dtype, (len(indices), *rows.shape[1:])
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
        What a row is called.
    """

    def __init__(self, array: Array, name: str) -> None:
        self.name, self.shape, self.dtype = name, array.shape, array.dtype
        self._array = array

    def read(self, indices: Sequence[int]) -> Array:
        """Return rows, as a copy."""
        return self._array[np.asarray(indices, dtype=np.intp)]


class OneRow(Rows):
    """An array that is one sample as a whole.

    Parameters
    ----------
    rows
        The array.
    """

    def __init__(self, rows: Rows) -> None:
        self.name, self.shape, self.dtype = rows.name, (1, *rows.shape), rows.dtype
        self._rows = rows

    def read(self, indices: Sequence[int]) -> Array:
        """Return the sample, as often as asked for."""
        whole = self._rows.read(range(len(self._rows)))
        return np.stack([whole for _ in indices]) if len(indices) else np.empty((0, *whole.shape), whole.dtype)


class _FileRows(Rows):
    """Rows that lie in a file one after the other, from an offset on."""

    def __init__(self, path: Path, name: str, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.name, self.shape, self.dtype = name, shape, dtype
        self._path, self._offset = path, offset

    def read(self, indices: Sequence[int]) -> Array:
        size = self.dtype.itemsize * math.prod(self.shape[1:])
        data = np.empty((len(indices), size), dtype=np.uint8)
        with _reading(self._path), open(self._path, "rb") as file:
            for row, index in zip(data, indices, strict=True):
                file.seek(self._offset + index * size)
                if file.readinto(row.data) != size:
                    raise InputError(
                        f"{printable(self._path)} ends before {self.name}[{index}]; it has changed since it was opened"
                    )
        return data.view(self.dtype).reshape(len(indices), *self.shape[1:])


class _DeflatedRows(Rows):
    """Rows of a compressed member of a zip archive, which can only be read from its beginning."""

    def __init__(
        self, path: Path, member: str, name: str, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> None:
        self.name, self.shape, self.dtype = name, shape, dtype
        self._path, self._member, self._offset = path, member, offset

    def read(self, indices: Sequence[int]) -> Array:
        size = self.dtype.itemsize * math.prod(self.shape[1:])
        if size * len(indices) > MAX_LOADED_BYTES:
            raise InputError(
                f"{printable(self._path)}:{self.name} is compressed and {len(indices)} samples of it take more than "
                f"{MAX_LOADED_BYTES >> 20} MiB; give --limit, or save it uncompressed by numpy.savez"
            )
        order = np.argsort(np.asarray(indices, dtype=np.intp), kind="stable")
        data = np.empty((len(indices), size), dtype=np.uint8)
        with _reading(self._path), zipfile.ZipFile(self._path) as archive, archive.open(self._member) as stream:
            for place in order:
                stream.seek(self._offset + int(indices[place]) * size)
                _read_into(stream, data[place], f"{printable(self._path)}:{self.name}")
            if self._offset + size * len(self) <= MAX_VERIFIED_BYTES:
                while stream.read(_BLOCK):  # the checksum is compared at the end
                    pass
        return data.view(self.dtype).reshape(len(indices), *self.shape[1:])

    def chosen(self, indices: Sequence[int]) -> Rows:
        return MemoryRows(self.read(indices), self.name)


class _Hdf5Rows(Rows):
    """Rows of an HDF5 dataset whose storage :func:`_check_hdf5` found to be in order."""

    def __init__(self, path: Path, dataset: Any, codes: list[int]) -> None:
        self.name, self.shape, self.dtype = printable(dataset.name.rsplit("/", 1)[-1]), dataset.shape, dataset.dtype
        self._path, self._dataset, self._codes = path, dataset, codes
        self._cache: OrderedDict[tuple[int, ...], Array] = OrderedDict()

    def read(self, indices: Sequence[int]) -> Array:
        with _reading(self._path):
            rows = [self._row(int(index)) for index in indices]
        return np.stack(rows) if rows else np.empty((0, *self.shape[1:]), self.dtype)

    def _row(self, index: int) -> Array:
        if self._dataset.chunks is None:
            return np.asarray(self._dataset[index])
        row = np.empty(self.shape[1:], dtype=self.dtype)
        first, *rest = self._dataset.chunks
        for place in np.ndindex(*(-(-n // m) for n, m in zip(self.shape[1:], rest, strict=True))):
            offset = tuple(i * m for i, m in zip(place, rest, strict=True))
            target = tuple(slice(o, o + m) for o, m in zip(offset, rest, strict=True))
            part = row[target]
            chunk = self._chunk((index - index % first, *offset))
            part[...] = chunk[index % first][tuple(slice(0, n) for n in part.shape)]
        return row

    def _chunk(self, offset: tuple[int, ...]) -> Array:
        from .hdf5_chunks import read_chunk

        if offset in self._cache:
            self._cache.move_to_end(offset)
            return self._cache[offset]
        chunk = read_chunk(self._dataset, offset, self._codes)
        while self._cache and (len(self._cache) + 1) * chunk.nbytes > _CACHE_BYTES:
            self._cache.popitem(last=False)
        self._cache[offset] = chunk
        return chunk


def split_key(spec: str) -> tuple[Path, str, str | None] | None:
    """Split ``data.npz:x_test`` into path, kind (``npz``, ``npy``, ``h5``, ``hdf5``) and key; None for other files."""
    whole = _CONTAINER.fullmatch(spec)
    if whole is None:
        return None
    path, kind, key = whole["path"], whole["kind"].lower(), whole["key"]
    if key is not None and os.path.exists(spec):
        return (
            None
            if (last := _CONTAINER.fullmatch(os.path.basename(spec))) is None or last["key"]
            else (Path(spec), kind, None)
        )
    return Path(path), kind, key


def open_array(spec: str, *, kinds: str = "biuf") -> Rows:
    """Open an array in a file.

    Parameters
    ----------
    spec
        ``data.npy``, ``data.npz:key``, ``data.h5:/dataset``; the key may be left out where there is only one array.
    kinds
        NumPy's letters for the kinds of elements that are expected.

    Returns
    -------
    Rows
        The array, its first axis being the samples.

    Raises
    ------
    InputError
        The file or the array is missing, damaged, of another kind, or declares more than it can hold.
    """
    split = split_key(spec)
    if split is None:
        raise InputError(f"{printable(spec)} is no array file; expected .npy, .npz:key or .h5:/dataset")
    path, kind, key = split
    check_file(path)
    with _reading(path):
        if kind == "npy":
            if key is not None:
                raise InputError(f"{printable(path)} holds one array and takes no key, got {printable(key)}")
            return _open_npy(path, kinds)
        return _open_npz(path, key, kinds) if kind == "npz" else _open_hdf5(path, key, kinds)


def check_file(path: Path) -> None:
    """Raise an :class:`InputError` unless the path is a regular file."""
    if not path.exists():
        raise InputError(f"no such file or folder: {printable(path)}")
    if not path.is_file():
        raise InputError(f"{printable(path)} is not a regular file")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except _LIBRARY_ERRORS as error:
        detail = printable(" ".join(str(error).split())) or type(error).__name__
        raise InputError(f"{printable(path)} cannot be read: {detail}") from None


def _read_into(stream: IO[bytes], target: Array, what: str) -> None:
    view, filled = target.data, 0
    while filled < len(view):
        block = stream.read(min(_BLOCK, len(view) - filled))
        if not block:
            raise InputError(f"{what} ends before its last row; the file is damaged")
        view[filled : filled + len(block)] = block
        filled += len(block)


def _parse_header(prefix: bytes, kinds: str, what: str) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Return shape, Fortran order, element type and the length of a ``.npy`` header."""
    stream = io.BytesIO(prefix)
    try:
        version = np.lib.format.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"version {version}")
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(stream)
    except _LIBRARY_ERRORS as error:
        detail = printable(" ".join(str(error).split()))[:120]
        raise InputError(f"{what} has no valid .npy header ({detail}); expected what numpy.save writes") from None
    _check_declared(shape, dtype, kinds, what)
    return tuple(int(n) for n in shape), bool(fortran), dtype, stream.tell()


def _check_declared(shape: tuple[int, ...], dtype: np.dtype[Any], kinds: str, what: str) -> None:
    if dtype.hasobject or dtype.kind not in kinds or dtype.itemsize == 0:
        raise InputError(f"{what} has elements of type {printable(dtype)}, expected numbers")
    if not shape or min(shape) < 1:
        raise InputError(f"{what} has shape {shape}, expected samples along the first axis and no empty axis")
    if dtype.itemsize * math.prod(shape[1:]) > MAX_ROW_BYTES:
        raise InputError(f"{what} has samples of shape {shape[1:]}, more than {MAX_ROW_BYTES >> 20} MiB each")


def _open_npy(path: Path, kinds: str) -> Rows:
    with open(path, "rb") as file:
        prefix = file.read(_HEADER_BYTES)
    return _flat_rows(path, printable(path.stem), prefix, 0, path.stat().st_size, kinds, printable(path))


def _flat_rows(path: Path, name: str, prefix: bytes, start: int, stored: int, kinds: str, what: str) -> Rows:
    """Rows of an array in ``.npy`` format that lies in a file from ``start`` on, ``stored`` bytes long."""
    shape, fortran, dtype, offset = _parse_header(prefix, kinds, what)
    declared = dtype.itemsize * math.prod(shape)
    if declared > stored - offset:
        raise InputError(
            f"{what} declares {declared} bytes of shape {shape} but holds {stored - offset}; the file is damaged"
        )
    if not fortran:
        return _FileRows(path, name, start + offset, shape, dtype)
    if declared > MAX_LOADED_BYTES:
        raise InputError(f"{what} is stored in Fortran order and over {MAX_LOADED_BYTES >> 20} MiB; save it in C order")
    whole = _FileRows(path, name, start + offset, (1, math.prod(shape)), dtype).read([0])
    return MemoryRows(whole.reshape(shape, order="F"), name)


def _open_npz(path: Path, key: str | None, kinds: str) -> Rows:
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise InputError(f"{printable(path)} is no .npz file ({error})") from None
    with archive:
        member = _npz_member(path, archive, key)
        name = member.filename.removesuffix(".npy")
        what = f"{printable(path)}:{printable(name)}"
        _check_member(member, what)
        with archive.open(member) as stream:
            prefix = stream.read(_HEADER_BYTES)
            while (
                member.compress_type == zipfile.ZIP_STORED
                and member.file_size <= MAX_VERIFIED_BYTES
                and stream.read(_BLOCK)
            ):
                pass
    if member.compress_type == zipfile.ZIP_STORED:
        start = _member_start(path, member)
        return _flat_rows(path, printable(name), prefix, start, member.file_size, kinds, what)
    shape, fortran, dtype, offset = _parse_header(prefix, kinds, what)
    declared = dtype.itemsize * math.prod(shape)
    if declared != member.file_size - offset:
        raise InputError(f"{what} declares {declared} bytes of shape {shape} but holds {member.file_size - offset}")
    if not fortran:
        return _DeflatedRows(path, member.filename, printable(name), offset, shape, dtype)
    whole = _DeflatedRows(path, member.filename, printable(name), offset, (1, math.prod(shape)), dtype).read([0])
    return MemoryRows(whole.reshape(shape, order="F"), printable(name))


def _npz_member(path: Path, archive: zipfile.ZipFile, key: str | None) -> zipfile.ZipInfo:
    members = {info.filename.removesuffix(".npy"): info for info in archive.infolist() if not info.is_dir()}
    if key is None and len(members) == 1:
        return next(iter(members.values()))
    if key is None or key not in members:
        wanted = f"has no array {printable(key)}" if key else f"holds {len(members)} arrays"
        raise InputError(f"{printable(path)} {wanted}; give {printable(path)}:KEY with KEY one of {_listing(members)}")
    return members[key]


def _check_member(member: zipfile.ZipInfo, what: str) -> None:
    if member.flag_bits & 1:
        raise InputError(f"{what} is encrypted; expected what numpy.savez writes")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InputError(f"{what} is compressed by zip method {member.compress_type}, expected stored or deflated")
    if member.file_size > _MAX_RATIO * (member.compress_size + 64):
        raise InputError(
            f"{what} declares {member.file_size} bytes in {member.compress_size} compressed ones; the file is damaged"
        )


def _member_start(path: Path, member: zipfile.ZipInfo) -> int:
    """Where the data of a stored member begins, behind its local header."""
    with open(path, "rb") as file:
        file.seek(member.header_offset)
        name, extra = struct.unpack("<26xHH", file.read(30))
    start = int(member.header_offset + 30 + name + extra)
    if start + member.file_size > path.stat().st_size:
        raise InputError(f"{printable(path)} ends before {printable(member.filename)} does; the file is damaged")
    return start


def _open_hdf5(path: Path, key: str | None, kinds: str) -> Rows:
    import h5py

    try:
        file = h5py.File(path, "r", locking="best-effort")
    except OSError as error:
        raise InputError(
            f"{printable(path)} is no readable HDF5 file ({printable(' '.join(str(error).split()))[:160]})"
        ) from None
    if key is None:
        found = _hdf5_datasets(file)
        if len(found) != 1:
            raise InputError(
                f"{printable(path)} holds {len(found)} datasets; "
                f"give {printable(path)}:/PATH with one of {_listing(found)}"
            )
        key = found[0]
    dataset = _hdf5_dataset(file, key, printable(path))
    return _Hdf5Rows(path, dataset, _check_hdf5(dataset, f"{printable(path)}:{printable(key)}", kinds))


def _hdf5_dataset(file: Any, key: str, path: str) -> Any:
    import h5py

    found = file
    for part in filter(None, key.split("/")):
        link = found.get(part, getlink=True) if isinstance(found, h5py.Group) else None
        if link is None:
            raise InputError(f"{path} has no dataset {printable(key)}; it has {_listing(_hdf5_datasets(file))}")
        if not isinstance(link, h5py.HardLink):
            raise InputError(
                f"{path}:{printable(key)} is a soft or external link, which is not followed; name the dataset itself"
            )
        found = found[part]
    if not isinstance(found, h5py.Dataset):
        raise InputError(f"{path}:{printable(key)} is no dataset; the file has {_listing(_hdf5_datasets(file))}")
    return found


def _hdf5_datasets(file: Any, depth: int = 3) -> list[str]:
    """Names of datasets not deeper than ``depth`` groups, at most a few more than get listed."""
    import h5py

    found: list[str] = []
    for name in file:
        if len(found) > _LISTED or not isinstance(file.get(name, getlink=True), h5py.HardLink):
            continue
        child = file[name]
        if isinstance(child, h5py.Dataset):
            found.append(child.name)
        elif isinstance(child, h5py.Group) and depth > 1:
            found += _hdf5_datasets(child, depth - 1)
    return found


def _check_hdf5(dataset: Any, what: str, kinds: str) -> list[int]:
    """Return the filters of a dataset after checking that its data lies in the file, as much of it as it declares."""
    import h5py

    from .hdf5_chunks import filter_codes

    _check_declared(dataset.shape or (), dataset.dtype, kinds, what)
    plist = dataset.id.get_create_plist()
    layout = plist.get_layout()
    if layout == h5py.h5d.VIRTUAL or plist.get_external_count():
        raise InputError(f"{what} keeps its data in other files, which are not followed; copy it by h5repack or h5py")
    codes = filter_codes(dataset) if layout == h5py.h5d.CHUNKED else []
    declared, stored = dataset.dtype.itemsize * math.prod(dataset.shape), dataset.id.get_storage_size()
    most = stored * (_MAX_RATIO if h5py.h5z.FILTER_DEFLATE in codes else 1)
    if declared > most or stored > dataset.file.id.get_filesize():
        raise InputError(
            f"{what} declares {declared} bytes of shape {dataset.shape} but stores {stored}; write all of it first"
        )
    return codes


def _listing(names: Sequence[str] | dict[str, Any]) -> str:
    shown = [printable(name)[:80] for name in list(names)[:_LISTED]]
    return ", ".join(shown) + (", ..." if len(names) > _LISTED else "") if shown else "nothing"
