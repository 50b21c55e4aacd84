"""Strict information discarding: the largest noise on the input that a layer's feature does not notice.

Maximise ``sum_i log sigma_i`` subject to ``E||h(x + sigma*delta) - h(x)||^2 = alpha D`` (the paper's Eq. 2). Solved in
three steps, each starting where the one before ended:

1. the closed form of the linearised layer, from column norms of the Jacobian at x (:func:`linearise`);
2. a Gauss-Newton round: the same with column norms averaged over the noise itself;
3. a polish with the constraint's true gradient, which knows what the round ignores: that noise switches units off.

Norms and gradients are noisy, so their maps are denoised by a Wiener filter before each step.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .certificate import (
    RATIO_STDERR,
    Certificate,
    certify,
    mean_and_stderr,
    refine,
    relative_gradient,
    relative_stderr,
    rescaled,
)
from .network import Network
from .noise import ENTROPY, Tie, allocate, capped
from .probe import Feature, Halves, cotangents
from .shrinkage import wiener

logger = logging.getLogger(__name__)

#: Probes of the closed form: at least, and at most where D is not known well enough before.
LEAST_PROBES, MOST_PROBES = 16, 128
#: Relative standard error of a sample's D, on average over the samples, at which probing stops.
NORMALIZER_STDERR = 0.02
#: Affine layers up to this many outputs are solved exactly, by their whole Jacobian.
EXACT_OUTPUTS = 4096
#: Noises of the Gauss-Newton round (two probes at every noise), and of the rescaling before and after it.
ROUND_NOISES, SCALE_NOISES = 32, 8
#: Polishing passes at most, the noises of each, and the gain in nats below which no further pass is made.
PASSES, PASS_NOISES, PASS_GAIN = 5, 32, 0.003
#: A block with at least this many units, over all its samples, is served by those noises. A smaller one gets up to
#: eight times as many: they cost little, and the errors of fewer units average out less.
MANY_UNITS = 8192


@dataclass(frozen=True)
class Linearisation:
    """A layer around a block of S samples: squared column norms (S, n), D (S,) with standard error, affinity."""

    column_norms: Tensor
    normalizer: Tensor
    normalizer_stderr: Tensor
    affine: bool
    probes: int

    def to(self, device: torch.device) -> Linearisation:
        """The same on another device."""
        tensors = self.column_norms.to(device), self.normalizer.to(device), self.normalizer_stderr.to(device)
        return Linearisation(*tensors, self.affine, self.probes)

    def at(self, rows: slice) -> Linearisation:
        """The same of some of the samples only."""
        tensors = self.column_norms[rows], self.normalizer[rows], self.normalizer_stderr[rows]
        return Linearisation(*tensors, self.affine, self.probes)


@dataclass(frozen=True)
class Solution:
    """The noise scales of a block of cells and what is known about them.

    Attributes
    ----------
    sigma
        Noise scales in standardised units, (S, n).
    certificate
        Measured with fresh noise.
    stderr
        Monte-Carlo standard error of the mean entropy, nats, (S,).
    capped
        Share of units at the cap, (S,).
    probes, iterations
        Vector-Jacobian products per sample, and updates of sigma.
    """

    sigma: Tensor
    certificate: Certificate
    stderr: Tensor
    capped: Tensor
    probes: int
    iterations: int

    @property
    def entropy(self) -> Tensor:
        """Pixel-level SID ``H_i = log sigma_i + 0.5 log(2 pi e)`` in nats, (S, n)."""
        return self.sigma.log() + ENTROPY


def linearise(
    network: Network,
    x: Tensor,
    unit: Tensor,
    rows: Tensor,
    probes: torch.Generator,
    *,
    stderr: float = NORMALIZER_STDERR,
) -> list[Linearisation]:
    """Column norms ``||J_i||^2`` and ``D = ||J||_F^2`` of every layer at the samples.

    One forward pass serves all layers; each probe costs one vector-Jacobian product per layer. A layer whose products
    do not change when the input moves by a whole standard deviation is affine: its Jacobian is the same everywhere.

    Parameters
    ----------
    network
        The layers.
    x
        Perturbed tensor of S samples, (S, *shape).
    unit
        Standardised unit, broadcastable to x.
    rows
        Rows of the samples in the network's context.
    probes
        Random stream.
    stderr
        Relative standard error of each sample's D to aim at.
    """
    leaf = x.detach().requires_grad_(True)
    moved = (x + unit * torch.randn(x.shape, generator=probes, device=x.device)).requires_grad_(True)
    features, elsewhere = network(leaf, rows), network(moved, rows)
    results = []
    for layer, (feature, other) in enumerate(zip(features, elsewhere, strict=True)):
        affine = _same_jacobian(feature, leaf, other, moved, probes)
        if affine and MOST_PROBES < feature.shape[1] <= EXACT_OUTPUTS and not network.context:
            norms = _exact_norms(network.part([layer]), leaf, unit, rows)
            exact = norms.expand(len(x), -1)
            none = torch.zeros(len(x), device=x.device)
            results.append(Linearisation(exact, exact.sum(1), none, True, feature.shape[1]))
        else:
            results.append(_sampled_norms(feature, leaf, unit, probes, stderr, affine))
    return results


def _same_jacobian(feature: Tensor, x: Tensor, other: Tensor, moved: Tensor, probes: torch.Generator) -> bool:
    u = next(cotangents(feature, 1, probes))
    here = _product(feature, x, u)
    there = _product(other, moved, u)
    return torch.allclose(here, there, rtol=1e-4, atol=1e-6 * float(here.abs().max()))


def _product(feature: Tensor, x: Tensor, u: Tensor) -> Tensor:
    if not feature.requires_grad:
        return torch.zeros_like(x)
    (product,) = torch.autograd.grad(feature, x, u, retain_graph=True, allow_unused=True)
    return torch.zeros_like(x) if product is None else product


def _sampled_norms(
    feature: Tensor, x: Tensor, unit: Tensor, generator: torch.Generator, stderr: float, affine: bool
) -> Linearisation:
    total = torch.zeros_like(x).flatten(1)
    traces: list[Tensor] = []
    outputs = feature.shape[1]
    for u in cotangents(feature, min(MOST_PROBES, outputs + 1) if outputs <= MOST_PROBES else MOST_PROBES, generator):
        squares = (_product(feature, x, u) * unit).square().flatten(1)
        total += squares
        traces.append(squares.sum(1))
        if outputs <= MOST_PROBES or len(traces) % LEAST_PROBES:
            continue
        if float(relative_stderr(torch.stack(traces)).mean()) <= stderr:
            break
    if outputs <= MOST_PROBES:  # unit vectors: their squares sum to the norms exactly
        return Linearisation(total, total.sum(1), torch.zeros_like(total[:, 0]), affine, outputs)
    mean, error = mean_and_stderr(torch.stack(traces))
    return Linearisation(total / len(traces), mean, error, affine, len(traces))


def _exact_norms(network: Network, x: Tensor, unit: Tensor, rows: Tensor) -> Tensor:
    """Squared column norms (1, n) of an affine layer, row by row of its Jacobian."""
    with torch.no_grad():
        outputs = network(x[:1], rows[:1])[0].shape[1]
    norms = torch.zeros_like(x[:1])
    identity = torch.arange(outputs, device=x.device)
    for part in torch.split(identity, 256):
        leaf = x[:1].detach().repeat(len(part), *([1] * (x.dim() - 1))).requires_grad_(True)
        (feature,) = network(leaf, rows[:1].repeat(len(part)))
        (product,) = torch.autograd.grad(feature.gather(1, part[:, None]).sum(), leaf)
        norms += product.square().sum(0, keepdim=True)
    return (norms * unit.square()).flatten(1)


def solve(
    feature: Feature, start: Linearisation, target: Tensor, tie: Tie, cap: float, shape: Sequence[int]
) -> Solution:
    """The SID of one layer on a block of samples.

    Parameters
    ----------
    feature
        The layer's feature on S samples.
    start
        Its linearisation there.
    target
        ``alpha D``, (S,).
    tie, cap
        Tied groups, and ``sigma_max`` in standardised units.
    shape
        Shape of one sample, for the denoising of maps.
    """
    problem = _Problem(feature, target, tie, cap, tuple(shape))
    scales = allocate(start.column_norms, target, tie, cap)
    error = start.normalizer_stderr / start.normalizer.clamp(min=torch.finfo(target.dtype).tiny) / 2
    iterations = 1
    if not start.affine:
        scales = problem.gauss_newton(scales)
        scales, passes, measured = problem.polish(scales)
        iterations += 1 + passes
        logger.debug("one Gauss-Newton round, %d polishing passes", passes)
        error = (error.square() + (measured / 2).square()).sqrt()
    sigma = problem.sigma(scales)
    return Solution(
        sigma=sigma,
        certificate=certify(feature, sigma, target, problem.free(scales)),
        stderr=error,
        capped=(sigma >= cap).float().mean(1),
        probes=start.probes + feature.spent,
        iterations=iterations,
    )


@dataclass(frozen=True)
class _Problem:
    """One layer's maximisation on a block of samples; ``scales`` are uncapped, per group, (S, groups)."""

    feature: Feature
    target: Tensor
    tie: Tie
    cap: float
    shape: tuple[int, ...]

    @property
    def effort(self) -> int:
        return min(8, max(1, MANY_UNITS // (self.tie.units * self.feature.samples)))

    def sigma(self, scales: Tensor) -> Tensor:
        return capped(scales, self.tie, self.cap)

    def free(self, scales: Tensor) -> Tensor:
        return self.tie.expand(scales) < self.cap

    def gauss_newton(self, scales: Tensor) -> Tensor:
        """Gauss-Newton: ``sigma_i^2`` inverse to ``E||J_i(x + sigma*delta)||^2`` at the sigma given."""
        scales = self._measured(scales)
        norms = self._smoothed(self.feature.column_norms(self.sigma(scales), self.effort * ROUND_NOISES))
        return self._measured(allocate(norms, self.target, self.tie, self.cap))

    def _measured(self, scales: Tensor) -> Tensor:
        """Rescaled by a few noises."""
        return rescaled(scales, self.feature.deviations(self.sigma(scales), SCALE_NOISES), self.target)

    def _smoothed(self, norms: Halves) -> Tensor:
        """Squared column norms, denoised in their logarithms; what is unseen counts as a millionth of the mean."""
        least = (norms.mean.mean(1, keepdim=True) * 1e-6).clamp(min=torch.finfo(norms.first.dtype).tiny)
        first, second = (torch.maximum(half, least).log() for half in (norms.first, norms.second))
        level = (first + second).mean(1, keepdim=True) / 2
        return (wiener(first - level, second - level, self.shape) + level).exp()

    def polish(self, scales: Tensor) -> tuple[Tensor, int, Tensor]:
        """Follow the true gradient while it promises a gain; then meet the constraint anew, where it is not known well.

        Returns
        -------
        tuple
            Scales, number of passes, and the relative standard error (S,) with which the constraint is met.
        """
        correction = torch.zeros_like(scales)
        evidence = (torch.zeros_like(self.sigma(scales)), torch.zeros_like(self.sigma(scales)))
        passes = 0
        for passes in range(1, PASSES + 1):
            halves, deviations = self.feature.gradients(self.sigma(scales), self.effort * PASS_NOISES)
            free = self.free(scales)
            exponent = self._exponent(halves, deviations, free)
            relative = relative_gradient(halves, free)
            # Each pass measures where the optimum lies, seen from the round before; all of them count.
            for total, half in zip(evidence, (relative.first, relative.second), strict=True):
                total += self.tie.expand(correction) - half / 2
            better = self._denoised(evidence[0] / passes, evidence[1] / passes)
            change = better - correction
            scales = rescaled(scales * change.exp(), deviations, self.target, exponent)
            correction = better
            if float(change.square().mean()) < PASS_GAIN:
                break
        if passes == PASSES or float(relative_stderr(deviations).mean()) > RATIO_STDERR:
            sigma = self.sigma(scales)
            deviations = refine(self.feature, sigma, self.feature.deviations(sigma, PASS_NOISES), self.effort)
            scales = rescaled(scales, deviations, self.target, exponent)
        return scales, passes, relative_stderr(deviations)

    def _exponent(self, halves: Halves, deviations: Tensor, free: Tensor) -> Tensor:
        """``d log L / d log t`` when the free units' scales grow by t: 2 where the layer is linear."""
        growth = (halves.mean * free).sum(1) / deviations.mean(0).clamp(min=torch.finfo(deviations.dtype).tiny)
        return growth.clamp(0.5, 3.0)

    def _denoised(self, first: Tensor, second: Tensor) -> Tensor:
        """Denoised mean of two independent maps (S, n), per group, (S, groups)."""
        return (self.tie.sum(wiener(first, second, self.shape)) / self.tie.size).clamp(-1.0, 1.0)
