"""The closed form of layers that are linear in the noise, with its certificate."""

from __future__ import annotations

import torch
from torch import Tensor

from .certificate import certify_exact, sample_until
from .found import Certified, Found
from .growth import doubled_deviation, widened
from .mean_jacobian import control_of
from .probe import LINEAR_TOLERANCE
from .problem import Problem
from .rare import unseen_deviation

#: Noise samples of the linearity test, and those of a layer with few outputs: in one with many, kinks that noise
#: reaches rarely are either many or of no weight.
LINEAR_NOISES, MORE_LINEAR_NOISES, FEW_ENTRIES = 8, 64, 512
#: Relative standard error of the deviation at which the closed form's constraint is known well enough.
CLOSED_STDERR = 0.01


def is_linear(problem: Problem, scales: Tensor) -> bool:
    """Whether the closed form is the solution: exact norms, and at each sample a feature linear in twice the noise."""
    if bool(problem.start.normalizer_stderr.any()):
        return False
    draws = MORE_LINEAR_NOISES if problem.feature.center.shape[1] <= FEW_ENTRIES else LINEAR_NOISES
    return problem.feature.is_linear(widened(problem, scales, 2.0), draws)


def closed_form(problem: Problem, scales: Tensor) -> Found | None:
    """The closed form with its certificate, or None if fresh noise contradicts it.

    The constraint is measured at the closed form's own scales: adjusting them to noise would only make them worse.
    """
    sigma, free = problem.sigma(scales), problem.free(scales)
    # For a linear layer with few outputs or units, the control variate removes all noise from the ratio.
    control = control_of(problem.feature, sigma)
    found = problem.measured(scales, control)
    deviations = sample_until(
        problem.feature, sigma, found.deviations, problem.effort, wanted=CLOSED_STDERR, control=control
    )
    if control is not None and bool(unseen_deviation(problem, scales, control, 2 * len(deviations)).any()):
        return None
    growth = doubled_deviation(problem, scales)
    certificate = certify_exact(found.exponent(free), deviations, problem.target, free, growth)
    ratio, stderr, saturated = certificate.ratio, certificate.ratio_stderr, certificate.saturated
    off = torch.where(saturated, (ratio - 1).clamp(min=0), (ratio - 1).abs())
    # Samples without a budget have no constraint to meet.
    off = torch.where(problem.without_budget, 0.0, off)
    if not bool((off <= 4 * stderr.nan_to_num(0.0) + 2 * LINEAR_TOLERANCE).all()):
        return None
    none = torch.zeros_like(ratio)
    change, torn = torch.zeros_like(scales), torch.zeros_like(saturated)
    return Found.of(Certified(scales, certificate, none, none, change, none, torn), 0)
