"""Confidence limits of fractions of samples, exact for few of them."""

from __future__ import annotations

Limits = tuple[float, float]


def limits(count: float, n: int, tail: float) -> Limits:
    """Return the limits of a fraction (Clopper and Pearson, Biometrika 26, 1934).

    Parameters
    ----------
    count, n
        Number of samples with the event, and of all. The number may be a sum of fractions, such as those of the draws
        of noise at which each sample has the event: such a sum varies at most as much as a number of samples.
    tail
        Largest probability of each limit to be on the wrong side of the fraction.
    """
    # Imported here because most code that reads archives does not need it.
    from scipy.special import betainccinv, betaincinv

    low = float(betaincinv(count, n - count + 1, tail)) if count else 0.0
    high = float(betainccinv(count + 1, n - count, tail)) if count < n else 1.0
    return low, high
