"""Archives' numbers as one tidy table: filtered, sorted and summarised."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..archive.means import mean_and_stderr, one_per_sample
from ..archive.reading import Run
from ..archive.reading import open as open_archive
from ..archive.table import COLUMNS, run_table
from ..errors import UsageError
from ..text import no_such
from .run_view import RunView, choose_layers, choose_samples

logger = logging.getLogger(__name__)

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
Names = str | Sequence[str]
Row = dict[str, Any]

# Numbers that differ from row to row: nothing to group by.
_NO_KEYS = ("value", "stderr", "gap")


@dataclass(frozen=True)
class Filter:
    """Which part of the archives a table is about. Empty means everything.

    Attributes
    ----------
    runs
        Names of runs.
    layers, exclude
        Patterns of :func:`onnxinfo.select_layers`.
    ops
        Operators, such as ``Conv``.
    metrics
        Names of metrics.
    samples
        Positions, ranges of positions such as ``0-9``, or globs over the samples' names.
    labels
        Labels of samples.
    """

    runs: Sequence[str] = ()
    layers: Sequence[str] = ()
    exclude: Sequence[str] = ()
    ops: Sequence[str] = ()
    metrics: Sequence[str] = ()
    samples: Sequence[str | int] = ()
    labels: Sequence[str | int] = ()


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
    paths = _paths(path)
    per = per or ("sample" if group_by else "layer")
    columns = table_columns(per, several=len(paths) > 1)
    rows: list[Row] = []
    views = select_views(
        paths, run=run, layers=layers, exclude=exclude, ops=ops, metrics=metrics, samples=samples, labels=labels
    )
    for view, source in views:
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


def select_runs(path: Paths, names: Sequence[str] = ()) -> Iterator[tuple[Run, Path]]:
    """Open archives one after the other and yield their runs, each with its archive's path.

    A run can be read until the next one is asked for.

    Raises
    ------
    UsageError
        No archive has a run of one of the names.
    """
    paths = _paths(path)
    if not paths:
        raise UsageError("no archive given; name at least one")
    _check_runs(paths, names)
    for path in map(Path, paths):
        with open_archive(path) as archive:
            for name in archive.runs:
                if not names or name in names:
                    yield archive[name], path


def _check_runs(paths: Sequence[str | os.PathLike[str]], names: Sequence[str]) -> None:
    if not names:
        return
    known: list[str] = []
    for path in paths:
        with open_archive(path) as archive:
            known += archive.runs
    for name in names:
        if name not in known:
            raise UsageError(no_such("run", name, known, ", ".join(map(str, paths))))


def _paths(given: Paths) -> list[str | os.PathLike[str]]:
    return [given] if isinstance(given, str | os.PathLike) else [*given]


def names_of(given: Names) -> list[str]:
    """Return the names given alone or as several."""
    return [given] if isinstance(given, str) else [*given]


def select_views(
    path: Paths,
    *,
    run: Names = (),
    layers: Names = (),
    exclude: Names = (),
    ops: Names = (),
    metrics: Names = (),
    samples: Sequence[str | int] = (),
    labels: Sequence[str | int] = (),
) -> Iterator[tuple[RunView, Path]]:
    """Yield what is wanted of each run with its archive's path; see :func:`query`.

    A view can be read until the next one is asked for. What some runs have and others lack is left out of these.

    Raises
    ------
    UsageError
        No run has something that was asked for.
    """
    wanted = Filter(
        runs=names_of(run),
        layers=names_of(layers),
        exclude=names_of(exclude),
        ops=names_of(ops),
        metrics=names_of(metrics),
        samples=samples,
        labels=labels,
    )
    failures: list[UsageError] = []
    found = 0
    for each, source in select_runs(path, wanted.runs):
        try:
            view = _view(each, wanted)
        except UsageError as error:
            failures.append(error)
            continue
        found += 1
        layers_found, samples_found = view.shape
        logger.info("read run %s of %s: %d layers, %d samples", view.name, source, layers_found, samples_found)
        yield view, source
    if failures and not found:
        raise failures[0]


def _view(run: Run, wanted: Filter) -> RunView:
    known = [metric.name for metric in run.metrics]
    for name in wanted.metrics:
        if name not in known:
            raise UsageError(no_such("metric", name, known, f"run '{run.name}'"))
    layers = choose_layers(run, wanted.layers, wanted.exclude)
    if wanted.ops:
        ops = {op.lower(): op for op in (row.op for row in run.layers)}
        for op in wanted.ops:
            if op.lower() not in ops:
                raise UsageError(no_such("operator", op, sorted(ops.values()), f"run '{run.name}'"))
        lower = [op.lower() for op in wanted.ops]
        layers = [i for i in layers if run.layers[i].op.lower() in lower]
    return RunView(run, layers, choose_samples(run, wanted.samples, wanted.labels), wanted.metrics)


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
