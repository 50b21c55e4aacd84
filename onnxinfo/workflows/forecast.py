"""Remaining time of an analysis, estimated before and while its cells are computed."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import torch

from ..analysis.job import Job

#: Passes through the network per sample and layer, a gradient counting as two: for the linearization, and for a cell.
#: Networks differ by a factor of about three.
LINEARIZATION_PASSES, CELL_PASSES = 100, 1000
#: Evaluations of a cell without gradients: a number for each unit.
EVALUATIONS_PER_UNIT = 2000
#: Time of a pass, in seconds, from which on it is not measured again without the first one's preparations.
LONG_PASS = 0.2
#: Maximum number of inputs evaluated to measure the time of a pass.
MEASURED_INPUTS = 64


class Forecast:
    """Time that an analysis takes, from the time of one pass through the network, later from that of finished cells.

    Parameters
    ----------
    job
        Network and samples.
    workers
        Number of processes that share the work.
    """

    def __init__(self, job: Job, workers: int) -> None:
        self._job, self._workers = job, workers
        self._pass = seconds_of_pass(job)
        self._begun: tuple[float, int] | None = None

    def linearization(self, samples: int) -> float:
        """Seconds that the linearization of all layers at a number of samples takes."""
        layers = len(self._job.layers) - len(self._job.evaluated)
        return self._shared(samples * layers * LINEARIZATION_PASSES)

    def linearized(self, samples: int, seconds: float) -> None:
        """Take the time of the linearization of all layers at some samples into account."""
        layers = len(self._job.layers) - len(self._job.evaluated)
        if samples * layers and seconds > 0:
            self._pass = seconds * self._workers / (samples * layers * LINEARIZATION_PASSES)

    def cells(self, open_cells: Sequence[int], done: int) -> float:
        """Seconds until all cells are computed.

        Parameters
        ----------
        open_cells
            Number of cells to compute, by layer.
        done
            Number of cells computed before, also by an earlier process.
        """
        now, left = time.monotonic(), sum(open_cells)
        if self._begun is None:
            self._begun = now, done
        began, before = self._begun
        if done > before:
            return (now - began) / (done - before) * left
        passes = [self._passes(layer) for layer in range(len(open_cells))]
        return self._shared(sum(number * each for number, each in zip(open_cells, passes, strict=True)))

    def _passes(self, layer: int) -> float:
        return EVALUATIONS_PER_UNIT * math.prod(self._job.shape) if layer in self._job.evaluated else CELL_PASSES

    def _shared(self, passes: float) -> float:
        return passes * self._pass / self._workers


def seconds_of_pass(job: Job, layer: int | None = None) -> float:
    """Seconds that the network takes for one input, in batches; up to one of the layers, or to all."""
    network = job.network if layer is None else job.network.part([layer])
    x, rows = job.inputs([0])
    count = min(job.batch_size, MEASURED_INPUTS)
    x, rows = x.expand(count, *x.shape[1:]).contiguous(), rows.expand(count).contiguous()
    seconds = math.inf
    for _ in range(2):
        began = time.perf_counter()
        with torch.no_grad():
            network(x, rows)
        if x.device.type == "cuda":
            torch.cuda.synchronize(x.device)
        seconds = min(seconds, time.perf_counter() - began)
        if seconds > LONG_PASS:
            break
    return seconds / count
