"""Figure of what tensors reveal of the input: accuracy left, noise, and the bound beside a decoder's error."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .canvas import Canvas
from .panels import grid_behind, log_x, tensors_by_depth
from .style import COLORS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Table = Mapping[str, Sequence[Any]]


def draw_leakage(
    canvas: Canvas, table: Table, *, accuracy: float, unit: str, guess: float, notes: Sequence[str]
) -> None:
    """Draw the tensors of a leakage by depth.

    Parameters
    ----------
    canvas
        What is drawn into.
    table
        Columns of :meth:`onnxinfo.Leakage.table`.
    accuracy
        Accuracy without noise; NaN: no accuracy is drawn.
    unit
        Unit of the errors.
    guess
        Error of guessing the mean of each channel, in this unit.
    notes
        Sentences below the figure.
    """
    order = np.argsort(table["depth"], kind="stable")
    count = len(order)
    canvas.set_height((count * 1.9 + 11) * canvas.style.font / 72)
    panels = canvas.panels(1, 2 if math.isnan(accuracy) else 3, sharey=True)[0]
    _noise(panels[-2], _column(table, "noise_std", order))
    _errors(panels[-1], table, order, unit, guess)
    if not math.isnan(accuracy):
        _accuracy(panels[0], table, order, accuracy)
    tensors_by_depth(panels[0], [table["tensor"][i] for i in order])
    for note in notes:
        canvas.note(note)
    canvas.legend(columns=4)
    canvas.alt = f"Accuracy under noise, noise, and bound on reconstructions of the input, of {count} tensors."
    canvas.finish()


def _column(table: Table, name: str, order: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
    return np.array(table[name], dtype=np.float64)[order]


def _accuracy(axes: Axes, table: Table, order: npt.NDArray[np.intp], clean: float) -> None:
    value, low, high = (_column(table, f"accuracy{end}", order) for end in ("", "_low", "_high"))
    axes.axvline(clean, color=COLORS[0], linestyle=":", label="accuracy without noise")
    around = np.maximum(0, [value - low, high - value])
    axes.errorbar(value, np.arange(len(value)), xerr=around, fmt="o", color=COLORS[0], label="with noise, and 95 %")
    axes.set_xlim(0, 1)
    axes.set_xlabel("accuracy")
    grid_behind(axes, "both")


def _noise(axes: Axes, noise: npt.NDArray[np.float64]) -> None:
    shown = np.isfinite(noise) & (noise > 0)
    log_x(axes, noise[shown])
    axes.plot(noise[shown], np.nonzero(shown)[0], "o", color=COLORS[1])
    axes.set_xlabel("noise, in standard\ndeviations of the tensor")
    grid_behind(axes, "both")


def _errors(axes: Axes, table: Table, order: npt.NDArray[np.intp], unit: str, guess: float) -> None:
    kinds = (
        ("bound", "bound", "|", 12, COLORS[2]),
        ("lowest", "lowest bound of a sample", "4", 8, COLORS[3]),
        ("attack", "decoder", "D", 5, COLORS[5]),
    )
    drawn = [guess]
    for name, label, marker, size, color in kinds:
        values = _column(table, name, order)
        shown = np.isfinite(values) & (values > 0)
        drawn.extend(values[shown])
        if shown.any():
            axes.plot(values[shown], np.nonzero(shown)[0], marker, color=color, markersize=size, label=label)
    axes.axvline(guess, color=COLORS[5], linestyle=":", label="guessing the mean")
    log_x(axes, drawn)
    axes.set_xlabel(f"mean squared error per input\nunit, over the {unit if unit == 'variance' else 'squared range'}")
    grid_behind(axes, "both")
