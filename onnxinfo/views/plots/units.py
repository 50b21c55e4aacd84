"""Inputs that are no images: tokens in colour, bars by feature, lines over time."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..archive.means import mean_and_stderr, select_part
from ..errors import UsageError
from ..text import printable
from .figure import COLOURS, SEQUENTIAL, claim_figure, cut, drawing, evenly, look, short_names
from .plot_curve import run_style
from .query import Names, Paths, select_views
from .reading_runs import metric_label, nothing_finished
from .run_view import RunView
from .wording import unproven_text

#: Positions of the layers and of the samples that a figure shows.
Shown = tuple[Sequence[int], Sequence[int]]

_MOST = 6


def plot_units(
    path: Paths,
    output: str | os.PathLike[str],
    *,
    run: Names = (),
    layers: Names = (),
    metric: str = "sid",
    samples: Sequence[str | int] = (),
    texts: str | os.PathLike[str] | None = None,
    theme: str = "light",
    width: str = "page",
    force: bool = False,
) -> Path:
    """Draw a metric unit by unit where the input is no image, in the way that suits its axes.

    Tokens: each sample's tokens in a row for each layer, coloured. Features of a table: bars with the spread over
    samples, a colour for each layer. Series: a line over time for each layer, a panel for each sample.

    Parameters
    ----------
    path, output, run, layers, metric, samples, theme, width, force
        See :func:`onnxinfo.plot_maps`.
    texts
        For tokens, a UTF-8 file with a line for each of the run's samples, its tokens separated by spaces; for
        features, their names, one per line. Without it they are numbered.

    Returns
    -------
    Path
        The figure's path.

    Raises
    ------
    UsageError
        The inputs are images, several runs are chosen, or the texts do not fit.
    ArchiveError
        The archive cannot be read, or the figure cannot be written.
    """
    target = claim_figure(output, path, texts, force=force)
    chosen = look(theme, width)
    kinds = {"position": _tokens, "feature": _features, "time": _series}
    wanted: dict[str, Any] = {"run": run, "layers": layers, "metrics": [metric], "samples": samples}
    # Refused before anything is drawn.
    if sum(1 for _ in select_views(path, **wanted)) > 1:
        raise UsageError("units are of one run, and there are several; name one with --run")
    for view, _ in select_views(path, **wanted):
        kind = next((draw for axis, draw in kinds.items() if axis in view.axes), None)
        if kind is None:
            raise UsageError(f"inputs with the axes {', '.join(view.axes)} are drawn by 'onnxinfo plot FILE.h5 maps'")
        lines = None if texts is None else _lines(texts)
        with drawing(target, chosen) as figure:
            drawn, shown = kind(figure, view, metric, lines, chosen)
            remark = unproven_text([select_part(view.values(metric), drawn, shown)])
            if remark:
                figure.supxlabel(remark, fontsize=chosen.size.font * 0.85)
    return Path(output)


def _lines(texts: str | os.PathLike[str]) -> list[str]:
    try:
        return Path(texts).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise UsageError(f"{texts}: cannot read it as UTF-8 text ({error}); one line per sample expected") from None


def _units(view: RunView, metric: str, layer: int, samples: Sequence[int], axis: str) -> npt.NDArray[np.float64]:
    """Return one value for each sample and place along the axis, (samples, places): the mean of what has one there."""
    maps = np.stack([view.map(metric, layer, sample) for sample in samples]).astype(np.float64)
    others = tuple(i + 1 for i, name in enumerate(view.axes) if name != axis)
    found: npt.NDArray[np.float64] = np.ma.masked_invalid(maps).mean(axis=others).filled(np.nan) if others else maps
    return found


def _present(view: RunView, metric: str) -> npt.NDArray[np.bool_]:
    """Return which cells are finished and have a value, (layer, sample)."""
    values = view.values(metric)
    if not values["done"].any():
        raise nothing_finished(metric)
    present: npt.NDArray[np.bool_] = values["done"] & np.isfinite(values["value"])
    return present


def _tokens(figure: Any, view: RunView, metric: str, lines: list[str] | None, chosen: Any) -> Shown:
    present = _present(view, metric)
    layers, samples = evenly(view.shape[0], _MOST), evenly(view.shape[1], _MOST)
    if lines is not None and len(lines) != view.run.shape[1]:
        raise UsageError(f"the texts have {len(lines)} lines, and run '{view.name}' has {view.run.shape[1]} samples")
    units = {layer: _units(view, metric, layer, samples, "position") for layer in layers}
    low, high = np.nanpercentile(np.concatenate([each.ravel() for each in units.values()]), (0.5, 99.5))
    count = next(iter(units.values())).shape[1]
    words = [_words(lines, view.sample_positions[sample], count) for sample in samples]
    # A line of text for each layer, and for each sample its name and its tokens, which stand aslant.
    lines_high = 2 + len(samples) * (1.4 * len(layers) + 6)
    figure.set_size_inches(chosen.size.width, lines_high * 1.2 * chosen.size.font / 72)
    grid = figure.subplots(len(samples), 1, squeeze=False)[:, 0]
    for row, (axes, sample) in enumerate(zip(grid, samples, strict=True)):
        shown = max([i + 1 for i, word in enumerate(words[row]) if word], default=count)
        values = np.array(
            [units[layer][row, :shown] if present[layer, sample] else [np.nan] * shown for layer in layers]
        )
        drawn = axes.imshow(values, cmap=SEQUENTIAL, vmin=low, vmax=high, aspect="auto", interpolation="nearest")
        axes.set_yticks(range(len(layers)), short_names([view.layers[layer].name for layer in layers], 16))
        axes.set_xticks(range(shown), words[row][:shown], rotation=25, ha="right", rotation_mode="anchor")
        axes.spines[:].set_visible(False)
        label = "" if view.labels is None else f", label {printable(view.labels[sample])}"
        axes.set_title(cut(printable(view.sample_names[sample]), 40) + label, loc="left")
    figure.colorbar(drawn, ax=list(grid), fraction=0.03, pad=0.015, extend="both").set_label(
        f"{metric_label(view.metrics[0])},\nmean over a token's embedding"
    )
    return layers, samples


def _words(lines: list[str] | None, sample: int, count: int) -> list[str]:
    """Return a text for each position: the tokens given, then nothing; numbers where none are given."""
    if lines is None:
        return [str(i) for i in range(count)]
    given = [cut(printable(word), 14) for word in lines[sample].split()]
    if len(given) > count:
        raise UsageError(f"line {sample + 1} of the texts has {len(given)} tokens, the input {count} positions")
    return given + [""] * (count - len(given))


def _features(figure: Any, view: RunView, metric: str, lines: list[str] | None, chosen: Any) -> Shown:
    present = _present(view, metric)
    layers = evenly(view.shape[0], _MOST)
    count = view.sample_shape[view.axes.index("feature")]
    if lines is not None and len(lines) != count:
        raise UsageError(f"the texts have {len(lines)} lines, and there are {count} features")
    names = [str(i) for i in range(count)] if lines is None else [cut(printable(line), 24) for line in lines]
    figure.set_size_inches(chosen.size.width, max(3.0, chosen.size.width * 0.55))
    axes = figure.add_subplot()
    wide = 0.8 / len(layers)
    texts = short_names([view.layers[layer].name for layer in layers], 22)
    for number, (layer, text) in enumerate(zip(layers, texts, strict=True)):
        samples = np.nonzero(present[layer])[0].tolist()
        if not samples:
            continue
        units = _units(view, metric, layer, samples, "feature")
        middle = mean_and_stderr(units.T)[0]
        low, high = np.nanpercentile(units, (25, 75), axis=0)
        at = np.arange(count) + (number - (len(layers) - 1) / 2) * wide
        colour = run_style(number)[0]
        # Entropies have no zero to stand on: a point and its quartiles, not a bar's length, is what can be compared.
        axes.bar(at, high - low, wide * 0.8, bottom=low, color=colour, alpha=0.5, linewidth=0)
        axes.plot(at, middle, "_", color=colour, markersize=wide * 200 / count**0.7 + 3, markeredgewidth=2, label=text)
    axes.set_xticks(range(count), names, rotation=40 if lines else 0, ha="right" if lines else "center")
    for label in axes.get_xticklabels():
        label.set_rotation_mode("anchor")
    axes.set_xlabel("feature")
    axes.set_ylabel(metric_label(view.metrics[0]))
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    figure.legend(title="mean over all samples (line) and quartiles (bar)", loc="outside upper center", ncols=2)
    return layers, range(view.shape[1])


def _series(figure: Any, view: RunView, metric: str, lines: list[str] | None, chosen: Any) -> Shown:
    if lines is not None:
        raise UsageError("a series has no texts; leave out --texts")
    present = _present(view, metric)
    layers, samples = evenly(view.shape[0], len(COLOURS)), evenly(view.shape[1], 4)
    figure.set_size_inches(chosen.size.width, chosen.size.width * (0.16 * len(samples) + 0.14))
    grid = figure.subplots(len(samples), 1, squeeze=False, sharex=True, sharey=True)[:, 0]
    texts = short_names([view.layers[layer].name for layer in layers], 22)
    for axes, sample in zip(grid, samples, strict=True):
        for number, (layer, text) in enumerate(zip(layers, texts, strict=True)):
            if present[layer, sample]:
                line = _units(view, metric, layer, [sample], "time")[0]
                colour, style, _ = run_style(number)
                axes.plot(line, style, color=colour, label=text)
        axes.grid(axis="y")
        label = "" if view.labels is None else f", label {printable(view.labels[sample])}"
        axes.set_title(cut(printable(view.sample_names[sample]), 40) + label, loc="left")
    grid[-1].set_xlabel("time step")
    figure.supylabel(metric_label(view.metrics[0]), fontsize=chosen.size.font)
    handles, names = grid[0].get_legend_handles_labels()
    figure.legend(handles, names, title="layer", loc="outside right upper")
    return layers, samples
