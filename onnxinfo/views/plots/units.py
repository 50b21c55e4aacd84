"""Plots for inputs that are not images: colored tokens, bars by feature, lines over time."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ...archive.means import mean_and_stderr, select_part
from ...errors import UsageError
from ...text import printable, shorten
from ..panels import color_limits, grid_behind, mean_of_known, run_style, sample_title
from ..plotting import figure_plot
from ..reading_runs import metric_label, nothing_finished
from ..run_view import RunView
from ..selection import Selection
from ..style import COLORS, SEQUENTIAL, FigureStyle, evenly, short_names
from ..wording import unproven_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..canvas import Canvas

#: Positions of the layers and samples that a figure shows.
_Shown = tuple[Sequence[int], Sequence[int]]

_MOST = 6


@figure_plot("units", files=("texts",), maps=True)
def draw_units(
    canvas: Canvas, selection: Selection, style: FigureStyle, *, texts: str | os.PathLike[str] | None = None
) -> None:
    """Draw a metric unit by unit for inputs that are not images, in a form that suits the axes.

    Tokens: one row of colored tokens per sample and layer. Features of a table: bars with the spread over samples, one
    color per layer. Series: one line over time per layer, one panel per sample. `texts` is a UTF-8 file: for tokens,
    one line of space-separated tokens for each of the run's samples; for features, one name per line. Without it
    features have the names that a table gave, and the others
    are numbered.
    """
    with selection.only_view("units are of one run") as view:
        view.only_panel("units are of one input")
        kind = next((draw for axis, draw in _KINDS.items() if axis in view.axes), None)
        if kind is None:
            raise UsageError(f"inputs with the axes {', '.join(view.axes)} are drawn by the plot 'maps'; draw that")
        units = _Units(view, selection.metrics[0], None if texts is None else _lines(texts))
        shown = kind(canvas, units, style)
        canvas.note(unproven_text([select_part(units.values, *shown)]))
        canvas.alt = (
            f"{units.label()}, unit by unit, of {len(shown[0])} layers and {len(shown[1])} samples of run "
            f"{printable(view.name)}."
        )


class _Units:
    """A metric of a run, read unit by unit.

    Attributes
    ----------
    view, metric
        The run and the metric.
    lines
        Lines of the text file; None without one.
    present
        Which cells are finished and have a value, (layer, sample).
    """

    def __init__(self, view: RunView, metric: str, lines: list[str] | None) -> None:
        self.view, self.metric, self.lines = view, metric, lines
        self.values = view.values(metric)
        if not self.values["done"].any():
            raise nothing_finished(metric)
        self.present: npt.NDArray[np.bool_] = self.values["done"] & np.isfinite(self.values["value"])

    def along(self, axis: str, layer: int, samples: Sequence[int]) -> npt.NDArray[np.float64]:
        """Return one value per sample and position along an axis, (samples, positions): means over the other axes."""
        view = self.view
        maps = np.stack([view.map(self.metric, layer, sample) for sample in samples]).astype(np.float64)
        others = tuple(i + 1 for i, name in enumerate(view.axes) if name != axis)
        return mean_of_known(maps, others) if others else maps

    def label(self) -> str:
        """Return the metric's name with its unit."""
        return metric_label(self.view.metrics[0])

    def layer_names(self, layers: Sequence[int], size: int) -> list[str]:
        """Return shortened names of layers."""
        return short_names([self.view.layers[layer].name for layer in layers], size)


def _lines(texts: str | os.PathLike[str]) -> list[str]:
    try:
        return Path(texts).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise UsageError(f"{texts}: cannot read it as UTF-8 text ({error}); one line per sample expected") from None


def _tokens(canvas: Canvas, units: _Units, style: FigureStyle) -> _Shown:
    view, lines = units.view, units.lines
    layers, samples = evenly(view.shape[0], _MOST), evenly(view.shape[1], _MOST)
    if lines is not None and len(lines) != view.run.shape[1]:
        raise UsageError(f"the texts have {len(lines)} lines, and run '{view.name}' has {view.run.shape[1]} samples")
    read = {layer: units.along("position", layer, samples) for layer in layers}
    limits = color_limits(read.values())
    count = next(iter(read.values())).shape[1]
    words = [_words(lines, view.sample_positions[sample], count) for sample in samples]
    # One line of text per layer, and for each sample its name and its slanted tokens.
    lines_high = 2 + len(samples) * (1.4 * len(layers) + 6)
    canvas.set_height(lines_high * 1.2 * style.font / 72)
    grid = canvas.panels(len(samples))[:, 0]
    for row, (axes, sample) in enumerate(zip(grid, samples, strict=True)):
        shown = max([i + 1 for i, word in enumerate(words[row]) if word], default=count)
        values = [read[layer][row, :shown] if units.present[layer, sample] else [np.nan] * shown for layer in layers]
        drawn = axes.imshow(
            np.array(values), cmap=SEQUENTIAL, vmin=limits[0], vmax=limits[1], aspect="auto", interpolation="nearest"
        )
        axes.set_yticks(range(len(layers)), units.layer_names(layers, 16))
        axes.set_xticks(range(shown), words[row][:shown], rotation=25, ha="right", rotation_mode="anchor")
        axes.spines[:].set_visible(False)
        axes.set_title(sample_title(view, sample), loc="left")
    bar = canvas.figure.colorbar(drawn, ax=list(grid), fraction=0.03, pad=0.015, extend="both")
    bar.set_label(f"{units.label()},\nmean over a token's embedding")
    return layers, samples


def _words(lines: list[str] | None, sample: int, count: int) -> list[str]:
    """Return one text per position: the given tokens, then blanks; numbers if no tokens are given."""
    if lines is None:
        return [str(i) for i in range(count)]
    given = [shorten(printable(word), 14) for word in lines[sample].split()]
    if len(given) > count:
        raise UsageError(f"line {sample + 1} of the texts has {len(given)} tokens, the input {count} positions")
    return given + [""] * (count - len(given))


def _features(canvas: Canvas, units: _Units, style: FigureStyle) -> _Shown:
    view, lines = units.view, units.lines
    layers = evenly(view.shape[0], _MOST)
    count = view.sample_shape[view.axes.index("feature")]
    if lines is not None and len(lines) != count:
        raise UsageError(f"the texts have {len(lines)} lines, and there are {count} features")
    lines = lines or view.unit_names
    names = [str(i) for i in range(count)] if lines is None else [shorten(printable(line), 24) for line in lines]
    canvas.set_height(max(3.0, style.width * 0.55))
    axes = canvas.panel()
    wide = 0.8 / len(layers)
    for number, (layer, text) in enumerate(zip(layers, units.layer_names(layers, 22), strict=True)):
        at = np.arange(count, dtype=np.float64) + (number - (len(layers) - 1) / 2) * wide
        _quartiles(axes, units, layer, at, wide, (run_style(number)[0], text))
    axes.set_xticks(range(count), names, rotation=40 if lines else 0, ha="right" if lines else "center")
    for label in axes.get_xticklabels():
        label.set_rotation_mode("anchor")
    axes.set_xlabel("feature")
    axes.set_ylabel(units.label())
    grid_behind(axes)
    canvas.legend(title="mean over all samples (line) and quartiles (bar)", columns=2)
    return layers, range(view.shape[1])


def _quartiles(
    axes: Axes, units: _Units, layer: int, at: npt.NDArray[np.float64], wide: float, style: tuple[str, str]
) -> None:
    """Draw a layer's mean and quartiles over samples at each feature; `style` is its color and its label."""
    samples = np.nonzero(units.present[layer])[0].tolist()
    if not samples:
        return
    color, text = style
    values = units.along("feature", layer, samples)
    middle = mean_and_stderr(values.T)[0]
    low, high = np.nanpercentile(values, (25, 75), axis=0)
    # Entropies have no natural zero, so bars span the quartiles, and a point marks the mean.
    axes.bar(at, high - low, wide * 0.8, bottom=low, color=color, alpha=0.5, linewidth=0)
    size = wide * 200 / len(at) ** 0.7 + 3
    axes.plot(at, middle, "_", color=color, markersize=size, markeredgewidth=2, label=text)


def _series(canvas: Canvas, units: _Units, style: FigureStyle) -> _Shown:
    view = units.view
    if units.lines is not None:
        raise UsageError("a series has no texts; leave out texts=...")
    layers, samples = evenly(view.shape[0], len(COLORS)), evenly(view.shape[1], 4)
    canvas.set_height(style.width * (0.16 * len(samples) + 0.14))
    grid = canvas.panels(len(samples), sharex=True, sharey=True)[:, 0]
    for axes, sample in zip(grid, samples, strict=True):
        for number, (layer, text) in enumerate(zip(layers, units.layer_names(layers, 22), strict=True)):
            if units.present[layer, sample]:
                values = units.along("time", layer, [sample])[0]
                color, line, _ = run_style(number)
                axes.plot(values, line, color=color, label=text)
        axes.grid(axis="y")
        axes.set_title(sample_title(view, sample), loc="left")
    grid[-1].set_xlabel("time step")
    if len(samples) > 1:
        canvas.figure.supylabel(units.label(), fontsize=style.font)
    else:
        grid[0].set_ylabel(units.label())
    handles, names = grid[0].get_legend_handles_labels()
    canvas.legend(handles, names, title="layer", side="right")
    return layers, samples


_KINDS = {"position": _tokens, "feature": _features, "time": _series}
