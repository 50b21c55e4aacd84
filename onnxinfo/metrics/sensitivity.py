"""Sensitivity of a layer to noise on tensors before it: squared Jacobians, and the noise that has a given effect."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from .taps import TappedNetwork
from .tolerance import Order

#: Largest target whose Jacobians are computed exactly, by one backward pass per entry.
MOST_EXACT = 128
#: Largest target whose Jacobians are also multiplied with each other.
MOST_MULTIPLIED = 32


class Effect(Protocol):
    """Measure of how much a target is moved: a quadratic form for small deviations, and its value for any."""

    def factor(self, target: Tensor, directions: Tensor) -> Tensor:
        """Return ``L d`` for directions d, (S, m), where the effect of a small deviation f is ``|L^T f|^2``."""

    def measure(self, target: Tensor, moved: Tensor) -> Tensor:
        """Return the effect on each sample, (S,), of moving the target, (S, m)."""


class Squared:
    """Squared Euclidean distance of the target's values."""

    def factor(self, target: Tensor, directions: Tensor) -> Tensor:
        """Return the directions: the effect is their squared length."""
        return directions

    def measure(self, target: Tensor, moved: Tensor) -> Tensor:
        """Return squared distances."""
        return (moved - target).double().square().sum(1)


class Divergence:
    """Kullback-Leibler divergence, in nats, between the class probabilities before and after the move."""

    def factor(self, target: Tensor, directions: Tensor) -> Tensor:
        """Return ``L d / sqrt(2)``, where ``L L^T`` is the Fisher information of the probabilities."""
        p = target.softmax(1)
        scaled = p.sqrt() * directions
        return (scaled - p * scaled.sum(1, keepdim=True)) / math.sqrt(2)

    def measure(self, target: Tensor, moved: Tensor) -> Tensor:
        """Return divergences."""
        before, after = target.double().log_softmax(1), moved.double().log_softmax(1)
        return (before.exp() * (before - after)).sum(1)


@dataclass(frozen=True)
class Jacobians:
    """Squared Jacobians of a target by some layers at S samples.

    Attributes
    ----------
    trace
        ``tr(J^T J)`` by layer and sample, (T, S).
    trace_stderr
        Its standard error over probes, 0 where it is exact, (T, S).
    effect
        Effect of noise per squared noise scale, (T, S): the trace for :class:`Squared`.
    mean, square, low, high
        Mean, mean square, minimum and maximum of each layer's values, (T, S).
    units
        Column sums of squares ``sum_m J_mi^2`` by layer, each (S, n).
    target
        The target, (S, m).
    products
        ``J J^T`` by layer, (T, S, m, m); empty if it was not asked for.
    """

    trace: Tensor
    trace_stderr: Tensor
    effect: Tensor
    mean: Tensor
    square: Tensor
    low: Tensor
    high: Tensor
    units: list[Tensor]
    target: Tensor
    products: Tensor = field(default_factory=lambda: torch.empty(0))


def squared_jacobians(
    network: TappedNetwork, x: Tensor, rows: Tensor, effect: Effect, probes: int, generator: torch.Generator
) -> Jacobians:
    """Compute squared Jacobians of the target with respect to all layers, by the same backward passes.

    Parameters
    ----------
    network
        The tapped network.
    x, rows
        Samples, (S, *shape), and their rows, (S,).
    effect
        Measure of the target's moves.
    probes
        Number of random directions where the target has more than ``MOST_EXACT`` entries.
    generator
        Source of the directions.
    """
    parts = [
        _of_part(network, given, at.stop - at.start, effect, probes, generator) for at, given in network.parts(x, rows)
    ]
    return _joined(parts)


def _joined(parts: Sequence[Jacobians]) -> Jacobians:
    if len(parts) == 1:
        return parts[0]
    return Jacobians(
        units=[torch.cat(units) for units in zip(*(part.units for part in parts), strict=True)],
        target=torch.cat([part.target for part in parts]),
        products=torch.cat([part.products for part in parts], 1 if parts[0].products.dim() > 1 else 0),
        **{name: torch.cat([getattr(part, name) for part in parts], 1) for name in _BY_LAYER},
    )


_BY_LAYER = ("trace", "trace_stderr", "effect", "mean", "square", "low", "high")


def _of_part(
    network: TappedNetwork,
    given: Sequence[Tensor],
    count: int,
    effect: Effect,
    probes: int,
    generator: torch.Generator,
) -> Jacobians:
    out = network.forward(given, count)
    values, target = network.seen(), out.detach()
    directions, exact = directions_of(target, probes, generator)
    sums = _Sums(network, values, count, exact)
    quadratic = None if isinstance(effect, Squared) else _Sums(network, values, count, exact)
    for direction in directions:
        sums.add(gradients_of(out, values, direction))
        if quadratic is not None:
            quadratic.add(gradients_of(out, values, effect.factor(target, direction)))
    trace, stderr = sums.trace()
    return Jacobians(
        trace,
        stderr,
        trace if quadratic is None else quadratic.trace()[0],
        *_statistics(network, values, count),
        sums.units(),
        target,
    )


def _statistics(network: TappedNetwork, values: Sequence[Tensor], count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean, mean square, minimum and maximum of the layers' values, (T, S) each."""
    wide = [network.rows(value.detach(), i, count).double() for i, value in enumerate(values)]
    return (
        torch.stack([value.mean(1) for value in wide]),
        torch.stack([value.square().mean(1) for value in wide]),
        torch.stack([value.amin(1) for value in wide]),
        torch.stack([value.amax(1) for value in wide]),
    )


def directions_of(target: Tensor, probes: int, generator: torch.Generator) -> tuple[Iterator[Tensor], bool]:
    """Return the directions in which a target, (S, m), is differentiated, and whether they are all of its entries."""
    exact = target.shape[1] <= MOST_EXACT
    return _basis(target) if exact else _signs(target, probes, generator), exact


def multiplied_jacobians(network: TappedNetwork, x: Tensor, rows: Tensor, effect: Effect) -> Jacobians:
    """Compute exact Jacobians like :func:`squared_jacobians`, and their products with each other.

    Parameters
    ----------
    network, x, rows, effect
        As for :func:`squared_jacobians`; the Jacobians of all layers at these samples are in memory at once.
    """
    parts = []
    for at, given in network.parts(x, rows):
        count = at.stop - at.start
        target, values, dense = _dense(network, given, count)
        products = torch.stack([torch.einsum("ksn,lsn->skl", each, each) for each in dense]).double()
        parts.append(
            Jacobians(
                torch.stack([each.square().sum((0, 2), dtype=torch.float64) for each in dense]),
                torch.zeros(len(dense), count, dtype=torch.float64, device=target.device),
                quadratic_effect(effect, target, products),
                *_statistics(network, values, count),
                [each.square().sum(0) for each in dense],
                target,
                products,
            )
        )
    return _joined(parts)


def quadratic_effect(effect: Effect, target: Tensor, products: Tensor) -> Tensor:
    """Effect of noise per squared noise scale, (..., S), given ``J J^T``, (..., S, m, m)."""
    factors = effect_factors(effect, target).to(products)
    return torch.einsum("sak,...sab,sbk->...s", factors, products, factors)


def effect_factors(effect: Effect, target: Tensor) -> Tensor:
    """Factors L at each sample, (S, m, m), where the effect of a small deviation f is ``|L^T f|^2``."""
    return torch.stack([effect.factor(target, direction) for direction in _basis(target)], 2)


def dense_jacobians(network: TappedNetwork, x: Tensor, rows: Tensor) -> list[Tensor]:
    """Jacobians of the target by each layer, (m, S, n) each."""
    parts = [_dense(network, given, at.stop - at.start)[2] for at, given in network.parts(x, rows)]
    return parts[0] if len(parts) == 1 else [torch.cat(each, 1) for each in zip(*parts, strict=True)]


def _dense(network: TappedNetwork, given: Sequence[Tensor], count: int) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Target (S, m), layers' values, and the Jacobian by each layer, (m, S, n)."""
    out = network.forward(given, count)
    values, target = network.seen(), out.detach()
    dense: list[list[Tensor]] = [[] for _ in values]
    for direction in _basis(target):
        for i, gradient in enumerate(gradients_of(out, values, direction)):
            shown = torch.zeros_like(values[i], dtype=torch.float32) if gradient is None else gradient.float()
            dense[i].append(network.rows(shown, i, count))
    return target, values, [torch.stack(each) for each in dense]


def _basis(target: Tensor) -> Iterator[Tensor]:
    for i in range(target.shape[1]):
        direction = torch.zeros_like(target)
        direction[:, i] = 1
        yield direction


def _signs(target: Tensor, count: int, generator: torch.Generator) -> Iterator[Tensor]:
    for _ in range(count):
        signs = torch.randint(0, 2, target.shape, generator=generator, device=target.device)
        yield signs.to(target) * 2 - 1


def gradients_of(out: Tensor, values: Sequence[Tensor], direction: Tensor) -> list[Tensor | None]:
    """Return the gradients of a target, (S, m), in a direction, by each layer's tensor; None is zero."""
    wanted = [i for i, value in enumerate(values) if value.requires_grad]
    found = torch.autograd.grad(
        out, [values[i] for i in wanted], direction.to(out), retain_graph=True, allow_unused=True
    )
    gradients: list[Tensor | None] = [None] * len(values)
    for i, gradient in zip(wanted, found, strict=True):
        gradients[i] = gradient
    return gradients


class _Sums:
    """Sums of squared gradients over directions, by layer, in the layers' own shapes and memory formats."""

    def __init__(self, network: TappedNetwork, values: Sequence[Tensor], count: int, exact: bool) -> None:
        self._network, self._count, self._exact = network, count, exact
        self._sums = [torch.zeros_like(value, dtype=torch.float32, requires_grad=False) for value in values]
        self._traces: list[Tensor] = []

    def add(self, gradients: Sequence[Tensor | None]) -> None:
        """Add the gradients by one direction; None is zero."""
        for i, gradient in enumerate(gradients):
            if gradient is not None:
                self._sums[i].addcmul_(gradient.float(), gradient.float())
        if not self._exact:
            self._traces.append(self._total())

    def _total(self) -> Tensor:
        return torch.stack([units.sum(1, dtype=torch.float64) for units in self._rows()])

    def _rows(self) -> list[Tensor]:
        return [self._network.rows(total, i, self._count) for i, total in enumerate(self._sums)]

    def trace(self) -> tuple[Tensor, Tensor]:
        """Trace by layer and sample, and its standard error."""
        if self._exact:
            return self._total(), torch.zeros_like(self._total())
        running = torch.stack(self._traces)
        each = torch.diff(running, dim=0, prepend=torch.zeros_like(running[:1]))
        return each.mean(0), each.std(0) / math.sqrt(len(each))

    def units(self) -> list[Tensor]:
        """Column sums of squares by layer."""
        return [units if self._exact else units / len(self._traces) for units in self._rows()]


def moved_targets(
    network: TappedNetwork,
    x: Tensor,
    rows: Tensor,
    orders: Sequence[Order],
    stream: Callable[[int, int], torch.Generator],
) -> Iterator[tuple[int, int, slice, Tensor, Tensor]]:
    """Yield the target under noise: positions of order and draw, places of the samples, target without and with noise.

    Parameters
    ----------
    network
        The tapped network.
    x, rows
        Samples, (S, *shape), and their rows, (S,).
    orders
        What to measure.
    stream
        Returns the source of noise for a layer and a draw.
    """
    for at, given in network.parts(x, rows):
        count = at.stop - at.start
        target, values = network.begin(given, count)
        for i, order in enumerate(orders):
            for j, draw in enumerate(order.draws):
                noise = _noise(stream(order.layer, draw), order.scale, at.start)
                yield i, j, at, target, network.resume(values, order.layer, noise, count)


def _noise(generator: torch.Generator, scale: float, skipped: int) -> Callable[[Tensor], Tensor]:
    # Samples that are evaluated one by one have noise of their own.
    generator.manual_seed(generator.initial_seed() + skipped)

    def draw(value: Tensor) -> Tensor:
        return scale * torch.randn(value.shape, generator=generator, dtype=value.dtype, device=value.device)

    return draw
