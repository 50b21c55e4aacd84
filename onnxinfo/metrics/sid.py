"""Strict information discarding: the largest noise on the input that a layer's feature does not notice.

Maximise ``sum_i log sigma_i`` subject to ``E||h(x + sigma*delta) - h(x)||^2 = alpha D`` (the paper's Eq. 2). Solved in
three steps, each starting where the one before ended:

1. the closed form of the linearised layer, from column norms of the Jacobian at x;
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
    GAP_STDERR,
    LEAST_RATIO_NOISES,
    RATIO_TOLERANCE,
    Certificate,
    Measured,
    certify,
    gap_stderr,
    join,
    judge,
    mean_and_stderr,
    measure,
    refine,
    relative_gradient,
    rescaled,
)
from .linearisation import Linearisation
from .noise import ENTROPY, Tie, allocate, capped
from .probe import Feature, Halves
from .shrinkage import wiener, wiener_with

logger = logging.getLogger(__name__)

#: Noises of the Gauss-Newton round, and probes at each.
ROUND_NOISES, ROUND_PROBES = 16, 4
#: Passes of the polish at most, those of them that may change the scales, and the gain in nats that makes it worth it.
PASSES, UPDATES, PASS_GAIN = 16, 8, 0.003
#: Noises of each pass.
PASS_NOISES = 16
#: Root mean square by which the constraint may be off before the scales follow it, and how often they do at most.
RATIO_ERROR, ADJUSTMENTS = 0.03, 3
#: Relative standard error of the deviation, on average over the samples, that this is decided with at first.
SCALE_STDERR = 0.025
#: A block with at least this many units, over all its samples, is served by those noises. A smaller one gets up to
#: eight times as many: they cost little, and the errors of fewer units average out less.
MANY_UNITS = 8192


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
    problem = _Problem(feature, start, target, tie, cap, tuple(shape))
    scales = allocate(start.column_norms, target, tie, cap)
    found = problem.exact(scales) if start.affine else problem.polish(problem.gauss_newton(scales))
    error = start.normalizer_stderr / start.normalizer.clamp(min=torch.finfo(target.dtype).tiny) / 2
    sigma = problem.sigma(found.scales)
    return Solution(
        sigma=sigma,
        certificate=found.certificate,
        stderr=(error.square() + found.error.square()).sqrt(),
        capped=(sigma >= cap).float().mean(1),
        probes=start.probes + feature.spent,
        iterations=1 + found.iterations,
    )


@dataclass(frozen=True)
class _Found:
    """Scales (S, groups) that were certified, the standard error (S,) of their logarithm, and how often improved."""

    scales: Tensor
    certificate: Certificate
    error: Tensor
    iterations: int


@dataclass(frozen=True)
class _Problem:
    """One layer's maximisation on a block of samples; ``scales`` are uncapped, per group, (S, groups)."""

    feature: Feature
    start: Linearisation
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

    def exact(self, scales: Tensor) -> _Found:
        """The closed form, where nothing is left to be found."""
        certificate = certify(self.feature, self.sigma(scales), self.target, self.free(scales))
        return _Found(scales, certificate, torch.zeros_like(self.target), 0)

    def gauss_newton(self, scales: Tensor) -> Tensor:
        """Gauss-Newton: ``sigma_i^2`` inverse to ``E||J_i(x + sigma*delta)||^2`` at the sigma given.

        What that sigma disturbs in truth, over what those norms say, tells how far to go at the new one.
        """
        sigma = self.sigma(scales)
        halves, deviations = self.feature.column_norms(sigma, self.effort * ROUND_NOISES, ROUND_PROBES)
        norms = self._smoothed(halves)
        foretold = (sigma.square() * norms).sum(1)
        return rescaled(allocate(norms, self.target, self.tie, self.cap), deviations, foretold)

    def _smoothed(self, norms: Halves) -> Tensor:
        """Squared column norms, denoised in their logarithms with the help of those at x."""
        first, second, at_rest = map(_logarithms, (norms.first, norms.second, self.start.column_norms))
        level = (first + second).mean(1, keepdim=True) / 2
        at_rest = at_rest - at_rest.mean(1, keepdim=True)
        return (wiener_with(first - level, second - level, at_rest, self.shape) + level).exp()

    def polish(self, scales: Tensor) -> _Found:
        """Follow the true gradient while it promises a gain; passes that promise none certify what they measured.

        There are several of those where one does not tell how far from the optimum the scales may be.
        """
        correction = torch.zeros_like(scales)
        evidence = (torch.zeros_like(self.sigma(scales)), torch.zeros_like(self.sigma(scales)))
        found: list[Measured] = []
        for passes in range(1, PASSES + 1):
            fresh, free = measure(self.feature, self.sigma(scales), self.effort * PASS_NOISES), self.free(scales)
            found.append(fresh)
            relative = relative_gradient(fresh.halves, free)
            # Each pass measures where the optimum lies, seen from the round before; all of them count.
            for total, half in zip(evidence, (relative.first, relative.second), strict=True):
                total += self.tie.expand(correction) - half / 2
            better = self._denoised(evidence[0] / passes, evidence[1] / passes)
            change = better - correction
            if passes <= UPDATES and float(change.square().mean()) >= PASS_GAIN:
                joined = join(found)
                scales = rescaled(scales * change.exp(), joined.deviations, self.target, self._exponent(joined, free))
                correction, found = better, []
            elif gap_stderr(join(found), free) <= GAP_STDERR:
                break
        logger.debug("one Gauss-Newton round, %d polishing passes", passes)
        return self._certified(scales, join(found), passes)

    def _certified(self, scales: Tensor, found: Measured, passes: int) -> _Found:
        """Certify scales by what was measured of them.

        Where that shows the constraint to be off, it is met and measured anew: all scales of a sample change alike, by
        a few per cent, and the relative gradient stays as it is.
        """
        free, exponent = self.free(scales), self._exponent(found, self.free(scales))
        sigma, known = self.sigma(scales), None
        deviations = refine(self.feature, sigma, found.deviations, self.effort, SCALE_STDERR)
        for _ in range(ADJUSTMENTS):
            ratio, stderr = mean_and_stderr(deviations / self.target)
            if not self._off((ratio - 1).abs()[free.any(1)], stderr[free.any(1)]):
                break
            scales, known = rescaled(scales, deviations, self.target, exponent), stderr
            sigma = self.sigma(scales)
            deviations = refine(self.feature, sigma, self.feature.deviations(sigma, LEAST_RATIO_NOISES))
        error = torch.maximum((ratio - 1).abs(), stderr) if known is None else known
        certificate = judge(Measured(found.quarters, deviations), self.target, free)
        return _Found(scales, certificate, error / exponent, 1 + passes)

    def _off(self, off: Tensor, stderr: Tensor) -> bool:
        """Whether the constraint is off, of all samples on average or of any of them beyond what is known."""
        typical = (off.square() - stderr.square()).mean()
        return bool(typical > RATIO_ERROR**2) or bool((off - 2 * stderr > RATIO_TOLERANCE).any())

    def _exponent(self, found: Measured, free: Tensor) -> Tensor:
        """``d log L / d log t`` when the free units' scales grow by t: 2 where the layer is linear."""
        growth = (found.halves.mean * free).sum(1)
        return (growth / found.deviations.mean(0).clamp(min=torch.finfo(growth.dtype).tiny)).clamp(0.5, 3.0)

    def _denoised(self, first: Tensor, second: Tensor) -> Tensor:
        """Denoised mean of two independent maps (S, n), per group, (S, groups)."""
        return (self.tie.sum(wiener(first, second, self.shape)) / self.tie.size).clamp(-1.0, 1.0)


def _logarithms(norms: Tensor) -> Tensor:
    """Logarithms of squared norms (S, n); what is unseen counts as a millionth of the mean."""
    least = (norms.mean(1, keepdim=True) * 1e-6).clamp(min=torch.finfo(norms.dtype).tiny)
    return torch.maximum(norms, least).log()
