"""Data of a report's table of named input units, such as the columns of a table."""

from __future__ import annotations

from typing import Any

from ...archive.unit_means import unit_means
from ...text import printable
from ..plots.columns import ignored_at
from ..run_view import RunView
from .data import numbers

#: Maximum number of units in a report; the archive holds all.
MOST_UNITS = 500


def units_data(view: RunView) -> dict[str, Any] | None:
    """Return the names of a run's units and their means by metric and layer.

    Returns None if the units have no names, no metric has maps, or there are more than ``MOST_UNITS`` units.
    """
    view = view.rows()
    names = view.unit_names
    mapped = [metric.name for metric in view.metrics if metric.has_map]
    if names is None or not mapped or len(names) > MOST_UNITS:
        return None
    return {"names": [printable(name) for name in names], "metrics": {name: _metric(view, name) for name in mapped}}


def _metric(view: RunView, metric: str) -> dict[str, Any]:
    values = view.values(metric)
    means = [unit_means(view, metric, values, layer) for layer in range(view.shape[0])]
    return {
        "base": ignored_at(view, metric),
        "mean": [numbers(each.value) for each in means],
        "stderr": [numbers(each.stderr) for each in means],
        "proven": [each.proven == each.samples for each in means],
    }
