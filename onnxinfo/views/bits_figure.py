"""Figure of recommended bits: how many each tensor gets, and what its rounding is expected to change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .canvas import Canvas
from .panels import grid_behind, log_x, tensors_by_depth
from .style import COLORS, short_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_bits(
    canvas: Canvas, table: Mapping[str, Sequence[Any]], *, most: int, variance: float, target: str, title: str
) -> None:
    """Draw the tensors of a recommendation by depth.

    Parameters
    ----------
    canvas
        What is drawn into.
    table
        Columns of :meth:`onnxinfo.BitPlan.to_dataframe`.
    most
        Most bits of a rounded tensor; one with more stays in float.
    variance
        Variance of the target over the samples, the unit of changes; 0 or less: changes are drawn as they are.
    target
        Name of the target.
    title
        Title.
    """
    order = np.argsort(table["depth"], kind="stable")
    bits, losses = (np.array(table[name], float)[order] for name in ("bits", "loss"))
    canvas.set_height((len(order) * 1.7 + 8) * canvas.style.font / 72)
    left, right = canvas.panels(1, 2, sharey=True)[0]
    _bits(left, bits, most)
    _changes(right, losses / variance if variance > 0 else losses)
    unit = "variance of " if variance > 0 else ""
    right.set_xlabel(f"expected squared change by this tensor's rounding,\n{unit}{short_names([target], 40)[0]}")
    tensors_by_depth(left, [table["tensor"][i] for i in order])
    canvas.legend()
    canvas.alt = f"Bits of {len(order)} tensors, and the change that each one's rounding is expected to cause."
    canvas.finish(title)


def _bits(axes: Axes, bits: npt.NDArray[np.float64], most: int) -> None:
    rows = np.arange(len(bits))
    rounded = bits <= most
    axes.barh(rows[rounded], bits[rounded], color=COLORS[0], height=0.6)
    if not rounded.all():
        axes.plot(np.full((~rounded).sum(), most), rows[~rounded], "D", color=COLORS[5], label="stays in float")
    axes.set_xlim(0, most + 0.5)
    axes.set_xticks(range(0, most + 1, 2))
    axes.set_xlabel("bits")
    grid_behind(axes, "x")


def _changes(axes: Axes, changes: npt.NDArray[np.float64]) -> None:
    shown = np.isfinite(changes) & (changes > 0)
    log_x(axes, changes[shown])
    axes.plot(changes[shown], np.nonzero(shown)[0], "o", color=COLORS[1])
    grid_behind(axes, "both")
