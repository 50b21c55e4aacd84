"""Columns of a table as samples: each is a unit of a graph input, or a graph input of its own."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..text import printable
from .axes import shape_text
from .formats import Declared, Format, Purpose, Reading
from .rows import Array, MemoryRows, Rows, listing
from .tables import MOST_SHOWN, CsvTable, ParquetTable, Table, shown
from .texts import tokenized

#: Most bytes that the chosen cells of a table may take.
MAX_LOADED_BYTES = 1 << 30
_NUMBERS = re.compile(r"(U?(TINYINT|SMALLINT|INTEGER|BIGINT|HUGEINT)|FLOAT|DOUBLE|BOOLEAN|DECIMAL\(.*)$")


class TableRows(Rows):
    """Columns of a table as samples: a value, or one for each unit.

    Parameters
    ----------
    table
        The table.
    names
        The columns.
    shape
        Shape of a sample: ``()`` of one column, else as many values as columns.
    dtype
        Element type of the graph input, object for text.
    """

    def __init__(self, table: Table, names: Sequence[str], shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._table, self._positions, self._wanted = table, [table.position(name) for name in names], dtype
        count = table.count()
        if not count:
            raise InputError(f"{table.title} has no rows; expected a row for each sample")
        self.name, self.shape = printable(table.path.stem), (count, *shape)
        self.units = tuple(names) if len(shape) == 1 else None
        # How long text is, is known once the rows are chosen.
        self.dtype = np.dtype({"O": "U1", "f": "f8"}.get(dtype.kind, "i8"))
        for position in self._positions:
            self._check_type(position)

    def read(self, indices: Sequence[int]) -> Array:
        """Return rows, see :class:`Rows`."""
        return self.chosen(indices).read(range(len(indices)))

    def chosen(self, indices: Sequence[int]) -> Rows:
        """Read these rows into memory."""
        count = max(indices, default=-1) + 1
        dtype = self._text_type(count) if self.dtype.kind == "U" else self.dtype
        if count * dtype.itemsize * len(self._positions) > MAX_LOADED_BYTES:
            raise InputError(
                f"{self._table.title}: the first {count} rows of {len(self._positions)} columns take more than "
                f"{MAX_LOADED_BYTES >> 20} MiB; give limit=..., or fewer columns"
            )
        columns = self._table.read([_expression(position, self.dtype) for position in self._positions], count)
        at = np.asarray(indices, dtype=np.intp)
        for position, column in zip(self._positions, columns, strict=True):
            self._check_values(position, column, at)
        values = np.stack([np.asarray(column)[at].astype(dtype) for column in columns], axis=-1)
        held = MemoryRows(values.reshape(len(at), *self.shape[1:]), self.name)
        held.units = self.units
        return held

    def _text_type(self, count: int) -> np.dtype[Any]:
        longest = max(self._table.longest(position, count) for position in self._positions)
        return np.dtype(f"U{max(1, longest)}")

    def _check_type(self, position: int) -> None:
        """Refuse a column that is typed, and otherwise than the model's input."""
        kind, is_text = self._table.types[position], self._wanted.kind == "O"
        fits = bool(_NUMBERS.match(kind)) or (is_text and kind.startswith(("VARCHAR", "ENUM")))
        if isinstance(self._table, ParquetTable) and not fits:
            expected = "text" if is_text else "numbers"
            raise InputError(f"{self._where(position)} holds {printable(kind)[:MOST_SHOWN]}, expected {expected}")

    def _check_values(self, position: int, column: Array, at: Any) -> None:
        missing = np.ma.getmaskarray(column)[at] if np.ma.isMaskedArray(column) else np.zeros(len(at), bool)
        if missing.any():
            row = int(at[int(np.argmax(missing))])
            cell = self._table.read([f"left(CAST(c{position} AS VARCHAR), {MOST_SHOWN})"], row + 1)[0]
            given = None if np.ma.getmaskarray(cell)[row] else cell[row]
            expected = {"U": "text", "f": "a number", "i": "an integer"}[self.dtype.kind]
            holds = "is empty" if given is None else f"is {shown(given)}"
            raise InputError(f"{self._where(position)}, row {row + 1}, {holds}; expected {expected}")
        if self.dtype.kind == "f" and not (finite := np.isfinite(np.asarray(column)[at])).all():
            row = int(at[int(np.argmin(finite))])
            raise InputError(f"{self._where(position)}, row {row + 1}, is NaN or infinite; remove or replace the row")

    def _where(self, position: int) -> str:
        return f"{self._table.title}: column {shown(self._table.columns[position])}"


def _expression(position: int, dtype: np.dtype[Any]) -> str:
    """SQL that is NULL where a cell is not of the type."""
    column = f"c{position}"
    if dtype.kind == "U":
        return f"CAST({column} AS VARCHAR)"
    number = f"TRY_CAST({column} AS DOUBLE)"
    if dtype.kind == "f":
        return number
    return f"CASE WHEN {number} = floor({number}) THEN TRY_CAST({column} AS BIGINT) END"


def chosen_columns(table: Table, key: str | None) -> list[str]:
    """Return the columns that a key names: one by its whole name, else several, separated by commas; None: all."""
    if key is None:
        return list(table.columns)
    if key in table.columns:
        return [key]
    return [name.strip() for name in next(csv.reader([key]))]


def _open(kind: type[Any], path: Path, key: str | None, purpose: Purpose) -> Rows:
    table = kind(path)
    if purpose.reading.tokenizer is not None and purpose.dtype.kind in "iu":
        declared: Declared = {purpose.name: (purpose.shape, purpose.dtype)}
        return tokenized(_column_of_texts(table, key), declared, purpose.reading)[purpose.name]
    names = chosen_columns(table, key)
    if key is None:
        labels = _label_columns(path, purpose.reading.labels)
        names = [name for name in names if name not in labels]
    return TableRows(table, names, _row_shape(table, names, purpose), purpose.dtype)


def _row_shape(table: Table, names: Sequence[str], purpose: Purpose) -> tuple[int, ...]:
    """Shape of a sample of these columns, as the model takes it."""
    if purpose.shape == () and len(names) == 1:
        return ()
    if len(purpose.shape) != 1:
        raise InputError(
            f"{table.title} has one value per column, the model takes {shape_text(purpose.shape)}; give an array"
        )
    expected = purpose.shape[0]
    if isinstance(expected, int) and expected != len(names):
        raise InputError(
            f"{table.title} has {len(names)} columns, {listing(names)}; the model takes {expected} values: name them, "
            f"{table.title}:NAME,NAME,..., in the model's order"
        )
    return (len(names),)


def _open_all(kind: type[Any], path: Path, key: str | None, declared: Declared, reading: Reading) -> dict[str, Rows]:
    table = kind(path)
    if reading.tokenizer is not None:
        return tokenized(_column_of_texts(table, key), declared, reading)
    if key is not None:
        raise InputError(
            f"{table.title}: its columns are given to the model's inputs by name, and it takes no key; leave out "
            f"{shown(key)}"
        )
    opened: dict[str, Rows] = {}
    for name, (shape, dtype) in declared.items():
        column = _matching(table, name)
        purpose = Purpose(name, tuple(shape), np.dtype(dtype), reading)
        opened[name] = TableRows(table, [column], _row_shape(table, [column], purpose), purpose.dtype)
    return opened


def _matching(table: Table, name: str) -> str:
    """Name of the column for a graph input, which may differ in case and in what is neither letter nor digit."""
    if name in table.columns:
        return name
    alike = [column for column in table.columns if _plain(column) == _plain(name)]
    if len(alike) == 1:
        return alike[0]
    raise InputError(
        f"{table.title} has no column for input {shown(name)}; expected a column of that name, got "
        f"{listing(table.columns)}"
    )


def _column_of_texts(table: Table, key: str | None) -> Rows:
    names = chosen_columns(table, key)
    if len(names) != 1:
        raise InputError(
            f"{table.title} has {len(names)} columns, {listing(names)}; name the one of texts, {table.title}:NAME"
        )
    return TableRows(table, names, (), np.dtype(object))


def _label_columns(path: Path, labels: object) -> list[str]:
    """Columns of this file that the labels are read from."""
    if not isinstance(labels, str | os.PathLike):
        return []
    prefix = f"{os.fspath(path)}:"
    text = os.fspath(labels)
    return [text.removeprefix(prefix)] if text.startswith(prefix) else []


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "_", name.casefold()).strip("_")


def _format(kind: type[Table]) -> Format:
    return Format(
        open=lambda path, key, purpose: _open(kind, path, key, purpose),
        open_all=lambda path, key, declared, reading: _open_all(kind, path, key, declared, reading),
    )


CSV = _format(CsvTable)
PARQUET = _format(ParquetTable)
