"""Certificate of a search's scales: fresh noise measures them, and they then meet the constraint exactly."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from .certificate import (
    GAP_STDERR,
    LEAST_CURVATURE,
    MOST_CURVATURE,
    Growth,
    certify,
    missing_entropy,
    rescale_to_constraint,
    take_trial,
    wider,
)
from .constraint import excess, met, still_met
from .control import Control
from .found import Certified
from .growth import doubled_deviation, explained
from .leap import leap
from .measured import Measured, merge
from .misplaced import Step, descent_from_cap, wake
from .noise_precision import factor_to_float32
from .problem import CONTROLLED_NOISES, PASS_NOISES, Problem
from .rare import unseen_deviation
from .singly import raise_singly
from .trial import Sampling

#: Excess of the constraint that is corrected analytically at the end (above it, its noise is drawn again); attempts.
NEARLY_MET, ADJUSTMENTS = 0.1, 3
#: Maximum number of noise samples of a trial step, shared by both ends (more with a control variate), and standard
#: error of the curvature at which fewer suffice.
TRIAL_NOISES, CURVATURE_STDERR = 12, 0.07
#: Maximum number of passes of a certificate: for all samples of a block, and for the few that need more; more passes if
#: they have fewer noise samples than usual.
CERTIFICATE_PASSES, MOST_PASSES = 8, 16


def certify_scales(
    problem: Problem,
    scales: Tensor,
    control: Control | None,
    passes: list[Measured],
    most: int = CERTIFICATE_PASSES,
    torn: Tensor | None = None,
) -> tuple[Certified, Tensor, list[Measured]]:
    """Measure scales with fresh noise until the certificate is precise enough, and meet the constraint exactly.

    Parameters
    ----------
    problem
        The layer and its constraint.
    scales
        Noise scales, (S, groups).
    control
        Linear model of the layer.
    passes
        Earlier measurements of these scales.
    most
        Maximum number of passes of the usual number of noise samples; more if they have fewer.
    torn
        Samples that are known to have several optima, (S,) bool.

    Returns
    -------
    tuple
        The certified result, the curvature of the deviation, (S,), and the passes that it is based on, brought to the
        constraint.
    """
    feature, counted, shape = problem.feature, problem.counted, problem.shape
    scales, passes = _until_known(problem, scales, control, passes, most)
    found, free = merge(passes), problem.free(scales)
    # All scales of a sample change by a few percent, which leaves the relative gradient unchanged.
    near, deviations = met(problem, scales, found, free)
    draws = problem.effort * TRIAL_NOISES if control is None else 2 * problem.effort * CONTROLLED_NOISES
    moved, bound = partial(problem.moved, near), free.any(1)
    sampling = Sampling(draws, lambda trial: float(trial.curvature_stderr[bound].nanmean()) <= CURVATURE_STDERR)
    trial, fresh = take_trial(feature, found, free, counted, shape, moved, sampling, control)
    # With a control variate, one pass determines the deviation better than the trial's noise.
    if control is None or not len(deviations):
        deviations = torch.cat([deviations, fresh])
    scales, deviations = still_met(problem, near, deviations, found.exponent(free), control)
    deviations = deviations * factor_to_float32(feature, problem.sigma(scales), problem.effort)
    exponent = found.exponent(free)
    final = torch.where(bound[:, None], rescale_to_constraint(scales, deviations, problem.target, exponent), scales)
    step, chosen = _raised(problem, scales, found, draws, control)
    torn = chosen if torn is None else torn | chosen
    room = (problem.cap / problem.sigma(final)).log()
    lacking = missing_entropy(found, free, counted, shape, step.missing, room)
    measured = Measured(found.parts, deviations)
    growth = Growth(doubled_deviation(problem, scales), measured.growth(free))
    growth = explained(problem, growth, scales, deviations.mean(0))
    # With a control, each deviation is that of a pair.
    unseen = None if control is None else unseen_deviation(problem, scales, control, 2 * len(deviations))
    certificate = certify(measured, problem.target, free, lacking, trial, growth, torn, unseen)
    curvature = trial.curvature.clamp(min=LEAST_CURVATURE)
    shortfall = torch.maximum(lacking.estimate / curvature.clamp(max=MOST_CURVATURE), lacking.least)
    entropy = torch.where(counted, problem.sigma(final).log(), 0.0).sum(1) / counted.sum(1).clamp(min=1)
    change = _change(problem, final, found, step)
    # The certified scales meet the constraint, which the passes' own do not quite.
    off = (found.deviations.mean(0) / problem.target).clamp(min=torch.finfo(entropy.dtype).tiny)
    passes = [each.divided(off) for each in passes]
    return Certified(final, certificate, certificate.scale_stderr, shortfall, change, entropy, torn), curvature, passes


def _until_known(
    problem: Problem, scales: Tensor, control: Control | None, passes: list[Measured], most: int
) -> tuple[Tensor, list[Measured]]:
    """Add passes until the gap is precise enough, or there are enough; scales that are off are corrected first."""
    passes, adjusted = passes or [problem.measured(scales, control)], 0
    allowed = most * max(1, PASS_NOISES // problem.draws(control))
    while True:
        found, free = merge(passes), problem.free(scales)
        if bool((excess(problem, scales, found.deviations) > NEARLY_MET).any()) and adjusted < ADJUSTMENTS:
            scales = rescale_to_constraint(scales, found.deviations, problem.target, found.exponent(free))
            passes, adjusted = [], adjusted + 1
        elif len(passes) >= allowed or is_known(problem, found, free):
            return scales, passes
        passes.append(problem.measured(scales, control))


def _raised(
    problem: Problem, scales: Tensor, found: Measured, draws: int, control: Control | None
) -> tuple[Step, Tensor]:
    """The step that raises misplaced units and surely gains most, and the samples with several optima, (S,) bool."""
    free = problem.free(scales)
    exponent = found.exponent(free)
    awake = wake(problem.feature, found, free, problem.counted, partial(problem.moved, scales), draws, control)
    to_cap, torn = leap(problem, scales, exponent)
    return awake.or_else(to_cap).or_else(raise_singly(problem, scales, exponent)), torn


def _change(problem: Problem, scales: Tensor, found: Measured, step: Step) -> Tensor:
    """Change of the log scales (S, groups) that moves misplaced units to where they belong."""
    found_down = descent_from_cap(found, problem.free(scales), problem.counted, problem.shape)
    down, up = (problem.tie.sum(change) / problem.tie.size for change in (found_down, step.useful))
    return torch.where(down < 0, down + (problem.cap / scales).log(), up)


def is_known(problem: Problem, found: Measured, free: Tensor) -> bool:
    """Whether the gap is precise enough, on average over the samples."""
    return float(found.shortfall(free, problem.counted)[1].mean()) * wider(len(found.parts)) <= GAP_STDERR
