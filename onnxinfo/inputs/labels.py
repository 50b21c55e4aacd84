"""Read labels of samples: from an array, a CSV file, or the folders of images."""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..text import printable
from .arrays import holds_array, open_array
from .rows import check_file

LabelSpec = str | os.PathLike[str] | npt.NDArray[Any] | Sequence[int] | Sequence[str]

#: Maximum size of a CSV file in bytes.
MAX_CSV_BYTES = 1 << 27
_GREATEST_LABEL = 2**53
_HEADINGS = frozenset({"name", "file", "filename", "image", "path", "id", "label", "class", "target", "y"})


def open_labels(spec: LabelSpec, names: Sequence[str]) -> tuple[npt.NDArray[np.int64], list[str]]:
    """Read the labels of all samples of a source.

    Parameters
    ----------
    spec
        Labels themselves; ``data.npz:y_test``, ``.npy`` or ``.h5:/dataset``; a column of a table, ``data.csv:y`` or
        ``data.parquet:y``; or a CSV file with one column (labels in the order of the samples) or two (sample name,
        label). A CSV heading of common names is skipped.
    names
        Names of the samples.

    Returns
    -------
    labels : ndarray
        (len(names),) of int64.
    classes : list of str
        Names of the labels if they were given as text (labels are then positions in it), else empty.

    Raises
    ------
    InputError
        The labels cannot be read, are neither integers nor text, or their number differs from that of the samples.
    """
    if isinstance(spec, str | os.PathLike):
        if holds_array(os.fspath(spec)):
            rows = open_array(os.fspath(spec), kinds="biufUS")
            values: Any = rows.read(range(len(rows)))
        else:
            values = _from_csv(Path(spec), names)
    else:
        values = np.asarray(spec)
    what = f"labels {printable(spec)}" if isinstance(spec, str | os.PathLike) else "labels"
    return _encode(np.asarray(values), len(names), what)


def _encode(values: npt.NDArray[Any], count: int, what: str) -> tuple[npt.NDArray[np.int64], list[str]]:
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.shape != (count,):
        raise InputError(f"{what}: shape {values.shape}, expected one for each of {count} samples")
    if values.dtype.kind == "S":
        values = np.char.decode(values, "utf-8", "replace")
    if values.dtype.kind == "U":
        codes = np.ascontiguousarray(values).view(values.dtype.byteorder + "u4")
        if (codes > sys.maxunicode).any():
            raise InputError(f"{what}: text that is not Unicode; the file is damaged")
        texts = [str(value).strip() for value in values]
        if all(text.removeprefix("-").isdecimal() and len(text) < 19 for text in texts):
            return np.array([int(text) for text in texts], dtype=np.int64), []
        classes = sorted(set(texts))
        index = {name: position for position, name in enumerate(classes)}
        return np.array([index[text] for text in texts], dtype=np.int64), [printable(name) for name in classes]
    if (values.dtype.kind == "f" and not (values == np.trunc(values)).all()) or values.dtype.kind not in "biuf":
        raise InputError(f"{what}: elements of type {values.dtype}, expected integers or text")
    # Larger integers are not exact as floats, and overflow int64.
    if values.dtype.kind in "uf" and (abs(values) > _GREATEST_LABEL).any():
        raise InputError(f"{what}: numbers up to {abs(values).max():.4g}, expected integers up to {_GREATEST_LABEL}")
    return values.astype(np.int64), []


def _from_csv(path: Path, names: Sequence[str]) -> list[str]:
    check_file(path)
    if path.stat().st_size > MAX_CSV_BYTES:
        raise InputError(f"labels {printable(path)} are larger than {MAX_CSV_BYTES >> 20} MiB")
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = [row for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"labels {printable(path)} cannot be read: {printable(error)}; expected a CSV file") from None
    if rows and {cell.strip().lower() for cell in rows[0]} <= _HEADINGS:
        del rows[0]
    widths = {len(row) for row in rows}
    if widths == {1}:
        return [row[0] for row in rows]
    if widths != {2}:
        raise InputError(
            f"labels {printable(path)} have rows of {sorted(widths)[:5]} columns, expected 'label' or 'name,label'"
        )
    return _by_name({name.strip(): label for name, label in rows}, names, path)


def _by_name(table: dict[str, str], names: Sequence[str], path: Path) -> list[str]:
    found = [table.get(name, table.get(name.rsplit("/", 1)[-1])) for name in names]
    missing = [name for name, label in zip(names, found, strict=True) if label is None]
    if missing:
        raise InputError(
            f"labels {printable(path)} have none for {missing[0]} ({len(missing)} of {len(names)} are missing)"
        )
    return [label for label in found if label is not None]
