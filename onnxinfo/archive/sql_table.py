"""Tables in DuckDB, and Parquet files from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ArchiveError
from ..text import printable

Table = Mapping[str, Sequence[Any]]

#: Name of the only table.
TABLE = "results"
_INTEGERS = ("layer_index", "depth", "sample", "unit", "n", "n_converged", "n_missing", "n_excluded")
_REALS = ("value", "stderr", "gap")
MEMORY = "2GB"
#: Determines a column's SQL type from its name and values.
TypeOf = Callable[[str, Sequence[Any]], str]


def copy_to_parquet(table: Table, path: Path) -> None:
    """Write a table to a Parquet file.

    Raises
    ------
    ArchiveError
        The file cannot be written.
    """
    with database(table, declared, writes=True) as connection:
        target = str(path).replace("'", "''")
        try:
            connection.execute(f"COPY {TABLE} TO '{target}' (FORMAT parquet)")
        except failure() as error:
            raise ArchiveError(f"{path} cannot be written: {reason(error)}") from error


@contextmanager
def database(table: Table, type_of: TypeOf, *, writes: bool = False) -> Iterator[Any]:
    """Yield a connection to a database that holds the table; unless it writes, it has no access to anything else."""
    import duckdb

    types = {name: type_of(name, column) for name, column in table.items()}
    arrays = {f"c{i}": _array(types[name], column) for i, (name, column) in enumerate(table.items())}
    with duckdb.connect(":memory:") as connection:
        described = ", ".join(f"{quoted_name(name)} {kind}" for name, kind in types.items())
        connection.execute(f"CREATE TABLE {TABLE} ({described})")
        connection.register("arrays", arrays)
        connection.execute(f"INSERT INTO {TABLE} SELECT * FROM arrays")
        connection.unregister("arrays")
        if not writes:
            _close_off(connection)
        yield connection


def _close_off(connection: Any) -> None:
    """Lock the database, irrevocably, so that only its table is accessible."""
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


def declared(name: str, values: Sequence[Any]) -> str:
    """Return the fixed type of a known column in SQL and Parquet, independent of its values."""
    if name in _INTEGERS:
        return "BIGINT"
    if name in _REALS:
        return "DOUBLE"
    return "BOOLEAN" if name == "converged" else inferred(name, values) if name not in _TEXTS else "VARCHAR"


_TEXTS = ("archive", "run", "model", "layer", "op", "sample_name", "label", "metric", "mark")


def inferred(name: str, values: Sequence[Any]) -> str:
    """Infer the type of a column from its values: numbers are compared as numbers, everything else as text."""
    kinds = {type(value) for value in values if value is not None}
    if kinds == {bool}:
        return "BOOLEAN"
    if kinds and kinds <= {int, bool} and all(-(2**63) <= value < 2**63 for value in values if value is not None):
        return "BIGINT"
    return "DOUBLE" if kinds and kinds <= {int, float, bool, Decimal} else "VARCHAR"


def _array(kind: str, values: Sequence[Any]) -> npt.NDArray[Any]:
    if kind == "DOUBLE":
        # SQL cannot compare or average NaN.
        return np.ma.masked_invalid(np.array([math.nan if value is None else value for value in values], dtype="f8"))
    if kind == "VARCHAR":
        return np.array([None if value is None else str(value) for value in values], dtype=object)
    missing = [value is None for value in values]
    numbers = np.array([0 if value is None else value for value in values], dtype="i8" if kind == "BIGINT" else bool)
    return np.ma.masked_array(numbers, missing) if any(missing) else numbers


def quoted_name(name: str) -> str:
    """Return a column's name quoted for SQL."""
    return '"' + name.replace('"', '""') + '"'


def failure() -> type[Exception]:
    """Return the class of DuckDB's errors."""
    import duckdb

    failure: type[Exception] = duckdb.Error
    return failure


def reason(error: Exception) -> str:
    """Return the first line of an error."""
    return printable(str(error).partition("\n")[0])
