"""Standard deviations per channel, from one sample after the other."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

#: The standard deviation is estimated from at most this many samples, evenly spread.
UNIT_SAMPLES = 256


def evenly_spread(count: int, most: int = UNIT_SAMPLES) -> list[int]:
    """Positions of at most so many of ``count`` samples, the first and the last among them."""
    positions: list[int] = np.unique(np.linspace(0, count - 1, min(count, most)).astype(int)).tolist()
    return positions


def deviation(samples: Iterable[Array], axis: int | None) -> npt.NDArray[np.float64]:
    """Standard deviation over samples and positions.

    Parameters
    ----------
    samples
        One array each, all of the same shape.
    axis
        The axis whose entries have a deviation of their own; None: there is one for everything.

    Returns
    -------
    ndarray
        (size of the axis,) or (1,); exactly 0 where nothing varies.
    """
    count, total, squares, reference = 0, np.zeros(1), np.zeros(1), None
    for sample in samples:
        wide = sample.astype(np.float64)
        values = wide.reshape(1, -1) if axis is None else np.moveaxis(wide, axis, 0).reshape(wide.shape[axis], -1)
        if reference is None:
            reference = values[:, :1]  # what is constant then differs by exactly nothing
        difference = values - reference
        count += difference.shape[1]
        total = total + difference.sum(axis=1)
        squares = squares + (difference**2).sum(axis=1)
    return np.asarray(np.sqrt(np.maximum(squares / count - (total / count) ** 2, 0)))


def without_zeros(deviations: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Give channels that never vary a unit: the root mean square of the deviations of those that do.

    Parameters
    ----------
    deviations
        At least one of them is positive.
    """
    varying = deviations[deviations > 0]
    return np.where(deviations > 0, deviations, np.sqrt(np.square(varying).mean()))
