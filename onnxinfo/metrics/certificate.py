"""How well a solution meets its constraint and its optimality condition, measured with fresh noise."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .control import Control
from .probe import Feature, Halves

#: A cell whose measured ratio is off by more than this beyond twice its standard error, by more than the second in any
#: case, or is not known to the first, has not converged.
RATIO_TOLERANCE, RATIO_LIMIT = 0.05, 0.1
#: A cell whose mean H may be below the optimum by more than this many nats, error included, has not converged.
GAP_TOLERANCE = 0.05
#: Standard error of that, in nats and on average over the cells, below which a certificate tells enough.
GAP_STDERR = 0.015
#: Noises of the pass that also takes gradients, and the fewest and most that the ratio is measured with.
GRADIENT_NOISES = 32
LEAST_RATIO_NOISES, RATIO_NOISES = 16, 256
RATIO_STDERR = 0.02


@dataclass(frozen=True)
class Certificate:
    """Quality of a block of cells; every tensor is (S,).

    Attributes
    ----------
    ratio, ratio_stderr
        ``r = E||h(x+sigma*delta)-f||^2 / (alpha D)`` and its standard error; 1 at the met constraint.
    residual, residual_stderr
        Root mean square over uncapped units of ``sigma_i dL/dsigma_i`` relative to its mean, minus one: 0 at the
        optimum. To second order, the mean H lies ``residual^2 / 4`` nats below the optimum.
    converged
        The ratio is known and within its tolerance, and so is the residual, its error included: what is not known has
        not converged.
    """

    ratio: Tensor
    ratio_stderr: Tensor
    residual: Tensor
    residual_stderr: Tensor
    converged: Tensor

    def without(self, unknown: Tensor) -> Certificate:
        """The same with some of the cells, (S,) bool, not converged."""
        return dataclasses.replace(self, converged=self.converged & ~unknown)


@dataclass(frozen=True)
class Measured:
    """What was measured of noise scales with noise that they do not depend on.

    Attributes
    ----------
    quarters
        Four independent estimates of ``sigma_i dL/dsigma_i``, each (S, n).
    deviations
        ``||h(x + sigma*delta) - f||^2``, (noises, S).
    """

    quarters: list[Tensor]
    deviations: Tensor

    @property
    def halves(self) -> Halves:
        """The gradient as two independent estimates."""
        first, second, third, fourth = self.quarters
        return Halves((first + third) / 2, (second + fourth) / 2)


def certify(feature: Feature, sigma: Tensor, target: Tensor, free: Tensor) -> Certificate:
    """Measure the certificate of a solution.

    Parameters
    ----------
    feature
        The layer's feature on a block of S samples.
    sigma
        Noise scales, (S, n), standardised.
    target
        ``alpha D``, (S,).
    free
        Units below the cap, (S, n) bool.
    """
    found = measure(feature, sigma, GRADIENT_NOISES)
    return judge(Measured(found.quarters, refine(feature, sigma, found.deviations)), target, free)


def measure(feature: Feature, sigma: Tensor, noises: int, control: Control | None = None) -> Measured:
    """Take the gradient and the deviations of noise scales (S, n) with that much fresh noise, a multiple of eight."""
    quarters: list[Tensor] = []
    deviations = []
    for _ in range(2):
        halves, parts = feature.gradients(sigma, noises // 2, control)
        quarters += [halves.first, halves.second]
        deviations.append(parts)
    return Measured(quarters, torch.cat(deviations))


def join(parts: Sequence[Measured]) -> Measured:
    """What was measured of the same noise scales by as many noises each time, as one."""
    quarters = [torch.stack(same).mean(0) for same in zip(*(part.quarters for part in parts), strict=True)]
    return Measured(quarters, torch.cat([part.deviations for part in parts]))


def judge(found: Measured, target: Tensor, free: Tensor) -> Certificate:
    """Judge noise scales by what was measured of them; target (S,) and free units (S, n) as in :func:`certify`."""
    ratio, ratio_stderr = mean_and_stderr(found.deviations / target)
    return verdict(ratio, ratio_stderr, *power_of(found, free), free.any(1))


def gap_stderr(found: Measured, free: Tensor) -> float:
    """Standard error, in nats and on average over the cells, of how far their mean H lies below the optimum."""
    _, power_stderr = power_of(found, free)
    return float(power_stderr.mean()) / 4


def verdict(ratio: Tensor, ratio_stderr: Tensor, power: Tensor, power_stderr: Tensor, bound: Tensor) -> Certificate:
    """Judge a block of cells; everything is (S,).

    Parameters
    ----------
    ratio, ratio_stderr
        Measured constraint.
    power, power_stderr
        Mean square of the relative gradient, without the noise's part.
    bound
        Whether there is a unit below the cap: else nothing is left to optimise, and the constraint is an inequality.
    """
    residual = power.clamp(min=0).sqrt()
    residual_stderr = power_stderr / (2 * residual).clamp(min=power_stderr.sqrt().clamp(min=1e-6))
    off = torch.where(bound, (ratio - 1).abs(), (ratio - 1).clamp(min=0))
    met = (off - 2 * ratio_stderr <= RATIO_TOLERANCE) & (off <= RATIO_LIMIT)
    known = torch.where(bound, ratio_stderr <= RATIO_TOLERANCE, True)
    optimal = (power + power_stderr) / 4 <= GAP_TOLERANCE
    finite = ratio.isfinite() & ratio_stderr.isfinite()
    return Certificate(ratio, ratio_stderr, residual, residual_stderr, met & known & finite & (optimal | ~bound))


def refine(
    feature: Feature,
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
        How many times as many noises are the least and the most.
    wanted
        Relative standard error of the mean, on average over the samples.
    control
        Model of the layer: deviations then come averaged in pairs, less what it explains.
    """
    least, most = effort * LEAST_RATIO_NOISES, effort * math.ceil(RATIO_NOISES * (RATIO_STDERR / wanted) ** 2)
    while len(deviations) < most:
        typical = float(relative_stderr(deviations).mean())
        enough = max(least, math.ceil(len(deviations) * (typical / wanted) ** 2))
        more = min(enough, most, 4 * len(deviations)) - len(deviations)
        if more <= 0:
            break
        more += more % 2
        fresh = feature.deviations(sigma, more) if control is None else _paired(feature, sigma, more, control)
        deviations = torch.cat([deviations, fresh])
    return deviations


def _paired(feature: Feature, sigma: Tensor, pairs: int, control: Control) -> Tensor:
    return feature.controlled_deviations(sigma, pairs, control)


def mean_and_stderr(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard error over the first axis of (count, S)."""
    return values.mean(0), values.std(0) / math.sqrt(len(values))


def relative_stderr(values: Tensor) -> Tensor:
    """Standard error of the mean over the first axis of (count, S), relative to it, (S,)."""
    mean, error = mean_and_stderr(values)
    return error / mean.clamp(min=torch.finfo(mean.dtype).tiny)


def rescaled(scales: Tensor, deviations: Tensor, target: Tensor, exponent: Tensor | float = 2.0) -> Tensor:
    """Noise scales (S, groups) that meet the constraint, by at most a factor e at a time.

    Parameters
    ----------
    scales
        Those that the deviations were measured with, (S, groups), standardised.
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
    count = free.sum(1, keepdim=True).clamp(min=1)
    mean = (halves.mean * free).sum(1, keepdim=True) / count
    mean = torch.where(mean > 0, mean, torch.ones_like(mean))
    return Halves(*(torch.where(free, half / mean - 1, 0.0) for half in (halves.first, halves.second)))


def noise_free_power(parts: list[Tensor], free: Tensor) -> tuple[Tensor, Tensor]:
    """Mean square of a map over the free units and its standard error, (S,): products of independent estimates.

    Parameters
    ----------
    parts
        Independent estimates of the map, (S, n), zero where a unit is not free.
    free
        Units that count, (S, n) bool.
    """
    count = free.sum(1).clamp(min=1)
    pairs = [(a, b) for i, a in enumerate(parts) for b in parts[i + 1 :]]
    products = torch.stack([(a * b).sum(1) / count for a, b in pairs])
    return products.mean(0), products.std(0) / math.sqrt(len(products))


def power_of(found: Measured, free: Tensor) -> tuple[Tensor, Tensor]:
    """Mean square of the relative gradient over the free units and its standard error, (S,)."""
    return noise_free_power([_relative(quarter, found.quarters, free) for quarter in found.quarters], free)


def _relative(quarter: Tensor, quarters: list[Tensor], free: Tensor) -> Tensor:
    """One estimate of the gradient over the mean of all, minus one."""
    level = torch.where(free, torch.stack(quarters).mean(0), 0.0).sum(1) / free.sum(1).clamp(min=1)
    level = torch.where(level > 0, level, torch.ones_like(level))
    return torch.where(free, quarter / level[:, None] - 1, 0.0)
