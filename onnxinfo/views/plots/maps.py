"""Pixel maps: samples down, layers across, the picture first, one colour scale for all."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..archive.means import select_part
from ..errors import UsageError
from ..text import printable
from .figure import SEQUENTIAL, Look, claim_figure, cut, drawing, evenly, look, short_names, wrapped
from .query import Names, Paths, select_views
from .reading_runs import metric_label, nothing_finished
from .run_view import RunView
from .wording import unproven_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable

#: Rows and columns drawn where nothing is chosen; of more, evenly spaced ones are taken.
MOST_SAMPLES, MOST_LAYERS = 8, 9
#: The colour scale spans these percentiles of all values shown; what lies outside has the colour of its end.
PERCENTILES = (0.5, 99.5)


def plot_maps(
    path: Paths,
    output: str | os.PathLike[str],
    *,
    run: Names = (),
    layers: Names = (),
    metric: str = "sid",
    samples: Sequence[str | int] = (),
    overlay: bool = False,
    theme: str = "light",
    width: str = "page",
    force: bool = False,
) -> Path:
    """Draw a metric's maps of one run: a row for each sample, a column for each layer.

    Images are averaged over their channels; a map with one axis (features, time, tokens averaged over the embedding) is
    drawn as a strip. Cells that are not finished stay empty; those that are not proven are crossed by a line.

    Parameters
    ----------
    path
        An archive; with several runs, name one.
    output
        The figure: a file that ends in .png, .svg or .pdf.
    run, layers, samples
        What is drawn, see :func:`onnxinfo.query`; default: evenly spaced layers and samples, as many as are legible.
    metric
        The metric.
    overlay
        Lay the maps over the pictures in grey, half transparent, instead of drawing them alone.
    theme
        ``light`` or ``dark``.
    width
        ``column`` (3.5 in), ``page`` (7.2 in) or ``slide`` (12 in).
    force
        Replace an existing file whatever it holds; never an archive that is read. By default, only a figure of the same
        format is replaced.

    Returns
    -------
    Path
        The figure's path.

    Raises
    ------
    UsageError
        Something asked for is not there, or several runs are.
    ArchiveError
        The archive cannot be read, or the figure cannot be written.
    """
    target = claim_figure(output, path, force=force)
    chosen = look(theme, width)
    wanted: dict[str, Any] = {"run": run, "layers": layers, "metrics": [metric], "samples": samples}
    # Refused before anything is drawn.
    if sum(1 for _ in select_views(path, **wanted)) > 1:
        raise UsageError("maps show one run, and there are several; name one with --run")
    for view, _ in select_views(path, **wanted):
        if overlay and view.thumbnails is None:
            raise UsageError(f"run '{printable(view.name)}' has no pictures to lay maps over; leave out --overlay")
        grid = _Grid(view, metric, overlay)
        with drawing(target, chosen) as figure:
            columns = len(grid.layers) + (grid.pictures is not None)
            # A few columns do not make a figure that no page holds.
            cell = chosen.size.width * min(0.86 / columns, 0.25)
            height = cell * grid.aspect * len(grid.samples) + chosen.size.font / 72 * 5
            figure.set_size_inches(chosen.size.width, max(height, chosen.size.width * 0.2))
            axes = figure.subplots(len(grid.samples), columns, squeeze=False)
            mappable = grid.draw(axes, chosen, cell * grid.aspect)
            bar = figure.colorbar(mappable, ax=axes, fraction=0.03, pad=0.015, extend="both")
            bar.set_label(wrapped(metric_label(view.metrics[0]), figure.get_size_inches()[1], chosen))
            notes = ["colours are mixed with the picture's grey: compare values on plain maps"] if overlay else []
            shown, total = len(grid.samples), view.shape[1]
            if shown < total or len(grid.layers) < view.shape[0]:
                notes.append(f"{shown} of {total} samples, {len(grid.layers)} of {view.shape[0]} layers")
            if len(grid.layers) < len(evenly(view.shape[0], MOST_LAYERS)):
                notes.append(f"{metric} is defined in no other layer")
            if remark := unproven_text([select_part(grid.values, grid.layers, grid.samples)]):
                notes.append(f"crossed by a line: not proven ({remark})")
            text = wrapped("; ".join(notes), chosen.size.width, chosen)
            figure.supxlabel(text, fontsize=chosen.size.font * 0.85)
    return Path(output)


class _Grid:
    """The maps of some layers and samples, read."""

    def __init__(self, view: RunView, metric: str, overlay: bool) -> None:
        self.view = view
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
        # A class activation map, for one, is that of a single layer: the others have no values, finished as they are.
        undefined = {cell for cell, map_ in self.maps.items() if not np.isfinite(map_).any()}
        self.layers = [
            layer for layer in self.layers if not all((layer, sample) in undefined for sample in self.samples)
        ] or self.layers[:1]
        shape = next(iter(self.maps.values())).shape
        self.aspect = min(2.0, max(0.35, shape[0] / shape[1]))
        numbers = np.concatenate([map_.ravel() for map_ in self.maps.values()])
        finite = numbers[np.isfinite(numbers)]
        low, high = np.percentile(finite, PERCENTILES) if finite.size else (0.0, 1.0)
        self.low, self.high = float(low), float(high if high > low else low + 1e-6)

    def draw(self, axes: npt.NDArray[Any], chosen: Look, room: float) -> ScalarMappable:
        """Fill the axes, of shape (samples, columns) and `room` inches high; return what the colour bar needs."""
        mappable: Any = None
        first = int(self.pictures is not None)
        titles = short_names([self.view.layers[layer].name for layer in self.layers], 18)
        for row, sample in enumerate(self.samples):
            for each in axes[row]:
                each.set_xticks([])
                each.set_yticks([])
                each.spines[:].set_visible(False)
            if self.pictures is not None:
                axes[row, 0].imshow(self.pictures[sample], interpolation="nearest")
            name_row(axes[row, 0], self._row_name(sample), room, chosen)
            for column, layer in enumerate(self.layers, start=first):
                drawn = self._cell(axes[row, column], layer, sample, chosen)
                mappable = drawn or mappable
        for column, title in enumerate(titles, start=first):
            axes[0, column].set_title(title, fontsize=chosen.size.font * 0.8, rotation=30, ha="left", x=0.1)
        if first:
            axes[0, 0].set_title("input", fontsize=chosen.size.font * 0.8, rotation=30, ha="left", x=0.1)
        found: ScalarMappable = mappable
        return found

    def _row_name(self, sample: int) -> str:
        view = self.view
        label = "" if view.labels is None else f"\n{printable(view.labels[sample])}"
        return cut(printable(view.sample_names[sample]), 14) + label

    def _cell(self, axes: Axes, layer: int, sample: int, chosen: Look) -> Any:
        if (layer, sample) not in self.maps:
            axes.set_facecolor(chosen.theme.missing)
            return None
        if self.overlay and self.pictures is not None:
            grey = self.pictures[sample].mean(axis=-1)
            # Both have the map's pixels as their coordinates, whatever the picture's size.
            rows, columns = self.maps[layer, sample].shape
            axes.imshow(grey, cmap="gray", vmin=0, vmax=255, extent=(-0.5, columns - 0.5, rows - 0.5, -0.5))
        drawn = axes.imshow(
            self.maps[layer, sample],
            alpha=0.6 if self.overlay else 1.0,
            cmap=SEQUENTIAL,
            vmin=self.low,
            vmax=self.high,
            interpolation="nearest",
            aspect="auto" if self.maps[layer, sample].shape[0] == 1 else "equal",
        )
        if not self.values["converged"][layer, sample]:
            for colour, thickness in ((chosen.theme.ink, 2), (chosen.theme.paper, 1)):
                axes.plot([0, 1], [0, 1], color=colour, linewidth=thickness, transform=axes.transAxes)
        return drawn


def name_row(axes: Axes, name: str, room: float, chosen: Look) -> None:
    """Name a row of maps that is `room` inches high: upright where the name fits beside it, across where not."""
    size = chosen.size.font * 0.8
    fits = max(map(len, name.split("\n"))) * 0.6 * size / 72 < room
    across: dict[str, Any] = {"rotation": 0, "ha": "right", "va": "center"}
    axes.set_ylabel(name, fontsize=size, **({} if fits else across))


def flat_map(values: npt.NDArray[np.float32], axes: Sequence[str]) -> npt.NDArray[np.float32]:
    """Return a map as rows and columns: averaged over channels or embedding, a single axis as one row."""
    dropped = tuple(i for i, axis in enumerate(axes) if axis in ("channel", "embedding"))
    flat = values.mean(axis=dropped) if dropped else values
    rows: npt.NDArray[np.float32] = flat.reshape(1, -1) if flat.ndim < 2 else flat.reshape(-1, flat.shape[-1])
    return rows
