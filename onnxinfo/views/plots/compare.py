"""Differences between runs by layer, with confidence intervals."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import UsageError
from ...text import printable, shorten
from ..compare import Match, compare_selected
from ..panels import grid_behind, run_style
from ..plotting import figure_plot
from ..reading_runs import metric_label
from ..selection import Selection
from ..style import FigureStyle, number_text, short_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..canvas import Canvas

_MOST = 30
#: Layers that the height has room for at least: the label of the axis is that high.
_FEWEST = 9


@figure_plot("compare")
def draw_compare(
    canvas: Canvas, selection: Selection, style: FigureStyle, *, by: Match = "layer", unpaired: bool = False
) -> None:
    """Draw the differences of :func:`onnxinfo.compare`, largest first, with 95 % confidence intervals."""
    rows = [
        row | ({"layer": f"{row['layer']}, {row['input']}"} if "input" in row else {})
        for row in compare_selected(selection, by=by, unpaired=unpaired)
        if row["n"]
    ]
    if not rows:
        raise UsageError("no layer has a value in both runs; compare other layers")
    names = list(dict.fromkeys(row["layer"] for row in rows))
    total, names = len(names), names[:_MOST]
    canvas.set_height((max(len(names), _FEWEST) * 1.9 + 8) * style.font / 72)
    axes = canvas.panel()
    _intervals(axes, rows, names)
    axes.axvline(0, color=style.theme.ink, linewidth=0.8)
    axes.set_yticks(range(len(names)), short_names(names, 26))
    axes.set_ylim(len(names) - 0.4, -0.6)
    grid_behind(axes, "x")
    unproven = sum(row["n_unproven"] for row in rows)
    remark = f"; {unproven} of {sum(row['n'] for row in rows)} pairs unproven" if unproven else ""
    label = _label(selection)
    axes.set_xlabel(f"difference in {label}\nbars: 95 % confidence, all samples and noise{remark}")
    skipped = f"; the {len(names)} largest of {total}" if total > len(names) else ""
    axes.set_ylabel(f"layer, largest difference first{skipped}")
    title = f"right of 0: higher than '{shorten(printable(rows[0]['run']), 40)}'"
    canvas.legend(title=title, columns=2)
    canvas.alt = (
        f"Differences in {label} between runs with 95 % confidence intervals, for {len(names)} layers; the largest is "
        f"{number_text(rows[0]['difference'], '+.3g')} at {printable(rows[0]['layer'])}."
    )


def _intervals(axes: Axes, rows: list[dict[str, Any]], names: list[str]) -> None:
    others = list(dict.fromkeys(row["other"] for row in rows))
    for number, other in enumerate(others):
        found = {row["layer"]: row for row in rows if row["other"] == other}
        shown = [name for name in names if name in found]
        x = np.array([found[name]["difference"] for name in shown])
        half = np.array([found[name]["high"] for name in shown]) - x
        y = np.array([names.index(name) for name in shown]) + (number - (len(others) - 1) / 2) * 0.6 / len(others)
        color, _, marker = run_style(number)
        text = shorten(printable(other), 40)
        axes.errorbar(x, y, xerr=np.nan_to_num(half), fmt=marker, color=color, capsize=3, label=text)


def _label(selection: Selection) -> str:
    everything = Selection(selection.paths, metrics=selection.metrics)
    with closing(everything.views()) as views:
        return metric_label(next(views)[0].metrics[0])
