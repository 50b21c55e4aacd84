"""One figure that tells the story: the curve with its floor and spread, and maps of three samples below it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...archive.means import layer_summary
from ...text import printable
from ..captions import sample_captions
from ..floor_line import draw_floor, name_floor, reference
from ..map_grid import Band, Map, MapGrid, Row
from ..panels import (
    flat_map,
    grid_behind,
    layer_groups,
    mean_of_known,
    tick_layers,
)
from ..places import check_place
from ..plotting import Place, figure_plot
from ..reading_runs import check_values, metric_label, nothing_finished, run_values
from ..run_values import RunValues
from ..run_view import RunView
from ..selection import Selection
from ..style import COLORS, FigureStyle, evenly, number_text, short_names, wrapped
from ..wording import point_text, unproven_text
from .curve import curves_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..canvas import Canvas

_MOST_LAYERS = 4
#: Metrics whose larger values mean that more is discarded.
_DISCARDING = ("sid", "ru")
#: Colors and line styles of the three samples, from the highest value to the lowest.
_LINES = ((COLORS[5], (0, (1, 1))), (COLORS[2], "-"), (COLORS[3], (0, (4, 2))))


@dataclass(frozen=True)
class _Sample:
    """A sample that is shown: why, its position in the view, and its place in ``_LINES``."""

    role: str
    position: int
    line: int = 1


@figure_plot("overview")
def draw_overview(canvas: Canvas, selection: Selection, style: FigureStyle, *, x: Place = "index") -> None:
    """Draw a metric by layer with its floor and its spread over samples, and maps of three samples below.

    The samples are the one with the most, the median and the least of the metric, averaged over the layers in which
    they are proven, except layers that are mostly unproven; the maps are those of four layers, on color scales of their
    own. Without maps only the curve is drawn.
    """
    check_place(x)
    (metric,) = selection.metrics
    with selection.only_view("an overview shows one run") as view:
        found = run_values(view, metric)
        if not found.layers:
            raise nothing_finished(metric)
        check_values([found])
        samples = _chosen(found)
        order = [view.layers.index(row) for row in found.layers]
        places = [i for i in range(len(order)) if found.present[i, [each.position for each in samples]].any()]
        shown = [places[i] for i in evenly(len(places), _MOST_LAYERS)]
        has_map = view.metrics[0].has_map and bool(shown)
        panel = view.panels()[0]
        band = _band(panel, found, samples, (shown, [order[i] for i in shown])) if has_map else None
    width = style.width
    if band is None:
        canvas.set_height(width * 0.5)
        top: Any = canvas.whole()
    else:
        grid = MapGrid([band], style, largest=0.15)
        # In narrow figures, the names of layers and lines take as much room as the curve.
        heights = [width * 0.4 + (0 if _is_wide(style) else style.font * 14 / 72), grid.height(is_shared=False)]
        canvas.set_height(sum(heights))
        halves: Any = canvas.whole().subfigures(2, 1, height_ratios=heights)
        top, bottom = halves
        grid.draw(bottom, None, metric_label(found.metric))
    axes = top.add_subplot()
    _draw_curve(axes, found, samples, shown if band is not None else [], style, x)
    axes.set_ylabel(wrapped(metric_label(found.metric), width * 0.3, style))
    _notes(canvas, found, band is not None)


def _is_wide(style: FigureStyle) -> bool:
    return style.width > 5


def _notes(canvas: Canvas, found: RunValues, has_maps: bool) -> None:
    name = found.metric.name
    what = "How much of its input each layer discards" if name == "sid" else metric_label(found.metric)
    canvas.title = f"{found.name}: {what[0].lower()}{what[1:]}"
    count = found.values["value"].shape[1]
    # One sample has no spread, and one layer a bar instead of bands.
    spread = (
        "" if count == 1 else "; bar: 5 % to 95 %" if len(found.layers) == 1 else "; bands: quartiles, and 5 % to 95 %"
    )
    canvas.note(f"mean of {count} sample{'s'[: count != 1]}{spread}")
    if has_maps:
        canvas.note("maps: light is discarded, dark is kept" if name == "sid" else "maps: light is high, dark is low")
        canvas.note("▲ marks their layers, each with a scale of its own")
    else:
        canvas.note(f"no maps: {name} has no values of single input units")
    if remark := unproven_text([found.values]):
        canvas.note(f"hollow, ?: not proven ({remark})")
        if not found.unproven[_ranked(found)].any():
            canvas.note("samples are chosen by their proven values")
    layers = layer_summary(found.values)
    means, known = layers["value"], np.flatnonzero(np.isfinite(layers["value"]))
    ends = [
        point_text(number_text(means[i]), printable(found.layers[i].name), layers["converged"][i])
        for i in (known[[0, -1]] if len(known) else [])
    ]
    canvas.alt = (
        f"{canvas.title}. Mean {metric_label(found.metric)}, over the layers from the input to the output"
        + (f": from {ends[0]} to {ends[1]}." if ends else ".")
        + (" Below, maps of three samples." if has_maps else "")
    )


def _chosen(found: RunValues) -> list[_Sample]:
    """Return the samples with the most, the median and the least of the metric; fewer if there are fewer."""
    values = np.where(_ranked(found), found.values["value"], np.nan)
    # Relative to the layer's mean, so that a sample whose deep layers are not finished is not a low one.
    scores = mean_of_known(values - mean_of_known(values, (1,))[:, None], (0,))
    order = [int(i) for i in np.argsort(scores, kind="stable") if np.isfinite(scores[i])]
    most, least = ("most discarded", "least discarded") if found.metric.name in _DISCARDING else ("highest", "lowest")
    if len(order) < 2:
        return [_Sample("the only sample", at) for at in order]
    typical = [_Sample("typical", order[len(order) // 2])] if len(order) > 2 else []
    return [_Sample(most, order[-1], 0), *typical, _Sample(least, order[0], 2)]


def _ranked(found: RunValues) -> npt.NDArray[np.bool_]:
    """Return the cells by which samples are chosen: all that have a value, or the proven ones of reliable layers.

    The latter are taken if at least two samples have any.
    """
    proven = found.present & ~found.unproven & found.reliable[:, None]
    return proven if proven.any(axis=0).sum() > 1 else found.present


def _band(panel: RunView, found: RunValues, samples: list[_Sample], at: tuple[list[int], list[int]]) -> Band | None:
    """Read the maps of some samples; `at` holds the layers' positions by depth, and in the view."""
    places, layers = at
    names = short_names([row.name for row in found.layers], 22)
    captions, pictures = sample_captions(panel, 20), panel.thumbnails
    band = Band([names[place] for place in places], metric=found.metric.name)
    for sample in samples:
        cells: list[Map | None] = [
            flat_map(panel.map(found.metric.name, layer, sample.position), panel.axes)
            if found.present[place, sample.position]
            else None
            for place, layer in zip(places, layers, strict=True)
        ]
        mean = float(np.nanmean(np.where(found.present, found.values["value"], np.nan)[:, sample.position]))
        mark = "?" if found.unproven[:, sample.position].any() else ""
        value = f"{found.metric.name.upper()[:12]} {number_text(mean)}{mark}"
        caption = [sample.role, *captions[sample.position], value]
        picture = None if pictures is None else pictures[sample.position]
        proven = [bool(found.values["converged"][place, sample.position]) for place in places]
        if any(cell is not None and np.isfinite(cell).any() for cell in cells):
            band.rows.append(Row(caption, picture, cells, proven))
    return band if band.rows else None


def _draw_curve(
    axes: Axes, found: RunValues, samples: list[_Sample], marked: list[int], style: FigureStyle, x: Place
) -> None:
    (curve,) = curves_of([found], "stderr", x)
    at, values = curve.at, np.where(found.present, found.values["value"], np.nan)
    color = COLORS[0]
    with np.errstate(all="ignore"):
        spread = [np.array([_percentile(row, share) for row in values]) for share in (5, 25, 75, 95)]
    if len(at) == 1:
        axes.vlines(at, spread[0], spread[3], color=color, alpha=0.35, linewidth=style.font * 0.6)
    axes.fill_between(at, spread[0], spread[3], color=color, alpha=0.14, linewidth=0)
    axes.fill_between(at, spread[1], spread[2], color=color, alpha=0.22, linewidth=0)
    axes.plot(at, curve.middle, "-", color=color, linewidth=2, zorder=3, label="mean")
    for sample in samples if len(samples) > 1 else []:
        shade, dashes = _LINES[sample.line]
        # A line through one layer is no more than a point, which a dash shows.
        line: dict[str, Any] = {"linestyle": dashes} if len(at) > 1 else {"linestyle": "none", "marker": "_"}
        axes.plot(at, values[:, sample.position], color=shade, linewidth=1.0, label=sample.role, **line)
    for filled in (True, False):
        chosen = curve.whole == filled
        face = color if filled else axes.get_facecolor()
        axes.plot(
            at[chosen], curve.middle[chosen], "o", color=color, markerfacecolor=face, markeredgewidth=1.2, zorder=4
        )
    margin = 0.03 * float(np.ptp(at)) or 0.5
    axes.set_xlim(float(at.min()) - margin, float(at.max()) + margin)
    grid_behind(axes)
    _draw_reference(axes, found, style)
    if marked:
        bottom = axes.get_xaxis_transform()
        axes.plot(at[marked], np.full(len(marked), 0.02), "^", color=style.theme.ink, transform=bottom, clip_on=False)
    layer_groups(axes, [row.name for row in found.layers], at, style)
    tick_layers(axes, [row.name for row in found.layers], at, style)
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=5 if _is_wide(style) else 2,
        handlelength=2.2,
        columnspacing=1.5,
        title=f"mean, and {'thin lines' if len(at) > 1 else 'dashes'}: "
        + (f"{len(samples)} samples, shown below" if marked else f"{len(samples)} samples")
        if len(samples) > 1
        else None,
        alignment="left",
    )


def _draw_reference(axes: Axes, found: RunValues, style: FigureStyle) -> None:
    """Draw the floor, which the legend names: in the panel, its name would cover a sample's line."""
    if found.metric.name == "concentration":
        reference(axes, [found], style)
        return
    floor = draw_floor(axes, [found], style)
    if floor is None:
        return
    if floor.line is None:
        name_floor(axes, floor, "y", style)
    else:
        floor.line.set_label(floor.text)


def _percentile(row: npt.NDArray[np.float64], share: float) -> float:
    known = row[np.isfinite(row)]
    return float(np.percentile(known, share)) if known.size else float("nan")
