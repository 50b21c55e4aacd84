"""Labels of a classifier's samples, and the accuracy on them with its confidence interval."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..archive.fractions import limits
from ..errors import InputError

Floats = npt.NDArray[np.float64]
#: Probability of each end of a 95 % interval to be on the wrong side.
TAIL = 0.025


@dataclass(frozen=True)
class Accuracy:
    """Accuracy with the ends of its 95 % confidence interval over samples."""

    value: float = math.nan
    low: float = math.nan
    high: float = math.nan

    @classmethod
    def of(cls, correct: Floats) -> Accuracy:
        """Return the accuracy from the fraction of draws of noise at which each sample is classified correctly, (S,).

        The limits are those of a number of samples, however many draws: these share the samples, of which some may
        always be wrong, so their spread is no measure of the interval.
        """
        low, high = limits(float(correct.sum()), len(correct), TAIL)
        return cls(float(correct.mean()), low, high)


def check_labels(labels: npt.NDArray[np.int64], classes: int) -> None:
    """Check that labels are classes of a network.

    Raises
    ------
    InputError
        A label is none of the classes, or the scores are not those of several classes.
    """
    if classes < 2 or ((labels < 0) | (labels >= classes)).any():
        raise InputError(f"the labels are not classes of the target, 0 to {classes - 1}; give others, or a target")
