"""How well a solution meets its constraint and its optimality condition, measured with fresh noise.

To second order the mean H lies ``mean(r^2) / (4 kappa)`` nats below the optimum, where r is the noise-free relative
gradient and kappa the curvature of the deviation, 1 for a linear layer. Independent estimates of the gradient give the
first without bias, a trial step gives the second. The bound adds their errors and a factor that was calibrated on
cells of known truth (docs/method.md): it is calibrated, not proven.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .control import Control
from .probe import Halves, LayerProbe
from .trial import Trial, pyramid, try_step

#: Limits of convergence: excess of the ratio beyond twice its standard error, also the limit of that standard error;
#: and excess in any case.
RATIO_TOLERANCE, RATIO_LIMIT = 0.05, 0.1
#: Limit of convergence: how far the mean H may be below the optimum, in nats, error included. The bound is about half
#: of it for a cell of a last layer; if it were near the limit, the verdict would be left to chance.
GAP_TOLERANCE = 0.07
#: Squared norm of a gradient, in units of the median, above which its weight falls.
OUTLYING = 5.0
#: Standard error of the gap, in nats and averaged over the cells, at which a certificate is precise enough.
GAP_STDERR = 0.015
#: Factor on the measured shortfall, and number of standard errors added for estimate and curvature, with which the
#: bound covers the true shortfall in 95 % of cells.
CALIBRATION, ERRORS = 1.5, 1.645
#: Limit of the deviation's growth under doubled noise; beyond, rare jumps make the constraint unknown.
MOST_GROWTH = 16.0
#: Tolerance between the measured power of the deviation's growth and that predicted by the gradient, which is known to
#: some tenths; smaller if the prediction is small.
LEAST_UNEXPLAINED, MOST_UNEXPLAINED = 0.25, 1.0
#: Range of curvatures that a bound uses: lower ones would only reduce it on thin evidence.
LEAST_CURVATURE, MOST_CURVATURE = 0.5, 3.0
#: Distance from the optimum, in nats, beyond which the locally measured curvature loses its meaning.
NEARBY = 0.2
#: Root mean square of a trial step in ``log sigma``, and its largest change of a single unit.
TRIAL_STEP, MOST_TRIAL = 0.3, 1.0
#: Minimum and maximum number of noise samples for the ratio.
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
        Calibrated bound in nats: in 95 % of cells, the mean H lies at most this far below the optimum. NaN if unknown.
    gain, gain_stderr
        Gain of a trial step on fresh noise, nats, and its standard error; NaN if none was taken.
    exponent
        ``d log L / d log t`` when the scales of all units below the cap are multiplied by t.
    saturated
        Whether every unit is at the cap. The constraint is then an inequality, and the value is exact.
    met
        Whether the constraint is certified to be met.
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
        """Certificates of a subset of the cells, selected by position or mask."""
        return Certificate(*(getattr(self, each.name)[index] for each in dataclasses.fields(self)))

    def replaced(self, index: Tensor, part: Certificate) -> Certificate:
        """Copy in which the certificates of some cells, given by position, are replaced."""
        pairs = ((getattr(self, each.name), getattr(part, each.name)) for each in dataclasses.fields(self))
        return Certificate(*(kept.index_copy(0, index, new) for kept, new in pairs))

    @property
    def optimal(self) -> Tensor:
        """Whether the solution is certified to be near the optimum, (S,) bool."""
        return (self.gap <= GAP_TOLERANCE) | self.saturated

    @property
    def converged(self) -> Tensor:
        """Whether constraint and optimality are both certified, (S,) bool."""
        return self.met & self.optimal


@dataclass(frozen=True)
class Measured:
    """Measurements at noise scales, with noise that is independent of them.

    Attributes
    ----------
    parts
        Independent estimates of ``sigma_i dL/dsigma_i``, each from the same number of noise samples, (parts, S, n).
    deviations
        ``||h(x + sigma*delta) - f||^2``, (draws, S).
    """

    parts: Tensor
    deviations: Tensor

    @cached_property
    def weights(self) -> Tensor:
        """Weight of each part, (parts, S); see :func:`outlier_weights`."""
        return outlier_weights(torch.einsum("psn,psn->ps", self.parts, self.parts))

    def mean(self, first: int = 0, stride: int = 1) -> Tensor:
        """Weighted mean of every ``stride``-th part, (S, n)."""
        parts, weights = self.parts[first::stride], self.weights[first::stride]
        return torch.einsum("ps,psn->sn", weights / weights.sum(0), parts)

    @property
    def halves(self) -> Halves:
        """The gradient as two independent estimates."""
        return Halves(self.mean(0, 2), self.mean(1, 2))

    def growth(self, free: Tensor) -> Tensor:
        """``d log L / d log t``, (S,), if the free units' scales, (S, n) bool, are multiplied by t; by the gradient."""
        growth = (self.parts.mean(0) * free).sum(1)
        return growth / self.deviations.mean(0).clamp(min=torch.finfo(growth.dtype).tiny)

    def exponent(self, free: Tensor) -> Tensor:
        """Growth, limited to the range that rescaling can rely on; 2 for a linear layer, (S,)."""
        return self.growth(free).clamp(0.5, 3.0)

    def shortfall(self, free: Tensor) -> tuple[Tensor, Tensor]:
        """Distance of the mean H from a linear layer's optimum in nats, ``mean(r^2) / 4``, and its error, (S,)."""
        level = mean_over(self.mean(), free)
        relative = torch.where(free, self.parts / level[:, None] - 1, 0.0)
        power, error = noise_free_power(relative, free, self.weights)
        return power / 4, error / 4


def outlier_weights(power: Tensor) -> Tensor:
    """Weights of gradients by their squared norms, (count, S): 1, and less for those far above the median.

    Where a logarithm or a root comes close to its pole, gradients of single noise samples are larger by orders of
    magnitude. They have random signs, so that they contribute little to the mean and nearly all of its noise.

    Parameters
    ----------
    power
        Squared norms, (count, S); NaN where there is no gradient.
    """
    most = OUTLYING * power.nanmedian(0).values
    return torch.where(power > most, most / power, 1.0)


def measure(feature: LayerProbe, sigma: Tensor, draws: int, control: Control | None = None) -> Measured:
    """Measure gradient and deviations of noise scales (S, n) with fresh noise samples, a multiple of eight."""
    parts, deviations = [], []
    for _ in range(2):
        halves, found = feature.gradients(sigma, draws // 2, control)
        parts += [halves.first, halves.second]
        deviations.append(found)
    return Measured(torch.stack(parts), torch.cat(deviations))


def merge(passes: Sequence[Measured]) -> Measured:
    """Merge measurements of the same noise scales, each with the same number of noise samples."""
    return Measured(torch.cat([each.parts for each in passes]), torch.cat([each.deviations for each in passes]))


def take_trial(
    feature: LayerProbe,
    found: Measured,
    free: Tensor,
    shape: Sequence[int],
    sigma: Callable[[Tensor], Tensor],
    draws: int,
    control: Control | None = None,
) -> tuple[Trial, Tensor]:
    """Step along the remaining gradient, and measure the gain on fresh noise.

    Parameters
    ----------
    feature, free
        The layer, and its units below the cap, (S, n) bool.
    found
        Measurements at the current scales.
    shape
        Shape of one sample.
    sigma
        Maps a change of ``log sigma``, (S, n), to noise scales (S, n).
    draws
        Number of noise samples.
    control
        Linear model of the layer, whose contribution to both deviations is known.

    Returns
    -------
    tuple
        The trial, and the deviations at the current scales, (draws, S).
    """
    quarters = [found.mean(i, 4) for i in range(4)]
    level = mean_over(torch.stack(quarters).mean(0), free)
    one, two, three, four = (torch.where(free, part / level[:, None] - 1, 0.0) for part in quarters)
    # Each half predicts the gain of the other half's direction.
    first, second = pyramid(Halves(one, two), shape), pyramid(Halves(three, four), shape)
    worth = ((three + four) * first + (one + two) * second) / 4
    direction = torch.where(free, (first + second) / 2, 0.0)
    count = free.sum(1).clamp(min=1)
    # The step has the size of relevant errors, because curvature differs between small and large steps.
    root = (direction.square().sum(1) / count).sqrt()
    length = TRIAL_STEP / root.clamp(min=torch.finfo(root.dtype).tiny)
    step = -(direction * length[:, None]).clamp(-MOST_TRIAL, MOST_TRIAL)
    slope, size = length * (worth * free).sum(1) / count, step.square().sum(1) / count
    return try_step(feature, sigma, step, slope, size, draws, found.exponent(free), control)


def certify(found: Measured, target: Tensor, free: Tensor, trial: Trial, growth: Tensor | None = None) -> Certificate:
    """Make the certificate of noise scales from measurements.

    Parameters
    ----------
    found
        Gradient and deviations at the scales, or at scales that differ by a common factor close to one.
    target, free
        ``alpha D``, (S,), and units below the cap, (S, n) bool.
    trial
        A trial step from these scales.
    growth
        Deviation under doubled noise, in units of the target, (S,). If it is large, rare jumps make the constraint
        unknown; if the gradient does not predict it, the feature jumps, and its gradient carries no information about
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
        ratio=finite(ratio),
        ratio_stderr=finite(stderr),
        gap=torch.where(saturated, 0.0, gap),
        gain=finite(trial.gain),
        gain_stderr=finite(trial.gain_stderr),
        exponent=found.exponent(free),
        saturated=saturated,
        met=met,
    )


def certify_exact(exponent: Tensor, deviations: Tensor, target: Tensor, free: Tensor, growth: Tensor) -> Certificate:
    """Make the certificate of the optimum of a linear layer, where only the constraint has to be measured.

    Parameters
    ----------
    exponent
        Measured growth of the deviation, (S,).
    deviations
        ``||h(x + sigma*delta) - f||^2`` at the optimum, (draws, S).
    target, free, growth
        As for :func:`certify`.
    """
    ratio, stderr = mean_and_stderr(deviations / target)
    saturated, unknown = ~free.any(1), torch.full_like(ratio, torch.nan)
    return Certificate(
        ratio=finite(ratio),
        ratio_stderr=finite(stderr),
        gap=torch.zeros_like(ratio),
        gain=unknown,
        gain_stderr=unknown,
        exponent=exponent,
        saturated=saturated,
        met=constraint_met(ratio, stderr, saturated) & (saturated | (growth <= MOST_GROWTH)),
    )


def gap_bound(estimate: Tensor, error: Tensor, trial: Trial) -> Tensor:
    """Bound on the shortfall in nats, (S,), from its estimate for a linear layer, the error and the trial step.

    NaN if there is no bound, because the gradient is 0 or not known at all. The errors of the estimate and of the
    curvature, and the remainder beyond second order, are independent.
    """
    trusted = 1 / (1 + (estimate / NEARBY).square())
    curvature = 1 + trusted * (trial.curvature.clamp(LEAST_CURVATURE, MOST_CURVATURE) - 1)
    missing = estimate.clamp(min=0) / curvature
    of_estimate, of_curvature = ERRORS * error / curvature, ERRORS * missing * trial.curvature_stderr / curvature
    allowed = (of_estimate.square() + of_curvature.square() + ((CALIBRATION - 1) * missing).square()).sqrt()
    seen = (trial.gain - trial.gain_stderr).clamp(min=0)
    return finite(torch.maximum(missing + allowed, seen))


def finite(numbers: Tensor) -> Tensor:
    """Numbers, NaN where a division by almost nothing overflowed: they are unknown there."""
    return torch.where(numbers.isfinite(), numbers, torch.nan)


def wider(parts: int) -> float:
    """Factor on an error estimated from few parts: ratio of Student's to the normal quantile.

    To second order in the degrees of freedom (Abramowitz and Stegun, 26.7.5).
    """
    z, freedom = ERRORS, parts - 1
    first, second = (z**2 + 1) / 4, (5 * z**4 + 16 * z**2 + 3) / 96
    return 1 + first / freedom + second / freedom**2


def constraint_met(ratio: Tensor, stderr: Tensor, saturated: Tensor) -> Tensor:
    """Whether the constraint is certified to be met, (S,) bool; an inequality if all units are at the cap."""
    off = torch.where(saturated, (ratio - 1).clamp(min=0), (ratio - 1).abs())
    known = saturated | (stderr <= RATIO_TOLERANCE)
    known &= ratio.isfinite() & stderr.isfinite()
    return (off - 2 * stderr <= RATIO_TOLERANCE) & (off <= RATIO_LIMIT) & known


def sample_until(
    feature: LayerProbe,
    sigma: Tensor,
    deviations: Tensor,
    effort: int = 1,
    wanted: float = RATIO_STDERR,
    *,
    control: Control | None = None,
) -> Tensor:
    """Add deviations (draws, S) from fresh noise until their mean is precise enough or the maximum is reached.

    Parameters
    ----------
    feature, sigma
        The layer, and its noise scales (S, n).
    deviations
        Deviations measured so far.
    effort
        Factor on the minimum and maximum number of noise samples.
    wanted
        Target for the relative standard error of the mean, averaged over the samples.
    control
        Linear model of the layer; with it, deviations are averaged over pairs, minus the part that it explains.
    """
    least, most = effort * LEAST_RATIO_NOISES, effort * math.ceil(RATIO_NOISES * max(1.0, RATIO_STDERR / wanted) ** 2)
    while len(deviations) < most:
        typical = float(relative_stderr(deviations).mean())
        # If the feature did not move at all, nothing is known yet.
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
    """Standard error of the mean over the first axis of (count, S), relative to the mean, (S,)."""
    mean, error = mean_and_stderr(values)
    return error / mean.clamp(min=torch.finfo(mean.dtype).tiny)


def rescale_to_constraint(scales: Tensor, deviations: Tensor, target: Tensor, exponent: Tensor | float = 2.0) -> Tensor:
    """Noise scales (S, groups) that meet the constraint, changed by at most a factor e at a time.

    Parameters
    ----------
    scales
        Scales at which the deviations were measured, (S, groups), standardized.
    deviations
        ``||h(x + sigma*delta) - f||^2``, (draws, S).
    target
        ``alpha D``, (S,).
    exponent
        Exponent of the deviations' growth with the scale, a number or (S,); 2 for a linear layer.
    """
    ratio = deviations.mean(0) / target.clamp(min=torch.finfo(target.dtype).tiny)
    return scales * (-(ratio.clamp(min=1e-6).log() / exponent).clamp(-1.0, 1.0)).exp()[:, None]


def relative_gradient(halves: Halves, free: Tensor) -> Halves:
    """``sigma_i dL/dsigma_i`` divided by its mean over the free units, minus one; zero at capped units."""
    mean = mean_over(halves.mean, free)[:, None]
    return Halves(*(torch.where(free, half / mean - 1, 0.0) for half in (halves.first, halves.second)))


def mean_over(values: Tensor, free: Tensor) -> Tensor:
    """Mean of values (S, n) over the free units, (S,); one if it is not positive."""
    mean = torch.where(free, values, 0.0).sum(1) / free.sum(1).clamp(min=1)
    return torch.where(mean > 0, mean, torch.ones_like(mean))


def noise_free_power(parts: Tensor, free: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean square of a map over the free units and its standard error, (S,), from products of independent estimates.

    Parameters
    ----------
    parts
        Independent estimates of the map, (parts, S, n); zero at units that are not free.
    free
        Free units, (S, n) bool.
    weights
        Weights of the estimates, (parts, S); default: equal ones.
    """
    products = torch.einsum("psn,qsn->spq", parts, parts) / free.sum(1).clamp(min=1)[:, None, None]
    weight = products.new_ones(products.shape[:2]) if weights is None else weights.T
    apart = products - products.diagonal(dim1=1, dim2=2).diag_embed()
    others = weight.sum(1, keepdim=True) - weight
    # A U-statistic: its error follows from the variation of each part's mean product with the others.
    each = (apart * weight[:, None]).sum(2) / others
    shares = weight * others / (weight * others).sum(1, keepdim=True)
    power = (shares * each).sum(1)
    count = len(parts)
    error = ((weight / weight.sum(1, keepdim=True)).square() * (each - power[:, None]).square()).sum(1)
    return power, 2 * (error * count / (count - 1)).sqrt()
