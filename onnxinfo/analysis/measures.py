"""The metrics an analysis can compute, by name."""

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
    """Strict information discarding: ``log sigma_i + C`` at the largest noise a layer does not notice."""

    metric: ClassVar[Metric] = Metric(
        "sid",
        "strict information discarding",
        fields=PROVEN,
    )
    uses_normalizer: ClassVar[bool] = True

    def cells(self, batch: SampleBatch) -> Cells:
        """Solve one layer around a batch of samples."""
        settings, tie = batch.settings, self.job.tie
        feature, start, target = batch.feature(), batch.linearisation, batch.target
        solver = solve_by_gradient if settings.solver == "reference" else solve
        shape, cap = self.job.shape, settings.sigma_max
        solution = solver(Problem.of(feature, start, target, tie, cap, shape, batch.units, batch.target_stderr))
        certificate, entropy = solution.certificate, solution.entropy
        coarse = solution.coarse[solution.coarse > 1]
        # An absolute budget is a multiple of itself.
        unit, what = (settings.strength, "alpha") if settings.budget is None else (float(target.max()), "budget")
        if len(coarse):
            logger.warning(
                "%d of %d samples of '%s' are limited by rounding at %s %.2g; %s",
                *(len(coarse), len(solution.coarse), self.job.layers[batch.layer].name, what, unit),
                _sound_from(what, unit * float(coarse.max())),
            )
        value = batch.mean(entropy)
        values = {
            "value": value,
            "stderr": solution.stderr,
            **proof(certificate, value, solution.dead, solution.coarse > 1),
            "resolution_alpha": unit * solution.coarse.double(),
            "probes": solution.probes,
            "iterations": solution.iterations,
            "capped": solution.capped,
        }
        return Cells(values, entropy.reshape(-1, *self.job.shape))


logger = logging.getLogger(__name__)


def _sound_from(what: str, size: float) -> str:
    return f"it is sound from {what} {size:.2g} on" if math.isfinite(size) else f"no {what} that was tried is sound"


def make_measures(names: Sequence[str], job: Job) -> dict[str, Measure]:
    """Make metrics, in the order in which they are named; each validates what it needs.

    Raises
    ------
    UsageError
        A metric is unknown, or cannot be computed for the job.
    """
    check_metrics(names)
    return {name: METRICS.get(name)(job) for name in names}


def with_needed(measures: Mapping[str, Measure], job: Job) -> dict[str, Measure]:
    """Return metrics together with those that they are made from."""
    return {name: measures[name] if name in measures else METRICS.get(name)(job) for name in needed([*measures])}


def needed(names: Sequence[str]) -> list[str]:
    """List metrics, and after them those that they are made from.

    Raises
    ------
    UsageError
        A metric is unknown or is no class of metrics.
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
    """Refuse names that no metric has.

    Raises
    ------
    UsageError
        A metric is unknown, or none is named.
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
