"""Quality of values: measured constraint, gap, residual and cost of each cell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...errors import UsageError
from ..panels import name_layers, spread_out
from ..plotting import figure_plot
from ..reading_runs import read_runs
from ..run_values import RunValues
from ..selection import Selection
from ..style import COLORS, FigureStyle
from ..wording import unproven_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..canvas import Canvas

RATIO_TOLERANCE = 0.05
_PANELS = {
    "ratio": "ratio: measured\nover target\ndeviation",
    "gap": "gap: upper limit of\nthe distance to the\noptimum, nats",
    "residual": "residual\n(0 at the optimum)",
    "probes": "vector-Jacobian\nproducts",
}


@figure_plot("certificate")
def draw_certificate(canvas: Canvas, selection: Selection, style: FigureStyle) -> None:
    """Draw the quality of each value, with one point per sample.

    The panels show constraint ratio, gap, stationarity residual and probes, as far as the metric has them; archives
    written before the gap was introduced have only the residual.
    """
    metric = selection.metrics[0]
    runs = read_runs(selection, metric)
    if len(runs) > 1:
        raise UsageError("a certificate plot shows one run, and there are several; name one with run=...")
    (found,) = runs
    present = {field: text for field, text in _PANELS.items() if field in found.values}
    if not present:
        raise UsageError(f"metric '{metric}' has no certificate; 'sid' and 'ru' have")
    canvas.set_height(style.width * (0.22 * len(present) + 0.12))
    grid = canvas.panels(len(present), sharex=True)[:, 0]
    for axes, (field, text) in zip(grid, present.items(), strict=True):
        _points(axes, found, field, style)
        axes.set_ylabel(text)
        axes.grid(axis="y")
        if field == "ratio":
            axes.axhspan(1 - RATIO_TOLERANCE, 1 + RATIO_TOLERANCE, color=style.theme.faint, alpha=0.5, zorder=0)
            axes.axhline(1, color=style.theme.ink, linewidth=0.8)
    name_layers(grid[-1], found, style)
    canvas.note(_note(found))
    canvas.alt = (
        f"Quality of each value of {metric} in run {found.name}, by layer: {', '.join(present)}. {_note(found)}."
    )


def _note(found: RunValues) -> str:
    unproven = unproven_text([found.values])
    note = f"{found.name}: {unproven or 'all cells proven'}" + ("; crosses are not proven" if unproven else "")
    if "ratio" in found.values:
        note += f"; gray: tolerance of {RATIO_TOLERANCE:.0%}, which a ratio may miss by twice its standard error"
    return note


def _points(axes: Axes, found: RunValues, field: str, style: FigureStyle) -> None:
    values = found.values[field].astype(np.float64)
    offsets = spread_out(values.shape[1])
    for marker, color, shown in (
        ("o", COLORS[0], found.values["done"] & found.values["converged"]),
        ("x", COLORS[5], found.values["done"] & ~found.values["converged"]),
    ):
        layer, sample = np.nonzero(shown & np.isfinite(values))
        axes.plot(
            layer + offsets[sample],
            values[layer, sample],
            marker,
            color=color,
            markersize=style.font * 0.4,
            alpha=0.7 if marker == "o" else 1,
            markeredgewidth=0 if marker == "o" else 1.2,
        )
