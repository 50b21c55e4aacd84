"""Quality of values: measured constraint, gap, residual and cost of each cell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...errors import UsageError
from ..panels import spread_out
from ..places import Places, check_place, name_places, places_of, spacing
from ..plotting import Place, figure_plot
from ..reading_runs import read_runs
from ..run_values import RunValues
from ..selection import Selection
from ..style import COLORS, FigureStyle
from ..wording import unproven_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..canvas import Canvas

#: The limits of :mod:`onnxinfo.metrics.certificate`.
RATIO_TOLERANCE, GAP_TOLERANCE = 0.05, 0.07
_PANELS = {
    "ratio": "ratio: measured\nover target\ndeviation",
    "gap": "gap: upper limit of\nthe distance to the\noptimum, nats",
    "residual": "residual\n(0 at the optimum)",
    "probes": "cost: passes\nthrough the model",
}


@figure_plot("certificate")
def draw_certificate(canvas: Canvas, selection: Selection, style: FigureStyle, *, x: Place = "index") -> None:
    """Draw the quality of each value, with one point per sample.

    The panels show constraint ratio, gap, stationarity residual and cost (backward passes, or evaluations where there
    are no gradients), as far as the metric has them; archives written before the gap was introduced have only the
    residual. A ratio has a bar of two standard errors, which need only reach the tolerance.
    """
    check_place(x)
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
    (at,) = places_of([found], x)
    for axes, (field, text) in zip(grid, present.items(), strict=True):
        _points(axes, found, field, at, style)
        axes.set_ylabel(text)
        axes.grid(axis="y")
        if field == "ratio":
            axes.axhspan(1 - RATIO_TOLERANCE, 1 + RATIO_TOLERANCE, color=style.theme.faint, alpha=0.5, zorder=0)
            axes.axhline(1, color=style.theme.ink, linewidth=0.8)
    name_places(grid[-1], found, at, x, style)
    canvas.note(_note(found))
    canvas.alt = (
        f"Quality of each value of {metric} in run {found.name}, by layer: {', '.join(present)}. {_note(found)}."
    )


def _note(found: RunValues) -> str:
    unproven = unproven_text([found.values])
    note = f"{found.name}: {unproven or 'all cells proven'}" + ("; crosses are not proven" if unproven else "")
    if "ratio_stderr" in found.values:
        note += f"; a ratio passes if its bar of two standard errors reaches the gray band (± {RATIO_TOLERANCE:.0%})"
    elif "ratio" in found.values:
        note += f"; gray: tolerance of {RATIO_TOLERANCE:.0%}, which a ratio may miss by twice its standard error"
    if "gap" in found.values:
        note += f"; a gap passes up to {GAP_TOLERANCE:g} nats"
    return note


def _points(axes: Axes, found: RunValues, field: str, at: Places, style: FigureStyle) -> None:
    values = found.values[field].astype(np.float64)
    offsets = spread_out(values.shape[1]) * spacing(at)
    stderr = found.values.get(f"{field}_stderr")
    for marker, color, shown in (
        ("o", COLORS[0], found.values["done"] & found.values["converged"]),
        ("x", COLORS[5], found.values["done"] & ~found.values["converged"]),
    ):
        layer, sample = np.nonzero(shown & np.isfinite(values))
        places = at[layer] + offsets[sample]
        if stderr is not None:
            middle, half = values[layer, sample], 2 * np.nan_to_num(stderr[layer, sample])
            axes.vlines(places, middle - half, middle + half, color=color, alpha=0.35, linewidth=style.font * 0.08)
        axes.plot(
            places,
            values[layer, sample],
            marker,
            color=color,
            markersize=style.font * 0.4,
            alpha=0.7 if marker == "o" else 1,
            markeredgewidth=0 if marker == "o" else 1.2,
        )
