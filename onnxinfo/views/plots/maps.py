"""Pixel maps: one row per sample, one column per layer, the picture first."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...archive.means import select_part
from ...errors import UsageError
from ...text import printable, shorten
from ..captions import sample_captions
from ..comparable import check_comparable
from ..map_grid import Band, Map, MapGrid, Row, scale_limits
from ..panels import MOST_LAYERS, MOST_SAMPLES, flat_map, mean_of_known
from ..plotting import figure_plot
from ..reading_runs import metric_label, natural, nothing_finished, run_values
from ..run_values import RunValues
from ..run_view import RunView
from ..selection import Selection
from ..style import FigureStyle, evenly, short_names
from ..wording import unproven_text

if TYPE_CHECKING:
    from ..canvas import Canvas

#: Number of classes whose means are drawn.
_MOST_CLASSES = 10
#: Number of layers that an animation goes through.
_MOST_FRAMES = 60
#: Color scales: one for each layer, or one for all.
SCALES = ("layer", "shared")
#: Orders of the rows.
ORDERS = ("sample", "class")


@figure_plot("maps", maps=True, animated=True)
def draw_maps(
    canvas: Canvas,
    selection: Selection,
    style: FigureStyle,
    *,
    overlay: bool = False,
    scale: str | None = None,
    change: bool = False,
    sort: str = "sample",
    class_means: bool = False,
) -> None:
    """Draw a grid of maps and their color bars; see :func:`onnxinfo.plot_maps`."""
    # Changes have one scale, so that layers that change little, and their noise, look like little.
    scale = scale or ("shared" if change else "layer")
    for option, value, known in (("scale", scale, SCALES), ("sort", sort, ORDERS)):
        if value not in known:
            raise UsageError(f"{option} '{printable(value)}'; give one of {', '.join(known)}")
    if change and overlay:
        raise UsageError("change=True has no pictures below; leave out overlay")
    found = _Found.read(selection, "means" if class_means else sort)
    bands = [band.changes() for band in found.bands()] if change else found.bands()
    if overlay and not all(row.picture is not None for band in bands for row in band.rows):
        raise UsageError(f"{found.without_pictures()} has no pictures to lay maps over; leave out overlay=True")
    shared = _shared_limits(bands) if scale == "shared" else None
    rows = "means" if class_means else sort
    canvas.animation = functools.partial(_animate, canvas, selection, rows, change=change, is_shared=scale == "shared")
    grid = MapGrid(bands, style, overlay)
    canvas.set_height(max(grid.height(shared is not None), style.width * 0.2))
    grid.draw(canvas.compressed(), shared, found.label)
    if overlay:
        canvas.note("colors are mixed with the picture's gray: compare values on plain maps")
    for note in found.notes():
        canvas.note(note)
    if change:
        first = found.bands()[0].titles[0]
        canvas.note(f"each map minus that of the column before, the first minus '{first}'")
    canvas.note(f"colors: {found.label}, {'with one scale' if shared else 'with a scale for each layer'}")
    if not (shared or grid.has_pictures):
        canvas.note(", ".join(bands[0].ends))
    if any(not np.isfinite(map_).all() for band in bands for row in band.rows for map_ in row.maps if map_ is not None):
        canvas.note("plain gray: no value, such as padding")
    canvas.alt = (
        f"Maps of {found.label}, of {len(set(found.samples))} samples and {len(bands[0].titles)} layers of "
        f"{', '.join(found.titles)}."
    )


def _shared_limits(bands: Sequence[Band]) -> tuple[float, float]:
    """Return the limits of one color scale for all maps."""
    everything = [each for band in bands for number in range(len(band.titles)) for each in band.column(number)]
    return scale_limits(everything, bands[0].colors)


def _animate(canvas: Canvas, selection: Selection, rows: str, path: Path, *, change: bool, is_shared: bool) -> None:
    """Write the maps as an animation through all layers."""
    from .maps_animation import write_animation

    found = _Found.read(selection, rows, _MOST_FRAMES)
    bands = [band.changes() for band in found.bands()] if change else found.bands()
    title = canvas.title or ", ".join(found.titles)
    write_animation(path, bands, canvas.style, found.label, title, _shared_limits(bands) if is_shared else None)


class _Found:
    """What is drawn, read from the archives.

    Attributes
    ----------
    titles
        Names of the runs.
    label
        The metric with its unit.
    samples
        Names of the samples.
    """

    def __init__(self, metric: str, rows: str, most: tuple[int, int], layers: Sequence[str]) -> None:
        self.metric, self._rows, self._common = metric, rows, layers
        self._limit, self._most_layers = most
        self.titles: list[str] = []
        self.label = ""
        self.samples: list[str] = []
        self._bands: dict[str, Band] = {}
        self._pictured: dict[str, bool] = {}
        self._whole: dict[str, tuple[int, int]] = {}
        self._order: dict[int, list[str]] = {}
        self._skipped = False
        self._cells: list[dict[str, npt.NDArray[Any]]] = []

    @classmethod
    def read(cls, selection: Selection, rows: str, most_layers: int = MOST_LAYERS) -> _Found:
        """Read the maps of all selected runs; `rows` are samples, sorted by ``sample`` or ``class``, or ``means``."""
        metric = selection.metrics[0]
        titles = selection.titles()
        names: list[list[str]] = []
        runs: list[RunValues] = []
        for view, _ in selection.views():
            names.append([row.name for row in view.layers])
            runs.append(run_values(view, metric))
        if not names:
            with selection.only_view("maps show runs"):
                pass
        check_comparable([run for run in runs if run.layers])
        common = [name for name in names[0] if all(name in other for other in names)]
        found = cls(metric, rows, (max(1, MOST_SAMPLES // len(names)), most_layers), common)
        for view, source in selection.views():
            found._add(view, titles[source, view.name], len(names) > 1)
        if not any(row for band in found._bands.values() for row in band.rows):
            raise nothing_finished(metric)
        return found

    def bands(self) -> list[Band]:
        """Return the rows, by sample where the runs have the same layers, else by run."""
        return [band for band in self._bands.values() if band.rows]

    def without_pictures(self) -> str:
        """Name a run without pictures."""
        return f"run '{next(title for title, there in self._pictured.items() if not there)}'"

    def notes(self) -> list[str]:
        """Return the notes below the figure: what is left out, what is unproven."""
        notes = []
        layers, samples = (max(each) for each in zip(*self._whole.values(), strict=True))
        shown = max(len(band.titles) for band in self.bands())
        count = len(set(self.samples))
        if count < samples or shown < layers:
            notes.append(f"{count} of {samples} samples, {shown} of {layers} layers")
        if self._skipped:
            notes.append(f"{self.metric} is defined in no other layer")
        if remark := unproven_text(self._cells):
            notes.append(f"?: not proven ({remark})")
        return notes

    def _add(self, view: RunView, title: str, are_several: bool) -> None:
        values = view.values(self.metric)
        names = [row.name for row in view.layers]
        layers = [names.index(name) for name in self._common] if self._common else [*range(len(names))]
        layers = [layers[i] for i in evenly(len(layers), self._most_layers)]
        groups = self._groups(view)
        panels = view.panels()
        maps = {
            (layer, group, number): _mean_map(panel, self.metric, layer, there)
            for number, panel in enumerate(panels)
            for layer in layers
            for group, (_, samples) in enumerate(groups)
            if (there := [sample for sample in samples if values["done"][layer, sample]])
        }
        if not maps:
            return
        # A class activation map, for example, exists for a single layer only: other cells are finished but have no
        # values.
        defined = [layer for layer in layers if not _is_undefined(maps, layer)]
        self._skipped |= len(defined) < len(layers)
        layers = defined or layers[:1]
        self.titles.append(title)
        self.label = metric_label(view.metrics[0])
        self._whole[title] = view.shape
        self._pictured[title] = any(panel.thumbnails is not None for panel in panels)
        self._cells.append(select_part(values, layers, [sample for _, samples in groups for sample in samples]))
        band = self._band(title, [names[layer] for layer in layers])
        for group, (caption, samples) in enumerate(groups):
            name = caption[0] if self._rows == "means" else view.sample_names[samples[0]]
            self.samples += [view.sample_names[sample] for sample in samples]
            for number, panel in enumerate(panels):
                cells = [maps.get((layer, group, number)) for layer in layers]
                if all(each is None for each in cells):
                    continue
                pictures = panel.thumbnails
                lines = [*caption, *_input_lines(panel)]
                row = Row(
                    caption=[shorten(title, 18), *lines] if are_several else lines,
                    picture=None if pictures is None else pictures[samples].mean(axis=0).astype(np.uint8),
                    maps=cells,
                    proven=[bool(values["converged"][layer, samples].all()) for layer in layers],
                )
                self._place(band, row, name)

    def _groups(self, view: RunView) -> list[tuple[list[str], list[int]]]:
        """Return the rows of a run: caption and samples, one, or all of a class."""
        captions = sample_captions(view)
        if self._rows == "sample":
            return [(captions[i], [i]) for i in evenly(view.shape[1], self._limit)]
        if view.labels is None:
            raise UsageError(
                f"run '{printable(view.name)}' has no labels to sort by, which are given to "
                f"onnxinfo.analyze(labels=...)"
            )
        labels = [str(label) for label in view.labels]
        if self._rows == "class":
            order = sorted(range(len(labels)), key=lambda i: natural(labels[i]))
            return [(captions[order[i]], [order[i]]) for i in evenly(len(order), self._limit)]
        classes = sorted(set(labels), key=natural)
        chosen = [classes[i] for i in evenly(len(classes), max(self._limit, _MOST_CLASSES))]
        groups = [(name, [i for i, label in enumerate(labels) if label == name]) for name in chosen]
        title = "class {}" if all(name.lstrip("-").isdigit() for name in classes) else "{}"
        return [
            ([shorten(printable(title.format(name)), 16), f"mean of {len(samples)}"], samples)
            for name, samples in groups
        ]

    def _band(self, title: str, layers: Sequence[str]) -> Band:
        """Return the band of a run; runs with the same layers share one."""
        key = "\n".join(layers) if self._common else title
        return self._bands.setdefault(key, Band(short_names(layers, 18), metric=self.metric))

    def _place(self, band: Band, row: Row, sample: str) -> None:
        """Insert a row after those of the same sample of other runs."""
        order = self._order.setdefault(id(band), [])
        at = len(order) - order[::-1].index(sample) if sample in order else len(order)
        order.insert(at, sample)
        band.rows.insert(at, row)


def _mean_map(panel: RunView, metric: str, layer: int, samples: Sequence[int]) -> Map:
    """Return the map of a sample, or the mean over several."""
    maps = panel.maps(metric, layer, samples)
    return flat_map(maps[0] if len(samples) == 1 else mean_of_known(maps, (0,)), panel.axes)


def _is_undefined(maps: dict[tuple[int, int, int], Map], layer: int) -> bool:
    found = [map_ for (at, _, _), map_ in maps.items() if at == layer]
    return bool(found) and not any(np.isfinite(map_).any() for map_ in found)


def _input_lines(view: RunView) -> list[str]:
    """Name of the input, if there are others."""
    names = [part.name for part in view.parts]
    return [] if len(names) == len(view.run.parts) else [shorten(printable(", ".join(names)), 22)]
