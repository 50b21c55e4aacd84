"""A metric unit by unit, averaged over samples: for inputs with a single axis, such as the columns of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..errors import UsageError
from ..text import printable
from .means import mean_and_stderr


class Mapped(Protocol):
    """What has maps: a run, or a part of one."""

    @property
    def name(self) -> str:
        """The run's name."""

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of the analysis input's axes."""

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Their sizes."""

    def maps(self, metric: str, layer: int, samples: Sequence[int] | None = None) -> npt.NDArray[np.float32]:
        """Return the maps of one layer and several samples."""


@dataclass(frozen=True)
class UnitMeans:
    """A metric of one layer unit by unit, averaged over samples.

    Attributes
    ----------
    value, stderr
        Mean over samples and its standard error, (units,).
    missing
        Samples without a value of a unit, (units,).
    samples, proven
        Number of finished samples, and of those that are proven.
    """

    value: npt.NDArray[np.float64]
    stderr: npt.NDArray[np.float64]
    missing: npt.NDArray[np.int64]
    samples: int
    proven: int


def unit_count(run: Mapped) -> int:
    """Return the number of units of a run whose samples have a single axis.

    Raises
    ------
    UsageError
        They have several: their units are pixels of a map.
    """
    if len(run.axes) != 1:
        raise UsageError(
            f"the units of run '{printable(run.name)}' have the axes {', '.join(run.axes)}, a table has one: draw maps"
        )
    return run.sample_shape[0]


def unit_means(run: Mapped, metric: str, values: Mapping[str, npt.NDArray[Any]], layer: int) -> UnitMeans:
    """Average a metric's maps of one layer over all samples that have a value.

    Parameters
    ----------
    run
        A run whose samples have a single axis.
    metric, values
        The metric, which has maps, and its numbers.
    layer
        Position of the layer.

    Raises
    ------
    UsageError
        See :func:`unit_count`.
    """
    count = unit_count(run)
    samples = np.nonzero(values["done"][layer])[0].tolist()
    maps = run.maps(metric, layer, samples).astype(np.float64).reshape(-1, count)
    mean, stderr, n = mean_and_stderr(maps.T)
    proven = int(values["converged"][layer, samples].sum())
    return UnitMeans(mean, stderr, (len(samples) - n).astype(np.int64), len(samples), proven)
