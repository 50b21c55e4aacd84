"""The units of work of an analysis, and the worker that performs them, in this process or another one."""

from __future__ import annotations

import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy.typing as npt
import torch

from ..archive.unfinished import PART, Unfinished
from ..metrics.linearization import Division, Linearization, linearize
from .blocks import Measure, SampleBatch
from .job import Job
from .keeping import journal_of
from .memory import for_each

Outcome_co = TypeVar("Outcome_co", covariant=True)
Array = npt.NDArray[Any]
_CPU = torch.device("cpu")


class Worker:
    """Network, samples and metrics, ready to compute.

    Parameters
    ----------
    job
        Network and samples.
    measures
        The requested metrics and those that they depend on, by name.
    unfinished
        Where unfinished work is kept; None: nowhere.
    """

    def __init__(self, job: Job, measures: Mapping[str, Measure], unfinished: Unfinished | None = None) -> None:
        self.job, self.measures, self.unfinished = job, measures, unfinished

    def begin(self, task: str, samples: Sequence[int]) -> None:
        """Begin a task's work on samples, which continues from what an interrupted process kept of it.

        If memory runs out, work is divided differently, and what was kept does not fit.
        """
        self.job.journal = journal_of(self.unfinished, f"{task}{PART}{samples[0]}-{len(samples)}-{self.job.batch_size}")


class Task(Protocol[Outcome_co]):
    """Work that any worker can perform; it can be sent to another process."""

    @property
    def name(self) -> str:
        """Name of the task's unfinished work."""

    def perform(self, worker: Worker) -> Outcome_co:
        """Perform the task."""


@dataclass(frozen=True)
class Part(Generic[Outcome_co]):
    """Result for a subset of a task's samples: all of them, unless memory ran out."""

    samples: list[int]
    outcome: Outcome_co


@dataclass(frozen=True)
class Linearize:
    """Linearize all layers at consecutive samples.

    Attributes
    ----------
    samples
        Positions of the samples.
    stderr
        Target for the relative standard error of each sample's D.
    """

    samples: Sequence[int]
    stderr: float

    @property
    def name(self) -> str:
        """Name of the task's unfinished work."""
        return f"linearizing-{_digest(self.samples)}"

    def perform(self, worker: Worker) -> list[Part[list[Linearization]]]:
        """Compute one linearization per layer."""
        job, parts = worker.job, []

        def work(samples: list[int]) -> None:
            worker.begin(self.name, samples)
            x, rows = job.inputs(samples)
            probes, counted = job.stream("linearise", samples[0]), job.counted(samples)
            found = linearize(
                job.network,
                x,
                job.unit,
                rows,
                probes,
                stderr=self.stderr,
                counted=counted,
                division=Division(job.batch_size, job.journal),
            )
            parts.append(Part(samples, [linearization.to(_CPU) for linearization in found]))

        for_each(job, [list(self.samples)], work)
        return parts


@dataclass(frozen=True)
class Column:
    """Results of one metric for one layer and some samples, in archive form, with the time they took."""

    values: Mapping[str, Array]
    map: Array | None
    seconds: float

    def at(self, places: Array) -> Column:
        """Return the results for some of the samples."""
        values = {name: numbers[places] for name, numbers in self.values.items()}
        return Column(values, None if self.map is None else self.map[places], self.seconds)


@dataclass(frozen=True)
class Measuring:
    """Compute metrics of one layer at some samples of a block.

    Attributes
    ----------
    layer
        Position of the layer.
    samples
        Positions of the samples.
    metrics
        Names of the metrics.
    linearization
        The layer's linearization at the samples; None if no metric needs it.
    normalizer
        ``D`` of the constraint; None: each sample's own.
    passes
        Factor on the passes over the cells.
    begun
        Noise scales at which the search for SID begins, (S, n), infinite at the cap; None: those of the linearization.
    """

    layer: int
    samples: Sequence[int]
    metrics: Sequence[str]
    linearization: Linearization | None
    normalizer: float | None
    passes: int = 1
    begun: torch.Tensor | None = None

    @property
    def name(self) -> str:
        """Name of the task's unfinished work."""
        depends = (self.samples, self.metrics, self.passes, *(() if self.begun is None else ("begun",)))
        return f"measuring-{self.layer}-{_digest(*depends)}"

    def perform(self, worker: Worker) -> list[Part[dict[str, Column]]]:
        """Compute the cells of each metric."""
        parts = []

        def work(samples: list[int]) -> None:
            worker.begin(self.name, samples)
            first, whole = list(self.samples).index(samples[0]), self.linearization
            part = None if whole is None else whole.at(slice(first, first + len(samples)))
            batch = SampleBatch(worker.job, self.layer, samples, part, self.normalizer, worker.measures)
            batch.passes = self.passes
            batch.begun = None if self.begun is None else self.begun[first : first + len(samples)]
            parts.append(Part(samples, {name: _column(batch, name) for name in self.metrics}))

        for_each(worker.job, [list(self.samples)], work)
        return parts


def _digest(*depends: object) -> str:
    return f"{zlib.crc32(repr(depends).encode()):08x}"


def _column(batch: SampleBatch, metric: str) -> Column:
    began = time.monotonic()
    cells = batch.cells(metric)
    values = {name: numbers.cpu().numpy() for name, numbers in cells.values.items()}
    return Column(values, None if cells.map is None else cells.map.cpu().numpy(), time.monotonic() - began)
