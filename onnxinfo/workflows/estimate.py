"""Estimate, before an analysis, what it takes: time, memory and disk."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt
import torch

from ..analysis.blocks import Measure
from ..analysis.job import Job
from ..analysis.tasks import Linearize, Measuring, Worker
from ..archive.format import chunk_bytes, encode_map
from ..archive.prepare import kept_cells
from ..config import Config, FlatOptions, configure
from ..graph.model import ModelSource
from ..inputs.deviation import evenly_spread
from ..metrics.linearization import NORMALIZER_STDERR, Linearization
from ..metrics.problem import MANY_UNITS
from .analyze import ready
from .compute import BLOCK
from .computing import computing
from .forecast import CELL_PASSES, seconds_of_pass
from .given_model import given_model
from .idle import refuse_idle_keywords
from .resources import RUN_BYTES, disk_bytes, peak_memory

#: Maximum number of layers whose first cell is computed to learn how long cells take.
PROBED_LAYERS = 4
#: Seconds after which no further layer is probed.
PROBE_SECONDS = 30.0


@dataclass(frozen=True)
class Estimate:
    """What an analysis takes.

    Attributes
    ----------
    cells, open_cells
        Number of cells (metric, layer, sample), and of those that are to be computed.
    seconds
        Time.
    memory_bytes
        Peak of the memory of each process; of the GPU's memory if there is one; 0 where it is unknown (Windows).
    disk_bytes
        Size of the cells in the archive.
    left_out
        Metrics of which nothing is known before they are trained: their time is not included.

    Examples
    --------
    >>> onnxinfo.Estimate(cells=40, open_cells=8, seconds=60.0, memory_bytes=10**9, disk_bytes=10**6).open_cells
    8
    """

    cells: int
    open_cells: int
    seconds: float
    memory_bytes: int
    disk_bytes: int
    left_out: tuple[str, ...] = ()


def estimate(
    model: ModelSource,
    inputs: Any,
    output: str | os.PathLike[str],
    *,
    example: Any = None,
    **options: Unpack[FlatOptions],
) -> Estimate:
    """Estimate what an analysis takes, from cells of the first samples at a few layers. Nothing is written.

    Parameters
    ----------
    model, inputs, output, example
        As for :func:`onnxinfo.analyze`. Cells that the archive has already are not counted.
    **options
        Single settings of :func:`onnxinfo.analyze` by flat name.

    Returns
    -------
    Estimate
        Rough: the time is usually right within a factor of two to three, on the same machine under the same load.

    Raises
    ------
    OnnxinfoError
        The analysis would be refused, as by :func:`onnxinfo.analyze`.

    Examples
    --------
    >>> found = onnxinfo.estimate("digits-cnn.onnx", "digits.npz:images", "new.h5", layers=["-1"], limit=2)
    >>> found.cells, found.open_cells, found.seconds > 0
    (2, 2, True)
    """
    config = configure(Config(), options)
    refuse_idle_keywords("estimate", options, config, inputs=inputs, output=output)
    with computing(config.execution.timeout):
        found = ready(given_model(model, inputs, example), inputs, output, config)
        kept = kept_cells(found.archive, found.run, found.request)
        return _estimated(found.job, found.measures, found.worker, kept)


def _estimated(
    job: Job, measures: Mapping[str, Measure], worker: Worker, kept: Mapping[str, npt.NDArray[np.bool_]]
) -> Estimate:
    cells = sum(done.size for done in kept.values())
    left_out = tuple(name for name in measures if trains(worker, name))
    probed = [name for name in measures if name not in left_out]
    open_cells = {name: (~kept[name]).sum(1) for name in probed}
    count = sum(int((~done).sum()) for done in kept.values())
    seconds = disk = 0.0
    if any(each.any() for each in open_cells.values()):
        probe = _Probe(job, worker)
        seconds = probe.seconds(open_cells) / max(1, job.config.execution.workers or 1)
        disk = probe.bytes_of(open_cells)
    # The probe evaluates as many inputs at once as the analysis.
    memory, disk = peak_memory(job), disk + (RUN_BYTES if count else 0)
    return Estimate(cells, count, float(seconds), memory, int(disk), left_out)


def trains(worker: Worker, name: str) -> bool:
    """Whether a metric, or one that it depends on, prepares something that may take long before its first cell."""
    measure = worker.measures[name]
    return type(measure).prepare is not Measure.prepare or any(trains(worker, each) for each in measure.needs)


class _Probe:
    """Cells of the first samples, computed at some layers.

    Parameters
    ----------
    job
        Network and samples.
    worker
        Worker of this process.
    """

    def __init__(self, job: Job, worker: Worker) -> None:
        self._job, self._worker = job, worker
        self._samples, self._layers = len(job.provider), len(job.layers)
        self._passes = [seconds_of_pass(job, layer) for layer in range(self._layers)]
        self._block = min(BLOCK, job.batch_size, self._samples) if not job.evaluated else 1
        affordable = PROBE_SECONDS / PROBED_LAYERS / (CELL_PASSES * max(*self._passes, 1e-9))
        #: Samples of the first block that are probed: all, where that takes little time.
        self._some = [*range(max(1, min(self._block, int(affordable))))]
        self._sizes: list[float] = []
        self._starts, self._linearization = self._linearized()

    def seconds(self, open_cells: Mapping[str, npt.NDArray[np.int64]]) -> float:
        """Return the time of all open cells, by metric and layer, and of the linearization before them."""
        total = self._linearization * self._samples
        names = [name for name, counts in open_cells.items() if counts.any()]
        counts = np.max([open_cells[name] for name in names], axis=0)
        asked = [layer for layer in range(self._layers) if counts[layer]]
        known: dict[int, float] = {}
        began = time.monotonic()
        for layer in _from_both_ends(asked):
            if len(known) < PROBED_LAYERS and (not known or time.monotonic() - began < PROBE_SECONDS):
                known[layer] = self._cell(layer, names) / self._passes[layer]
        at = sorted(known)
        ratios = np.interp(asked, at, [known[layer] for layer in at])
        per_cell = [ratio * self._passes[layer] for layer, ratio in zip(asked, ratios.tolist(), strict=True)]
        return total + sum(each * int(counts[layer]) for layer, each in zip(asked, per_cell, strict=True))

    def bytes_of(self, open_cells: Mapping[str, npt.NDArray[np.int64]]) -> float:
        """Return the size of open cells on the disk, with maps of the size of the probed ones."""
        metrics = {name: self._worker.measures[name].metric for name in open_cells}
        cells = {name: int(counts.sum()) for name, counts in open_cells.items()}
        return disk_bytes(metrics, cells, float(np.mean(self._sizes)) if self._sizes else 0.0)

    def _linearized(self) -> tuple[Sequence[Linearization] | None, float]:
        """Linearize the probed samples; return the seconds per sample."""
        job = self._job
        if len(job.evaluated) == self._layers or not any(
            measure.uses_normalizer for measure in self._worker.measures.values()
        ):
            return None, 0.0
        began = time.monotonic()
        (part,) = Linearize(self._some, NORMALIZER_STDERR).perform(self._worker)
        return part.outcome, (time.monotonic() - began) / len(self._some)

    def _cell(self, layer: int, names: Sequence[str]) -> float:
        """Compute the cells of the probed samples at a layer; return the seconds that each takes within a block."""
        start = None if self._starts is None or layer in self._job.evaluated else self._starts[layer]
        began = time.monotonic()
        parts = Measuring(layer, self._some, names, start, self._normalizer(layer)).perform(self._worker)
        seconds = (time.monotonic() - began) / len(self._some)
        compression = self._job.config.out.compression
        for part in parts:
            maps = [column.map[0] for column in part.outcome.values() if column.map is not None]
            self._sizes += [len(chunk_bytes(encode_map(each, compression), compression)) for each in maps]
        if layer in self._job.evaluated:
            return seconds
        # Blocks of many units get fewer noise samples for each.
        return seconds * self._effort(self._block) / self._effort(len(self._some))

    def _effort(self, samples: int) -> int:
        return min(8, max(1, MANY_UNITS // (self._job.tie.units * samples)))

    def _normalizer(self, layer: int) -> float | None:
        """A budget of the right size for a probe: none where each sample's own D will do."""
        settings = self._job.settings_of(layer)
        if settings.normalizer in ("dataset", "sample"):
            return None
        with torch.no_grad():
            x, rows = self._job.inputs(range(min(8, self._samples)))
            (feature,) = self._job.network.part([layer])(x, rows)
        if settings.normalizer == "feature":
            spread = float(feature.double().var(0, correction=0).sum())
            return spread if spread > 0 and math.isfinite(spread) else 1.0
        return settings.absolute_budget(feature.shape[1])


def _from_both_ends(layers: Sequence[int]) -> list[int]:
    """Layers in the order in which they are probed: the last, the first, then evenly between them."""
    chosen = [layers[at] for at in evenly_spread(len(layers), PROBED_LAYERS)]
    return [*chosen[-1:], *chosen[:-1]]
