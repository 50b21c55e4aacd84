"""Where plots place the layers of a network along an axis: by depth, by relative depth, or at equal distances."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..errors import UsageError
from .panels import name_layers, tick_layers
from .plotting import Place
from .run_values import RunValues
from .style import FigureStyle

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Places = npt.NDArray[np.float64]
#: Label of an axis with numbers.
PLACES = {"depth": "depth of the layer", "relative": "relative depth of the layer", "index": "index of the layer"}


def check_place(x: str) -> None:
    """Refuse an unknown place of layers.

    Raises
    ------
    UsageError
        It is unknown.
    """
    if x not in PLACES:
        raise UsageError(f"x '{x}' is unknown; choose one of {', '.join(PLACES)}")


def places_of(runs: Sequence[RunValues], x: Place) -> list[Places]:
    """Return the places of the layers of each run."""
    if x == "index":
        rows = sorted({row for run in runs for row in run.layers}, key=lambda row: (row.depth, row.index))
        index = {name: i for i, name in enumerate(dict.fromkeys(row.name for row in rows))}
        # Layers of one network are matched by name; runs of other networks count their own.
        if not all({row.name for row in run.layers} & {row.name for row in runs[0].layers} for run in runs):
            return [np.arange(len(run.layers), dtype=np.float64) for run in runs]
        return [np.array([index[row.name] for row in run.layers], dtype=np.float64) for run in runs]
    depths = [np.array([row.depth for row in run.layers], dtype=np.float64) for run in runs]
    if x == "depth":
        return depths
    return [depth / max(run.deepest, 1) for run, depth in zip(runs, depths, strict=True)]


def spacing(at: Places) -> float:
    """Return the smallest distance of two places, which what is drawn of one layer must keep to; 1 for one place."""
    distinct = np.unique(at)
    return float(np.diff(distinct).min()) if distinct.size > 1 else 1.0


def name_places(axes: Axes, found: RunValues, at: Places, x: Place, style: FigureStyle) -> None:
    """Label an axis along which the layers of a run are placed."""
    if x == "index":
        name_layers(axes, found, style)
        return
    if x == "depth":
        tick_layers(axes, [row.name for row in found.layers], at, style)
    axes.set_xlabel(PLACES[x] if x == "relative" else "layer, placed by its depth")
