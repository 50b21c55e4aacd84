"""The paper's own optimisers, kept as the yardstick every faster path is tested against."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .certificate import certify, mean_and_stderr, refine
from .linearisation import Linearisation
from .noise import Tie, allocate
from .probe import Feature
from .reconstruction import Reconstruction
from .ru import Problem, RuSolution
from .sid import Solution

LEARNING_RATE = 0.05


def solve_by_gradient(
    feature: Feature,
    start: Linearisation,
    target: Tensor,
    tie: Tie,
    cap: float,
    shape: Sequence[int],
    *,
    steps: int = 800,
    noises: int = 8,
) -> Solution:
    """SID by stochastic gradient on the paper's loss (Eq. 5), with Adam on ``log sigma``.

    ``Loss = E||h(x + sigma*delta) - f||^2 / D - lambda sum_i (log sigma_i + C)`` with ``lambda = 2 alpha / n``: the
    optimum of a linear layer then meets the constraint. The scale is adjusted to the measured constraint at the end.

    Parameters
    ----------
    feature, start, target, tie, cap, shape
        As in :func:`onnxinfo.metrics.sid.solve`; the start is the uniform sigma that a linear layer would allow.
    steps, noises
        Optimisation steps, and noises of each.
    """
    uniform = start.column_norms.mean(1, keepdim=True).expand_as(start.column_norms)
    scales = allocate(uniform, target, tie, cap).clamp(max=cap).log().requires_grad_(True)
    optimizer = torch.optim.Adam([scales], lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    units = tie.units
    for _ in range(steps):
        optimizer.zero_grad()
        deviation = feature.differentiable_deviation(tie.expand(scales.exp()).clamp(max=cap), noises)
        entropy = (tie.size * scales.clamp(max=torch.log(torch.tensor(cap)).item())).sum(1)
        (deviation / target - 2 / units * entropy).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        free = scales.exp()
    for _ in range(2):
        sigma = tie.expand(free).clamp(max=cap)
        deviations = refine(feature, sigma, feature.deviations(sigma, 64))
        mean, error = mean_and_stderr(deviations)
        free = free * (target / mean.clamp(min=torch.finfo(mean.dtype).tiny)).sqrt()[:, None]
    sigma = tie.expand(free).clamp(max=cap)
    return Solution(
        sigma=sigma,
        certificate=certify(feature, sigma, target, tie.expand(free) < cap, shape, cap),
        stderr=error / mean / 2,
        capped=(sigma >= cap).float().mean(1),
        dead=~(target > 0),
        coarse=torch.full_like(target, torch.nan),
        probes=torch.full((len(sigma),), start.probes + feature.spent),
        iterations=torch.full((len(sigma),), steps),
    )


def solve_ru_by_gradient(
    reconstruction: Reconstruction,
    start: Linearisation,
    target: Tensor,
    tie: Tie,
    cap: float,
    *,
    steps: int = 800,
    noises: int = 8,
) -> RuSolution:
    """RU by stochastic gradient on the paper's loss (Eq. 11), with Adam on ``log sigma``.

    Parameters
    ----------
    reconstruction, start, target, tie, cap
        As in :func:`onnxinfo.metrics.ru.solve_ru`; the start is the uniform sigma that a linear layer would allow.
    steps, noises
        Optimisation steps, and noises of each.
    """
    problem = Problem(reconstruction, target, tie, cap)
    uniform = start.column_norms.mean(1, keepdim=True).expand_as(start.column_norms)
    scales = problem.ascend(allocate(uniform, target, tie, cap), steps=steps, noises=noises, rate=LEARNING_RATE)
    return problem.measured(problem.meet(scales), start, steps)
