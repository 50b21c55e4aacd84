"""Strict information discarding (SID): the largest input noise that leaves a layer's feature nearly unchanged.

Maximize ``sum_i log sigma_i`` subject to ``E||h(x + sigma*delta) - h(x)||^2 = alpha D`` (the paper's Eq. 2), in three
stages, each of which starts from the result of the one before:

1. the closed form of the linearized layer, from column norms of the Jacobian at x;
2. a Gauss-Newton round: the same with column norms averaged over the noise itself;
3. an ascent along the constraint's true gradient, which, unlike the round, accounts for noise deactivating units.

Norms and gradients are noisy, so their maps are denoised by a Wiener filter before each step. Steps of the ascent are
damped, because the deviation curves more than a linear layer's; old evidence is discounted, because the gradient
changes with the scales. If the feature changes along few directions, a control variate removes most of the noise.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .ascent import Ascent, ascend
from .certificate import Certificate
from .certification import CERTIFICATE_PASSES, MOST_PASSES, certify_scales
from .closed_form import LINEAR_NOISES, closed_form, is_linear
from .constraint import feasible
from .found import Found
from .gauss_newton import MOMENT_PASSES, gauss_newton, moments_round
from .mean_jacobian import control_of
from .noise import ENTROPY, waterfill
from .noise_precision import DisagreementError, carried
from .problem import Problem
from .rounding import coarseness, limits_of_rounding

logger = logging.getLogger(__name__)

#: Rounds of ascent and certificate: maximum number of steps, and minimum weight of the newest evidence.
ROUNDS = ((24, 0.05), (12, 0.05), (16, 0.05))
#: Maximum number of further rounds, for samples in which the last one found units that were misplaced, and for those
#: that are nearly proven.
EXTRA_ROUNDS = 3
#: Shortfall in nats above which a sample enters another round.
WORTH = 0.02


@dataclass(frozen=True)
class Solution:
    """Noise scales of a block of cells, with their certificate.

    Attributes
    ----------
    sigma
        Noise scales in standardized units, (S, n).
    certificate
        Certificate, measured with fresh noise.
    stderr
        Monte Carlo standard error of the mean entropy, nats, (S,).
    capped
        Fraction of units at the cap, (S,).
    dead
        Samples without a budget at this layer, (S,) bool.
    coarse
        Factor by which the budget must grow until rounding causes less than half of the feature's deviation, (S,); at
        most 1 if it already does, infinite if no tried budget suffices, NaN without a budget.
    probes, iterations
        Numbers of vector-Jacobian products and of updates of sigma, (S,).
    """

    sigma: Tensor
    certificate: Certificate
    stderr: Tensor
    capped: Tensor
    dead: Tensor
    coarse: Tensor
    probes: Tensor
    iterations: Tensor

    @property
    def entropy(self) -> Tensor:
        """Pixel-level SID ``H_i = log sigma_i + 0.5 log(2 pi e)`` in nats, (S, n)."""
        return self.sigma.log() + ENTROPY


def solve(problem: Problem) -> Solution:
    """Solve the SID of one layer on a block of samples."""
    return _solution(problem, *_solved(problem))


def solve_by(problem: Problem, ascend: Callable[[], Tensor], steps: int) -> Solution:
    """Solve the SID of one layer with another ascent, whose scales get the same certificate as the solver's own.

    Parameters
    ----------
    problem
        The layer and its constraint.
    ascend
        Returns uncapped scales per group, (S, groups).
    steps
        Number of updates of sigma that it takes.
    """
    certified, *_ = certify_scales(problem, feasible(problem, ascend()), None, [])
    return _solution(problem, Found.of(certified, steps), limits_of_rounding(problem, certified.scales)[0])


def _solution(problem: Problem, found: Found, coarse: Tensor) -> Solution:
    start, counted, dead = problem.start, problem.counted, _dead(problem)
    error = problem.target_stderr / 2
    sigma = problem.sigma(found.scales)
    # The constraint determines the scales of the units below the cap only.
    share = problem.free(found.scales).sum(1) / counted.sum(1).clamp(min=1)
    stderr = torch.where(share > 0, share * (error.square() + found.error.square()).sqrt(), 0.0)
    # Without a value, there is nothing that a gap could bound.
    gap = torch.where(dead, torch.nan, found.certificate.gap)
    return Solution(
        sigma=torch.where(dead[:, None] | ~counted, torch.nan, sigma),
        certificate=dataclasses.replace(found.certificate, gap=gap),
        stderr=torch.where(dead, torch.nan, stderr),
        capped=((sigma >= problem.cap) & counted).sum(1) / counted.sum(1).clamp(min=1),
        dead=dead,
        coarse=torch.where(dead, torch.nan, coarse),
        probes=start.probes + problem.feature.n_vjps + found.probes,
        iterations=1 + found.iterations,
    )


def _dead(problem: Problem) -> Tensor:
    """Samples without a budget that react to larger noise, (S,) bool; for the others all units are at the cap."""
    if not bool(problem.without_budget.any()):
        return problem.without_budget
    at_cap = problem.cap * problem.counted.to(problem.start.column_norms)
    reacts = torch.zeros_like(problem.without_budget)
    for _ in range(LINEAR_NOISES):
        # Squares of small changes may be zero.
        reacts |= problem.feature.changes(at_cap, 1).any(2)[0]
    return problem.without_budget & reacts


def _solved(problem: Problem) -> tuple[Found, Tensor]:
    """The closed form if it holds, else the result of Gauss-Newton round and search; and the coarseness."""
    scales = waterfill(problem.start.column_norms * problem.counted, problem.target, problem.tie, problem.cap)
    found = closed_form(problem, scales) if is_linear(problem, scales) else None
    if found is not None:
        return found, coarseness(problem, found.scales)
    scales = feasible(problem, scales)
    try:
        problem.feature.differences = carried(problem.feature, problem.sigma(scales))
        return _searched(problem, scales)
    except DisagreementError as error:
        logger.debug("noise in float32 after all: %s", error)
        problem.feature.differences = None
        return _searched(problem, scales)
    finally:
        problem.feature.differences = None


def _searched(problem: Problem, scales: Tensor) -> tuple[Found, Tensor]:
    """Result of Gauss-Newton round and search from feasible scales (S, groups); and the coarseness."""
    if problem.begun is None:
        scales, couplings = gauss_newton(problem, scales)
        problem = dataclasses.replace(problem, couplings=couplings)
    else:
        scales = feasible(problem, _resumed(problem, scales, problem.begun))
    coarse, bent = limits_of_rounding(problem, scales)
    if bool(bent.any()):
        # From equal scales, each unit's grows until the passes see what it wakes up.
        index = bent.nonzero().flatten()
        anew = problem.at(index)
        scales = scales.index_copy(0, index, feasible(anew, anew.uniform()))
    found = search(problem, scales, coarse > 1)
    if problem.is_thin:
        _improve(problem, found, coarse > 1)
    return found, coarse


def _resumed(problem: Problem, scales: Tensor, begun: Tensor) -> Tensor:
    """Return the scales of an earlier solution, (S, groups); those of the closed form where it has none.

    Parameters
    ----------
    scales
        The closed form's scales, (S, groups).
    begun
        The earlier scales, (S, n), infinite at the cap and NaN where unknown.
    """
    closed = problem.tie.expand(scales)
    known = torch.where(begun.isinf(), closed.clamp(min=problem.cap), begun)
    found = torch.where(known.isfinite() & (known > 0), known, closed)
    # Only counted units have a say in the scale of their group.
    return (problem.tie.sum(torch.where(problem.counted, found.log(), 0.0)) / problem.tie.size).exp()


def search(problem: Problem, scales: Tensor, coarse: Tensor) -> Found:
    """Ascend and certify in rounds; only samples with an insufficient certificate enter the next round.

    Parameters
    ----------
    scales
        Initial scales, (S, groups).
    coarse
        Samples whose budget is below the layer's rounding, (S,) bool: only their constraint is met.
    """
    state = Ascent.begin(scales, problem.tie)
    found = Found.nothing(scales)
    limited, live = coarse.nonzero().flatten(), (~coarse).nonzero().flatten()
    if len(limited):
        here = problem.at(limited)
        found.put(limited, certify_scales(here, scales[limited], None, [], 1)[0], here.feature.n_vjps, 0)
    control = control_of(problem.feature, problem.sigma(scales)) if len(live) else None
    usual = len(ROUNDS) + problem.passes - 1
    for number in range(usual + EXTRA_ROUNDS):
        if not len(live):
            break
        steps, memory = ROUNDS[min(number, len(ROUNDS) - 1)]
        here, part = problem.at(live), state.at(live)
        model = None if control is None else control.at(live)
        most = min(MOST_PASSES, CERTIFICATE_PASSES * len(scales) // len(live))
        taken, passes = ascend(here, part, model, steps, memory)
        certified, curvature, passes = certify_scales(here, part.scales, model, passes, most, found.torn[live])
        logger.debug(
            "%d ascent steps for %d samples; control variate: %s, curvature %.2f, shortfall %.4f nats",
            *(taken, len(live), control is not None, float(curvature.mean()), float(certified.shortfall.mean())),
        )
        part.curvature = torch.maximum(part.curvature, curvature)
        found.put(live, certified, here.feature.n_vjps, taken)
        # The passes of the certificate are the first evidence of another round.
        part.scales = certified.scales
        part.step(here, passes, memory)
        part.scales = part.scales * certified.change.exp()
        state.put(live, part)
        left = ~certified.certificate.converged | (certified.shortfall > WORTH)
        if number + 1 >= usual:
            nearly = certified.certificate.nearly_proven | found.certificate.at(live).nearly_proven
            left &= certified.certificate.met & (certified.change.any(1) | nearly)
        # Where all units have just taken the cap, that is still to be certified.
        movable = here.free(certified.scales) | here.free(part.scales)
        live = live[left & movable.any(1)]
    return found


def _improve(problem: Problem, found: Found, coarse: Tensor) -> None:
    """Solve unproven samples again by moments of the Jacobian; keep what is proven, or higher, and met."""
    live = (~found.certificate.converged & ~coarse & problem.free(found.scales).any(1)).nonzero().flatten()
    if not len(live):
        return
    here = problem.at(live)
    scales = moments_round(here, feasible(here, found.scales[live]))
    control = control_of(here.feature, here.sigma(scales))
    certified, *_ = certify_scales(here, scales, control, [], MOST_PASSES, found.torn[live])
    found.tear(live, certified.torn)
    before, now = found.certificate.at(live), certified.certificate
    ratio = here.sigma(certified.scales) / here.sigma(found.scales[live])
    gained = ratio.log().nan_to_num(0.0).sum(1)
    better = now.met & (~before.met | now.converged | (gained > 0))
    found.take(live, certified, better, here.feature.n_vjps, MOMENT_PASSES)
