"""Monte-Carlo estimates of what the metrics need from a layer: column norms, deviations, gradients."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .network import Network


@dataclass(frozen=True)
class Halves:
    """Two independent estimates of the same map, each (S, n)."""

    first: Tensor
    second: Tensor

    @property
    def mean(self) -> Tensor:
        """The estimate from all probes, (S, n)."""
        return (self.first + self.second) / 2


class HalfSums:
    """Sums over a stream of noises, every other one in the same half, in whatever portions they come.

    Parameters
    ----------
    like
        A map of the shape that is summed, (S, n).
    """

    def __init__(self, like: Tensor) -> None:
        self._sums = (torch.zeros_like(like), torch.zeros_like(like))
        self._count = 0

    def add(self, values: Tensor) -> None:
        """Add the values of some noises, (noises, S, n)."""
        for i, total in enumerate(self._sums):
            total += values[(i + self._count) % 2 :: 2].sum(0)
        self._count += len(values)

    def means(self) -> Halves:
        """Mean of each half; the count of noises must be even."""
        return Halves(*(total * (2 / self._count) for total in self._sums))


@dataclass
class Feature:
    """One layer's feature on a block of samples, with the random streams that probe it.

    Parameters
    ----------
    network
        Network with the one layer as its only output.
    x
        Perturbed tensor of the S samples, (S, *shape), in the model's units.
    unit
        Standardised unit in the model's units, broadcastable to x.
    rows
        Rows of the samples in the network's context, (S,).
    noise, probes
        Random streams on x's device: input noises, and output probes.
    chunk
        Most inputs evaluated at once.
    """

    network: Network
    x: Tensor
    unit: Tensor
    rows: Tensor
    noise: torch.Generator
    probes: torch.Generator
    chunk: int
    spent: int = field(default=0, init=False)
    center: Tensor = field(init=False)

    def __post_init__(self) -> None:
        with torch.no_grad():
            (self.center,) = self.network(self.x, self.rows)

    @property
    def samples(self) -> int:
        """Number of samples S."""
        return len(self.x)

    @property
    def units(self) -> int:
        """Number of input units n."""
        return self.x[0].numel()

    def portions(self, count: int) -> Iterator[int]:
        """Split a number of noises into portions that are evaluated at once."""
        size = max(1, self.chunk // self.samples)
        while count > 0:
            yield min(size, count)
            count -= size

    def perturb(self, sigma: Tensor, noises: int) -> tuple[Tensor, Tensor]:
        """Draw standardised perturbations (noises, S, n); with them come the perturbed inputs (noises * S, *shape)."""
        delta = torch.randn((noises, self.samples, self.units), generator=self.noise, device=self.x.device)
        delta = delta * sigma
        return delta, (self.x + delta.reshape(noises, *self.x.shape) * self.unit).flatten(0, 1)

    def evaluate(self, x: Tensor) -> Tensor:
        """Compute the feature (noises * S, m) of perturbed inputs."""
        (feature,) = self.network(x, self.rows.repeat(len(x) // self.samples))
        return feature

    def deviations(self, sigma: Tensor, noises: int) -> Tensor:
        """``||h(x + sigma*delta) - f||^2`` for fresh noises delta.

        Parameters
        ----------
        sigma
            Noise scales, (S, n), standardised.
        noises
            How many.

        Returns
        -------
        Tensor
            (noises, S).
        """
        parts = []
        with torch.no_grad():
            for count in self.portions(noises):
                _, x = self.perturb(sigma, count)
                parts.append(self._deviation(self.evaluate(x)))
        return torch.cat(parts)

    def _deviation(self, feature: Tensor) -> Tensor:
        """``||feature - f||^2`` of features (noises * S, m), (noises, S)."""
        return (feature.reshape(-1, self.samples, feature.shape[1]) - self.center).square().sum(-1)

    def differentiable_deviation(self, sigma: Tensor, noises: int) -> Tensor:
        """``E||h(x + sigma*delta) - f||^2`` from fresh noises, (S,), differentiable with respect to sigma, (S, n)."""
        _, x = self.perturb(sigma, noises)
        self.spent += noises
        return self._deviation(self.evaluate(x)).mean(0)

    def column_norms(self, sigma: Tensor, noises: int, per_noise: int) -> tuple[Halves, Tensor]:
        """``E ||J_i(x + sigma*delta)||^2`` by vector-Jacobian products, ``E_u (J^T u)_i^2`` with random signs u.

        Signs have the least variance among probes with independent entries. Several per noise share a forward pass;
        where the feature is smaller than that, its unit vectors give the norms exactly.

        Parameters
        ----------
        sigma
            Noise scales, (S, n), standardised.
        noises, per_noise
            Noises (even), and probes at each.

        Returns
        -------
        Halves
            Two independent estimates of the squared column norms.
        Tensor
            The deviations, (noises, S).
        """
        sums = HalfSums(sigma)
        parts = []
        for count in self.portions(noises):
            _, x = self.perturb(sigma, count)
            x.requires_grad_(True)
            feature = self.evaluate(x)
            norms = squared_products(feature, x, self.unit, per_noise, self.probes)
            self.spent += count * min(per_noise, feature.shape[1])
            sums.add(norms.reshape(count, self.samples, -1))
            parts.append(self._deviation(feature.detach()))
        return sums.means(), torch.cat(parts)

    def gradients(self, sigma: Tensor, noises: int) -> tuple[Halves, Tensor]:
        """``sigma_i dL/dsigma_i`` of the feature deviation ``L = E||h(x + sigma*delta) - f||^2``, and L itself.

        Parameters
        ----------
        sigma
            Noise scales, (S, n), standardised.
        noises
            How many (even).

        Returns
        -------
        Halves
            Two independent estimates of the logarithmic gradient.
        Tensor
            The deviations, (noises, S).
        """
        sums = HalfSums(sigma)
        parts = []
        for count in self.portions(noises):
            delta, x = self.perturb(sigma, count)
            x.requires_grad_(True)
            feature = self.evaluate(x)
            difference = feature.detach() - self.center.repeat(count, 1)
            (product,) = torch.autograd.grad(feature, x, 2 * difference)
            self.spent += count
            sums.add(delta * (product * self.unit).reshape(count, self.samples, -1))
            parts.append(difference.square().sum(1).reshape(count, self.samples))
        return sums.means(), torch.cat(parts)


def squared_products(feature: Tensor, x: Tensor, unit: Tensor, probes: int, generator: torch.Generator) -> Tensor:
    """Mean over probes of ``(J^T u)_i^2``: an unbiased estimate of the squared column norms, exact for few outputs.

    Parameters
    ----------
    feature
        (B, m), computed from x.
    x
        (B, *shape), the leaf.
    unit
        Standardised unit, broadcastable to x.
    probes
        How many; with ``m <= probes`` the m unit vectors are used instead.
    generator
        Stream of the random signs.

    Returns
    -------
    Tensor
        (B, n).
    """
    total = torch.zeros_like(x)
    for u in cotangents(feature, probes, generator):
        (product,) = torch.autograd.grad(feature, x, u, retain_graph=True)
        total += product.square()
    return (total * unit.square()).flatten(1) / (probes if probes < feature.shape[1] else 1)


def cotangents(feature: Tensor, probes: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Random signs (B, m), or the unit vectors where m <= probes."""
    if feature.shape[1] <= probes:
        for j in range(feature.shape[1]):
            unit_vector = torch.zeros_like(feature)
            unit_vector[:, j] = 1
            yield unit_vector
        return
    table = _signs_of_bytes(feature.device).to(feature.dtype)
    for _ in range(probes):
        words = torch.empty(math.ceil(feature.numel() / 64), dtype=torch.int64, device=feature.device)
        words.random_(-(2**63), None, generator=generator)
        signs = table.index_select(0, words.view(torch.uint8).int())
        yield signs.flatten()[: feature.numel()].view(feature.shape)


@functools.cache
def _signs_of_bytes(device: torch.device) -> Tensor:
    """Eight signs for each byte, (256, 8): one random bit for each sign is several times as fast as one number."""
    bits = (torch.arange(256, device=device)[:, None] >> torch.arange(8, device=device)) & 1
    return 2.0 * bits - 1
