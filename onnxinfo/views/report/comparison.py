"""Differences between the runs of a report, for its comparison."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from ...errors import UsageError
from ...text import printable
from ..comparable import same_samples
from ..compare import compare_selected, side_of
from ..gate import accuracy_row
from ..selection import Selection
from ..style import number_text

#: Maximum number of differences listed, largest first.
MOST_ROWS = 200


@dataclass(frozen=True)
class Comparison:
    """What a report says about differences between its runs.

    Attributes
    ----------
    rows
        Differences in accuracy, then the largest ones of layers, as text for a table: metric, layer, run, other, their
        values, difference and interval, and whether it lies beyond its errors.
    count, beyond
        Number of differences between layers, and of those beyond their errors.
    remark
        Why the runs are not compared, or how; empty if sample by sample.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    count: int = 0
    beyond: int = 0
    remark: str = ""


def comparison(selection: Selection) -> Comparison:
    """Compare the first run with each other one, sample by sample if they have the same samples.

    Parameters
    ----------
    selection
        At least two runs.
    """
    remark = ""
    try:
        found = compare_selected(selection)
    except UsageError as error:
        try:
            found = compare_selected(selection, unpaired=True)
            remark = "The runs have different samples: intervals are those of independent draws."
        except UsageError:
            return Comparison(remark=f"No comparison: {printable(error)}.")
    rows = [_judged(row) for row in found if math.isfinite(row["difference"])]
    shown = [{key: _text(value, ".1%") for key, value in row.items()} for row in _accuracies(selection)]
    shown += [{key: _text(value, ".4f") for key, value in row.items()} for row in rows[:MOST_ROWS]]
    return Comparison(shown, len(rows), sum(row["beyond"] for row in rows), remark)


def _judged(row: dict[str, Any]) -> dict[str, Any]:
    return row | {"beyond": row["low"] > 0 or row["high"] < 0}


def _accuracies(selection: Selection) -> list[dict[str, Any]]:
    """Return the differences in accuracy to the first run, of runs whose samples have labels."""
    titles = selection.titles()
    first, *others = [side_of(view, titles[source, view.name]) for view, source in selection.views()]
    labeled = [other for other in others if first.correct is not None and other.correct is not None]
    found = []
    for other in labeled:
        same = same_samples(first.measured, other.measured)
        if not same or other.measured.labels == first.measured.labels:
            found.append(accuracy_row(first, other, same, 0.95))
    return [_judged(row) | {"n_unproven": 0} for row in found if row["n"]]


def _text(value: Any, spec: str) -> Any:
    """Return a value as it is shown: numbers with a minus sign; a dash if unknown."""
    if isinstance(value, float):
        return number_text(value, spec) if math.isfinite(value) else "\N{EN DASH}"
    return printable(value) if isinstance(value, str) else value
