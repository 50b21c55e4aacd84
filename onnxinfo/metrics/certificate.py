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

import torch
from torch import Tensor

from .control import Control
from .halves import Halves
from .measured import Measured, mean_over
from .misplaced import shortfall_at_cap
from .probe import LayerProbe
from .trial import Sampling, Trial, price_of, pyramid, try_step

#: Limits of convergence: excess of the ratio beyond twice its standard error, also the limit of that standard error;
#: and excess in any case.
RATIO_TOLERANCE, RATIO_LIMIT = 0.05, 0.1
#: Limit of convergence: how far the mean H may be below the optimum, in nats, error included. The bound is about half
#: of it for a cell of a last layer; if it were near the limit, the verdict would be left to chance.
GAP_TOLERANCE = 0.07
#: Bound, in nats, below which a cell is nearly proven.
NEARLY_PROVEN = 0.5
#: Standard error of the gap, in nats and averaged over the cells, at which a certificate is precise enough.
GAP_STDERR = 0.015
#: Factor on the measured shortfall, and number of standard errors added for estimate and curvature, with which the
#: bound covers the true shortfall in 95 % of cells.
CALIBRATION, ERRORS = 1.5, 1.645
#: Limit of the deviation's growth under doubled noise; beyond, rare jumps make the constraint unknown. The gradient
#: does not predict jumps, so the limit is higher where it predicts the growth.
MOST_GROWTH, MOST_EXPLAINED_GROWTH = 16.0, 32.0
#: Tolerance between the measured power of the deviation's growth and that predicted by the gradient, which is known to
#: some tenths; smaller if the prediction is small.
LEAST_UNEXPLAINED, MOST_UNEXPLAINED = 0.25, 1.0
#: Range of curvatures that are believed when something is divided by them; a bound has another upper limit.
LEAST_CURVATURE, MOST_CURVATURE = 0.5, 3.0
#: Curvature from which on it is that of few stiff directions, and says nothing about the others, along which most is
#: missing. A lower one is partly so: the bound is divided at most by this over the curvature.
STIFF = 6.0
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
    def scale_stderr(self) -> Tensor:
        """Standard error of the logarithm of the scales' common factor, which the constraint fixes, (S,); 0 at the cap.

        Rescaled to the constraint, a cell of any ratio is off by the ratio's relative error, which is at most one.
        """
        relative = self.ratio_stderr / self.ratio.clamp(min=torch.finfo(self.ratio.dtype).tiny)
        return torch.where(self.saturated, 0.0, relative / self.exponent)

    @property
    def optimal(self) -> Tensor:
        """Whether the solution is certified to be near the optimum, (S,) bool."""
        return self.gap <= GAP_TOLERANCE

    @property
    def converged(self) -> Tensor:
        """Whether constraint and optimality are both certified, (S,) bool."""
        return self.met & self.optimal

    @property
    def nearly_proven(self) -> Tensor:
        """Whether the bound alone keeps a cell from being proven, and not by much, (S,) bool."""
        return self.met & ~self.converged & (self.gap < NEARLY_PROVEN)


@dataclass(frozen=True)
class Growth:
    """Growth of the deviation if the noise of all units below the cap is doubled; every tensor is (S,).

    Attributes
    ----------
    factor
        Deviation under doubled noise, in units of the target.
    foretold
        Power of the growth, ``d log L / d log t``, as predicted by the gradient.
    """

    factor: Tensor
    foretold: Tensor

    def is_explained(self, ratio: Tensor) -> Tensor:
        """Whether the deviation, now in the given ratio to the target, (S,), grows as predicted, (S,) bool."""
        allowed = (LEAST_UNEXPLAINED + self.foretold / 2).clamp(max=MOST_UNEXPLAINED)
        return ((self.factor / ratio).log2() - self.foretold).abs() <= allowed


@dataclass(frozen=True)
class Missing:
    """How far the mean H may lie below the optimum, in nats; every tensor is (S,).

    Attributes
    ----------
    estimate, error
        Estimate to second order for a linear layer, and its standard error, wider if it rests on few parts.
    least, most
        What a step that raises units has shown to be missing, and what the mean H gains if every counted unit is at the
        cap: no more can be missing.
    """

    estimate: Tensor
    error: Tensor
    least: Tensor
    most: Tensor


def missing_entropy(
    found: Measured, free: Tensor, counted: Tensor, shape: Sequence[int], least: Tensor, room: Tensor
) -> Missing:
    """How far the mean H lies below the optimum, from measurements at noise scales.

    Parameters
    ----------
    found
        The measurements.
    free, counted
        Counted units below the cap, and all counted units, (S, n) bool.
    shape
        Shape of one sample.
    least
        What a step that raises units has shown to be missing, in nats, (S,).
    room
        ``log(cap / sigma)`` of each unit, (S, n).
    """
    estimate, error = found.shortfall(free, counted)
    at_cap, error_at_cap = shortfall_at_cap(found, free, counted, shape)
    most = torch.where(free, room, 0.0).sum(1) / counted.sum(1).clamp(min=1)
    error = (error.square() + error_at_cap.square()).sqrt() * wider(len(found.parts))
    return Missing(estimate + at_cap.clamp(min=0), error, least, most)


def take_trial(
    feature: LayerProbe,
    found: Measured,
    free: Tensor,
    counted: Tensor,
    shape: Sequence[int],
    sigma: Callable[[Tensor], Tensor],
    draws: Sampling,
    control: Control | None = None,
) -> tuple[Trial, Tensor]:
    """Step along the remaining gradient, and measure the gain on fresh noise.

    Parameters
    ----------
    feature
        The layer.
    found
        Measurements at the current scales.
    free, counted
        Counted units below the cap, and all counted units, (S, n) bool.
    shape
        Shape of one sample.
    sigma
        Maps a change of ``log sigma``, (S, n), to noise scales (S, n).
    draws, control
        See :func:`onnxinfo.metrics.trial.try_step`.

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
    # The step has the size of relevant errors, because curvature differs between small and large steps.
    root = (direction.square().sum(1) / free.sum(1).clamp(min=1)).sqrt()
    length = TRIAL_STEP / root.clamp(min=torch.finfo(root.dtype).tiny)
    step = -(direction * length[:, None]).clamp(-MOST_TRIAL, MOST_TRIAL)
    count = counted.sum(1).clamp(min=1)
    slope, size = length * (worth * free).sum(1) / count, step.square().sum(1) / count
    price = price_of(found.exponent(free), free, counted)
    return try_step(feature, sigma, step, slope, size, draws, price, control)


def certify(
    found: Measured,
    target: Tensor,
    free: Tensor,
    missing: Missing,
    trial: Trial,
    growth: Growth | None = None,
    torn: Tensor | None = None,
    unseen: Tensor | None = None,
) -> Certificate:
    """Make the certificate of noise scales from measurements.

    Parameters
    ----------
    found
        Gradient and deviations at the scales, or at scales that differ by a common factor close to one.
    target, free
        ``alpha D``, (S,), and units below the cap, (S, n) bool.
    missing
        How far the mean H lies below the optimum.
    trial
        A trial step from these scales.
    growth
        Growth of the deviation under doubled noise. If it is large, rare jumps make the constraint unknown; if the
        gradient does not predict it, the feature jumps, and its gradient carries no information about the optimum.
    torn
        Samples known to have several optima, (S,) bool, of which the gradient sees only the nearest.
    unseen
        Least error of the ratio due to rare events, whether the draws have seen them or not, (S,).
    """
    ratio, stderr = mean_and_stderr(found.deviations / target)
    if unseen is not None:
        stderr = torch.maximum(stderr, unseen)
    gap = gap_bound(missing.estimate, missing.error, trial)
    saturated = ~free.any(1)
    met = constraint_met(ratio, stderr, saturated)
    if growth is not None:
        explained = growth.is_explained(ratio)
        met &= saturated | (growth.factor <= torch.where(explained, MOST_EXPLAINED_GROWTH, MOST_GROWTH))
        gap = torch.where(explained, gap, torch.nan)
    if torn is not None:
        gap = torch.where(torn, torch.nan, gap)
    gap = torch.minimum(torch.maximum(gap, missing.least), missing.most)
    # Near the cap, the bound is known whatever the gradient says.
    gap = torch.where(gap.isnan() & (missing.most <= GAP_TOLERANCE), missing.most, gap)
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
    common = trial.curvature.clamp(min=LEAST_CURVATURE)
    curvature = 1 + trusted * (torch.minimum(common, (STIFF / common).clamp(min=1)) - 1)
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
