"""Read arrays of samples from files: ``.npy``, ``.npz:key``, ``.h5:/dataset``."""

from __future__ import annotations

import functools
import os
import re
from pathlib import Path

from ..errors import InputError
from ..registry import READERS
from ..text import printable
from .rows import Rows, check_file, reading


def split_key(spec: str) -> tuple[Path, str, str | None] | None:
    """Split ``data.npz:x_test`` into path, kind (a name of :data:`.registry.READERS`) and key; None for other files."""
    known = tuple(READERS.names())
    if os.path.isfile(spec):
        kind = os.path.splitext(spec)[1].lower().removeprefix(".")
        return (Path(spec), kind, None) if kind in known else None
    parts = _container(known).fullmatch(spec)
    return None if parts is None else (Path(parts["path"]), parts["kind"].lower(), parts["key"])


def open_array(spec: str, *, kinds: str = "biuf") -> Rows:
    """Open an array in a file.

    Parameters
    ----------
    spec
        ``data.npy``, ``data.npz:key``, ``data.h5:/dataset``; the key is optional if there is only one array.
    kinds
        Accepted element kinds, as NumPy's letters.

    Returns
    -------
    Rows
        The array; its first axis is the samples.

    Raises
    ------
    InputError
        The file or array is missing, damaged, of another kind, or declares more data than it can hold.
    """
    split = split_key(spec)
    if split is None:
        raise InputError(f"{printable(spec)} is not an array file; expected .npy, .npz:key or .h5:/dataset")
    path, kind, key = split
    check_file(path)
    with reading(path):
        rows: Rows = READERS.get(kind)(path, key, kinds)
    return rows


@functools.cache
def _container(known: tuple[str, ...]) -> re.Pattern[str]:
    endings = "|".join(map(re.escape, sorted(known, key=len, reverse=True)))
    return re.compile(rf"(?P<path>.+?\.(?P<kind>{endings}))(?::(?P<key>.+))?", re.IGNORECASE | re.DOTALL)
