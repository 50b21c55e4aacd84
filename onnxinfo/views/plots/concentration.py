"""Concentration: whether a layer discards the background more than the object."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...archive.means import layer_summary
from ...text import shorten
from ..floor_line import reference
from ..panels import blank, color_limits, flat_map
from ..places import check_place, name_places, places_of
from ..plotting import Place, figure_plot
from ..reading_runs import metric_label, read_runs, run_values
from ..run_values import RunValues
from ..run_view import RunView
from ..selection import Selection
from ..style import COLORS, SEQUENTIAL, FigureStyle, evenly
from ..wording import unproven_text
from .curve import draw_curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..canvas import Canvas

_PICTURES = 5


@dataclass(frozen=True)
class _Objects:
    """Samples with a foreground: names, pictures, masks, and maps of the deepest layer with their limits and label.

    There are no maps if the run has no metric with maps.
    """

    names: list[str]
    pictures: list[npt.NDArray[np.uint8]]
    masks: list[npt.NDArray[np.uint8]]
    maps: list[npt.NDArray[np.float32]]
    limits: tuple[float, float]
    label: str


@figure_plot("concentration", maps=True, also=("concentration",))
def draw_concentration(canvas: Canvas, selection: Selection, style: FigureStyle, *, x: Place | None = None) -> None:
    """Draw concentration by layer, and below it samples with their foreground outlined on the deepest layer's map.

    The maps are those of SID, or of the chosen metric. With several runs, or without masks, only the curves are drawn.
    """
    if x is not None:
        check_place(x)
    (metric,) = selection.metrics
    selection = replace(selection, metrics=("concentration",))
    several = len(read_runs(selection, "concentration")) > 1
    with closing(selection.views()) as views:
        view, _ = next(views)
        if several or view.run.foreground is None or view.thumbnails is None:
            draw_curve.draw(canvas, selection, style, x=x or "depth")
            return
        found = run_values(view, "concentration")
        objects = _objects(view, found, metric)
    kinds = ["input", "map"][: 1 + bool(objects.maps)]
    canvas.set_height(style.width * (0.4 + 0.26 * len(kinds)))
    rows: list[Any] = [["curve"] * _PICTURES]
    rows += [[f"{kind}{i}" for i in range(_PICTURES)] for kind in kinds]
    figure = canvas.whole()
    axes: Any = figure.subplot_mosaic(rows, height_ratios=[1.3, 1, 1][: len(rows)])
    _curve(axes["curve"], found, style, x or "index")
    grid = [[axes[f"{kind}{i}"] for i in range(_PICTURES)] for kind in kinds]
    for each in (each for line in grid for each in line):
        blank(each)
    drawn = [_object([line[i] for line in grid], objects, i, style) for i in range(len(objects.names))]
    if drawn:
        grid[0][0].set_ylabel("input and\nforeground")
    if objects.maps:
        grid[1][0].set_ylabel("map")
        bar = figure.colorbar(drawn[0], ax=grid[1], fraction=0.03, pad=0.01)
        bar.set_label(f"{objects.label}\nat '{shorten(found.layers[-1].name, 18)}'", fontsize=style.font * 0.8)
    canvas.note("above zero, the background is discarded more than the object; mean ± standard error over all samples")
    canvas.note(unproven_text([found.values]))
    canvas.alt = (
        f"Concentration by layer in run {found.name}, and {len(objects.names)} samples with their foreground outlined."
    )


def _objects(view: RunView, found: RunValues, metric: str) -> _Objects:
    foreground, pictures = view.run.foreground, view.thumbnails
    assert foreground is not None
    assert pictures is not None
    masks = foreground[view.sample_positions]
    with_object = [i for i in range(view.shape[1]) if masks[i].any()]
    shown = [with_object[i] for i in evenly(len(with_object), _PICTURES)]
    deepest = [row.name for row in view.run.layers].index(found.layers[-1].name)
    image = next((part for part in view.run.parts if {"y", "x"} <= set(part.axes)), view.run.parts[0])
    mapped = next((each for each in view.run.metrics if each.name == metric and each.has_map), None)
    maps = []
    if mapped is not None:
        maps = [view.run.split(view.run.map(metric, deepest, view.sample_positions[i]))[image.name] for i in shown]
    return _Objects(
        names=[view.sample_names[i] for i in shown],
        pictures=[pictures[i] for i in shown],
        masks=[masks[i] for i in shown],
        maps=[flat_map(each, image.axes) for each in maps],
        limits=color_limits(maps),
        label="" if mapped is None else metric_label(mapped).replace(", ", ",\n"),
    )


def _curve(axes: Axes, found: RunValues, style: FigureStyle, x: Place) -> None:
    means = layer_summary(found.values)
    (at,) = places_of([found], x)
    axes.errorbar(at, means["value"], means["stderr"], fmt="o-", color=COLORS[0], capsize=3)
    reference(axes, [found], style)
    axes.set_ylabel(metric_label(found.metric).replace(" of the ", "\nof the "))
    axes.set_title(found.name, loc="left")
    axes.grid(axis="y")
    name_places(axes, found, at, x, style)


def _object(column: Sequence[Axes], objects: _Objects, i: int, style: FigureStyle) -> Any:
    """Draw a sample and below it its map, if any, both with the object outlined; return the last image."""
    mask, (low, high) = objects.masks[i], objects.limits
    extent = (-0.5, mask.shape[1] - 0.5, mask.shape[0] - 0.5, -0.5)
    drawn = column[0].imshow(objects.pictures[i], extent=extent, interpolation="nearest")
    column[0].set_title(shorten(objects.names[i], 16), fontsize=style.font * 0.8)
    if objects.maps:
        drawn = column[1].imshow(objects.maps[i], cmap=SEQUENTIAL, vmin=low, vmax=high)
    for axes in column:
        for color, width in (("black", 2.2), ("white", 1.0)):
            axes.contour(mask, levels=[0.5], colors=color, linewidths=width)
    return drawn
