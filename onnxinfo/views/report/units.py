"""What a report shows of a run whose input units have names, such as the columns of a table."""

from __future__ import annotations

from typing import Any

from ...archive.unit_means import unit_means
from ...text import printable
from ..plots.columns import ignored_at
from ..run_view import RunView
from .data import numbers

#: Most units shown; the archive has all.
MOST_UNITS = 500


def units_data(view: RunView) -> dict[str, Any] | None:
    """Return names and means of a run's units by metric and layer; None where they have no names, or are too many."""
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
