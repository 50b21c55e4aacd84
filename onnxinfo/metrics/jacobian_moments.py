"""First and second moments of a layer's Jacobian under noise, and the column norms that they imply.

Write the change of the feature as ``J (sigma*delta) + psi`` with the mean Jacobian J under noise. The linear part
contributes ``sigma_i^2 |J_i|^2`` to half of the deviation's gradient. The rest, psi, comes from the Jacobian's
variation. Its contribution is smaller than the mean square of that variation, since units that noise switches on and
off move the Jacobian more than the feature, but it is distributed over the input's units nearly like it. The factor
between the two, the same for all units, follows from the deviation's growth.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

#: Minimum of that factor: without it, an underestimated growth would leave units without any norm.
LEAST_FACTOR = 0.05


@dataclass(frozen=True)
class JacobianMoments:
    """Moments of the Jacobian of S samples under noise.

    Attributes
    ----------
    rows
        Mean Jacobian, standardized, (S, m, n).
    energy
        Mean squared column norms, (S, n).
    deviation
        Mean squared change of the feature, (S,).
    growth
        ``0.5 sum_i sigma_i dL/dsigma_i`` of that deviation L, (S,); equal to L for a linear layer.
    draws
        Number of noise samples, or their effective number.
    """

    rows: Tensor
    energy: Tensor
    deviation: Tensor
    growth: Tensor
    draws: float

    def blended(self, fresh: JacobianMoments, weight: float) -> JacobianMoments:
        """Move by a weight between 0 and 1 towards fresh moments of the same samples."""
        draws = 1 / ((1 - weight) ** 2 / self.draws + weight**2 / fresh.draws)
        rows, energy, deviation, growth = (
            torch.lerp(kept, new, weight) for kept, new in zip(self.estimates, fresh.estimates, strict=True)
        )
        return JacobianMoments(rows, energy, deviation, growth, draws)

    @property
    def estimates(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The four means, (S, m, n), (S, n), (S,) and (S,)."""
        return self.rows, self.energy, self.deviation, self.growth

    def column_norms(self, sigma: Tensor) -> Tensor:
        """Squared column norms, (S, n), of a linear layer with nearly this gradient at noise scales sigma, (S, n)."""
        square = self.rows.square().sum(1)
        varying = (self.energy - square) / (1 - 1 / self.draws)
        mean = (self.energy - varying).clamp(min=0)
        varying = self.energy - mean
        linear, rest = (sigma.square() * mean).sum(1), (sigma.square() * varying).sum(1)
        factor = (self.growth - linear) / rest.clamp(min=torch.finfo(rest.dtype).tiny)
        return mean + factor.clamp(LEAST_FACTOR, 1.0)[:, None] * varying
