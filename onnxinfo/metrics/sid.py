"""Strict information discarding: the largest noise on the input that a layer's feature does not notice.

Maximise ``sum_i log sigma_i`` subject to ``E||h(x + sigma*delta) - h(x)||^2 = alpha D`` (the paper's Eq. 2). Solved in
three steps, each starting where the one before ended:

1. the closed form of the linearised layer, from column norms of the Jacobian at x;
2. a Gauss-Newton round: the same with column norms averaged over the noise itself;
3. an ascent along the constraint's true gradient, which knows what the round ignores: that noise deactivates units.

Norms and gradients are noisy, so their maps are denoised by a Wiener filter before each step. The ascent's steps are
damped, because the deviation curves more than a linear layer's, and old evidence is forgotten, because the gradient
changes with the scales. Where few directions carry the feature's change, a control variate removes most of the noise.
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
    Certificate,
    Measured,
    gap_stderr,
    join,
    judge,
    mean_and_stderr,
    measure,
    power_of,
    refine,
    relative_gradient,
    rescaled,
    verdict,
)
from .control import Control, control_of
from .linearisation import Linearisation
from .noise import ENTROPY, Tie, allocate, capped
from .probe import LINEAR_TOLERANCE, Feature, Halves
from .shrinkage import wiener, wiener_with

logger = logging.getLogger(__name__)

#: Noise samples of the Gauss-Newton round, and probes at each.
ROUND_NOISES, ROUND_PROBES = 16, 4
#: Noise samples of each pass of the ascent, and of one with a control variate, where each tells more.
PASS_NOISES, CONTROLLED_NOISES = 16, 32
#: Passes at most that may change the scales, and passes in all.
UPDATES, PASSES = 28, 40
#: Gain in nats, averaged over so many recent passes and the samples, that is worth another step.
PASS_GAIN, RECENT = 0.004, 4
#: Share of the Newton step that is taken: at first, and once steps follow each other, when curvature is above one.
FIRST_STEPS, DAMPING = 2, 0.3
#: Weight of the newest evidence at least, and the largest change of log sigma in one step.
FORGETTING, MOST_STEP = 0.2, 0.4
#: Noise samples that tell whether a feature is linear over its noise.
LINEAR_NOISES = 8
#: The constraint is off by more than this factor when scales are shrunk or grown before anything else; attempts.
FAR, ATTEMPTS = 2.0, 16
#: A constraint that is off by at most this is met analytically at the end; else its noise is drawn again.
NEARLY_MET, ADJUSTMENTS = 0.1, 3
#: A constraint that is off by more than this beyond twice its standard error is met and measured once more.
KNOWN_OFF = 0.01
#: Noise of twice the size may move a feature by this factor more; beyond, rare jumps make the constraint unknown.
MOST_GROWTH, GROWTH_NOISES = 16.0, 32
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
    feature: Feature,
    start: Linearisation,
    target: Tensor,
    tie: Tie,
    cap: float,
    shape: Sequence[int],
    units: Tensor | None = None,
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
    units
        Units that count, (S, n) bool; None: all. The others get no noise, and their entropy is NaN.
    """
    counted = torch.ones_like(start.column_norms, dtype=torch.bool) if units is None else units
    # A layer that does not react to small noise has no budget; if it reacts to none at all, every unit is at the cap.
    none = ~(target > 0)
    at_cap = cap * counted.to(start.column_norms)
    dead = none & (feature.deviations(at_cap, LINEAR_NOISES).sum(0) > 0) if bool(none.any()) else none
    problem = _Problem(feature, start, torch.where(none, 1.0, target), tie, cap, tuple(shape), counted)
    scales = allocate(start.column_norms * counted, problem.target, tie, cap)
    found = problem.closed(scales) if problem.is_linear(scales) else None
    if found is None:
        found = problem.ascend(problem.gauss_newton(problem.feasible(scales)))
    error = start.normalizer_stderr / start.normalizer.clamp(min=torch.finfo(target.dtype).tiny) / 2
    sigma = problem.sigma(found.scales)
    bound = problem.free(found.scales).any(1)
    stderr = torch.where(bound, (error.square() + found.error.square()).sqrt(), 0.0)
    return Solution(
        sigma=torch.where(dead[:, None] | ~counted, torch.nan, sigma),
        certificate=found.certificate.without(dead),
        stderr=torch.where(dead, torch.nan, stderr),
        capped=((sigma >= cap) & counted).sum(1) / counted.sum(1).clamp(min=1),
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
    counted: Tensor

    @property
    def effort(self) -> int:
        return min(8, max(1, MANY_UNITS // (self.tie.units * self.feature.samples)))

    def sigma(self, scales: Tensor) -> Tensor:
        return capped(scales, self.tie, self.cap) * self.counted

    def free(self, scales: Tensor) -> Tensor:
        return (self.tie.expand(scales) < self.cap) & self.counted

    def is_linear(self, scales: Tensor) -> bool:
        """Whether the closed form is the answer: exact norms, and at each sample a feature linear over its noise."""
        exact = not bool(self.start.normalizer_stderr.any())
        return exact and bool(self.feature.is_linear(self.sigma(scales), LINEAR_NOISES).all())

    def closed(self, scales: Tensor) -> _Found | None:
        """The closed form with its certificate, or None where fresh noise contradicts it."""
        sigma, free = self.sigma(scales), self.free(scales)
        found = measure(self.feature, sigma, self.effort * PASS_NOISES)
        deviations = refine(self.feature, sigma, found.deviations, self.effort)
        ratio, stderr = mean_and_stderr(deviations / self.target)
        excess = torch.where(free.any(1), (ratio - 1).abs(), (ratio - 1).clamp(min=0))
        if bool((excess > 4 * stderr + LINEAR_TOLERANCE).any()):
            return None
        nothing = torch.zeros_like(ratio)
        certificate = verdict(ratio, stderr, nothing, nothing, free.any(1))
        return _Found(scales, certificate, nothing, 0)

    def feasible(self, scales: Tensor) -> Tensor:
        """Shrink or grow scales until the constraint is met to a factor.

        The closed form knows the layer at the sample itself only: it may say nothing of a unit that noise awakens.
        """
        for _ in range(ATTEMPTS):
            deviations = self.feature.deviations(self.sigma(scales), self.effort * 8)
            ratio = deviations.mean(0) / self.target
            over, under = ratio > FAR, (ratio < 1 / FAR) & self.free(scales).any(1)
            if not bool((over | under).any()):
                break
            # Units at the cap take part in shrinking.
            bounded = torch.where(over[:, None], scales.clamp(max=self.cap), scales)
            moved = rescaled(bounded, deviations, self.target)
            scales = torch.where((over | under)[:, None], moved, scales)
        return scales

    def gauss_newton(self, scales: Tensor) -> Tensor:
        """Gauss-Newton: ``sigma_i^2`` inverse to ``E||J_i(x + sigma*delta)||^2`` at the sigma given.

        What that sigma disturbs in truth, over what those norms say, tells how far to go at the new one.
        """
        sigma = self.sigma(scales)
        halves, deviations = self.feature.column_norms(sigma, self.effort * ROUND_NOISES, ROUND_PROBES)
        norms = self._smoothed(halves) * self.counted
        foretold = (sigma.square() * norms).sum(1)
        return self.feasible(rescaled(allocate(norms, self.target, self.tie, self.cap), deviations, foretold))

    def _smoothed(self, norms: Halves) -> Tensor:
        """Squared column norms, denoised in their logarithms with the help of those at x."""
        first, second, at_rest = map(_logarithms, (norms.first, norms.second, self.start.column_norms))
        level = (first + second).mean(1, keepdim=True) / 2
        at_rest = at_rest - at_rest.mean(1, keepdim=True)
        return (wiener_with(first - level, second - level, at_rest, self.shape) + level).exp()

    def ascend(self, scales: Tensor) -> _Found:
        """Follow the true gradient while it promises a gain, then certify where that led with fresh noise."""
        control = control_of(self.feature, self.sigma(scales))
        noises = self.effort * (PASS_NOISES if control is None else CONTROLLED_NOISES)
        correction = torch.zeros_like(scales)
        evidence = [torch.zeros_like(self.sigma(scales)) for _ in range(2)]
        gains: list[float] = []
        updates = 0
        for updates in range(UPDATES):
            fresh, free = measure(self.feature, self.sigma(scales), noises, control), self.free(scales)
            gains.append(float(self._promised(fresh, free)))
            if sum(gains[-RECENT:]) / len(gains[-RECENT:]) < PASS_GAIN:
                break
            damping = 1.0 if updates < FIRST_STEPS else DAMPING
            weight = max(2 / (updates + 2), FORGETTING)
            relative = relative_gradient(fresh.halves, free)
            for kept, half in zip(evidence, (relative.first, relative.second), strict=True):
                # Where the optimum lies, seen from the Gauss-Newton round.
                kept += weight * (self.tie.expand(correction) - damping * half / 2 - kept)
            step = (self._denoised(*evidence) - correction).clamp(-MOST_STEP, MOST_STEP)
            exponent = self._exponent(fresh, free)
            scales = rescaled(scales * step.exp(), fresh.deviations, self.target, exponent)
            correction = correction + step
        return self._certified(scales, control, noises, updates)

    def _promised(self, fresh: Measured, free: Tensor) -> Tensor:
        """Gain in nats that is left, to second order, on average over the samples."""
        power, _ = power_of(fresh, free)
        return power.mean() / 4

    def _certified(self, scales: Tensor, control: Control | None, noises: int, updates: int) -> _Found:
        """Measure scales with fresh noise until the certificate knows enough, and meet the constraint exactly."""
        passes: list[Measured] = []
        adjusted = 0
        while len(passes) < PASSES - UPDATES:
            passes.append(measure(self.feature, self.sigma(scales), noises, control))
            found, free = join(passes), self.free(scales)
            ratio, stderr = mean_and_stderr(found.deviations / self.target)
            off = (ratio - 1).abs()[free.any(1)] - 2 * stderr[free.any(1)]
            if bool((off > NEARLY_MET).any()) and adjusted < ADJUSTMENTS:
                scales = rescaled(scales, found.deviations, self.target, self._exponent(found, free))
                passes, adjusted = [], adjusted + 1
            elif gap_stderr(found, free) <= GAP_STDERR:
                break
        found, free = join(passes), self.free(scales)
        exponent = self._exponent(found, free)
        deviations = refine(self.feature, self.sigma(scales), found.deviations, self.effort, control=control)
        ratio, stderr = mean_and_stderr(deviations / self.target)
        if bool(((ratio - 1).abs() - 2 * stderr > KNOWN_OFF)[free.any(1)].any()):
            # All scales of a sample change by a few per cent, which leaves the relative gradient as it is.
            scales = rescaled(scales, deviations, self.target, exponent)
            fresh = self.feature.deviations(self.sigma(scales), LEAST_RATIO_NOISES)
            deviations, free = refine(self.feature, self.sigma(scales), fresh, self.effort), self.free(scales)
        sigma = self.sigma(scales)
        wide = torch.where(free, 2 * sigma, sigma)
        growth = self.feature.deviations(wide, self.effort * GROWTH_NOISES).mean(0) / self.target
        certificate = judge(Measured(found.quarters, deviations), self.target, free)
        certificate = certificate.without((growth > MOST_GROWTH) & free.any(1))
        logger.debug("%d steps, %d passes of the certificate, control: %s", updates, len(passes), control is not None)
        _, stderr = mean_and_stderr(deviations / self.target)
        met = rescaled(scales, deviations, self.target, exponent)
        return _Found(torch.where(free.any(1)[:, None], met, scales), certificate, stderr / exponent, 1 + updates)

    def _exponent(self, found: Measured, free: Tensor) -> Tensor:
        """``d log L / d log t`` when the free units' scales grow by t: 2 where the layer is linear."""
        growth = (found.halves.mean * free).sum(1)
        return (growth / found.deviations.mean(0).clamp(min=torch.finfo(growth.dtype).tiny)).clamp(0.5, 3.0)

    def _denoised(self, first: Tensor, second: Tensor) -> Tensor:
        """Denoised mean of two independent maps (S, n), per group, (S, groups)."""
        return (self.tie.sum(wiener(first, second, self.shape)) / self.tie.size).clamp(-2.0, 2.0)


def _logarithms(norms: Tensor) -> Tensor:
    """Logarithms of squared norms (S, n); what is unseen counts as a millionth of the mean."""
    least = (norms.mean(1, keepdim=True) * 1e-6).clamp(min=torch.finfo(norms.dtype).tiny)
    return torch.maximum(norms, least).log()
