"""Labels of a classifier's samples, and the accuracy on them with its confidence interval."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..errors import InputError

Floats = npt.NDArray[np.float64]
#: Standard normal quantile of a 95 % interval.
QUANTILE = 1.959964


@dataclass(frozen=True)
class Accuracy:
    """Accuracy with the ends of its 95 % confidence interval over samples."""

    value: float = math.nan
    low: float = math.nan
    high: float = math.nan

    @classmethod
    def of(cls, correct: Floats, draws: int = 1) -> Accuracy:
        """Return the accuracy from the fraction of draws of noise at which each sample is classified correctly, (S,).

        The interval is Wilson's with the effective number of samples: the number of independent trials whose mean has
        the variance that is observed between samples, at least the samples and at most all draws.
        """
        count, p = len(correct), float(correct.mean())
        between = float(correct.var(ddof=1)) / count if count > 1 else 0.0
        size = min(max(p * (1 - p) / between, count), count * draws) if between > 0 else count
        z2 = QUANTILE**2 / size
        center = (p + z2 / 2) / (1 + z2)
        half = math.sqrt(z2 * (p * (1 - p) + z2 / 4)) / (1 + z2)
        return cls(p, max(center - half, 0.0), min(center + half, 1.0))


def check_labels(labels: npt.NDArray[np.int64], classes: int) -> None:
    """Check that labels are classes of a network.

    Raises
    ------
    InputError
        A label is none of the classes, or the scores are not those of several classes.
    """
    if classes < 2 or ((labels < 0) | (labels >= classes)).any():
        raise InputError(f"the labels are not classes of the target, 0 to {classes - 1}; give others, or a target")
