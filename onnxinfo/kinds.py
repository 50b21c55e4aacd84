"""Kinds of files, recognized by content, not by name."""

from __future__ import annotations

import codecs
import csv
import io
import mmap
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .graph.protobuf_scan import is_model

_HEAD_BYTES = 1 << 16
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_HDF5_FIRST_OFFSET = 512

_MARKUP_PROLOGUE = r"\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*|<!DOCTYPE svg[^>]*>\s*)*"
_SVG = re.compile(_MARKUP_PROLOGUE + r"<svg[\s>]", re.DOTALL)
_HTML = re.compile(_MARKUP_PROLOGUE + r"<(?:!doctype html|html)[\s>]", re.DOTALL | re.IGNORECASE)
_JSON_TOKEN = re.compile(
    r'[\s\[\]{},:]+|"(?:[^"\\\x00-\x1f]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?(?![\w.])|(?:true|false|null)(?!\w)'
)
_LONGEST_TOKEN = 1 << 12
_TABLE_RULE = re.compile(r"-+(?:  -+)*")
_MARKDOWN_RULE = re.compile(r"\|(?: -+:? \|)+")


@dataclass(frozen=True)
class Content:
    """Content of a file as far as it is inspected.

    Attributes
    ----------
    path
        The file.
    size
        Its size in bytes.
    head
        Its first bytes, 64 KiB at most.
    text
        The head as UTF-8; None if it is not UTF-8 or contains control characters.
    """

    path: Path
    size: int
    head: bytes
    text: str | None

    @classmethod
    def of(cls, path: Path) -> Content:
        """Read the first bytes of a regular file.

        Raises
        ------
        OSError
            The file cannot be read.
        """
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
        return cls(path, path.stat().st_size, head, _text(head))

    @property
    def lines(self) -> list[str]:
        """Lines of the head, without an incomplete last one."""
        lines = (self.text or "").splitlines()
        return lines[:-1] if self.size > len(self.head) else lines


def _text(head: bytes) -> str | None:
    try:
        # The head may end within a character.
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(head)
    except UnicodeDecodeError:
        return None
    return None if re.search(r"[\x00-\x08\x0e-\x1a\x1c-\x1f]", text) else text


def _is_hdf5(content: Content) -> bool:
    # The superblock may be preceded by a user block of 512 bytes or a power of two times that.
    if content.head.startswith(HDF5_SIGNATURE):
        return True
    offset = _HDF5_FIRST_OFFSET
    with content.path.open("rb") as file:
        while offset + len(HDF5_SIGNATURE) <= content.size:
            file.seek(offset)
            if file.read(len(HDF5_SIGNATURE)) == HDF5_SIGNATURE:
                return True
            offset *= 2
    return False


def _is_parquet(content: Content) -> bool:
    if content.size < 12 or not content.head.startswith(b"PAR1"):
        return False
    with content.path.open("rb") as file:
        file.seek(-4, io.SEEK_END)
        return file.read(4) == b"PAR1"


def is_onnx(path: Path) -> bool:
    """Whether a non-empty regular file is an ONNX model, judged by its outermost fields.

    Raises
    ------
    OSError
        The file cannot be read.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return is_model(data)


def _is_safetensors(content: Content) -> bool:
    header = int.from_bytes(content.head[:8], "little")
    return content.head[8:9] == b"{" and 2 <= header <= content.size - 8


def _is_json(content: Content) -> bool:
    text = (content.text or "").lstrip()
    if not text.startswith(("[", "{")):
        return False
    position = 0
    while position < len(text):
        token = _JSON_TOKEN.match(text, position)
        if token is None:
            return content.size > len(content.head) and len(text) - position < _LONGEST_TOKEN
        position = token.end()
    return True


def _is_markdown(content: Content) -> bool:
    return len(content.lines) > 1 and bool(_MARKDOWN_RULE.fullmatch(content.lines[1]))


def _is_table(content: Content) -> bool:
    return len(content.lines) > 1 and bool(content.lines[0] and _TABLE_RULE.fullmatch(content.lines[1]))


def _is_csv(content: Content) -> bool:
    try:
        rows = [row for row in csv.reader(content.lines) if row]
    except csv.Error:
        return False
    # A single column cannot be distinguished from other text.
    return (
        len(rows) > 0
        and len(rows[0]) > 1
        and {len(row) for row in rows} == {len(rows[0])}
        and len({*rows[0]}) == len(rows[0])
        and all(name and name == name.strip() for name in rows[0])
    )


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes
    ----------
    title
        Name of the kind, with its article.
    matches
        Whether non-empty content is of this kind.
    text_suffixes
        Suffixes of files that hold the same as text, and are read as such.
    """

    title: str
    matches: Callable[[Content], bool]
    text_suffixes: tuple[str, ...] = ()


HDF5 = Kind("an HDF5 file", _is_hdf5)
#: Indistinguishable from other HDF5 files, hence never considered to be of the same kind.
NETCDF = Kind("a netCDF file", _is_hdf5)
PNG = Kind("a PNG image", lambda content: content.head.startswith(b"\x89PNG\r\n\x1a\n"))
GIF = Kind("a GIF image", lambda content: content.head.startswith((b"GIF87a", b"GIF89a")))
PDF = Kind("a PDF document", lambda content: content.head.startswith(b"%PDF-"))
PARQUET = Kind("a Parquet file", _is_parquet)
SAFETENSORS = Kind("a safetensors file", _is_safetensors)
ONNX = Kind("an ONNX model", lambda content: is_onnx(content.path), (".onnxtxt", ".onnxtext"))
SVG = Kind("an SVG image", lambda content: bool(_SVG.match(content.text or "")))
HTML = Kind("an HTML page", lambda content: bool(_HTML.match(content.text or "")))
JSON = Kind("JSON", _is_json)
MARKDOWN = Kind("a Markdown table", _is_markdown)
TABLE = Kind("a table as text", _is_table)
CSV = Kind("a CSV table", _is_csv)

#: In matching order; kinds with a signature come first.
KINDS = (HDF5, PNG, GIF, PDF, PARQUET, SAFETENSORS, ONNX, SVG, HTML, JSON, MARKDOWN, TABLE, CSV)


def kind_of(path: Path) -> Kind | None:
    """Return the kind of a non-empty regular file; None if unknown.

    Raises
    ------
    OSError
        The file cannot be read.
    """
    content = Content.of(path)
    return next((kind for kind in KINDS if kind.matches(content)), None)
