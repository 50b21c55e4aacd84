"""Read arrays of samples from files: ``.npy``, ``.npz:key``, ``.h5:/dataset``."""

from __future__ import annotations

import functools
import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..registry import READERS
from ..text import printable
from .formats import Format, Purpose
from .images import find_files, names_of
from .rows import Rows, check_file, reading

#: Kinds and keys of files that may be lists of labels or of boxes.
_LISTS = (("csv", None), ("txt", None))


def split_key(spec: str) -> tuple[Path, str, str | None] | None:
    """Split ``data.npz:x_test`` into path, kind (a name of :data:`.registry.READERS`) and key; None for other files."""
    known = tuple(READERS.names())
    if os.path.isfile(spec):
        kind = os.path.splitext(spec)[1].lower().removeprefix(".")
        return (Path(spec), kind, None) if kind in known else None
    parts = _container(known).fullmatch(spec)
    return None if parts is None else (Path(parts["path"]), parts["kind"].lower(), parts["key"])


def holds_array(spec: str) -> bool:
    """Tell whether labels or boxes are in an array or in a column of a table, and not in a list of their own format."""
    split = split_key(spec)
    return split is not None and split[1:] not in _LISTS


def names_array(spec: str) -> bool:
    """Tell whether a specification names one file that holds samples, and no folder or pattern."""
    split = split_key(spec)
    if split is None or os.path.isdir(spec):
        return False
    format = format_of(split[0])
    is_pattern = glob.has_magic(spec) and not os.path.isfile(spec)
    return not (is_pattern and format is not None and format.open_files is not None)


def open_array(spec: str, *, kinds: str = "biuf", purpose: Purpose | None = None) -> Rows:
    """Open an array in a file.

    Parameters
    ----------
    spec
        ``data.npy``, ``data.npz:key``, ``data.h5:/dataset``; the key is optional if there is only one array.
    kinds
        Accepted element kinds, as NumPy's letters.
    purpose
        Graph input that the array is for; by default none, and any shape is accepted.

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
        raise InputError(
            f"{printable(spec)} is not an array file; expected .npy, .npz:key, .h5:/dataset or .csv:column"
        )
    path, kind, key = split
    check_file(path)
    reader: Any = READERS.get(kind)
    with reading(path):
        if isinstance(reader, Format):
            return reader.open(path, key, purpose or Purpose.of(kinds))
        rows: Rows = reader(path, key, kinds)
    return rows


def open_folder(spec: str | os.PathLike[str] | Sequence[Any], purpose: Purpose) -> Rows | None:
    """Open the files of a folder, a glob pattern or a list as one sample each; None if no format can do so."""
    if isinstance(spec, str | os.PathLike):
        if not (os.path.isdir(spec) or glob.has_magic(os.fspath(spec))) or os.path.isfile(spec):
            return None
        found = find_files(spec, [f".{name}" for name in READERS.names()])
        paths, names = found.paths, found.names
    else:
        paths = [Path(path) for path in spec]
        names = names_of(paths) if paths else []
    formats = [format_of(path) for path in paths]
    kept = next((each for each in formats if each is not None and each.open_files is not None), None)
    if kept is None or kept.open_files is None:
        return None
    at = [i for i, each in enumerate(formats) if each is kept]
    return kept.open_files([paths[i] for i in at], [names[i] for i in at], purpose)


def format_of(path: Path) -> Format | None:
    """Return the :class:`Format` registered for a file's suffix; None if there is none, or only a plain reader."""
    kind = path.suffix.lower().removeprefix(".")
    reader = READERS.get(kind) if kind in READERS.names() else None
    return reader if isinstance(reader, Format) else None


@functools.cache
def _container(known: tuple[str, ...]) -> re.Pattern[str]:
    endings = "|".join(map(re.escape, sorted(known, key=len, reverse=True)))
    return re.compile(rf"(?P<path>.+?\.(?P<kind>{endings}))(?::(?P<key>.+))?", re.IGNORECASE | re.DOTALL)
