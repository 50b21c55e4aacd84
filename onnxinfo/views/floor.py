"""The least mean SID of a linear layer, the reference line of curves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

_CONSTANT = 0.5 * math.log(2 * math.pi * math.e)


def relative_alpha(recipe: Mapping[str, Any]) -> float | None:
    """Return a run's alpha if the budget is relative to D, so that SID has a least value; else None."""
    alpha = None if recipe.get("normalizer") in ("feature", "absolute") else recipe.get("alpha")
    return float(alpha) if isinstance(alpha, int | float) and alpha > 0 else None


def linear_floor(alpha: float) -> float:
    """Return the SID of a linear layer that uses all input units alike, in nats per unit.

    Examples
    --------
    >>> round(linear_floor(1.5e-4), 4)
    -2.9835
    """
    return 0.5 * math.log(alpha) + _CONSTANT
