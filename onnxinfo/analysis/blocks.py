"""One layer around samples computed together, and what the metrics share about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..archive.format import Metric
from ..metrics.linearisation import Linearisation
from ..metrics.probe import Feature
from .job import Job


@dataclass(frozen=True)
class Cells:
    """One metric of one layer on a block of S samples.

    Attributes
    ----------
    values
        A number for every sample, (S,), for each of the metric's columns.
    map
        Pixel-level values, (S, *shape), for a metric with maps.
    """

    values: Mapping[str, Tensor]
    map: Tensor | None = None


class Measure(Protocol):
    """A metric, ready to be computed."""

    @property
    def metric(self) -> Metric:
        """How the archive describes it."""

    @property
    def recipe(self) -> Mapping[str, object]:
        """Settings of its own that determine the numbers."""

    @property
    def uses_normalizer(self) -> bool:
        """Whether the constraint with ``D`` is part of its definition."""

    def cells(self, block: Block) -> Cells:
        """Compute a block's cells."""


class Block:
    """One layer around samples that are computed together.

    Parameters
    ----------
    job
        Network and samples.
    layer
        Position among the job's layers.
    indices
        Positions of the block's S samples.
    start
        The layer's linearisation at the samples; None where no metric needs it.
    normalizer
        ``D`` of the constraint; None where each sample's own is meant.
    measures
        All metrics by name; one may be made from another's cells.
    """

    def __init__(
        self,
        job: Job,
        layer: int,
        indices: list[int],
        start: Linearisation | None,
        normalizer: float | None,
        measures: Mapping[str, Measure],
    ) -> None:
        self.job, self.layer, self.indices = job, layer, indices
        self.x, self.rows = job.inputs(indices)
        self._start = None if start is None else start.to(self.x.device)
        self._normalizer, self._measures = normalizer, measures
        self._cells: dict[str, Cells] = {}

    @property
    def start(self) -> Linearisation:
        """The layer's linearisation."""
        assert self._start is not None
        return self._start

    @property
    def units(self) -> Tensor | None:
        """Units that count, (S, n) bool, or None for all."""
        return self.job.counted(self.indices)

    @property
    def target(self) -> Tensor:
        """``alpha D`` of every sample, (S,)."""
        own = self.start.normalizer
        alpha = self.job.settings.alpha
        return alpha * (own if self._normalizer is None else own.new_full(own.shape, self._normalizer))

    def mean(self, values: Tensor) -> Tensor:
        """Mean of values (S, n) over the units that count, (S,) of float64."""
        wide, counted = values.double(), self.units
        if counted is None:
            return wide.mean(1)
        return torch.where(counted, wide, 0.0).sum(1) / counted.sum(1)

    def feature(self) -> Feature:
        """The layer's feature around the samples, with random streams at their beginning."""
        return self.job.feature(self.layer, self.x, self.rows, self.indices[0])

    def cells(self, metric: str) -> Cells:
        """Cells of a metric; computed once."""
        if metric not in self._cells:
            self._cells[metric] = self._measures[metric].cells(self)
        return self._cells[metric]
