"""How far a reconstruction uncertainty is below its optimum, by gradients on fresh noise.

With p and q the gradients of objective and constraint with respect to ``log sigma``, the optimum has ``p = lambda q``.
The budget is spent very unevenly: a few units take most of it, and the objective curves along a unit in proportion to
what it is worth there, ``lambda q``. To second order the mean H therefore lies
``sum_j (p_j - lambda q_j)^2 / (4 lambda q_j n)`` nats below the optimum. The q_j in the denominator comes from the
linearized layer, which has no noise of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .certificate import noise_free_power
from .noise import Tie

#: A unit's share of the budget counts as at least this part of the mean share.
LEAST_SHARE = 0.1


@dataclass(frozen=True)
class Slopes:
    """Gradients of objective and constraint at noise scales that do not depend on the noise they were taken with.

    Attributes
    ----------
    cost, gain
        Independent estimates of ``dL/dlog sigma`` of the feature deviation L and of
        ``d sum_i 0.5 log E(mu_i - xhat_i)^2 / dlog sigma``, (parts, S, groups).
    deviations
        ``||h(x + sigma*delta) - f||^2``, (noises, S).
    """

    cost: Tensor
    gain: Tensor
    deviations: Tensor

    @classmethod
    def merge(cls, passes: Sequence[Slopes]) -> Slopes:
        """What several passes measured, as one."""
        cost, gain = (torch.cat(each) for each in ([p.cost for p in passes], [p.gain for p in passes]))
        return cls(cost, gain, torch.cat([p.deviations for p in passes]))

    def exponent(self, free: Tensor) -> Tensor:
        """``d log L / d log t`` when the scales of the free groups, (S, groups) bool, grow by t, (S,)."""
        growth = (self.cost.mean(0) * free).sum(1)
        return (growth / self.deviations.mean(0).clamp(min=torch.finfo(growth.dtype).tiny)).clamp(0.5, 3.0)

    def growth(self, free: Tensor, units: Tensor) -> Tensor:
        """What the mean entropy gains, nats, when the logarithms of the free groups' scales grow by one, (S,).

        Units are the number n of them that count, (S,). 1 where nothing but noise makes the errors.
        """
        return (self.gain.mean(0) * free).sum(1) / units

    def shortfall(self, free: Tensor, spent: Tensor, units: Tensor) -> tuple[Tensor, Tensor]:
        """Nats that the mean entropy lies below the optimum, to second order, and the standard error, (S,).

        Unknown where growing noise does not make larger errors.

        Parameters
        ----------
        free
            Groups below the cap, (S, groups) bool.
        spent
            What the linearized layer says that each group takes of the budget, in any unit, (S, groups).
        units
            Number n of units that count, (S,).
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
    """Slopes from independent estimates for every unit, each (S, n): groups add their units'."""
    paid, gained = (torch.stack([tie.sum(part) for part in each]) for each in (cost, gain))
    return Slopes(paid, gained, deviations)
