"""Archives' numbers as one tidy table: filtered, sorted and summarised."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..archive.means import mean_and_stderr, one_per_sample
from ..archive.table import COLUMNS, run_table
from ..errors import UsageError
from .run_view import RunView, no_such
from .selection import Names, Paths, Selection, names_of

logger = logging.getLogger(__name__)

Row = dict[str, Any]

# Numbers that differ from row to row: nothing to group by.
_NO_KEYS = ("value", "stderr", "gap")


def query(
    path: Paths,
    *,
    run: Names = (),
    layers: Names = (),
    exclude: Names = (),
    ops: Names = (),
    metrics: Names = (),
    samples: Sequence[str | int] = (),
    labels: Sequence[str | int] = (),
    per: Literal["layer", "sample"] | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
    converged: bool = False,
    sort: str | None = None,
    descending: bool = False,
    top: int | None = None,
    group_by: Names = (),
    aggregate: Names = ("mean",),
    sql: str | None = None,
) -> list[Row]:
    """Return the finished numbers of one or several archives as rows.

    Parameters
    ----------
    path
        An archive, or several.
    run, metrics, ops
        Names of runs, metrics and operators; all by default.
    layers, exclude
        Patterns of :func:`onnxinfo.select_layers`; all layers of the archive by default.
    samples
        Positions, ranges of positions such as ``"0-9"``, or globs over the samples' names. With ``per="layer"`` the
        mean is over these.
    labels
        Labels of samples, likewise.
    per
        ``sample``: a row for every run, layer, sample and metric. ``layer``: the mean over all samples with a value,
        see :meth:`onnxinfo.archive.Archive.to_dataframe`. Default: ``layer``; with `group_by` ``sample``.
    minimum, maximum
        Keep rows whose value is within, ends included.
    converged
        Keep only rows that converged: with ``per="layer"`` the layers all of whose samples did.
    sort, descending
        Column to sort by; rows without a value come last. By default archive, run, layer, then sample order.
    top
        Keep that many rows: the first after sorting; without `sort`, those of largest value.
    group_by
        Columns: one row for every combination of theirs and for every metric, over all rows that have a value.
    aggregate
        With `group_by`: mean (with ``stderr``, its standard error over samples), median, std, min, max or quantiles
        such as ``q25``.
    sql
        A SELECT over this table, named ``results``, in DuckDB's SQL; applied to what the other arguments leave.

    Returns
    -------
    list of dict
        Keys run, model, layer, layer_index, op, depth; with ``per="sample"`` sample, sample_name and label; metric,
        value, stderr and gap (nats per input unit), mark, converged; with ``per="layer"`` n, n_converged and n_missing:
        see :meth:`onnxinfo.archive.Archive.to_dataframe`. With several archives ``archive`` comes first.

    Raises
    ------
    UsageError
        There is no such run, layer, operator, metric, sample, label or column; near misses are named.
    ArchiveError
        An archive cannot be read.

    Examples
    --------
    >>> onnxinfo.query("results.h5", layers=["*relu*"], metrics=["sid"], per="sample")  # doctest: +SKIP
    """
    selection = Selection.of(
        path, run=run, layers=layers, exclude=exclude, ops=ops, metrics=metrics, samples=samples, labels=labels
    )
    per = per or ("sample" if group_by else "layer")
    columns = table_columns(per, several=len(selection.paths) > 1)
    rows: list[Row] = []
    for view, source in selection.views():
        rows += _rows(view, source, per, columns)
    rows = _within(rows, minimum, maximum, converged)
    if sql is not None:
        from .query_sql import select

        rows = select(rows, columns, sql)
    if group_by:
        rows = group(rows, names_of(group_by), names_of(aggregate))
    return _ordered(rows, sort, descending, top)


def table_columns(per: Literal["layer", "sample"], *, several: bool = False) -> list[str]:
    """Return the keys of the rows of :func:`query`, in their order."""
    if per not in COLUMNS:
        raise UsageError(f"per={per!r}: 'layer' or 'sample' expected")
    head, *rest = COLUMNS[per]
    return [*(["archive"] if several else []), head, "model", *rest]


def _rows(view: RunView, source: Path, per: Literal["layer", "sample"], columns: Sequence[str]) -> list[Row]:
    table = run_table(view, per)
    count = len(table["run"])
    if per == "sample":
        # The view numbers its own samples.
        table["sample"] = [view.sample_positions[i] for i in table["sample"]]
    model = str({**view.run.recipe, **view.run.provenance}.get("model_name", ""))
    constants = {"model": [model] * count, "archive": [str(source)] * count}
    ordered = [table[name] if name in table else constants[name] for name in columns]
    return [dict(zip(columns, values, strict=True)) for values in zip(*ordered, strict=True)]


def _within(rows: list[Row], minimum: float | None, maximum: float | None, converged: bool) -> list[Row]:
    low, high = (-math.inf if minimum is None else minimum), (math.inf if maximum is None else maximum)
    if minimum is not None or maximum is not None:
        rows = [row for row in rows if low <= row["value"] <= high]
    return [row for row in rows if row["converged"]] if converged else rows


def _ordered(rows: list[Row], sort: str | None, descending: bool, top: int | None) -> list[Row]:
    if top is not None and top < 1:
        raise UsageError(f"top={top}: at least 1 expected")
    if sort is None and top is not None and rows and "value" in rows[0]:
        sort, descending = "value", True
    if sort is not None and rows:
        if sort not in rows[0]:
            raise UsageError(no_such("column", sort, [*rows[0]], "the table"))
        present = [row for row in rows if not _missing(row[sort])]
        present.sort(key=_sort_key(present, sort), reverse=descending)
        rows = present + [row for row in rows if _missing(row[sort])]
    return rows[:top]


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _sort_key(rows: Sequence[Row], column: str) -> Callable[[Row], Any]:
    numeric = all(isinstance(row[column], int | float) for row in rows)
    return lambda row: row[column] if numeric else str(row[column])


def group(rows: Sequence[Row], columns: Sequence[str], aggregate: Sequence[str]) -> list[Row]:
    """Return one row for each combination of the columns' values and metric, in the order they first appear.

    Parameters
    ----------
    rows
        Rows of :func:`query`.
    columns
        Keys of the rows.
    aggregate
        What is made of the values, whether they are proven or not: mean, median, std, min, max or quantiles such as
        ``q25``.

    Returns
    -------
    list of dict
        The columns, metric, one key for each aggregate, after ``mean`` its standard error over samples as ``stderr``
        (NaN where rows are no samples), n (rows), n_converged and n_missing (rows without a value).

    Raises
    ------
    UsageError
        A column or aggregate is unknown.
    """
    functions = {name: _aggregate(name) for name in aggregate}
    known = [name for name in (rows[0] if rows else ()) if name not in _NO_KEYS]
    for name in columns if rows else ():
        if name not in known:
            raise UsageError(no_such("column", name, known, "the table"))
    keys = [*columns, *(["metric"] if "metric" not in columns else [])]
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        if any(name not in row for name in ("metric", "value", "converged")):
            raise UsageError("grouping needs the columns metric, value and converged; use GROUP BY in the SQL instead")
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return [dict(zip(keys, key, strict=True)) | _summary(members, functions) for key, members in groups.items()]


def _summary(rows: Sequence[Row], functions: Mapping[str, Callable[[Any], Any]]) -> Row:
    """Return the aggregates of a group of rows, and how many rows they are over."""
    there = [row for row in rows if not _missing(row["value"]) and math.isfinite(row["value"])]
    values = np.array([row["value"] for row in there], dtype=np.float64)
    found: Row = {}
    for name, function in functions.items():
        found[name] = float(function(values)) if values.size else math.nan
        if name == "mean":
            found["stderr"] = _stderr(there)
    converged = sum(bool(row["converged"]) for row in there)
    return found | {"n": len(rows), "n_converged": converged, "n_missing": len(rows) - len(there)}


def _stderr(rows: Sequence[Row]) -> float:
    """Return the standard error over samples of the rows' mean; all rows of a sample are one draw."""
    if not all("sample_name" in row for row in rows):
        return math.nan
    values, errors = ([row.get(key, math.nan) for row in rows] for key in ("value", "stderr"))
    return float(mean_and_stderr(*one_per_sample(values, errors, [row["sample_name"] for row in rows]))[1])


def _aggregate(name: str) -> Callable[[Any], Any]:
    simple: dict[str, Callable[[Any], Any]] = {
        "mean": lambda values: mean_and_stderr(values)[0],
        "median": np.median,
        "std": lambda values: np.std(values, ddof=1) if values.size > 1 else math.nan,
        "min": np.min,
        "max": np.max,
    }
    if name in simple:
        return simple[name]
    percent = name[1:]
    if name[:1] == "q" and percent.replace(".", "", 1).isdigit() and 0 <= float(percent) <= 100:
        return lambda values: np.percentile(values, float(percent))
    raise UsageError(no_such("aggregate", name, [*simple, "q25", "q75"], "group_by"))
