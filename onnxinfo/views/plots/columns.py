"""Bar chart of the columns of a table, showing how much of each column the layers use."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ...archive.means import select_part
from ...archive.unit_means import UnitMeans, unit_count, unit_means
from ...errors import UsageError
from ...text import printable, shorten
from ..panels import grid_behind, run_style
from ..plotting import figure_plot
from ..reading_runs import metric_label, nothing_finished
from ..run_view import RunView
from ..selection import Selection
from ..style import FigureStyle, evenly, short_names
from ..wording import unproven_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..canvas import Canvas

_MOST_LAYERS = 5
#: Maximum number of columns drawn; those with the longest bars are kept.
_MOST_COLUMNS = 40
#: Hatches of the bars, which distinguish layers without color.
_HATCHES = ("", "///", "...", "xxx", "---")


@figure_plot("columns", maps=True)
def draw_columns(canvas: Canvas, selection: Selection, style: FigureStyle) -> None:
    """Draw one bar per column and layer: the metric's mean over samples, with its standard error.

    SID's bars start at its largest possible value, at which the layer ignores the column; a longer bar means that the
    layer uses more of the column. Hollow bars contain unproven samples. Columns without names are numbered. If noise
    was added to several inputs, the columns are those of inputs with at most one axis.

    Raises
    ------
    UsageError
        The selection is not a single run, the samples do not have exactly one axis, the metric has no maps, or no
        sample is finished.
    """
    with selection.only_view("columns are of one run") as whole:
        view = whole.rows()
        metric = selection.metrics[0]
        values = view.values(metric)
        if not values["done"].any():
            raise nothing_finished(metric)
        if not view.metrics[0].has_map:
            raise UsageError(f"metric '{metric}' has no values of single units; choose another one")
        layers = evenly(view.shape[0], _MOST_LAYERS)
        means = [unit_means(view, metric, values, layer) for layer in layers]
        base = ignored_at(view, metric)
        shown = _longest([each.value for each in means], base, unit_count(view))
        _draw(canvas, view, (layers, means), (base, shown), style)
        remark = unproven_text([select_part(values, layers, range(view.shape[1]))])
        grids = [printable(part.name) for part in whole.parts if part not in view.parts]
        maps = f"not shown: {', '.join(grids)} (draw maps)" if grids else ""
        skipped = "" if len(shown) == unit_count(view) else f"the {len(shown)} longest of {unit_count(view)} columns"
        for text in (skipped, maps, remark):
            canvas.note(text)
        canvas.alt = (
            f"{metric_label(view.metrics[0])}, of {len(shown)} columns of the input in run {printable(view.name)}: "
            f"a bar for each of {len(layers)} layers."
        )


def ignored_at(view: RunView, metric: str) -> float:
    """Return the value at which bars start: for SID its largest value, which means an ignored unit; else 0."""
    largest = view.run.recipe.get("cap")
    if metric != "sid" or not isinstance(largest, int | float) or largest <= 0:
        return 0.0
    return math.log(largest) + 0.5 * math.log(2 * math.pi * math.e)


def _longest(values: list[npt.NDArray[np.float64]], base: float, count: int) -> list[int]:
    """Positions of the columns with the longest bars, in the order of the table."""
    lengths = np.nan_to_num(np.abs(np.array(values) - base)).max(axis=0)
    return sorted(np.argsort(-lengths, kind="stable")[: min(count, _MOST_COLUMNS)].tolist())


def _draw(
    canvas: Canvas,
    view: RunView,
    drawn: tuple[list[int], list[UnitMeans]],
    placed: tuple[float, list[int]],
    style: FigureStyle,
) -> None:
    (layers, means), (base, shown) = drawn, placed
    line = style.font * 1.25 / 72
    canvas.set_height(max(2.2, 1.3 + len(shown) * max(1.0, 0.6 * len(layers)) * line))
    axes = canvas.panel()
    names = view.unit_names or [str(unit) for unit in range(unit_count(view))]
    texts = short_names([view.layers[layer].name for layer in layers], 28)
    thick = 0.8 / len(layers)
    for number, (each, text) in enumerate(zip(means, texts, strict=True)):
        at = np.arange(len(shown), dtype=np.float64) + (number - (len(layers) - 1) / 2) * thick
        _bars(axes, each, shown, (at, thick), (base, number, text), style)
    axes.set_yticks(range(len(shown)), [shorten(printable(names[unit]), 28) for unit in shown])
    axes.invert_yaxis()
    # Bars start at the line; sticky edges would place it at the edge of the axes.
    axes.use_sticky_edges = False
    axes.margins(x=0.03)
    axes.axvline(base, color=style.theme.ink, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.set_xlabel(metric_label(view.metrics[0]) + (f"; {base:.3f}: the layer ignores the column" if base else ""))
    grid_behind(axes, "x")
    title = "mean ± standard error over all samples"
    if any(each.proven < each.samples for each in means):
        title += "; hollow: some samples are unproven"
    canvas.legend(title=title, columns=2)


def _bars(
    axes: Axes,
    means: UnitMeans,
    shown: list[int],
    place: tuple[npt.NDArray[np.float64], float],
    look: tuple[float, int, str],
    style: FigureStyle,
) -> None:
    """Draw the bars of one layer.

    `place` holds their positions, (columns,), and thickness; `look` the value at which they start, the layer's number
    and its label.
    """
    (at, thick), (base, number, text) = place, look
    color = run_style(number)[0]
    proven = means.proven == means.samples
    value, error = means.value[shown], np.nan_to_num(means.stderr[shown])
    axes.barh(
        at,
        value - base,
        thick * 0.9,
        left=base,
        label=text,
        facecolor=color if proven else "none",
        edgecolor=style.theme.paper if proven else color,
        hatch=_HATCHES[number % len(_HATCHES)],
        linewidth=0 if proven and not number else 0.8,
    )
    axes.errorbar(value, at, xerr=error, fmt="none", ecolor=style.theme.ink, elinewidth=0.8, capsize=style.font * 0.2)
