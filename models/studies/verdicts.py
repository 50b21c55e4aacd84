"""Whether a study's images show its claim: the effect that would matter, the measured one, and the images it needs.

The rows are those of ``claims.py`` for networks that were trained with one seed, so they hold for these networks only.
"""

from __future__ import annotations

import math
from typing import Any

from onnxinfo.archive.means import Pairs
from onnxinfo.views.power import samples_needed

from .common import Array, mean_and_stderr
from .tables import difference_text
from .two_level import LEAST_IMAGES, TOO_FEW, UNDECIDED, direction_margin, judge_direction, wanting

#: The reference effect as a fraction of a network's rise from its first layer to its last.
FRACTION = 0.1


def differences(values: Array, unproven: int) -> Pairs:
    """Return the mean of differences between two values of each image, NaN where there is none."""
    mean, stderr, n = mean_and_stderr(values)
    return Pairs(math.nan, math.nan, mean, stderr, n, unproven, len(values) - n)


def verdict_row(claim: str, effect: float, found: Pairs, sign: int = 1, digits: int = 3) -> dict[str, Any]:
    """Return a line that judges whether a difference has the claimed sign.

    Parameters
    ----------
    claim
        The claim in words.
    effect
        Smallest change that would matter, above 0.
    found
        The measured differences.
    sign
        1 if a rise is claimed, -1 if a fall.
    digits
        Digits after the decimal point.
    """
    row = {"claim": claim, "effect": f"{effect:.{digits}f}", "measured": difference_text(found, digits)}
    if found.n < LEAST_IMAGES:
        return row | {"sd of images": "", "images needed": "", "verdict": TOO_FEW}
    spread = found.stderr * math.sqrt(found.n)
    needed = samples_needed(spread, effect / 2)
    verdict = judge_direction(sign * found.difference, found.stderr, effect)
    if verdict == UNDECIDED:
        verdict += wanting(needed, found.n, found.stderr, direction_margin(sign * found.difference, effect))
    return row | {"sd of images": f"{spread:.{digits}f}", "images needed": needed, "verdict": verdict}
