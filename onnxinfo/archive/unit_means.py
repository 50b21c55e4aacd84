"""Per-unit means of a metric over samples, for inputs with a single axis such as the columns of a table."""

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
    """Protocol of objects with maps: a run, or a view of one."""

    @property
    def name(self) -> str:
        """Name of the run."""

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of the axes of one sample."""

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Sizes of the axes of one sample."""

    def maps(self, metric: str, layer: int, samples: Sequence[int] | None = None) -> npt.NDArray[np.float32]:
        """Return the maps of one layer, (samples, *sample_shape); None: all samples."""


@dataclass(frozen=True)
class UnitMeans:
    """Per-unit means of one metric and layer over samples.

    Attributes
    ----------
    value, stderr
        Mean over samples and its standard error, (units,).
    missing
        Number of finished samples that have no value for a unit, (units,).
    samples, proven
        Number of finished samples, and of proven samples among them.
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
        The samples have several axes, or none.
    """
    if len(run.axes) != 1:
        raise UsageError(
            f"the units of run '{printable(run.name)}' have the axes {', '.join(run.axes)}, a table has one: draw maps"
        )
    return run.sample_shape[0]


def unit_means(run: Mapped, metric: str, values: Mapping[str, npt.NDArray[Any]], layer: int) -> UnitMeans:
    """Average the maps of a metric and layer over all finished samples, unit by unit.

    Parameters
    ----------
    run
        A run whose samples have a single axis.
    metric
        Name of a metric with maps.
    values
        The metric's columns, each (layers, samples); ``done`` and ``converged`` are used.
    layer
        Position of the layer.

    Returns
    -------
    UnitMeans
        Means, standard errors and counts, each mean over the samples that have a value for the unit.

    Raises
    ------
    UsageError
        The samples do not have exactly one axis.
    """
    count = unit_count(run)
    samples = np.nonzero(values["done"][layer])[0].tolist()
    maps = run.maps(metric, layer, samples).astype(np.float64).reshape(-1, count)
    mean, stderr, n = mean_and_stderr(maps.T)
    proven = int(values["converged"][layer, samples].sum())
    return UnitMeans(mean, stderr, (len(samples) - n).astype(np.int64), len(samples), proven)
