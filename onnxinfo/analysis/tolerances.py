"""Noise scales whose measured effect on a target is the wanted one, over all samples of a job."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..metrics.noisy_effects import LinearTarget, paired_effects
from ..metrics.sensitivity import Effect, dense_jacobians
from ..metrics.taps import TappedNetwork
from ..metrics.tolerance import Curve, Draws, OnGrid, Order, Quadratic, Tolerance, meet
from .job import Job
from .memory import for_each
from .settings import Progress, Report

#: Samples of a draw, drawn anew each time.
ROWS = 64
#: Share of a draw's samples that is drawn evenly, not in proportion to the expected effect.
EVEN = 0.2


@dataclass(frozen=True)
class Predicted:
    """What the Jacobians predict.

    Attributes
    ----------
    target
        The target at all samples, (S, m).
    products
        ``J J^T`` by layer, (T, S, m, m); empty without a control.
    quadratic
        Effect of noise per squared noise scale by layer and sample, (T, S).
    scales
        Scales of the wanted effect by layer; NaN where there are none.
    """

    target: Tensor
    products: Tensor
    quadratic: Tensor
    scales: Sequence[float]


def measure_tolerances(
    job: Job, network: TappedNetwork, effect: Effect, predicted: Predicted, wanted: float, report: Report
) -> list[Tolerance]:
    """Find the noise scale of every layer that has the wanted mean effect.

    Parameters
    ----------
    job, network
        The job, and its network with the target.
    effect
        Measure of the target's moves.
    predicted
        What the Jacobians predict.
    wanted
        The wanted mean effect.
    report
        Receives progress.
    """
    products, expected = predicted.products, torch.zeros(len(predicted.target), dtype=torch.float64)
    curves: list[Curve | None] = []
    for i, scale in enumerate(predicted.scales):
        if not math.isfinite(scale):
            curves.append(None)
            continue
        by_sample = predicted.quadratic[i] * scale**2
        curve: Curve = Quadratic(float(predicted.quadratic[i].mean()))
        if products.numel():
            linear = LinearTarget(effect, predicted.target, products[i], job.stream("linear target", i))
            by_sample, curve = linear.by_sample(scale), OnGrid(linear.mean)
        curves.append(curve)
        expected += (by_sample / by_sample.mean()).cpu()
    sweep = _Sweep(job, network, effect, expected, products.shape[-1] if products.numel() else 0, report)
    return meet(sweep, curves, predicted.scales, wanted)


class _Sweep:
    """Measures effects on compositions of samples.

    Parameters
    ----------
    job, network, effect, report
        As for :func:`measure_tolerances`.
    expected
        Expected effect at each sample, (S,).
    entries
        Number of the target's entries, whose Jacobians are the control; 0 without a control.
    """

    def __init__(
        self, job: Job, network: TappedNetwork, effect: Effect, expected: Tensor, entries: int, report: Report
    ) -> None:
        self._job, self._network, self._effect, self._report = job, network, effect, report
        self._entries, self._swept = entries, 0
        total = float(expected.sum())
        shares = expected / total if total > 0 else torch.full_like(expected, 1 / len(expected))
        shares = EVEN / len(shares) + (1 - EVEN) * shares
        #: Mean number of times that a draw has each sample.
        self._counts = ROWS * shares
        self._ends = self._counts.cumsum(0)

    def __call__(self, orders: Sequence[Order]) -> list[Draws]:
        """Measure effects by order and draw."""
        numbers = sorted({draw for order in orders for draw in order.draws})
        drawn = torch.cat([self._composition(draw) for draw in numbers])
        of_draw = torch.arange(len(numbers)).repeat_interleave(ROWS)
        sums = torch.zeros(2, len(orders), len(numbers), dtype=torch.float64)
        samples, done = sorted({*drawn.tolist()}), 0
        self._swept += 1
        self._report(Progress("tolerance", 0, len(samples)))

        def add(block: list[int]) -> None:
            nonlocal done
            chosen = torch.isin(drawn, torch.tensor(block))
            sums.add_(self._of_block(block, drawn[chosen], of_draw[chosen], orders, numbers))
            done += len(block)
            self._report(Progress("tolerance", done, len(samples)))

        size = jacobians_at_once(self._job, self._entries) if self._entries else self._job.batch_size
        for_each(self._job, [samples[at : at + size] for at in range(0, len(samples), size)], add)
        places = {draw: i for i, draw in enumerate(numbers)}
        return [
            Draws(*(sums[kind, i, [places[draw] for draw in order.draws]].tolist() for kind in (0, 1)))
            for i, order in enumerate(orders)
        ]

    def _composition(self, draw: int) -> Tensor:
        """Positions of the samples of a draw, (ROWS,): a systematic sample with the mean counts."""
        stream = torch.Generator().manual_seed(self._job.stream("composition", draw).initial_seed())
        places = torch.rand((), generator=stream, dtype=torch.float64) + torch.arange(ROWS, dtype=torch.float64)
        return torch.searchsorted(self._ends, places).clamp(max=len(self._ends) - 1)

    def _of_block(
        self, block: list[int], drawn: Tensor, of_draw: Tensor, orders: Sequence[Order], numbers: Sequence[int]
    ) -> Tensor:
        """Contributions of a block's samples to effects and controls, (2, orders, draws)."""
        job = self._job
        x, rows = job.inputs(block)
        dense = dense_jacobians(self._network, x, rows) if self._entries else []
        place = torch.searchsorted(torch.tensor(block), drawn)
        found = torch.zeros(2, len(orders), len(numbers), dtype=torch.float64)
        for start in range(0, len(drawn), job.batch_size):
            some = slice(start, start + job.batch_size)
            at, draws = place[some], of_draw[some]
            first, last = numbers[int(draws[0])], numbers[int(draws[-1])]
            open_ = [i for i, order in enumerate(orders) if order.draws.start <= last and order.draws.stop > first]

            at = at.to(x.device)
            effects = paired_effects(
                self._network,
                x[at],
                rows[at],
                self._effect,
                [(orders[i].layer, orders[i].scale) for i in open_],
                _at(dense, at) if dense else None,
                self._stream(block[0], start),
            )
            weights = 1 / (self._counts[drawn[some]] * len(self._counts))
            for kind, values in enumerate(effects):
                found[kind, open_] = found[kind, open_].index_add(1, draws, values.cpu() * weights)
        return found

    def _stream(self, *key: int) -> Callable[[int, int], torch.Generator]:
        return lambda layer, part: self._job.stream("tolerance", self._swept, layer, *key, part)


def _at(dense: Sequence[Tensor], places: Tensor) -> Callable[[int], Tensor]:
    return lambda layer: dense[layer][:, places]


def jacobians_at_once(job: Job, entries: int) -> int:
    """Number of samples whose Jacobians take about the memory of a batch's activations."""
    return max(1, 4 * job.batch_size // max(4, entries))
