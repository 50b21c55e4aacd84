"""SQL over the table of :func:`onnxinfo.query`, and Parquet, through DuckDB."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ArchiveError, UsageError
from ..outputs import Output
from ..text import printable

Row = dict[str, Any]

#: Name of the only table.
TABLE = "results"
_INTEGERS = ("layer_index", "depth", "sample", "n", "n_converged", "n_missing")
_REALS = ("value", "stderr", "gap")
MEMORY = "2GB"


def select(rows: Sequence[Row], columns: Sequence[str], statement: str) -> list[Row]:
    """Return what a SELECT finds in rows of :func:`onnxinfo.query`.

    DuckDB runs in memory and sees the table ``results`` only: files, network, extensions and settings are out of reach
    of the statement.

    Parameters
    ----------
    rows, columns
        The table's rows and their keys.
    statement
        One SELECT of DuckDB's SQL.

    Raises
    ------
    UsageError
        The statement is not one SELECT, or fails.
    """
    import duckdb

    with _table(rows, columns) as connection:
        _close_off(connection)
        try:
            parsed = connection.extract_statements(statement)
            if len(parsed) != 1 or parsed[0].type != duckdb.StatementType.SELECT:
                raise UsageError(f"--sql takes one SELECT over the table '{TABLE}', got {printable(statement)!r}")
            found = connection.execute(parsed[0])
            names = _distinct([column[0] for column in found.description or ()])
            return [dict(zip(names, values, strict=True)) for values in found.fetchall()]
        except duckdb.Error as error:
            reason = str(error).partition("\n")[0]
            raise UsageError(
                f"SQL: {printable(reason)}; the table '{TABLE}' has the columns {', '.join(columns)}"
            ) from None


def write_parquet(rows: Sequence[Row], columns: Sequence[str], output: Output) -> None:
    """Write rows of :func:`onnxinfo.query` to a Parquet file.

    Raises
    ------
    ArchiveError
        The file cannot be written.
    """
    import duckdb

    with _table(rows, columns) as connection, output.writing() as part:
        target = str(part).replace("'", "''")
        try:
            connection.execute(f"COPY {TABLE} TO '{target}' (FORMAT parquet)")
        except duckdb.Error as error:
            reason = printable(str(error).partition("\n")[0])
            raise ArchiveError(f"{output.path} cannot be written: {reason}") from error


@contextmanager
def _table(rows: Sequence[Row], columns: Sequence[str]) -> Iterator[Any]:
    """Yield a connection to a database that holds the rows."""
    import duckdb

    arrays = {name: _array(name, [row[name] for row in rows]) for name in columns}
    with duckdb.connect(":memory:") as connection:
        described = ", ".join(f'"{name}" {_type(name)}' for name in columns)
        connection.execute(f"CREATE TABLE {TABLE} ({described})")
        connection.register("arrays", arrays)
        connection.execute(f"INSERT INTO {TABLE} SELECT * FROM arrays")
        connection.unregister("arrays")
        yield connection


def _close_off(connection: Any) -> None:
    """Take everything but its table from the database, for good."""
    for setting in (
        "python_enable_replacements = false",
        f"memory_limit = '{MEMORY}'",
        "temp_directory = ''",
        "autoload_known_extensions = false",
        "autoinstall_known_extensions = false",
        "enable_external_access = false",
        "lock_configuration = true",
    ):
        connection.execute(f"SET {setting}")


def _type(name: str) -> str:
    if name in _INTEGERS:
        return "BIGINT"
    if name in _REALS:
        return "DOUBLE"
    return "BOOLEAN" if name == "converged" else "VARCHAR"


def _array(name: str, values: Sequence[Any]) -> npt.NDArray[Any]:
    if name in _REALS:
        # NaN is no number that SQL could average.
        return np.ma.masked_invalid(np.array([np.nan if value is None else value for value in values], dtype="f8"))
    if name in _INTEGERS:
        return np.array(values, dtype="i8")
    if name == "converged":
        return np.array(values, dtype=bool)
    return np.array([None if value is None else str(value) for value in values], dtype=object)


def _distinct(names: Sequence[str]) -> list[str]:
    """Give columns of the same name different ones, so that none is lost."""
    found: list[str] = []
    for name in names:
        unique, number = name, 1
        while unique in found:
            number += 1
            unique = f"{name}_{number}"
        found.append(unique)
    return found
