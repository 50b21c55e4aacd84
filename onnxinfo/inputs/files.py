"""Which files an argument names: a model, archives, samples, labels, boxes or masks, however they are given."""

from __future__ import annotations

import glob
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ..kinds import is_onnx
from .arrays import split_key
from .images import SUFFIXES, glob_base

#: Endings of the files that are read when a folder is named.
_READ_IN_FOLDERS = SUFFIXES | {".xml", ".wav", ".flac"}
#: Standard input, as models are read from it.
STANDARD_INPUT = "-"


def named_files(given: object) -> Iterator[Path]:
    """List the files and folders that an argument names, as far as they exist.

    What is no file is passed over. Where a text can be read in several ways, as ``NAME=SPEC,...`` or as a path with an
    equals sign in it, the files of all of them are listed.

    Parameters
    ----------
    given
        A path, a specification of samples (``FILE.npz:key``, ``NAME=SPEC,...``, a glob, whose folder is listed), ``-``
        for standard input, a :class:`~onnxinfo.Model`, arrays, or a sequence or mapping of these. With a model's file,
        those of its external data are listed.
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
    """Tell whether a file, perhaps by another name, is one that is read when `folder` is named.

    Parameters
    ----------
    folder
        A folder of images, masks or boxes, with its sub-folders.
    path
        A file that exists.
    """
    inside = path.resolve().is_relative_to(folder.resolve()) and path.suffix.lower() in _READ_IN_FOLDERS
    # A large folder is gone through only where the file has several names.
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
    """Return the files that hold the weights of a model, if that is what the file is."""
    try:
        if not path.is_file() or path.stat().st_size == 0 or not is_onnx(path):
            return []
    except OSError:
        return []
    from ..graph.external_data import external_files

    return external_files(path)


def _readings(text: str) -> list[str]:
    """Return the text, and what stands in it after an equals sign and before a comma."""
    if "\0" in text:
        return []
    starts = [0, *(i + 1 for i, c in enumerate(text) if c == "=")]
    ends = [*(i for i, c in enumerate(text) if c == ","), len(text)]
    return [text[start:end].strip() for start, end in itertools.product(starts, ends) if start < end]
