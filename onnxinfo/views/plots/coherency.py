"""Several metrics side by side, as in the paper's Fig. 1: maps of one sample, and magnitudes by layer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...archive.means import layer_summary
from ...errors import UsageError
from ...text import shorten
from ..comparable import check_comparable
from ..panels import (
    PERCENTILES,
    aspect_of,
    blank,
    color_limits,
    flat_map,
    run_style,
    title_column,
)
from ..places import check_place, name_places, places_of
from ..plotting import SEVERAL, Place, figure_plot
from ..reading_runs import check_values, metric_label, nothing_finished, run_values
from ..run_values import RunValues
from ..run_view import RunView
from ..selection import Selection
from ..style import SEQUENTIAL, FigureStyle, evenly, short_names
from ..wording import unproven_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

    from ..canvas import Canvas

_MOST_LAYERS = 6
#: Shares of the figure's width.
_MAPS, _MAGNITUDES = 2.1, 1
#: Least height in inches of a panel of magnitudes, and characters per line of its title.
_PANEL, _TITLE = 1.3, 30
_Map = npt.NDArray[np.float32] | None


@dataclass
class _Found:
    """Data to draw, by metric and run: numbers of all samples, and one sample's maps by layer (None without a map)."""

    values: dict[tuple[str, str], RunValues] = field(default_factory=dict)
    maps: dict[tuple[str, str], list[_Map]] = field(default_factory=dict)
    layers: list[str] = field(default_factory=list)

    @property
    def metrics(self) -> list[str]:
        return list(dict.fromkeys(metric for metric, _ in self.values))

    @property
    def runs(self) -> list[str]:
        return list(dict.fromkeys(run for _, run in self.values))

    @property
    def mapped(self) -> list[str]:
        """Metrics that have a map in some run and layer."""
        drawn = {name for (name, _), maps in self.maps.items() if any(each is not None for each in maps)}
        return [name for name in self.metrics if name in drawn]

    def of(self, metric: str) -> dict[str, RunValues]:
        """Return the numbers of a metric by run."""
        return {run: self.values[metric, run] for run in self.runs if (metric, run) in self.values}

    def add(self, view: RunView, title: str) -> None:
        """Read the metrics that have finished cells in a run."""
        self.layers = [row.name for row in view.layers]
        panel, inputs = view.panels()[0], [part.name for part in view.parts]
        for metric in view.metrics:
            if not view.values(metric.name)["done"].any():
                continue
            key = (metric.name, title)
            # The magnitude is over all samples, whichever one is shown.
            whole = RunView(view.run, view.layer_positions, metrics=[metric.name], inputs=inputs)
            self.values[key] = run_values(whole, metric.name)
            self.maps[key] = [
                flat_map(panel.map(metric.name, layer, 0), panel.axes) if metric.has_map else None
                for layer in evenly(view.shape[0], _MOST_LAYERS)
            ]


@figure_plot("coherency", metrics=SEVERAL, metric=(), samples=(0,))
def draw_coherency(canvas: Canvas, selection: Selection, style: FigureStyle, *, x: Place = "index") -> None:
    """Draw one row per metric: for each run the maps of one sample by layer, then the magnitude by layer.

    All maps of a metric share a color scale, so that layers and runs can be compared as far as the metric allows,
    which is the point of the figure.
    """
    check_place(x)
    found = _Found()
    titles = selection.titles()
    for view, source in selection.views():
        if view.shape[1] != 1:
            raise UsageError("coherency shows one sample, and several are chosen; name one with samples=...")
        found.add(view, titles[source, view.name])
    if not found.values:
        raise nothing_finished(", ".join(selection.metrics))
    check_values(found.values.values())
    if not selection.metrics:
        found.values = {key: each for key, each in found.values.items() if each.present.any()}
    for metric in found.metrics:
        check_comparable([*found.of(metric).values()])
    cell = style.width * 0.62 / min(len(found.layers), _MOST_LAYERS)
    rows = sum(len(found.of(metric)) for metric in found.mapped)
    canvas.set_height(max(2.2, cell * rows * 1.12 + 0.5, _PANEL * len(found.metrics)))
    shares = [_MAPS, _MAGNITUDES] if rows else [_MAGNITUDES]
    halves: Any = canvas.whole().subfigures(1, len(shares), width_ratios=shares, squeeze=False)[0]
    if rows:
        _draw_maps(halves[0], found, style)
        low, high = PERCENTILES
        canvas.note(f"colors: one scale for each metric, from its pixels' {low} % quantile to that of {high} %")
    canvas.note(unproven_text(each.values for each in found.values.values()))
    _draw_magnitudes(halves[-1], found, style, x)
    drawn = "Maps of one sample by layer, and means by layer," if rows else "Means by layer"
    canvas.alt = f"{drawn} of {', '.join(found.metrics)} in {', '.join(found.runs)}."


def _draw_maps(figure: SubFigure, found: _Found, style: FigureStyle) -> None:
    """Draw one row of maps per metric and run."""
    rows = [(metric, run) for metric in found.mapped for run in found.of(metric)]
    columns = evenly(len(found.layers), _MOST_LAYERS)
    grid = figure.subplots(len(rows), len(columns), squeeze=False)
    for line, (metric, run) in zip(grid, rows, strict=True):
        shared = [each for other in found.of(metric) for each in found.maps[metric, other] if each is not None]
        _row(line, found.maps[metric, run], color_limits(shared))
        line[0].set_ylabel(f"{metric}\n{shorten(run, 16)}", fontsize=style.font * 0.8)
    for axes, title in zip(grid[0], short_names([found.layers[i] for i in columns], 18), strict=True):
        title_column(axes, title, style)


def _row(line: Iterable[Any], maps: list[_Map], limits: tuple[float, float]) -> None:
    for axes, each in zip(line, maps, strict=True):
        blank(axes)
        if each is None:
            axes.text(0.5, 0.5, "no map", ha="center", va="center", transform=axes.transAxes)
            continue
        low, high = limits
        axes.imshow(each, cmap=SEQUENTIAL, vmin=low, vmax=high, interpolation="nearest", aspect=aspect_of(each))


def _draw_magnitudes(figure: SubFigure, found: _Found, style: FigureStyle, x: Place) -> None:
    """Draw one panel per metric: means by layer, one line per run."""
    panels = figure.subplots(len(found.metrics), 1, squeeze=False)[:, 0]
    for axes, metric in zip(panels, found.metrics, strict=True):
        runs = found.of(metric)
        _magnitude(axes, runs, found.runs, x)
        axes.set_title(fill(metric_label(next(iter(runs.values())).metric), _TITLE), loc="left")
        axes.set_xticks([])
        axes.grid(axis="y")
    last = [*found.of(found.metrics[-1]).values()][-1]
    (at,) = places_of([last], x)
    # The panels have the right part of the figure only, in which fewer names fit.
    share = replace(style.size, width=style.width * _MAGNITUDES / sum((_MAPS, _MAGNITUDES)))
    name_places(panels[-1], last, at, x, replace(style, size=share))
    where = "layer" if x == "index" else panels[-1].get_xlabel()
    panels[-1].set_xlabel(f"{where}\nmean ± standard error\nover all samples")
    if len(found.runs) > 1:
        panels[0].legend(loc="best", frameon=True, borderpad=0.3, framealpha=0.8)


def _magnitude(axes: Axes, runs: dict[str, RunValues], order: list[str], x: Place) -> None:
    for (run, values), at in zip(runs.items(), places_of([*runs.values()], x), strict=True):
        means = layer_summary(values.values)
        number = order.index(run)
        # Runs of a coherent metric may coincide, and both must be visible.
        color, line, marker = run_style(number)
        axes.errorbar(
            at,
            means["value"],
            np.nan_to_num(means["stderr"]),
            linestyle=line,
            marker=marker,
            color=color,
            label=shorten(run, 20),
            markersize=max(2, 5 - number),
        )
