"""Scales that meet the constraint ``E||h(x + sigma*delta) - h(x)||^2 = alpha D``, roughly or within its error."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from .certificate import LEAST_RATIO_NOISES, mean_and_stderr, rescale_to_constraint, sample_until
from .control import Control
from .measured import Measured
from .problem import FEW_OUTPUTS, Problem

#: Factor beyond which the constraint is far off, noise samples to detect that, and maximum number of corrections.
FAR, FAR_NOISES, ATTEMPTS = 2.0, 4, 16
#: Range of the exponents of the deviation's growth that these corrections believe.
LEAST_EXPONENT, MOST_EXPONENT = 1.0, 8.0
#: Excess, beyond twice its standard error, above which the constraint is corrected and measured once more. What is left
#: is corrected analytically, so that measurements are not discarded for it.
OFF = 0.03
#: Relative standard error of the deviation at which a search knows the constraint well enough.
SCALE_STDERR = 0.025


def feasible(problem: Problem, scales: Tensor) -> Tensor:
    """Shrink or grow scales until the constraint is met up to a factor.

    The closed form knows the layer only at the sample itself; it may miss units that noise activates.
    """
    live, exponent = torch.arange(len(scales), device=scales.device), torch.full_like(problem.target, 2.0)
    before, moved = torch.zeros_like(exponent), torch.zeros_like(exponent)
    for attempt in range(ATTEMPTS):
        part, here = problem.at(live), scales[live]
        deviations = part.feature.deviations(part.sigma(here), part.effort * FAR_NOISES)
        far, over = is_far(part, here, deviations)
        if not bool(far.any()):
            break
        now = deviations.mean(0).clamp(min=torch.finfo(here.dtype).tiny).log()
        if attempt:
            # Where noise shifts a feature, the deviation grows with the fourth power of the noise.
            slope = (now - before) / moved
            exponent = torch.where(slope > LEAST_EXPONENT, slope.clamp(max=MOST_EXPONENT), exponent)
        # Units at the cap are included in the shrinking.
        bounded = torch.where(over[:, None], here.clamp(max=part.cap), here)
        nearer = rescale_to_constraint(bounded, deviations, part.target, exponent)
        scales = scales.index_copy(0, live[far], nearer[far])
        live, exponent, before = live[far], exponent[far], now[far]
        moved = (nearer / bounded)[far].log().nanmean(1)
    return scales


def is_far(problem: Problem, scales: Tensor, deviations: Tensor) -> tuple[Tensor, Tensor]:
    """Samples whose constraint is off by a large factor, and those that exceed it, (S,) bool."""
    ratio = deviations.mean(0) / problem.target
    over, under = ratio > FAR, (ratio < 1 / FAR) & problem.free(scales).any(1)
    return over | under, over


def excess(problem: Problem, scales: Tensor, deviations: Tensor) -> Tensor:
    """Excess of the constraint beyond twice its standard error, (S,); negative if no unit is free."""
    ratio, stderr = mean_and_stderr(deviations / problem.target)
    return torch.where(problem.free(scales).any(1), (ratio - 1).abs() - 2 * stderr, -1.0)


def met(problem: Problem, scales: Tensor, found: Measured, free: Tensor) -> tuple[Tensor, Tensor]:
    """Scales that meet the constraint up to `OFF`, and the measurements of their deviations; none if they are new."""
    if not bool((excess(problem, scales, found.deviations) > OFF).any()):
        return scales, found.deviations
    return rescale_to_constraint(scales, found.deviations, problem.target, found.exponent(free)), found.deviations[:0]


def still_met(
    problem: Problem, scales: Tensor, deviations: Tensor, exponent: Tensor, control: Control | None
) -> tuple[Tensor, Tensor]:
    """Add noise until the deviations are precise; meet the constraint once more if it is still off."""
    # The deviation of m outputs varies by a factor of up to sqrt(2 / m).
    effort = problem.effort * max(1, FEW_OUTPUTS // problem.feature.center.shape[1])
    sigma, more = problem.sigma(scales), partial(sample_until, problem.feature, effort=effort, control=control)
    deviations = more(sigma, deviations, wanted=SCALE_STDERR)
    if not bool((excess(problem, scales, deviations) > OFF).any()):
        return scales, deviations
    scales = rescale_to_constraint(scales, deviations, problem.target, exponent)
    sigma = problem.sigma(scales)
    if control is None:
        fresh = problem.feature.deviations(sigma, LEAST_RATIO_NOISES)
    else:
        fresh = problem.feature.controlled_deviations(sigma, LEAST_RATIO_NOISES, control)
    return scales, more(sigma, fresh, wanted=SCALE_STDERR)
