"""Confidence intervals for differences of fractions, from few samples and at high confidence."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ..archive.fractions import Limits, limits


def fraction_interval(
    one: npt.NDArray[np.float64], two: npt.NDArray[np.float64], paired: bool, confidence: float
) -> Limits:
    """Return an interval for the difference of two fractions, second minus first; NaN with fewer than two samples.

    Parameters
    ----------
    one, two
        1 or 0 for each sample, of shape (sample,); NaN where unknown.
    paired
        Whether the samples are the same.
    confidence
        Confidence level.
    """
    there = [np.isfinite(each) for each in (one, two)]
    if paired:
        there = [there[0] & there[1]] * 2
    one, two = one[there[0]], two[there[1]]
    if min(len(one), len(two)) < 2:
        return math.nan, math.nan
    return (paired_interval if paired else independent_interval)(one, two, confidence)


def paired_interval(one: npt.NDArray[np.float64], two: npt.NDArray[np.float64], confidence: float) -> Limits:
    """Return an interval for the difference of two fractions of the same samples, second minus first.

    The difference is the fraction of samples that gain the event minus that of samples that lose it. Its limits are the
    difference of the limits of these two fractions.

    Parameters
    ----------
    one, two
        1 or 0 for each sample, of shape (sample,).
    confidence
        Confidence level.
    """
    tail = (1 - confidence) / 2
    gained, lost = (limits(int(each.sum()), len(one), tail) for each in ((two > one), (one > two)))
    return gained[0] - lost[1], gained[1] - lost[0]


def independent_interval(one: npt.NDArray[np.float64], two: npt.NDArray[np.float64], confidence: float) -> Limits:
    """Return an interval for the difference of two fractions of independent samples, second minus first.

    Its limits are the difference of the limits of the two fractions.

    Parameters
    ----------
    one, two
        1 or 0 for each sample, of shapes (sample,), whose lengths may differ.
    confidence
        Confidence level.
    """
    tail = (1 - confidence) / 2
    before, after = (limits(int(each.sum()), len(each), tail) for each in (one, two))
    return after[0] - before[1], after[1] - before[0]
