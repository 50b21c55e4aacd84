"""Reconstruction uncertainty: how uncertain the input is if it is reconstructed from a layer's feature under noise.

Maximize ``sum_i 0.5 log E(mu_i - xhat_i)^2`` with ``xhat = g(h(x + sigma*delta))`` subject to the feature constraint of
SID, ``E||h(x + sigma*delta) - f||^2 = alpha D`` (the paper's Eq. 8 to 11).

If network and decoder are linear, the objective is concave in ``s = sigma^2``. The optimum is far from the closed form
of SID: scales differ by orders of magnitude, since noise pays only on units that are reconstructed. Stochastic gradient
ascent on ``log sigma`` gets there in few steps: Adam's steps are equal for all units, and decay from large to small.

Most of the budget then goes to few units. The certificate weights every unit's excess by its share of the budget,
because the objective's curvature along a unit is proportional to that share.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from .certificate import (
    ERRORS,
    GAP_TOLERANCE,
    MOST_EXPLAINED_GROWTH,
    Certificate,
    constraint_met,
    finite,
    mean_and_stderr,
    rescale_to_constraint,
    sample_until,
)
from .descent import Descent
from .growth import deviation_at
from .linearization import Linearization
from .noise import ENTROPY, Tie, clip_sigma, waterfill
from .problem import MANY_UNITS
from .reconstruction import LEAST_POWER, Moments, Reconstruction
from .ru_certificate import Slopes, slopes_of


class Ascent(NamedTuple):
    """How a sample's scales are optimized.

    Attributes
    ----------
    steps, draws
        Number of steps, and of noise samples per step (more if there are few units).
    rate
        Initial change of log sigma per step.
    decays
        Adam's decay rates of the mean gradient and of its square.
    again
        Maximum number of further ascents of samples that are nearly proven, each twice as long as the one before.
    """

    steps: int
    draws: int
    rate: float
    decays: tuple[float, float]
    again: int = 0


#: Ascents by error reference. If the decoder's own error is part of every unit's error, the gain depends less on the
#: choice of the few units that take most of the budget, and a shorter ascent reaches the same values. Without it, the
#: certificate must not be asked repeatedly: a cell that lacks 0.09 nats was proven by the fourth (docs/method.md).
ASCENTS = {"input": Ascent(60, 4, 0.3, (0.8, 0.99), 2), "reconstruction": Ascent(100, 4, 0.2, (0.9, 0.999))}
#: Adam's decay of the mean gradient and of its square, unless an ascent sets others.
DECAYS = (0.9, 0.999)
#: Fraction of the constraint's excess, and of the multiplier's error, that the first step corrects.
FOLLOWED = 0.25
#: Maximum distance of the log multiplier from that of a layer whose errors are all noise.
MOST_LOG_MULTIPLIER = 5.0
#: Noise samples for the first rescaling to the constraint, for the values, and for each pass of the certificate.
SCALE_NOISES, VALUE_NOISES, GRADIENT_NOISES = 32, 64, 16
#: Factor on the estimated gap: decoders mix units, so that the objective curves less than independent units would
#: imply. Calibrated on linear layers with a known optimum (docs/method.md).
CALIBRATION = 10.0
#: Factor on the gain from reactivating units that the ascent switched off; and lower limit of the bound, in nats, since
#: units that are nearly switched off contribute some thousandths that no gradient shows.
WAKING, LEAST_GAP = 3.0, 0.0075
#: Power of the units' gains with which they are reactivated. With the first power, those that are worth most get too
#: little, and scales that wild steps left below the optimum seemed to gain nothing (docs/method.md).
WORTH_POWER = 4
#: Noise samples for the gains of units that may be off; lower limit of a unit's squared column norm there, relative to
#: the mean.
WAKING_NOISES, LEAST_NORM = 8, 1e-6
#: Number of passes of the certificate for all samples; and maximum for those whose verdict the error leaves open.
LEAST_PASSES, MOST_PASSES = 3, 9
#: Excess of the constraint, beyond twice its standard error, that triggers a correction; maximum number of corrections.
KNOWN_OFF, ADJUSTMENTS = 0.01, 2
#: Factors on the noise of samples whose units are all at the cap, to see whether the errors grow with less.
LESS_NOISE = (0.5, 0.2, 0.05)
#: Factor on the maximum number of noise samples for samples whose constraint is not certified to be met: scales are
#: larger and less even than those of SID, so that deviations vary more.
RATIO_EFFORT = 4


@dataclass(frozen=True)
class RuSolution:
    """Uncertainties of a block of cells, with their certificate.

    Attributes
    ----------
    sigma
        Noise scales, (S, n), standardized; NaN at excluded units.
    entropy
        Pixel-level RU ``H_i = 0.5 log E(mu_i - xhat_i)^2 + 0.5 log(2 pi e)`` in nats, (S, n); NaN at excluded units.
    certificate
        Certificate of constraint and optimality, measured with fresh noise.
    stderr
        Monte Carlo standard error of the mean entropy, nats, (S,).
    capped
        Fraction of the counted units at the cap, (S,).
    probes, iterations
        Numbers of vector-Jacobian products and of updates of sigma, (S,).
    """

    sigma: Tensor
    entropy: Tensor
    certificate: Certificate
    stderr: Tensor
    capped: Tensor
    probes: Tensor
    iterations: Tensor

    def improved(self, index: Tensor, part: RuSolution) -> RuSolution:
        """Solution with another one of some samples where that is better: proven, or higher if both or none are proven.

        Parameters
        ----------
        index
            Positions of these samples.
        part
            Their other solution.
        """
        before, now = self.certificate.at(index), part.certificate
        higher = part.entropy.nanmean(1) >= self.entropy[index].nanmean(1)
        better = torch.where(before.converged ^ now.converged, now.converged, higher & now.met)
        taken = index[better]

        def put(kept: Tensor, new: Tensor) -> Tensor:
            return kept.index_copy(0, taken, new[better])

        return RuSolution(
            sigma=put(self.sigma, part.sigma),
            entropy=put(self.entropy, part.entropy),
            certificate=self.certificate.replaced(taken, now.at(better)),
            stderr=put(self.stderr, part.stderr),
            capped=put(self.capped, part.capped),
            probes=self.probes.index_add(0, index.cpu(), part.probes),
            iterations=self.iterations.index_add(0, index.cpu(), part.iterations),
        )


def solve_ru(problem: Problem) -> RuSolution:
    """Solve the RU of one layer on a block of samples.

    Samples that are nearly proven get further ascents, from where a gain was seen, and keep the better result.
    """
    found, reached = _ascended(problem, problem.allocated(problem.start.column_norms), 1)
    for number in range(1, 1 + ASCENTS[problem.reconstruction.error_reference].again):
        again = found.certificate.nearly_proven.nonzero().flatten()
        if not len(again):
            break
        rest = problem.at(again)
        # The products of the linearization are counted once.
        rest = replace(rest, start=replace(rest.start, probes=0))
        part, more = _ascended(rest, reached[again], 2**number)
        found, reached = found.improved(again, part), reached.index_copy(0, again, more)
    return found


def _ascended(problem: Problem, scales: Tensor, length: int) -> tuple[RuSolution, Tensor]:
    """One ascent from scales (S, groups): its certified result, and scales from which another one may gain more.

    `length` is a factor on the number of steps.
    """
    ascent = ASCENTS[problem.reconstruction.error_reference]
    draws = min(ascent.draws, problem.reconstruction.feature.batch_size)
    steps = length * ascent.steps * ascent.draws // draws
    scales = problem.ascend(scales, steps=steps, draws=problem.effort * draws, rate=ascent.rate, decays=ascent.decays)
    return problem.certified(problem.enforce_constraint(scales), steps)


@dataclass(frozen=True)
class Problem:
    """RU of one layer as an optimization problem; ``scales`` are uncapped, per group, (S, groups).

    Attributes
    ----------
    reconstruction
        The layer's decoder around S samples.
    start
        The layer's linearization at these samples.
    target
        ``alpha D``, (S,).
    tie, cap
        Groups of units that share sigma, and ``sigma_max`` in standardized units.
    counted
        Counted units, (S, n) bool. The others get no noise and have no entropy.
    """

    reconstruction: Reconstruction
    start: Linearization
    target: Tensor
    tie: Tie
    cap: float
    counted: Tensor

    @classmethod
    def of(
        cls,
        reconstruction: Reconstruction,
        start: Linearization,
        target: Tensor,
        tie: Tie,
        cap: float,
        units: Tensor | None = None,
    ) -> Problem:
        """State the problem; ``units`` are the counted units, None for all."""
        counted = torch.ones_like(reconstruction.mu, dtype=torch.bool) if units is None else units
        return cls(reconstruction, start, target, tie.counting(counted), cap, counted)

    def at(self, index: Tensor) -> Problem:
        """The problem for a subset of the samples."""
        reconstruction, start = self.reconstruction.at(index), self.start.at(index)
        return Problem(reconstruction, start, self.target[index], self.tie.at(index), self.cap, self.counted[index])

    @property
    def units(self) -> Tensor:
        """Number n of counted units, (S,)."""
        return self.counted.sum(1)

    @property
    def effort(self) -> int:
        """Factor on the effort if there are few units: it costs little, and fewer errors average out."""
        return min(8, max(1, MANY_UNITS // (self.tie.units * self.reconstruction.feature.samples)))

    def sigma(self, scales: Tensor) -> Tensor:
        """Noise scale of every unit, (S, n)."""
        return clip_sigma(scales, self.tie, self.cap) * self.counted

    def free(self, scales: Tensor) -> Tensor:
        """Groups not at the cap that contain a counted unit, (S, groups) bool; also those of unknown scale."""
        return ~(scales >= self.cap) & (self.tie.sum(self.counted.to(scales)) > 0)

    def allocated(self, column_norms: Tensor) -> Tensor:
        """The closed form of SID, (S, groups)."""
        return waterfill(column_norms * self.counted, self.target, self.tie, self.cap)

    def ascend(
        self, scales: Tensor, *, steps: int, draws: int, rate: float, decays: tuple[float, float] = DECAYS
    ) -> Tensor:
        """Follow the stochastic gradient of the paper's loss (Eq. 11) in ``log sigma``.

        ``Loss = E||h(x + sigma*delta) - f||^2 / (alpha D) - (lambda / 2) sum_i log E(mu_i - xhat_i)^2``. In each step,
        lambda is set so that the loss is stationary when all scales grow by the same factor, and all scales are
        rescaled by the measured constraint.

        Parameters
        ----------
        scales
            Initial scales.
        steps, draws
            Number of steps, and of fresh noise samples per step.
        rate
            Adam's initial learning rate; it falls to zero as a cosine.
        decays
            Adam's decay rates of the mean gradient and of its square.
        """
        most = math.log(self.cap)
        logs = scales.log().clamp(max=most).requires_grad_(True)
        optimizer = torch.optim.Adam([logs], lr=rate, betas=decays)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        linear = (2 / self.units.to(self.target)).log()
        multiplier = linear.clone()
        feature, descent = self.reconstruction.feature, Descent(logs, optimizer, schedule, multiplier)
        for _ in feature.journal.steps(steps, 1, descent, feature, scales):
            optimizer.zero_grad()
            deviation, power = self.reconstruction.differentiable(self.sigma(logs.exp()), draws)
            ratio = deviation / self.target.clamp(min=torch.finfo(self.target.dtype).tiny)
            (ratio - multiplier.exp() / 2 * (power.log() * self.counted).sum(1)).sum().backward()  # type: ignore[no-untyped-call]
            assert logs.grad is not None
            excess = (ratio.detach() - 1).clamp(-1, 1)
            # If all scales grow equally, the deviation grows with their square; the remainder is the gain of the
            # errors.
            gained = (2 * ratio.detach() - logs.grad.sum(1)).clamp(min=1e-3)
            step = FOLLOWED * schedule.get_last_lr()[0] / rate
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                multiplier += step * (math.log(2) - gained.log()).clamp(-1, 1)
                multiplier.clamp_(linear - MOST_LOG_MULTIPLIER, linear + MOST_LOG_MULTIPLIER)
                # Above the cap, no gradient leads back.
                logs.sub_(step / 2 * excess[:, None]).clamp_(max=most)
        logs = logs.detach()
        # Units that end at the cap stay there while the others are rescaled.
        return torch.where(logs >= most, torch.inf, logs.exp())

    def enforce_constraint(self, scales: Tensor) -> Tensor:
        """Rescale to meet the constraint approximately."""
        for _ in range(2):
            deviations = self.reconstruction.feature.deviations(self.sigma(scales), self.effort * SCALE_NOISES)
            scales = rescale_to_constraint(scales, deviations, self.target)
        return scales

    def measured(self, scales: Tensor, iterations: int) -> RuSolution:
        """Values and certificate from fresh noise, with the scales at the met constraint."""
        return self.certified(scales, iterations)[0]

    def certified(self, scales: Tensor, iterations: int) -> tuple[RuSolution, Tensor]:
        """Return the result of :meth:`measured`, and scales (S, groups) from which another ascent may gain more.

        Those are the final scales, or, where that was seen to gain, scales with units switched on again.
        """
        free = self.free(scales)
        awake, moments, woken = self.moments(scales)
        slopes, shortfall, error = self.slopes(self.sigma(scales), free, moments.power)
        exponent = slopes.exponent(free)
        found = torch.cat([moments.deviations, slopes.deviations])
        near, ratio, ratio_stderr = self.adjusted(scales, found, exponent)
        saturated, unknown = ~free.any(1), torch.full_like(ratio, torch.nan)
        met = rescale_to_constraint(near, (ratio * self.target)[None], self.target, exponent)
        # Beyond that growth, rare jumps make the constraint unknown.
        steady = saturated | (self.doubled_deviation(near) <= MOST_EXPLAINED_GROWTH)
        final = torch.where(saturated[:, None], scales, met)
        growth = torch.where(saturated, 0.0, slopes.growth(free, self.units))
        waking = _gain(moments, woken, growth / exponent, self.counted)
        gap = torch.maximum(_bound(shortfall, error), WAKING * waking + LEAST_GAP)
        gap = torch.where(saturated, WAKING * self.gain_below_cap(scales, saturated, moments, slopes), finite(gap))
        certificate = Certificate(
            ratio=finite(ratio),
            ratio_stderr=finite(ratio_stderr),
            gap=gap,
            gain=unknown,
            gain_stderr=unknown,
            exponent=exponent,
            saturated=saturated,
            met=constraint_met(ratio, ratio_stderr, saturated) & steady,
        )
        # Common factor by which the free scales have changed since the errors were measured.
        factor = torch.where(free, final / scales, 0.0).amax(1).clamp(min=torch.finfo(ratio.dtype).tiny)
        entropy = moments.log_power() / 2 + ENTROPY + torch.where(saturated, 0.0, growth * factor.log())[:, None]
        sigma = self.sigma(final)
        none = torch.zeros(len(sigma), dtype=torch.long)
        solution = RuSolution(
            sigma=torch.where(self.counted, sigma, torch.nan),
            entropy=torch.where(self.counted, entropy, torch.nan),
            certificate=certificate,
            stderr=_value_stderr(moments, growth * certificate.scale_stderr, self.counted),
            capped=((sigma >= self.cap) & self.counted).sum(1) / self.units,
            probes=none + self.start.probes + self.reconstruction.feature.n_vjps,
            iterations=none + iterations,
        )
        return solution, torch.where((waking > 0)[:, None], awake, final)

    def doubled_deviation(self, scales: Tensor) -> Tensor:
        """Deviation with the noise of all groups below the cap doubled, in units of ``alpha D``, (S,)."""
        sigma = self.sigma(scales)
        wide = torch.where(self.tie.expand(self.free(scales)), 2 * sigma, sigma)
        deviation = deviation_at(self.reconstruction.feature, wide, self.effort)
        return deviation / self.target.clamp(min=torch.finfo(sigma.dtype).tiny)

    def gain_below_cap(self, scales: Tensor, saturated: Tensor, moments: Moments, slopes: Slopes) -> Tensor:
        """What samples whose units are all at the cap surely gain with less noise, in nats, (S,); 0 at the others.

        Where a feature or a decoder saturates, errors may fall with the noise. That is seen by the gradient, half of
        which chooses the units that the other half judges, or by less noise of all units.
        """
        if not bool(saturated.any()):
            return torch.zeros_like(self.target)
        halves = [slopes.gain[i::2].mean(0) for i in range(2)]
        lost = torch.stack([-torch.where(a < 0, b, 0.0).sum(1) / self.units for a, b in (halves, halves[::-1])])
        gains = [lost.mean(0) - (lost[0] - lost[1]).abs()]
        at_cap = _mean_entropies(moments, self.counted)
        for factor in LESS_NOISE:
            less = self.reconstruction.moments(factor * self.sigma(scales), self.effort * VALUE_NOISES)
            here = _mean_entropies(less, self.counted)
            error = ((here.var(0) + at_cap.var(0)) / len(here)).sqrt()
            gains.append(here.mean(0) - at_cap.mean(0) - ERRORS * error)
        return torch.where(saturated, torch.stack(gains).amax(0).clamp(min=0), 0.0)

    def moments(self, scales: Tensor) -> tuple[Tensor, Moments, Moments]:
        """Return the scales of :meth:`woken`, and moments of the given ones and of these, with the same fresh noise."""
        noise = self.reconstruction.feature.noise
        state = noise.get_state()
        found = self.reconstruction.moments(self.sigma(scales), self.effort * VALUE_NOISES)
        woken = self.woken(scales, found.power)
        noise.set_state(state)
        return woken, found, self.reconstruction.moments(self.sigma(woken), self.effort * VALUE_NOISES)

    def woken(self, scales: Tensor, power: Tensor) -> Tensor:
        """Scales whose power is half these scales' and half an allocation in which no unit with an effect is off.

        The allocation is SID's closed form, in which all units spend equally, weighted by a power of what each unit
        would gain for its share of the budget: a unit that was wrongly switched off gains much more than the others.

        Parameters
        ----------
        scales
            Scales per group, (S, groups).
        power
            Squared errors at these scales, (S, n).
        """
        norms = self.tie.sum(self.start.column_norms * self.counted)
        gains = self.reconstruction.gain_norms(
            self.sigma(scales), self.effort * WAKING_NOISES, (self.counted / power).sqrt()
        )
        worth = self.tie.sum(gains * self.counted) / torch.maximum(norms, LEAST_NORM * norms.mean(1, keepdim=True))
        tiny = torch.finfo(worth.dtype).tiny
        weights = (worth / worth.amax(1, keepdim=True).clamp(min=tiny)) ** WORTH_POWER
        squares = weights * self.allocated(self.start.column_norms).clamp(max=self.cap).square()
        # Both halves spend equally, also if the constraint is not met yet.
        budget = (self.tie.sum(self.sigma(scales).square() * self.start.column_norms)).sum(1, keepdim=True)
        factor = budget / (squares * norms).sum(1, keepdim=True).clamp(min=tiny)
        return ((scales.square() + squares * factor) / 2).sqrt()

    def slopes(self, sigma: Tensor, free: Tensor, power: Tensor) -> tuple[Slopes, Tensor, Tensor]:
        """Measure gradients with fresh noise, and the shortfall, until its error leaves no verdict open.

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
        slopes = Slopes.merge([self.slopes_once(sigma, power) for _ in range(LEAST_PASSES)])
        shortfall, error = self.shortfall(slopes, sigma, free)
        live, known = torch.arange(len(sigma), device=sigma.device), slopes
        for _ in range(MOST_PASSES - LEAST_PASSES):
            open_ = _undecided(shortfall[live], error[live])
            if not bool(open_.any()):
                break
            live, known = live[open_], known.at(open_)
            part = self.at(live)
            known = Slopes.merge([known, part.slopes_once(sigma[live], power[live])])
            self.reconstruction.feature.n_vjps += part.reconstruction.feature.n_vjps
            better = part.shortfall(known, sigma[live], free[live])
            shortfall, error = (
                old.index_copy(0, live, new) for old, new in zip((shortfall, error), better, strict=True)
            )
        return slopes, shortfall, error

    def slopes_once(self, sigma: Tensor, power: Tensor) -> Slopes:
        """Gradients from one pass with fresh noise."""
        cost, gain, deviations = self.reconstruction.gradients(
            sigma, self.effort * GRADIENT_NOISES, self.counted / power
        )
        return slopes_of((cost.first, cost.second), (gain.first, gain.second), deviations, self.tie)

    def shortfall(self, slopes: Slopes, sigma: Tensor, free: Tensor) -> tuple[Tensor, Tensor]:
        """Shortfall of the mean entropy in nats, (S,), and its standard error."""
        return slopes.shortfall(free, self.tie.sum(sigma.square() * self.start.column_norms), self.units)

    def adjusted(self, scales: Tensor, deviations: Tensor, exponent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scales that meet the constraint within its known error, the ratio to the target, and its error, both (S,).

        Samples whose constraint is not certified to be met get more noise.
        """
        scales, deviations = self.nearer(scales, deviations, exponent, 1)
        ratio, stderr = mean_and_stderr(deviations / self.target)
        live = (~constraint_met(ratio, stderr, ~self.free(scales).any(1))).nonzero().flatten()
        if not len(live):
            return scales, ratio, stderr
        part = self.at(live)
        near, more = part.nearer(scales[live], deviations[:, live], exponent[live], RATIO_EFFORT)
        better = mean_and_stderr(more / part.target)
        ratio, stderr = (old.index_copy(0, live, new) for old, new in zip((ratio, stderr), better, strict=True))
        return scales.index_copy(0, live, near), ratio, stderr

    def nearer(self, scales: Tensor, deviations: Tensor, exponent: Tensor, effort: int) -> tuple[Tensor, Tensor]:
        """Scales corrected until no excess of the constraint is seen, and their deviations (draws, S).

        `effort` is a factor on the maximum number of noise samples.

        Noise samples of the feature alone are cheap here. All free scales of a sample change by a few percent, which
        leaves the relative gradients unchanged.
        """
        feature, free = self.reconstruction.feature, self.free(scales).any(1)
        for attempt in range(ADJUSTMENTS + 1):
            deviations = sample_until(feature, self.sigma(scales), deviations, effort * self.effort)
            ratio, stderr = mean_and_stderr(deviations / self.target)
            if attempt == ADJUSTMENTS or not bool((((ratio - 1).abs() - 2 * stderr > KNOWN_OFF) & free).any()):
                break
            scales = torch.where(
                free[:, None], rescale_to_constraint(scales, deviations, self.target, exponent), scales
            )
            deviations = feature.deviations(self.sigma(scales), self.effort * SCALE_NOISES)
        return scales, deviations


def _bound(shortfall: Tensor, error: Tensor) -> Tensor:
    """Bound on the distance from the optimum in nats, (S,): the factor amplifies the estimate and its error alike."""
    return CALIBRATION * (shortfall.clamp(min=0) + ERRORS * error) + LEAST_GAP


def _undecided(shortfall: Tensor, error: Tensor) -> Tensor:
    """Samples that would be proven if the shortfall were known exactly, but are not, (S,) bool."""
    exact = _bound(shortfall, torch.zeros_like(error))
    return (exact <= GAP_TOLERANCE) & (_bound(shortfall, error) > GAP_TOLERANCE)


def _gain(before: Moments, after: Moments, slope: Tensor, counted: Tensor) -> Tensor:
    """Gain of the mean entropy at the met constraint, minus one standard error, in nats, (S,).

    Parameters
    ----------
    before, after
        Moments measured with the same noise.
    slope
        Change of the mean entropy per unit change of the deviation's logarithm, (S,).
    counted
        Counted units, (S, n) bool.
    """
    logs = [_mean_entropies(moments, counted) for moments in (before, after)]
    gained, error = mean_and_stderr(logs[1] - logs[0])
    tiny = torch.finfo(gained.dtype).tiny
    spent = after.deviations.mean(0).clamp(min=tiny).log() - before.deviations.mean(0).clamp(min=tiny).log()
    return (gained - error - slope * spent).clamp(min=0)


def _value_stderr(moments: Moments, scale: Tensor, counted: Tensor) -> Tensor:
    """Standard error of the mean entropy, from the squared errors and from the uncertainty of the constraint."""
    _, error = mean_and_stderr(_mean_entropies(moments, counted))
    return (error.square() + scale.square()).sqrt()


def _mean_entropies(moments: Moments, counted: Tensor) -> Tensor:
    """Mean of ``0.5 log E(mu_i - xhat_i)^2`` over the counted units, from each part of the noise, (PARTS, S)."""
    return (moments.parts.clamp(min=LEAST_POWER).log() * counted).sum(2) / counted.sum(1) / 2
