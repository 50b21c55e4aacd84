"""Groups of units that belong at the cap one by one, because the feature saturates in each of them.

A gradient does not see that: at small scales such a unit costs what any other does, and only beyond does more noise
cost nothing. Nor does a random choice of units, most of which do not saturate. Where there are few groups, each is
raised to the cap by itself, under the same noise of all others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from .leap import LOOK_NOISES, WORTH_A_STEP
from .misplaced import Step, tried
from .probe import LayerProbe
from .problem import Problem
from .trial import Sampling, price_of

#: Maximum number of units: of more, each weighs little.
MOST_UNITS = 256
#: Noise samples for what groups that may be worth it cost at the cap, and of the step.
COST_NOISES, STEP_NOISES = 32, 256
#: Maximum factor on the budget of the other groups.
MOST_LEFT = 100.0


def raise_singly(problem: Problem, scales: Tensor, exponent: Tensor) -> Step:
    """Raise to the cap the groups that gain more there than they cost, and rescale the others to what is left.

    Parameters
    ----------
    problem
        The layer and its constraint.
    scales, exponent
        Scales (S, groups), and growth of the deviation with them, (S,).
    """
    feature, tie, counted = problem.feature, problem.tie, problem.counted
    logs, top = scales.clamp(max=problem.cap).log(), math.log(problem.cap)
    none = Step.none(tie.expand(logs))
    below = (logs < top) & (tie.sum(counted.to(logs)) > 0)
    if tie.units > MOST_UNITS or not bool(below.any()):
        return none
    # Where this is of no use, as nearly everywhere, the noise of the other measurements stays what it is.
    state = feature.noise.get_state()
    chosen, others = _offers(problem, logs, exponent, below).best()
    if bool(chosen.any()):
        rescaled = torch.where(below & chosen.any(1, keepdim=True), (others / exponent)[:, None], 0.0)
        change = tie.expand(torch.where(chosen, top - logs, rescaled)) * counted
        price = price_of(exponent, tie.expand(below & ~chosen) & counted, counted)
        step = tried(feature, partial(problem.moved, logs.exp()), change, Sampling(STEP_NOISES), price)
        if bool((step.sure_gain > 0).any()):
            return step
    feature.noise.set_state(state)
    return none


@dataclass(frozen=True)
class _Offers:
    """What each group gains at the cap, and what it costs.

    Attributes
    ----------
    gain, cost
        Rise of the mean entropy in nats, and of the deviation in units of ``alpha D``, (S, groups).
    price
        What all groups below the cap pay for the logarithm of the deviation, in nats, (S,).
    below
        Groups below the cap, (S, groups) bool.
    """

    gain: Tensor
    cost: Tensor
    price: Tensor
    below: Tensor

    @property
    def worth_it(self) -> Tensor:
        """Groups that gain more than the others lose, (S, groups) bool."""
        left = self.left(self.cost, torch.ones_like(self.cost))
        return self.below & (self.gain + self.price[:, None] * left.log() > 0)

    def left(self, cost: Tensor, count: Tensor) -> Tensor:
        """Budget of the others, relative to what they have, if a number of groups cost so much in all.

        As if all groups had equal shares of it.
        """
        kept = self.kept(count)
        for_all = torch.where(cost <= 0, 1.0, 0.0)
        left = torch.where(kept > 0, 1 - cost / kept.clamp(min=torch.finfo(kept.dtype).tiny), for_all)
        return left.clamp(0.0, MOST_LEFT)

    def kept(self, count: Tensor) -> Tensor:
        """Share of the groups that stay below the cap if a number of them does not."""
        return (1 - count / self.below.sum(1, keepdim=True).clamp(min=1)).clamp(min=0)

    def best(self) -> tuple[Tensor, Tensor]:
        """Groups to raise, (S, groups) bool, and the logarithm of the budget that is left for the others, (S,).

        The cheapest for their gain are taken first, as many as promise most altogether.
        """
        worth_it, cost = self.worth_it, self.cost.clamp(min=0)
        order = torch.where(worth_it, cost / self.gain, math.inf).argsort(1)
        gains, costs = (torch.where(worth_it, each, 0.0).gather(1, order).cumsum(1) for each in (self.gain, cost))
        count = torch.arange(1, cost.shape[1] + 1, device=cost.device).expand_as(cost)
        left = self.left(costs, count).log()
        foretold = gains + self.price[:, None] * self.kept(count) * left
        foretold = torch.where(worth_it.gather(1, order) & left.isfinite(), foretold, -math.inf)
        most, last = foretold.max(1)
        chosen = worth_it & (order.argsort(1) <= last[:, None]) & (most > WORTH_A_STEP)[:, None]
        return chosen, left.gather(1, last[:, None])[:, 0]


def _offers(problem: Problem, logs: Tensor, exponent: Tensor, below: Tensor) -> _Offers:
    """Measure what groups cost at the cap, precisely for those that a first look shows to be worth it."""
    tie, counted = problem.tie, problem.counted
    weight = tie.sum(counted.to(logs))
    gain = (math.log(problem.cap) - logs) * weight / weight.sum(1, keepdim=True).clamp(min=1)
    price = price_of(exponent, tie.expand(below) & counted, counted)
    cost = _costs(problem, logs, torch.arange(tie.groups, device=logs.device), LOOK_NOISES)
    maybe = _Offers(gain, cost, price, below).worth_it.any(0).nonzero().flatten()
    cost = torch.full_like(gain, math.inf)
    if len(maybe):
        cost[:, maybe] = _costs(problem, logs, maybe, COST_NOISES)
    return _Offers(gain, cost, price, below)


def _costs(problem: Problem, logs: Tensor, groups: Tensor, draws: int) -> Tensor:
    """Rise of the deviation if one group takes the cap, for each of the groups, in ``alpha D``, (S, len(groups))."""
    feature = problem.feature
    delta = torch.randn((draws, feature.samples, feature.units), generator=feature.noise, device=logs.device)
    still = _deviation(feature, problem.sigma(logs.exp())[None], delta)
    raised = []
    for some in torch.split(groups, max(1, feature.batch_size // (draws * feature.samples))):
        moved = logs.exp().repeat(len(some), 1, 1)
        moved[torch.arange(len(some), device=logs.device), :, some] = problem.cap
        raised.append(_deviation(feature, torch.stack([problem.sigma(scales) for scales in moved]), delta))
    return (torch.cat(raised) - still).T / problem.target[:, None]


def _deviation(feature: LayerProbe, sigma: Tensor, delta: Tensor) -> Tensor:
    """Mean deviation under the same noise (draws, S, n) at several noise scales (K, S, n), (K, S)."""
    parts = []
    with torch.no_grad():
        for some in torch.split(delta, max(1, feature.batch_size // (len(sigma) * feature.samples))):
            noise = (sigma[:, None] * some).flatten(0, 1).reshape(-1, *feature.x.shape)
            found = feature.deviation(feature.change((feature.x + noise * feature.unit).flatten(0, 1)))
            parts.append(found.reshape(len(sigma), len(some), -1))
    return torch.cat(parts, 1).mean(1)
