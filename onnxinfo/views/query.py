"""Query archives: their numbers as one tidy table, filtered, sorted and summarized."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Unpack

import numpy as np
import numpy.typing as npt

from ..archive.format import TOGETHER
from ..archive.table import COLUMNS, check_per, run_table
from ..arguments import Names, names_of
from ..errors import UsageError
from ..text import no_such
from .comparable import caution_of, together_caution
from .run_view import RunView
from .selection import Paths, Selected, Selection

logger = logging.getLogger(__name__)

Row = dict[str, Any]
#: A table as columns of equal length.
Table = dict[str, list[Any]]
Per = Literal["layer", "sample", "input", "unit"]
#: Field of a metric that is one number for each layer.
NORMALIZER = "normalizer"
#: Columns in which the samples of a layer differ.
_OF_SAMPLE = ("sample", "sample_name", "label")
#: Key of rows of runs that are not comparable.
CAUTION = "caution"


class QueryOptions(Selected, total=False):
    """Options of :func:`query`."""

    per: Per | None
    minimum: float | None
    maximum: float | None
    converged: bool
    sort: str | None
    descending: bool
    top: int | None
    group_by: Names
    aggregate: Names
    sql: str | None
    fields: Names


@dataclass(frozen=True)
class Arrangement:
    """Operations on the table of a selection; see :func:`query`."""

    per: Per | None = None
    minimum: float | None = None
    maximum: float | None = None
    converged: bool = False
    sort: str | None = None
    descending: bool = False
    top: int | None = None
    group_by: Names = ()
    aggregate: Names = ("mean",)
    sql: str | None = None

    def apply(self, table: Table) -> Table:
        """Apply the operations to a table: filter, then SQL, then group, then sort and limit."""
        if self.top is not None and self.top < 1:
            raise UsageError(f"top={self.top}: at least 1 expected")
        for name, bound in (("minimum", self.minimum), ("maximum", self.maximum)):
            if bound is not None and math.isnan(bound):
                raise UsageError(f"{name}={bound}: a number expected")
        keys = names_of(self.group_by)
        if not keys:
            table = self._filtered(table)
        if self.sql is not None:
            from .query_sql import select

            table = select(table, self.sql)
        return self._ordered(self._grouped(table, keys) if keys else table)

    @property
    def is_rowwise(self) -> bool:
        """Whether the operations act on each row by itself."""
        whole = (self.sort, self.top, self.sql)
        return all(option is None for option in whole) and not names_of(self.group_by)

    @property
    def takes_some_samples(self) -> bool:
        """Whether means are over some of the samples."""
        keys = {*names_of(self.group_by)}
        return bool(keys) and (self._bounds is not None or not keys.isdisjoint(_OF_SAMPLE))

    @property
    def _bounds(self) -> tuple[float | None, float | None] | None:
        return None if self.minimum is None and self.maximum is None else (self.minimum, self.maximum)

    def _filtered(self, table: Table) -> Table:
        """Keep the rows whose value is within the bounds and, if requested, those that converged."""
        from .query_sql import within

        conditions = [within(*self._bounds)] if self._bounds else []
        conditions += ["converged"] if self.converged else []
        return _picked(table, ("value", "converged"), " AND ".join(conditions)) if conditions else table

    def _grouped(self, table: Table, keys: Sequence[str]) -> Table:
        from .query_groups import group

        groups = group(table, keys, names_of(self.aggregate), self._bounds)
        return _picked(groups, ("n", "n_converged"), "n_converged = n") if self.converged else groups

    def _ordered(self, table: Table) -> Table:
        sort, descending = self.sort, self.descending
        if sort is None and self.top is not None and "value" in table:
            sort, descending = "value", True
        if sort is None:
            return {name: column[: self.top] for name, column in table.items()}
        if sort not in table:
            raise UsageError(no_such("column", sort, [*table], "the table"))
        from .query_sql import quoted_name

        direction = "DESC" if descending else "ASC"
        return _picked(table, (sort,), order=f"{quoted_name(sort)} {direction}", most=self.top)


def query(path: Paths, **options: Unpack[QueryOptions]) -> list[Row]:
    """Return the finished numbers of one or several archives as rows.

    Parameters
    ----------
    path
        An archive, or several: paths, results of :func:`onnxinfo.analyze`, opened archives or runs. Results and runs
        stand for themselves, archives for all of their runs.
    **options
        All are optional. A single name need not be in a list, and numbers are positions of layers.

        ``run``, ``metrics``, ``ops``: names of runs (or globs, ``"res*"``), metrics and operators; by default all.
        ``tag``: tags that runs must have, ``"KEY=VALUE"`` or ``"KEY"``; values may be globs.
        ``layers``, ``exclude``: patterns of :func:`onnxinfo.select_layers`; by default all layers of the archive.
        ``samples``: positions, ranges of positions such as ``"0-9"``, or globs on the samples' names. With
        ``per="layer"`` the mean is over these. A run that lacks one of the positions is left out; if all do, it is
        an error.
        ``labels``: labels of samples, in the same form.
        ``input``: names of perturbed inputs, of runs with noise on several: values are means over the units of these.
        ``per``: ``"sample"``, one row per run, layer, sample and metric; ``"layer"``, the mean over all samples
        with a value, see :meth:`onnxinfo.archive.Archive.to_dataframe`; ``"input"``, that mean for each perturbed
        input; ``"unit"``, of a run whose input has a single axis, that mean for each of its units, such as a table's
        columns. Default: ``"layer"``; with ``group_by`` ``"sample"``.
        ``fields``: with a row per layer or sample, further numbers of the metrics as columns: ``normalizer``, what a
        layer's budget is relative to (D, by default), or what an archive stores for each cell, such as ``ratio``,
        ``gain`` or ``tolerance``; for layers the mean over the samples. NaN for metrics without them.
        ``minimum``, ``maximum``: keep rows whose value lies within these bounds, inclusive.
        ``converged``: keep only rows that converged; for layers and groups, those whose samples all did. Averages
        include all samples in any case, because convergence depends on the values.
        ``sort``, ``descending``: column to sort by; rows without a value come last. Default: by archive, run, layer,
        then sample.
        ``top``: number of rows to keep: the first after sorting; without ``sort``, those with the largest values.
        ``group_by``: columns; one row per combination of their values and per metric, over all rows that have a
        value.
        ``aggregate``: with ``group_by``, any of mean (with ``stderr``, its standard error over samples), median, std,
        min, max or quantiles such as ``q25``.
        ``sql``: a SELECT from this table, named ``results``, in DuckDB's SQL; applied after ``minimum``, ``maximum``
        and ``converged`` (with ``group_by`` these act on its result), before rows are grouped and sorted.

    Returns
    -------
    list of dict
        Keys run, model, layer, layer_index, op, depth; with ``per="sample"`` sample, sample_name and label; metric,
        value, stderr and gap (nats per input unit), mark, converged; with ``per="layer"`` n, n_converged and n_missing;
        with ``per="input"`` these and input, without gap and mark; with ``per="unit"`` also unit (its position) and
        unit_name: see
        :meth:`onnxinfo.archive.Archive.to_dataframe`. With several archives, ``archive`` comes first.
        With ``group_by`` its columns, metric, the aggregates, n (rows), n_converged and n_missing (rows without a
        value), and with ``minimum`` or ``maximum`` n_excluded: the number of rows of the group whose value lies outside
        and which are not averaged. If the runs are not comparable, because a setting such as the preprocessing
        differs, or ``cka``, which is of all samples together, is shown of some, ``caution`` says so in every row, and
        there is a warning. Runs that differ in alpha alone and whose
        names say it, like those of :func:`onnxinfo.sweep`, get a caution only in rows without the column run.

    Raises
    ------
    UsageError
        A run, layer, operator, metric, sample, label or column does not exist; similar names are suggested.
    ArchiveError
        An archive cannot be read.

    Examples
    --------
    >>> rows = onnxinfo.query("result.h5", layers=["logits"], metrics=["sid"], per="sample")
    >>> [(row["sample_name"], row["layer"], row["converged"]) for row in rows]
    [('images[0]', 'logits', True), ('images[1]', 'logits', True)]
    """
    selection, arrangement, shown = _understood(options)
    table = arrangement.apply(_read_table(selection(path), shown))
    caution = _caution(selection(path), runs_are_named="run" in table, some_samples=arrangement.takes_some_samples)
    return [*_rows(table, caution)]


# Cells read at once if rows are not needed all at once.
_CELLS = 20_000


def stream(path: Paths, **options: Unpack[QueryOptions]) -> Iterator[Row]:
    """Yield the rows of :func:`query`; unless they are sorted, grouped or selected by SQL, some layers at a time.

    All numbers are verified before the first row, so that a reader of the rows gets all of them or none.
    """
    selection, arrangement, shown = _understood(options)
    # Rows by input or unit are few, and come from the maps.
    if not arrangement.is_rowwise or shown.per in ("input", "unit"):
        yield from query(path, **options)
        return
    empty, caution = _empty_table(selection(path), shown), _caution(selection(path))
    for view, _ in selection(path).views():
        for part in view.pieces(_CELLS):
            for metric in part.metrics:
                part.values(metric.name)
    for view, source in selection(path).views():
        for part in view.pieces(_CELLS):
            columns = _view_table(part, source, shown)
            yield from _rows(arrangement.apply({name: columns[name] for name in empty}), caution)


@dataclass(frozen=True)
class Shown:
    """What a row is about, and the further numbers of metrics that it has."""

    per: Per
    fields: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.fields and self.per not in ("layer", "sample"):
            raise UsageError(f"fields are of layers and samples, and per={self.per!r}: leave one of them out")

    @property
    def columns(self) -> list[str]:
        """Columns of a table from one archive, without the archive."""
        head, *rest = COLUMNS[self.per]
        return list(dict.fromkeys([head, "model", *rest, *self.fields]))


def _understood(options: QueryOptions) -> tuple[Callable[[Paths], Selection], Arrangement, Shown]:
    known = [*Selected.__annotations__, *Arrangement.__annotations__, "fields"]
    for name in options:
        if name not in known:
            raise TypeError(no_such("option", name, known, "query()"))
    selected: Any = {name: value for name, value in options.items() if name in Selected.__annotations__}
    arranged: Any = {name: value for name, value in options.items() if name not in (*selected, "fields")}
    arrangement = Arrangement(**arranged)
    per = arrangement.per or ("sample" if names_of(arrangement.group_by) else "layer")
    check_per(per)
    return (
        partial(Selection.of, **selected),
        arrangement,
        Shown(per, tuple(names_of(options.get("fields", ()), "fields"))),
    )


def _caution(selection: Selection, *, runs_are_named: bool = True, some_samples: bool = False) -> Row:
    """Return what is said in every row, of runs that are not comparable, or of metrics of all samples together."""
    text = caution_of(selection, selection.metrics, runs_are_named=runs_are_named)
    if some_samples and not text:
        text = _of_groups(selection)
    return {CAUTION: text} if text else {}


def _of_groups(selection: Selection) -> str:
    titles = selection.titles()
    for view, source in selection.views():
        for name in sorted(TOGETHER.intersection(metric.name for metric in view.metrics)):
            if view.shape[1]:
                text = together_caution(name, titles[source, view.name], view.run.shape[1], "a group of them")
                logger.warning("%s", text)
                return text
    return ""


def _rows(table: Table, caution: Row) -> Iterator[Row]:
    return (dict(zip(table, values, strict=True)) | caution for values in zip(*table.values(), strict=True))


def _empty_table(selection: Selection, shown: Shown) -> Table:
    if shown.fields:
        _check_fields(selection, shown.fields)
    return {name: [] for name in [*(["archive"] if len(selection.paths) > 1 else []), *shown.columns]}


def _check_fields(selection: Selection, fields: Sequence[str]) -> None:
    """Refuse fields that no selected metric has."""
    metrics = {metric.name: metric for view, _ in selection.views() for metric in view.metrics}
    known = list(dict.fromkeys([NORMALIZER, *(each.name for metric in metrics.values() for each in metric.fields)]))
    for name in fields:
        if name not in known:
            raise UsageError(no_such("field", name, known, f"the metrics {', '.join(metrics)}"))


def _read_table(selection: Selection, shown: Shown) -> Table:
    table = _empty_table(selection, shown)
    for view, source in selection.views():
        for name, column in _view_table(view, source, shown).items():
            if name in table:
                table[name] += column
    return table


def table_columns(per: Per, fields: Names = (), *, several: bool = False) -> list[str]:
    """Return the keys of the rows of :func:`query`, in order."""
    check_per(per)
    return [*(["archive"] if several else []), *Shown(per, tuple(names_of(fields))).columns]


def _view_table(view: RunView, source: Path, shown: Shown) -> Table:
    table = run_table(view, shown.per)
    count = len(table["run"])
    table |= {name: _field(view, table, name) for name in shown.fields if name not in table}
    if shown.per == "sample":
        # The view has its own numbering of samples.
        table["sample"] = [view.sample_positions[i] for i in table["sample"]]
    model = str({**view.run.recipe, **view.run.provenance}.get("model_name", ""))
    return table | {"model": [model] * count, "archive": [str(source)] * count}


def _field(view: RunView, table: Table, name: str) -> list[float]:
    """Return a field of the metrics for the rows of a table; for layers the mean over finished samples."""
    columns = {metric.name: _cells(view, metric.name, name) for metric in view.metrics}
    layers = {(row.index, row.name): position for position, row in enumerate(view.layers)}
    places = [layers[at] for at in zip(table["layer_index"], table["layer"], strict=True)]
    samples: Sequence[Any] = table.get("sample", [slice(None)] * len(places))
    cells = [columns[metric][at, sample] for metric, at, sample in zip(table["metric"], places, samples, strict=True)]
    return [float(np.mean(each[~np.isnan(each)])) if np.isfinite(each).any() else math.nan for each in cells]


def _cells(view: RunView, metric: str, field: str) -> npt.NDArray[np.float64]:
    values = view.values(metric)
    if field == NORMALIZER:
        whole = np.broadcast_to(view.run.normalizer(metric)[view.layer_positions, None], view.shape)
    else:
        whole = values.get(field, np.full(view.shape, np.nan))
    found: npt.NDArray[np.float64] = np.where(values["done"], whole, np.nan)
    return found


def _picked(
    table: Table, columns: Sequence[str], where: str = "true", order: str | None = None, most: int | None = None
) -> Table:
    """Select and sort rows of a table, with a condition and order on these columns given in SQL."""
    from .query_sql import find_rows

    for name in columns:
        if name not in table:
            raise UsageError(no_such("column", name, [*table], "the table"))
    at = find_rows({name: table[name] for name in columns}, where, order, most)
    return {name: [column[i] for i in at] for name, column in table.items()}
