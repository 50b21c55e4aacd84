"""Sensitivity by depth, and by channel."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...archive.format import CHANNELS
from ...archive.means import layer_summary
from ...errors import UsageError
from ...text import printable
from ..panels import grid_behind, log_x
from ..plotting import figure_plot
from ..reading_runs import run_values
from ..selection import Selection
from ..style import COLORS, FigureStyle, short_names, wrapped
from ..wording import unproven_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..canvas import Canvas

Floats = npt.NDArray[np.float64]
#: Metric whose archive has the fields that are drawn.
METRIC = "sensitivity"
#: Factor between the mean channel and the ends of the color scale.
_SPAN = 8.0


@figure_plot("sensitivity", metric=(METRIC,))
def draw_sensitivity(canvas: Canvas, selection: Selection, style: FigureStyle) -> None:
    """Draw the noise that each tensor tolerates, its squared Jacobian, and the shares of its channels.

    Tensors are in the order of depth. The heat map, if the archive has channels, shows each tensor's channels from the
    most to the least sensitive one, in units of the tensor's mean channel.

    Raises
    ------
    UsageError
        The selection is not a single run, or its metric is not ``sensitivity``.
    """
    with selection.only_view("sensitivity is of one run") as view:
        if selection.metrics[0] != METRIC:
            raise UsageError(f"plot 'sensitivity' shows the metric '{METRIC}', not '{selection.metrics[0]}'")
        found = run_values(view, METRIC)
        stored = view.run.provenance.get(CHANNELS)
        target = printable(str(view.run.recipe.get("sensitivity_target", "the target")))
        change = printable(str(view.run.recipe.get("sensitivity_change", "")))
    order = np.argsort([row.depth for row in found.layers], kind="stable")
    names = [found.layers[i].name for i in order]
    channels = _channels(stored, names)
    height = (len(names) * 1.6 + 9) * style.font / 72
    canvas.set_height(max(height, style.width * 0.4))
    panels = canvas.panels(1, 3 if channels else 2, sharey=True)[0]
    values = found.values
    std = np.sqrt(np.maximum(_mean(values["square"]) - _mean(values["mean"]) ** 2, 0))
    with np.errstate(divide="ignore", invalid="ignore"):
        tolerance = np.where(std > 0, _mean(values["tolerance"]) / std, np.nan)
    room = style.width * 0.85 / len(panels)
    noise = f"noise that {_effect(change, target)}, in standard deviations of the tensor"
    _bars(panels[0], tolerance[order], COLORS[0], wrapped(noise, room, style))
    _bars(panels[1], layer_summary(values)["value"][order], COLORS[1], f"squared Jacobian of\n{target}, tr(JᵀJ)")
    if channels:
        _heat_map(canvas, panels[2], channels, style)
    canvas.note(unproven_text([values]))
    canvas.alt = f"Noise that each of {len(names)} tensors tolerates, and squared Jacobian of {target}, by depth."
    panels[0].set_yticks(range(len(names)), short_names(names, 24))
    panels[0].set_ylim(len(names) - 0.5, -0.5)
    panels[0].set_ylabel("tensor, by depth")


def _effect(change: str, target: str) -> str:
    """Say in words what a change is, such as ``relative:0.01`` of the target."""
    kind, _, amount = change.partition(":")
    try:
        size = float(amount)
    except ValueError:
        return f"changes {target}"
    return {
        "relative": f"changes {target} by {100 * size:g} % of its variance",
        "absolute": f"changes {target} by {size:g}, squared and summed",
        "kl": f"changes the class probabilities by {size:g} nats",
    }.get(kind, f"changes {target}")


def _mean(values: Floats) -> Floats:
    """Mean over finished samples, NaN where there is none."""
    known = np.isfinite(values)
    count = known.sum(1)
    return np.where(count > 0, np.where(known, values, 0).sum(1) / np.maximum(count, 1), np.nan)


def _channels(stored: Any, names: Sequence[str]) -> list[Floats]:
    """Return sensitivities of channels by layer, descending; empty if the archive has none that make sense."""
    if not isinstance(stored, Mapping):
        return []
    found = []
    for name in names:
        given = stored.get(name)
        numbers = given if isinstance(given, list) and all(isinstance(each, int | float) for each in given) else []
        values = np.array(numbers, dtype=np.float64)
        found.append(np.sort(values[np.isfinite(values) & (values >= 0)])[::-1])
    return found if any(values.any() for values in found) else []


def _bars(axes: Axes, values: Floats, color: str, label: str) -> None:
    shown = np.isfinite(values) & (values > 0)
    log_x(axes, values[shown])
    axes.plot(values[shown], np.nonzero(shown)[0], "o-", color=color)
    axes.set_xlabel(label)
    grid_behind(axes, "both")


def _heat_map(canvas: Canvas, axes: Axes, channels: Sequence[Floats], style: FigureStyle) -> None:
    from matplotlib.colors import LogNorm

    for row, values in enumerate(channels):
        if values.any():
            image = axes.imshow(
                np.maximum(values / values.mean(), 1 / _SPAN)[None],
                extent=(0, 100, row + 0.42, row - 0.42),
                aspect="auto",
                cmap="viridis",
                norm=LogNorm(1 / _SPAN, _SPAN),
                interpolation="nearest",
            )
    axes.set_xlim(0, 100)
    axes.set_xlabel("channels, the most\nsensitive first, %")
    ticks = [1 / _SPAN, 1 / math.sqrt(_SPAN), 1, math.sqrt(_SPAN), _SPAN]
    bar = canvas.figure.colorbar(image, ax=axes, extend="both", ticks=ticks, format="{x:.2g}")
    text = "sensitivity of a channel over that of the mean channel"
    bar.set_label(wrapped(text, canvas.height * 0.6, style), fontsize=style.font)
    bar.minorticks_off()
