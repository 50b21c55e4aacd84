"""Sensitivity as a metric of an analysis."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch

from ..archive.format import PROOF, Field, Metric, mark_code
from ..config import recipe
from ..errors import UsageError
from ..graph.layers import list_layers
from ..text import quoted
from .blocks import Cells, Measure, SampleBatch
from .job import Job
from .sensitivity import Measured, check_change, find_target, measure_sensitivity
from .settings import Report

_MARK = next(field for field in PROOF if field.name == "mark")
#: Marks of a tensor that are marks of its cells, too.
_MARKS = ("dead", "integer", "not_finite")


#: Recipe entry of the target.
TARGET = "sensitivity_target"


def sensitivity_target(job: Job) -> str:
    """Return the name of the layer whose change is measured."""
    model = job.provider.model
    return find_target(model, list_layers(model, job.provider.tensors), job.config.sensitivity).name


class SensitivityMetric(Measure):
    """Squared Jacobian of a target layer by each layer, and the noise that causes a given change of the target.

    All cells are computed together, before the first one is written.

    Raises
    ------
    UsageError
        The target is not one of the layers, or the change cannot be measured at it.
    """

    metric: ClassVar[Metric] = Metric(
        "sensitivity",
        "trace of J^T J, the squared Jacobian of the target",
        "1",
        fields=(
            Field("effect", "<f8", "1", "change of the target per squared noise scale, in the quadratic approximation"),
            Field("mean", "<f8", "1", "mean of the tensor's values"),
            Field("square", "<f8", "1", "mean square of the tensor's values"),
            Field("tolerance", "<f8", "1", "standard deviation of noise that causes the change, over all samples"),
            Field("predicted", "<f8", "1", "tolerance in the quadratic approximation"),
            Field("achieved", "<f8", "1", "measured over wanted change at the tolerance; NaN if it was not measured"),
            Field("achieved_stderr", "<f8", "1", "standard error of the achieved change, over draws of noise"),
            _MARK,
        ),
        has_map=False,
    )

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        model, target = job.provider.model, sensitivity_target(job)
        names = [layer.name for layer in job.layers]
        if target not in names:
            raise UsageError(f"sensitivity is measured at {quoted(target)}: add it to layers=..., or name a target=...")
        for name in names:
            if name != target and target not in model.flow.influenced(name):
                raise UsageError(f"{quoted(name)} does not lead to the target {quoted(target)}; leave it out")
        check_change(job, target)
        self._target = target
        self.measured: list[Measured] = []
        self._found: list[dict[str, npt.NDArray[np.float64]]] = []

    @property
    def recipe(self) -> Mapping[str, object]:
        """The target, the change, and how it is measured."""
        return recipe(self.job.config.sensitivity) | {TARGET: self._target}

    def prepare(self, report: Report) -> None:
        """Measure all layers at all samples, once."""
        if self.measured:
            return
        names = [layer.name for layer in self.job.layers]
        self.measured = measure_sensitivity(self.job, self._target, names, report)
        self._found = [_columns(each) for each in self.measured]

    def __getstate__(self) -> dict[str, Any]:
        # Workers do not need the numbers of single units.
        return super().__getstate__() | {"measured": []}

    def cells(self, batch: SampleBatch) -> Cells:
        """Look up the numbers of a batch."""
        numbers = self._found[batch.layer]
        return Cells({name: torch.from_numpy(values[batch.indices]) for name, values in numbers.items()})


def _columns(found: Measured) -> dict[str, npt.NDArray[np.float64]]:
    """Return the numbers of a layer at all samples, those of the layer repeated."""
    mark = found.mark if found.mark in _MARKS else "converged"
    count = len(found.trace)
    tolerance = found.tolerance
    of_layer = {
        "tolerance": tolerance.scale,
        "predicted": found.predicted,
        "achieved": tolerance.achieved,
        "achieved_stderr": tolerance.stderr,
    }
    return {
        "value": np.full(count, math.nan) if mark == "integer" else found.trace,
        "stderr": found.trace_stderr,
        "converged": np.full(count, mark == "converged"),
        "effect": found.effect,
        "mean": found.mean,
        "square": found.square,
        **{name: np.full(count, value) for name, value in of_layer.items()},
        "mark": np.full(count, mark_code(mark)),
    }
