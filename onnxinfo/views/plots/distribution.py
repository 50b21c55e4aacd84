"""Distribution over the samples of each layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..floor_line import Floor, draw_floor, name_floor, reference
from ..panels import grid_behind, run_style, spread_out
from ..places import Places, check_place, name_places, places_of, spacing
from ..plotting import Place, figure_plot
from ..reading_runs import check_values, metric_label, read_runs
from ..run_values import RunValues
from ..selection import Selection
from ..style import FigureStyle
from ..wording import unproven_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..canvas import Canvas

#: Number of samples above which a box is more informative than the points.
_MANY = 200


@figure_plot("distribution")
def draw_distribution(canvas: Canvas, selection: Selection, style: FigureStyle, *, x: Place = "index") -> None:
    """Draw the samples' values of each layer as points and a box: median, quartiles, 5th and 95th percentile.

    The box covers all samples that have a value; unproven points are hollow.
    """
    check_place(x)
    runs = read_runs(selection, selection.metrics[0])
    check_values(runs)
    canvas.set_height(style.width * 0.55 * len(runs) ** 0.7)
    grid = canvas.panels(len(runs), sharey=True)[:, 0]
    floors: list[Floor | None] = []
    for number, (axes, found) in enumerate(zip(grid, runs, strict=True)):
        (at,) = places_of([found], x)
        _boxes(axes, found, at, style)
        _points(axes, found, at, run_style(number)[0], style)
        grid_behind(axes)
        axes.set_ylabel(metric_label(found.metric))
        remark = unproven_text([found.values])
        axes.set_title(found.name + (f": {remark} (hollow)" if remark else ""), loc="left")
        floors.append(_floor(axes, found, style))
        name_places(axes, found, at, x, style)
    canvas.note("each point is a sample; boxes are quartiles, whiskers 5 % to 95 %")
    # In the panels, a name would cover points.
    for text in dict.fromkeys(floor.text for floor in floors if floor is not None and floor.line is not None):
        canvas.note(f"dashed: {text}")
    names = ", ".join(each.name for each in runs)
    canvas.alt = f"Distribution of {metric_label(runs[0].metric)}, over the samples of each layer in {names}."


def _floor(axes: Axes, found: RunValues, style: FigureStyle) -> Floor | None:
    """Draw what the values are measured against; return SID's floor, if there is one."""
    if found.metric.name == "concentration":
        reference(axes, [found], style)
        return None
    floor = draw_floor(axes, [found], style)
    if floor is not None and floor.line is None:
        name_floor(axes, floor, "y", style)
    return floor


def _boxes(axes: Axes, found: RunValues, at: Places, style: FigureStyle) -> None:
    columns = [row[there] for row, there in zip(found.values["value"], found.present, strict=True)]
    line = {"color": style.theme.ink, "linewidth": 0.9}
    axes.bxp(
        [_five_numbers(column) for column in columns],
        positions=at,
        widths=0.6 * spacing(at),
        showfliers=False,
        manage_ticks=False,
        medianprops=line | {"linewidth": 1.6},
        boxprops=line,
        whiskerprops=line,
        capprops=line,
        zorder=3,
    )


def _five_numbers(values: npt.NDArray[Any]) -> dict[str, float]:
    """Return quartiles and whiskers; matplotlib ends whiskers at a sample, and draws none for a few samples."""
    found = np.percentile(values, [5, 25, 50, 75, 95]) if values.size else [np.nan] * 5
    return dict(zip(("whislo", "q1", "med", "q3", "whishi"), map(float, found), strict=True))


def _points(axes: Axes, found: RunValues, at: Places, color: str, style: FigureStyle) -> None:
    values = found.values["value"]
    size = style.font * (0.35 if values.shape[1] < _MANY else 0.15)
    for filled in (True, False):
        layer, sample = np.nonzero(found.present & (found.unproven != filled))
        axes.plot(
            at[layer] + spread_out(values.shape[1])[sample] * spacing(at),
            values[layer, sample],
            "o",
            color=color,
            markersize=size,
            alpha=0.55 if filled else 1,
            markerfacecolor=color if filled else "none",
            markeredgewidth=0 if filled else 0.8,
            zorder=2,
        )
