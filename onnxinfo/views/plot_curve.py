"""The curve: a metric by depth, one line for each run."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from ..archive.format import Metric
from ..archive.table import layer_summary
from ..errors import UsageError
from ..text import printable
from .figure import COLOURS, Look, cut, drawing, look, short_names
from .query import Names, Paths, select_views
from .run_view import RunView

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Spread = Literal["stderr", "iqr"]
#: Least mean SID of a layer that is linear, at the default alpha: 0.5 log(1.5e-4) + 0.5 log(2 pi e) nats.
FLOOR = 0.5 * math.log(1.5e-4) + 0.5 * math.log(2 * math.pi * math.e)
_BANDS = {"stderr": "mean ± standard error", "iqr": "median and interquartile range"}
_CLOSE_INCHES = 0.16


@dataclass(frozen=True)
class Curve:
    """A run's values by layer, in the order of depth.

    Attributes
    ----------
    name, model
        The run and its model.
    layers
        Layer names.
    depth, middle, low, high
        Position of each layer, its value, and the band around it, each of shape (layer,).
    whole
        Whether all samples converged, of shape (layer,).
    samples
        How many samples.
    alpha
        The constraint's alpha if recorded.
    """

    name: str
    model: str
    layers: tuple[str, ...]
    depth: npt.NDArray[np.float64]
    middle: npt.NDArray[np.float64]
    low: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]
    whole: npt.NDArray[np.bool_]
    samples: int
    alpha: float | None


def plot_curve(
    path: Paths,
    output: str | os.PathLike[str],
    *,
    run: Names = (),
    layers: Names = (),
    metric: str = "sid",
    samples: Sequence[str | int] = (),
    spread: Spread = "stderr",
    theme: str = "light",
    width: str = "page",
) -> Path:
    """Draw a metric by depth with its spread over samples, one line for each run.

    A layer of which samples did not converge has a hollow marker; its value is over the samples that did.

    Parameters
    ----------
    path
        An archive, or several.
    output
        The figure: a file that ends in .png, .svg or .pdf.
    run, layers, samples
        What is drawn; see :func:`onnxinfo.query`.
    metric
        The metric.
    spread
        The band: ``stderr``, the mean and its standard error, or ``iqr``, the samples' median and quartiles.
    theme
        ``light`` or ``dark``.
    width
        ``column`` (3.5 in), ``page`` (7.2 in) or ``slide`` (12 in).

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
    if spread not in _BANDS:
        raise UsageError(f"spread '{spread}' is unknown; choose one of {', '.join(_BANDS)}")
    chosen = look(theme, width)
    views = select_views(path, run=run, layers=layers, metrics=[metric], samples=samples)
    described: Metric | None = None
    curves = []
    for view, _ in views:
        described = view.metrics[0]
        curve = _curve(view, metric, spread)
        if curve.layers:
            curves.append(curve)
    if described is None or not curves:
        raise UsageError(f"no cell of metric '{printable(metric)}' is finished; there is nothing to draw")
    with drawing(output, chosen) as figure:
        figure.set_size_inches(chosen.size.width, chosen.size.width * 0.62)
        axes = figure.add_subplot()
        for number, curve in enumerate(curves):
            _draw(axes, curve, COLOURS[number % len(COLOURS)], "-" if number < len(COLOURS) else "--")
        _reference(axes, described, curves, chosen)
        axes.set_ylabel(f"{metric.upper()}, {described.units} per input unit")
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        _label_depths(axes, curves, chosen)
        _legend(axes, curves, spread, chosen)
    return Path(output)


def _curve(view: RunView, metric: str, spread: Spread) -> Curve:
    values = view.values(metric)
    summary = layer_summary(values)
    middle, low, high = (
        (summary["value"], summary["value"] - summary["stderr"], summary["value"] + summary["stderr"])
        if spread == "stderr"
        else _quartiles(values)
    )
    depth = np.array([row.depth for row in view.layers], dtype=np.float64)
    shown = np.nonzero(summary["n"] > 0)[0]
    order = shown[np.argsort(depth[shown], kind="stable")]
    alpha = view.run.recipe.get("alpha")
    return Curve(
        name=printable(view.name),
        model=str(view.run.provenance.get("model_name", "")),
        layers=tuple(view.layers[i].name for i in order),
        depth=depth[order],
        middle=middle[order],
        low=low[order],
        high=high[order],
        whole=summary["converged"][order],
        samples=int(summary["n"].max()),
        alpha=float(alpha) if isinstance(alpha, int | float) and alpha > 0 else None,
    )


def _quartiles(values: dict[str, npt.NDArray[Any]]) -> tuple[npt.NDArray[Any], ...]:
    kept = values["done"] & values["converged"]
    found = [np.percentile(row[use], [50, 25, 75]) if use.any() else [np.nan] * 3 for row, use in _rows(values, kept)]
    return tuple(np.array(found, dtype=np.float64).reshape(-1, 3).T)


def _rows(values: dict[str, npt.NDArray[Any]], kept: npt.NDArray[np.bool_]) -> Any:
    return zip(values["value"], kept, strict=True)


def _draw(axes: Axes, curve: Curve, colour: str, style: str) -> None:
    axes.fill_between(curve.depth, curve.low, curve.high, color=colour, alpha=0.25, linewidth=0)
    axes.plot(curve.depth, curve.middle, style, color=colour)
    for filled in (True, False):
        at = curve.whole == filled
        face = colour if filled else axes.get_facecolor()
        # The edge keeps its width, so that a hollow marker is as large as a full one.
        axes.plot(
            curve.depth[at], curve.middle[at], "o", color=colour, markerfacecolor=face, markeredgewidth=1.2, zorder=3
        )


def _reference(axes: Axes, metric: Metric, curves: Sequence[Curve], chosen: Look) -> None:
    """Show the least SID of a linear layer, where the recipe's alpha is known."""
    alphas = {curve.alpha for curve in curves}
    if metric.name != "sid" or len(alphas) != 1 or None in alphas:
        return
    (alpha,) = alphas
    assert alpha is not None
    floor = FLOOR + 0.5 * math.log(alpha / 1.5e-4)
    lowest, highest = (
        min(float(np.nanmin(curve.low)) if np.isfinite(curve.low).any() else math.inf for curve in curves),
        max(float(np.nanmax(curve.high)) if np.isfinite(curve.high).any() else -math.inf for curve in curves),
    )
    # Far from the data it would only squeeze them.
    if not floor - 0.5 < lowest < floor + 2 * max(highest - lowest, 0.05):
        return
    axes.axhline(floor, color=chosen.theme.ink, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.annotate(
        f"floor of a linear layer: {floor:.4f}",
        (1, floor),
        xycoords=("axes fraction", "data"),
        xytext=(-2, 2),
        textcoords="offset points",
        ha="right",
        va="bottom",
        fontsize=chosen.size.font * 0.85,
    )


def _label_depths(axes: Axes, curves: Sequence[Curve], chosen: Look) -> None:
    """Name the layers below their depths; with models that differ, give the depths alone."""
    named = {(depth, name) for curve in curves for depth, name in zip(curve.depth, curve.layers, strict=True)}
    names: dict[float, list[str]] = {}
    order = sorted(named)
    for (depth, _), short in zip(order, short_names([name for _, name in order], 22), strict=True):
        names.setdefault(depth, []).append(short)
    if len({curve.layers for curve in curves}) > 1:
        axes.set_xlabel("depth of the layer, in nodes from the input")
        return
    depths = sorted(names)
    room = (depths[-1] - depths[0]) * _CLOSE_INCHES * chosen.size.font / 8 / (chosen.size.width * 0.85)
    ticks: list[float] = []
    for depth in depths:
        if not ticks or depth - ticks[-1] >= room:
            ticks.append(depth)
    texts = [names[depth][0] + (f" +{len(names[depth]) - 1}" if len(names[depth]) > 1 else "") for depth in ticks]
    axes.set_xticks(ticks, texts, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_xticks([depth for depth in depths if depth not in ticks], minor=True)
    skipped = f"; {len(ticks)} of {len(depths)} named" if len(ticks) < len(depths) else ""
    axes.set_xlabel(f"layer, placed by its depth (nodes from the input{skipped})")


def _legend(axes: Axes, curves: Sequence[Curve], spread: Spread, chosen: Look) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=COLOURS[i % len(COLOURS)], linestyle="-" if i < len(COLOURS) else "--", marker="o")
        for i in range(len(curves))
    ]
    texts = [f"{cut(curve.name, 40)} ({curve.samples} samples)" for curve in curves]
    if not all(curve.whole.all() for curve in curves):
        hollow = Line2D([], [], color=chosen.theme.ink, linestyle="", marker="o", markerfacecolor="none")
        handles.append(hollow)
        texts.append("hollow: some samples did not\nconverge and are left out")
    legend = axes.legend(handles, texts, title=_BANDS[spread] + " over samples", loc="best", framealpha=0.8)
    legend.get_title().set_fontsize(chosen.size.font * 0.9)
