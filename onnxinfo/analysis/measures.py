"""The metrics of an analysis, by name."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

from ..archive.format import PROVEN, Metric
from ..errors import UsageError
from ..metrics.reference import solve_by_gradient
from ..metrics.sid import Problem, solve
from ..registry import METRICS
from .blocks import Cells, Measure, SampleBatch
from .job import Job
from .proof import proof


class Sid(Measure):
    """Strict information discarding: ``log sigma_i + C`` at the largest noise that the layer does not notice."""

    metric: ClassVar[Metric] = Metric(
        "sid",
        "strict information discarding",
        fields=PROVEN,
    )
    uses_normalizer: ClassVar[bool] = True

    def cells(self, batch: SampleBatch) -> Cells:
        """Solve one layer at a batch of samples."""
        settings, tie = self.job.settings, self.job.tie
        feature, start, target = batch.feature(), batch.linearization, batch.target
        solver = solve_by_gradient if settings.solver == "reference" else solve
        solution = solver(Problem.of(feature, start, target, tie, settings.sigma_max, self.job.shape, batch.units))
        certificate, entropy = solution.certificate, solution.entropy
        coarse = solution.coarse[solution.coarse > 1]
        if len(coarse):
            logger.warning(
                "%d of %d samples of '%s' are limited by rounding at alpha %.2g; %s",
                *(len(coarse), len(solution.coarse), self.job.layers[batch.layer].name, settings.alpha),
                _sound_from(settings.alpha * float(coarse.max())),
            )
        value = batch.mean(entropy)
        values = {
            "value": value,
            "stderr": solution.stderr,
            **proof(certificate, value, solution.dead, solution.coarse > 1),
            "resolution_alpha": settings.alpha * solution.coarse.double(),
            "probes": solution.probes,
            "iterations": solution.iterations,
            "capped": solution.capped,
        }
        return Cells(values, entropy.reshape(-1, *self.job.shape))


logger = logging.getLogger(__name__)


def _sound_from(alpha: float) -> str:
    return f"it is sound from alpha {alpha:.2g} on" if math.isfinite(alpha) else "no alpha that was tried is sound"


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
