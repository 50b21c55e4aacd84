"""A metric by depth with its spread over samples, one line per run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...archive.format import Metric
from ...archive.means import layer_summary
from ...errors import UsageError
from ...text import shorten
from ..comparable import split_apart
from ..floor import linear_floor, relative_alpha
from ..panels import Line, grid_behind, run_style, set_height, zero_line
from ..plotting import SEVERAL, Spread, figure_plot
from ..reading_runs import metric_label, read_runs
from ..run_values import RunValues
from ..selection import Selection
from ..style import FigureStyle, short_names, wrapped
from ..wording import unproven_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BANDS = {"stderr": "mean ± standard error", "iqr": "median and interquartile range"}
_CLOSE_INCHES = 0.16


@dataclass(frozen=True)
class Curve:
    """Values of a run by layer, sorted by depth.

    Attributes
    ----------
    name
        Name of the run.
    metric
        Name of the metric.
    layers
        Layer names.
    depth, middle, low, high
        Position of each layer, its value, and the limits of its band, each of shape (layer,).
    whole
        Whether all samples are proven, of shape (layer,).
    samples
        Number of samples.
    alpha
        The constraint's alpha, if recorded and relative to D.
    """

    name: str
    metric: Metric
    layers: tuple[str, ...]
    depth: npt.NDArray[np.float64]
    middle: npt.NDArray[np.float64]
    low: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]
    whole: npt.NDArray[np.bool_]
    samples: int
    alpha: float | None


@figure_plot("curve", metrics=SEVERAL)
def draw_curve(figure: Figure, selection: Selection, style: FigureStyle, *, spread: Spread = "stderr") -> None:
    """Draw one panel per metric, with a legend of the runs above; see :func:`onnxinfo.plot_curve`."""
    if spread not in _BANDS:
        raise UsageError(f"spread '{spread}' is unknown; choose one of {', '.join(_BANDS)}")
    read = [read_runs(selection, name) for name in selection.metrics]
    # Layers whose budget is relative to something else get a line of their own.
    panels = [[_curve(part, spread) for each in found for part in split_apart(each)] for found in read]
    remark = unproven_text(each.values for found in read for each in found)
    # A run has the same color in all panels, even if it lacks some metrics.
    runs = list(dict.fromkeys(curve.name for curves in panels for curve in curves))
    beside = len(panels) > 1 and style.width > 5
    rows, columns = (1, len(panels)) if beside else (len(panels), 1)
    height = style.width * (0.62 if not beside else 0.45 if len(panels) > 2 else 0.5)
    # In narrow figures, the names of runs are stacked.
    names = style.font / 72 * 1.7 * (len(runs) + 1 if style.width < 5 else 2)
    set_height(figure, style, height * rows + names)
    for axes, curves in zip(figure.subplots(rows, columns, squeeze=False).ravel(), panels, strict=True):
        _panel(axes, curves, runs, style, style.width * 0.85 / columns)
    title = f"{_BANDS[spread]} over all samples{remark and f'; {remark}'}"
    _legend(figure, runs, panels, wrapped(title, style.width * 0.9, style), style)


def _panel(axes: Axes, curves: Sequence[Curve], runs: Sequence[str], style: FigureStyle, room: float) -> None:
    """Draw curves of one metric; `runs` determines the colors, `room` is the width in inches."""
    for curve in curves:
        _line(axes, curve, *run_style(runs.index(curve.name)))
    # Layers without a value keep their position.
    depths = np.concatenate([curve.depth for curve in curves])
    margin = 0.04 * float(np.ptp(depths)) or 0.5
    axes.set_xlim(float(depths.min()) - margin, float(depths.max()) + margin)
    _reference(axes, curves, style)
    rows = 1 if (place := axes.get_subplotspec()) is None else place.get_gridspec().nrows
    figure = axes.get_figure(root=True)
    height = 0.6 * (style.width if figure is None else figure.get_figheight()) / rows
    axes.set_ylabel(wrapped(metric_label(curves[0].metric), height, style))
    grid_behind(axes)
    _label_depths(axes, curves, style, room)


def _curve(found: RunValues, spread: Spread) -> Curve:
    values = found.values
    summary = layer_summary(values)
    middle, low, high = (
        (summary["value"], summary["value"] - summary["stderr"], summary["value"] + summary["stderr"])
        if spread == "stderr"
        else _quartiles(found)
    )
    return Curve(
        name=found.name,
        metric=found.metric,
        layers=tuple(row.name for row in found.layers),
        depth=np.array([row.depth for row in found.layers], dtype=np.float64),
        middle=middle,
        low=low,
        high=high,
        whole=summary["converged"],
        samples=int(summary["n"].max()),
        alpha=relative_alpha(found.recipe),
    )


def _quartiles(found: RunValues) -> tuple[npt.NDArray[Any], ...]:
    rows = zip(found.values["value"], found.present, strict=True)
    quartiles = [np.percentile(row[there], [50, 25, 75]) if there.any() else [np.nan] * 3 for row, there in rows]
    return tuple(np.array(quartiles, dtype=np.float64).reshape(-1, 3).T)


def _line(axes: Axes, curve: Curve, color: str, line: Line, marker: str) -> None:
    axes.fill_between(curve.depth, curve.low, curve.high, color=color, alpha=0.25, linewidth=0)
    axes.plot(curve.depth, curve.middle, line, color=color)
    for filled in (True, False):
        at = curve.whole == filled
        face = color if filled else axes.get_facecolor()
        # The edge width is constant, so that hollow and filled markers have the same size.
        axes.plot(
            curve.depth[at], curve.middle[at], marker, color=color, markerfacecolor=face, markeredgewidth=1.2, zorder=3
        )


def _reference(axes: Axes, curves: Sequence[Curve], style: FigureStyle) -> None:
    """Show the minimum SID of a linear layer, if the recipe's alpha is known; zero for concentration."""
    if curves[0].metric.name == "concentration":
        zero_line(axes, style)
    alphas = {curve.alpha for curve in curves}
    if curves[0].metric.name != "sid" or len(alphas) != 1 or None in alphas:
        return
    (alpha,) = alphas
    assert alpha is not None
    floor = linear_floor(alpha)
    lowest, highest = (
        min(float(np.nanmin(curve.low)) if np.isfinite(curve.low).any() else math.inf for curve in curves),
        max(float(np.nanmax(curve.high)) if np.isfinite(curve.high).any() else -math.inf for curve in curves),
    )
    # Far from the data, the line would only compress them.
    if not floor - 0.5 < lowest < floor + 2 * max(highest - lowest, 0.05):
        return
    zero_line(axes, style, floor)
    axes.annotate(
        f"floor of a linear layer: {floor:.4f}",
        (1, floor),
        xycoords=("axes fraction", "data"),
        xytext=(-2, 2),
        textcoords="offset points",
        ha="right",
        va="bottom",
        fontsize=style.font * 0.85,
    )


def _label_depths(axes: Axes, curves: Sequence[Curve], style: FigureStyle, width: float) -> None:
    """Label the depths with layer names; if the models differ, show the depths only."""
    named = {(depth, name) for curve in curves for depth, name in zip(curve.depth, curve.layers, strict=True)}
    names: dict[float, list[str]] = {}
    order = sorted(named)
    for (depth, _), short in zip(order, short_names([name for _, name in order], 22), strict=True):
        names.setdefault(depth, []).append(short)
    if len({curve.layers for curve in curves}) > 1:
        axes.set_xlabel("depth of the layer")
        return
    depths = sorted(names)
    room = (depths[-1] - depths[0]) * _CLOSE_INCHES * style.font / 8 / width
    ticks: list[float] = []
    for depth in depths:
        if not ticks or depth - ticks[-1] >= room:
            ticks.append(depth)
    texts = [names[depth][0] + (f" +{len(names[depth]) - 1}" if len(names[depth]) > 1 else "") for depth in ticks]
    axes.set_xticks(ticks, texts, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_xticks([depth for depth in depths if depth not in ticks], minor=True)
    skipped = f"; {len(ticks)} of {len(depths)} named" if len(ticks) < len(depths) else ""
    axes.set_xlabel("layer, at its depth" + skipped if width < 4 else f"layer, placed by its depth{skipped}")


def _legend(
    figure: Figure, runs: Sequence[str], panels: Sequence[Sequence[Curve]], title: str, style: FigureStyle
) -> None:
    """Draw a legend of the runs above the panels, where it covers nothing, and explain hollow and missing markers."""
    from matplotlib.lines import Line2D

    curves = [curve for each in panels for curve in each]
    handles = []
    texts = []
    for number, run in enumerate(runs):
        color, line, marker = run_style(number)
        handles.append(Line2D([], [], color=color, linestyle=line, marker=marker))
        samples = max(curve.samples for curve in curves if curve.name == run)
        texts.append(f"{shorten(run, 40)} ({samples} sample{'s'[: samples != 1]})")
    if any((~curve.whole & np.isfinite(curve.middle)).any() for curve in curves):
        handles.append(Line2D([], [], color=style.theme.ink, linestyle="", marker="o", markerfacecolor="none"))
        texts.append("hollow: some samples\nare unproven")
    if any(np.isnan(curve.middle).any() for curve in curves):
        handles.append(Line2D([], [], linestyle=""))
        texts.append("no mark: no sample has a value")
    widest = max(len(line) for text in texts for line in text.split("\n"))
    beside = int(style.width / (widest * 0.6 * style.font / 72 + 0.5))
    drawn = figure.legend(handles, texts, title=title, loc="outside upper center", ncols=min(3, max(1, beside)))
    drawn.get_title().set_fontsize(style.font * 0.9)
