"""The paper's own optimizers: the reference that the faster solvers are tested against."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from . import ru
from .linearization import Linearization
from .noise import waterfill
from .problem import Problem
from .ru import RuSolution
from .sid import Solution, solve_by

LEARNING_RATE, DECAYS = 0.05, (0.9, 0.999)


def solve_by_gradient(problem: Problem, *, steps: int = 800, draws: int = 8) -> Solution:
    """SID by stochastic gradient on the paper's loss (Eq. 5), with Adam on ``log sigma``.

    ``Loss = E||h(x + sigma*delta) - f||^2 / D - lambda sum_i (log sigma_i + C)`` with ``lambda = 2 alpha / n``, so that
    the optimum of a linear layer meets the constraint. Constraint and certificate are those of the default solver.

    Parameters
    ----------
    problem
        As for :func:`onnxinfo.metrics.sid.solve`; the start is the uniform sigma that a linear layer would allow.
    steps, draws
        Number of optimization steps, and of noise samples per step.
    """

    def ascend() -> Tensor:
        counted, tie, cap = problem.counted, problem.tie, problem.cap
        even = waterfill(_uniform(problem.start, counted), problem.target, tie, cap)
        scales = even.clamp(max=cap).log().requires_grad_(True)
        optimizer = torch.optim.Adam([scales], lr=LEARNING_RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        size = tie.sum(counted.to(scales))
        for _ in range(steps):
            optimizer.zero_grad()
            sigma = problem.sigma(scales.exp())
            deviation = problem.feature.differentiable_deviation(sigma, draws)
            entropy = (size * scales.clamp(max=math.log(cap))).sum(1)
            (deviation / problem.target - 2 / size.sum(1) * entropy).sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
        return scales.detach().exp()

    return solve_by(problem, ascend, steps)


def solve_ru_by_gradient(problem: ru.Problem, *, steps: int = 800, draws: int = 8) -> RuSolution:
    """RU by stochastic gradient on the paper's loss (Eq. 11), with Adam on ``log sigma``.

    Parameters
    ----------
    problem
        As for :func:`onnxinfo.metrics.ru.solve_ru`; the start is a linear layer's uniform sigma.
    steps, draws
        Number of optimization steps, and of noise samples per step.
    """
    even = problem.allocated(_uniform(problem.start, problem.counted))
    scales = problem.ascend(even, steps=steps, draws=draws, rate=LEARNING_RATE, decays=DECAYS)
    return problem.measured(problem.enforce_constraint(scales), steps)


def _uniform(start: Linearization, counted: Tensor) -> Tensor:
    """Mean squared column norm of the counted units, at each of them; 0 elsewhere, (S, n)."""
    return (start.column_norms * counted).sum(1, keepdim=True) / counted.sum(1, keepdim=True) * counted
