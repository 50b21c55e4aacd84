"""Reconstruction uncertainty: how uncertain the input is when it is recovered from a layer's feature under noise.

Maximise ``sum_i 0.5 log E(mu_i - xhat_i)^2`` with ``xhat = g(h(x + sigma*delta))`` subject to the feature constraint of
the strict information discarding, ``E||h(x + sigma*delta) - f||^2 = alpha D`` (the paper's Eq. 8 to 11).

Where network and decoder are linear the objective is concave in ``s = sigma^2``. The optimum lies far from the closed
form of the discarding: scales differ by orders of magnitude, for noise pays only where it is recovered. Stochastic
gradient ascent on ``log sigma``, with Adam's equal steps for all units, gets there in few passes of few noises if it
begins with great steps and ends with small ones; updates from squared column norms, as for the discarding, do not: they
leave out that noise switches units off, and that is most of what deep layers have to gain.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .certificate import (
    CALIBRATION,
    ERRORS,
    Certificate,
    constraint_met,
    mean_and_stderr,
    noise_free_power,
    refine,
    rescaled,
)
from .linearisation import Linearisation
from .noise import ENTROPY, Tie, allocate, capped
from .probe import Halves
from .reconstruction import Moments, Reconstruction
from .sid import MANY_UNITS

#: Noises of the ascent in all, those of a step (more where units are few), and by how much a scale first grows a step.
ASCENT_NOISES, STEP_NOISES, RATE = 400, 4, 0.2
#: Part of the excess of the constraint, and of the multiplier's error, that a first step takes back.
FOLLOWED = 0.25
#: The multiplier is no further from that of a layer whose errors are all noise than this, in logarithms.
MOST_LOG_MULTIPLIER = 5.0
#: Noises that the constraint is met with at first, of the values, and of the certificate's gradients.
SCALE_NOISES, VALUE_NOISES, GRADIENT_NOISES = 32, 128, 32
#: Relative standard error with which the constraint is met in the end: noise of the feature alone costs little here.
RATIO_STDERR = 0.01


@dataclass(frozen=True)
class RuSolution:
    """Uncertainties of a block of cells and what is known about them.

    Attributes
    ----------
    sigma
        Noise scales, (S, n), standardised.
    entropy
        Pixel-level RU ``H_i = 0.5 log E(mu_i - xhat_i)^2 + 0.5 log(2 pi e)`` in nats, (S, n).
    certificate
        Of the constraint and of the optimality, measured with fresh noise.
    stderr
        Monte-Carlo standard error of the mean entropy, nats, (S,).
    capped
        Share of units at the cap, (S,).
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


def solve_ru(reconstruction: Reconstruction, start: Linearisation, target: Tensor, tie: Tie, cap: float) -> RuSolution:
    """Solve one layer on a block of samples.

    Parameters
    ----------
    reconstruction
        The layer's decoder around S samples.
    start
        The layer's linearisation there.
    target
        ``alpha D``, (S,).
    tie, cap
        Tied groups, and ``sigma_max`` in standardised units.
    """
    problem = Problem(reconstruction, target, tie, cap)
    noises = min(STEP_NOISES, reconstruction.feature.chunk)
    steps = ASCENT_NOISES // noises
    scales = allocate(start.column_norms, target, tie, cap)
    scales = problem.ascend(scales, steps=steps, noises=problem.effort * noises, rate=RATE)
    return problem.measured(problem.meet(scales), start, steps)


@dataclass(frozen=True)
class Problem:
    """One layer's maximisation; ``scales`` are uncapped, per group, (S, groups)."""

    reconstruction: Reconstruction
    target: Tensor
    tie: Tie
    cap: float

    @property
    def effort(self) -> int:
        """How many times as much is done where units are few: it costs little, and fewer errors average out."""
        return min(8, max(1, MANY_UNITS // (self.tie.units * self.reconstruction.feature.samples)))

    def sigma(self, scales: Tensor) -> Tensor:
        """Noise scale of every unit, (S, n)."""
        return capped(scales, self.tie, self.cap)

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
            Steps, and fresh noises of each.
        rate
            Adam's learning rate at the start; it falls to zero as a cosine.
        """
        most = math.log(self.cap)
        logs = scales.log().clamp(max=most).requires_grad_(True)
        optimizer = torch.optim.Adam([logs], lr=rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        linear = torch.full_like(self.target, 2 / self.tie.units).log()
        multiplier = linear.clone()
        for _ in range(steps):
            optimizer.zero_grad()
            deviation, power = self.reconstruction.differentiable(self.sigma(logs.exp()), noises)
            ratio = deviation / self.target.clamp(min=torch.finfo(self.target.dtype).tiny)
            (ratio - multiplier.exp() / 2 * power.log().sum(1)).sum().backward()  # type: ignore[no-untyped-call]
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

    def meet(self, scales: Tensor) -> Tensor:
        """Meet the constraint with as much noise as that takes."""
        feature = self.reconstruction.feature
        for _ in range(2):
            scales = rescaled(scales, feature.deviations(self.sigma(scales), SCALE_NOISES), self.target)
        sigma = self.sigma(scales)
        deviations = refine(feature, sigma, feature.deviations(sigma, SCALE_NOISES), self.effort, RATIO_STDERR)
        return rescaled(scales, deviations, self.target)

    def measured(self, scales: Tensor, start: Linearisation, iterations: int) -> RuSolution:
        """Values and certificate with fresh noise."""
        sigma = self.sigma(scales)
        free = self.tie.expand(scales) < self.cap
        moments = self.reconstruction.moments(sigma, self.effort * VALUE_NOISES)
        entropy = moments.log_power() / 2 + ENTROPY
        ratio, ratio_stderr = mean_and_stderr(moments.deviations / self.target)
        parts: list[Tensor] = []
        gains, exponents = [], []
        for _ in range(2):
            cost, gain, deviations = self.reconstruction.gradients(sigma, GRADIENT_NOISES // 2, 1 / moments.power)
            exponents.append((cost.mean * free).sum(1) / deviations.mean(0))
            excess = relative_excess(cost, gain, free)
            parts += [excess.first, excess.second]
            gains.append((gain.mean * free).sum(1) / self.tie.units)
        # What the mean entropy gains when all scales grow alike: 1 where nothing but noise makes the errors.
        growth = torch.stack(gains).mean(0).clamp(0.0, 1.0)
        power, power_stderr = (growth * each / 4 for each in noise_free_power(torch.stack(parts), free))
        saturated, unknown = ~free.any(1), torch.full_like(growth, torch.nan)
        certificate = Certificate(
            ratio=ratio,
            ratio_stderr=ratio_stderr,
            gap=torch.where(saturated, 0.0, CALIBRATION * power.clamp(min=0) + ERRORS * power_stderr),
            gain=unknown,
            gain_stderr=unknown,
            exponent=torch.stack(exponents).mean(0),
            saturated=saturated,
            met=constraint_met(ratio, ratio_stderr, saturated),
        )
        return RuSolution(
            sigma=sigma,
            entropy=entropy,
            certificate=certificate,
            stderr=_value_stderr(moments, ratio_stderr, self.reconstruction.center),
            capped=(sigma >= self.cap).float().mean(1),
            probes=start.probes + self.reconstruction.feature.spent,
            iterations=iterations,
        )


def relative_excess(cost: Halves, gain: Halves, free: Tensor) -> Halves:
    """``(p_j - lambda q_j) / (lambda mean q)``: how much more the objective gains at a unit than the constraint pays.

    Zero at the optimum, where the gradients p of the objective and q of the constraint are proportional on the units
    below the cap.

    Parameters
    ----------
    cost, gain
        q and p, as derivatives with respect to ``log sigma``, (S, n).
    free
        Units below the cap, (S, n) bool.
    """
    count = free.sum(1, keepdim=True).clamp(min=1)

    def mean(values: Tensor) -> Tensor:
        found = (values * free).sum(1, keepdim=True) / count
        return torch.where(found > 0, found, torch.ones_like(found))

    paid, gained = mean(cost.mean), mean(gain.mean)
    halves = ((gain.first / gained - cost.first / paid), (gain.second / gained - cost.second / paid))
    return Halves(*(torch.where(free, half, 0.0) for half in halves))


def _value_stderr(moments: Moments, ratio_stderr: Tensor, center: str) -> Tensor:
    """Standard error of the mean entropy: of the squared errors, and of how well the constraint is met."""
    parts = moments.parts.clamp(min=moments.parts.new_tensor(1e-12)).log().mean(2) / 2
    _, error = mean_and_stderr(parts)
    # Where errors are counted from the reconstruction they grow with the noise, else by less.
    return (error.square() + (ratio_stderr / 2).square()).sqrt() if center == "reconstruction" else error
