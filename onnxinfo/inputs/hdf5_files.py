"""Read datasets in HDF5 files, row by row.

Only links within the file are followed, no data are read from other files, and chunks are inflated to their declared
size and not a byte further (see :mod:`onnxinfo.inputs.hdf5_chunks`).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ..errors import InputError
from ..text import printable
from .hdf5_chunks import filter_codes, read_chunk
from .rows import MAX_RATIO, Array, Rows, check_declared, listing, reading

_CACHE_BYTES = 1 << 27
# Maximum number of group members visited when listing a file's datasets.
_VISITED = 1000


def open_hdf5(path: Path, key: str | None, kinds: str) -> Rows:
    """Open a dataset, see :func:`.arrays.open_array`; the file is open only during reads."""
    with _opened(path) as file:
        if key is None:
            found = _datasets(file)
            if len(found) != 1:
                expected = f"give {printable(path)}:/PATH with one of {listing(found)}"
                raise InputError(f"{printable(path)} holds {len(found)} datasets; {expected}")
            key = found[0]
        dataset = _dataset(file, key, printable(path))
        codes = _check(dataset, f"{printable(path)}:{printable(key)}", kinds)
        return _DatasetRows(path, key, dataset, codes)


def _opened(path: Path) -> h5py.File:
    try:
        return h5py.File(path, "r", locking="best-effort")
    except OSError as error:
        detail = printable(" ".join(str(error).split()))[:160]
        raise InputError(f"{printable(path)} is not a readable HDF5 file ({detail})") from None


class _DatasetRows(Rows):
    """Rows of an HDF5 dataset whose storage was validated by :func:`_check`."""

    def __init__(self, path: Path, key: str, dataset: h5py.Dataset, codes: list[int]) -> None:
        self.name, self.shape, self.dtype = printable(key.rsplit("/", 1)[-1]), dataset.shape, dataset.dtype
        self._path, self._key, self._codes = path, key, codes
        self._cache: OrderedDict[tuple[int, ...], Array] = OrderedDict()

    def read(self, indices: Sequence[int]) -> Array:
        rows = np.empty((len(indices), *self.shape[1:]), dtype=self.dtype)
        with reading(self._path), _opened(self._path) as file:
            dataset = _dataset(file, self._key, printable(self._path))
            if dataset.shape != self.shape or dataset.dtype != self.dtype:
                raise InputError(f"{printable(self._path)} has changed since it was opened")
            for place, index in enumerate(indices):
                rows[place] = dataset[index] if dataset.chunks is None else self._row(dataset, int(index))
        return rows

    def _row(self, dataset: h5py.Dataset, index: int) -> Array:
        row = np.empty(self.shape[1:], dtype=self.dtype)
        first, *rest = dataset.chunks
        for place in np.ndindex(*(-(-n // m) for n, m in zip(row.shape, rest, strict=True))):
            offset = tuple(i * m for i, m in zip(place, rest, strict=True))
            target = tuple(slice(o, o + m) for o, m in zip(offset, rest, strict=True))
            part = row[target]
            chunk = self._chunk(dataset, (index - index % first, *offset))
            part[...] = chunk[index % first][tuple(slice(0, n) for n in part.shape)]
        return row

    def _chunk(self, dataset: h5py.Dataset, offset: tuple[int, ...]) -> Array:
        if offset in self._cache:
            self._cache.move_to_end(offset)
            return self._cache[offset]
        chunk = read_chunk(dataset, offset, self._codes)
        while self._cache and (len(self._cache) + 1) * chunk.nbytes > _CACHE_BYTES:
            self._cache.popitem(last=False)
        self._cache[offset] = chunk
        return chunk


def _dataset(file: Any, key: str, path: str) -> Any:
    found = file
    for part in filter(None, key.split("/")):
        link = found.get(part, getlink=True) if isinstance(found, h5py.Group) else None
        if link is None:
            raise InputError(f"{path} has no dataset {printable(key)}; it has {listing(_datasets(file))}")
        if not isinstance(link, h5py.HardLink):
            raise InputError(
                f"{path}:{printable(key)} is a soft or external link, which is not followed; name the dataset itself"
            )
        found = found[part]
    if not isinstance(found, h5py.Dataset):
        raise InputError(f"{path}:{printable(key)} is not a dataset; the file has {listing(_datasets(file))}")
    return found


def _datasets(file: Any) -> list[str]:
    """Names of datasets, from at most ``_VISITED`` members."""
    found: list[str] = []
    groups, visited = [file], 0
    for group in groups:  # grows during the iteration
        for name in group:
            visited += 1
            if visited > _VISITED:
                return found
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                continue
            child = group[name]
            if isinstance(child, h5py.Dataset):
                found.append(child.name)
            elif isinstance(child, h5py.Group):
                groups.append(child)
    return found


def _check(dataset: Any, what: str, kinds: str) -> list[int]:
    """Return the filters of a dataset after checking that its data are in the file, completely."""
    check_declared(dataset.shape or (), dataset.dtype, kinds, what)
    plist = dataset.id.get_create_plist()
    layout = plist.get_layout()
    if layout == h5py.h5d.VIRTUAL or plist.get_external_count():
        raise InputError(f"{what} keeps its data in other files, which are not followed; copy it by h5repack or h5py")
    if dataset.dtype.kind != "S" and not dataset.id.get_type().equal(h5py.h5t.py_create(dataset.dtype, logical=True)):
        raise InputError(f"{what} has numbers of an unusual format, expected {dataset.dtype} as NumPy knows it")
    codes = filter_codes(dataset) if layout == h5py.h5d.CHUNKED else []
    declared, stored = dataset.dtype.itemsize * math.prod(dataset.shape), dataset.id.get_storage_size()
    most = stored * (MAX_RATIO if h5py.h5z.FILTER_DEFLATE in codes else 1)
    if declared > most or stored > dataset.file.id.get_filesize():
        raise InputError(
            f"{what} declares {declared} bytes of shape {dataset.shape} but stores {stored}; write all of it first"
        )
    return codes
