"""The line that a metric is measured against: SID's floor, or zero for concentration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from .reading_runs import floor_of
from .run_values import RunValues
from .style import FigureStyle, number_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

Side = Literal["left", "right"]


def reference(axes: Axes, runs: Sequence[RunValues], style: FigureStyle, axis: Literal["x", "y"] = "y") -> None:
    """Show what the values of a metric along an axis are measured against: SID's floor, or zero for concentration.

    A floor far below the values would only compress them: an arrow at the edge of the axes points to it.
    """
    if runs[0].metric.name == "concentration":
        (axes.axhline if axis == "y" else axes.axvline)(0, **_dashed(style))
        return
    if (floor := draw_floor(axes, runs, style, axis)) is not None:
        name_floor(axes, floor, axis, style)


@dataclass(frozen=True)
class Floor:
    """SID's floor, as it is drawn.

    Attributes
    ----------
    text
        What it is.
    line
        Its line; None if it is beyond the axes.
    at
        The value.
    """

    text: str
    line: Line2D | None
    at: float


def draw_floor(
    axes: Axes, runs: Sequence[RunValues], style: FigureStyle, axis: Literal["x", "y"] = "y"
) -> Floor | None:
    """Draw the line of SID's floor, unless it is far from the values; return None if the runs have none in common."""
    floors = {floor_of(run) for run in runs} - {None}
    if len(floors) != 1:
        return None
    (floor,) = floors
    assert floor is not None
    limits = axes.get_ylim() if axis == "y" else axes.get_xlim()
    low, high = min(limits), max(limits)
    is_near = low - 0.6 * (high - low) < floor < high
    text = f"floor of a linear layer: {number_text(floor)}"
    if not is_near:
        return Floor(text, None, floor)
    line = (axes.axhline if axis == "y" else axes.axvline)(floor, **_dashed(style))
    if floor < low + 0.06 * (high - low):
        (axes.set_ylim if axis == "y" else axes.set_xlim)(floor - 0.06 * (high - floor), high)
    return Floor(text, line, floor)


def _dashed(style: FigureStyle) -> dict[str, Any]:
    return {"color": style.theme.muted, "linewidth": 0.8, "linestyle": (0, (4, 3)), "zorder": 1}


def name_floor(axes: Axes, floor: Floor, axis: Literal["x", "y"], style: FigureStyle) -> None:
    """Label the floor's line, or, where it is beyond the axes, their lower edge."""
    at, text = floor.at if floor.line is not None else None, floor.text
    shown = text if at is not None else f"{text} {'↓' if axis == 'y' else '←'}"
    across = axis == "y"
    side, above = ("right", True) if at is None or not across else _clearest(axes, at, text, style)
    at_end = (float(side == "right"), 0.0 if at is None else at) if across else (0.0 if at is None else at, 1.0)
    system: Any = "axes fraction" if at is None else ("axes fraction", "data") if across else ("data", "axes fraction")
    from matplotlib.patheffects import withStroke

    axes.annotate(
        shown,
        at_end,
        xycoords=system,
        xytext=(-2 if side == "right" else 2, 2.5 if above else -2.5) if across else (2.5, -2),
        textcoords="offset points",
        ha=side if across else "left",
        va="bottom" if across and above else "top",
        rotation=0 if across else 90,
        fontsize=style.font * 0.85,
        color=style.theme.muted,
        path_effects=[withStroke(linewidth=style.font * 0.35, foreground=style.theme.paper)],
        zorder=4,
    )


def _clearest(axes: Axes, at: float, text: str, style: FigureStyle) -> tuple[Side, bool]:
    """Return at which end of the floor's line, and whether above it, its label covers the least of what is drawn."""
    box = axes.get_window_extent()
    size = style.font * 0.85 / 72 * axes.figure.dpi
    width, height = len(text) * 0.58 * size, 1.5 * size
    level = float(axes.transData.transform((0, at))[1])
    points = _drawn(axes)
    places: list[tuple[Side, bool]] = [("right", True), ("right", False), ("left", True), ("left", False)]

    def covered(place: tuple[Side, bool]) -> int:
        side, above = place
        left = box.x1 - width if side == "right" else box.x0
        low = level if above else level - height
        x, y = points.T
        return int(((left <= x) & (x <= left + width) & (low <= y) & (y <= low + height)).sum())

    room = [place for place in places if place[1] or level - height > box.y0]
    return min(room, key=covered)


def _drawn(axes: Axes) -> npt.NDArray[np.float64]:
    """Return points on all lines of axes, (point, 2), in pixels."""
    found = [np.zeros((0, 2))]
    for line in axes.lines:
        if line.get_transform() == axes.transData and np.size(line.get_xdata()):
            steps = 1 if line.get_linestyle() == "None" else 40
            found.append(axes.transData.transform(line.get_path().interpolated(steps).vertices))
    points = np.concatenate(found)
    return points[np.isfinite(points).all(axis=1)]
