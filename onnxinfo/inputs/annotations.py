"""Read boxes from untrusted annotation files: CSV, COCO JSON and Pascal VOC XML, with bounded sizes and plain XML."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.parsers import expat

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..text import is_number, printable
from .rows import check_file

Array = npt.NDArray[Any]
#: Row numbers of the boxes by image name, None if boxes have no names; and the boxes, (k, 4).
Named = tuple[Mapping[str, list[int]] | None, Array]

#: Maximum size in bytes of a CSV or JSON file, and of an XML file.
MAX_TABLE_BYTES, MAX_XML_BYTES = 1 << 28, 1 << 22
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def read_csv(path: Path) -> Named:
    """Read lines of ``name,xmin,ymin,xmax,ymax`` or, in the order of the samples, ``xmin,ymin,xmax,ymax``.

    Raises
    ------
    InputError
        The file cannot be read or has other lines; a header is skipped.
    """
    title = f"boxes {printable(path)}"
    text = _read(path, MAX_TABLE_BYTES)
    try:
        lines = [line for line in csv.reader(text.splitlines()) if line]
    except csv.Error as error:
        raise InputError(f"{title} cannot be read: {error}") from None
    if lines and not is_number(lines[0][-1]):
        del lines[0]
    widths = {len(line) for line in lines}
    if widths not in ({4}, {5}):
        raise InputError(f"{title} has lines of {sorted(widths)[:5]} columns, expected name,xmin,ymin,xmax,ymax")
    for number, line in enumerate(lines, 1):
        if not all(map(is_number, line[-4:])):
            raise InputError(f"{title}, box {number}: {printable(','.join(line[-4:]))} are not four numbers")
    boxes = np.array([[float(cell) for cell in line[-4:]] for line in lines])
    if widths == {4}:
        return None, boxes
    return _grouped([line[0].strip() for line in lines]), boxes


def read_coco(path: Path) -> Named:
    """Read the ``bbox`` (x, y, width, height) of all annotations in a COCO JSON file, by ``file_name``.

    Raises
    ------
    InputError
        The file cannot be read, or lacks images or boxes.
    """
    title = f"boxes {printable(path)}"
    try:
        content = json.loads(_read(path, MAX_TABLE_BYTES))
        names = {image["id"]: str(image["file_name"]) for image in content["images"]}
        found = [(names[a["image_id"]], [float(number) for number in a["bbox"]]) for a in content["annotations"]]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        reason = printable(f"{type(error).__name__} {error}")[:120]
        raise InputError(f"{title} is not COCO JSON with images and annotations ({reason})") from None
    if not found or any(len(box) != 4 for _, box in found):
        raise InputError(f"{title} has annotations without a bbox of x, y, width, height, or none at all")
    boxes = np.array([box for _, box in found])
    boxes[:, 2:] += boxes[:, :2]
    return _grouped([name for name, _ in found]), boxes


def read_voc(folder: Path) -> dict[str, Array]:
    """Read the boxes of all objects in a folder of Pascal VOC XML files, by file name without suffix.

    Pixels are counted from 1 in this format, and xmax and ymax are inclusive.

    Raises
    ------
    InputError
        A file cannot be read, is not plain XML, or has a box without four corners.
    """
    boxes = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() == ".xml":
            found = _objects(path)
            if len(found):
                boxes[path.stem] = found - np.array([1, 1, 0, 0])
    return boxes


class _Plain:
    """XML parser handlers that collect the corners of ``bndbox`` elements and refuse declarations."""

    def __init__(self) -> None:
        self.boxes: list[dict[str, str]] = []
        self._path: list[str] = []

    def start(self, tag: str, _: Mapping[str, str]) -> None:
        self._path.append(tag)
        # Parts of an object (head, hand) have boxes too; the object's own box is its direct child.
        if self._path[-2:] == ["object", "bndbox"]:
            self.boxes.append({})

    def text(self, data: str) -> None:
        if self._path[-3:-1] == ["object", "bndbox"] and self._path[-1] in _CORNERS:
            self.boxes[-1][self._path[-1]] = self.boxes[-1].get(self._path[-1], "") + data

    def end(self, _: str) -> None:
        self._path.pop()

    def declared(self, *_: Any) -> None:
        raise InputError("has a document type declaration, which could define entities; remove it")


def _objects(path: Path) -> Array:
    title = f"boxes {printable(path)}"
    handlers = _Plain()
    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = handlers.start, handlers.end
    parser.CharacterDataHandler = handlers.text
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = handlers.declared
    text = _read(path, MAX_XML_BYTES)
    try:
        parser.Parse(text.encode(), True)
        corners = [[float(box[corner]) for corner in _CORNERS] for box in handlers.boxes]
    except InputError as error:
        raise InputError(f"{title} {error}") from None
    except (expat.ExpatError, ValueError) as error:
        raise InputError(f"{title} cannot be read as XML: {printable(error)}") from None
    except KeyError as error:
        raise InputError(f"{title} has an object without {error} in its bndbox") from None
    return np.array(corners).reshape(-1, 4)


def _read(path: Path, most: int) -> str:
    check_file(path)
    try:
        if os.path.getsize(path) > most:
            raise InputError(f"boxes {printable(path)} are larger than {most >> 20} MiB")
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"boxes {printable(path)} cannot be read: {printable(error)}") from None


def _grouped(names: list[str]) -> dict[str, list[int]]:
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        rows.setdefault(name, []).append(row)
    return rows
