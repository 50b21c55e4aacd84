"""Differences between two runs: maps of one minus maps of the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...errors import UsageError
from ...text import printable, shorten
from ..comparable import check_comparable
from ..diverging import DIVERGING, color_map
from ..panels import (
    MOST_LAYERS,
    MOST_SAMPLES,
    aspect_of,
    blank,
    flat_map,
    height_over_width,
    name_row,
    title_column,
)
from ..plotting import figure_plot
from ..reading_runs import metric_label, run_values
from ..run_values import RunValues
from ..run_view import RunView
from ..selection import Selection
from ..style import FigureStyle, evenly, short_names, wrapped
from ..wording import unproven_text

if TYPE_CHECKING:
    from ..canvas import Canvas

_PERCENTILE = 99.5
#: Names of a layer and a sample.
_Cell = tuple[str, str]


@dataclass(frozen=True)
class _Maps:
    """Maps of a run by layer and sample name, as rows and columns."""

    name: str
    label: str
    layers: tuple[str, ...]
    samples: tuple[str, ...]
    maps: dict[_Cell, npt.NDArray[np.float32]]
    pictures: dict[str, npt.NDArray[np.uint8]]
    values: RunValues


@figure_plot("difference", maps=True)
def draw_difference(canvas: Canvas, selection: Selection, style: FigureStyle) -> None:
    """Draw the second run's maps minus the first run's, unit by unit, for layers and samples in both.

    The runs need not be named if there are exactly two; layers and samples are matched by name.
    """
    first, second = _two_runs(selection)
    differences = _differences(first, second)
    layers = [layer for layer in first.layers if any(cell[0] == layer for cell in differences)]
    samples = [sample for sample in first.samples if any(cell[1] == sample for cell in differences)]
    columns = [layers[i] for i in evenly(len(layers), MOST_LAYERS)]
    rows = [samples[i] for i in evenly(len(samples), MOST_SAMPLES)]
    pictures = int(bool(first.pictures))
    # Limit the cell size, so that a grid of a few columns leaves room for the names of its rows, and fits a page.
    cell_size = style.width * min(0.84 / (len(columns) + pictures), 0.25)
    aspect = height_over_width(next(iter(differences.values())))
    height = cell_size * aspect * len(rows) + style.font / 72 * 7
    canvas.set_height(max(height, style.width * 0.25))
    figure = canvas.whole()
    axes = canvas.panels(len(rows), len(columns) + pictures)
    titles = ["input"][:pictures] + short_names(columns, 18)
    for each, title in zip(axes[0], titles, strict=True):
        title_column(each, title, style)
    shown = np.concatenate([abs(differences[c, r]).ravel() for c in columns for r in rows if (c, r) in differences])
    bound = max(float(np.nanpercentile(shown, _PERCENTILE)), 1e-6)
    drawn: Any = None
    for line, sample in zip(axes, rows, strict=True):
        for each in line:
            blank(each)
        name_row(line[0], shorten(printable(sample), 14), height / (len(rows) + 1), style)
        if pictures:
            line[0].imshow(first.pictures[sample], interpolation="nearest")
        cells = [differences.get((layer, sample)) for layer in columns]
        drawn = _row(line[pictures:], cells, bound, style) or drawn
    bar = figure.colorbar(drawn, ax=axes, fraction=0.03, pad=0.015, extend="both")
    bar.set_label(wrapped(f"difference in {first.label}", figure.get_size_inches()[1], style))
    remark = unproven_text([first.values.values, second.values.values])
    canvas.note(
        f"light (orange): '{shorten(second.name, 30)}' is higher; dark (purple): '{shorten(first.name, 30)}' is higher"
    )
    canvas.note(remark)
    canvas.alt = (
        f"Maps of the difference in {first.label}, '{second.name}' minus '{first.name}', for {len(rows)} samples and "
        f"{len(columns)} layers."
    )


def _row(line: Any, cells: list[npt.NDArray[np.float32] | None], bound: float, style: FigureStyle) -> Any:
    """Draw the differences of a sample and return one of the images, None if it has none."""
    drawn = None
    for axes, found in zip(line, cells, strict=True):
        if found is None:
            axes.set_facecolor(style.theme.missing)
        else:
            drawn = axes.imshow(found, cmap=color_map(DIVERGING), vmin=-bound, vmax=bound, aspect=aspect_of(found))
    return drawn


def _differences(first: _Maps, second: _Maps) -> dict[_Cell, npt.NDArray[np.float32]]:
    cells = [cell for cell in first.maps if cell in second.maps]
    same = [cell for cell in cells if first.maps[cell].shape == second.maps[cell].shape]
    if not same:
        raise UsageError(
            f"runs '{first.name}' and '{second.name}' share no layer and sample of the same name and size; "
            "compare them by depth with onnxinfo.compare(by='depth')"
        )
    return {cell: second.maps[cell] - first.maps[cell] for cell in same}


def _two_runs(selection: Selection) -> tuple[_Maps, _Maps]:
    found: list[_Maps] = []
    titles = selection.titles()
    names: list[str] = []
    for view, source in selection.views(least=2):
        if len(found) == 2:
            raise UsageError("a difference is between two runs, and there are more; name two with run=['A', 'B']")
        panel = view.only_panel("a difference is of one input")
        found.append(_maps(panel, selection.metrics[0], titles[source, view.name]))
        names.append(view.name)
    if len(found) != 2:
        raise UsageError(f"a difference is between two runs, and there is {len(found)}; give two archives or runs")
    check_comparable([each.values for each in found])
    if names[0] != names[1] and names[0] in selection.runs and selection.runs.index(names[0]) == 1:
        found.reverse()
    return found[0], found[1]


def _maps(view: RunView, metric: str, title: str) -> _Maps:
    done = view.values(metric)["done"]
    names = [row.name for row in view.layers]
    maps = {
        (names[layer], view.sample_names[sample]): flat_map(view.map(metric, layer, sample), view.axes)
        for layer in evenly(view.shape[0], 4 * MOST_LAYERS)
        for sample in evenly(view.shape[1], 8 * MOST_SAMPLES)
        if done[layer, sample]
    }
    thumbnails = view.thumbnails
    return _Maps(
        name=title,
        label=metric_label(view.metrics[0]),
        layers=tuple(names),
        samples=tuple(view.sample_names),
        maps=maps,
        pictures={} if thumbnails is None else dict(zip(view.sample_names, thumbnails, strict=True)),
        values=run_values(view, metric),
    )
