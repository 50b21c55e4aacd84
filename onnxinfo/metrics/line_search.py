"""Searches for the best noise scales of a piecewise constant layer, one unit at a time but over all its scales.

For fixed noise of the other units, the deviation is a constant ``d_k`` between two neighboring thresholds a and b of
one unit. The means of ``d_k`` over the noise of the other units therefore give the deviation for every scale of this
unit, ``L_i(sigma) = sum_k d_k (Phi(b / sigma) - Phi(a / sigma))``, and not only its derivative at the current one: the
search sees optima on the far side of a threshold, which a gradient does not.

A unit takes the scale that is worth most after all other free units are rescaled to meet the constraint. If the
deviation that unit i adds, ``L_i(sigma) - L_i(0)``, leaves the rest of the budget to the others, and these grow with
exponent p, a scale is worth ``log sigma + (free / p) log((B - L_i(sigma) + L_i(0)) / L_i(0))``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .intervals import FARTHEST, Intervals
from .probe import LayerProbe

#: Backgrounds (an even number, in pairs of opposite sign) of each sweep over all units.
SWEEPS = (8, 8, 8, 8, 16, 16, 16, 16)
#: Sweeps that only look at nearby scales, with damped steps; their results are averaged.
LOCAL_SWEEPS, LOCAL_BACKGROUNDS, LOCAL_STEP = 4, 32, 0.5
#: Minimum weight of the newest deviations, and of the local sweeps'.
LEAST_WEIGHT, LOCAL_WEIGHT = 0.3, 0.2
#: Scales per unit; the smallest, relative to the distance of the nearest threshold, and in any case.
SCALES, LEAST_OF_NEAREST, LEAST_SCALE = 120, 0.2, 1e-6
#: Largest change of the other units' log scales in one step, and of a unit's own in a local sweep.
MOST_OTHERS, MOST_LOCAL = 0.3, 0.5
#: Range of the exponent with which the deviation by the other units grows.
LEAST_EXPONENT, MOST_EXPONENT = 1.0, 12.0
#: Maximum share of the budget for a single unit if others are free; least share that is seen of the others.
MOST_SHARE, LEAST_SHARE = 0.98, 1e-3
#: Exponent of the deviation's growth that is assumed before anything is known.
FIRST_EXPONENT = 3.0


@dataclass(frozen=True)
class _Line:
    """One unit's intervals between thresholds.

    Attributes
    ----------
    places
        An offset within each interval, standardized, (intervals,).
    at_rest
        Position of the interval that holds the sample.
    scales
        Ascending scales, (scales,).
    chances
        Probability of each interval under noise of each scale, (scales, intervals).
    """

    places: Tensor
    at_rest: int
    scales: Tensor
    chances: Tensor

    @classmethod
    def of(cls, offsets: Tensor, cap: float) -> _Line | None:
        """The line of a unit with thresholds at ascending offsets; None if noise up to the cap crosses none."""
        near = offsets[offsets.abs() < FARTHEST * cap]
        if not len(near):
            return None
        nearest = float(near.abs().min())
        least = min(max(LEAST_OF_NEAREST * nearest, LEAST_SCALE * cap), cap / 2)
        scales = torch.linspace(math.log(least), math.log(cap), SCALES, dtype=near.dtype, device=near.device).exp()
        scales[-1] = cap
        edges = torch.cat([near.new_tensor([-math.inf]), near, near.new_tensor([math.inf])])
        below = torch.special.ndtr(edges / scales[:, None])
        at_rest = int((near < 0).sum())
        return cls(_within(offsets, near), at_rest, scales, below[:, 1:] - below[:, :-1])

    def nearest(self, scale: float) -> int:
        """Position of a scale."""
        return int((self.scales.log() - math.log(scale)).abs().argmin())


def _within(offsets: Tensor, near: Tensor) -> Tensor:
    """Offsets within the intervals between near thresholds; the outer ones end at the next threshold, if any."""
    first, last = int((offsets < near[0]).sum()), int((offsets <= near[-1]).sum())
    below = offsets[first - 1 : first] if first else near[:1] - 1
    above = offsets[last : last + 1] if last < len(offsets) else near[-1:] + 1
    ends = torch.cat([below, near, above])
    return (ends[:-1] + ends[1:]) / 2


@dataclass
class _State:
    """Log scales (n,), gradients ``dL/dlog sigma`` (n,), and mean deviations per interval of each unit."""

    logs: Tensor
    gradient: Tensor
    means: dict[int, Tensor]
    sweeps: int = 0


class LineSearch:
    """Searches along each unit in turn.

    Parameters
    ----------
    feature
        Probe of the layer at one sample.
    intervals
        The layer's thresholds.
    budget, cap
        Budget, and largest scale.
    counted
        Counted units, (n,) bool.
    """

    def __init__(self, feature: LayerProbe, intervals: Intervals, budget: float, cap: float, counted: Tensor) -> None:
        self._feature, self._budget, self._cap = feature, budget, cap
        lines = ((unit, _Line.of(each, cap)) for unit, each in enumerate(intervals.offsets) if bool(counted[unit]))
        self._lines = {unit: line for unit, line in lines if line is not None}
        self._counted = counted
        self.evaluations = 0

    def alone(self) -> Tensor:
        """Scales at which each unit, by itself, takes an equal share of the budget, (n,)."""
        found = torch.full((self._feature.units,), self._cap, dtype=torch.float64, device=self._counted.device)
        for unit, line in self._lines.items():
            x = torch.zeros((len(line.places), self._feature.units), device=found.device)
            x[:, unit] = line.places.to(x)
            level = line.chances @ self._evaluated(x)
            within = (level <= self._budget / len(self._lines)).nonzero().flatten()
            found[unit] = line.scales[within[-1] if len(within) else 0]
        return found

    def __call__(self, start: Tensor, stream: torch.Generator) -> tuple[Tensor, Tensor]:
        """Search from scales (n,); return the scales and the gradient ``dL/dlog sigma`` there, (n,)."""
        logs = start.double().clamp(max=self._cap).log()
        state = _State(logs, torch.full_like(logs, FIRST_EXPONENT * self._budget / max(len(self._lines), 1)), {})
        for backgrounds in SWEEPS:
            self._sweep(state, stream, backgrounds, local=False)
        passed = []
        for _ in range(LOCAL_SWEEPS):
            self._sweep(state, stream, LOCAL_BACKGROUNDS, local=True)
            passed.append(state.logs)
        logs = torch.stack(passed[1:]).mean(0)
        at_cap = state.logs >= math.log(self._cap)
        return torch.where(at_cap, self._cap, logs.exp()), state.gradient

    def _sweep(self, state: _State, stream: torch.Generator, backgrounds: int, *, local: bool) -> None:
        units = list(self._lines)
        state.sweeps += 1
        weight = max(2 / (state.sweeps + 1), LOCAL_WEIGHT if local else LEAST_WEIGHT)
        for position in torch.randperm(len(units), generator=stream, device=stream.device).tolist():
            unit = units[position]
            fresh = self._along(unit, state.logs.exp(), stream, backgrounds)
            known = state.means.get(unit, fresh)
            state.means[unit] = known + weight * (fresh - known)
            self._move(state, unit, local=local)

    def _along(self, unit: int, scales: Tensor, stream: torch.Generator, backgrounds: int) -> Tensor:
        """Mean deviation in each interval of a unit under noise of the others, (intervals,)."""
        line = self._lines[unit]
        half = torch.randn((backgrounds // 2, len(scales)), generator=stream, device=stream.device)
        half = half * (scales * self._counted).to(half)
        x = torch.cat([half, -half])[:, None].repeat(1, len(line.places), 1)
        x[:, :, unit] = line.places.to(x)
        return self._evaluated(x.flatten(0, 1)).reshape(backgrounds, -1).mean(0)

    def _evaluated(self, x: Tensor) -> Tensor:
        self.evaluations += len(x)
        parts = [self._feature.deviations_at(some) for some in torch.split(x, self._feature.batch_size)]
        return torch.cat(parts).double()

    def _move(self, state: _State, unit: int, *, local: bool) -> None:
        """Give a unit its best scale, and rescale the other free units to what it leaves of the budget."""
        line, means = self._lines[unit], state.means[unit]
        level, rest = line.chances @ means, float(means[line.at_rest])
        here = line.nearest(math.exp(float(state.logs[unit])))
        state.gradient[unit] = _slope(line.scales.log(), level, here)
        free = self._free(state, unit)
        count = int(free.sum())
        logs = line.scales.log()
        if count:
            rest = max(rest, LEAST_SHARE * self._budget)
            exponent = float(state.gradient[free].clamp(min=0).sum()) / rest
            exponent = min(max(exponent, LEAST_EXPONENT), MOST_EXPONENT)
            left = self._budget - (level - rest).clamp(min=-self._budget)
            others = (left / rest).clamp(min=LEAST_SHARE).log() / exponent
            worth = torch.where(left >= (1 - MOST_SHARE) * self._budget, logs + count * others, -math.inf)
        else:
            others = torch.zeros_like(logs)
            worth = torch.where(level <= self._budget, logs, -math.inf)
        if local:
            worth = torch.where((logs - state.logs[unit]).abs() < MOST_LOCAL, worth, -math.inf)
        best, damping = int(worth.argmax()), LOCAL_STEP if local else 1.0
        if not bool(worth[best].isfinite()):
            best = max(here - 1, 0)
        change = torch.where(free, others[best].clamp(-MOST_OTHERS, MOST_OTHERS), 0.0)
        change[unit] = logs[best] - state.logs[unit]
        state.logs = (state.logs + damping * change).clamp(max=math.log(self._cap))

    def _free(self, state: _State, unit: int) -> Tensor:
        """Other units that matter and are below the cap, (n,) bool."""
        free = torch.zeros_like(self._counted)
        free[list(self._lines)] = True
        free &= state.logs < math.log(self._cap)
        free[unit] = False
        return free


def _slope(x: Tensor, y: Tensor, at: int) -> Tensor:
    """Central difference."""
    low, high = max(at - 1, 0), min(at + 1, len(x) - 1)
    return (y[high] - y[low]) / (x[high] - x[low])
