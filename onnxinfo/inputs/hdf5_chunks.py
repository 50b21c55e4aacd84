"""Chunks of HDF5 datasets, inflated to the size they declare and not a byte further.

HDF5's own deflate filter grows its buffer for as long as the stream lasts, so a few MB can take all memory. Nothing
here lets it run.
"""

from __future__ import annotations

import math
import zlib
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

#: Largest chunk that is decoded, in bytes.
MAX_CHUNK_BYTES = 1 << 28
# What deflate adds to data it cannot shrink, with room to spare.
_OVERHEAD = 4096
_SUPPORTED: tuple[list[int], ...] = (
    [],
    [h5py.h5z.FILTER_SHUFFLE],
    [h5py.h5z.FILTER_DEFLATE],
    [h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_DEFLATE],
)


def filter_codes(dataset: h5py.Dataset) -> list[int]:
    """Return the filters a chunked dataset was written with, in the order of writing.

    Raises
    ------
    ValueError
        They are others than shuffle and deflate, or a chunk is larger than ``MAX_CHUNK_BYTES``.
    """
    plist = dataset.id.get_create_plist()
    codes = [plist.get_filter(position)[0] for position in range(plist.get_nfilters())]
    if codes not in _SUPPORTED:
        raise ValueError(
            f"it uses HDF5 filters {codes}, expected deflate with or without shuffle; run h5repack -f GZIP=4"
        )
    if dataset.dtype.itemsize * math.prod(dataset.chunks) > MAX_CHUNK_BYTES:
        raise ValueError(f"its chunks are larger than {MAX_CHUNK_BYTES >> 20} MiB; run h5repack with smaller ones")
    return codes


def read_chunk(dataset: h5py.Dataset, offset: tuple[int, ...], codes: list[int]) -> npt.NDArray[Any]:
    """Read one chunk.

    Parameters
    ----------
    dataset
        A chunked dataset of numbers.
    offset
        Where the chunk begins, in elements, one number per axis.
    codes
        What :func:`filter_codes` returned.

    Returns
    -------
    ndarray
        Of the chunk's whole shape, also where it reaches beyond the dataset; the fill value where none was written.

    Raises
    ------
    ValueError
        The chunk is damaged.
    """
    stored = dataset.id.get_chunk_info_by_coord(offset)
    if stored.byte_offset is None:
        return np.full(dataset.chunks, dataset.fillvalue, dtype=dataset.dtype)
    limit = stored_limit(dataset)
    if stored.size > limit:
        raise ValueError(f"its chunk at {offset} is stored in {stored.size} bytes, expected at most {limit}")
    mask, data = dataset.id.read_direct_chunk(offset)
    return decode_chunk(dataset, data, codes, mask)


def stored_limit(dataset: h5py.Dataset) -> int:
    """Return the largest size in bytes that a chunk may have in the file."""
    size: int = dataset.dtype.itemsize * math.prod(dataset.chunks)
    return size + size // 1000 + _OVERHEAD


def decode_chunk(dataset: h5py.Dataset, data: bytes, codes: list[int], mask: int = 0) -> npt.NDArray[Any]:
    """Return the values of a chunk from its bytes in the file; what follows a deflated chunk is left aside.

    Parameters
    ----------
    dataset, codes
        As for :func:`read_chunk`.
    data
        The bytes.
    mask
        Bit n is set where the filter at position n was skipped.

    Raises
    ------
    ValueError
        They are damaged.
    """
    size = dataset.dtype.itemsize * math.prod(dataset.chunks)
    for position, code in reversed([*enumerate(codes)]):
        if not mask >> position & 1:
            data = _inflate(data, size) if code == h5py.h5z.FILTER_DEFLATE else _unshuffle(data, dataset.dtype.itemsize)
    if len(data) != size:
        raise ValueError(f"a chunk has {len(data)} bytes, expected {size}")
    return np.frombuffer(data, dtype=dataset.dtype).reshape(dataset.chunks)


def _inflate(data: bytes, size: int) -> bytes:
    stream = zlib.decompressobj()
    try:
        inflated = stream.decompress(data, size + 1)
    except zlib.error as error:
        raise ValueError(f"a chunk cannot be inflated ({error})") from None
    if len(inflated) > size:
        raise ValueError(f"a chunk inflates to more than the {size} bytes it declares")
    return inflated


def _unshuffle(data: bytes, itemsize: int) -> bytes:
    whole = len(data) // itemsize * itemsize
    planes = np.frombuffer(data, dtype=np.uint8, count=whole).reshape(itemsize, -1)
    return planes.T.tobytes() + bytes(data[whole:])
