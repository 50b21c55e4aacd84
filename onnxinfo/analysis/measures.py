"""The metrics of an analysis, by name."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from ..archive.format import PROVEN, Metric, mark_code
from ..errors import UsageError
from ..graph.quantization import rounds
from ..metrics.forward import solve_forward
from ..metrics.noise import ENTROPY, clip_sigma, waterfill
from ..metrics.probe import LayerProbe
from ..metrics.problem import Problem
from ..metrics.reference import solve_by_gradient
from ..metrics.sid import Solution, solve
from ..registry import METRICS
from ..text import quoted
from .blocks import Cells, Measure, SampleBatch
from .job import Job
from .proof import proof

#: What a float network may have instead of rounding. Inputs in other units than in training saturate gates.
_STEPS = "steps (thresholds, or the rounding of floats)"


class Sid(Measure):
    """Strict information discarding: ``log sigma_i + C`` at the largest noise within the layer's budget."""

    metric: ClassVar[Metric] = Metric(
        "sid",
        "strict information discarding",
        fields=PROVEN,
    )
    uses_normalizer: ClassVar[bool] = True
    needs_gradient: ClassVar[bool] = False

    def cells(self, batch: SampleBatch) -> Cells:
        """Solve one layer at a batch of samples."""
        settings, target, feature = batch.settings, batch.target, batch.feature()
        solution = self._solution(batch, feature)
        certificate, entropy = solution.certificate, solution.entropy
        coarse = solution.coarse[solution.coarse > 1]
        # Reported multiples refer to alpha, or to the budget itself if it is absolute.
        unit, what = (settings.strength, "alpha") if settings.budget is None else (float(target.max()), "budget")
        if len(coarse):
            logger.warning(
                "%d of %d samples of '%s' are limited by %s at %s %.2g; %s",
                *(len(coarse), len(solution.coarse), self.job.layers[batch.layer].name),
                "rounding" if rounds(self.job.provider.model.proto) else _STEPS,
                *(what, unit),
                _sound_from(what, unit * float(coarse.max())),
            )
        value = batch.mean(entropy)
        proven = proof(certificate, value, solution.dead, solution.coarse > 1, batch.saturated(feature))
        self._warn_of_saturation(batch.layer, proven["mark"])
        values = {
            "value": value,
            "stderr": solution.stderr,
            **proven,
            "resolution_alpha": unit * solution.coarse.double(),
            "probes": solution.probes,
            "iterations": solution.iterations,
            "capped": solution.capped,
        }
        return Cells(values, entropy.reshape(-1, *self.job.shape))

    def estimate(self, batch: SampleBatch) -> float:
        """Mean SID of the linearized layer."""
        norms, settings = batch.linearization.column_norms, batch.settings
        counted = torch.ones_like(norms, dtype=torch.bool) if batch.units is None else batch.units
        tie = self.job.tie.counting(counted)
        target = batch.target.clamp(min=torch.finfo(norms.dtype).tiny)
        sigma = clip_sigma(waterfill(norms * counted, target, tie, settings.sigma_max), tie, settings.sigma_max)
        return float(batch.mean(sigma.log() + ENTROPY).mean())

    def _warn_of_saturation(self, layer: int, marks: Tensor) -> None:
        found, number = self.job.saturating[layer], int((marks == mark_code("saturated_output")).sum())
        if found is not None and number:
            name = quoted(self.job.layers[layer].name)
            advice = f"; analyze the scores before it, {quoted(found.scores)}" if found.scores else ""
            logger.warning(
                "%s is saturated at %d of %d samples, whose values are unproven%s", name, number, len(marks), advice
            )

    def _solution(self, batch: SampleBatch, feature: LayerProbe) -> Solution:
        settings, tie, shape = batch.settings, self.job.tie, self.job.shape
        target, cap = batch.target, settings.sigma_max
        if settings.solver == "forward":
            return solve_forward(feature, target, tie, cap, shape, self.job.integrator(batch.layer), batch.units)
        problem = Problem.of(feature, batch.linearization, target, tie, cap, shape, batch.units, batch.target_stderr)
        begun = None if batch.begun is None else batch.begun.to(problem.start.column_norms)
        problem = dataclasses.replace(problem, passes=batch.passes, begun=begun)
        return solve_by_gradient(problem) if settings.solver == "reference" else solve(problem)


logger = logging.getLogger(__name__)


def _sound_from(what: str, size: float) -> str:
    if math.isfinite(size):
        return f"it is sound from {what} {size:.2g} on"
    return f"no {what} that was tried is sound; solver=forward can handle steps if scales are few or shared"


def make_measures(names: Sequence[str], job: Job) -> dict[str, Measure]:
    """Construct metrics in the given order; each validates its requirements.

    Raises
    ------
    UsageError
        A metric is unknown, or is not applicable to the job.
    """
    check_metrics(names)
    return {name: METRICS.get(name)(job) for name in names}


def with_needed(measures: Mapping[str, Measure], job: Job) -> dict[str, Measure]:
    """Return metrics together with those that they depend on."""
    return {name: measures[name] if name in measures else METRICS.get(name)(job) for name in needed([*measures])}


def check_gradients(names: Sequence[str]) -> None:
    """Check that no metric differentiates the layers, for solvers without gradients.

    Raises
    ------
    UsageError
        A metric, or one that it depends on, needs gradients; the message names the first.
    """
    for name in needed(names):
        if _class_of(name).needs_gradient:
            raise UsageError(f"metric '{name}' needs gradients, and solver 'forward' takes none: leave out one of them")


def need_gradients(names: Sequence[str]) -> bool:
    """Return whether any of the metrics, or of those that they depend on, differentiates the layers."""
    return any(_class_of(name).needs_gradient for name in needed(names))


def needed(names: Sequence[str]) -> list[str]:
    """List metrics, each followed by those that it depends on.

    Raises
    ------
    UsageError
        A metric is unknown or not a class of metrics.
    """
    found: dict[str, None] = {}
    pending = list(names)
    while pending:
        name = pending.pop(0)
        if name not in found:
            found[name] = None
            pending += _class_of(name).needs
    return list(found)


def check_metrics(names: Sequence[str]) -> None:
    """Check that all metrics exist.

    Raises
    ------
    UsageError
        A metric is unknown, or the list is empty.
    """
    if not names:
        raise UsageError(f"no metric is named: use {', '.join(METRICS.names())}")
    needed(names)


def _class_of(name: str) -> type[Measure]:
    found = METRICS.get(name)
    if not (isinstance(found, type) and issubclass(found, Measure)):
        raise UsageError(f"metric '{name}' is {found!r}: give a class that extends onnxinfo.analysis.blocks.Measure")
    if found.metric.name != name:
        raise UsageError(f"metric '{name}' calls itself '{found.metric.name}': register it by that name")
    return found
