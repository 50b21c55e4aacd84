"""Columns of a table as samples: each column is a unit of one graph input, or fills a graph input of its own."""

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
from .tables import MOST_SHOWN, CsvTable, FrameTable, ParquetTable, Table, shown
from .texts import tokenized

#: Memory limit for the selected cells of a table, in bytes.
MAX_LOADED_BYTES = 1 << 30
_NUMBERS = re.compile(r"(U?(TINYINT|SMALLINT|INTEGER|BIGINT|HUGEINT)|FLOAT|DOUBLE|BOOLEAN|DECIMAL\(.*)$")


class TableRows(Rows):
    """Columns of a table as samples, one row per sample.

    Parameters
    ----------
    table
        The table.
    names
        Names of the columns, in order.
    shape
        Shape of a sample: ``()`` for a single column, or ``(len(names),)``.
    dtype
        Element type of the graph input; ``object`` for text.

    Raises
    ------
    InputError
        The table has no rows, a column does not exist, or its type does not fit.
    """

    def __init__(self, table: Table, names: Sequence[str], shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._table, self._positions, self._wanted = table, [table.position(name) for name in names], dtype
        count = table.count()
        if not count:
            raise InputError(f"{table.title} has no rows; expected a row for each sample")
        self.name, self.shape = printable(table.path.stem), (count, *shape)
        self.units = tuple(names) if len(shape) == 1 else None
        # The length of text is known only after the rows are selected.
        self.dtype = np.dtype({"O": "U1", "f": "f8"}.get(dtype.kind, "i8"))
        for position in self._positions:
            self._check_type(position)

    def read(self, indices: Sequence[int]) -> Array:
        """Return rows, (len(indices), *shape[1:]); see :meth:`chosen` for errors."""
        return self.chosen(indices).read(range(len(indices)))

    def chosen(self, indices: Sequence[int]) -> Rows:
        """Read some rows into memory.

        Raises
        ------
        InputError
            The cells take more than ``MAX_LOADED_BYTES``, the table cannot be read, or a cell is empty, of the wrong
            type, NaN or infinite.
        """
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
        """Check that the type of a Parquet column fits the model's input; raise InputError otherwise."""
        kind, is_text = self._table.types[position], self._wanted.kind == "O"
        fits = bool(_NUMBERS.match(kind)) or (is_text and kind.startswith(("VARCHAR", "ENUM")))
        if self._table.is_typed and not fits:
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
    """SQL expression for a column converted to a type, NULL where a cell cannot be converted."""
    column = f"c{position}"
    if dtype.kind == "U":
        return f"CAST({column} AS VARCHAR)"
    number = f"TRY_CAST({column} AS DOUBLE)"
    if dtype.kind == "f":
        return number
    return f"CASE WHEN {number} = floor({number}) THEN TRY_CAST({column} AS BIGINT) END"


def chosen_columns(table: Table, key: str | None) -> list[str]:
    """Return the column names in a key: the whole key if it is a column, else a comma-separated list; None: all.

    Raises
    ------
    InputError
        A column does not exist, or several have its name.
    """
    if key is None:
        return list(table.columns)
    if key in table.columns:
        return [key]
    names = [name.strip() for name in next(csv.reader([key]))]
    for name in names:
        table.position(name)
    return names


def open_frame(frame: Any, purpose: Purpose) -> Rows:
    """Return all columns of a DataFrame as the samples of a graph input."""
    return _columns(FrameTable(frame), None, purpose, [])


def open_frame_all(frame: Any, declared: Declared, reading: Reading) -> dict[str, Rows]:
    """Return the columns of a DataFrame as samples of the graph inputs of the same names."""
    return _by_name(FrameTable(frame), None, declared, reading)


def _columns(table: Table, key: str | None, purpose: Purpose, labels: Sequence[str]) -> Rows:
    if purpose.reading.tokenizer is not None and purpose.dtype.kind in "iu":
        declared: Declared = {purpose.name: (purpose.shape, purpose.dtype)}
        return tokenized(_column_of_texts(table, key), declared, purpose.reading)[purpose.name]
    names = chosen_columns(table, key)
    if key is None:
        names = [name for name in names if name not in labels]
    return TableRows(table, names, _row_shape(table, names, purpose, named=key is not None), purpose.dtype)


def _row_shape(table: Table, names: Sequence[str], purpose: Purpose, *, named: bool) -> tuple[int, ...]:
    """Shape of a sample of these columns, all or `named` ones; InputError if the model's input does not take it."""
    if purpose.shape == () and len(names) == 1:
        return ()
    if len(purpose.shape) != 1:
        raise InputError(
            f"{table.title} has one value per column, the model takes {shape_text(purpose.shape)}; give an array"
        )
    expected = purpose.shape[0]
    if isinstance(expected, int) and expected != len(names):
        raise InputError(f"{_counted(table, names, named)}; the model takes {expected} values: {table.remedy}")
    return (len(names),)


def _by_name(table: Table, key: str | None, declared: Declared, reading: Reading) -> dict[str, Rows]:
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
        opened[name] = TableRows(table, [column], _row_shape(table, [column], purpose, named=True), purpose.dtype)
    return opened


def _matching(table: Table, name: str) -> str:
    """Find the column for a graph input, ignoring case and characters that are neither letters nor digits.

    Raises
    ------
    InputError
        No column matches, or several do.
    """
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
        counted = _counted(table, names, key is not None)
        raise InputError(f"{counted}; name the one of texts, {table.title}:NAME")
    return TableRows(table, names, (), np.dtype(object))


def _counted(table: Table, names: Sequence[str], named: bool) -> str:
    """Say how many columns a table has, or how many of its columns are named."""
    columns = "1 column" if len(names) == 1 else f"{len(names)} columns"
    if named:
        return f"{table.title}: {columns} {'is' if len(names) == 1 else 'are'} chosen, {listing(names)}"
    return f"{table.title} has {columns}, {listing(names)}"


def _label_columns(path: Path, labels: object) -> list[str]:
    """Columns of this file that the labels are read from; at most one."""
    if not isinstance(labels, str | os.PathLike):
        return []
    prefix = f"{os.fspath(path)}:"
    text = os.fspath(labels)
    return [text.removeprefix(prefix)] if text.startswith(prefix) else []


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "_", name.casefold()).strip("_")


def _format(kind: type[CsvTable | ParquetTable]) -> Format:
    return Format(
        open=lambda path, key, purpose: _columns(
            kind(path), key, purpose, _label_columns(path, purpose.reading.labels)
        ),
        open_all=lambda path, key, declared, reading: _by_name(kind(path), key, declared, reading),
    )


CSV = _format(CsvTable)
PARQUET = _format(ParquetTable)
