"""List the files that an argument names: a model, archives, samples, labels, boxes or masks, in any form."""

from __future__ import annotations

import glob
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ..kinds import is_onnx
from .arrays import split_key
from .images import SUFFIXES, glob_base

#: Suffixes of the files that are read from a folder.
_READ_IN_FOLDERS = SUFFIXES | {".xml", ".wav", ".flac"}
#: Name of standard input, from which models can be read.
STANDARD_INPUT = "-"


def named_files(given: object) -> Iterator[Path]:
    """List the existing files and folders that an argument names.

    Anything that is not a file is skipped. If a text has several readings, such as ``NAME=SPEC,...`` or a path with an
    equals sign in it, the files of all of them are listed.

    Parameters
    ----------
    given
        A path, a specification of samples (``FILE.npz:key``, ``NAME=SPEC,...``, a glob, whose folder is listed), ``-``
        for standard input, a :class:`~onnxinfo.Model`, arrays, or a sequence or mapping of these. For a model file, its
        external data files are listed, too.
    """
    if isinstance(given, str | os.PathLike):
        yield from _in_text(os.fspath(given))
    elif isinstance(given, Mapping):
        for value in given.values():
            yield from named_files(value)
    elif isinstance(given, Sequence) and not isinstance(given, bytes | bytearray):
        for item in given:
            if not isinstance(item, int | float):
                yield from named_files(item)
    elif isinstance(path := getattr(given, "path", None), Path):
        yield from named_files(path)


def holds_read_file(folder: Path, path: Path) -> bool:
    """Whether a file, possibly under another name, is read when `folder` is named.

    Parameters
    ----------
    folder
        A folder of images, masks or boxes, with its subfolders.
    path
        An existing file.
    """
    inside = path.resolve().is_relative_to(folder.resolve()) and path.suffix.lower() in _READ_IN_FOLDERS
    # A large folder is searched only if the file has several hard links.
    return inside or (path.stat().st_nlink > 1 and any(_is(entry, path) for entry in folder.rglob("*")))


def _is(entry: Path, path: Path) -> bool:
    return entry.suffix.lower() in _READ_IN_FOLDERS and entry.is_file() and os.path.samefile(entry, path)


def _in_text(text: str) -> Iterator[Path]:
    for part in _readings(text):
        if part == STANDARD_INPUT:
            yield Path("/dev/stdin")
        if os.path.lexists(part):
            yield Path(part)
            yield from _external_data(Path(part))
        elif glob.has_magic(part):
            yield glob_base(Path(part))
        elif (container := split_key(part)) is not None:
            yield container[0]


def _external_data(path: Path) -> list[Path]:
    """Return the files with the weights of a model, if the file is one."""
    try:
        if not path.is_file() or path.stat().st_size == 0 or not is_onnx(path):
            return []
    except OSError:
        return []
    from ..graph.external_data import external_files

    return external_files(path)


def _readings(text: str) -> list[str]:
    """Return the text, and its parts after an equals sign and before a comma."""
    if "\0" in text:
        return []
    starts = [0, *(i + 1 for i, c in enumerate(text) if c == "=")]
    ends = [*(i for i, c in enumerate(text) if c == ","), len(text)]
    return [text[start:end].strip() for start, end in itertools.product(starts, ends) if start < end]
