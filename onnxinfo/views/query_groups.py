"""Group the rows of :func:`onnxinfo.query`: one row per combination of some columns' values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..archive.means import mean_and_stderr, one_per_sample
from ..errors import UsageError
from ..text import no_such, quoted
from .query_sql import find_groups, within

Table = dict[str, list[Any]]
#: Lower and upper bound; None is open.
Bounds = tuple[float | None, float | None]

# Columns whose numbers differ from row to row cannot be grouped by.
_NO_KEYS = ("value", "stderr", "gap")
_NEEDED = ("metric", "value", "converged")
#: SQL of the aggregates over the values; the mean follows the rule of all tables, see :mod:`onnxinfo.archive.means`.
_AGGREGATES = {
    "median": "median(value)",
    "std": "stddev_samp(value)",
    "min": "min(value)",
    "max": "max(value)",
}


def group(table: Table, columns: Sequence[str], aggregate: Sequence[str], bounds: Bounds | None = None) -> Table:
    """Return one row per combination of the columns' values and metric, in order of first appearance.

    Parameters
    ----------
    table
        The table of :func:`onnxinfo.query`.
    columns
        Names of its columns.
    aggregate
        Aggregates of the values, proven or not: mean, median, std, min, max or quantiles such as ``q25``.
    bounds
        Values outside are excluded from the aggregates, and counted.

    Returns
    -------
    dict of list
        The columns, metric, one column per aggregate, after ``mean`` its standard error over samples as ``stderr`` (NaN
        if rows are not samples), n (rows), n_converged and n_missing (rows without a value). With bounds also
        n_excluded: rows whose value lies outside. These are counted nowhere else, and groups without other rows are
        omitted.

    Raises
    ------
    UsageError
        A column or aggregate is unknown.
    """
    expressions = {name: _expression(name) for name in aggregate}
    known = [name for name in table if name not in _NO_KEYS]
    for name in columns:
        if name not in known:
            raise UsageError(no_such("column", name, known, "the table"))
    if any(name not in table for name in _NEEDED):
        raise UsageError("grouping needs the columns metric, value and converged; use GROUP BY in the SQL instead")
    keys = [*columns, *(["metric"] if "metric" not in columns else [])]
    kept = "true" if bounds is None else within(*bounds)
    found = find_groups({name: table[name] for name in dict.fromkeys([*keys, *_NEEDED])}, keys, expressions, kept)
    # Use the keys from the table, not SQL's rendering of them.
    grouped: Table = {key: [table[key][members[0]] for members in found["members"]] for key in keys}
    for name in expressions:
        if name == "mean":
            grouped["mean"], grouped["stderr"] = _means(table, found["members"])
        else:
            grouped[name] = [math.nan if value is None else float(value) for value in found[name]]
    counts = ("n", "n_converged", "n_missing", *(["n_excluded"] if bounds is not None else []))
    return grouped | {name: found[name] for name in counts}


def _means(table: Table, groups: Sequence[Sequence[int]]) -> tuple[list[float], list[float]]:
    """Return the mean of each group of rows and its standard error over samples; all rows of a sample are one draw."""
    values, errors = (_numbers(table, name) for name in ("value", "stderr"))
    samples = table.get("sample_name")
    means, stderrs = [], []
    for members in groups:
        there = [i for i in members if math.isfinite(values[i])]
        means.append(float(mean_and_stderr(values[there])[0]))
        if samples is None:
            stderrs.append(math.nan)
            continue
        draws = one_per_sample(values[there], errors[there], [samples[i] for i in there])
        stderrs.append(float(mean_and_stderr(*draws)[1]))
    return means, stderrs


def _numbers(table: Table, name: str) -> npt.NDArray[np.float64]:
    if name not in table:
        return np.full(len(table["value"]), np.nan)
    try:
        return np.array([math.nan if value is None else value for value in table[name]], dtype=np.float64)
    except (TypeError, ValueError):
        raise UsageError(f"column '{name}' cannot be aggregated: numbers expected; select others in the SQL") from None


def _expression(name: str) -> str:
    """Return the SQL of an aggregate."""
    if name == "mean":
        return "avg(value)"
    if name in _AGGREGATES:
        return _AGGREGATES[name]
    percent = name[1:]
    if name[:1] == "q" and percent.replace(".", "", 1).isdigit() and 0 <= float(percent) <= 100:
        return f"quantile_cont(value, {float(percent) / 100!r})"
    known = ", ".join(["mean", *_AGGREGATES])
    raise UsageError(f"no aggregate {quoted(name)}; give {known} or a quantile from q0 to q100, such as q25")
