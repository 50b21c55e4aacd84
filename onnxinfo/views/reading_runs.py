"""Read from runs what plots need before they draw."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from ..archive.format import Metric
from ..errors import UsageError
from ..text import printable
from .comparable import check_comparable, is_apart
from .floor import linear_floor, relative_alpha
from .run_values import RunValues
from .run_view import RunView
from .selection import Selection


def run_values(view: RunView, metric: str) -> RunValues:
    """Read a metric of a run; its layers are sorted by depth.

    Layers without finished cells are omitted.
    """
    values = view.values(metric)
    depths = np.array([row.depth for row in view.layers])
    order = [i for i in np.argsort(depths, kind="stable") if values["done"][i].any()]
    return RunValues(
        name=printable(view.name),
        model=str(view.run.provenance.get("model_name", "")),
        layers=tuple(view.layers[i] for i in order),
        metric=view.run.metric(metric),
        # Indexing copies all numbers, which most runs need not: their layers are in order and none is left out.
        values=values if order == [*range(len(depths))] else {name: data[order] for name, data in values.items()},
        recipe=dict(view.run.recipe),
        provenance=dict(view.run.provenance),
        deepest=max((row.depth for row in view.run.layers), default=0),
    )


def read_runs(selection: Selection, metric: str) -> list[RunValues]:
    """Read a metric of all selected runs that have it; named runs keep the given order.

    Runs of the same name in several archives are named with their archive, so that they are told apart.

    Raises
    ------
    UsageError
        Part of the selection does not exist, none of it is finished, or the runs are not comparable.
    """
    titles, ordered = selection.titles(), selection.runs
    found: list[tuple[int, RunValues]] = []
    for view, source in replace(selection, metrics=(metric,)).views():
        values = replace(run_values(view, metric), name=titles[source, view.name])
        if values.layers:
            found.append((ordered.index(view.name) if view.name in ordered else len(ordered), values))
    if not found:
        raise nothing_finished(metric)
    check_comparable([values for _, values in found])
    return [values for _, values in sorted(found, key=lambda each: each[0])]


def nothing_finished(metric: str = "") -> UsageError:
    """Return the error for a plot without anything to draw; no name: of all metrics of the runs."""
    named = f"metric '{printable(metric)}'" if metric else "any metric"
    return UsageError(f"no cell of {named} is finished; there is nothing to draw")


def check_values(runs: Iterable[RunValues]) -> None:
    """Refuse to draw a metric that no finished cell has a value of: its axes would be empty.

    Raises
    ------
    UsageError
        There is no value.
    """
    runs = [*runs]
    if not any(run.present.any() for run in runs):
        name = printable(runs[0].metric.name)
        raise UsageError(f"no finished cell of metric '{name}' has a value; there is nothing to draw")


def floor_of(run: RunValues) -> float | None:
    """Return the SID of a linear layer that uses all units alike, the reference of a run's values; None without one."""
    alpha = relative_alpha(run.recipe)
    if run.metric.name != "sid" or alpha is None or all(is_apart(run, row.name) for row in run.layers):
        return None
    return linear_floor(alpha)


#: Entropies of input units that a run may hold without maps.
_ENTROPIES = ("sid", "ru")


def is_per_unit(metric: Metric) -> bool:
    """Whether a metric is an entropy of input units, in nats per unit."""
    return metric.units == "nats" and (metric.has_map or metric.name in _ENTROPIES)


def metric_label(metric: Metric) -> str:
    """Return the axis label of a metric, with its unit."""
    short = metric.name.upper() if len(metric.name) <= 3 else metric.name
    if is_per_unit(metric):
        return f"{short}, nats per input unit"
    units = "" if metric.units in ("", "1") else f", {metric.units}"
    return f"{short}{units}" if len(metric.long_name) > 60 or not metric.long_name else f"{metric.long_name}{units}"


def natural(name: str) -> list[tuple[int, int | str]]:
    """Return a sort key under which ``epoch2`` comes before ``epoch10``."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", name) if part]
