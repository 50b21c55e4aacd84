"""One metric against another, one point per layer."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ...archive.means import layer_summary
from ...errors import UsageError
from ..floor_line import reference
from ..panels import grid_behind
from ..plotting import figure_plot
from ..reading_runs import metric_label, read_runs
from ..run_values import RunValues
from ..selection import Selection
from ..style import SEQUENTIAL, FigureStyle, short_names
from ..wording import unproven_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..canvas import Canvas

_MARKERS = "osD^vP*"


@figure_plot("scatter")
def draw_scatter(canvas: Canvas, selection: Selection, style: FigureStyle, *, against: str = "") -> None:
    """Draw one metric against another: one point with standard errors per layer, colored by depth."""
    metric = selection.metrics[0]
    against = against or _other_metric(selection)
    across = read_runs(selection, metric)
    up = {each.name: each for each in read_runs(selection, against)}
    pairs = [(each, up[each.name]) for each in across if each.name in up]
    if not pairs:
        raise UsageError(f"no run has both '{metric}' and '{against}'; analyze with both")
    deepest = max(row.depth for each, _ in pairs for row in each.layers)
    canvas.set_height(style.width * 0.62)
    axes = canvas.panel()
    missing = False
    for number, (first, second) in enumerate(pairs):
        points = _Points(first, second)
        drawn = points.draw(axes, _MARKERS[number % len(_MARKERS)], deepest, style)
        missing |= len(points.drawable) < len(first.layers)
        # Runs may overlap; the names of one run suffice to tell the ends apart.
        if number == 0:
            points.name_ends(axes, style)
    canvas.figure.colorbar(drawn, ax=axes, fraction=0.04, pad=0.02).set_label("depth of the layer")
    axes.set_xlabel(metric_label(pairs[0][0].metric))
    axes.set_ylabel(metric_label(pairs[0][1].metric))
    grid_behind(axes, "both")
    remark = unproven_text(run.values for pair in pairs for run in pair)
    title = "mean ± standard error over all samples" + (f" ({remark})" if remark else "")
    title += "; some layers have none" if missing else ""
    reference(axes, across, style, "x")
    reference(axes, [second for _, second in pairs], style)
    canvas.legend(title=title, columns=1 if style.width < 5 else 2)
    canvas.alt = (
        f"{metric_label(pairs[0][1].metric)}, against {metric_label(pairs[0][0].metric)}: a point for each layer of "
        f"{', '.join(first.name for first, _ in pairs)}, colored by depth."
    )


def _other_metric(selection: Selection) -> str:
    """Return the metric that is drawn against the chosen one: RU, or the first other one that a run has."""
    everything = replace(selection, metrics=())
    known = [each.name for view, _ in everything.views() for each in view.metrics if each.name not in selection.metrics]
    if not known:
        raise UsageError(
            f"a scatter is of two metrics, and there is only '{selection.metrics[0]}'; analyze with another one"
        )
    return "ru" if "ru" in known else known[0]


class _Points:
    """Means of two metrics of a run, for the layers that have both."""

    def __init__(self, first: RunValues, second: RunValues) -> None:
        positions = {row.name: i for i, row in enumerate(second.layers)}
        at = [i for i, row in enumerate(first.layers) if row.name in positions]
        order = [positions[first.layers[i].name] for i in at]
        self.run = first.name
        self.layers = [first.layers[i] for i in at]
        self.x = {key: data[at] for key, data in layer_summary(first.values).items()}
        self.y = {key: data[order] for key, data in layer_summary(second.values).items()}
        finite = np.isfinite(self.x["value"]) & np.isfinite(self.y["value"])
        self.drawable: list[int] = np.flatnonzero(finite).tolist()

    def draw(self, axes: Axes, marker: str, deepest: int, style: FigureStyle) -> Any:
        """Draw the points and return the mappable for the color bar."""
        x, y = self.x, self.y
        axes.errorbar(
            x["value"],
            y["value"],
            xerr=np.nan_to_num(x["stderr"]),
            yerr=np.nan_to_num(y["stderr"]),
            fmt="none",
            ecolor=style.theme.faint,
            elinewidth=1,
            zorder=1,
        )
        # A thin line in order of depth shows the direction of the network.
        axes.plot(x["value"], y["value"], color=style.theme.faint, linewidth=0.8, zorder=1)
        return axes.scatter(
            x["value"],
            y["value"],
            c=[row.depth for row in self.layers],
            cmap=SEQUENTIAL,
            vmin=0,
            vmax=max(deepest, 1),
            s=style.font**2 * 0.5,
            marker=marker,
            edgecolors=style.theme.ink,
            linewidths=0.6,
            zorder=2,
            label=self.run,
        )

    def name_ends(self, axes: Axes, style: FigureStyle) -> None:
        """Label the first and the last layer shown."""
        names = short_names([row.name for row in self.layers], 18)
        for i in {self.drawable[0], self.drawable[-1]} if self.drawable else ():
            axes.annotate(
                names[i],
                (self.x["value"][i], self.y["value"][i]),
                xytext=(5, 5),
                textcoords="offset points",
                fontsize=style.font * 0.85,
            )
