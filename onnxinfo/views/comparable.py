"""Check that runs measure the same quantity, so that they may be shown side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

from ..archive.means import limited_by_rounding, sound_alpha
from ..errors import UsageError
from ..text import printable
from .run_values import RunValues
from .wording import rounded_up

FLOAT, QUANTIZED = "float", "quantised"
_QUANTIZED_OPERATORS = ("QLinear", "QGemm", "ConvInteger", "MatMulInteger")


def check_precision(runs: Sequence[RunValues]) -> None:
    """Refuse to show runs of different precision side by side if the budget is below rounding.

    In that case the value measures the sensitivity of rounding instead of what the layer discards, and the quantized
    network would seem to discard less. Every view of several runs calls this.

    Parameters
    ----------
    runs
        Runs, of one or several metrics.

    Raises
    ------
    UsageError
        Two runs have different precision (float, or quantized in one format or another), and one of them has cells
        marked ``resolution``.
    """
    for one, two in combinations(runs, 2):
        classes = precision_class(one), precision_class(two)
        limited = [(each, int(limited_by_rounding(each.values).sum())) for each in (one, two)]
        worst, cells = max(limited, key=lambda found: found[1])
        if classes[0] == classes[1] or not cells:
            continue
        raise UsageError(
            f"runs '{one.name}' ({classes[0]}) and '{two.name}' ({classes[1]}) cannot be laid side by side: "
            f"{cells} cells of '{worst.name}' lie below the network's own rounding{_alpha(worst)}; "
            f"analyze both with {_advice((one, two))}"
        )


def precision_class(run: RunValues) -> str:
    """Return whether a run is of a ``float`` or a ``quantised`` network, and the quantization format.

    Taken from its provenance (``precision`` and ``quantisation``); for older runs inferred from their layers'
    operators, else from whether rounding limits their cells.
    """
    recorded = run.provenance.get("precision")
    if isinstance(recorded, str):
        quantization = run.provenance.get("quantisation")
        return printable(f"{recorded}, {quantization}" if quantization else recorded)
    quantized = any(row.op.startswith(_QUANTIZED_OPERATORS) for row in run.layers)
    return QUANTIZED if quantized or limited_by_rounding(run.values).any() else FLOAT


def _alpha(run: RunValues) -> str:
    alpha = run.recipe.get("alpha")
    return f" at alpha {alpha:g}" if isinstance(alpha, int | float) else ""


def _advice(runs: Sequence[RunValues]) -> str:
    """Return advice on alpha: the smallest that is sound for all cells of all runs, if recorded."""
    found = [sound_alpha(run.values) for run in runs]
    largest = max((alpha for alpha in found if not math.isnan(alpha)), default=math.nan)
    return f"an alpha of at least {rounded_up(largest)}" if math.isfinite(largest) else "a larger alpha"
