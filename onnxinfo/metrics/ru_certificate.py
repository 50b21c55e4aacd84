"""Bound on the distance of a reconstruction uncertainty from its optimum, from gradients on fresh noise.

With p and q the gradients of objective and constraint with respect to ``log sigma``, the optimum has ``p = lambda q``.
The budget is distributed unevenly: a few units take most of it, and the objective's curvature along a unit is its
value there, ``lambda q``. To second order the mean H therefore lies
``sum_j (p_j - lambda q_j)^2 / (4 lambda q_j n)`` nats below the optimum. The q_j in the denominator is taken from the
linearized layer, which has no Monte Carlo noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .measured import noise_free_power
from .noise import Tie

#: Lower limit of a unit's share of the budget, relative to the mean share.
LEAST_SHARE = 0.1


@dataclass(frozen=True)
class Slopes:
    """Gradients of objective and constraint, from noise that is independent of the scales.

    Attributes
    ----------
    cost, gain
        Independent estimates of ``dL/dlog sigma`` of the feature deviation L, and of
        ``d sum_i 0.5 log E(mu_i - xhat_i)^2 / dlog sigma``, (parts, S, groups).
    deviations
        ``||h(x + sigma*delta) - f||^2``, (draws, S).
    """

    cost: Tensor
    gain: Tensor
    deviations: Tensor

    @classmethod
    def merge(cls, passes: Sequence[Slopes]) -> Slopes:
        """Merge the measurements of several passes."""
        cost, gain = (torch.cat(each) for each in ([p.cost for p in passes], [p.gain for p in passes]))
        return cls(cost, gain, torch.cat([p.deviations for p in passes]))

    def at(self, index: Tensor) -> Slopes:
        """Slopes of a subset of the samples, selected by position or mask."""
        return Slopes(self.cost[:, index], self.gain[:, index], self.deviations[:, index])

    def exponent(self, free: Tensor) -> Tensor:
        """``d log L / d log t`` when the scales of the free groups, (S, groups) bool, grow by t, (S,)."""
        growth = (self.cost.mean(0) * free).sum(1)
        return (growth / self.deviations.mean(0).clamp(min=torch.finfo(growth.dtype).tiny)).clamp(0.5, 3.0)

    def growth(self, free: Tensor, units: Tensor) -> Tensor:
        """Growth of the mean entropy, in nats, per unit growth of the free groups' log scales, (S,).

        ``units`` is the number n of counted units, (S,). The growth is 1 if the errors are all due to noise.
        """
        return (self.gain.mean(0) * free).sum(1) / units

    def shortfall(self, free: Tensor, spent: Tensor, units: Tensor) -> tuple[Tensor, Tensor]:
        """Distance of the mean entropy from the optimum to second order, in nats, (S,), and its standard error.

        Unknown if growing noise does not increase the errors.

        Parameters
        ----------
        free
            Groups below the cap, (S, groups) bool.
        spent
            Share of the budget that each group takes in the linearized layer, in any unit, (S, groups).
        units
            Number n of counted units, (S,).
        """
        count = free.sum(1, keepdim=True).clamp(min=1)
        spent = torch.where(free, spent, 0.0)
        mean = spent.sum(1, keepdim=True) / count
        share = torch.where(mean > 0, (1 - LEAST_SHARE) * spent / mean + LEAST_SHARE, 1.0) / count
        gained = (self.gain.mean(0) * free).sum(1)
        paid = (self.cost.mean(0) * free).sum(1)
        multiplier = gained / paid
        weight = (4 * gained.clamp(min=torch.finfo(gained.dtype).tiny)[:, None] * share * units[:, None]).rsqrt()
        excess = torch.where(free, (self.gain - multiplier[:, None] * self.cost) * weight, 0.0)
        power, error = noise_free_power(excess, free)
        known, groups = (gained > 0) & (paid > 0), count[:, 0]
        return torch.where(known, power * groups, torch.nan), torch.where(known, error * groups, torch.nan)


def slopes_of(cost: Sequence[Tensor], gain: Sequence[Tensor], deviations: Tensor, tie: Tie) -> Slopes:
    """Make slopes from independent estimates for every unit, each (S, n), by summing over groups."""
    paid, gained = (torch.stack([tie.sum(part) for part in each]) for each in (cost, gain))
    return Slopes(paid, gained, deviations)
