"""Whether runs measure the same quantity, so that they may be laid side by side."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from ..archive.format import mark_code
from ..errors import UsageError
from ..text import printable

if TYPE_CHECKING:
    from .reading_runs import RunValues

FLOAT, QUANTISED = "float", "quantised"
_QUANTISED_OPERATORS = ("QLinear", "QGemm", "ConvInteger", "MatMulInteger")


def check_precision(runs: Sequence[RunValues]) -> None:
    """Refuse to lay a float run beside a quantised one whose budget lies below its own rounding.

    There the value says how sensitive rounding is, not what the layer discards, and the quantised network would seem to
    discard less. Every view of several runs calls this.

    Parameters
    ----------
    runs
        Runs of one metric, or of several.

    Raises
    ------
    UsageError
        Two runs of different precision, one of which has cells marked ``resolution``.
    """
    for one, two in combinations(runs, 2):
        classes = precision_class(one), precision_class(two)
        limited = [(each, _limited(each)) for each in (one, two)]
        worst, cells = max(limited, key=lambda found: found[1])
        if classes[0] == classes[1] or not cells:
            continue
        raise UsageError(
            f"runs '{one.name}' ({classes[0]}) and '{two.name}' ({classes[1]}) cannot be laid side by side: "
            f"{cells} cells of '{worst.name}' lie below the network's own rounding{_alpha(worst)}; "
            f"analyze both with {_advice((one, two))}"
        )


def precision_class(run: RunValues) -> str:
    """Return whether a run is of a ``float`` or a ``quantised`` network.

    As its provenance says (``precision``); of older runs, as their layers' operators say, else whether rounding limits
    their cells.
    """
    recorded = run.provenance.get("precision")
    if isinstance(recorded, str):
        return printable(recorded)
    quantised = any(row.op.startswith(_QUANTISED_OPERATORS) for row in run.layers)
    return QUANTISED if quantised or _limited(run) else FLOAT


def _limited(run: RunValues) -> int:
    """Return how many cells lie below the network's own rounding."""
    if "mark" not in run.values:
        return 0
    return int((run.values["done"] & (run.values["mark"] == mark_code("resolution"))).sum())


def _alpha(run: RunValues) -> str:
    alpha = run.recipe.get("alpha")
    return f" at alpha {alpha:g}" if isinstance(alpha, int | float) else ""


def _advice(runs: Sequence[RunValues]) -> str:
    """Return which alpha to use: the smallest that is sound for all runs, where they say."""
    sound = [run.provenance.get("resolution_alpha") for run in runs]
    known = [float(alpha) for alpha in sound if isinstance(alpha, int | float) and np.isfinite(alpha) and alpha > 0]
    return f"an alpha of at least {max(known):g}" if known else "a larger alpha"
