"""Concentration: whether a layer discards the background more than the object."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...archive.means import layer_summary
from ...text import shorten
from ..panels import blank, color_limits, flat_map, name_layers, set_height, zero_line
from ..plotting import NONE, figure_plot
from ..reading_runs import metric_label, read_runs, run_values
from ..run_values import RunValues
from ..run_view import RunView
from ..selection import Selection
from ..style import COLORS, SEQUENTIAL, FigureStyle, evenly
from ..wording import unproven_text
from .curve import draw_curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PICTURES = 5


@dataclass(frozen=True)
class _Objects:
    """Samples with a foreground: names, pictures, masks and SID maps of the deepest layer, and the maps' limits."""

    names: list[str]
    pictures: list[npt.NDArray[np.uint8]]
    masks: list[npt.NDArray[np.uint8]]
    maps: list[npt.NDArray[np.float32]]
    limits: tuple[float, float]


@figure_plot("concentration", metrics=NONE)
def draw_concentration(figure: Figure, selection: Selection, style: FigureStyle) -> None:
    """Draw concentration by layer, and below it samples with their foreground outlined on the deepest layer's map.

    With several runs, or without masks, only the curves are drawn.
    """
    selection = replace(selection, metrics=("concentration",))
    several = len(read_runs(selection, "concentration")) > 1
    with closing(selection.views()) as views:
        view, _ = next(views)
        if several or view.run.foreground is None or view.thumbnails is None:
            draw_curve.draw(figure, selection, style)
            return
        found = run_values(view, "concentration")
        objects = _objects(view, found)
    set_height(figure, style, style.width * 0.95)
    rows: list[Any] = [["curve"] * _PICTURES]
    rows += [[f"{kind}{i}" for i in range(_PICTURES)] for kind in ("input", "map")]
    axes: Any = figure.subplot_mosaic(rows, height_ratios=[1.3, 1, 1])
    _curve(axes["curve"], found, style)
    inputs, maps = ([axes[f"{kind}{i}"] for i in range(_PICTURES)] for kind in ("input", "map"))
    for upper, lower in zip(inputs, maps, strict=True):
        blank(upper)
        blank(lower)
    for i in range(len(objects.names)):
        drawn = _object(inputs[i], maps[i], objects, i, style)
    if objects.names:
        inputs[0].set_ylabel("input and\nforeground")
        maps[0].set_ylabel("SID map")
        bar = figure.colorbar(drawn, ax=maps, fraction=0.03, pad=0.01)
        deepest = shorten(found.layers[-1].name, 18)
        bar.set_label(f"SID at '{deepest}'\nnats per input unit", fontsize=style.font * 0.8)


def _objects(view: RunView, found: RunValues) -> _Objects:
    foreground, pictures = view.run.foreground, view.thumbnails
    assert foreground is not None
    assert pictures is not None
    masks = foreground[view.sample_positions]
    with_object = [i for i in range(view.shape[1]) if masks[i].any()]
    shown = [with_object[i] for i in evenly(len(with_object), _PICTURES)]
    deepest = [row.name for row in view.run.layers].index(found.layers[-1].name)
    image = next((part for part in view.run.parts if {"y", "x"} <= set(part.axes)), view.run.parts[0])
    maps = [view.run.split(view.run.map("sid", deepest, view.sample_positions[i]))[image.name] for i in shown]
    return _Objects(
        names=[view.sample_names[i] for i in shown],
        pictures=[pictures[i] for i in shown],
        masks=[masks[i] for i in shown],
        maps=[flat_map(each, image.axes) for each in maps],
        limits=color_limits(maps),
    )


def _curve(axes: Axes, found: RunValues, style: FigureStyle) -> None:
    means = layer_summary(found.values)
    axes.errorbar(range(len(found.layers)), means["value"], means["stderr"], fmt="o-", color=COLORS[0], capsize=3)
    zero_line(axes, style)
    axes.set_ylabel(metric_label(found.metric).replace(" of the ", "\nof the "))
    remark = unproven_text([found.values])
    axes.set_title(
        f"{found.name}: above zero, the background is discarded more than the object\n"
        "mean ± standard error over all samples" + (f"; {remark}" if remark else ""),
        loc="left",
    )
    axes.grid(axis="y")
    name_layers(axes, found, style)


def _object(upper: Axes, lower: Axes, objects: _Objects, i: int, style: FigureStyle) -> Any:
    """Draw a sample and its map, both with the object outlined, and return the map's image."""
    mask, (low, high) = objects.masks[i], objects.limits
    extent = (-0.5, mask.shape[1] - 0.5, mask.shape[0] - 0.5, -0.5)
    upper.imshow(objects.pictures[i], extent=extent, interpolation="nearest")
    upper.set_title(shorten(objects.names[i], 16), fontsize=style.font * 0.8)
    drawn = lower.imshow(objects.maps[i], cmap=SEQUENTIAL, vmin=low, vmax=high)
    for axes in (upper, lower):
        for color, width in (("black", 2.2), ("white", 1.0)):
            axes.contour(mask, levels=[0.5], colors=color, linewidths=width)
    return drawn
