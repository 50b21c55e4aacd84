"""Monte Carlo estimates for the reconstruction uncertainty: what a decoder recovers of the input under noise."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from .decoder import Decoder
from .halves import HalfSums, Halves
from .probe import LayerProbe
from .rows import as_rows

#: Number of independent parts in which squared errors are accumulated. Errors of values come from their spread: with
#: four, 14 % of cells of known value were off by more than two of these errors, with sixteen 5.5 %.
PARTS = 16
#: Lower bound of a unit's mean square error, in standardized units: a constant reconstruction would have no entropy.
LEAST_POWER = 1e-12


@dataclass(frozen=True)
class Moments:
    """Squared errors of the reconstruction under noise, and the deviations of the feature.

    Attributes
    ----------
    parts
        Mean of ``(mu_i - xhat_i)^2`` over each part of the noise samples, standardized, (PARTS, S, n).
    spread
        Variance of ``(mu_i - xhat_i)^2`` over the noise samples, (S, n).
    deviations
        ``||h(x + sigma*delta) - f||^2``, (draws, S).
    """

    parts: Tensor
    spread: Tensor
    deviations: Tensor

    @property
    def power(self) -> Tensor:
        """``E (mu_i - xhat_i)^2``, (S, n)."""
        return self.parts.mean(0).clamp(min=LEAST_POWER)

    def log_power(self) -> Tensor:
        """``log E (mu_i - xhat_i)^2``, (S, n), corrected to second order for the bias of the logarithm of a mean."""
        return self.power.log() + self.spread / (2 * len(self.deviations) * self.power.square())


@dataclass
class Reconstruction:
    """A decoder applied to a layer's feature at a block of samples.

    Parameters
    ----------
    feature
        The layer.
    decoder
        Reconstructs samples from the layer's feature.
    error_reference
        ``input``: errors relative to the sample, ``mu = x`` (the paper's Eq. 8); ``reconstruction``: relative to the
        noise-free reconstruction, ``mu = g(f)``.
    """

    feature: LayerProbe
    decoder: Decoder
    error_reference: str
    mu: Tensor = field(init=False)

    def __post_init__(self) -> None:
        with torch.no_grad():
            x = self.feature.x
            shown = x if self.error_reference == "input" else self.decoder(self.feature.center)
            self.mu = as_rows(shown / self.feature.unit)

    def at(self, index: Tensor) -> Reconstruction:
        """The reconstruction of a subset of the samples; it draws from the same random streams."""
        return Reconstruction(self.feature.at(index), self.decoder, self.error_reference)

    def _error(self, feature: Tensor) -> Tensor:
        """``xhat - mu`` of features (B, m), standardized, (B, n); B is a multiple of the number of samples."""
        shown = as_rows(self.decoder(feature) / self.feature.unit)
        error: Tensor = shown - self.mu.repeat(len(feature) // self.feature.samples, 1)
        return error

    def differentiable(self, sigma: Tensor, draws: int) -> tuple[Tensor, Tensor]:
        """``E||h(x + sigma*delta) - f||^2``, (S,), and ``E(mu_i - xhat_i)^2``, (S, n), differentiable in sigma.

        Parameters
        ----------
        sigma
            Noise scales, (S, n), standardized.
        draws
            Number of fresh noise samples, evaluated at once.
        """
        probe = self.feature
        _, x = probe.perturb(sigma, draws)
        feature = probe.evaluate(x)
        probe.n_vjps += draws
        deviation = (feature.reshape(draws, probe.samples, -1) - probe.center).square().sum(-1).mean(0)
        power = self._error(feature).square().reshape(draws, probe.samples, -1).mean(0)
        return deviation, power.clamp(min=LEAST_POWER)

    def moments(self, sigma: Tensor, draws: int) -> Moments:
        """Measure squared errors and deviations with fresh noise.

        Parameters
        ----------
        sigma
            Noise scales, (S, n), standardized.
        draws
            Number of noise samples, rounded up to a multiple of `PARTS`.
        """
        probe, counts = self.feature, torch.zeros(PARTS, device=sigma.device)
        sums = sigma.new_zeros((PARTS, *sigma.shape))
        fourth = torch.zeros_like(sigma)
        deviations: list[Tensor] = []
        with torch.no_grad():
            for count in probe.batches(-(-draws // PARTS) * PARTS, sigma, [sums, counts, fourth], [deviations]):
                _, x = probe.perturb(sigma, count)
                feature = probe.evaluate(x)
                deviations.append((feature.reshape(count, probe.samples, -1) - probe.center).square().sum(-1))
                squares = self._error(feature).square().reshape(count, probe.samples, -1)
                part = (sum(map(len, deviations[:-1])) + torch.arange(count, device=sigma.device)) % PARTS
                sums.index_add_(0, part, squares)
                counts.index_add_(0, part, torch.ones_like(part, dtype=counts.dtype))
                fourth += squares.square().sum(0)
        total = counts.sum()
        mean = sums.sum(0) / total
        return Moments(sums / counts[:, None, None], fourth / total - mean.square(), torch.cat(deviations))

    def gain_norms(self, sigma: Tensor, draws: int, weights: Tensor) -> Tensor:
        """``sum_i w_i^2 E (dxhat_i / dx_j)^2``, by one vector-Jacobian product with random signs per noise sample.

        Parameters
        ----------
        sigma
            Noise scales, (S, n), standardized.
        draws
            Number of noise samples.
        weights
            Weights w, (S, n).

        Returns
        -------
        Tensor
            (S, n).
        """
        probe, total = self.feature, torch.zeros_like(sigma)
        for count in probe.batches(draws, sigma, [total]):
            _, x = probe.perturb(sigma, count)
            x.requires_grad_(True)
            error = self._error(probe.evaluate(x))
            signs = 2 * torch.randint(2, error.shape, generator=probe.probes, device=error.device) - 1
            (product,) = torch.autograd.grad(error, x, weights.repeat(count, 1) * signs)
            probe.n_vjps += count
            total += (product * probe.unit).reshape(count, *sigma.shape).square().sum(0)
        return total / draws

    def gradients(self, sigma: Tensor, draws: int, weights: Tensor) -> tuple[Halves, Halves, Tensor]:
        """``sigma_j d/dsigma_j`` of the deviation L and of ``0.5 sum_i w_i E(mu_i - xhat_i)^2``, and L.

        With ``w_i = 1 / E(mu_i - xhat_i)^2`` the second is the gradient of the objective. Noise is drawn in pairs of
        opposite sign, which cancels odd terms.

        Parameters
        ----------
        sigma
            Noise scales, (S, n), standardized.
        draws
            Number of noise samples (a multiple of four).
        weights
            Weights w, (S, n).

        Returns
        -------
        tuple
            Gradient of L, gradient of the objective (Halves of (S, n)), and deviations (draws, S).
        """
        probe = self.feature
        sums = HalfSums(sigma), HalfSums(sigma)
        deviations: list[Tensor] = []
        totals = *sums[0].totals, *sums[1].totals
        for count in probe.batches(draws // 2, torch.stack([sigma, weights]), totals, [deviations]):
            delta, plus = probe.perturb(sigma, count)
            minus = (2 * probe.x - plus.reshape(count, *probe.x.shape)).flatten(0, 1)
            found = [torch.zeros_like(delta), torch.zeros_like(delta)]
            for sign, x in ((1, plus), (-1, minus)):
                x.requires_grad_(True)
                feature = probe.evaluate(x)
                difference = feature.detach() - probe.center.repeat(count, 1)
                error = self._error(feature)
                pull = weights.repeat(count, 1) * error.detach()
                (first,) = torch.autograd.grad(feature, x, 2 * difference, retain_graph=True)
                (second,) = torch.autograd.grad(error, x, pull)
                probe.n_vjps += 2 * count
                for total, product in zip(found, (first, second), strict=True):
                    total += sign / 2 * delta * (product * probe.unit).reshape(count, probe.samples, -1)
                deviations.append(difference.square().sum(1).reshape(count, probe.samples))
            for half_sums, gradient in zip(sums, found, strict=True):
                half_sums.add(gradient)
        return sums[0].means(), sums[1].means(), torch.cat(deviations)
