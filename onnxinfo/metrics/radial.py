"""Integrals of a layer's deviation along the noise of one group of units, given the noise of all others.

``dL/dlog sigma_g = E[(r^2 - m) d]`` for the deviation d and the length r of the standard noise of a group of m units
(Stein's identity for a common factor): no gradient is needed, and d may jump. Given everything else it is an integral
over r, which has the chi distribution with m degrees of freedom. It is taken at two lengths, each with both signs of
the group's direction, and at zero. One length is drawn from that distribution, the other from the one with m + 4, where
the integrand of a smooth feature has its weight and where rare steps are crossed. A parabola, as along a linear layer,
is integrated exactly up to its error; whatever parabola that is, the integral has no bias.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from scipy.special import gammaincinv
from torch import Tensor

from .noise import Tie
from .probe import LayerProbe


@dataclass(frozen=True)
class Integrals:
    """Integrals for some backgrounds, the noise of all other units.

    Attributes
    ----------
    gradient
        ``sigma_g dL/dsigma_g`` for each background and group, (backgrounds, groups).
    level
        L for each background, (backgrounds,).
    evaluations
        How often the model was evaluated.
    """

    gradient: Tensor
    level: Tensor
    evaluations: int


class Integrator(Protocol):
    """Integrates along each group of units."""

    def __call__(self, sigma: Tensor, backgrounds: int, guess: Tensor) -> Integrals:
        """Integrate.

        Parameters
        ----------
        sigma
            Noise scales, (n,), standardized.
        backgrounds
            How many are drawn.
        guess
            Estimate of ``sigma_g dL/dsigma_g``, (groups,), which does not depend on the noise to be drawn. The better
            it is, the less noise is left.
        """


class Radial:
    """Integrates along the lengths of the groups' noise.

    Parameters
    ----------
    feature
        The layer's feature on one sample.
    tie
        The groups; size counts the units that count.
    counted
        Units that count, (n,) bool.
    """

    def __init__(self, feature: LayerProbe, tie: Tie, counted: Tensor) -> None:
        self._feature, self._tie, self._counted = feature, tie, counted
        self._sizes = tie.size.reshape(-1)
        self._live = tie.sum(counted[None].to(torch.float32))[0] > 0

    def __call__(self, sigma: Tensor, backgrounds: int, guess: Tensor) -> Integrals:
        """Integrate; see :class:`Integrator`."""
        sizes, stream = self._sizes, self._feature.noise
        delta = torch.randn((backgrounds, len(sigma)), generator=stream, device=sigma.device) * self._counted
        # Groups without a unit that counts have no length.
        own = torch.where(self._live, self._tie.sum(delta.square()).sqrt(), 1.0)
        lengths, weights = draw_lengths(sizes, backgrounds, stream)
        factors = lengths.to(delta) / own[..., None]
        nothing = torch.zeros_like(own)[..., None]
        # Per group: both signs of each length, then none.
        nodes = torch.cat([factors, -factors, nothing], 2)
        found = torch.cat([*self._deviations(delta * sigma, nodes)]).reshape(nodes.shape).double()
        apart, at_zero = (found[..., :2] + found[..., 2:4]) / 2 - found[..., 4:], found[..., 4]
        curve = (guess.double() / (2 * sizes))[None, :, None]
        rest = weights * (apart - curve * lengths.square())
        gradient = (rest * (lengths.square() - sizes[:, None])).mean(2) + guess.double()
        level = rest.mean(2) + at_zero + curve[..., 0] * sizes
        live = self._live
        return Integrals((gradient * live).to(sigma), level[:, live].mean(1).to(sigma), found.numel())

    def _deviations(self, noise: Tensor, nodes: Tensor) -> Iterator[Tensor]:
        """Deviations for each background, group and node, in batches; noise (backgrounds, n) is standardized."""
        groups, count = nodes.shape[1:]
        rows = torch.arange(nodes.numel(), device=noise.device)
        for start in range(0, len(rows), self._feature.batch_size):
            some = rows[start : start + self._feature.batch_size]
            background, group = some // (groups * count), some // count % groups
            factor = torch.ones((len(some), groups), dtype=noise.dtype, device=noise.device)
            factor[torch.arange(len(some)), group] = nodes.flatten()[some]
            yield self._feature.deviations_at(noise[background] * self._tie.expand(factor))


def draw_lengths(sizes: Tensor, backgrounds: int, stream: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw two lengths for each group of units, and their weights in a mean over the chi distribution.

    Parameters
    ----------
    sizes
        Units in each group, m, (groups,), at least one.
    backgrounds
        How many times.
    stream
        Random stream.

    Returns
    -------
    tuple of Tensor
        Lengths and weights, (backgrounds, groups, 2): ``mean(weights * f(lengths))`` has the mean of f as its mean.
    """
    share = torch.rand((backgrounds, len(sizes), 2), generator=stream, device=sizes.device).double()
    freedom = torch.stack([sizes, sizes + 4], 1).double().expand_as(share)
    squares = torch.from_numpy(2 * gammaincinv(freedom.cpu().numpy() / 2, share.cpu().numpy())).to(sizes.device)
    # The density with m + 4 degrees of freedom over that with m.
    heavier = squares.square() / (sizes * (sizes + 2)).double()[:, None]
    return squares.sqrt(), 2 / (1 + heavier)
