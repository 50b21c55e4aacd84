"""Fill an archive's cells: submit tasks to an engine, and write their results."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ..analysis.blocks import Measure, SampleBatch
from ..analysis.job import Job
from ..analysis.keeping import KeptLinearizations
from ..analysis.linearization_store import LinearizationStore, SharedLinearizations, linearization_store
from ..analysis.normalizers import Normalizers
from ..analysis.settings import Progress, Report
from ..analysis.tasks import Column, Linearize, Measuring, Worker
from ..archive.means import mean_and_stderr
from ..archive.unfinished import Unfinished
from ..archive.writer import RunWriter
from ..engines.base import Engine
from ..errors import InputError
from ..metrics.linearization import NORMALIZER_STDERR, Linearization
from .forecast import Forecast
from .former import Former
from .resources import RUN_BYTES, disk_bytes, expected_memory, typical_map_bytes

logger = logging.getLogger(__name__)

#: Factor on the passes over unproven cells that are tried again.
RETRY_PASSES = 4
#: Maximum number of samples solved together; the unit in which results are written and runs are resumed.
BLOCK = 32


@dataclass
class Analysis:
    """Remaining work of a run.

    Attributes
    ----------
    job
        Layers, samples and settings.
    measures
        The requested metrics, by name.
    worker
        This process's worker: these, the metrics that they depend on, and where unfinished work is kept.
    engine
        Engine that executes the tasks.
    writer
        Writer of the run; cells that it already has are not recomputed.
    report
        Called for every cell.
    workers
        Number of processes that share the work.
    former
        A run with other budgets, from whose maps the search for the same cells begins.
    shared
        Linearizations of runs of the same layers and samples before it.
    """

    job: Job
    measures: Mapping[str, Measure]
    worker: Worker
    engine: Engine
    writer: RunWriter
    report: Report
    workers: int = 1
    former: Former | None = None
    shared: SharedLinearizations | None = None
    _finished: dict[str, npt.NDArray[np.bool_]] = field(init=False)
    _retried: dict[str, npt.NDArray[np.bool_]] = field(init=False)
    _forecast: Forecast = field(init=False)

    def __post_init__(self) -> None:
        self._finished = {name: self.writer.finished(name) for name in self.measures}
        self._retried = {name: self.writer.retried(name) for name in self.measures}
        for name, done in self._finished.items():
            logger.info("%s: %d of %d cells are in the archive already", name, done.sum(), done.size)

    def compute(self) -> None:
        """Compute all unfinished cells."""
        if all(done.all() for done in self._finished.values()):
            return
        self._forecast = Forecast(self.job, self.workers)
        first, *others = self._finished
        self.report(replace(self._progress(first), memory_bytes=expected_memory(self.job), disk_bytes=self._disk()))
        for name in others:
            self.report(self._progress(name))
        with self._store() as kept:
            normalizers = self._linearize(kept)
            for task, parts in self.engine.map(self._measurings(kept, normalizers)):
                assert isinstance(task, Measuring)
                for part in parts:
                    for name, column in part.outcome.items():
                        self._write(name, task, part.samples, column)
                self._unfinished.discard(task.name)

    def _store(self) -> contextlib.AbstractContextManager[LinearizationStore]:
        """Return the store of linearizations: this run's own, or one that it shares with others."""
        size = len(self.job.layers), len(self.job.provider), math.prod(self.job.shape)
        if self.shared is None:
            return linearization_store(*size)
        depends = [layer.name for layer in self.job.layers], self.job.provider.samples.digest(), self._stderr()
        return contextlib.nullcontext(self.shared.store((depends, self.job.batch_size, self.job.settings.seed), *size))

    def _disk(self) -> int:
        """Bytes that the open cells add to the archive."""
        metrics = {name: measure.metric for name, measure in self.measures.items()}
        cells = {name: int((~done).sum()) for name, done in self._finished.items()}
        map_bytes = typical_map_bytes(self.job.shape, self.job.config.out.compression)
        return RUN_BYTES + int(disk_bytes(metrics, cells, map_bytes))

    @property
    def _unfinished(self) -> Unfinished:
        assert self.worker.unfinished is not None
        return self.worker.unfinished

    @property
    def _blocks(self) -> list[list[int]]:
        """Blocks of samples that are solved together, independent of the engine and of finished cells."""
        samples = len(self.job.provider)
        # Evaluations take long for each sample, and share nothing between samples.
        size = 1 if self.job.evaluated else min(BLOCK, self.job.batch_size, samples)
        return [list(range(start, min(start + size, samples))) for start in range(0, samples, size)]

    def _open(self, layer: int, block: Sequence[int]) -> list[str]:
        """Metrics for which a layer has unfinished cells in a block."""
        return [name for name, done in self._finished.items() if not done[layer, block].all()]

    def _linearize(self, kept: LinearizationStore) -> list[float | None]:
        """Linearize if necessary; return every layer's normalizer, None for each sample's own ``D``."""
        layers = range(len(self.job.layers))
        constrained = [name for name in self.measures if self._is_constrained(name)]
        if not constrained:
            return [None for _ in layers]
        # A resumed run keeps the normalizers of its finished cells.
        known = [self._known(constrained, layer) for layer in layers]
        kinds = [self.job.settings_of(layer).normalizer for layer in layers]
        blocks = self._blocks
        if len(self.job.evaluated) == len(self.job.layers):
            blocks = []
        elif not any(kind == "dataset" and found is None for kind, found in zip(kinds, known, strict=True)):
            blocks = [block for block in blocks if any(self._open(layer, block) for layer in layers)]
        self._linearize_blocks(kept, blocks)
        found = Normalizers(self.job, kept.normalizers)
        normalizers = [found.of(layer) if known[layer] is None else known[layer] for layer in layers]
        for name in constrained:
            for layer, normalizer in enumerate(normalizers):
                if normalizer is not None and not self._finished[name][layer].any():
                    self.writer.set_normalizer(name, layer, normalizer)
        return normalizers

    def _is_constrained(self, name: str) -> bool:
        """Whether a metric, or one that it depends on, uses the constraint with ``D``."""
        measure = self.worker.measures[name]
        return measure.uses_normalizer or any(map(self._is_constrained, measure.needs))

    def _known(self, metrics: Sequence[str], layer: int) -> float | None:
        if self.job.settings_of(layer).normalizer == "sample":
            return None
        return next((self.writer.normalizer(m, layer) for m in metrics if self._finished[m][layer].any()), None)

    def _linearize_blocks(self, kept: LinearizationStore, blocks: Sequence[list[int]]) -> None:
        saved = KeptLinearizations(self._unfinished, kept, len(self.job.layers))
        began, total = time.monotonic(), sum(map(len, blocks))
        known = set() if self.shared is None else self.shared.blocks
        missing = [block for block in blocks if tuple(block) not in known]
        tasks = [Linearize(block, self._stderr()) for block in missing if not saved.restored(block)]
        computed = sum(len(task.samples) for task in tasks)
        done = restored = total - computed
        if computed:
            remaining = self._forecast.linearization(computed)
            self.report(Progress("normalizer", done, total, remaining=remaining))
        for task, parts in self.engine.map(tasks):
            assert isinstance(task, Linearize)
            for part in parts:
                for layer, start in zip(self.job.layers, part.outcome, strict=True):
                    _demand_finite(layer.name, part.samples, start)
                kept.put(part.samples, part.outcome)
                done += len(part.samples)
                elapsed = time.monotonic() - began
                remaining = elapsed / (done - restored) * (total - done)
                self.report(Progress("normalizer", done, total, remaining=remaining))
            saved.add(task.samples, task.name)
        saved.close()
        known.update(map(tuple, blocks))
        self._forecast.linearized(computed, time.monotonic() - began)
        logger.info("normalizers D of %d layers computed in %.2f s", len(self.job.layers), time.monotonic() - began)

    def _stderr(self) -> float:
        if self.job.settings.normalizer != "dataset":
            return NORMALIZER_STDERR
        # The precision of the mean over all samples matters.
        return min(0.05, 0.005 * math.sqrt(len(self.job.provider)))

    def _measurings(self, kept: LinearizationStore, normalizers: Sequence[float | None]) -> Iterator[Measuring]:
        constrained = any(map(self._is_constrained, self.measures))
        for block in self._blocks:
            for layer in range(len(self.job.layers)):
                if not self._open(layer, block):
                    continue
                start = kept.of(layer, block) if constrained and layer not in self.job.evaluated else None
                yield from self._usual(layer, block, start, normalizers[layer])
                for places, names in self._again(layer, block).items():
                    some = None if start is None else start.at(torch.tensor(places))
                    samples = [block[at] for at in places]
                    yield Measuring(layer, samples, names, some, normalizers[layer], RETRY_PASSES)

    def _usual(
        self, layer: int, block: list[int], start: Linearization | None, normalizer: float | None
    ) -> Iterator[Measuring]:
        """Tasks with the usual passes: of the whole block, or apart of cells that existed before the run grew."""
        before = [] if self.former is None or start is None else self.former.places(layer, normalizer, block)
        for places in (before, [place for place in range(len(block)) if place not in before]):
            samples = [block[place] for place in places]
            if not samples or not (names := self._first(layer, samples)):
                continue
            some = start if start is None or len(places) == len(block) else start.at(torch.tensor(places))
            self._begin(layer, samples, names, some, normalizer)
            begun = None
            if places is before and self.former is not None and normalizer is not None:
                begun = self.former.scales(layer, normalizer, samples, self.job.settings.sigma_max)
            yield Measuring(layer, samples, names, some, normalizer, begun=begun)

    def _first(self, layer: int, block: Sequence[int]) -> list[str]:
        """Metrics with unfinished cells in a block that get the usual number of passes."""
        at = layer, block
        return [name for name, done in self._finished.items() if not (done[at] | self._retried[name][at]).all()]

    def _again(self, layer: int, block: Sequence[int]) -> dict[tuple[int, ...], list[str]]:
        """Places in a block whose unfinished cells get more passes, with their metrics."""
        found: dict[tuple[int, ...], list[str]] = {}
        for name, done in self._finished.items():
            places = np.nonzero(~done[layer, block] & self._retried[name][layer, block])[0]
            if len(places):
                found.setdefault(tuple(places.tolist()), []).append(name)
        return found

    def _begin(
        self, layer: int, block: list[int], names: Sequence[str], start: Linearization | None, normalizer: float | None
    ) -> None:
        """Report a layer's first estimates, from its linearization."""
        if start is not None:
            batch = SampleBatch(self.job, layer, block, start, normalizer, self.worker.measures)
            for name in names:
                estimate = self.measures[name].estimate(batch)
                if estimate is not None:
                    self.report(self._progress(name, self.job.layers[layer].name, estimate, provisional=True))

    def _progress(self, name: str, layer: str = "", value: float = math.nan, *, provisional: bool = False) -> Progress:
        done = self._finished[name]
        remaining = self._forecast.cells((~done).sum(1).tolist(), int(done.sum()))
        return Progress(name, int(done.sum()), done.size, layer, value, remaining, provisional)

    def _write(self, name: str, task: Measuring, samples: list[int], column: Column) -> None:
        layer = task.layer
        # A task with the usual passes computes whole blocks, also cells that another one computes with more.
        meant = np.nonzero(self._retried[name][layer, samples] == (task.passes > 1))[0]
        if not len(meant):
            return
        samples, column = [samples[at] for at in meant], column.at(meant)
        self.writer.write(name, layer, samples, values=column.values, map=column.map)
        done = self._finished[name]
        done[layer, samples] = True
        described = self.job.layers[layer].name
        _log(name, described, samples, column)
        self.report(self._progress(name, described, _mean(column.values["value"])))


def _demand_finite(layer: str, samples: Sequence[int], start: Linearization) -> None:
    bad = (~start.normalizer.isfinite()).nonzero().flatten().tolist()
    if bad:
        raise InputError(
            f"layer '{layer}' has no finite gradient at sample {samples[bad[0]]}: "
            f"weights or samples are NaN, infinite or too large for float32; look at the tensors before it"
        )


def _log(metric: str, layer: str, samples: Sequence[int], column: Column) -> None:
    if logger.isEnabledFor(logging.INFO):
        means = ", ".join(f"{name} {_mean(numbers):.4g}" for name, numbers in column.values.items())
        span = f"{samples[0]}-{samples[-1]}"
        logger.info("%s of %s, samples %s, %.2f s; means: %s", metric, layer, span, column.seconds, means)


def _mean(numbers: npt.NDArray[Any]) -> float:
    return float(mean_and_stderr(numbers)[0])
