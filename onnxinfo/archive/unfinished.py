"""Unfinished results of a run, in a hidden folder beside the archive: a killed analysis continues from them.

Each file holds arrays with a description and a checksum. A file that is damaged, or of another computation, is ignored:
what it held is computed again.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import logging
import math
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ArchiveError
from ..replacing import fsync_folder, replacing
from ..text import quoted

logger = logging.getLogger(__name__)

_MAGIC = b"onnxinfo unfinished 1\n"
#: Separates the name of a task from that of a part of it.
PART = "+"
_NUMBER = re.compile(r"\d{6}")
#: End of a folder's name, after digits of a digest.
_END, _DIGITS = ".unfinished", 16
#: Element types of arrays.
_TYPES = ("<f4", "<f8", "<f2", "<i8", "<i4", "|u1", "|b1")
#: Largest description of a file, in bytes.
_MOST_DESCRIPTION = 2**26

Arrays = Sequence[npt.NDArray[Any]]


@dataclass(frozen=True)
class Item:
    """Arrays with a description."""

    described: Mapping[str, Any]
    arrays: Arrays


@dataclass(frozen=True)
class Unfinished:
    """Folder of one run under its present settings; it is created when something is saved.

    Attributes
    ----------
    folder
        The folder.
    digest
        Digest of everything that the results depend on.
    """

    folder: Path
    digest: str

    @classmethod
    def beside(cls, archive: Path, run: str, digest: str) -> Unfinished:
        """Folder beside an archive, whose path is resolved, for the run of that name."""
        return cls(archive.with_name(f"{_beginning(archive, run)}{digest[:16]}{_END}"), digest)

    def items(self, name: str) -> Iterator[Item]:
        """Yield what was saved under a name, in order."""
        for path in self._files(name):
            yield from self._read(path)

    def save(self, name: str, items: Sequence[Item]) -> bool:
        """Save items in addition to earlier ones of that name.

        Returns
        -------
        bool
            Whether it succeeded; if not, there is a warning.
        """
        files = self._files(name)
        number = int(files[-1].suffix[1:]) + 1 if files else 0
        try:
            if not self.folder.exists():
                self.folder.mkdir(exist_ok=True)
                fsync_folder(self.folder.parent)
            path = self.folder / f"{name}.{number:06d}"
            with replacing(path) as part, part.open("wb") as file:
                file.writelines(_encoded(items, self.digest))
        except (OSError, ArchiveError) as error:
            logger.warning("unfinished work cannot be saved in %s (%s)", quoted(self.folder), error)
            return False
        return True

    def discard(self, name: str) -> None:
        """Delete what was saved under a name, and under those of its parts."""
        for path in self._files(name, with_parts=True):
            with contextlib.suppress(OSError):
                path.unlink()

    def remove(self) -> None:
        """Delete the folder, and those of the same run under other digests; other files in them stay.

        The caller holds the archive's lock, so no other process uses these folders. Those of other runs stay, because
        the other runs may be continued.
        """
        _delete(self.folder)
        for folder in _folders(self.folder.parent, self.folder.name[: -len(_END) - _DIGITS]):
            _delete(folder)

    def _files(self, name: str, *, with_parts: bool = False) -> list[Path]:
        try:
            there = sorted(path for path in self.folder.iterdir() if _NUMBER.fullmatch(path.suffix[1:]))
        except OSError:
            return []
        return [path for path in there if (path.stem.split(PART)[0] if with_parts else path.stem) == name]

    def _read(self, path: Path) -> list[Item]:
        try:
            data = path.read_bytes()
            return _decoded(data, self.digest)
        except (OSError, ValueError, KeyError, TypeError, RecursionError, MemoryError):
            logger.warning("%s is damaged or of another analysis: what it held is computed again", quoted(path))
            return []


def remove_unfinished(archive: Path, run: str) -> None:
    """Delete the unfinished work of a run that is deleted; the caller holds the archive's lock."""
    for folder in _folders(archive.parent, _beginning(archive, run)):
        _delete(folder)


def rename_unfinished(archive: Path, run: str, name: str) -> None:
    """Give the unfinished work of a run to its new name; the caller holds the archive's lock."""
    beginning = _beginning(archive, run)
    for folder in _folders(archive.parent, beginning):
        # What a run of the new name left, which exists no longer, is in its place.
        target = archive.with_name(_beginning(archive, name) + folder.name.removeprefix(beginning))
        _delete(target)
        with contextlib.suppress(OSError):
            folder.rename(target)


def _beginning(archive: Path, run: str) -> str:
    """Beginning of the names of a run's folders, before the digests."""
    short = hashlib.sha256(run.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f".{archive.name}.{short}-"


def _folders(parent: Path, beginning: str) -> list[Path]:
    """Folders of unfinished work whose names begin in some way and go on with a digest; no links to others."""
    found = parent.glob(f"{glob.escape(beginning)}{'[0-9a-f]' * _DIGITS}{_END}")
    return [folder for folder in found if not folder.is_symlink()]


def _delete(folder: Path) -> None:
    """Delete a folder of unfinished work; other files in it stay, and then the folder does, too."""
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if _NUMBER.fullmatch(path.suffix[1:]) or path.suffix == ".part":
                path.unlink()
        folder.rmdir()


def _encoded(items: Sequence[Item], digest: str) -> Iterator[bytes]:
    """Parts of a file: magic, checksum, length of the description, description, arrays."""
    arrays = [np.ascontiguousarray(array) for item in items for array in item.arrays]
    described = [
        {**item.described, "arrays": [[array.dtype.str, list(array.shape)] for array in item.arrays]} for item in items
    ]
    text = json.dumps({"digest": digest, "items": described}).encode()
    body = [len(text).to_bytes(8, "little"), text, *(array.tobytes() for array in arrays)]
    checksum = 0
    for part in body:
        checksum = zlib.crc32(part, checksum)
    yield _MAGIC
    yield checksum.to_bytes(4, "little")
    yield from body


def _decoded(data: bytes, digest: str) -> list[Item]:
    """Read a file; raises ValueError, KeyError or TypeError where it is damaged."""
    start = len(_MAGIC)
    if data[:start] != _MAGIC or zlib.crc32(memoryview(data)[start + 4 :]) != int.from_bytes(
        data[start : start + 4], "little"
    ):
        raise ValueError("checksum")
    start += 4
    length = int.from_bytes(data[start : start + 8], "little")
    if length > _MOST_DESCRIPTION:
        raise ValueError("description")
    start += 8
    described = json.loads(data[start : start + length])
    if described["digest"] != digest:
        raise ValueError("digest")
    start += length
    items = []
    for each in described["items"]:
        arrays = []
        for kind, shape in each.pop("arrays"):
            if kind not in _TYPES or not all(isinstance(n, int) and n >= 0 for n in shape):
                raise ValueError("array")
            count = math.prod(shape)
            # Copied, so that it can be changed and is aligned; raises ValueError where data are missing.
            arrays.append(
                np.frombuffer(data, kind, count, start).reshape(shape).copy() if count else np.empty(shape, kind)
            )
            start += count * np.dtype(kind).itemsize
        items.append(Item(each, arrays))
    return items
