"""What lies behind a layer's mean: the distribution over samples, and the certificates."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import UsageError
from .figure import COLOURS, Look, claim_figure, drawing, look, short_names
from .plot_curve import run_style
from .query import Names, Paths
from .reading_runs import metric_label, read_runs
from .run_values import RunValues
from .wording import unproven_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: From this many samples on a box says more than the points.
_MANY = 200
RATIO_TOLERANCE = 0.05


def plot_distribution(
    path: Paths,
    output: str | os.PathLike[str],
    *,
    run: Names = (),
    layers: Names = (),
    metric: str = "sid",
    samples: Sequence[str | int] = (),
    theme: str = "light",
    width: str = "page",
    force: bool = False,
) -> Path:
    """Draw, for each layer, the samples' values as points and a box: median, quartiles, 5th and 95th percentile.

    The box is over all samples that have a value; points that are not proven are hollow.

    Parameters
    ----------
    path, output, run, layers, metric, samples, theme, width, force
        See :func:`onnxinfo.plot_curve`; one metric.

    Returns
    -------
    Path
        The figure's path.

    Raises
    ------
    UsageError
        Something asked for is not there, or nothing of it is finished.
    ArchiveError
        An archive cannot be read, or the figure cannot be written.
    """
    target = claim_figure(output, path, force=force)
    chosen = look(theme, width)
    runs = read_runs(path, metric, run=run, layers=layers, samples=samples)
    with drawing(target, chosen) as figure:
        figure.set_size_inches(chosen.size.width, chosen.size.width * 0.55 * len(runs) ** 0.7)
        grid = figure.subplots(len(runs), 1, squeeze=False, sharey=True)[:, 0]
        for number, (axes, found) in enumerate(zip(grid, runs, strict=True)):
            _boxes(axes, found, run_style(number)[0], chosen)
            axes.set_ylabel(metric_label(found.metric))
            remark = unproven_text([found.values])
            axes.set_title(
                f"{found.name}: each point is a sample, boxes are quartiles, whiskers 5 % to 95 %"
                + (f"\n{remark} (hollow)" if remark else ""),
                loc="left",
            )
            name_layers(axes, found, chosen)
    return Path(output)


def plot_certificate(
    path: Paths,
    output: str | os.PathLike[str],
    *,
    run: Names = (),
    layers: Names = (),
    metric: str = "sid",
    samples: Sequence[str | int] = (),
    theme: str = "light",
    width: str = "page",
    force: bool = False,
) -> Path:
    """Draw how well each value is known: a point for each sample.

    The panels are those of measured constraint, gap, stationarity residual and probes that the metric keeps; archives
    written before the gap was kept have the residual alone.

    Parameters
    ----------
    path, output, run, layers, metric, samples, theme, width, force
        See :func:`onnxinfo.plot_maps`: one run, one metric.

    Returns
    -------
    Path
        The figure's path.

    Raises
    ------
    UsageError
        Something asked for is not there, several runs are, or the metric has no certificate.
    ArchiveError
        The archive cannot be read, or the figure cannot be written.
    """
    target = claim_figure(output, path, force=force)
    chosen = look(theme, width)
    runs = read_runs(path, metric, run=run, layers=layers, samples=samples)
    if len(runs) > 1:
        raise UsageError("a certificate plot shows one run, and there are several; name one with --run")
    (found,) = runs
    panels = (
        ("ratio", "ratio: measured\nover target\ndeviation"),
        ("gap", "gap: at most so far\nbelow the optimum"),
        ("residual", "residual\n(0 at the optimum)"),
        ("probes", "vector-Jacobian\nproducts"),
    )
    present = [(field, text) for field, text in panels if field in found.values]
    if not present:
        raise UsageError(f"metric '{metric}' has no certificate; 'sid' and 'ru' have")
    with drawing(target, chosen) as figure:
        figure.set_size_inches(chosen.size.width, chosen.size.width * (0.22 * len(present) + 0.12))
        grid = figure.subplots(len(present), 1, squeeze=False, sharex=True)[:, 0]
        for axes, (field, text) in zip(grid, present, strict=True):
            _points(axes, found, field, chosen)
            axes.set_ylabel(text)
            axes.grid(axis="y")
        for field, axes in zip((field for field, _ in present), grid, strict=True):
            if field == "ratio":
                axes.axhspan(1 - RATIO_TOLERANCE, 1 + RATIO_TOLERANCE, color=chosen.theme.faint, alpha=0.5, zorder=0)
                axes.axhline(1, color=chosen.theme.ink, linewidth=0.8)
        name_layers(grid[-1], found, chosen)
        unproven = unproven_text([found.values])
        grid[0].set_title(
            f"{found.name}: {unproven or 'all cells proven'}"
            + ("; crosses are not proven" if unproven else "")
            + (
                f"; grey: tolerance of {RATIO_TOLERANCE:.0%},\nwhich a ratio may miss by twice its standard error"
                if "ratio" in found.values
                else ""
            ),
            loc="left",
        )
    return Path(output)


def name_layers(axes: Axes, found: RunValues, chosen: Look) -> None:
    """Name the layers, which stand at 0, 1, 2, ..., as many as fit."""
    texts = short_names([row.name for row in found.layers], 22)
    step = max(1, round(len(texts) * 0.17 * chosen.size.font / 8 / (chosen.size.width * 0.85)))
    axes.set_xticks(range(0, len(texts), step), texts[::step], rotation=40, ha="right", rotation_mode="anchor")
    axes.set_xticks(range(len(texts)), minor=True)
    axes.set_xlabel("layer, from the input to the output")


def _spread_out(count: int) -> np.ndarray:
    """Return horizontal offsets that keep points of a layer apart; the same at each time."""
    # The golden ratio's multiples fill an interval evenly, whatever their number.
    return ((np.arange(count) * 0.6180339887) % 1 - 0.5) * 0.5


def _boxes(axes: Axes, found: RunValues, colour: str, chosen: Look) -> None:
    values = found.values["value"]
    columns = [row[there] for row, there in zip(values, found.present, strict=True)]
    line = {"color": chosen.theme.ink, "linewidth": 0.9}
    axes.boxplot(
        columns,
        positions=range(len(columns)),
        widths=0.6,
        whis=(5, 95),
        showfliers=False,
        manage_ticks=False,
        medianprops=line | {"linewidth": 1.6},
        boxprops=line,
        whiskerprops=line,
        capprops=line,
        zorder=3,
    )
    size = chosen.size.font * (0.35 if values.shape[1] < _MANY else 0.15)
    for filled in (True, False):
        layer, sample = np.nonzero(found.present & (found.unproven != filled))
        axes.plot(
            layer + _spread_out(values.shape[1])[sample],
            values[layer, sample],
            "o",
            color=colour,
            markersize=size,
            alpha=0.55 if filled else 1,
            markerfacecolor=colour if filled else "none",
            markeredgewidth=0 if filled else 0.8,
            zorder=2,
        )
    axes.grid(axis="y")
    axes.set_axisbelow(True)


def _points(axes: Axes, found: RunValues, field: str, chosen: Look) -> None:
    values = found.values[field].astype(np.float64)
    offsets = _spread_out(values.shape[1])
    for marker, colour, shown in (
        ("o", COLOURS[0], found.values["done"] & found.values["converged"]),
        ("x", COLOURS[5], found.values["done"] & ~found.values["converged"]),
    ):
        layer, sample = np.nonzero(shown & np.isfinite(values))
        axes.plot(
            layer + offsets[sample],
            values[layer, sample],
            marker,
            color=colour,
            markersize=chosen.size.font * 0.4,
            alpha=0.7 if marker == "o" else 1,
            markeredgewidth=0 if marker == "o" else 1.2,
        )
