"""The table of :func:`onnxinfo.query` in DuckDB: conditions, order, groups, SQL and Parquet."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ArchiveError, UsageError
from ..outputs import Output
from ..text import printable

Table = Mapping[str, Sequence[Any]]

#: Name of the only table.
TABLE = "results"
_INTEGERS = ("layer_index", "depth", "sample", "unit", "n", "n_converged", "n_missing", "n_excluded")
_REALS = ("value", "stderr", "gap")
MEMORY = "2GB"
# Cannot collide with the name of a column.
_POSITION = '"position of the row"'
#: Determines a column's SQL type from its name and values.
TypeOf = Callable[[str, Sequence[Any]], str]


def within(minimum: float | None, maximum: float | None) -> str:
    """Return the condition that a value lies within bounds, inclusive; None is open."""
    parts = [f"value >= {_literal(minimum)}"] if minimum is not None else []
    parts += [f"value <= {_literal(maximum)}"] if maximum is not None else []
    return " AND ".join(parts)


def find_rows(table: Table, where: str, order: str | None = None, most: int | None = None) -> list[int]:
    """Return the sorted positions of the rows that satisfy a condition.

    Parameters
    ----------
    table
        The columns that condition and order use. NaN and infinity are NULL.
    where, order
        SQL; NULL is sorted last, and the sort is stable.
    most
        Maximum number of rows.
    """
    first = f"{order} NULLS LAST, " if order else ""
    limit = "" if most is None else f" LIMIT {int(most)}"
    with _database(_numbered(table), _inferred) as connection:
        statement = f"SELECT {_POSITION} FROM {TABLE} WHERE {where} ORDER BY {first}{_POSITION}{limit}"
        positions: list[int] = connection.execute(statement).fetchnumpy()[_POSITION.strip('"')].tolist()
        return positions


def find_groups(
    table: Table, keys: Sequence[str], expressions: Mapping[str, str], kept: str = "true"
) -> dict[str, list[Any]]:
    """Return the groups of rows with equal keys, in order of their first rows.

    Parameters
    ----------
    table
        The keys, ``value`` (NULL where it is NaN or infinite) and ``converged``.
    keys
        Names of columns.
    expressions
        SQL of aggregates over the finite values, by name.
    kept
        Condition on ``value`` for a row to be counted; rows without a value always are.

    Returns
    -------
    dict of list
        The expressions, ``members`` (positions of the counted rows), ``n`` (their number), ``n_converged``,
        ``n_missing`` (without a finite value) and ``n_excluded`` (rows that are not counted).
    """
    named = {f"key_{i}": table[key] for i, key in enumerate(keys)}
    columns = _numbered(named | {"value": table["value"], "converged": table["converged"]})
    aggregates = ", ".join(f'{sql} FILTER (kept) AS "{name}"' for name, sql in expressions.items() if name != "mean")
    statement = f"""
        SELECT {aggregates + "," if aggregates else ""}
            list({_POSITION} ORDER BY {_POSITION}) FILTER (kept) AS members,
            count(*) FILTER (kept) AS n,
            count(*) FILTER (kept AND value IS NOT NULL AND converged) AS n_converged,
            count(*) FILTER (kept AND value IS NULL) AS n_missing,
            count(*) FILTER (NOT kept) AS n_excluded
        FROM (SELECT *, coalesce({kept}, true) AS kept FROM {TABLE})
        GROUP BY {", ".join(named)} HAVING n > 0 ORDER BY min({_POSITION}) FILTER (kept)
    """
    with _database(columns, _inferred) as connection:
        try:
            return _fetched(connection.execute(statement))
        except _failure() as error:
            raise UsageError(f"the values cannot be aggregated: {_reason(error)}") from None


def select(table: Table, statement: str) -> dict[str, list[Any]]:
    """Return the result of a SELECT from the table of :func:`onnxinfo.query`.

    DuckDB runs in memory and sees only the table ``results``: the statement cannot access files, network, extensions
    or settings.

    Parameters
    ----------
    table
        The table.
    statement
        One SELECT of DuckDB's SQL.

    Raises
    ------
    UsageError
        The statement is not one SELECT, or fails.
    """
    import duckdb

    with _database(table, _declared) as connection:
        try:
            parsed = connection.extract_statements(statement)
            if len(parsed) != 1 or parsed[0].type != duckdb.StatementType.SELECT:
                raise UsageError(f"sql takes one SELECT over the table '{TABLE}', got {printable(statement)!r}")
            return _fetched(connection.execute(parsed[0]))
        except duckdb.Error as error:
            raise UsageError(f"SQL: {_reason(error)}; the table '{TABLE}' has the columns {', '.join(table)}") from None


def write_parquet(table: Table, output: Output) -> None:
    """Write the table of :func:`onnxinfo.query` to a Parquet file.

    Raises
    ------
    ArchiveError
        The file cannot be written.
    """
    with _database(table, _declared, writes=True) as connection, output.writing() as part:
        target = str(part).replace("'", "''")
        try:
            connection.execute(f"COPY {TABLE} TO '{target}' (FORMAT parquet)")
        except _failure() as error:
            raise ArchiveError(f"{output.path} cannot be written: {_reason(error)}") from error


@contextmanager
def _database(table: Table, type_of: TypeOf, *, writes: bool = False) -> Iterator[Any]:
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


def _declared(name: str, values: Sequence[Any]) -> str:
    """Return the fixed type of a known column in SQL and Parquet, independent of its values."""
    if name in _INTEGERS:
        return "BIGINT"
    if name in _REALS:
        return "DOUBLE"
    return "BOOLEAN" if name == "converged" else _inferred(name, values) if name not in _TEXTS else "VARCHAR"


_TEXTS = ("archive", "run", "model", "layer", "op", "sample_name", "label", "metric", "mark")


def _inferred(name: str, values: Sequence[Any]) -> str:
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


def _numbered(table: Table) -> Table:
    return {**table, _POSITION.strip('"'): range(len(next(iter(table.values()))))}


def _fetched(result: Any) -> dict[str, list[Any]]:
    names = _distinct([column[0] for column in result.description or ()])
    rows = result.fetchall()
    return {name: [row[i] for row in rows] for i, name in enumerate(names)}


def _distinct(names: Sequence[str]) -> list[str]:
    """Rename duplicate columns, so that none is lost."""
    found: list[str] = []
    for name in names:
        unique, number = name, 1
        while unique in found:
            number += 1
            unique = f"{name}_{number}"
        found.append(unique)
    return found


def quoted_name(name: str) -> str:
    """Return a column's name quoted for SQL."""
    return '"' + name.replace('"', '""') + '"'


def _literal(number: float) -> str:
    return f"'{float(number)!r}'::DOUBLE"


def _failure() -> type[Exception]:
    import duckdb

    failure: type[Exception] = duckdb.Error
    return failure


def _reason(error: Exception) -> str:
    return printable(str(error).partition("\n")[0])
