"""Gauss-Newton rounds: the closed form with column norms of the Jacobian that are averaged over the noise."""

from __future__ import annotations

import torch
from torch import Tensor

from .certificate import rescale_to_constraint
from .constraint import feasible
from .couplings import Couplings
from .halves import Halves
from .noise import waterfill
from .problem import Problem
from .shrinkage import wiener_with

#: Noise samples of the Gauss-Newton round, and probes per noise sample.
ROUND_NOISES, ROUND_PROBES = 8, 8
#: Passes of noise samples in the round by moments, and noise samples of each.
MOMENT_PASSES, MOMENT_NOISES = 10, 64


def gauss_newton(problem: Problem, scales: Tensor) -> tuple[Tensor, Couplings | None]:
    """Gauss-Newton: ``sigma_i^2`` inverse to ``E||J_i(x + sigma*delta)||^2`` at the given, feasible sigma.

    The deviation measured at this sigma, relative to that predicted from the norms, sets the size of the new one. The
    products that the norms come from also estimate couplings of the units.
    """
    halves, deviations, couplings = _column_norms(problem, scales)
    norms = _smoothed(problem, halves) * problem.counted
    foretold = (problem.sigma(scales).square() * norms).sum(1)
    found = waterfill(norms, problem.target, problem.tie, problem.cap)
    return rescale_to_constraint(found, deviations, foretold), couplings


def _column_norms(problem: Problem, scales: Tensor) -> tuple[Halves, Tensor, Couplings | None]:
    """Squared column norms under noise, the deviations (draws, S), and couplings of the units."""
    probes = ROUND_PROBES // problem.thrift
    return problem.feature.column_norms(problem.sigma(scales), problem.effort * ROUND_NOISES, probes)


def _smoothed(problem: Problem, norms: Halves) -> Tensor:
    """Squared column norms, denoised in the log domain with the help of those at x."""
    first, second, at_rest = map(_logarithms, (norms.first, norms.second, problem.start.column_norms))
    level = (first + second).mean(1, keepdim=True) / 2
    at_rest = at_rest - at_rest.mean(1, keepdim=True)
    return (wiener_with(first - level, second - level, at_rest, problem.shape) + level).exp()


def moments_round(problem: Problem, scales: Tensor) -> Tensor:
    """Repeat the Gauss-Newton round with column norms from the Jacobian's moments, averaged over all passes.

    Each pass goes half of the way, because the moments change with the scales.
    """
    moments = None
    for step in range(MOMENT_PASSES):
        sigma = problem.sigma(scales)
        fresh = problem.feature.jacobian_moments(sigma, problem.passes * MOMENT_NOISES)
        moments = fresh if moments is None else moments.blended(fresh, 4 / (step + 4))
        norms = moments.column_norms(sigma) * problem.counted
        foretold = (sigma.square() * norms).sum(1)
        found = waterfill(norms, problem.target, problem.tie, problem.cap)
        found = rescale_to_constraint(found, fresh.deviation[None], foretold)
        halfway = (scales * found).sqrt()
        scales = feasible(problem, torch.where(halfway.isfinite() & (step > 0), halfway, found))
    return scales


def _logarithms(norms: Tensor) -> Tensor:
    """Logarithms of squared norms (S, n), floored at a millionth of the mean."""
    least = (norms.mean(1, keepdim=True) * 1e-6).clamp(min=torch.finfo(norms.dtype).tiny)
    return torch.maximum(norms, least).log()
