"""Integrals of a layer's deviation along the noise of one group of units, given the noise of all other units.

``dL/dlog sigma_g = E[(r^2 - m) d]`` for the deviation d and the length r of the standard noise of a group of m units
(Stein's identity for a common factor): no gradient is needed, and d may be discontinuous. Given the direction of the
group's noise and the noise of all other units, this is an integral over r, which has the chi distribution with m
degrees of freedom. The integrand is evaluated at two lengths, each with both signs of the direction, and at zero. One
length is drawn from this distribution, the other from the chi distribution with m + 4 degrees of freedom, where the
integrand of a smooth feature is concentrated and rare steps are crossed. A parabola, which is the deviation along a
linear layer, is integrated analytically as a control variate; the estimate is unbiased for any parabola.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from scipy.special import gammaincinv
from torch import Tensor

from .journal import Sums
from .noise import Tie
from .probe import LayerProbe


@dataclass(frozen=True)
class Integrals:
    """Integrals for several backgrounds; a background is one draw of the noise of all other units.

    Attributes
    ----------
    gradient
        Estimates of ``sigma_g dL/dsigma_g``, (backgrounds, groups).
    level
        Estimates of the deviation L, (backgrounds,).
    evaluations
        Number of evaluations of the model.
    """

    gradient: Tensor
    level: Tensor
    evaluations: int


class Integrator(Protocol):
    """Integrates the deviation along the noise of each group of units."""

    def __call__(self, sigma: Tensor, backgrounds: int, guess: Tensor) -> Integrals:
        """Integrate for every group.

        Parameters
        ----------
        sigma
            Noise scales, (n,), standardized.
        backgrounds
            Number of backgrounds to draw.
        guess
            Estimate of ``sigma_g dL/dsigma_g``, (groups,), independent of the noise to be drawn. A better guess
            reduces the variance.
        """


class Radial:
    """Integrates over the length of each group's noise.

    Parameters
    ----------
    feature
        Probe of the layer at one sample.
    tie
        Groups of units; ``size`` is the number of counted units in each.
    counted
        Counted units, (n,) bool.
    """

    def __init__(self, feature: LayerProbe, tie: Tie, counted: Tensor) -> None:
        self._feature, self._tie, self._counted = feature, tie, counted
        self._sizes = tie.size.reshape(-1)
        self._live = tie.sum(counted[None].to(torch.float32))[0] > 0

    def __call__(self, sigma: Tensor, backgrounds: int, guess: Tensor) -> Integrals:
        """Integrate; see :class:`Integrator`."""
        sizes, stream = self._sizes, self._feature.noise
        delta = torch.randn((backgrounds, len(sigma)), generator=stream, device=sigma.device) * self._counted
        # Groups without a counted unit have no noise, and therefore no length.
        own = torch.where(self._live, self._tie.sum(delta.square()).sqrt(), 1.0)
        lengths, weights = draw_lengths(sizes, backgrounds, stream)
        factors = lengths.to(delta) / own[..., None]
        nothing = torch.zeros_like(own)[..., None]
        # Per group: both signs of each length, then zero.
        nodes = torch.cat([factors, -factors, nothing], 2)
        found = self._deviations(delta * sigma, nodes).reshape(nodes.shape).double()
        apart, at_zero = (found[..., :2] + found[..., 2:4]) / 2 - found[..., 4:], found[..., 4]
        curve = (guess.double() / (2 * sizes))[None, :, None]
        rest = weights * (apart - curve * lengths.square())
        gradient = (rest * (lengths.square() - sizes[:, None])).mean(2) + guess.double()
        level = rest.mean(2) + at_zero + curve[..., 0] * sizes
        live = self._live
        return Integrals((gradient * live).to(sigma), level[:, live].mean(1).to(sigma), found.numel())

    def _deviations(self, noise: Tensor, nodes: Tensor) -> Tensor:
        """Deviations for each background, group and node.

        ``noise`` (backgrounds, n) is standardized; ``nodes`` (backgrounds, groups, nodes) are factors of a group's
        noise.
        """
        groups, count = nodes.shape[1:]
        rows = torch.arange(nodes.numel(), device=noise.device)
        found: list[Tensor] = []
        feature = self._feature
        for step in feature.journal.steps(len(rows), feature.batch_size, Sums(parts=[found]), feature, noise):
            some = rows[step.start : step.stop]
            background, group = some // (groups * count), some // count % groups
            factor = torch.ones((len(some), groups), dtype=noise.dtype, device=noise.device)
            factor[torch.arange(len(some), device=noise.device), group] = nodes.flatten()[some]
            found.append(feature.deviations_at(noise[background] * self._tie.expand(factor)))
        return torch.cat(found)


def draw_lengths(sizes: Tensor, backgrounds: int, stream: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw two lengths for each group of units, with importance weights for the chi distribution.

    Parameters
    ----------
    sizes
        Number of units m in each group, (groups,), at least 1.
    backgrounds
        Number of draws.
    stream
        Random stream.

    Returns
    -------
    tuple of Tensor
        Lengths and weights, both (backgrounds, groups, 2): ``mean(weights * f(lengths))`` over the last axis is an
        unbiased estimate of the mean of f over the chi distribution with m degrees of freedom.
    """
    share = torch.rand((backgrounds, len(sizes), 2), generator=stream, device=sizes.device).double()
    freedom = torch.stack([sizes, sizes + 4], 1).double().expand_as(share)
    squares = torch.from_numpy(2 * gammaincinv(freedom.cpu().numpy() / 2, share.cpu().numpy())).to(sizes.device)
    # Ratio of the density with m + 4 degrees of freedom to that with m.
    heavier = squares.square() / (sizes * (sizes + 2)).double()[:, None]
    return squares.sqrt(), 2 / (1 + heavier)
