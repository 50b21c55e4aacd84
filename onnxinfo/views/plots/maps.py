"""Pixel maps: one row per sample, one column per layer, the picture first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...archive.means import select_part
from ...errors import UsageError
from ...text import printable, shorten
from ..panels import (
    MOST_LAYERS,
    MOST_SAMPLES,
    aspect_of,
    blank,
    color_limits,
    flat_map,
    height_over_width,
    name_row,
    set_height,
    title_column,
)
from ..plotting import figure_plot
from ..reading_runs import metric_label, nothing_finished
from ..run_view import RunView
from ..selection import Selection
from ..style import SEQUENTIAL, FigureStyle, evenly, short_names, wrapped
from ..wording import unproven_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

#: Color scales: one for each layer, or one for all.
SCALES = ("layer", "shared")


@figure_plot("maps")
def draw_maps(
    figure: Figure, selection: Selection, style: FigureStyle, *, overlay: bool = False, scale: str = "layer"
) -> None:
    """Draw a grid of maps and their color bars; see :func:`onnxinfo.plot_maps`."""
    if scale not in SCALES:
        raise UsageError(f"scale '{printable(scale)}'; give one of {', '.join(SCALES)}")
    with selection.only_view("maps show one run") as view:
        if overlay and view.thumbnails is None:
            raise UsageError(f"run '{printable(view.name)}' has no pictures to lay maps over; leave out overlay=True")
        grids = [_Grid(panel, selection.metrics[0], overlay) for panel in view.panels()]
    first = grids[0]
    limits = _limits(grids, scale)
    columns = len(first.layers) + any(grid.pictures is not None for grid in grids)
    # Limit the cell size, so that a grid of a few columns still fits a page.
    cell = style.width * min(0.86 / columns, 0.25)
    ratios = [grid.aspect for _ in first.samples for grid in grids]
    lines = 5 if scale == "shared" else 8
    set_height(figure, style, max(cell * sum(ratios) + style.font / 72 * lines, style.width * 0.2))
    axes = figure.subplots(len(ratios), columns, squeeze=False, height_ratios=ratios)
    mappables: dict[int, ScalarMappable] = {}
    for number, grid in enumerate(grids):
        mappables |= grid.draw(axes[number :: len(grids)], limits, style, cell * grid.aspect)
    for each, title in zip(axes[0], first.titles(columns), strict=True):
        title_column(each, title, style)
    label, notes = metric_label(view.metrics[0]), first.notes()
    if scale == "shared":
        bar = figure.colorbar(next(iter(mappables.values())), ax=axes, fraction=0.03, pad=0.015, extend="both")
        bar.set_label(wrapped(label, figure.get_size_inches()[1], style))
    else:
        for layer, mappable in mappables.items():
            column = axes[:, columns - len(first.layers) + first.layers.index(layer)]
            _small_bar(figure, mappable, column, limits[layer], style)
        notes.append(f"colors: {label}, with a scale for each layer")
    figure.supxlabel(wrapped("; ".join(notes), style.width, style), fontsize=style.font * 0.85)


def _limits(grids: Sequence[_Grid], scale: str) -> dict[int, tuple[float, float]]:
    """Limits of the color scale of each layer."""
    layers = [layer for grid in grids for layer in grid.layers]
    of = {layer: [each for grid in grids for (at, _), each in grid.maps.items() if at == layer] for layer in layers}
    if scale == "shared":
        return dict.fromkeys(layers, color_limits([each for maps in of.values() for each in maps]))
    return {layer: color_limits(maps) for layer, maps in of.items()}


def _small_bar(
    figure: Figure, mappable: ScalarMappable, column: npt.NDArray[Any], limits: tuple[float, float], style: FigureStyle
) -> None:
    """Draw the color bar of a layer below its column, with its limits."""
    bar = figure.colorbar(mappable, ax=list(column), location="bottom", fraction=0.05, pad=0.02, aspect=12)
    low, high = bar.ax.get_xlim()
    bar.set_ticks([low, high], labels=[f"{limit:.3g}" for limit in limits])
    for text, side in zip(bar.ax.get_xticklabels(), ("left", "right"), strict=True):
        text.set(fontsize=style.font * 0.75, horizontalalignment=side)


class _Grid:
    """Maps of some layers and samples of one input, or of several rows side by side, read from the archive."""

    def __init__(self, view: RunView, metric: str, overlay: bool) -> None:
        self.view = view
        self.metric = metric
        self.overlay = overlay
        self.layers = evenly(view.shape[0], MOST_LAYERS)
        self.samples = evenly(view.shape[1], MOST_SAMPLES)
        values = view.values(metric)
        self.values = values
        self.pictures = view.thumbnails
        self.maps = {
            (layer, sample): flat_map(view.map(metric, layer, sample), view.axes)
            for layer in self.layers
            for sample in self.samples
            if values["done"][layer, sample]
        }
        if not self.maps:
            raise nothing_finished(metric)
        # A class activation map, for example, exists for a single layer only: other cells are finished but have no
        # values.
        undefined = {cell for cell, map_ in self.maps.items() if not np.isfinite(map_).any()}
        self.layers = [
            layer for layer in self.layers if not all((layer, sample) in undefined for sample in self.samples)
        ] or self.layers[:1]
        self.aspect = height_over_width(next(iter(self.maps.values())))

    def notes(self) -> list[str]:
        """Return the notes below the figure: how to read colors, what is left out, what is unproven."""
        notes = ["colors are mixed with the picture's gray: compare values on plain maps"] if self.overlay else []
        layers, samples = self.view.shape
        if len(self.samples) < samples or len(self.layers) < layers:
            notes.append(f"{len(self.samples)} of {samples} samples, {len(self.layers)} of {layers} layers")
        if len(self.layers) < len(evenly(layers, MOST_LAYERS)):
            notes.append(f"{self.metric} is defined in no other layer")
        if remark := unproven_text([select_part(self.values, self.layers, self.samples)]):
            notes.append(f"crossed by a line: not proven ({remark})")
        return notes

    def titles(self, columns: int) -> list[str]:
        """Return the titles of the columns, the last of which are the layers."""
        layers = short_names([self.view.layers[layer].name for layer in self.layers], 18)
        return ["input"] * (columns - len(layers)) + layers

    def draw(
        self, axes: npt.NDArray[Any], limits: Mapping[int, tuple[float, float]], style: FigureStyle, room: float
    ) -> dict[int, ScalarMappable]:
        """Fill axes of shape (samples, columns), `room` inches high; return a mappable for each layer's color bar."""
        found: dict[int, ScalarMappable] = {}
        first = axes.shape[1] - len(self.layers)
        for row, sample in enumerate(self.samples):
            for each in axes[row]:
                blank(each)
            if self.pictures is not None:
                axes[row, 0].imshow(self.pictures[sample], interpolation="nearest")
            name_row(axes[row, 0], self._row_name(sample), room, style)
            for column, layer in enumerate(self.layers, start=first):
                drawn = self._cell(axes[row, column], layer, sample, limits[layer], style)
                if drawn is not None:
                    found[layer] = drawn
        return found

    def _row_name(self, sample: int) -> str:
        view = self.view
        label = "" if view.labels is None else f"\n{printable(view.labels[sample])}"
        return shorten(printable(view.sample_names[sample]), 14) + label + self._input()

    def _input(self) -> str:
        """Name of the input, if there are others."""
        names = [part.name for part in self.view.parts]
        if len(names) == len(self.view.run.parts):
            return ""
        return "\n" + shorten(printable(", ".join(names)), 22)

    def _cell(self, axes: Axes, layer: int, sample: int, limits: tuple[float, float], style: FigureStyle) -> Any:
        if (layer, sample) not in self.maps:
            axes.set_facecolor(style.theme.missing)
            return None
        map_ = self.maps[layer, sample]
        if self.overlay and self.pictures is not None:
            gray = self.pictures[sample].mean(axis=-1)
            # Both use the map's pixels as coordinates, whatever the picture's size.
            rows, columns = map_.shape
            axes.imshow(gray, cmap="gray", vmin=0, vmax=255, extent=(-0.5, columns - 0.5, rows - 0.5, -0.5))
        drawn = axes.imshow(
            map_,
            alpha=0.6 if self.overlay else 1.0,
            cmap=SEQUENTIAL,
            vmin=limits[0],
            vmax=limits[1],
            interpolation="nearest",
            aspect=aspect_of(map_),
        )
        if not self.values["converged"][layer, sample]:
            for color, thickness in ((style.theme.ink, 2), (style.theme.paper, 1)):
                axes.plot([0, 1], [0, 1], color=color, linewidth=thickness, transform=axes.transAxes)
        return drawn
