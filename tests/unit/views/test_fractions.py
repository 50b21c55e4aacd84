"""Intervals of fractions hold at few samples and high confidence: every outcome is enumerated."""

import numpy as np
import pytest
from scipy.special import gammaln
from scipy.stats import binom, binomtest

from onnxinfo.archive.fractions import limits
from onnxinfo.views.fractions import fraction_interval, independent_interval, paired_interval

SHARES = np.linspace(0, 1, 21)


@pytest.mark.parametrize(("count", "n"), [(0, 5), (5, 5), (2, 7), (40, 90)])
def test_limits_are_the_exact_ones(count, n):
    expected = binomtest(count, n).proportion_ci(0.9, method="exact")
    assert limits(count, n, 0.05) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize("n", [2, 5, 16, 30])
@pytest.mark.parametrize("confidence", [0.95, 1 - 0.05 / 40])
def test_paired_intervals_miss_no_more_often_than_they_say(n, confidence):
    """By symmetry, one side suffices. With 16 samples and 40 comparisons, Wald intervals fail in 13 % of the calls."""
    gained, lost = np.divmod(np.arange((n + 1) ** 2), n + 1)
    possible = gained + lost <= n
    gained, lost = gained[possible], lost[possible]
    low = []
    for more, less in zip(gained, lost, strict=True):
        one, two = np.zeros(n), np.zeros(n)
        two[:more], one[more : more + less] = 1, 1
        low.append(paired_interval(one, two, confidence)[0])
    ways = np.exp(gammaln(n + 1) - gammaln(gained + 1) - gammaln(lost + 1) - gammaln(n - gained - lost + 1))
    worst = 0.0
    for gain in SHARES:
        for loss in SHARES[gain + SHARES <= 1 + 1e-9]:
            odds = ways * gain**gained * loss**lost * max(1 - gain - loss, 0) ** (n - gained - lost)
            worst = max(worst, odds[np.array(low) > gain - loss + 1e-9].sum())
    assert worst <= (1 - confidence) / 2


@pytest.mark.parametrize("sizes", [(2, 2), (5, 12), (16, 16), (30, 8)])
@pytest.mark.parametrize("confidence", [0.95, 1 - 0.05 / 40])
def test_independent_intervals_miss_no_more_often_than_they_say(sizes, confidence):
    counts = [np.arange(size + 1) for size in sizes]
    samples = [[(np.arange(size) < count).astype(float) for count in range(size + 1)] for size in sizes]
    low = np.array([[independent_interval(one, two, confidence)[0] for two in samples[1]] for one in samples[0]])
    worst = 0.0
    for before in SHARES:
        for after in SHARES:
            odds = np.outer(binom.pmf(counts[0], sizes[0], before), binom.pmf(counts[1], sizes[1], after))
            worst = max(worst, odds[low > after - before + 1e-9].sum())
    assert worst <= (1 - confidence) / 2


@pytest.mark.parametrize("interval", [paired_interval, independent_interval])
def test_intervals_of_certain_changes_include_one_and_two_samples_never_suffice(interval):
    assert interval(np.ones(3), np.zeros(3), 0.95)[0] == -1
    assert interval(np.zeros(3), np.ones(3), 0.95)[1] == 1
    assert interval(np.zeros(2), np.ones(2), 0.95)[0] < 0


def test_unknown_samples_do_not_count():
    one, two = np.array([0, 0, np.nan, 0, 1]), np.array([1, np.nan, 1, 1, 1])
    known = np.array([0.0, 0.0, 1.0]), np.array([1.0, 1.0, 1.0])
    assert fraction_interval(one, two, True, 0.9) == paired_interval(*known, 0.9)
    assert fraction_interval(one, two, False, 0.9) == independent_interval(np.array([0, 0, 0, 1.0]), np.ones(4), 0.9)
    assert np.isnan(fraction_interval(one[:1], two[:1], True, 0.9)).all()
