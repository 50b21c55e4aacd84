"""Safe reading of untrusted HDF5: links are not followed, and sizes are checked before anything is read.

Only items that the format describes are accessed, after checking their kind, type, shape and storage. HDF5's filters
never run: a deflated chunk is inflated here, to its expected size and not a byte further.
"""

from __future__ import annotations

import contextlib
import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from ..errors import ArchiveError
from ..inputs.hdf5_chunks import decode_chunk, filter_codes, read_chunk, stored_chunk, stored_limit
from ..text import printable
from .format import SMALL_MAP_BYTES

MAX_MEMBERS = 10_000
MAX_ATTRIBUTE_BYTES = 1 << 24
# Limit for an array read in one piece, which maps are not. A sparse file can be larger than any machine's memory.
MAX_ARRAY_BYTES = 1 << 29

_LIBRARY_ERRORS = (
    OSError,
    RuntimeError,
    ValueError,
    KeyError,
    TypeError,
    OverflowError,
    MemoryError,
    NotImplementedError,
)


#: End of the errors about damage.
ADVICE = "; try onnxinfo.validate(...)"


class damaged:  # noqa: N801 - reads as a clause: with damaged(what)
    """Turn all errors of the HDF5 library into an :class:`ArchiveError` that names the item being read."""

    def __init__(self, what: object) -> None:
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, _LIBRARY_ERRORS):
            detail = printable(" ".join(str(error).split()))
            raise ArchiveError(f"{self._what} cannot be read: {detail}{ADVICE}") from error


def members(group: h5py.Group) -> list[str]:
    """Return the names of a group's members.

    Raises
    ------
    ArchiveError
        There are more than ``MAX_MEMBERS``, or they cannot be read.
    """
    what = _Item(group)
    with damaged(what):
        if group.id.get_num_objs() > MAX_MEMBERS:
            raise ArchiveError(f"{what} has more than {MAX_MEMBERS} members; not an archive of onnxinfo")
        return [str(name) for name in group]


@dataclass(frozen=True, slots=True)
class _Item:
    """An item of an archive, as messages call it. Its name, which takes time, is found out if there is a message."""

    target: h5py.HLObject
    member: str = ""
    attribute: str = ""

    def __str__(self) -> str:
        path = f"{self.target.name.rstrip('/')}/{self.member}" if self.member else self.target.name
        file = self.target.file.filename
        item = file if path == "/" else f"{path} of {file}"
        return printable(f"attribute {self.attribute} of {item}" if self.attribute else item)


def is_link(group: h5py.Group, name: str) -> bool:
    """Whether a member is a soft or external link."""
    with damaged(_Item(group, name)):
        return "/" in name or group.get(name, getlink=True, default=None).__class__ is not h5py.HardLink


def member(group: h5py.Group, name: str, kind: type[h5py.Group] | type[h5py.Dataset]) -> Any:
    """Return a member of a group, or None if it is not a group or dataset of this file.

    Soft and external links are not followed.

    Raises
    ------
    ArchiveError
        The member cannot be read.
    """
    # HDF5 would resolve a name with a slash as a path, and follow links in it.
    if not name or "/" in name or name == ".":
        return None
    with damaged(_Item(group, name)):
        if group.get(name, getlink=True, default=None).__class__ is not h5py.HardLink:
            return None
        # When asked for an object's kind, HDF5 reads all its metadata, and damage there can make it allocate gigabytes.
        found = group[name]
        return found if found.__class__ is kind else None


def attribute(target: h5py.HLObject, name: str) -> str | int | float | None:
    """Return an attribute that is a number or a fixed-length text; None if it is missing or of another kind."""
    with damaged(_Item(target, attribute=name)):
        if name not in target.attrs:
            return None
        identifier = target.attrs.get_id(name)
        kind = identifier.get_type()
        if identifier.shape not in ((), (1,)) or identifier.get_storage_size() > MAX_ATTRIBUTE_BYTES:
            return None
        if isinstance(kind, h5py.h5t.TypeStringID):
            if kind.is_variable_str():
                return None
            value = np.empty(identifier.shape, dtype=f"S{kind.get_size()}")
            identifier.read(value, mtype=kind)
            return bytes(value.reshape(-1)[0]).decode("utf-8", "backslashreplace")
        if isinstance(kind, h5py.h5t.TypeIntegerID):
            return int(np.asarray(target.attrs[name]).reshape(-1)[0])
        if isinstance(kind, h5py.h5t.TypeFloatID):
            return float(np.asarray(target.attrs[name]).reshape(-1)[0])
        return None


def attributes(target: h5py.HLObject) -> dict[str, str | int | float]:
    """Return all attributes that are numbers or fixed-length texts."""
    what = _Item(target)
    with damaged(what):
        if len(target.attrs) > MAX_MEMBERS:
            raise ArchiveError(f"{what} has more than {MAX_MEMBERS} attributes; not an archive of onnxinfo")
        names = list(target.attrs)
    values = {name: attribute(target, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def dataset(group: h5py.Group, name: str, shape: Sequence[int | None], dtypes: Sequence[str]) -> h5py.Dataset:
    """Return a dataset after checking its type, shape and storage.

    Parameters
    ----------
    group
        The run.
    name
        Name of the dataset.
    shape
        Expected shape; None stands for any size.
    dtypes
        Allowed element types as NumPy type strings; ``S`` stands for fixed-length text of any length.

    Raises
    ------
    ArchiveError
        The dataset is missing, does not match the format, or its data lie outside the file.
    """
    found = member(group, name, h5py.Dataset)
    what = _Item(group, name)
    if found is None:
        raise ArchiveError(f"{what} is missing{ADVICE}")
    with damaged(what):
        dtype = found.dtype
        if dtype.str not in dtypes and not (dtype.kind == "S" and "S" in dtypes):
            raise ArchiveError(f"{what} has type {dtype}, expected {' or '.join(dtypes)}")
        actual = found.shape
        if (
            actual is None
            or len(actual) != len(shape)
            or any(n not in (None, m) for n, m in zip(shape, actual, strict=True))
        ):
            raise ArchiveError(f"{what} has shape {actual}, expected {tuple(shape)}")
        _check_storage(found, what)
    return found


def _check_storage(found: h5py.Dataset, what: object) -> None:
    plist = found.id.get_create_plist()
    layout = plist.get_layout()
    if layout == h5py.h5d.VIRTUAL or plist.get_external_count():
        raise ArchiveError(f"{what} keeps its data in another file, which onnxinfo does not follow")
    if layout == h5py.h5d.CHUNKED:
        if found.chunks[:2] != (1, 1) or found.chunks[2:] != found.shape[2:]:
            raise ArchiveError(f"{what} has chunks {found.chunks}, expected one for each layer and sample")
        filter_codes(found)
    elif found.size and found.id.get_storage_size() < found.dtype.itemsize * found.size:
        raise ArchiveError(f"{what} declares {found.size} numbers but stores fewer; the file is damaged")


def array(found: h5py.Dataset) -> npt.NDArray[Any]:
    """Read an unchunked dataset returned by :func:`dataset`, and verify its checksum, if it has one.

    Raises
    ------
    ArchiveError
        The dataset cannot be read, or its data have changed since they were written.
    """
    what = _Item(found)
    data = rows(found, ())
    checksum = attribute(found, "crc32")
    if checksum is not None and checksum != crc32(data):
        raise ArchiveError(f"{what} is damaged: its checksum does not match{ADVICE}")
    return data


def rows(found: h5py.Dataset, chosen: slice | tuple[()]) -> npt.NDArray[Any]:
    """Read rows of an unchunked dataset returned by :func:`dataset`; () for all. Its checksum is not verified.

    Raises
    ------
    ArchiveError
        The dataset cannot be read.
    """
    what = _Item(found)
    with damaged(what):
        if found.chunks is not None:
            raise ArchiveError(f"{what} is chunked, expected contiguous")
        if found.dtype.itemsize * found.size > MAX_ARRAY_BYTES:
            raise ArchiveError(f"{what} declares over {MAX_ARRAY_BYTES >> 20} MiB; not an archive of onnxinfo")
        refresh(found)
        return np.asarray(found[chosen])


def refresh(found: h5py.Dataset) -> None:
    """Discard cached data of a dataset whose file may have been written meanwhile."""
    if found.file.swmr_mode:
        found.id.refresh()


def crc32(data: npt.NDArray[Any]) -> int:
    """Return the CRC-32 of an array's bytes in C order."""
    return zlib.crc32(np.ascontiguousarray(data).tobytes())


def texts(found: h5py.Dataset) -> list[str]:
    """Read a one-dimensional dataset of fixed-length text."""
    return [bytes(item).decode("utf-8", "backslashreplace") for item in array(found)]


def cells(found: h5py.Dataset, layer: int, samples: Sequence[int]) -> Iterator[npt.NDArray[Any]]:
    """Read the maps of one layer and several samples from a dataset returned by :func:`dataset`, one by one.

    Raises
    ------
    ArchiveError
        A map cannot be read, or does not have the expected size.
    """
    if not samples:
        return
    what = f"{printable(found.name)} at layer {layer}"
    with damaged(what):
        refresh(found)
        codes = None if found.chunks is None else filter_codes(found)
        small = codes is None and found.dtype.itemsize * math.prod(found.shape[2:]) <= SMALL_MAP_BYTES
        first = min(samples)
        slab = found[layer, first : max(samples) + 1] if small else None
    for sample in samples:
        with damaged(f"{what}, sample {sample}"):
            if slab is not None:
                data = slab[sample - first]
            elif codes is None:
                data = np.asarray(found[layer, sample])
            else:
                data = read_chunk(found, (layer, sample, *(0,) * (found.ndim - 2)), codes).reshape(found.shape[2:])
        yield data


def cell_and_chunk(found: h5py.Dataset, layer: int, sample: int) -> tuple[npt.NDArray[Any], bytes | None]:
    """Read the map of a cell, and the bytes of its chunk if every filter was applied to it.

    Raises
    ------
    ArchiveError
        The map cannot be read, or does not have the expected size.
    """
    if found.chunks is None:
        return next(cells(found, layer, [sample])), None
    with damaged(f"{printable(found.name)} at layer {layer}, sample {sample}"):
        refresh(found)
        codes, start = filter_codes(found), (layer, sample, *(0,) * (found.ndim - 2))
        mask, data = stored_chunk(found, start) or (0, b"")
        return decode_chunk(found, data, codes, mask).reshape(found.shape[2:]), None if mask else data


def cell_at(path: Path, found: h5py.Dataset, offset: int) -> npt.NDArray[Any]:
    """Read the map whose chunk starts at byte `offset` of the file, ignoring HDF5's chunk index.

    Raises
    ------
    ArchiveError
        There is no map at that offset.
    """
    with damaged(f"{printable(found.name)} at byte {offset}"):
        if found.chunks is None or not offset:
            raise ArchiveError(f"{printable(found.name)} has no chunk there{ADVICE}")
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read(stored_limit(found))
        return decode_chunk(found, data, filter_codes(found)).reshape(found.shape[2:])


def walk(file: h5py.File) -> None:
    """Read everything in a file except its maps, skipping what cannot be read."""
    for run in _those_of(file):
        for each in (run, *(_those_of(run) if isinstance(run, h5py.Group) else ())):
            with contextlib.suppress(ArchiveError):
                attributes(each)
            if isinstance(each, h5py.Dataset):
                with contextlib.suppress(ArchiveError, *_LIBRARY_ERRORS):
                    _look_into(each)


def _those_of(group: h5py.Group) -> Iterator[h5py.HLObject]:
    names: list[str] = []
    with contextlib.suppress(ArchiveError):
        names = members(group)
    for name in names:
        for kind in (h5py.Group, h5py.Dataset):
            with contextlib.suppress(ArchiveError):
                found = member(group, name, kind)
                if found is not None:
                    yield found


def _look_into(found: h5py.Dataset) -> None:
    _check_storage(found, _Item(found))
    if found.chunks is None:
        array(found)
    else:
        for corner in (
            (0,) * found.ndim,
            tuple(size - chunk for size, chunk in zip(found.shape, found.chunks, strict=True)),
        ):
            found.id.get_chunk_info_by_coord(corner)
