"""Several metrics side by side, as in the paper's Fig. 1: maps of one sample, magnitudes by layer."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..archive.means import layer_summary
from ..errors import UsageError
from ..text import printable
from .comparable import check_precision
from .figure import SEQUENTIAL, claim_figure, cut, drawing, evenly, look, short_names
from .plot_curve import run_style
from .plot_maps import flat_map
from .plot_samples import name_layers
from .query import Names, Paths, names_of, select_views
from .reading_runs import metric_label, nothing_finished, run_values
from .run_values import RunValues
from .wording import unproven_text

_MOST_LAYERS = 6
# Percentile of a metric's pixels that is drawn darkest; as many are brightest.
_LEAST = 0.5


def plot_coherency(
    path: Paths,
    output: str | os.PathLike[str],
    *,
    run: Names = (),
    layers: Names = (),
    metric: Names = (),
    samples: Sequence[str | int] = (0,),
    theme: str = "light",
    width: str = "page",
    force: bool = False,
) -> Path:
    """Draw each metric in a row: for each run the maps of one sample by layer, then the magnitude by layer.

    A metric has one colour scale for all its maps, so that layers and runs can be compared as far as it can be:
    this is what the figure shows.

    Parameters
    ----------
    path, output, run, layers, theme, width, force
        See :func:`onnxinfo.plot_curve`.
    metric
        The metrics; by default all.
    samples
        The sample, the first by default.

    Returns
    -------
    Path
        The figure's path.

    Raises
    ------
    UsageError
        Something asked for is not there, or several samples are chosen.
    ArchiveError
        An archive cannot be read, or the figure cannot be written.
    """
    target = claim_figure(output, path, force=force)
    chosen = look(theme, width)
    found: dict[tuple[str, str], RunValues] = {}
    maps: dict[tuple[str, str], list[npt.NDArray[np.float32] | None]] = {}
    for view, _ in select_views(path, run=run, layers=layers, metrics=metric, samples=samples):
        if view.shape[1] != 1:
            raise UsageError("coherency shows one sample, and several are chosen; name one with --samples")
        whole = view.run
        for measured in view.metrics:
            key = (measured.name, printable(view.name))
            if not view.values(measured.name)["done"].any():
                continue
            found[key] = run_values(type(view)(whole, view.layer_positions, metrics=[measured.name]), measured.name)
            maps[key] = [
                flat_map(view.map(measured.name, layer, 0), view.axes) if measured.has_map else None
                for layer in evenly(view.shape[0], _MOST_LAYERS)
            ]
        names = [row.name for row in view.layers]
    if not found:
        raise nothing_finished(", ".join(names_of(metric)) or "of any kind")
    metrics = list(dict.fromkeys(key[0] for key in found))
    runs = list(dict.fromkeys(key[1] for key in found))
    for name in metrics:
        check_precision([values for key, values in found.items() if key[0] == name])
    rows = [(name, each) for name in metrics for each in runs if (name, each) in found]
    columns = evenly(len(names), _MOST_LAYERS)
    with drawing(target, chosen) as figure:
        cell = chosen.size.width * 0.62 / len(columns)
        figure.set_size_inches(chosen.size.width, max(2.2, cell * len(rows) * 1.12 + 0.5))
        halves: Any = figure.subfigures(1, 2, width_ratios=[2.1, 1])
        left, right = halves
        grid = left.subplots(len(rows), len(columns), squeeze=False)
        titles = short_names([names[i] for i in columns], 18)
        for line, key in zip(grid, rows, strict=True):
            _row(line, maps[key], _limits([maps[key[0], each] for each in runs if (key[0], each) in maps]))
            line[0].set_ylabel(f"{key[0]}\n{cut(key[1], 16)}", fontsize=chosen.size.font * 0.8)
        for each, title in zip(grid[0], titles, strict=True):
            each.set_title(title, fontsize=chosen.size.font * 0.8, rotation=30, ha="left", x=0.1)
        left.supxlabel(
            f"colours: one scale for each metric, from its pixels' {_LEAST} % quantile to that of {100 - _LEAST} %",
            fontsize=chosen.size.font * 0.85,
        )
        panels = right.subplots(len(metrics), 1, squeeze=False)[:, 0]
        for axes, each_metric in zip(panels, metrics, strict=True):
            for number, each in enumerate(runs):
                if (each_metric, each) in found:
                    means = layer_summary(found[each_metric, each].values)
                    # Runs may coincide: that is the point of a coherent metric, so both have to be seen.
                    colour, style, marker = run_style(number)
                    axes.errorbar(
                        range(len(means["value"])),
                        means["value"],
                        np.nan_to_num(means["stderr"]),
                        linestyle=style,
                        marker=marker,
                        color=colour,
                        label=cut(each, 20),
                        markersize=max(2, 5 - number),
                    )
            first = next(each for each in runs if (each_metric, each) in found)
            axes.set_title(metric_label(found[each_metric, first].metric), loc="left")
            axes.set_xticks([])
            axes.grid(axis="y")
        name_layers(panels[-1], found[rows[-1]], chosen)
        remark = unproven_text(values.values for values in found.values())
        panels[-1].set_xlabel("layer\nmean ± standard error over all samples" + (f"\n{remark}" if remark else ""))
        if len(runs) > 1:
            panels[0].legend(loc="best", framealpha=0.8)
    return Path(output)


def _limits(rows: Sequence[Sequence[npt.NDArray[np.float32] | None]]) -> tuple[float, float]:
    values = [each[np.isfinite(each)] for row in rows for each in row if each is not None]
    numbers = np.concatenate(values) if values else np.zeros(0)
    low, high = np.percentile(numbers, (_LEAST, 100 - _LEAST)) if numbers.size else (0.0, 1.0)
    return float(low), float(high if high > low else low + 1e-6)


def _row(line: Sequence[Any], maps: Sequence[npt.NDArray[np.float32] | None], limits: tuple[float, float]) -> None:
    for axes, each in zip(line, maps, strict=True):
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
        if each is None:
            axes.text(0.5, 0.5, "no map", ha="center", va="center", transform=axes.transAxes)
            continue
        aspect = "auto" if each.shape[0] == 1 else "equal"
        axes.imshow(each, cmap=SEQUENTIAL, vmin=limits[0], vmax=limits[1], interpolation="nearest", aspect=aspect)
