"""Arrays of samples in files: ``.npy``, ``.npz:key``, ``.h5:/dataset``."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ..errors import InputError
from ..text import printable
from .numpy_files import open_npy, open_npz
from .rows import Rows, check_file, reading

_KINDS = ("npz", "npy", "h5", "hdf5")
_CONTAINER = re.compile(rf"(?P<path>.+?\.(?P<kind>{'|'.join(_KINDS)}))(?::(?P<key>.+))?", re.IGNORECASE | re.DOTALL)


def split_key(spec: str) -> tuple[Path, str, str | None] | None:
    """Split ``data.npz:x_test`` into path, kind (``npz``, ``npy``, ``h5``, ``hdf5``) and key; None for other files."""
    if os.path.isfile(spec):
        kind = os.path.splitext(spec)[1].lower().removeprefix(".")
        return (Path(spec), kind, None) if kind in _KINDS else None
    parts = _CONTAINER.fullmatch(spec)
    return None if parts is None else (Path(parts["path"]), parts["kind"].lower(), parts["key"])


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
    with reading(path):
        if kind == "npy":
            if key is not None:
                raise InputError(f"{printable(path)} holds one array and takes no key, got {printable(key)}")
            return open_npy(path, kinds)
        if kind == "npz":
            return open_npz(path, key, kinds)
        from .hdf5_files import open_hdf5  # h5py is slow to import and seldom needed here

        return open_hdf5(path, key, kinds)
