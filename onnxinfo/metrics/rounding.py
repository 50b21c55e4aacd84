"""Whether rounding limits a cell: jumps make more of the feature's deviation than its gradient can explain."""

from __future__ import annotations

import torch
from torch import Tensor

from .certificate import mean_and_stderr
from .noise import waterfill
from .problem import Problem

#: Sizes of the noise that detects rounding; noise samples per size, and in total if the few exceed the linearization by
#: more than a smooth layer would.
SMALL, FEW_SMALL_NOISES, SMALL_NOISES, MOST_SMOOTH = (0.1, 0.3), 4, 24, 2.0
#: Smallest share of the deviation predicted by the gradient at which a feature still follows it, and the result of
#: :func:`rounding_share` for a feature that does not.
LEAST_SMOOTH, FLAT = 0.25, 2.0
#: Share of the fine noise samples that must not move a feature at all for it to be flat.
MOSTLY = 0.75
#: Sizes of the noise that tells bends from jumps, noise samples per size, initially and in total, and the tolerance. A
#: smooth layer is linear at both sizes; jumps, whose share of the deviation changes with the size, hardly look so.
FINE, FEW_FINE_NOISES, FINE_NOISES, FINE_TOLERANCE = (0.001, 0.01), 32, 256, 0.25
#: Budgets tried if rounding causes more than half of the deviation, in units of the given one.
GROWN_BUDGETS = (2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)


def limits_of_rounding(problem: Problem, scales: Tensor) -> tuple[Tensor, Tensor]:
    """Coarseness (S,), at most 1 where the layer only bends, and where it does, (S,) bool."""
    coarse = coarseness(problem, scales)
    bent = bends(problem, scales, coarse > 1)
    return torch.where(bent, 1.0, coarse), bent


def coarseness(problem: Problem, scales: Tensor) -> Tensor:
    """Factor by which the budget must grow until rounding causes less than half of the deviation, (S,).

    At most 1 if it already does. Larger budgets are tried with the closed form's scales.
    """
    found = rounding_share(problem, problem.sigma(scales), 1.0)
    norms = problem.start.column_norms * problem.counted
    closed = problem.sigma(waterfill(norms, problem.target, problem.tie, problem.cap))
    for factor in GROWN_BUDGETS:
        open_ = found > 1
        if not bool(open_.any()):
            break
        enough = open_ & (rounding_share(problem, (closed * factor**0.5).clamp(max=problem.cap), factor) <= 1)
        found = torch.where(enough, -factor, found)
    # Results are stored as negative numbers so that they are not tried again.
    return torch.where(found > 1, torch.inf, found.abs())


def rounding_share(problem: Problem, sigma: Tensor, factor: float) -> Tensor:
    """``2 B^2 / (A f alpha D)`` of noise scales (S, n) for f times the budget, (S,): 1 if rounding causes half.

    A smooth feature's deviation is ``A t^2`` for small noise of size t. Jumps, mostly from rounding, add ``B t``,
    since noise crosses a nearby threshold in proportion to its size. B is measured with smaller noise, A is taken
    from the linearized layer; both terms are equal at ``t = B / A``, where the deviation is ``2 B^2 / A``. Steps so
    wide that smaller noise crosses none count as ``FLAT``.
    """
    smooth = (sigma.square() * problem.start.column_norms).sum(1)
    found = torch.zeros_like(smooth)
    for size in SMALL:
        small = small_deviation(problem, sigma, size, smooth)
        jumps = (small - size**2 * smooth).clamp(min=0) / size
        share = 2 * jumps.square() / (smooth * problem.target * factor).clamp(min=torch.finfo(smooth.dtype).tiny)
        # A layer that saturates moves less than its linearization predicts; none of that is rounding.
        found = torch.maximum(found, torch.where(small > MOST_SMOOTH * size**2 * smooth, share, 0.0))
    still = small < LEAST_SMOOTH * size**2 * smooth
    return torch.where(is_flat(problem, still, sigma, smooth), FLAT, found)


def is_flat(problem: Problem, still: Tensor, sigma: Tensor, smooth: Tensor) -> Tensor:
    """Samples, of those that ``still`` (S,) singles out, whose feature does not follow its gradient, (S,) bool.

    Between two steps, fine noise does not move the feature at all, though the gradient of rounding is that of the
    identity. Features that saturate, or bend sharply at the sample, also move less than predicted, but they move.
    """
    if not bool(still.any()):
        return still
    fine = problem.feature.in_float32().deviations(FINE[0] * sigma, FEW_FINE_NOISES)
    return still & ((fine == 0).float().mean(0) >= MOSTLY)


def bends(problem: Problem, scales: Tensor, coarse: Tensor) -> Tensor:
    """Samples that seem limited by rounding, (S,) bool, but whose feature moves as predicted under fine noise.

    Units that only larger noise switches on, or gates that it tips over, exceed the linearization like jumps do.
    But under fine noise their part of the deviation vanishes beside the linear one, and that of jumps exceeds it.
    """
    index = coarse.nonzero().flatten()
    for size in FINE:
        if not len(index):
            break
        here = problem.at(index)
        index = index[is_linear_at(here, size, here.sigma(scales[index]))]
    return torch.zeros_like(coarse).index_fill(0, index, True)


def is_linear_at(problem: Problem, size: float, sigma: Tensor) -> Tensor:
    """Whether noise of a size relative to sigma (S, n) moves the feature as linearized, (S,) bool."""
    linear = size**2 * (sigma.square() * problem.start.column_norms).sum(1)
    evaluated = problem.feature.in_float32()
    ratios = evaluated.deviations(size * sigma, FEW_FINE_NOISES) / linear
    if bool(_is_one(ratios, 4.0).any()):
        ratios = torch.cat([ratios, evaluated.deviations(size * sigma, FINE_NOISES - FEW_FINE_NOISES) / linear])
    return _is_one(ratios, 2.0)


def small_deviation(problem: Problem, sigma: Tensor, size: float, smooth: Tensor) -> Tensor:
    """Deviation under small noise, (S,), from more noise samples if the first few do not look smooth."""
    # Only the network itself has its jumps.
    evaluated = problem.feature.in_float32()
    deviations = evaluated.deviations(size * sigma, problem.effort * FEW_SMALL_NOISES)
    if bool((deviations.mean(0) > MOST_SMOOTH * size**2 * smooth).any()):
        more = problem.effort * (SMALL_NOISES - FEW_SMALL_NOISES)
        deviations = torch.cat([deviations, evaluated.deviations(size * sigma, more)])
    return deviations.mean(0)


def _is_one(ratios: Tensor, errors: float) -> Tensor:
    """Whether the mean of ratios (draws, S) is one within the tolerance and so many standard errors, (S,) bool."""
    mean, stderr = mean_and_stderr(ratios)
    return (mean - 1).abs() <= FINE_TOLERANCE + errors * stderr
