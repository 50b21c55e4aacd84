"""Linear centered kernel alignment between two sets of features, debiased, and its jackknife over samples."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
#: Fewest samples of which each can be left out.
FEWEST = 5
#: Roundings in a row that a value may have, relative to its own size.
_OPERATIONS = 8
_EPSILON = float(np.finfo(np.float64).eps)


def cka_pseudovalues(first: Floats, second: Floats) -> Floats:
    """Return the jackknife pseudovalues of debiased CKA, whose mean is the estimate.

    CKA is ``HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L))`` with the unbiased estimator of HSIC by Song et al. (2012), as
    Nguyen et al. (2021) use it. The pseudovalue of sample i is ``n c - (n - 1) c_i``, where c is CKA of all n samples
    and ``c_i`` that of all but i: their mean is c without its bias of order 1/n, and their standard deviation over
    ``sqrt(n)`` its standard error.

    Parameters
    ----------
    first, second
        Gram matrices of the features, (n, n), of at least 5 samples.

    Returns
    -------
    ndarray
        Shape (n,); all NaN if CKA of all samples, or of all but any one, is 0/0: a layer in which at most two samples
        differ from the others has no distances left without one of them.
    """
    one, two = (_off_diagonal(gram) for gram in (first, second))
    count = len(one)
    both = _hsic(one, two)
    own = _hsic(one, one), _hsic(two, two)
    if any(_rounded_to_zero(whole, without, count) for whole, without in own):
        return np.full(count, np.nan)
    whole, without = (both[i] / np.sqrt(own[0][i] * own[1][i]) for i in (0, 1))
    found: Floats = count * whole - (count - 1) * without
    return found


def gram_matrix(features: npt.NDArray[np.floating], at_once: int = 4096, standardized: bool = False) -> Floats:
    """Return the Gram matrix of centered features, (n, n) of (n, d), in float64.

    Parameters
    ----------
    features
        One row for each sample.
    at_once
        Number of columns that are converted at once.
    standardized
        Whether each column is divided by its standard deviation first.
    """
    count = len(features)
    found = np.zeros((count, count))
    largest = largest_magnitude(features)
    for start in range(0, features.shape[1], at_once):
        part = centered(features[:, start : start + at_once], largest, standardized)
        found += part @ part.T
    return found


def largest_magnitude(features: npt.NDArray[np.floating]) -> float:
    """Return the largest magnitude of any entry, which tells the size of rounding errors."""
    return float(max(features.max(initial=0), -features.min(initial=0)))


def centered(features: npt.NDArray[np.floating], largest: float, standardized: bool = False) -> Floats:
    """Return columns without their means, in float64; columns that vary by no more than rounding become 0.

    Parameters
    ----------
    features
        One row for each sample.
    largest
        Largest magnitude of an entry of the layer.
    standardized
        Whether each column is divided by its standard deviation.
    """
    wide = features.astype(np.float64)
    wide -= wide.mean(0)
    spread = np.sqrt((wide**2).mean(0))
    own = np.abs(features).max(0, initial=0).astype(np.float64)
    varies = spread > np.finfo(features.dtype).eps * np.maximum(_OPERATIONS * own, largest)
    factors = 1 / np.where(varies & standardized, spread, 1.0)
    return np.asarray(wide * np.where(varies, factors, 0.0))


def _off_diagonal(gram: Floats) -> Floats:
    """Return a Gram matrix without its diagonal, centered so that each row sums to 0, which HSIC does not depend on.

    Entries that are the rounding of the matrix are 0.
    """
    n = len(gram)
    copy = gram.astype(np.float64)
    np.fill_diagonal(copy, 0.0)
    rows = copy.sum(1)
    copy -= (rows[:, None] + rows) / (n - 2) - rows.sum() / ((n - 1) * (n - 2))
    np.fill_diagonal(copy, 0.0)
    rounding = n * _EPSILON * float(np.abs(gram).max())
    return copy if float(np.abs(copy).max()) > rounding else np.zeros_like(copy)


def _hsic(one: Floats, two: Floats) -> tuple[Floats, Floats]:
    """Return the unbiased HSIC of all samples, (1,), and of all but each one, (n,); the diagonals are 0."""
    n = len(one)
    rows = one.sum(1), two.sum(1)
    sums = float(rows[0].sum()), float(rows[1].sum())
    shared = (one * two).sum(1)
    trace, cross = float(shared.sum()), float(rows[0] @ rows[1])
    # What remains of each sum if the row and the column of a sample are left out.
    traces = trace - 2 * shared
    crosses = cross - rows[0] * rows[1] - one @ rows[1] - two @ rows[0] + shared
    totals = (sums[0] - 2 * rows[0]) * (sums[1] - 2 * rows[1])
    whole = _combined(np.array([trace]), np.array([cross]), np.array([sums[0] * sums[1]]), n)
    return whole, _combined(traces, crosses, totals, n - 1)


def _combined(trace: Floats, cross: Floats, totals: Floats, n: int) -> Floats:
    return (trace + totals / ((n - 1) * (n - 2)) - 2 * cross / (n - 2)) / (n * (n - 3))


def _rounded_to_zero(whole: Floats, without: Floats, n: int) -> bool:
    """Whether HSIC of a layer with itself is 0 up to rounding, for all samples or without one of them."""
    return float(min(whole.min(), without.min())) <= n * _EPSILON * float(whole.max())
