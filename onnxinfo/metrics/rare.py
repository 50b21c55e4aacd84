"""What rare events may add to the deviation: kinks that noise reaches once in hundreds of draws.

A control variate removes all noise from the deviation of a layer that is linear where the draws fall, and their spread
then says nothing about where they do not. Under doubled noise, such events are common enough to be seen.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .control import Control
from .growth import widened
from .problem import Problem

#: Noise samples under doubled noise.
RARE_NOISES = 64


def unseen_deviation(problem: Problem, scales: Tensor, control: Control, draws: int) -> Tensor:
    """Deviation that events too rare for so many draws may add, in units of ``alpha D``, (S,); 0 if none is in sight.

    An event more than doubles the deviation that the control predicts. If it happens beyond a threshold along some
    direction, its probability under doubled noise determines that under the noise itself. Beyond a kink, the excess at
    the same quantile falls with the square of the noise or faster.

    Parameters
    ----------
    problem, scales, control
        The layer, its noise scales (S, groups), and its linear model.
    draws
        Number of noise samples that measured the deviation.
    """
    sigma = widened(problem, scales, 2.0)
    deviations, energies = problem.feature.modeled_deviations(sigma, problem.effort * RARE_NOISES, control)
    energies = energies * _median_ratio(deviations, energies)
    excess = torch.where(deviations > energies + energies.mean(0), deviations - energies, 0.0)
    # Half an event more than was seen, for a single one says little.
    happens = ((excess > 0).sum(0) + 0.5) / (len(excess) + 1)
    rare = torch.special.ndtr(2 * torch.special.ndtri(happens))
    # Of events that are seen, the number is known to within its root.
    known_to = (draws * rare).clamp(min=1).rsqrt()
    added: Tensor = excess.mean(0) / problem.target * rare / happens / 4 * known_to
    return added


def _median_ratio(deviations: Tensor, energies: Tensor) -> Tensor:
    """Typical ratio of deviations to a model's energies, (draws, S), of each sample, (S,)."""
    return (deviations / energies.clamp(min=torch.finfo(energies.dtype).tiny)).median(0).values
