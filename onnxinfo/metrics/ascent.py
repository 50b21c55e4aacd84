"""Ascent along the constraint's true gradient, which, unlike a Gauss-Newton round, sees what noise deactivates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .certificate import MOST_CURVATURE, rescale_to_constraint
from .constraint import feasible, is_far
from .control import Control
from .halves import Halves
from .measured import Measured, merge, outlier_weights, relative_gradient
from .noise import Tie
from .problem import Problem

#: Gain in nats, averaged over this many recent passes and the samples, plus its standard error, below which the ascent
#: stops.
PASS_GAIN, RECENT = 0.005, 4
#: Minimum number of steps, unless less is missing; step size, as gain in nats, below which the ascent stops.
LEAST_STEPS, STEP_GAIN = 2, 0.0015
#: Minimum fraction of the Newton step.
LEAST_DAMPING = 0.06
#: Largest change of log sigma in one step.
MOST_STEP = 0.4


@dataclass
class Ascent:
    """State of an ascent: scales (S, groups), their change since its start, and evidence (S, n) of the optimum.

    The curvature, (S,), is that of the deviation along a step; 1 for a linear layer. The power of passes, (passes, S),
    is the squared norm of their gradient in units of its mean; NaN at samples that they did not measure. Samples have
    taken different numbers of steps, (S,), since they take none in passes in which their constraint is far off.
    """

    scales: Tensor
    correction: Tensor
    evidence: tuple[Tensor, Tensor]
    curvature: Tensor
    power: Tensor
    steps: Tensor

    @classmethod
    def begin(cls, scales: Tensor, tie: Tie) -> Ascent:
        """State before the first step."""
        none, one = torch.zeros_like(tie.expand(scales)), scales.new_ones(len(scales))
        power, steps = scales.new_empty(0, len(scales)), torch.zeros_like(one, dtype=torch.long)
        return cls(scales, torch.zeros_like(scales), (none, none), one, power, steps)

    def at(self, index: Tensor) -> Ascent:
        """State of a subset of the samples."""
        evidence = self.evidence[0][index], self.evidence[1][index]
        scales, correction, curvature = self.scales[index], self.correction[index], self.curvature[index]
        return Ascent(scales, correction, evidence, curvature, self.power[:, index], self.steps[index])

    def put(self, index: Tensor, part: Ascent) -> None:
        """Take over the state of a subset of the samples."""
        self.scales = self.scales.index_copy(0, index, part.scales)
        self.correction = self.correction.index_copy(0, index, part.correction)
        first, second = (kept.index_copy(0, index, new) for kept, new in zip(self.evidence, part.evidence, strict=True))
        self.curvature = self.curvature.index_copy(0, index, part.curvature)
        new = self.power.new_full((len(part.power) - len(self.power), len(self.scales)), torch.nan)
        self.power = torch.cat([self.power, new]).index_copy(1, index, part.power)
        self.evidence, self.steps = (first, second), self.steps.index_copy(0, index, part.steps)

    @property
    def damping(self) -> Tensor:
        """Fraction of the Newton step, (S,): a full step overshoots if the layer curves more than a linear one."""
        return (1 / self.curvature).clamp(LEAST_DAMPING, 1.0)

    @property
    def is_stiff(self) -> bool:
        """Whether steps are short because the layer curves much, and not because little is left to gain."""
        return bool((self.curvature > MOST_CURVATURE).any())

    def step(self, problem: Problem, passes: Sequence[Measured], memory: float) -> float:
        """Add passes at the current scales to the evidence of the optimum, relative to the start, and step there.

        Returns
        -------
        float
            Mean square change of ``log sigma``: to second order, an upper bound of the step's gain in nats.
        """
        free = problem.free(self.scales)
        for fresh in passes:
            self._learn(relative_gradient(fresh.halves, free), problem.tie.expand(self.correction), memory)
        change = (problem.denoised(*self.evidence) - self.correction).clamp(-MOST_STEP, MOST_STEP)
        found = merge(passes)
        self.scales = rescale_to_constraint(
            self.scales * change.exp(), found.deviations, problem.target, found.exponent(free)
        )
        self.correction = self.correction + change
        return float(change.square().mean())

    def _learn(self, relative: Halves, correction: Tensor, memory: float) -> None:
        first = torch.where((self.steps == 1)[:, None], correction, 0.0)
        self.curvature = torch.maximum(self.curvature, _overshot(relative.mean, first))
        self.power = torch.cat([self.power, (1 + relative.mean).square().sum(1)[None]])
        weight = (2 / (self.steps + 2)).clamp(min=memory)[:, None] * outlier_weights(self.power)[-1:].T
        damping = self.damping[:, None]
        first, second = (
            kept + weight * (correction - damping * half / 2 - kept)
            for kept, half in zip(self.evidence, (relative.first, relative.second), strict=True)
        )
        self.evidence, self.steps = (first, second), self.steps + 1


def ascend(
    problem: Problem, state: Ascent, control: Control | None, steps: int, memory: float
) -> tuple[int, list[Measured]]:
    """Follow the true gradient while it promises a gain.

    Returns
    -------
    tuple
        Number of passes that were followed by a step, and the measurements at the final scales, if any.
    """
    gains: list[Tensor] = []
    for step in range(steps):
        fresh, free = problem.measured(state.scales, control), problem.free(state.scales)
        far = is_far(problem, state.scales, fresh.deviations)[0]
        gain = torch.stack(fresh.shortfall(free, problem.counted))
        gains.append(torch.where(far, torch.nan, gain))
        if not bool(far.any()):
            if _promised(gains[-RECENT:]) < PASS_GAIN:
                # This noise is independent of the scales. It is not of the decision to stop here, which the calibration
                # of the gap includes.
                return step, [fresh]
            moved = state.step(problem, [fresh], memory)
            if moved < STEP_GAIN and not state.is_stiff and int(state.steps.min()) >= LEAST_STEPS:
                return step + 1, []
            continue
        _step_near(problem, state, fresh, far, memory)
    return steps, []


def _step_near(problem: Problem, state: Ascent, fresh: Measured, far: Tensor, memory: float) -> None:
    """Step at the samples that nearly meet their constraint; only meet it at the others."""
    near, off = (~far).nonzero().flatten(), far.nonzero().flatten()
    if len(near):
        part = state.at(near)
        part.step(problem.at(near), [fresh.at(near)], memory)
        state.put(near, part)
    state.scales = state.scales.index_copy(0, off, feasible(problem.at(off), state.scales[off]))


def _promised(recent: Sequence[Tensor]) -> float:
    """Gain in nats that recent passes promise, on average over the samples, plus its standard error.

    Each pass has the gains and their errors, (2, S); NaN where a sample's constraint was far off. Every sample has the
    same weight, also one that was near its constraint in few passes.
    """
    gains, errors = torch.stack(list(recent)).unbind(1)
    passes = gains.isfinite().sum(0)
    seen, count = (passes > 0).sum(), passes.clamp(min=1)
    error = (errors.nan_to_num(0.0) / count).square().sum().sqrt()
    return float((gains.nan_to_num(0.0).sum(0) / count).sum() / seen + error / seen)


def _overshot(relative: Tensor, step: Tensor) -> Tensor:
    """Curvature from the part of the relative gradient that remains along a first full Newton step (S, n), (S,).

    Estimates of single samples are noisy: they count only above the common one. It is 1 at samples that took no step.
    """
    left, size = (relative * step).sum(1), step.square().sum(1)
    own, all_ = left / size.clamp(min=1e-12), left.sum() / size.sum().clamp(min=1e-12)
    found = (1 + torch.maximum(own, all_) / 2).clamp(1.0, MOST_CURVATURE)
    return torch.where(size > 0, found, 1.0)
