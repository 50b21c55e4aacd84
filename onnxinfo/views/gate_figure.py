"""Figure of a verdict: differences with their intervals beside the thresholds of the conditions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .canvas import Canvas
from .panels import grid_behind
from .style import COLORS, short_names

Outcome = Mapping[str, Any]

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Color and marker by status, which also tells them apart in gray.
_LOOKS = {
    "passed": (COLORS[0], "o"),
    "undecided": (COLORS[1], "s"),
    "failed": (COLORS[5], "X"),
    "incomplete": (COLORS[3], "P"),
}
#: Text of the legend for thresholds.
_THRESHOLD = "threshold; beyond it, the condition fails"


def draw_verdict(
    canvas: Canvas, outcomes: Sequence[Outcome], *, labels: Mapping[str, str], title: str, note: str
) -> None:
    """Draw the outcomes of a gate, a panel for each quantity.

    Parameters
    ----------
    canvas
        What is drawn into.
    outcomes
        Attributes of each :class:`.gate.Outcome`, with ``beyond`` of its condition, in the order of drawing.
    labels
        Names of quantities with their units, by quantity; others are drawn by their name.
    title
        Title.
    note
        Sentence below the figure.
    """
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault(outcome["quantity"], []).append(outcome)
    several = len({each["other"] for each in outcomes}) > 1
    rows = [len({*map(_row, group)}) + 1.5 for group in groups.values()]
    canvas.set_height((sum(rows) * 1.6 + 4 * len(groups) + 3) * canvas.style.font / 72)
    panels = canvas.panels(len(groups), height_ratios=rows)[:, 0]
    for axes, (quantity, group) in zip(panels, groups.items(), strict=True):
        _panel(axes, group, several=several)
        axes.set_xlabel(f"difference in {labels.get(quantity, quantity)}")
    canvas.note(note)
    canvas.legend(columns=5)
    canvas.alt = f"Differences with intervals and thresholds of {len(outcomes)} comparisons. {title}"
    canvas.finish(title)


def _panel(axes: Axes, group: Sequence[Outcome], *, several: bool) -> None:
    # Outcomes of several conditions on one layer share its row.
    rows = list(dict.fromkeys(map(_row, group)))
    conditions = list(dict.fromkeys(each["condition"] for each in group))
    for each in group:
        above = conditions.index(each["condition"]) - (len(conditions) - 1) / 2
        place = rows.index(_row(each)) + 0.6 * above / len(conditions)
        if math.isfinite(each["difference"]):
            _interval(axes, each, place)
        axes.plot(each["threshold"], place, each["beyond"], color="0.4", markersize=5, label=_THRESHOLD)
    axes.axvline(0, color="0.5", linewidth=0.8, zorder=0)
    axes.set_yticks(range(len(rows)), short_names([_name(*row, several=several) for row in rows], 32))
    axes.set_ylim(len(rows) - 0.5, -0.5)
    grid_behind(axes, "x")


def _interval(axes: Axes, outcome: Outcome, place: float) -> None:
    value, (color, marker) = outcome["difference"], _LOOKS[outcome["status"]]
    # An interval may be unknown, and is not drawn then.
    around = [[end if math.isfinite(end) else 0.0] for end in (value - outcome["low"], outcome["high"] - value)]
    axes.errorbar(value, place, xerr=around, fmt=marker, color=color, capsize=3, label=outcome["status"])


def _row(outcome: Outcome) -> tuple[str, str, str]:
    return outcome["layer"], outcome["input"], outcome["other"]


def _name(layer: str, each_input: str, other: str, *, several: bool) -> str:
    parts = (layer or "whole network", each_input and f"input {each_input}", other if several else "")
    return ", ".join(part for part in parts if part)
