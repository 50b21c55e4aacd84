"""Compare runs: differences of each layer's metric, with confidence intervals."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Unpack

import numpy as np
import numpy.typing as npt

from ..archive.format import TOGETHER, LayerRow
from ..archive.means import Cells, Pairs, layer_summary, pair_up, select_cells, unproven
from ..errors import UsageError
from .comparable import (
    FREE_OF_UNITS,
    WITH_BUDGET,
    Measured,
    cautions_of_parts,
    check_normalizer,
    check_precision,
    differing_labels,
    differing_recipe,
    differing_unit,
    same_samples,
    tell_unfinished,
    unit_shift,
)
from .fractions import fraction_interval
from .reading_runs import run_values
from .run_values import RunValues
from .run_view import RunView
from .selection import Paths, Selected, Selection
from .wording import rounded_up

logger = logging.getLogger(__name__)

Match = Literal["layer", "depth"]
Row = dict[str, Any]

#: Metrics whose values are 0 or 1.
FRACTIONS = frozenset({"probe"})
COLUMNS = (
    *("metric", "layer", "depth", "run", "other", "value", "other_value"),
    *("difference", "low", "high", "n", "n_unproven", "n_missing", "n_lost", "paired"),
)


@dataclass(frozen=True)
class Side:
    """One side of a comparison: numbers by metric, and the settings that must be equal; its title is shown.

    ``correct`` tells which samples are classified as labeled, see :attr:`onnxinfo.Run.correct`. ``unfinished`` has the
    numbers of unfinished samples by metric and layer, for the layers that have some; those without a finished one are
    in no metric's numbers. ``labels`` are those of the samples, empty without.
    """

    run: str
    title: str
    metrics: dict[str, RunValues]
    measured: Measured
    correct: npt.NDArray[np.float64] | None = None
    layers: tuple[LayerRow, ...] = ()
    unfinished: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


def compare(
    path: Paths,
    *,
    by: Match = "layer",
    unpaired: bool = False,
    confidence: float = 0.95,
    **selected: Unpack[Selected],
) -> list[Row]:
    """Return layerwise differences between the first run and each other one, largest first.

    Parameters
    ----------
    path
        An archive, or several.
    by
        Matching of layers: ``layer``, by name; ``depth``, by relative depth: each layer of the first run with the
        other run's layer nearest to it as a fraction of the depth of the run's deepest compared layer. Analyze both
        runs up to the same part of the network, such as its output: an archive does not have the network's depth.
    unpaired
        Compare runs on different samples, as independent draws. By default this is refused. The standard deviations of
        their inputs then differ, too, and are the units of ``sid``, ``ru`` and ``concentration``: intervals of these
        are wider by as much as that can account for, at both ends.
    confidence
        Confidence level of the intervals.
    **selected
        What is compared, see :func:`onnxinfo.query`; by default everything that the runs share. ``run``: names of runs;
        the others are compared with the first. ``layers``, ``exclude``, ``ops``, ``metrics``, ``samples`` and
        ``labels``. ``input``: names of perturbed inputs, of runs with noise on several, or ``*`` for all: each row is
        about one of them instead of all together.

    Returns
    -------
    list of dict
        metric, layer, depth, run and other (names of the runs, with the archive if several have the same), value and
        other_value (means over all samples that have a value, in both runs if paired), difference (other minus run),
        low and high (its confidence interval over samples by Student's t, paired or Welch's; never narrower than the
        samples' own Monte Carlo errors; for fractions, such as ``probe``, exact limits), n (samples, the smaller
        number), n_unproven (pairs with an unproven value; unproven values of both runs if unpaired), n_missing (pairs,
        or samples of both runs, without a value), n_lost (samples that have a value in one run only; if unpaired, by
        how many more samples one run has no value) and paired. The interval is NaN with fewer than two samples, and the
        difference, too, with none. With ``by="depth"``, also other_layer; with ``input``, also input.

    Raises
    ------
    UsageError
        There are fewer than two runs, they are not comparable (the message says why), or they share no layer.
    ArchiveError
        An archive cannot be read.

    Examples
    --------
    >>> rows = onnxinfo.compare(["result.h5", "pruned.h5"])
    >>> sorted(row["layer"] for row in rows), rows[0]["paired"], rows[0]["low"] <= rows[0]["difference"]
    (['logits', 'relu'], True, True)
    """
    selection = Selection.of(path, **selected)
    rows = compare_selected(selection, by, unpaired, confidence)
    metrics, whole = {row["metric"] for row in rows}, dataclasses.replace(selection, inputs=())
    tell_unfinished(whole, metrics)
    cautions_of_parts(whole, metrics)
    return rows


def compare_selected(
    selection: Selection, by: Match = "layer", unpaired: bool = False, confidence: float = 0.95
) -> list[Row]:
    """Return differences between the selected runs; see :func:`compare`."""
    if not 0 < confidence < 1:
        raise UsageError(f"confidence={confidence}: a number between 0 and 1 expected, such as 0.95")
    if by not in ("layer", "depth"):
        raise UsageError(f"by={by!r}: 'layer' or 'depth' expected")
    rows: list[Row] = []
    for name, part in each_input(selection):
        found = _compared(part, by, unpaired, confidence)
        rows += [row | {"input": name} for row in found] if name else found
    return sorted(rows, key=lambda row: -abs(row["difference"]) if math.isfinite(row["difference"]) else math.inf)


def each_input(selection: Selection) -> Iterator[tuple[str, Selection]]:
    """Yield the names of the inputs to compare one by one, with what is selected; an empty one for all together."""
    names = selection.inputs
    if "*" in names:
        whole = dataclasses.replace(selection, inputs=())
        names = tuple(dict.fromkeys(part.name for view, _ in whole.views() for part in view.parts))
    for name in names or ("",):
        yield name, dataclasses.replace(selection, inputs=(name,) if name else ())


def _compared(selection: Selection, by: Match, unpaired: bool, confidence: float) -> list[Row]:
    first, *others = read_sides(selection)
    rows = []
    for other in others:
        paired = check_sides(first, other, unpaired)
        _tell_shift(first, other, paired)
        if by == "layer":
            _tell_operators(first, other)
        for name in first.metrics:
            if name in other.metrics:
                rows += differences(first, other, name, by, paired, confidence)
    if not rows:
        raise UsageError(
            f"run '{first.title}' shares no layer with {', '.join(repr(each.title) for each in others)}"
            + ("; match them by depth (by='depth')" if by == "layer" else "")
        )
    return rows


def _tell_shift(first: Side, other: Side, paired: bool) -> None:
    """Say that units differ, by which intervals are wider."""
    metrics = sorted(WITH_BUDGET & first.metrics.keys() & other.metrics.keys())
    if not paired and differing_unit(first.measured, other.measured, metrics):
        shift = max(unit_shift(first.measured, other.measured, name) for name in metrics)
        logger.warning(
            "the inputs of runs '%s' and '%s' have different standard deviations, the units of %s: intervals are wider "
            "by %s nats at both ends",
            *(first.title, other.title, ", ".join(metrics), rounded_up(shift)),
        )


def _tell_operators(first: Side, other: Side) -> None:
    """Warn of layers that have the same name, but are computed by other operators."""
    operators = {row.name: row.op for row in other.layers}
    found = [
        f"'{row.name}' ({row.op}, {operators[row.name]})"
        for row in first.layers
        if operators.get(row.name, row.op) != row.op
    ]
    if found:
        shown, more = ", ".join(found[:3]), f" and {len(found) - 3} more" if len(found) > 3 else ""
        logger.warning(
            "caution, layers of the same name are computed by different operators in runs '%s' and '%s': %s%s; they "
            "may not correspond, as a tensor before and after rounding: choose by `onnxinfo layers` of both models",
            *(first.title, other.title, shown, more),
        )


def read_sides(selection: Selection) -> list[Side]:
    """Read the selected runs, named ones in the given order.

    Raises
    ------
    UsageError
        There are fewer than two.
    """
    sides = []
    titles = selection.titles()
    for view, source in selection.views(least=2):
        title = titles[source, view.name]
        found = {each.name: run_values(view, each.name) for each in view.metrics}
        numbers = {name: each for name, each in found.items() if each.layers}
        left = {each.name: _unfinished(view, each.name) for each in view.metrics}
        side = dataclasses.replace(side_of(view, title), metrics=numbers, layers=view.layers, unfinished=left)
        sides.append(side)
    if len(sides) < 2:
        raise UsageError("a comparison is between runs, and there is one; give more archives or runs")
    wanted = selection.runs
    return sorted(sides, key=lambda each: wanted.index(each.run) if each.run in wanted else len(wanted))


def _unfinished(view: RunView, metric: str) -> dict[str, int]:
    """Numbers of unfinished samples by layer; of a metric of all samples together, also of those not chosen."""
    counts = view.lacking(metric) if metric in TOGETHER else (~view.values(metric)["done"]).sum(axis=1)
    return {row.name: int(count) for row, count in zip(view.layers, counts, strict=True) if count}


def side_of(view: RunView, title: str) -> Side:
    """Return a side of a comparison, without the numbers of its metrics."""
    return Side(
        view.name,
        title,
        {},
        Measured.of(view, title),
        None if view.run.correct is None else view.run.correct[view.sample_positions],
    )


def check_sides(first: Side, other: Side, unpaired: bool, metrics: Collection[str] | None = None) -> bool:
    """Check that the runs are comparable in some metrics, and return whether the samples can be paired.

    Parameters
    ----------
    first, other
        The runs.
    unpaired
        Whether their samples may differ.
    metrics
        Names of the metrics that are compared; None: all that both have.

    Raises
    ------
    UsageError
        They are not comparable.
    """
    pair = f"runs '{first.title}' and '{other.title}' cannot be compared"
    both = first.metrics.keys() & other.metrics.keys()
    shared = both if metrics is None else both & {*metrics}
    one, two = first.measured, other.measured
    if found := differing_recipe(one, two, shared) or differing_labels(one, two, shared):
        raise UsageError(f"{pair}: {found}; analyze both alike")
    for name in shared:
        check_precision([first.metrics[name], other.metrics[name]])
    same = same_samples(one, two)
    if not same and not unpaired:
        raise UsageError(f"{pair} sample by sample: their samples differ; use the same, or unpaired=True")
    # Between other samples, a shift of these is part of the interval.
    fixed = {each for each in shared if same or not math.isfinite(unit_shift(one, two, each))}
    fixed |= shared - WITH_BUDGET
    if found := differing_unit(one, two, fixed):
        named = ", ".join(sorted(fixed - FREE_OF_UNITS))
        raise UsageError(
            f"{pair}: {found}, to which {named} refers; analyze both on the same samples, or with a preset or std of "
            f"the preprocessing, or compare other metrics"
        )
    return same


def matched(one: RunValues, two: RunValues, by: Match) -> list[tuple[int, int]]:
    """Return pairs of positions of the layers to compare."""
    if by == "layer":
        at = {row.name: i for i, row in enumerate(two.layers)}
        return [(i, at[row.name]) for i, row in enumerate(one.layers) if row.name in at]
    depths = [np.array([row.depth for row in each.layers], dtype=np.float64) for each in (one, two)]
    relative = [depth / max(depth.max(), 1) for depth in depths]
    return [(i, int(abs(relative[1] - at).argmin())) for i, at in enumerate(relative[0])]


def differences(first: Side, other: Side, metric: str, by: Match, paired: bool, confidence: float) -> list[Row]:
    """Return the rows of a metric that two runs share; see :func:`compare`."""
    one, two = first.metrics[metric], other.metrics[metric]
    compare_cells = _paired if paired else _unpaired
    rows = []
    shift = 0.0 if paired else unit_shift(first.measured, other.measured, metric)
    for i, j in matched(one, two, by):
        check_normalizer(one, one.layers[i].name, two, two.layers[j].name)
        before, after = select_cells(one.values, i), select_cells(two.values, j)
        pairs, freedom = compare_cells(before, after)
        if not pairs.n + pairs.n_missing:
            continue
        if metric in FRACTIONS:
            low, high = fraction_interval(_events(before), _events(after), paired, confidence)
        else:
            low, high = _interval(pairs, freedom, shift, confidence)
        row = {
            "metric": metric,
            "layer": one.layers[i].name,
            "depth": one.layers[i].depth,
            "run": first.title,
            "other": other.title,
            "value": pairs.first,
            "other_value": pairs.second,
            "difference": pairs.difference,
            "low": low,
            "high": high,
            "n": pairs.n,
            "n_unproven": pairs.n_unproven,
            "n_missing": pairs.n_missing,
            "n_lost": pairs.n_lost,
            "paired": paired,
        }
        rows.append(row | ({"other_layer": two.layers[j].name} if by == "depth" else {}))
    return rows


def _events(cells: Cells) -> npt.NDArray[np.float64]:
    return np.where(cells["done"], cells["value"], np.nan)


def _interval(pairs: Pairs, freedom: float, shift: float, confidence: float) -> tuple[float, float]:
    """Return the interval by Student's t, wider by a shift at both ends."""
    # Imported here because most code that reads archives does not need it.
    from scipy.special import stdtrit

    half = float(stdtrit(freedom, (1 + confidence) / 2)) * pairs.stderr + shift if pairs.n > 1 else math.nan
    return pairs.difference - half, pairs.difference + half


def _paired(first: Cells, second: Cells) -> tuple[Pairs, float]:
    """Return the samplewise difference, and its degrees of freedom."""
    pairs = pair_up(first, second)
    return pairs, pairs.n - 1.0


def _unpaired(first: Cells, second: Cells) -> tuple[Pairs, float]:
    """Return the difference of independent draws, and Welch's degrees of freedom, which allow unequal variances."""
    sides = [layer_summary({name: data[None] for name, data in each.items()}) for each in (first, second)]
    means, stderrs = ([float(each[key][0]) for each in sides] for key in ("value", "stderr"))
    counts = [int(each["n"][0] - each["n_missing"][0]) for each in sides]
    parts = [stderr**2 for stderr in stderrs]
    below = sum(part**2 / (count - 1) for part, count in zip(parts, counts, strict=True) if count > 1)
    freedom = sum(parts) ** 2 / below if below else float(sum(counts) - 2)
    pairs = Pairs(
        first=means[0],
        second=means[1],
        difference=means[1] - means[0],
        stderr=math.sqrt(sum(parts)),
        n=min(counts),
        n_unproven=int(sum(unproven(each).sum() for each in (first, second))),
        n_missing=int(sum(each["n_missing"][0] for each in sides)),
        n_lost=abs(int(sides[0]["n_missing"][0] - sides[1]["n_missing"][0])),
    )
    return pairs, freedom
