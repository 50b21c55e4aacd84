"""Linear centered kernel alignment between two sets of features, debiased, and its jackknife over samples."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
#: Fewest samples of which each can be left out.
FEWEST = 5


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
        Shape (n,); NaN where CKA is unknown because features do not vary.
    """
    one, two = (_without_diagonal(gram) for gram in (first, second))
    count = len(one)
    both = _hsic(one, two)
    own = _hsic(one, one), _hsic(two, two)
    whole, without = (_ratio(both[i], own[0][i], own[1][i]) for i in (0, 1))
    found: Floats = count * whole - (count - 1) * without
    return found


def gram_matrix(features: npt.NDArray[np.floating], at_once: int = 4096) -> Floats:
    """Return the Gram matrix of centered features, (n, n) of (n, d), in float64.

    Parameters
    ----------
    features
        One row for each sample.
    at_once
        Number of columns that are converted at once.
    """
    count = len(features)
    found = np.zeros((count, count))
    for start in range(0, features.shape[1], at_once):
        part = features[:, start : start + at_once].astype(np.float64)
        part -= part.mean(0)
        found += part @ part.T
    return found


def _without_diagonal(gram: Floats) -> Floats:
    copy = gram.astype(np.float64)
    np.fill_diagonal(copy, 0.0)
    return copy


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


def _ratio(both: Floats, one: Floats, two: Floats) -> Floats:
    norm = np.where((one > 0) & (two > 0), one * two, np.nan)
    return both / np.sqrt(norm)
