"""Read chunks of HDF5 datasets, inflated to their declared size and not a byte further.

HDF5's own deflate filter grows its buffer as long as the stream lasts, so a few MB can exhaust memory. It never runs
here.
"""

from __future__ import annotations

import math
import zlib
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

#: Maximum size of a decoded chunk, in bytes.
MAX_CHUNK_BYTES = 1 << 28
# Overhead of deflate on incompressible data, generously.
_OVERHEAD = 4096
_SUPPORTED: tuple[list[int], ...] = (
    [],
    [h5py.h5z.FILTER_SHUFFLE],
    [h5py.h5z.FILTER_DEFLATE],
    [h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_DEFLATE],
)


def filter_codes(dataset: h5py.Dataset) -> list[int]:
    """Return the filters of a chunked dataset, in the order of writing.

    Raises
    ------
    ValueError
        There are filters other than shuffle and deflate, or a chunk is larger than ``MAX_CHUNK_BYTES``.
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
        A chunked numeric dataset.
    offset
        Start of the chunk in elements, one number per axis.
    codes
        Result of :func:`filter_codes`.

    Returns
    -------
    ndarray
        Of the full chunk shape, even at the edge of the dataset; the fill value if the chunk was never written.

    Raises
    ------
    ValueError
        The chunk is damaged.
    """
    stored = stored_chunk(dataset, offset)
    if stored is None:
        return np.full(dataset.chunks, dataset.fillvalue, dtype=dataset.dtype)
    mask, data = stored
    return decode_chunk(dataset, data, codes, mask)


def stored_chunk(dataset: h5py.Dataset, offset: tuple[int, ...]) -> tuple[int, bytes] | None:
    """Return the filter mask and the bytes of a chunk as they are in the file; None if it was never written.

    Raises
    ------
    ValueError
        The chunk is larger than any of its dataset can be.
    """
    stored = dataset.id.get_chunk_info_by_coord(offset)
    if stored.byte_offset is None:
        return None
    limit = stored_limit(dataset)
    if stored.size > limit:
        raise ValueError(f"its chunk at {offset} is stored in {stored.size} bytes, expected at most {limit}")
    mask, data = dataset.id.read_direct_chunk(offset)
    return mask, data


def stored_limit(dataset: h5py.Dataset) -> int:
    """Return the maximum size in bytes of a chunk in the file."""
    size: int = dataset.dtype.itemsize * math.prod(dataset.chunks)
    return size + size // 1000 + _OVERHEAD


def decode_chunk(dataset: h5py.Dataset, data: bytes, codes: list[int], mask: int = 0) -> npt.NDArray[Any]:
    """Decode a chunk from its bytes in the file; bytes after a deflated chunk are ignored.

    Parameters
    ----------
    dataset, codes
        As for :func:`read_chunk`.
    data
        The bytes.
    mask
        Bit n is set if the filter at position n was skipped.

    Raises
    ------
    ValueError
        The bytes are damaged.
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
