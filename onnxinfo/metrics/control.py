"""Control variates: a fixed linear model of a layer, whose share of a Monte Carlo estimate is known exactly.

Take a fixed matrix J close to the layer's mean Jacobian under noise. ``y = J (sigma*delta)`` and ``l = J^T y``
correlate with the feature's change and with its pathwise gradient, and their means are known:
``E|y|^2 = sum_i sigma_i^2 |J_i|^2`` and ``E[sigma_i delta_i l_i] = sigma_i^2 |J_i|^2``. Subtracting a multiple of
``estimate - mean`` leaves the expectation unchanged for any J; the closer J is, the lower the variance.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Control:
    """Rows of the mean Jacobian of each of S samples.

    Attributes
    ----------
    rows
        Standardized, (S, k, n).
    """

    rows: Tensor

    @property
    def norms(self) -> Tensor:
        """Squared column norms of the model, (S, n)."""
        return self.rows.square().sum(1)

    def at(self, index: Tensor) -> Control:
        """Model of a subset of the samples."""
        return Control(self.rows[index])

    def apply(self, delta: Tensor) -> tuple[Tensor, Tensor]:
        """Response of the model to perturbations.

        Parameters
        ----------
        delta
            Standardized perturbations ``sigma*delta``, (draws, S, n).

        Returns
        -------
        tuple of Tensor
            ``|y|^2``, (draws, S), and ``l = J^T y``, (draws, S, n).
        """
        y = torch.einsum("skn,psn->psk", self.rows, delta)
        return y.square().sum(-1), torch.einsum("psk,skn->psn", y, self.rows)
