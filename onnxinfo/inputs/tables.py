"""Tables in CSV and Parquet files.

DuckDB reads them in memory. It may open only the table: no other file, no network connection, no extension.
"""

from __future__ import annotations

import csv
import glob
import io
import os
import re
import tempfile
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..text import is_number, printable
from .rows import Array, listing

#: Maximum length of a line of a CSV file in bytes, which also limits its cells.
MAX_LINE_BYTES = 1 << 22
#: Maximum number of columns of a table.
MAX_COLUMNS = 10_000
_MEMORY = "1GB"
_BLOCK = 1 << 20
_DELIMITERS = ",;\t|"
#: Maximum number of characters of a name or cell in a message.
MOST_SHOWN = 40
_MOST_REASON = 240
# DuckDB's message about a row that has more or fewer values than the first line.
_WIDTH = re.compile(
    r"CSV Error on Line: (?P<line>\d+)$.*^Expected Number of Columns: (?P<expected>\d+) Found: (?P<found>\d+)",
    re.MULTILINE | re.DOTALL,
)
#: Prefixes of lines in DuckDB's messages that repeat the file's contents or give advice about SQL.
_LEFT_OUT = (
    "Possible",
    "*",
    "LINE",
    "Original Line",
    "^",
    "file",
    "delimiter",
    "quote",
    "escape",
    "new_line",
    "header",
    "skip",
)


class Table(ABC):
    """A table in a file.

    Attributes
    ----------
    path
        The file.
    columns
        Names of the columns, in order.
    types
        DuckDB's type of each column; ``VARCHAR`` for CSV, which is untyped.
    """

    path: Path
    columns: list[str]
    types: list[str]

    @property
    def title(self) -> str:
        """Name of the table in messages."""
        return printable(self.path)

    @property
    def remedy(self) -> str:
        """How to choose some columns, for messages."""
        return f"name them, {self.title}:NAME,NAME,..., in the model's order"

    @property
    def is_typed(self) -> bool:
        """Whether columns have types, which must fit the model's input."""
        return True

    @abstractmethod
    def source(self, path: str) -> str:
        """Return an SQL table expression for the file, with columns c0, c1, ...; `path` is an SQL literal."""

    def position(self, name: str) -> int:
        """Return the position of a column.

        Raises
        ------
        InputError
            No column, or more than one, has that name.
        """
        found = [position for position, column in enumerate(self.columns) if column == name]
        if len(found) == 1:
            return found[0]
        if found:
            raise InputError(f"{self.title} has {len(found)} columns named {shown(name)}; give each a name of its own")
        raise InputError(f"{self.title} has no column {shown(name)}; expected one of {listing(self.columns)}")

    def count(self) -> int:
        """Return the number of rows; raise InputError if the file cannot be read."""
        with self._selecting("count(*)", "") as result:
            return int(result.fetchone()[0])

    def longest(self, position: int, count: int) -> int:
        """Return the length in characters of the longest text in the first ``count`` rows of a column."""
        with self._selecting(f"max(length(CAST(c{position} AS VARCHAR)))", f"LIMIT {count}") as result:
            return int(result.fetchone()[0] or 0)

    def read(self, expressions: Sequence[str], count: int) -> list[Array]:
        """Evaluate SQL expressions on the first rows.

        Parameters
        ----------
        expressions
            SQL over the columns c0, c1, ...
        count
            Number of rows.

        Returns
        -------
        list of ndarray
            One array per expression, (count,), masked where the expression is NULL.

        Raises
        ------
        InputError
            The file cannot be read, or holds fewer rows.
        """
        if not expressions:
            return []
        named = ", ".join(f"{sql} AS e{i}" for i, sql in enumerate(expressions))
        with self._selecting(named, f"LIMIT {count}") as result:
            found = result.fetchnumpy()
        arrays = [found[f"e{i}"] for i in range(len(expressions))]
        if len(arrays[0]) < count:
            raise InputError(f"{self.title} declares {count} rows or more but holds {len(arrays[0])}; it is damaged")
        return arrays

    @contextmanager
    def _selecting(self, selected: str, limit: str) -> Iterator[Any]:
        """Yield the result of a query; `limit` is a LIMIT clause on the rows of the table, or empty."""
        import duckdb

        with _readable(self.path) as path, duckdb.connect(":memory:") as connection:
            close_off(connection, path)
            source = self.source(f"'{_escaped(path)}'")
            inner = f"(SELECT * FROM {source} {limit})"
            try:
                yield connection.execute(f"SELECT {selected} FROM {inner}")
            except duckdb.Error as error:
                raise InputError(f"{self.title} {_problem(error)}") from None


class CsvTable(Table):
    """A table in a CSV file: UTF-8, column names in the first line, separated by commas, semicolons, tabs or bars.

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    InputError
        The first line has no usable column names, there are too many columns, or a quote is not closed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with open(path, "rb") as file:
            head = file.readline(MAX_LINE_BYTES + 1)
        if len(head) > MAX_LINE_BYTES:
            raise InputError(f"{self.title} has a first line of more than {MAX_LINE_BYTES >> 20} MiB; expected names")
        try:
            text = head.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise InputError(f"{self.title} is not UTF-8 ({error.reason}); save it as UTF-8") from None
        if _count_quotes(path) % 2:
            # DuckDB would silently drop the text between the last quote and the end of the file.
            raise InputError(f"{self.title} has a quote that is not closed; double quotes within text, and close all")
        self._delimiter = max(_DELIMITERS, key=text.count)
        self.columns = _header(text, self._delimiter, self.title)
        self.types = ["VARCHAR"] * len(self.columns)

    @property
    def is_typed(self) -> bool:
        """CSV files hold text."""
        return False

    def source(self, path: str) -> str:
        """Return a call of ``read_csv`` with columns c0, c1, ...; `path` is an SQL literal."""
        columns = ", ".join(f"'c{i}': 'VARCHAR'" for i in range(len(self.columns)))
        options = {
            "auto_detect": "false",
            "header": "true",
            "delim": f"'{self._delimiter}'",
            "quote": "'\"'",
            "escape": "'\"'",
            "columns": f"{{{columns}}}",
            "max_line_size": str(MAX_LINE_BYTES),
            "parallel": "false",
        }
        return f"read_csv({path}, {', '.join(f'{name}={value}' for name, value in options.items())})"


class ParquetTable(Table):
    """A table in a Parquet file.

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    InputError
        The file cannot be read, or has too many columns.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.columns, self.types = path, [], []
        with self._described() as rows:
            self.columns, self.types = [row[0] for row in rows], [row[1] for row in rows]
        _check_width(self.columns, self.title)

    def source(self, path: str) -> str:
        """Return a call of ``read_parquet`` with columns c0, c1, ...; `path` is an SQL literal."""
        names = ", ".join(f"c{i}" for i in range(len(self.columns)))
        return f"read_parquet({path}, file_row_number=false, hive_partitioning=false)" + (
            f" AS columns({names})" if names else ""
        )

    @contextmanager
    def _described(self) -> Iterator[list[tuple[str, str]]]:
        import duckdb

        with _readable(self.path) as path, duckdb.connect(":memory:") as connection:
            close_off(connection, path)
            try:
                found = connection.execute(f"DESCRIBE SELECT * FROM {self.source(_literal(path))}").fetchall()
            except duckdb.Error as error:
                raise InputError(f"{self.title} {_problem(error)}") from None
            yield found


class FrameTable(Table):
    """A table in memory.

    Parameters
    ----------
    frame
        A DataFrame of pandas or polars.

    Raises
    ------
    InputError
        It has too many columns.
    """

    def __init__(self, frame: Any) -> None:
        import pandas

        self.path, self.columns = Path("table"), [str(name) for name in frame.columns]
        _check_width(self.columns, self.title)
        # Position by position, as names need not be unique; polars and pandas return columns alike.
        series = [frame.iloc[:, at] if hasattr(frame, "iloc") else frame[:, at] for at in range(len(self.columns))]
        self._frame = pandas.DataFrame({f"c{at}": each.to_numpy() for at, each in enumerate(series)})
        self.types = []
        with self._selecting("*", "LIMIT 0") as result:
            self.types = [str(column[1]) for column in result.description]

    @property
    def title(self) -> str:
        """Name of the table in messages."""
        return "the DataFrame"

    @property
    def remedy(self) -> str:
        """How to choose some columns, for messages."""
        return "select them, frame[[NAME, ...]], in the model's order"

    def source(self, path: str) -> str:
        """Return the name of the registered table."""
        return "given"

    @contextmanager
    def _selecting(self, selected: str, limit: str) -> Iterator[Any]:
        import duckdb

        with duckdb.connect(":memory:") as connection:
            try:
                connection.register("given", self._frame)
                yield connection.execute(f"SELECT {selected} FROM (SELECT * FROM given {limit})")
            except duckdb.Error as error:
                raise InputError(f"{self.title} {_problem(error)}") from None


def _header(text: str, delimiter: str, title: str) -> list[str]:
    """Parse the column names in the first line of a CSV file; InputError if there are none, or too many."""
    try:
        names = next(csv.reader(io.StringIO(text), delimiter=delimiter, strict=True), [])
    except csv.Error as error:
        raise InputError(f"{title} has a first line that is not CSV ({error}); expected the columns' names") from None
    names = [name.strip() for name in names]
    if not any(names):
        raise InputError(f"{title} is empty; expected the columns' names in the first line")
    _check_width(names, title)
    if all(is_number(name) for name in names):
        raise InputError(f"{title} begins with numbers, {listing(names[:3])}; expected names in the first line")
    return names


def _count_quotes(path: Path) -> int:
    with open(path, "rb") as file:
        return sum(block.count(b'"') for block in iter(lambda: file.read(_BLOCK), b""))


def _check_width(names: Sequence[str], title: str) -> None:
    if len(names) > MAX_COLUMNS:
        raise InputError(f"{title} has {len(names)} columns, expected at most {MAX_COLUMNS}; give an array instead")


@contextmanager
def _readable(path: Path) -> Iterator[str]:
    """Yield a path to the file that DuckDB does not interpret as a glob pattern; a temporary link if necessary."""
    full = os.path.realpath(path)
    if not glob.has_magic(full) and "{" not in full:
        yield full
        return
    with tempfile.TemporaryDirectory() as folder:
        link = os.path.join(os.path.realpath(folder), f"table{path.suffix}")
        os.symlink(full, link)
        yield link


def close_off(connection: Any, path: str) -> None:
    """Restrict a DuckDB connection to reading one file, permanently."""
    for setting in (
        f"allowed_paths = ['{_escaped(path)}']",
        f"memory_limit = '{_MEMORY}'",
        "threads = 1",
        "temp_directory = ''",
        "autoinstall_known_extensions = false",
        "autoload_known_extensions = false",
        "enable_external_access = false",
        "lock_configuration = true",
    ):
        connection.execute(f"SET {setting}")


def _escaped(text: str) -> str:
    return text.replace("'", "''")


def _literal(text: str) -> str:
    return f"'{_escaped(text)}'"


def _problem(error: Exception) -> str:
    """Return what DuckDB's message says about a table, as one line."""
    text = str(error)
    if width := _WIDTH.search(text):
        line, expected, found = width["line"], int(width["expected"]), int(width["found"])
        values = "1 value" if found == 1 else f"{found} values"
        return f"has {values} in line {line}, expected {expected}, as many as names in the first line; repair the line"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    kept = [line for line in lines if not line.startswith(_LEFT_OUT)]
    return f"cannot be read: {textwrap.shorten(printable('; '.join(kept[:3])), _MOST_REASON, placeholder=' …')}"


def shown(name: object) -> str:
    """Return a name or a cell quoted for a message, truncated to ``MOST_SHOWN`` characters."""
    text = printable(name)
    return f"'{text[:MOST_SHOWN]}…'" if len(text) > MOST_SHOWN else f"'{text}'"
