"""Steps of randomly chosen units to the cap: worth it where a feature saturates, which then has many optima."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from .misplaced import Step, tried
from .problem import Problem
from .trial import Sampling, price_of

#: Share of the units that a first look raises to the cap, and its noise samples; shares whose gain is predicted from
#: it; least gain, in nats, that is worth a step if predicted, and that shows other optima; and the scale, relative to
#: the cap, if all units are raised.
LOOK, LOOK_NOISES = 1 / 8, 2
SHARES, WORTH_A_STEP, NEAR_CAP = (1.0, 1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32), 0.01, 0.98
#: Range of the budget that is left for the other units, relative to what they have.
LEAST_AND_MOST_LEFT = (0.01, 100.0)
#: Noise samples of a step to the cap.
LEAP_NOISES = 32


def leap(problem: Problem, scales: Tensor, exponent: Tensor) -> tuple[Step, Tensor]:
    """Raise some groups to the cap, at random, and rescale the others to what these leave of the budget.

    A first look measures what groups at the cap cost: for nearly all layers, many times the budget.

    Parameters
    ----------
    problem
        The layer and its constraint.
    scales, exponent
        Scales (S, groups), and growth of the deviation with them, (S,).

    Returns
    -------
    tuple
        The step, and whether it surely gains much at a sample by a choice of groups, (S,) bool. Other choices gain as
        much, and lead to other optima.
    """
    feature, tie, counted = problem.feature, problem.tie, problem.counted
    logs, top = scales.clamp(max=problem.cap).log(), math.log(problem.cap)
    sigma = partial(problem.moved, logs.exp())
    # Where this look is of no use, as nearly everywhere, the noise of the other measurements stays what it is.
    state = feature.noise.get_state()
    looked = tie.expand(torch.where(_chosen(logs, LOOK, feature.noise), top - logs, 0.0)) * counted
    deviation = feature.deviations(sigma(looked), LOOK_NOISES).mean(0)
    cost = (deviation / problem.target - (1 - LOOK)) / LOOK
    weight = tie.sum(counted.to(logs))
    room = ((top - logs) * weight).sum(1) / weight.sum(1).clamp(min=1)
    shares = logs.new_tensor(SHARES)
    gain, best = _foretold(shares[:, None], cost, room).max(0)
    worthwhile = gain > WORTH_A_STEP
    if not bool(worthwhile.any()):
        feature.noise.set_state(state)
        return Step.none(looked), torch.zeros_like(worthwhile)
    share = shares[best]
    left = _left(share, cost).clamp(*LEAST_AND_MOST_LEFT)[:, None]
    highest = torch.where(share < 1, top, top + math.log(NEAR_CAP))[:, None]
    others = torch.where(logs < top, left.log() / 2, 0.0)
    change = torch.where(_chosen(logs, share[:, None], feature.noise), highest - logs, others)
    change = tie.expand(torch.where(worthwhile[:, None], change, 0.0)) * counted
    below = (sigma(change) < problem.cap) & counted
    step = tried(feature, sigma, change, Sampling(LEAP_NOISES), price_of(exponent, below, counted))
    return step, (step.sure_gain > WORTH_A_STEP) & (share < 1) & worthwhile


def _chosen(like: Tensor, share: float | Tensor, stream: torch.Generator) -> Tensor:
    """A random share of the groups, (S, groups) bool."""
    return torch.rand(like.shape, generator=stream, device=like.device) < share


def _left(share: Tensor, cost: Tensor) -> Tensor:
    """Budget that is left if a share of the groups, which cost so many budgets in all, takes the cap.

    Relative to what the others have so far; not positive if it does not suffice, and 1 if it does for all groups.
    """
    everything = torch.where(cost <= 1, 1.0, -1.0)
    return torch.where(share < 1, (1 - share * cost) / (1 - share), everything)


def _foretold(share: Tensor, cost: Tensor, room: Tensor) -> Tensor:
    """Gain in nats if a share of the groups takes the cap, where the others are linear; see :func:`_left`."""
    left = _left(share, cost)
    tiny = torch.finfo(left.dtype).tiny
    return torch.where(left > 0, share * room + (1 - share) / 2 * left.clamp(min=tiny).log(), -math.inf)
