"""Measurements of a layer's deviation and its gradient at noise scales, with noise that is independent of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .control import Control
from .couplings import Couplings, less_noise
from .halves import Halves
from .probe import LayerProbe

#: Squared norm of a gradient, in units of the median, above which its weight falls.
OUTLYING = 5.0


@dataclass(frozen=True)
class Measured:
    """Measurements at noise scales, with noise that is independent of them.

    Attributes
    ----------
    parts
        Independent estimates of ``sigma_i dL/dsigma_i``, each from the same number of noise samples, (parts, S, n).
    deviations
        ``||h(x + sigma*delta) - f||^2``, (draws, S).
    """

    parts: Tensor
    deviations: Tensor

    def at(self, index: Tensor) -> Measured:
        """Measurements of a subset of the samples."""
        return Measured(self.parts[:, index], self.deviations[:, index])

    def divided(self, ratio: Tensor) -> Measured:
        """Measurements at scales whose deviation is smaller by a ratio, (S,), as if only its size changed."""
        return Measured(self.parts / ratio[:, None], self.deviations / ratio)

    @cached_property
    def weights(self) -> Tensor:
        """Weight of each part, (parts, S); see :func:`outlier_weights`."""
        return outlier_weights(torch.einsum("psn,psn->ps", self.parts, self.parts))

    def mean(self, first: int = 0, stride: int = 1) -> Tensor:
        """Weighted mean of every ``stride``-th part, (S, n)."""
        return weighted(self.parts[first::stride], self.weights[first::stride])

    @property
    def halves(self) -> Halves:
        """The gradient as two independent estimates."""
        return Halves(self.mean(0, 2), self.mean(1, 2))

    def growth(self, free: Tensor) -> Tensor:
        """``d log L / d log t``, (S,), if the free units' scales, (S, n) bool, are multiplied by t; by the gradient."""
        growth = (self.parts.mean(0) * free).sum(1)
        return growth / self.deviations.mean(0).clamp(min=torch.finfo(growth.dtype).tiny)

    def exponent(self, free: Tensor) -> Tensor:
        """Growth, limited to the range that rescaling can rely on; 2 for a linear layer, (S,)."""
        return self.growth(free).clamp(0.5, 4.0)

    def relative(self, free: Tensor, units: Tensor) -> Tensor:
        """``r = g / mean(g) - 1`` of some units, (S, n) bool, the mean over the free ones; zero at others."""
        level = mean_over(self.mean(), free)
        return torch.where(units, self.parts / level[:, None] - 1, 0.0)

    def shortfall(self, free: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
        """Distance of the mean H from a linear layer's optimum in nats, ``mean(r^2) / 4``, and its error, (S,).

        The mean is over the counted units; those at the cap are assumed to belong there.
        """
        power, error = noise_free_power(self.relative(free, free), free, self.weights)
        share = free.sum(1) / counted.sum(1).clamp(min=1) / 4
        return share * power, share * error


def weighted(parts: Tensor, weights: Tensor) -> Tensor:
    """Mean of parts (parts, S, n) with weights (parts, S), (S, n)."""
    return torch.einsum("ps,psn->sn", weights / weights.sum(0), parts)


def outlier_weights(power: Tensor) -> Tensor:
    """Weights of gradients by their squared norms, (count, S): 1, and less for those far above the median.

    Where a logarithm or a root comes close to its pole, gradients of single noise samples are larger by orders of
    magnitude. They have random signs, so that they contribute little to the mean and nearly all of its noise.

    Parameters
    ----------
    power
        Squared norms, (count, S); NaN where there is no gradient.
    """
    most = OUTLYING * power.nanmedian(0).values
    return torch.where(power > most, most / power, 1.0)


def measure(feature: LayerProbe, sigma: Tensor, draws: int, control: Control | None = None) -> Measured:
    """Measure gradient and deviations of noise scales (S, n) with fresh noise samples, a multiple of eight."""
    parts, deviations = [], []
    for _ in range(2):
        halves, found = feature.gradients(sigma, draws // 2, control)
        parts += [halves.first, halves.second]
        deviations.append(found)
    return Measured(torch.stack(parts), torch.cat(deviations))


def measure_coupled(feature: LayerProbe, sigma: Tensor, draws: int, couplings: Couplings) -> Measured:
    """Measure as in :func:`measure`, with less noise in the gradient."""
    sums, deviations = zip(*(feature.coupled_gradients(sigma, draws // 2, couplings) for _ in range(2)), strict=True)
    return Measured(torch.stack(less_noise(sums)), torch.cat(deviations))


def merge(passes: Sequence[Measured]) -> Measured:
    """Merge measurements of the same noise scales, each with the same number of noise samples."""
    return Measured(torch.cat([each.parts for each in passes]), torch.cat([each.deviations for each in passes]))


def relative_gradient(halves: Halves, free: Tensor) -> Halves:
    """``sigma_i dL/dsigma_i`` divided by its mean over the free units, minus one; zero at capped units."""
    mean = mean_over(halves.mean, free)[:, None]
    return Halves(*(torch.where(free, half / mean - 1, 0.0) for half in (halves.first, halves.second)))


def mean_over(values: Tensor, free: Tensor) -> Tensor:
    """Mean of values (S, n) over the free units, (S,); one if it is not positive."""
    mean = torch.where(free, values, 0.0).sum(1) / free.sum(1).clamp(min=1)
    return torch.where(mean > 0, mean, torch.ones_like(mean))


def noise_free_power(parts: Tensor, free: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean square of a map over the free units and its standard error, (S,), from products of independent estimates.

    Parameters
    ----------
    parts
        Independent estimates of the map, (parts, S, n); zero at units that are not free.
    free
        Free units, (S, n) bool.
    weights
        Weights of the estimates, (parts, S); default: equal ones.
    """
    products = torch.einsum("psn,qsn->spq", parts, parts) / free.sum(1).clamp(min=1)[:, None, None]
    weight = products.new_ones(products.shape[:2]) if weights is None else weights.T
    apart = products - products.diagonal(dim1=1, dim2=2).diag_embed()
    others = weight.sum(1, keepdim=True) - weight
    # A U-statistic: its error follows from the variation of each part's mean product with the others.
    each = (apart * weight[:, None]).sum(2) / others
    shares = weight * others / (weight * others).sum(1, keepdim=True)
    power = (shares * each).sum(1)
    count = len(parts)
    error = ((weight / weight.sum(1, keepdim=True)).square() * (each - power[:, None]).square()).sum(1)
    return power, 2 * (error * count / (count - 1)).sqrt()
