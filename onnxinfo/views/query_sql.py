"""The table of :func:`onnxinfo.query` in DuckDB: conditions, order, groups, SQL and Parquet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..archive.sql_table import (
    TABLE,
    Table,
    copy_to_parquet,
    database,
    declared,
    failure,
    inferred,
    quoted_name,
    reason,
)
from ..errors import ArchiveError, UsageError
from ..outputs import Output
from ..text import printable

__all__ = ["Table", "find_groups", "find_rows", "quoted_name", "select", "within", "write_parquet"]

# Cannot collide with the name of a column.
_POSITION = '"position of the row"'


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
    with database(_numbered(table), inferred) as connection:
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
    with database(columns, inferred) as connection:
        try:
            return _fetched(connection.execute(statement))
        except failure() as error:
            raise UsageError(f"the values cannot be aggregated: {reason(error)}") from None


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

    with database(table, declared) as connection:
        try:
            parsed = connection.extract_statements(statement)
            if len(parsed) != 1 or parsed[0].type != duckdb.StatementType.SELECT:
                raise UsageError(f"sql takes one SELECT over the table '{TABLE}', got {printable(statement)!r}")
            return _fetched(connection.execute(parsed[0]))
        except duckdb.Error as error:
            raise UsageError(f"SQL: {reason(error)}; the table '{TABLE}' has the columns {', '.join(table)}") from None


def write_parquet(table: Table, output: Output) -> None:
    """Write the table of :func:`onnxinfo.query` to a Parquet file.

    Raises
    ------
    ArchiveError
        The file cannot be written.
    """
    with output.writing() as part:
        try:
            copy_to_parquet(table, part)
        except ArchiveError as error:
            raise ArchiveError(str(error).replace(str(part), str(output.path))) from error


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


def _literal(number: float) -> str:
    return f"'{float(number)!r}'::DOUBLE"
