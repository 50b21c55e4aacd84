"""A metric by depth with its spread over samples, one line per run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...archive.means import layer_summary
from ...errors import UsageError
from ...text import shorten
from ..comparable import split_apart
from ..floor_line import reference
from ..panels import Line, grid_behind, run_style
from ..places import PLACES, check_place, places_of
from ..plotting import SEVERAL, Place, Spread, figure_plot
from ..reading_runs import check_values, metric_label, read_runs
from ..run_values import RunValues
from ..selection import Selection
from ..style import FigureStyle, number_text, short_names, wrapped
from ..wording import point_text, unproven_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..canvas import Canvas

_BANDS = {"stderr": "mean ± standard error", "iqr": "median and interquartile range"}
_CLOSE_INCHES = 0.16


@dataclass(frozen=True)
class Curve:
    """Values of a run by layer, sorted by depth.

    Attributes
    ----------
    run
        The run's numbers.
    at, middle, low, high
        Position of each layer, its value, and the limits of its band, each of shape (layer,).
    whole
        Whether all samples are proven, of shape (layer,).
    samples
        Number of samples.
    """

    run: RunValues
    at: npt.NDArray[np.float64]
    middle: npt.NDArray[np.float64]
    low: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]
    whole: npt.NDArray[np.bool_]
    samples: int

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers."""
        return tuple(row.name for row in self.run.layers)


@figure_plot("curve", metrics=SEVERAL)
def draw_curve(
    canvas: Canvas, selection: Selection, style: FigureStyle, *, spread: Spread = "stderr", x: Place = "depth"
) -> None:
    """Draw one panel per metric, with a legend of the runs above; see :func:`onnxinfo.plot_curve`."""
    if spread not in _BANDS:
        raise UsageError(f"spread '{spread}' is unknown; choose one of {', '.join(_BANDS)}")
    check_place(x)
    read = [read_runs(selection, name) for name in selection.metrics]
    for each in read:
        check_values(each)
    # Layers whose budget is relative to something else get a line of their own.
    panels = [curves_of([part for each in found for part in split_apart(each)], spread, x) for found in read]
    remark = unproven_text(each.values for found in read for each in found)
    # A run has the same color in all panels, even if it lacks some metrics.
    runs = list(dict.fromkeys(curve.run.name for curves in panels for curve in curves))
    beside = len(panels) > 1 and style.width > 5
    rows, columns = (1, len(panels)) if beside else (len(panels), 1)
    height = style.width * (0.62 if not beside else 0.45 if len(panels) > 2 else 0.5)
    # In narrow figures, the names of runs are stacked.
    names = style.font / 72 * 1.7 * (len(runs) + 1 if style.width < 5 else 2)
    canvas.set_height(height * rows + names)
    room = canvas.height * 0.6 / rows
    for axes, curves in zip(canvas.panels(rows, columns).ravel(), panels, strict=True):
        draw_panel(axes, curves, runs, style, x, style.width * 0.85 / columns)
        axes.set_ylabel(wrapped(metric_label(curves[0].run.metric), room, style))
    title = f"{_BANDS[spread]} over all samples{remark and f'; {remark}'}"
    _legend(canvas, runs, panels, wrapped(title, style.width * 0.9, style), style)
    canvas.alt = " ".join(_said(curve) for curves in panels for curve in curves)


def curves_of(runs: Sequence[RunValues], spread: Spread, x: Place) -> list[Curve]:
    """Return the curves of some runs of one metric; see :func:`draw_curve`."""
    return [_curve(run, at, spread) for run, at in zip(runs, places_of(runs, x), strict=True)]


def draw_panel(
    axes: Axes, curves: Sequence[Curve], runs: Sequence[str], style: FigureStyle, x: Place, room: float
) -> None:
    """Draw curves of one metric; `runs` determines the colors, `room` is the width in inches."""
    for curve in curves:
        _line(axes, curve, *run_style(runs.index(curve.run.name)))
    # Layers without a value keep their position.
    at = np.concatenate([curve.at for curve in curves])
    margin = 0.04 * float(np.ptp(at)) or 0.5
    axes.set_xlim(float(at.min()) - margin, float(at.max()) + margin)
    grid_behind(axes)
    reference(axes, [curve.run for curve in curves], style)
    _label_layers(axes, curves, style, x, room)


def _curve(found: RunValues, at: npt.NDArray[np.float64], spread: Spread) -> Curve:
    summary = layer_summary(found.values)
    middle, low, high = (
        (summary["value"], summary["value"] - summary["stderr"], summary["value"] + summary["stderr"])
        if spread == "stderr"
        else _quartiles(found)
    )
    whole, samples = summary["converged"], int(summary["n"].max())
    return Curve(run=found, at=at, middle=middle, low=low, high=high, whole=whole, samples=samples)


def _said(curve: Curve) -> str:
    """Say in words what a curve shows."""
    run, known = curve.run, np.flatnonzero(np.isfinite(curve.middle))
    title = f"{metric_label(run.metric)}, by layer in run {run.name}, {curve.samples} samples:"
    if not known.size:
        return f"{title} no value."
    names = short_names(curve.layers, 40)
    first, last = known[0], known[-1]
    top, bottom = (known[find(curve.middle[known])] for find in (np.argmax, np.argmin))
    points = [point_text(number_text(curve.middle[i]), names[i], curve.whole[i]) for i in (first, last, bottom, top)]
    return f"{title} from {points[0]} to {points[1]}; least {points[2]}, most {points[3]}."


def _quartiles(found: RunValues) -> tuple[npt.NDArray[Any], ...]:
    rows = zip(found.values["value"], found.present, strict=True)
    quartiles = [np.percentile(row[there], [50, 25, 75]) if there.any() else [np.nan] * 3 for row, there in rows]
    return tuple(np.array(quartiles, dtype=np.float64).reshape(-1, 3).T)


def _line(axes: Axes, curve: Curve, color: str, line: Line, marker: str) -> None:
    if len(curve.at) == 1:
        axes.vlines(curve.at, curve.low, curve.high, color=color, alpha=0.35, linewidth=4)
    axes.fill_between(curve.at, curve.low, curve.high, color=color, alpha=0.25, linewidth=0)
    axes.plot(curve.at, curve.middle, line, color=color)
    for filled in (True, False):
        at = curve.whole == filled
        face = color if filled else axes.get_facecolor()
        # The edge width is constant, so that hollow and filled markers have the same size.
        axes.plot(
            curve.at[at], curve.middle[at], marker, color=color, markerfacecolor=face, markeredgewidth=1.2, zorder=3
        )


def _label_layers(axes: Axes, curves: Sequence[Curve], style: FigureStyle, x: Place, width: float) -> None:
    """Label positions with layer names; if they differ between the curves, with numbers only."""
    named = {(at, name) for curve in curves for at, name in zip(curve.at, curve.layers, strict=True)}
    are_same = len({curve.layers for curve in curves}) == 1
    are_matched = x == "index" and len(named) == len({at for at, _ in named})
    if x == "relative" or not (are_same or are_matched):
        axes.set_xlabel(PLACES[x])
        return
    names: dict[float, list[str]] = {}
    order = sorted(named)
    for (at, _), short in zip(order, short_names([name for _, name in order], 22), strict=True):
        names.setdefault(at, []).append(short)
    places = sorted(names)
    room = (places[-1] - places[0]) * _CLOSE_INCHES * style.font / 8 / width
    ticks: list[float] = []
    # From the end on, so that the last layer is named.
    for at in reversed(places):
        if not ticks or ticks[-1] - at >= room:
            ticks.append(at)
    texts = [names[at][0] + (f" +{len(names[at]) - 1}" if len(names[at]) > 1 else "") for at in ticks]
    axes.set_xticks(ticks, texts, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_xticks([at for at in places if at not in ticks], minor=True)
    skipped = f"; {len(ticks)} of {len(places)} named" if len(ticks) < len(places) else ""
    where = "layer" if x == "index" else "layer, at its depth" if width < 4 else "layer, placed by its depth"
    axes.set_xlabel(wrapped(where + skipped, width, style))


def _legend(
    canvas: Canvas, runs: Sequence[str], panels: Sequence[Sequence[Curve]], title: str, style: FigureStyle
) -> None:
    """Draw a legend of the runs above the panels, where it covers nothing, and explain hollow and missing markers."""
    from matplotlib.lines import Line2D

    curves = [curve for each in panels for curve in each]
    handles = []
    texts = []
    for number, run in enumerate(runs):
        color, line, marker = run_style(number)
        handles.append(Line2D([], [], color=color, linestyle=line, marker=marker))
        samples = max(curve.samples for curve in curves if curve.run.name == run)
        texts.append(f"{shorten(run, 40)} ({samples} sample{'s'[: samples != 1]})")
    if any((~curve.whole & np.isfinite(curve.middle)).any() for curve in curves):
        handles.append(Line2D([], [], color=style.theme.ink, linestyle="", marker="o", markerfacecolor="none"))
        texts.append("hollow: some samples\nare unproven")
    if any(np.isnan(curve.middle).any() for curve in curves):
        handles.append(Line2D([], [], linestyle=""))
        texts.append("no mark: no sample has a value")
    widest = max(len(line) for text in texts for line in text.split("\n"))
    beside = int(style.width / (widest * 0.6 * style.font / 72 + 0.5))
    canvas.legend(handles, texts, title=title, columns=min(3, max(1, beside)))
