"""Order of the layers over runs, such as a sweep of alphas: lines that cross beyond their bands."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ...archive.means import mean_and_stderr
from ...errors import UsageError
from ..plotting import figure_plot
from ..ranking import order_of, sort_key
from ..reading_runs import metric_label, read_runs
from ..run_values import RunValues
from ..selection import Selection
from ..style import COLORS, FigureStyle, short_names
from ..wording import unproven_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..canvas import Canvas


@figure_plot("ranking", free=("alpha",))
def draw_ranking(canvas: Canvas, selection: Selection, style: FigureStyle) -> None:
    """Draw each layer's metric minus the mean over the layers, for runs in the order of their alphas, or names.

    What all layers of a run share, such as the effect of alpha itself, cancels, so that only their order is left.
    """
    runs = sorted(read_runs(selection, selection.metrics[0]), key=sort_key)
    runs = [dataclasses.replace(order_of(each, each.name).values, name=each.name) for each in runs]
    names = _shared(runs)
    canvas.set_height(style.width * 0.62)
    axes = canvas.panel()
    alphas = [each.recipe.get("alpha") for each in runs]
    _lines(axes, runs, names)
    if len(set(alphas)) == len(runs) and all(isinstance(each, float) for each in alphas):
        axes.set_xticks(range(len(runs)), [f"{each:g}" for each in alphas])
        axes.set_xlabel("alpha")
    else:
        axes.set_xticks(range(len(runs)), short_names([each.name for each in runs], 24), rotation=40, ha="right")
        axes.set_xlabel("run")
    axes.set_ylabel(f"{metric_label(runs[0].metric)},\nminus the mean of the layers")
    axes.grid(axis="y")
    canvas.note("mean ± standard error over all samples, of the difference from the layers' mean at each sample")
    canvas.note(unproven_text(each.values for each in runs))
    if style.width < 5:
        canvas.legend(title="layer, from the input", columns=3)
    else:
        canvas.legend(title="layer, from the input", side="right", columns=1 + len(names) // 25)
    canvas.alt = f"Order of {len(names)} layers by {metric_label(runs[0].metric)} in {len(runs)} runs."


def _shared(runs: list[RunValues]) -> list[str]:
    """Return the names of the layers that all runs have, in the first run's order."""
    if len(runs) < 2:
        raise UsageError("an order is compared between runs, and there is one; give more archives or runs")
    others = [{row.name for row in each.layers} for each in runs[1:]]
    names = [row.name for row in runs[0].layers if all(row.name in known for known in others)]
    if len(names) < 2:
        raise UsageError("the runs do not share two finished layers, so that there is no order to draw")
    return names


def _lines(axes: Axes, runs: list[RunValues], names: list[str]) -> None:
    from matplotlib import colormaps

    means, errors = (np.array(each) for each in zip(*(_centred(run, names) for run in runs), strict=True))
    shades = colormaps["viridis"](np.linspace(0, 0.92, max(len(names), 2)))
    for number, short in enumerate(short_names(names, 22)):
        color = COLORS[number] if len(names) <= len(COLORS) else shades[number]
        middle, error = means[:, number], errors[:, number]
        axes.plot(range(len(runs)), middle, "-" if number % 2 == 0 else "--", marker="o", color=color, label=short)
        axes.fill_between(range(len(runs)), middle - error, middle + error, color=color, alpha=0.2, linewidth=0)


def _centred(run: RunValues, names: list[str]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return each layer's mean difference from the layers' mean at each sample, and its standard error."""
    at = {row.name: i for i, row in enumerate(run.layers)}
    places = [at[name] for name in names]
    values = np.where(run.values["done"], run.values["value"], np.nan)[places]
    mean, stderr, _ = mean_and_stderr(values - values.mean(0), run.values["stderr"][places])
    return mean, stderr
