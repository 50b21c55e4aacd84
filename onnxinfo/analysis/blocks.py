"""Samples computed together, and what the metrics of all layers share about them."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..archive.format import Metric
from ..metrics.probe import Feature
from ..metrics.sid import NORMALIZER_STDERR, Linearisation, linearise
from .job import Job
from .memory import for_each

#: Column norms of the whole run above this many bytes are kept on disk between the two passes.
CACHE_BYTES = 256 * 2**20


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

    def cells(self, block: Block, layer: int) -> Cells:
        """Compute one layer's cells."""


class Block:
    """Samples that are computed together, and what has been computed for them.

    Parameters
    ----------
    job
        Network and samples.
    indices
        Positions of the block's S samples.
    normalizers
        ``D`` of the constraint per layer, None where each sample's own is meant.
    starts
        Gives the linearisations of all layers, when they are needed.
    measures
        All metrics by name; one may be made from another's cells.
    """

    def __init__(
        self,
        job: Job,
        indices: list[int],
        normalizers: Tensor | None,
        starts: Callable[[list[int], Tensor, Tensor], list[Linearisation]],
        measures: Mapping[str, Measure],
    ) -> None:
        self.job, self.indices = job, indices
        self.x, self.rows = job.inputs(indices)
        self._normalizers, self._starts, self._measures = normalizers, starts, measures
        self._cells: dict[tuple[str, int], Cells] = {}

    @cached_property
    def linearisations(self) -> list[Linearisation]:
        """Of every layer."""
        return self._starts(self.indices, self.x, self.rows)

    def target(self, layer: int) -> Tensor:
        """``alpha D`` of every sample, (S,)."""
        if self._normalizers is None:
            return self.job.settings.alpha * self.linearisations[layer].normalizer
        return self.job.settings.alpha * self._normalizers[layer].expand(len(self.indices))

    def feature(self, layer: int) -> Feature:
        """The layer's feature around the samples, with random streams at their beginning."""
        return self.job.feature(layer, self.x, self.rows, self.indices[0])

    def cells(self, metric: str, layer: int) -> Cells:
        """Cells of a metric; computed once."""
        key = metric, layer
        if key not in self._cells:
            self._cells[key] = self._measures[metric].cells(self, layer)
        return self._cells[key]

    def forget(self, layer: int) -> None:
        """Free what was computed for a layer."""
        self._cells = {key: cells for key, cells in self._cells.items() if key[1] != layer}


@dataclass
class Starts:
    """Linearisations of all layers, block by block; kept between the passes, in memory or on disk.

    Where memory does not suffice for a block, averaging cuts it into smaller ones.
    """

    job: Job
    blocks: Sequence[list[int]]
    _kept: dict[int, list[Linearisation]] = field(default_factory=dict)
    _file: npt.NDArray[np.float32] | None = None

    def of(self, block: list[int], x: Tensor, rows: Tensor) -> list[Linearisation]:
        """Linearisations of a block's samples, one per layer."""
        kept = self._kept.pop(block[0], [])
        if not kept or len(kept[0].normalizer) != len(block):
            return self._linearise(block, x, rows)
        if self._file is None:
            return kept
        norms = torch.from_numpy(np.array(self._file[:, block])).to(x.device)
        return [
            Linearisation(norms[i], k.normalizer, k.normalizer_stderr, k.affine, k.probes) for i, k in enumerate(kept)
        ]

    def average(self, report: Callable[[int, int], None]) -> list[float]:
        """``D`` of every layer averaged over all samples (the paper's normalisation)."""
        layers, samples = len(self.job.layers), self.blocks[-1][-1] + 1
        total = torch.zeros(layers, dtype=torch.float64, device=self.job.device)
        units = math.prod(self.job.shape)
        if 4 * units * layers * samples > CACHE_BYTES:
            file = tempfile.TemporaryFile()  # noqa: SIM115 - the memory map owns it, and it has no name to leave behind
            self._file = np.memmap(file, np.float32, "w+", shape=(layers, samples, units))
        done: list[list[int]] = []

        def add(block: list[int]) -> None:
            found = self._linearise(block, *self.job.inputs(block))
            total.add_(torch.stack([start.normalizer.double().sum() for start in found]))
            self._kept[block[0]] = [self._keep(i, block, start) for i, start in enumerate(found)]
            done.append(block)
            report(block[-1] + 1, samples)

        for_each(self.job, self.blocks, add)
        self.blocks = done
        return (total / samples).float().tolist()

    def _keep(self, layer: int, block: list[int], start: Linearisation) -> Linearisation:
        if self._file is None:
            return start
        self._file[layer, block] = start.column_norms.cpu().numpy()
        nothing = start.column_norms[:, :0]
        return Linearisation(nothing, start.normalizer, start.normalizer_stderr, start.affine, start.probes)

    def _linearise(self, block: list[int], x: Tensor, rows: Tensor) -> list[Linearisation]:
        job = self.job
        return linearise(job.network, x, job.unit, rows, job.stream("linearise", block[0]), stderr=self._stderr())

    def _stderr(self) -> float:
        if self.job.settings.normalizer == "image":
            return NORMALIZER_STDERR
        # The mean over all samples is what has to be known well.
        return min(0.05, NORMALIZER_STDERR / 4 * math.sqrt(self.blocks[-1][-1] + 1))
