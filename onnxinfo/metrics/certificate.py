"""How well a solution meets its constraint and its optimality condition, measured with fresh noise.

To second order the mean H lies ``mean(r^2) / (4 kappa)`` nats below the optimum, where r is the relative gradient, free
of noise, and kappa the curvature of the deviation, 1 where the layer is linear. The first is measured without bias from
independent estimates of the gradient, the second by a trial step. The bound that is stated adds the errors and a factor
that was calibrated on cells of known truth (docs/method.md): it is calibrated, not proven.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .control import Control
from .probe import Halves, LayerProbe
from .trial import Trial, pyramid, try_step

#: A cell whose measured ratio is off by more than this beyond twice its standard error, by more than the second in any
#: case, or is not known to the first, has not converged.
RATIO_TOLERANCE, RATIO_LIMIT = 0.05, 0.1
#: A cell whose mean H may be below the optimum by more than this many nats, error included, has not converged. The
#: bound of a last layer's cell, with its errors, is about half of it: near the limit the verdict would be chance.
GAP_TOLERANCE = 0.07
#: Standard error of that, in nats and on average over the cells, below which a certificate tells enough.
GAP_STDERR = 0.015
#: By what factor more than measured may be missing, and how many standard errors of estimate and curvature are allowed
#: for: the bound then covers the true shortfall in 95 % of cells.
CALIBRATION, ERRORS = 1.5, 1.645
#: Noise of twice the size may move a feature by this factor more; beyond, rare jumps make the constraint unknown.
MOST_GROWTH = 16.0
#: Powers of the noise by which a feature may grow more, or less, than its gradient foretells, which is known to some
#: tenths: less where that is little.
LEAST_UNEXPLAINED, MOST_UNEXPLAINED = 0.25, 1.0
#: Curvatures that a bound makes use of: less would only make it smaller on thin evidence.
LEAST_CURVATURE, MOST_CURVATURE = 0.5, 3.0
#: Nats: a curvature measured nearby tells little of an optimum that is further away than about this.
NEARBY = 0.2
#: Root mean square of a trial step in ``log sigma``, and its largest change of a unit.
TRIAL_STEP, MOST_TRIAL = 0.3, 1.0
#: The fewest and most noise samples of the ratio.
LEAST_RATIO_NOISES, RATIO_NOISES = 16, 256
RATIO_STDERR = 0.02


@dataclass(frozen=True)
class Certificate:
    """Quality of a block of cells; every tensor is (S,).

    Attributes
    ----------
    ratio, ratio_stderr
        ``r = E||h(x+sigma*delta)-f||^2 / (alpha D)`` and its standard error; 1 at the met constraint.
    gap
        Calibrated bound, nats: the mean H lies at most so much below the optimum, in 95 % of cells. NaN where unknown.
    gain, gain_stderr
        What a trial step gains on fresh noise, nats, and its standard error; NaN where none was taken.
    exponent
        ``d log L / d log t`` when the scales of all units below the cap grow by t.
    saturated
        Whether every unit is at the cap: then the constraint is an inequality, and the value is exact.
    met
        Whether the constraint is known to be met.
    """

    ratio: Tensor
    ratio_stderr: Tensor
    gap: Tensor
    gain: Tensor
    gain_stderr: Tensor
    exponent: Tensor
    saturated: Tensor
    met: Tensor

    def at(self, index: Tensor) -> Certificate:
        """The certificates of some of the cells, chosen by position or by a mask."""
        return Certificate(*(getattr(self, each.name)[index] for each in dataclasses.fields(self)))

    def replaced(self, index: Tensor, part: Certificate) -> Certificate:
        """The same with the certificates of some of the cells, by position, replaced."""
        pairs = ((getattr(self, each.name), getattr(part, each.name)) for each in dataclasses.fields(self))
        return Certificate(*(kept.index_copy(0, index, new) for kept, new in pairs))

    @property
    def optimal(self) -> Tensor:
        """Whether the optimum is known to be near, (S,) bool."""
        return (self.gap <= GAP_TOLERANCE) | self.saturated

    @property
    def converged(self) -> Tensor:
        """Whether the constraint is known to be met and the optimum to be near, (S,) bool."""
        return self.met & self.optimal


@dataclass(frozen=True)
class Measured:
    """What was measured of noise scales with noise that they do not depend on.

    Attributes
    ----------
    parts
        Independent estimates of ``sigma_i dL/dsigma_i``, each of as much noise, (parts, S, n).
    deviations
        ``||h(x + sigma*delta) - f||^2``, (noises, S).
    """

    parts: Tensor
    deviations: Tensor

    @property
    def halves(self) -> Halves:
        """The gradient as two independent estimates."""
        return Halves(self.parts[::2].mean(0), self.parts[1::2].mean(0))

    def growth(self, free: Tensor) -> Tensor:
        """``d log L / d log t`` when the scales of the free units, (S, n) bool, grow by t, by the gradient, (S,)."""
        growth = (self.parts.mean(0) * free).sum(1)
        return growth / self.deviations.mean(0).clamp(min=torch.finfo(growth.dtype).tiny)

    def exponent(self, free: Tensor) -> Tensor:
        """The growth within what a change of scales may rely on: 2 where the layer is linear, (S,)."""
        return self.growth(free).clamp(0.5, 3.0)

    def shortfall(self, free: Tensor) -> tuple[Tensor, Tensor]:
        """Nats that the mean H lies below a linear layer's optimum, ``mean(r^2) / 4``, and its error, (S,)."""
        level = mean_over(self.parts.mean(0), free)
        relative = torch.where(free, self.parts / level[:, None] - 1, 0.0)
        power, error = noise_free_power(relative, free)
        return power / 4, error / 4


def measure(feature: LayerProbe, sigma: Tensor, noises: int, control: Control | None = None) -> Measured:
    """Take the gradient and the deviations of noise scales (S, n) with that much fresh noise, a multiple of eight."""
    parts, deviations = [], []
    for _ in range(2):
        halves, found = feature.gradients(sigma, noises // 2, control)
        parts += [halves.first, halves.second]
        deviations.append(found)
    return Measured(torch.stack(parts), torch.cat(deviations))


def merge(passes: Sequence[Measured]) -> Measured:
    """What was measured of the same noise scales by as many noise samples each time, as one."""
    return Measured(torch.cat([each.parts for each in passes]), torch.cat([each.deviations for each in passes]))


def take_trial(
    feature: LayerProbe,
    found: Measured,
    free: Tensor,
    shape: Sequence[int],
    sigma: Callable[[Tensor], Tensor],
    noises: int,
    control: Control | None = None,
) -> tuple[Trial, Tensor]:
    """Step along what is left of the gradient, and see on fresh noise what that gains.

    Parameters
    ----------
    feature, free
        The layer, and units below the cap, (S, n) bool.
    found
        Measured at the scales.
    shape
        Of one sample.
    sigma
        Noise scales (S, n) after a change of ``log sigma``, (S, n).
    noises
        How many noise samples are drawn.
    control
        Model of the layer, whose share of both ends' deviations is known.

    Returns
    -------
    tuple
        The trial, and the deviations at the scales as they are, (noises, S).
    """
    quarters = [found.parts[i::4].mean(0) for i in range(4)]
    level = mean_over(torch.stack(quarters).mean(0), free)
    one, two, three, four = (torch.where(free, part / level[:, None] - 1, 0.0) for part in quarters)
    # Each half's direction is promised by the other what it is worth.
    first, second = pyramid(Halves(one, two), shape), pyramid(Halves(three, four), shape)
    worth = ((three + four) * first + (one + two) * second) / 4
    direction = torch.where(free, (first + second) / 2, 0.0)
    count = free.sum(1).clamp(min=1)
    # Of a step as large as what matters: curvature differs between small and large steps.
    root = (direction.square().sum(1) / count).sqrt()
    length = TRIAL_STEP / root.clamp(min=torch.finfo(root.dtype).tiny)
    step = -(direction * length[:, None]).clamp(-MOST_TRIAL, MOST_TRIAL)
    slope, size = length * (worth * free).sum(1) / count, step.square().sum(1) / count
    return try_step(feature, sigma, step, slope, size, noises, found.exponent(free), control)


def certify(found: Measured, target: Tensor, free: Tensor, trial: Trial, growth: Tensor | None = None) -> Certificate:
    """Judge noise scales by what was measured of them.

    Parameters
    ----------
    found
        Gradient and deviations at the scales, or at scales that differ by a common factor near one.
    target, free
        ``alpha D``, (S,), and units below the cap, (S, n) bool.
    trial
        A step from there.
    growth
        Deviation at noise of twice the size, in units of the target, (S,). Where it is large, rare jumps make the
        constraint unknown; where the gradient does not foretell it, the feature jumps, and its gradient says nothing of
        the optimum.
    """
    ratio, stderr = mean_and_stderr(found.deviations / target)
    estimate, error = found.shortfall(free)
    gap = gap_bound(estimate, error * wider(len(found.parts)), trial)
    saturated = ~free.any(1)
    met = constraint_met(ratio, stderr, saturated)
    if growth is not None:
        met &= saturated | (growth <= MOST_GROWTH)
        foretold = found.growth(free)
        allowed = (LEAST_UNEXPLAINED + foretold / 2).clamp(max=MOST_UNEXPLAINED)
        gap = torch.where(((growth / ratio).log2() - foretold).abs() <= allowed, gap, torch.nan)
    return Certificate(
        ratio=ratio,
        ratio_stderr=stderr,
        gap=torch.where(saturated, 0.0, gap),
        gain=trial.gain,
        gain_stderr=trial.gain_stderr,
        exponent=found.exponent(free),
        saturated=saturated,
        met=met,
    )


def gap_bound(estimate: Tensor, error: Tensor, trial: Trial) -> Tensor:
    """Bound on the shortfall in nats, (S,), from its estimate for a linear layer, the error and the trial step.

    The errors of the estimate and of the curvature, and what is left to second order, are independent.
    """
    trusted = 1 / (1 + (estimate / NEARBY).square())
    curvature = 1 + trusted * (trial.curvature.clamp(LEAST_CURVATURE, MOST_CURVATURE) - 1)
    missing = estimate.clamp(min=0) / curvature
    of_estimate, of_curvature = ERRORS * error / curvature, ERRORS * missing * trial.curvature_stderr / curvature
    allowed = (of_estimate.square() + of_curvature.square() + ((CALIBRATION - 1) * missing).square()).sqrt()
    seen = (trial.gain - trial.gain_stderr).clamp(min=0)
    return torch.maximum(missing + allowed, seen)


def wider(parts: int) -> float:
    """By how much an error that is estimated from few parts is counted more: Student's quantile over the normal's.

    To second order in the degrees of freedom (Abramowitz and Stegun, 26.7.5).
    """
    z, freedom = ERRORS, parts - 1
    first, second = (z**2 + 1) / 4, (5 * z**4 + 16 * z**2 + 3) / 96
    return 1 + first / freedom + second / freedom**2


def constraint_met(ratio: Tensor, stderr: Tensor, saturated: Tensor) -> Tensor:
    """Whether the constraint is known to be met, (S,) bool; an inequality where all units are at the cap."""
    off = torch.where(saturated, (ratio - 1).clamp(min=0), (ratio - 1).abs())
    known = saturated | (stderr <= RATIO_TOLERANCE)
    finite = ratio.isfinite() & stderr.isfinite()
    return (off - 2 * stderr <= RATIO_TOLERANCE) & (off <= RATIO_LIMIT) & known & finite


def sample_until(
    feature: LayerProbe,
    sigma: Tensor,
    deviations: Tensor,
    effort: int = 1,
    wanted: float = RATIO_STDERR,
    *,
    control: Control | None = None,
) -> Tensor:
    """Add deviations (noises, S) from fresh noise until their mean is known well, or no more are allowed.

    Parameters
    ----------
    feature, sigma
        The layer, and noise scales (S, n).
    deviations
        Those that are there already.
    effort
        Factor on the minimum and maximum number of noise samples.
    wanted
        Relative standard error of the mean, on average over the samples.
    control
        Model of the layer: deviations then come averaged in pairs, less what it explains.
    """
    least, most = effort * LEAST_RATIO_NOISES, effort * math.ceil(RATIO_NOISES * (RATIO_STDERR / wanted) ** 2)
    while len(deviations) < most:
        typical = float(relative_stderr(deviations).mean())
        # A feature that did not move at all leaves everything open.
        enough = max(least, math.ceil(len(deviations) * (typical / wanted) ** 2)) if typical < most else most
        more = min(enough, most, 4 * len(deviations)) - len(deviations)
        if more <= 0:
            break
        more += more % 2
        fresh = feature.deviations(sigma, more) if control is None else _paired(feature, sigma, more, control)
        deviations = torch.cat([deviations, fresh])
    return deviations


def _paired(feature: LayerProbe, sigma: Tensor, pairs: int, control: Control) -> Tensor:
    return feature.controlled_deviations(sigma, pairs, control)


def mean_and_stderr(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard error over the first axis of (count, S)."""
    return values.mean(0), values.std(0) / math.sqrt(len(values))


def relative_stderr(values: Tensor) -> Tensor:
    """Standard error of the mean over the first axis of (count, S), relative to it, (S,)."""
    mean, error = mean_and_stderr(values)
    return error / mean.clamp(min=torch.finfo(mean.dtype).tiny)


def rescale_to_constraint(scales: Tensor, deviations: Tensor, target: Tensor, exponent: Tensor | float = 2.0) -> Tensor:
    """Noise scales (S, groups) that meet the constraint, by at most a factor e at a time.

    Parameters
    ----------
    scales
        Those that the deviations were measured with, (S, groups), standardized.
    deviations
        ``||h(x + sigma*delta) - f||^2``, (noises, S).
    target
        ``alpha D``, (S,).
    exponent
        Power of the scale that the deviations grow as, a number or (S,); 2 where the layer is linear.
    """
    ratio = deviations.mean(0) / target.clamp(min=torch.finfo(target.dtype).tiny)
    return scales * (-(ratio.clamp(min=1e-6).log() / exponent).clamp(-1.0, 1.0)).exp()[:, None]


def relative_gradient(halves: Halves, free: Tensor) -> Halves:
    """``sigma_i dL/dsigma_i`` over its mean over the free units, minus one; zero at capped units."""
    mean = mean_over(halves.mean, free)[:, None]
    return Halves(*(torch.where(free, half / mean - 1, 0.0) for half in (halves.first, halves.second)))


def mean_over(values: Tensor, free: Tensor) -> Tensor:
    """Mean of values (S, n) over the free units, (S,); one where it is not positive."""
    mean = torch.where(free, values, 0.0).sum(1) / free.sum(1).clamp(min=1)
    return torch.where(mean > 0, mean, torch.ones_like(mean))


def noise_free_power(parts: Tensor, free: Tensor) -> tuple[Tensor, Tensor]:
    """Mean square of a map over the free units and its standard error, (S,): products of independent estimates.

    Parameters
    ----------
    parts
        Independent estimates of the map, (parts, S, n), zero where a unit is not free.
    free
        Units that count, (S, n) bool.
    """
    count = len(parts)
    products = torch.einsum("psn,qsn->spq", parts, parts) / free.sum(1).clamp(min=1)[:, None, None]
    apart = products.sum(2) - products.diagonal(dim1=1, dim2=2)
    # A U-statistic: its error comes from how much each part's mean product with the others varies.
    each = apart / (count - 1)
    return each.mean(1), 2 * each.std(1) / math.sqrt(count)
