"""The metrics an analysis can compute, by name."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from ..archive.format import PROVEN, Metric
from ..errors import UsageError
from ..metrics.reference import solve_by_gradient
from ..metrics.sid import Problem, solve
from .baselines import Cam, GradCam, Gradient
from .blocks import Block, Cells, Measure
from .concentration import Concentration
from .job import Job
from .proof import proof
from .recovery import Ru
from .robustness import Robustness


@dataclass(frozen=True)
class Sid:
    """Strict information discarding: ``log sigma_i + C`` at the largest noise a layer does not notice."""

    job: Job
    metric: ClassVar[Metric] = Metric(
        "sid",
        "strict information discarding",
        fields=PROVEN,
    )
    uses_normalizer: ClassVar[bool] = True

    @property
    def recipe(self) -> Mapping[str, object]:
        """Nothing but the run's settings."""
        return {}

    def cells(self, block: Block) -> Cells:
        """Solve one layer around a block of samples."""
        settings, tie = self.job.settings, self.job.tie
        feature, start, target = block.feature(), block.start, block.target
        solver = solve_by_gradient if settings.solver == "reference" else solve
        solution = solver(Problem.of(feature, start, target, tie, settings.cap, self.job.shape, block.units))
        certificate, entropy = solution.certificate, solution.entropy
        coarse = solution.coarse[solution.coarse > 1]
        if len(coarse):
            logger.warning(
                "%d of %d samples of '%s' are limited by rounding at alpha %.2g; %s",
                *(len(coarse), len(solution.coarse), self.job.layers[block.layer].name, settings.alpha),
                _sound_from(settings.alpha * float(coarse.max())),
            )
        value = block.mean(entropy)
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


MEASURES: dict[str, Callable[[Job], Measure]] = {
    "sid": Sid,
    "concentration": Concentration,
    "ru": Ru,
    "gradient": Gradient,
    "gradcam": GradCam,
    "cam": Cam,
    "robustness": Robustness,
}


def make_measures(names: Sequence[str], job: Job) -> dict[str, Measure]:
    """Make metrics ready, in the order in which they were named.

    Raises
    ------
    UsageError
        A metric is unknown.
    """
    check_metrics(names)
    return {name: MEASURES[name](job) for name in names}


class OnDemand(dict[str, Measure]):
    """Metrics by name, with those that they are made from: any other is made when it is asked for."""

    def __init__(self, measures: Mapping[str, Measure], job: Job) -> None:
        super().__init__(measures)
        self._job = job

    def __missing__(self, name: str) -> Measure:
        self[name] = MEASURES[name](self._job)
        return self[name]


def check_metrics(names: Sequence[str]) -> None:
    """Refuse names that no metric has.

    Raises
    ------
    UsageError
        A metric is unknown, or none is named.
    """
    unknown = [name for name in names if name not in MEASURES]
    if unknown or not names:
        raise UsageError(f"metric '{', '.join(unknown)}' is unknown: use {', '.join(MEASURES)}")
