"""How the deviation grows with the noise, beside what the gradient predicts."""

from __future__ import annotations

import torch
from torch import Tensor

from .certificate import Growth, relative_stderr
from .measured import measure
from .probe import LayerProbe
from .problem import Problem

#: Noise samples for the deviation's growth under doubled noise: initially, if its error is too large, and that limit.
FEW_NOISES, GROWTH_NOISES, GROWTH_STDERR = 8, 32, 0.1
#: Noise samples for the power of its growth at larger noise.
POWER_NOISES = 64


def doubled_deviation(problem: Problem, scales: Tensor) -> Tensor:
    """Deviation with the noise of all units below the cap doubled, in units of ``alpha D``, (S,)."""
    return deviation_at(problem.feature, widened(problem, scales, 2.0), problem.effort) / problem.target


def deviation_at(feature: LayerProbe, sigma: Tensor, effort: int) -> Tensor:
    """Mean deviation at noise scales (S, n), known as well as a growth has to be, (S,); more noise by a factor."""
    deviations = feature.deviations(sigma, effort * FEW_NOISES)
    if bool((relative_stderr(deviations) > GROWTH_STDERR).any()):
        deviations = torch.cat([deviations, feature.deviations(sigma, effort * (GROWTH_NOISES - FEW_NOISES))])
    return deviations.mean(0)


def explained(problem: Problem, growth: Growth, scales: Tensor, deviation: Tensor) -> Growth:
    """Growth whose prediction follows the gradient on the way to doubled noise, where one at its start is off.

    Where noise shifts a feature more than it scatters it, the power of the growth increases from two to four.

    Parameters
    ----------
    growth
        Growth, and its power at the scales.
    scales
        Noise scales, (S, groups).
    deviation
        The deviation at these, (S,).
    """
    index = (~growth.is_explained(deviation / problem.target)).nonzero().flatten()
    if not len(index):
        return growth
    part = problem.at(index)
    middle, end = (power_at(part, scales[index], factor) for factor in (2**0.5, 2.0))
    # Simpson's rule over the logarithm of the noise.
    foretold = (growth.foretold[index] + 4 * middle + end) / 6
    return Growth(growth.factor, growth.foretold.index_copy(0, index, foretold))


def power_at(problem: Problem, scales: Tensor, factor: float) -> Tensor:
    """Power of the deviation's growth at a multiple of the noise of all units below the cap, by the gradient."""
    free = problem.free(scales)
    found = measure(problem.feature, widened(problem, scales, factor), problem.effort * POWER_NOISES)
    return found.growth(free)


def widened(problem: Problem, scales: Tensor, factor: float) -> Tensor:
    """Noise scales (S, n), those of all units below the cap multiplied by a factor, even beyond the cap."""
    sigma = problem.sigma(scales)
    return torch.where(problem.free(scales), factor * sigma, sigma)
