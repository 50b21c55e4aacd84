"""A layer at a batch of samples, and the quantities that the metrics share."""

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
from ..metrics.linearization import Linearization
from ..metrics.probe import LayerProbe
from .job import Job
from .saturation import saturated_samples
from .settings import Report


@dataclass(frozen=True)
class Cells:
    """Result of one metric for one layer and a batch of S samples.

    Attributes
    ----------
    values
        One number per sample, (S,), for each of the metric's columns.
    map
        Pixel-level values, (S, *shape), if the metric has maps.
    """

    values: Mapping[str, Tensor]
    map: Tensor | None = None


class Measure(ABC):
    """A metric of an analysis.

    Life cycle: it is constructed and validates the request before anything is written; the archive is opened; it is
    prepared, which may take long; it computes cells, either here or in copies sent to workers. Copies are pickled
    without the job and without ``cached_property`` values: a worker has its own job and recomputes the rest.

    Parameters
    ----------
    job
        Network, samples and configuration.

    Attributes
    ----------
    metric
        Schema of the metric in the archive.
    uses_normalizer
        Whether the metric's definition includes the constraint.
    needs_gradient
        Whether the metric differentiates the layer and is therefore unavailable for layers that are only evaluated.
    needs
        Names of metrics whose cells it is computed from; see :meth:`SampleBatch.cells`.
    """

    metric: ClassVar[Metric]
    uses_normalizer: ClassVar[bool] = False
    needs_gradient: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ()

    def __init__(self, job: Job) -> None:
        self.job = job

    @classmethod  # noqa: B027 - few metrics write anything
    def claim(cls, config: Config, output: Path) -> None:
        """Check, before any work, that files other than the archive can be written."""

    @property
    def recipe(self) -> Mapping[str, object]:
        """Settings specific to this metric that determine its numbers."""
        return {}

    def prepare(self, report: Report) -> None:  # noqa: B027 - few metrics train
        """Do slow work once for all workers, such as training; the archive is open at this point."""

    @abstractmethod
    def cells(self, batch: SampleBatch) -> Cells:
        """Compute the cells of a batch."""

    def estimate(self, batch: SampleBatch) -> float | None:
        """Estimate the mean over a batch within a fraction of the time of its cells; None: no such estimate."""
        return None

    def attached(self, job: Job) -> Self:
        """Attach the worker's job to a copy received by a worker."""
        self.job = job
        return self

    def __getstate__(self) -> dict[str, Any]:
        classes = type(self).__mro__
        made = {name for each in classes for name, value in vars(each).items() if isinstance(value, cached_property)}
        return {name: value for name, value in vars(self).items() if name != "job" and name not in made}


class SampleBatch:
    """A layer at samples that are computed together.

    Parameters
    ----------
    job
        Network and samples.
    layer
        Position among the job's layers.
    indices
        Positions of the batch's S samples.
    linearization
        The layer's linearization at the samples; None if no metric needs it.
    normalizer
        Normalizer of the constraint; None: each sample's own ``D``.
    measures
        All metrics by name; a metric may be computed from another's cells.
    """

    def __init__(
        self,
        job: Job,
        layer: int,
        indices: list[int],
        linearization: Linearization | None,
        normalizer: float | None,
        measures: Mapping[str, Measure],
    ) -> None:
        self.job, self.layer, self.indices = job, layer, indices
        self.x, self.rows = job.inputs(indices)
        self._linearization = None if linearization is None else linearization.to(self.x.device).at_least(self.x.dtype)
        self._normalizer, self._measures = normalizer, measures
        self._cells: dict[str, Cells] = {}
        #: Factor on the passes over the cells.
        self.passes = 1
        #: Noise scales at which the search for SID begins, (S, n), infinite at the cap; None: the linearization's.
        self.begun: Tensor | None = None

    @property
    def linearization(self) -> Linearization:
        """The layer's linearization."""
        assert self._linearization is not None
        return self._linearization

    @property
    def units(self) -> Tensor | None:
        """Counted units, (S, n) bool; None: all."""
        return self.job.counted(self.indices)

    @property
    def settings(self) -> SidConfig:
        """Constraint, noise and solver of the layer."""
        return self.job.settings_of(self.layer)

    @property
    def target(self) -> Tensor:
        """Budget of every sample, ``alpha D`` by default, (S,)."""
        strength, shape = self.settings.strength, (len(self.x),)
        if self._normalizer is None:
            return strength * self.linearization.normalizer
        like = self.x if self._linearization is None else self._linearization.normalizer
        # Beyond the range of the layer's numbers, the budget is infinite.
        wide = torch.full(shape, self._normalizer, dtype=torch.float64, device=like.device)
        return strength * wide.to(like.dtype)

    @property
    def target_stderr(self) -> Tensor:
        """Relative standard error of the budget, (S,)."""
        if self.settings.normalizer in ("feature", "absolute"):
            return self.x.new_zeros(len(self.x))
        own = self.linearization
        return own.normalizer_stderr / own.normalizer.clamp(min=torch.finfo(own.normalizer.dtype).tiny)

    def mean(self, values: Tensor) -> Tensor:
        """Mean of values (S, n) over the counted units, (S,) of float64."""
        wide, counted = values.double(), self.units
        if counted is None:
            return wide.mean(1)
        return torch.where(counted, wide, 0.0).sum(1) / counted.sum(1)

    def feature(self) -> LayerProbe:
        """The layer's feature at the samples, with random streams at their start."""
        return self.job.feature(self.layer, self.x, self.rows, self.indices[0])

    def saturated(self, feature: LayerProbe) -> Tensor | None:
        """Tell at which samples the layer's own values are saturated, (S,) bool; None: at none."""
        return saturated_samples(self.job.saturating[self.layer], feature.center)

    def cells(self, metric: str) -> Cells:
        """Cells of a metric, computed once."""
        if metric not in self._cells:
            self._cells[metric] = self._measures[metric].cells(self)
        return self._cells[metric]
