"""Groups of units that belong at the cap one by one, because the feature saturates in each of them.

A gradient does not see that: at small scales such a unit costs what any other does, and only beyond does more noise
cost nothing. Nor does a random choice of units, most of which do not saturate. Where there are few groups, each is
raised to the cap by itself, under the same noise of all others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .misplaced import Step, tried
from .noise import Tie
from .probe import LayerProbe
from .trial import Sampling, price_of

#: Maximum number of units: of more, each weighs little.
MOST_UNITS = 256
#: Noise samples for what groups cost at the cap: a first look at all of them, and those of groups that may be worth it.
LOOK_NOISES, COST_NOISES = 2, 32
#: Noise samples of the step, and least gain, in nats, that is worth one.
STEP_NOISES, WORTH_A_STEP = 256, 0.005
#: Maximum factor on the budget of the other groups.
MOST_LEFT = 100.0


def raise_singly(
    feature: LayerProbe, scales: Tensor, tie: Tie, cap: float, counted: Tensor, target: Tensor, exponent: Tensor
) -> Step:
    """Raise to the cap the groups that gain more there than they cost, and rescale the others to what is left.

    Parameters
    ----------
    feature
        The layer.
    scales, tie, cap
        Scales (S, groups), their groups, and the cap.
    counted, target, exponent
        Counted units, (S, n) bool, ``alpha D``, (S,), and growth of the deviation with the scales, (S,).
    """
    logs, top = scales.clamp(max=cap).log(), math.log(cap)
    base, weight = tie.expand(logs), tie.sum(counted.to(logs))
    below = (logs < top) & (weight > 0)
    if tie.units > MOST_UNITS or not bool(below.any()):
        return Step.none(base)
    # Where this is of no use, as nearly everywhere, the noise of the other measurements stays what it is.
    state = feature.noise.get_state()
    chosen, others = _offers(feature, logs, tie, top, counted, target, exponent, below).best()
    change = torch.where(chosen, top - logs, torch.where(below, (others / exponent)[:, None], 0.0))
    change = tie.expand(torch.where(chosen.any(1, keepdim=True), change, 0.0)) * counted

    def sigma(change: Tensor) -> Tensor:
        return (base + change).exp().clamp(max=cap) * counted

    left = tie.expand(below & ~chosen) & counted
    if bool(chosen.any()):
        step = tried(feature, sigma, change, Sampling(STEP_NOISES), price_of(exponent, left, counted))
        if bool((step.sure_gain > 0).any()):
            return step
    feature.noise.set_state(state)
    return Step.none(base)


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


def _offers(
    feature: LayerProbe,
    logs: Tensor,
    tie: Tie,
    top: float,
    counted: Tensor,
    target: Tensor,
    exponent: Tensor,
    below: Tensor,
) -> _Offers:
    """Measure what groups cost at the cap, precisely for those that a first look shows to be worth it."""
    weight = tie.sum(counted.to(logs))
    gain = (top - logs) * weight / weight.sum(1, keepdim=True)
    price = price_of(exponent, tie.expand(below) & counted, counted)
    everything = torch.arange(tie.groups, device=logs.device)
    cost = _costs(feature, logs, tie, top, counted, everything, LOOK_NOISES) / target[:, None]
    maybe = _Offers(gain, cost, price, below).worth_it.any(0).nonzero().flatten()
    cost = torch.full_like(gain, math.inf)
    if len(maybe):
        cost[:, maybe] = _costs(feature, logs, tie, top, counted, maybe, COST_NOISES) / target[:, None]
    return _Offers(gain, cost, price, below)


def _costs(
    feature: LayerProbe, logs: Tensor, tie: Tie, top: float, counted: Tensor, groups: Tensor, noises: int
) -> Tensor:
    """Rise of the deviation if one group takes the cap, for each of the given groups, (S, len(groups))."""
    delta = torch.randn((noises, feature.samples, feature.units), generator=feature.noise, device=logs.device)
    still = _deviation(feature, (tie.expand(logs).exp() * counted)[None], delta)
    raised = []
    for some in torch.split(groups, max(1, feature.batch_size // (noises * feature.samples))):
        moved = logs.repeat(len(some), 1, 1)
        moved[torch.arange(len(some), device=logs.device), :, some] = top
        sigma = tie.expand(moved.flatten(0, 1)).exp().reshape(len(some), *counted.shape) * counted
        raised.append(_deviation(feature, sigma, delta))
    return (torch.cat(raised) - still).T


def _deviation(feature: LayerProbe, sigma: Tensor, delta: Tensor) -> Tensor:
    """Mean deviation under the same noise (draws, S, n) at several noise scales (K, S, n), (K, S)."""
    parts = []
    with torch.no_grad():
        for some in torch.split(delta, max(1, feature.batch_size // (len(sigma) * feature.samples))):
            noise = (sigma[:, None] * some).flatten(0, 1).reshape(-1, *feature.x.shape)
            found = feature.deviation(feature.change((feature.x + noise * feature.unit).flatten(0, 1)))
            parts.append(found.reshape(len(sigma), len(some), -1))
    return torch.cat(parts, 1).mean(1)
