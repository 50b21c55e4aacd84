"""One layer around samples computed together, and what the metrics share about them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from ..archive.format import Metric
from ..config import Config, SidConfig
from ..metrics.linearisation import Linearisation
from ..metrics.probe import LayerProbe
from .job import Job
from .settings import Report


@dataclass(frozen=True)
class Cells:
    """One metric of one layer on a batch of S samples.

    Attributes
    ----------
    values
        A number for every sample, (S,), for each of the metric's columns.
    map
        Pixel-level values, (S, *shape), for a metric with maps.
    """

    values: Mapping[str, Tensor]
    map: Tensor | None = None


class Measure(ABC):
    """A metric of an analysis.

    Its life: it is made and validates the request, before anything is written; the archive is opened; it is prepared,
    which may take long; it computes cells, here or in copies of it that workers receive. A copy is made by pickle and
    without the job and what ``cached_property`` keeps: a worker has a job of its own, and makes the rest anew.

    Parameters
    ----------
    job
        Network, samples and configuration.

    Attributes
    ----------
    metric
        How the archive describes it.
    uses_normalizer
        Whether the constraint is part of its definition.
    needs_gradient
        Whether it differentiates the layer, so that it cannot be computed of one that is only evaluated.
    needs
        Names of metrics whose cells it is made from, see :meth:`SampleBatch.cells`.
    """

    metric: ClassVar[Metric]
    uses_normalizer: ClassVar[bool] = False
    needs_gradient: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ()

    def __init__(self, job: Job) -> None:
        self.job = job

    @classmethod  # noqa: B027 - few metrics write anything
    def claim(cls, config: Config, output: Path) -> None:
        """Refuse, before any work, what cannot be written besides the archive."""

    @property
    def recipe(self) -> Mapping[str, object]:
        """Settings of its own that determine the numbers."""
        return {}

    def prepare(self, report: Report) -> None:  # noqa: B027 - few metrics train
        """Do what takes long, once for all workers, such as training; the archive is open by now."""

    @abstractmethod
    def cells(self, batch: SampleBatch) -> Cells:
        """Compute a batch's cells."""

    def attached(self, job: Job) -> Self:
        """Give a copy that a worker received the worker's job."""
        self.job = job
        return self

    def __getstate__(self) -> dict[str, Any]:
        classes = type(self).__mro__
        made = {name for each in classes for name, value in vars(each).items() if isinstance(value, cached_property)}
        return {name: value for name, value in vars(self).items() if name != "job" and name not in made}


class SampleBatch:
    """One layer around samples that are computed together.

    Parameters
    ----------
    job
        Network and samples.
    layer
        Position among the job's layers.
    indices
        Positions of the batch's S samples.
    linearisation
        The layer's linearisation at the samples; None where no metric needs it.
    normalizer
        Normalizer of the constraint; None where it is each sample's own ``D``.
    measures
        All metrics by name; one may be made from another's cells.
    """

    def __init__(
        self,
        job: Job,
        layer: int,
        indices: list[int],
        linearisation: Linearisation | None,
        normalizer: float | None,
        measures: Mapping[str, Measure],
    ) -> None:
        self.job, self.layer, self.indices = job, layer, indices
        self.x, self.rows = job.inputs(indices)
        self._linearisation = None if linearisation is None else linearisation.to(self.x.device)
        self._normalizer, self._measures = normalizer, measures
        self._cells: dict[str, Cells] = {}

    @property
    def linearisation(self) -> Linearisation:
        """The layer's linearisation."""
        assert self._linearisation is not None
        return self._linearisation

    @property
    def units(self) -> Tensor | None:
        """Units that count, (S, n) bool, or None for all."""
        return self.job.counted(self.indices)

    @property
    def settings(self) -> SidConfig:
        """Constraint, noise and solver of the layer."""
        return self.job.settings_of(self.layer)

    @property
    def target(self) -> Tensor:
        """Budget of every sample, ``alpha D`` for most, (S,)."""
        strength, shape = self.settings.strength, (len(self.x),)
        if self._normalizer is None:
            return strength * self.linearisation.normalizer
        like = self.x if self._linearisation is None else self._linearisation.normalizer
        return strength * like.new_full(shape, self._normalizer)

    @property
    def target_stderr(self) -> Tensor:
        """Relative standard error of the budget, (S,)."""
        if self.settings.normalizer in ("feature", "absolute"):
            return self.x.new_zeros(len(self.x))
        own = self.linearisation
        return own.normalizer_stderr / own.normalizer.clamp(min=torch.finfo(own.normalizer.dtype).tiny)

    def mean(self, values: Tensor) -> Tensor:
        """Mean of values (S, n) over the units that count, (S,) of float64."""
        wide, counted = values.double(), self.units
        if counted is None:
            return wide.mean(1)
        return torch.where(counted, wide, 0.0).sum(1) / counted.sum(1)

    def feature(self) -> LayerProbe:
        """The layer's feature around the samples, with random streams at their beginning."""
        return self.job.feature(self.layer, self.x, self.rows, self.indices[0])

    def cells(self, metric: str) -> Cells:
        """Cells of a metric; computed once."""
        if metric not in self._cells:
            self._cells[metric] = self._measures[metric].cells(self)
        return self._cells[metric]
