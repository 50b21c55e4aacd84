"""Standard deviations per channel, computed sample by sample."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import repeat
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

#: Maximum number of evenly spaced samples from which the standard deviation is estimated.
UNIT_SAMPLES = 256


def evenly_spread(count: int, most: int = UNIT_SAMPLES) -> list[int]:
    """Evenly spaced positions among ``count`` samples, at most ``most``, including the first and the last."""
    positions: list[int] = np.unique(np.linspace(0, count - 1, min(count, most)).astype(int)).tolist()
    return positions


def deviation(
    samples: Iterable[Array], axis: int | None, counted: Iterable[npt.NDArray[np.bool_]] | None = None
) -> npt.NDArray[np.float64]:
    """Standard deviation over samples and positions.

    Parameters
    ----------
    samples
        One array each, all of the same shape.
    axis
        Axis whose entries have a deviation each; None: one deviation for all values.
    counted
        Counted values of each sample, one array each of the sample's shape; None: all.

    Returns
    -------
    ndarray
        (size of the axis,) or (1,); exactly 0 where values are constant or none is counted.
    """
    count, total, squares, reference = np.zeros(1), np.zeros(1), np.zeros(1), np.full(1, np.nan)
    everything: Iterable[npt.NDArray[np.bool_]] = repeat(np.ones((), bool))
    for sample, mask in zip(samples, everything if counted is None else counted, strict=False):
        values = _by_entry(sample.astype(np.float64), axis)
        kept = _by_entry(np.broadcast_to(mask, sample.shape), axis)
        first = np.where(kept.any(axis=1), values[np.arange(len(values)), kept.argmax(axis=1)], np.nan)
        reference = np.where(np.isnan(reference), first, reference)
        # Constant values differ from one of their own by exactly zero.
        difference = np.where(kept, values - reference[:, None], 0)
        count = count + kept.sum(axis=1)
        total = total + difference.sum(axis=1)
        squares = squares + (difference**2).sum(axis=1)
    count = np.maximum(count, 1)
    return np.asarray(np.sqrt(np.maximum(squares / count - (total / count) ** 2, 0)))


def _by_entry(values: Array, axis: int | None) -> Array:
    """Rearrange values into one row per entry of an axis."""
    return values.reshape(1, -1) if axis is None else np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)


def without_zeros(deviations: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Replace zeros, of constant channels, by the root mean square of the other channels' deviations.

    Parameters
    ----------
    deviations
        Deviations, of which at least one is positive.
    """
    varying = deviations[deviations > 0]
    return np.where(deviations > 0, deviations, np.sqrt(np.square(varying).mean()))
