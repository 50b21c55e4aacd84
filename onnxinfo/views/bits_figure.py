"""Figure of recommended bits: how many each tensor gets, and what its rounding is expected to change."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .canvas import Canvas
from .figure import claim_figure
from .panels import grid_behind, log_x
from .style import COLORS, FigureStyle, short_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw_bits(
    table: Mapping[str, Sequence[Any]],
    output: str | os.PathLike[str] | None,
    *,
    most: int,
    variance: float,
    target: str,
    title: str,
    force: bool = False,
    **style: Any,
) -> Figure:
    """Draw the tensors of a recommendation by depth.

    Parameters
    ----------
    table
        Columns of :meth:`onnxinfo.BitPlan.to_dataframe`.
    output
        PNG, SVG or PDF file; None: none.
    most
        Most bits of a rounded tensor; one with more stays in float.
    variance
        Variance of the target over the samples, the unit of changes; 0 or less: changes are drawn as they are.
    target
        Name of the target.
    title
        Title.
    force
        Replace an existing file whatever it contains.
    **style
        Theme, width, size and dpi; see :meth:`.style.FigureStyle.named`.
    """
    target_file = None if output is None else claim_figure(output, force=force)
    canvas = Canvas(FigureStyle.named(**style), "bits")
    with canvas.context():
        order = np.argsort(table["depth"], kind="stable")
        bits, losses = (np.array(table[name], float)[order] for name in ("bits", "loss"))
        canvas.set_height((len(order) * 1.7 + 8) * canvas.style.font / 72)
        left, right = canvas.panels(1, 2, sharey=True)[0]
        _bits(left, bits, most)
        _changes(right, losses / variance if variance > 0 else losses)
        unit = "variance of " if variance > 0 else ""
        right.set_xlabel(f"expected squared change by this tensor's rounding,\n{unit}{short_names([target], 40)[0]}")
        left.set_yticks(range(len(order)), short_names([table["tensor"][i] for i in order], 32))
        left.set_ylim(len(order) - 0.5, -0.5)
        left.set_ylabel("tensor, by depth")
        canvas.legend(columns=2)
        canvas.alt = f"Bits of {len(order)} tensors, and the change that each one's rounding is expected to cause."
        canvas.finish(title)
    if target_file is not None:
        canvas.write(target_file)
    return canvas.root


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
