"""Reconstruction uncertainty: how uncertain the input is when it is recovered from a layer's feature under noise.

Maximize ``sum_i 0.5 log E(mu_i - xhat_i)^2`` with ``xhat = g(h(x + sigma*delta))`` subject to the feature constraint of
the strict information discarding, ``E||h(x + sigma*delta) - f||^2 = alpha D`` (the paper's Eq. 8 to 11).

Where network and decoder are linear the objective is concave in ``s = sigma^2``. The optimum lies far from the closed
form of the discarding: scales differ by orders of magnitude, for noise pays only where it is recovered. Stochastic
gradient ascent on ``log sigma``, with Adam's equal steps for all units, gets there in few steps if it begins with great
steps and ends with small ones.

Most of the budget is then spent on few units. The certificate weighs every unit's excess by its share of the budget:
that is how strongly the objective curves along it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .certificate import (
    ERRORS,
    GAP_STDERR,
    Certificate,
    constraint_met,
    mean_and_stderr,
    rescale_to_constraint,
    sample_until,
)
from .linearisation import Linearisation
from .noise import ENTROPY, Tie, clip_sigma, waterfill
from .reconstruction import LEAST_POWER, Moments, Reconstruction
from .ru_certificate import Slopes, slopes_of
from .sid import MANY_UNITS

#: Steps of the ascent, noise samples of each (more where units are few), and by how much a scale first grows a step.
STEPS, STEP_NOISES, RATE = 100, 4, 0.2
#: Part of the excess of the constraint, and of the multiplier's error, that a first step takes back.
FOLLOWED = 0.25
#: The multiplier is no further from that of a layer whose errors are all noise than this, in logarithms.
MOST_LOG_MULTIPLIER = 5.0
#: Noise samples that the constraint is met with at first, of the values, and of each of the certificate's passes.
SCALE_NOISES, VALUE_NOISES, GRADIENT_NOISES = 32, 64, 16
#: What the gap's estimate is multiplied by: decoders mix units, so that the objective curves less than units of their
#: own would make it. Calibrated on linear layers with a known optimum (docs/method.md).
CALIBRATION = 10.0
#: What the gain is multiplied by that comes of waking units which the ascent switched off, and nats that the bound is
#: at least: units that are nearly switched off are worth some thousandths, and no gradient tells.
WAKING, LEAST_GAP = 3.0, 0.005
#: Passes of the certificate: at least, and at most where the gap is not known well enough.
LEAST_PASSES, MOST_PASSES = 3, 6
#: A constraint that is off by more than this beyond twice its standard error is met and measured again, so many times.
KNOWN_OFF, ADJUSTMENTS = 0.01, 2


@dataclass(frozen=True)
class RuSolution:
    """Uncertainties of a block of cells and what is known about them.

    Attributes
    ----------
    sigma
        Noise scales, (S, n), standardized; NaN where a unit does not count.
    entropy
        Pixel-level RU ``H_i = 0.5 log E(mu_i - xhat_i)^2 + 0.5 log(2 pi e)`` in nats, (S, n); NaN there, too.
    certificate
        Of the constraint and of the optimality, measured with fresh noise.
    stderr
        Monte-Carlo standard error of the mean entropy, nats, (S,).
    capped
        Share of the units that count which are at the cap, (S,).
    probes, iterations
        Vector-Jacobian products per sample, and updates of sigma.
    """

    sigma: Tensor
    entropy: Tensor
    certificate: Certificate
    stderr: Tensor
    capped: Tensor
    probes: int
    iterations: int


def solve_ru(problem: Problem) -> RuSolution:
    """The RU of one layer on a block of samples."""
    noises = min(STEP_NOISES, problem.reconstruction.feature.batch_size)
    steps = STEPS * STEP_NOISES // noises
    scales = problem.allocated(problem.start.column_norms)
    scales = problem.ascend(scales, steps=steps, noises=problem.effort * noises, rate=RATE)
    return problem.measured(problem.enforce_constraint(scales), steps)


@dataclass(frozen=True)
class Problem:
    """One layer's maximization; ``scales`` are uncapped, per group, (S, groups).

    Attributes
    ----------
    reconstruction
        The layer's decoder around S samples.
    start
        The layer's linearization there.
    target
        ``alpha D``, (S,).
    tie, cap
        Tied groups, and ``sigma_max`` in standardized units.
    counted
        Units that count, (S, n) bool. The others get no noise and have no entropy.
    """

    reconstruction: Reconstruction
    start: Linearisation
    target: Tensor
    tie: Tie
    cap: float
    counted: Tensor

    @classmethod
    def of(
        cls,
        reconstruction: Reconstruction,
        start: Linearisation,
        target: Tensor,
        tie: Tie,
        cap: float,
        units: Tensor | None = None,
    ) -> Problem:
        """State the problem; ``units`` are those that count, or None for all."""
        counted = torch.ones_like(reconstruction.mu, dtype=torch.bool) if units is None else units
        return cls(reconstruction, start, target, tie.counting(counted), cap, counted)

    @property
    def units(self) -> Tensor:
        """Number n of units that count, (S,)."""
        return self.counted.sum(1)

    @property
    def effort(self) -> int:
        """How many times as much is done where units are few: it costs little, and fewer errors average out."""
        return min(8, max(1, MANY_UNITS // (self.tie.units * self.reconstruction.feature.samples)))

    def sigma(self, scales: Tensor) -> Tensor:
        """Noise scale of every unit, (S, n)."""
        return clip_sigma(scales, self.tie, self.cap) * self.counted

    def free(self, scales: Tensor) -> Tensor:
        """Groups below the cap of which some unit counts, (S, groups) bool."""
        return (scales < self.cap) & (self.tie.sum(self.counted.to(scales)) > 0)

    def allocated(self, column_norms: Tensor) -> Tensor:
        """The closed form of the information discarding, (S, groups)."""
        return waterfill(column_norms * self.counted, self.target, self.tie, self.cap)

    def ascend(self, scales: Tensor, *, steps: int, noises: int, rate: float) -> Tensor:
        """Follow the stochastic gradient of the paper's loss (Eq. 11) in ``log sigma``.

        ``Loss = E||h(x + sigma*delta) - f||^2 / (alpha D) - (lambda / 2) sum_i log E(mu_i - xhat_i)^2``. On the way
        lambda is set so that the loss neither gains nor loses when all scales grow alike, and all scales follow the
        measured constraint.

        Parameters
        ----------
        scales
            Where to start.
        steps, noises
            Number of steps, and of fresh noise samples per step.
        rate
            Adam's learning rate at the start; it falls to zero as a cosine.
        """
        most = math.log(self.cap)
        logs = scales.log().clamp(max=most).requires_grad_(True)
        optimizer = torch.optim.Adam([logs], lr=rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        linear = (2 / self.units.to(self.target)).log()
        multiplier = linear.clone()
        for _ in range(steps):
            optimizer.zero_grad()
            deviation, power = self.reconstruction.differentiable(self.sigma(logs.exp()), noises)
            ratio = deviation / self.target.clamp(min=torch.finfo(self.target.dtype).tiny)
            (ratio - multiplier.exp() / 2 * (power.log() * self.counted).sum(1)).sum().backward()  # type: ignore[no-untyped-call]
            assert logs.grad is not None
            excess = (ratio.detach() - 1).clamp(-1, 1)
            # Grown alike, the scales make the deviation grow by their square; the rest is what the errors gain.
            gained = (2 * ratio.detach() - logs.grad.sum(1)).clamp(min=1e-3)
            step = FOLLOWED * schedule.get_last_lr()[0] / rate
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                multiplier += step * (math.log(2) - gained.log()).clamp(-1, 1)
                multiplier.clamp_(linear - MOST_LOG_MULTIPLIER, linear + MOST_LOG_MULTIPLIER)
                # Beyond the cap no gradient leads back.
                logs.sub_(step / 2 * excess[:, None]).clamp_(max=most)
        logs = logs.detach()
        # What ends at the cap stays there while the others are rescaled.
        return torch.where(logs >= most, torch.inf, logs.exp())

    def enforce_constraint(self, scales: Tensor) -> Tensor:
        """Meet the constraint roughly."""
        for _ in range(2):
            deviations = self.reconstruction.feature.deviations(self.sigma(scales), self.effort * SCALE_NOISES)
            scales = rescale_to_constraint(scales, deviations, self.target)
        return scales

    def measured(self, scales: Tensor, iterations: int) -> RuSolution:
        """Values and certificate with fresh noise, and scales at the met constraint."""
        free, sigma = self.free(scales), self.sigma(scales)
        moments, woken = self.moments(sigma, self.woken(scales))
        slopes, shortfall, error = self.slopes(sigma, free, moments.power)
        exponent = slopes.exponent(free)
        found = torch.cat([moments.deviations, slopes.deviations])
        near, deviations = self.adjusted(scales, found, exponent)
        ratio, ratio_stderr = mean_and_stderr(deviations / self.target)
        saturated, unknown = ~free.any(1), torch.full_like(ratio, torch.nan)
        final = torch.where(saturated[:, None], scales, rescale_to_constraint(near, deviations, self.target, exponent))
        growth = torch.where(saturated, 0.0, slopes.growth(free, self.units))
        waking = _gain(moments, woken, growth / exponent, self.counted)
        gap = torch.maximum(CALIBRATION * shortfall.clamp(min=0) + ERRORS * error, WAKING * waking) + LEAST_GAP
        certificate = Certificate(
            ratio=ratio,
            ratio_stderr=ratio_stderr,
            gap=torch.where(saturated, 0.0, gap),
            gain=unknown,
            gain_stderr=unknown,
            exponent=exponent,
            saturated=saturated,
            met=constraint_met(ratio, ratio_stderr, saturated),
        )
        # All free scales changed by one factor since the errors were measured.
        factor = torch.where(free, final / scales, 0.0).amax(1).clamp(min=torch.finfo(ratio.dtype).tiny)
        entropy = moments.log_power() / 2 + ENTROPY + torch.where(saturated, 0.0, growth * factor.log())[:, None]
        sigma = self.sigma(final)
        return RuSolution(
            sigma=torch.where(self.counted, sigma, torch.nan),
            entropy=torch.where(self.counted, entropy, torch.nan),
            certificate=certificate,
            stderr=_value_stderr(moments, growth * ratio_stderr / exponent, self.counted),
            capped=((sigma >= self.cap) & self.counted).sum(1) / self.units,
            probes=self.start.probes + self.reconstruction.feature.n_vjps,
            iterations=iterations,
        )

    def woken(self, scales: Tensor) -> Tensor:
        """Noise scales (S, n) of which half of the power is the closed form's, where no unit is switched off."""
        even = self.allocated(self.start.column_norms)
        return self.sigma(((scales.square() + even.square()) / 2).sqrt())

    def moments(self, sigma: Tensor, other: Tensor) -> tuple[Moments, Moments]:
        """Moments of two noise scales (S, n) with the same fresh noise."""
        noise = self.reconstruction.feature.noise
        state = noise.get_state()
        found = self.reconstruction.moments(sigma, self.effort * VALUE_NOISES)
        noise.set_state(state)
        return found, self.reconstruction.moments(other, self.effort * VALUE_NOISES)

    def slopes(self, sigma: Tensor, free: Tensor, power: Tensor) -> tuple[Slopes, Tensor, Tensor]:
        """Gradients on fresh noise until the gap is known well enough.

        Parameters
        ----------
        sigma, free
            Noise scales, (S, n), and groups below the cap, (S, groups) bool.
        power
            Squared errors, (S, n).

        Returns
        -------
        tuple
            Gradients, shortfall of the mean entropy in nats, (S,), and its standard error, (S,).
        """
        spent = self.tie.sum(sigma.square() * self.start.column_norms)
        passes: list[Slopes] = []
        while True:
            cost, gain, deviations = self.reconstruction.gradients(
                sigma, self.effort * GRADIENT_NOISES, self.counted / power
            )
            passes.append(slopes_of((cost.first, cost.second), (gain.first, gain.second), deviations, self.tie))
            if len(passes) >= LEAST_PASSES:
                slopes = Slopes.merge(passes)
                shortfall, error = slopes.shortfall(free, spent, self.units)
                if len(passes) >= MOST_PASSES or float(error.nanmean().nan_to_num(0.0)) <= GAP_STDERR:
                    return slopes, shortfall, error

    def adjusted(self, scales: Tensor, deviations: Tensor, exponent: Tensor) -> tuple[Tensor, Tensor]:
        """Scales of which the constraint is not known to be off, and their deviations (noises, S).

        Noise of the feature alone costs little here. All free scales of a sample change by a few per cent, which leaves
        the relative gradients as they are.
        """
        feature, free = self.reconstruction.feature, self.free(scales).any(1)
        for attempt in range(ADJUSTMENTS + 1):
            deviations = sample_until(feature, self.sigma(scales), deviations, self.effort)
            ratio, stderr = mean_and_stderr(deviations / self.target)
            if attempt == ADJUSTMENTS or not bool((((ratio - 1).abs() - 2 * stderr > KNOWN_OFF) & free).any()):
                break
            scales = torch.where(
                free[:, None], rescale_to_constraint(scales, deviations, self.target, exponent), scales
            )
            deviations = feature.deviations(self.sigma(scales), self.effort * SCALE_NOISES)
        return scales, deviations


def _gain(before: Moments, after: Moments, slope: Tensor, counted: Tensor) -> Tensor:
    """What the mean entropy gains at the met constraint, as a lower bound of one standard error, nats, (S,).

    Parameters
    ----------
    before, after
        Of the same noise.
    slope
        What the mean entropy changes by when the logarithm of the deviation does by one, (S,).
    counted
        Units that count, (S, n) bool.
    """
    logs = [_mean_entropies(moments, counted) for moments in (before, after)]
    gained, error = mean_and_stderr(logs[1] - logs[0])
    tiny = torch.finfo(gained.dtype).tiny
    spent = after.deviations.mean(0).clamp(min=tiny).log() - before.deviations.mean(0).clamp(min=tiny).log()
    return (gained - error - slope * spent).clamp(min=0)


def _value_stderr(moments: Moments, scale: Tensor, counted: Tensor) -> Tensor:
    """Standard error of the mean entropy: of the squared errors, and of how well the constraint is met."""
    _, error = mean_and_stderr(_mean_entropies(moments, counted))
    return (error.square() + scale.square()).sqrt()


def _mean_entropies(moments: Moments, counted: Tensor) -> Tensor:
    """Mean of ``0.5 log E(mu_i - xhat_i)^2`` over the units that count, from each part of the noise, (PARTS, S)."""
    return (moments.parts.clamp(min=LEAST_POWER).log() * counted).sum(2) / counted.sum(1) / 2
