"""A metric over runs, such as epochs or pruning steps, one line per layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...archive.means import layer_summary
from ...errors import UsageError
from ..floor_line import reference
from ..plotting import figure_plot
from ..reading_runs import check_values, metric_label, natural, read_runs
from ..run_values import RunValues
from ..selection import Selection
from ..style import COLORS, FigureStyle, short_names
from ..wording import unproven_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..canvas import Canvas


@figure_plot("history")
def draw_history(canvas: Canvas, selection: Selection, style: FigureStyle) -> None:
    """Draw a metric over runs, such as epochs or pruning steps, with one line per layer.

    Named runs keep the given order; otherwise they are sorted by name, with numbers in names sorted by value.
    """
    runs = read_runs(selection, selection.metrics[0])
    if len(runs) < 2:
        raise UsageError("a history is over several runs, and there is one; give more archives or runs")
    check_values(runs)
    if not selection.runs:
        runs.sort(key=lambda each: natural(each.name))
    rows = sorted((row for each in runs for row in each.layers), key=lambda row: (row.depth, row.index))
    names = list(dict.fromkeys(row.name for row in rows))
    canvas.set_height(style.width * 0.62)
    axes = canvas.panel()
    _lines(axes, runs, names)
    axes.set_xticks(range(len(runs)), short_names([each.name for each in runs], 24), rotation=40, ha="right")
    axes.set_xlabel("run")
    axes.set_ylabel(metric_label(runs[0].metric))
    axes.grid(axis="y")
    remark = unproven_text(each.values for each in runs)
    canvas.note("mean ± standard error over all samples")
    canvas.note(remark)
    reference(axes, runs, style)
    if style.width < 5:
        canvas.legend(title="layer, from the input", columns=3)
    else:
        canvas.legend(title="layer, from the input", side="right", columns=1 + len(names) // 25)
    canvas.alt = f"{metric_label(runs[0].metric)}, over {len(runs)} runs, one line for each of {len(names)} layers."


def _lines(axes: Axes, runs: list[RunValues], names: list[str]) -> None:
    from matplotlib import colormaps

    summaries = [layer_summary(each.values) for each in runs]
    at = [{row.name: i for i, row in enumerate(each.layers)} for each in runs]
    shades = colormaps["viridis"](np.linspace(0, 0.92, max(len(names), 2)))
    for number, (name, short) in enumerate(zip(names, short_names(names, 22), strict=True)):
        shown = [i for i, positions in enumerate(at) if name in positions]
        middle = np.array([summaries[i]["value"][at[i][name]] for i in shown])
        error = np.array([summaries[i]["stderr"][at[i][name]] for i in shown])
        color = COLORS[number] if len(names) <= len(COLORS) else shades[number]
        axes.plot(shown, middle, "-" if number % 2 == 0 else "--", marker="o", color=color, label=short)
        if len(shown) == 1:
            # A band of one run has no width.
            axes.errorbar(shown, middle, yerr=error, color=color, capsize=3)
        else:
            axes.fill_between(shown, middle - error, middle + error, color=color, alpha=0.2, linewidth=0)
