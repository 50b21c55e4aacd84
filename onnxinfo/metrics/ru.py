"""Reconstruction uncertainty: how uncertain the input is when it is recovered from a layer's feature under noise.

Maximise ``sum_i 0.5 log E(mu_i - xhat_i)^2`` with ``xhat = g(h(x + sigma*delta))`` subject to the feature constraint of
the strict information discarding, ``E||h(x + sigma*delta) - f||^2 = alpha D`` (the paper's Eq. 8 to 11).

Where network and decoder are linear the objective is concave in ``s = sigma^2``. With ``w_i = 1 / E(mu_i - xhat_i)^2``
and ``A_ij = (dxhat_i / dx_j)^2`` the update ``s_j <- nu s_j sum_i w_i A_ij / ||J_j||^2`` maximises a lower bound that
touches it, so it never decreases. In the nonlinear case Jacobians are averaged over the noise, both at the same noisy
inputs: where a network switches units off, it does so for both. Late updates are taken in part only, which averages
the noise of their estimates.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .certificate import Certificate, mean_and_stderr, noise_free_power, refine, verdict
from .noise import ENTROPY, Tie, allocate, capped
from .probe import Halves
from .reconstruction import Moments, Reconstruction
from .sid import MANY_UNITS, Linearisation

#: Updates that are taken whole, and those, in order, of which this part is taken.
ROUNDS, PARTS = 8, (0.7, 0.5, 0.35)
#: Noises of the squared errors that weights are made of, of the Jacobians, of the values, and of the certificate.
WEIGHT_NOISES, JACOBIAN_NOISES, VALUE_NOISES, GRADIENT_NOISES = 32, 16, 128, 32
#: No scale is below this share of the closed form's mean: it would only stand for nothing being gained there.
LEAST_SCALE = 1e-4


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
    scales = problem.climb(problem.rescale(allocate(start.column_norms, target, tie, cap)))
    return problem.measured(problem.meet(scales), start, len(problem.parts))


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

    @property
    def parts(self) -> list[float]:
        """Part that is taken of each update."""
        return [1.0] * ROUNDS * self.effort + [part for part in PARTS for _ in range(self.effort)]

    def sigma(self, scales: Tensor) -> Tensor:
        """Noise scale of every unit, (S, n)."""
        return capped(scales, self.tie, self.cap)

    def rescale(self, scales: Tensor, deviations: Tensor | None = None) -> Tensor:
        """Meet the constraint, as far as the given or some new deviations tell."""
        if deviations is None:
            deviations = self.reconstruction.feature.deviations(self.sigma(scales), WEIGHT_NOISES)
        ratio = deviations.mean(0) / self.target.clamp(min=torch.finfo(self.target.dtype).tiny)
        return scales * (-(ratio.clamp(min=1e-6).log() / 2).clamp(-1.0, 1.0)).exp()[:, None]

    def meet(self, scales: Tensor) -> Tensor:
        """Meet the constraint with as much noise as that takes."""
        for _ in range(3):
            sigma, feature = self.sigma(scales), self.reconstruction.feature
            scales = self.rescale(scales, refine(feature, sigma, feature.deviations(sigma, WEIGHT_NOISES), self.effort))
        return scales

    def climb(self, scales: Tensor) -> Tensor:
        """Take all updates."""
        for part in self.parts:
            moments = self.reconstruction.moments(self.sigma(scales), WEIGHT_NOISES)
            scales = self.rescale(scales, moments.deviations)
            cost, gain = self.reconstruction.column_norms(self.sigma(scales), JACOBIAN_NOISES, 1 / moments.power)
            scales = scales * (part * self._log_ratio(self.tie.sum(gain), self.tie.sum(cost))).exp()
            typical = scales.clamp(max=self.cap).log().mean(1, keepdim=True).exp()
            scales = torch.maximum(scales, LEAST_SCALE * typical)
        return self.rescale(scales)

    def _log_ratio(self, gain: Tensor, cost: Tensor) -> Tensor:
        """``0.5 log(gain / cost)`` of each group, less the mean, which the constraint decides; 0 for unseen groups."""
        seen = (gain > 0) & (cost > 0)
        tiny = torch.finfo(gain.dtype).tiny
        ratio = torch.where(seen, (gain.clamp(min=tiny) / cost.clamp(min=tiny)).log() / 2, 0.0)
        mean = ratio.sum(1, keepdim=True) / seen.sum(1, keepdim=True).clamp(min=1)
        return torch.where(seen, (ratio - mean).clamp(-2.0, 2.0), 0.0)

    def measured(self, scales: Tensor, start: Linearisation, iterations: int) -> RuSolution:
        """Values and certificate with fresh noise."""
        sigma = self.sigma(scales)
        free = self.tie.expand(scales) < self.cap
        moments = self.reconstruction.moments(sigma, self.effort * VALUE_NOISES)
        entropy = moments.log_power() / 2 + ENTROPY
        ratio, ratio_stderr = mean_and_stderr(moments.deviations / self.target)
        parts, gains = [], []
        for _ in range(2):
            cost, gain, _ = self.reconstruction.gradients(sigma, GRADIENT_NOISES // 2, 1 / moments.power)
            excess = relative_excess(cost, gain, free)
            parts += [excess.first, excess.second]
            gains.append((gain.mean * free).sum(1) / self.tie.units)
        # What the mean entropy gains when all scales grow alike: 1 where nothing but noise makes the errors.
        growth = torch.stack(gains).mean(0).clamp(0.0, 1.0)
        power, power_stderr = (growth * each for each in noise_free_power(parts, free))
        return RuSolution(
            sigma=sigma,
            entropy=entropy,
            certificate=verdict(ratio, ratio_stderr, power, power_stderr, free.any(1)),
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
