"""Sensitivity of a layer to noise on tensors before it: squared Jacobians, and the noise that has a given effect."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .taps import TappedNetwork

#: Largest target whose Jacobians are computed exactly, by one backward pass per entry.
MOST_EXACT = 128
#: Draws of noise per sample: at first, and at most.
FIRST_DRAWS, MOST_DRAWS = 8, 1024
#: Relative standard error over draws at which a measurement ends.
STDERR = 0.018
#: Distance from the wanted effect, in logarithms, that is accepted: on few draws and on all.
REACHED, ACCEPTED = 0.01, 0.015
#: Number of measurements of a noise scale, and largest logarithm of a correction.
MEASUREMENTS, LARGEST_STEP = 24, 2.0


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
    if len(parts) == 1:
        return parts[0]
    return Jacobians(
        units=[torch.cat(units) for units in zip(*(part.units for part in parts), strict=True)],
        target=torch.cat([part.target for part in parts]),
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
    wide = [network.rows(value.detach(), i, count).double() for i, value in enumerate(values)]
    trace, stderr = sums.trace()
    return Jacobians(
        trace,
        stderr,
        trace if quadratic is None else quadratic.trace()[0],
        torch.stack([value.mean(1) for value in wide]),
        torch.stack([value.square().mean(1) for value in wide]),
        torch.stack([value.amin(1) for value in wide]),
        torch.stack([value.amax(1) for value in wide]),
        sums.units(),
        target,
    )


def directions_of(target: Tensor, probes: int, generator: torch.Generator) -> tuple[Iterator[Tensor], bool]:
    """Return the directions in which a target, (S, m), is differentiated, and whether they are all of its entries."""
    exact = target.shape[1] <= MOST_EXACT
    return _basis(target) if exact else _signs(target, probes, generator), exact


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


@dataclass(frozen=True)
class Tolerance:
    """Noise scale that has a wanted effect.

    Attributes
    ----------
    scale
        The noise scale; NaN if none was found.
    achieved
        Measured effect over the wanted one.
    stderr
        Standard error of that, over draws of noise.
    """

    scale: float = math.nan
    achieved: float = math.nan
    stderr: float = math.nan


@dataclass(frozen=True)
class Order:
    """Measurements to make at one layer: its position, a noise scale, and the numbers of draws of noise."""

    layer: int
    scale: float
    draws: range


#: Measures the mean effect of noise over all samples, by order and draw.
Sweep = Callable[[Sequence[Order]], Sequence[Sequence[float]]]


def meet(sweep: Sweep, predicted: Sequence[float], wanted: float) -> list[Tolerance]:
    """Correct predicted noise scales until their measured mean effect is the wanted one.

    The scale moves by secant steps in logarithms, on draws of noise that all steps share. Then draws are added until
    the standard error of the effect is small.

    Parameters
    ----------
    sweep
        Measures effects.
    predicted
        Scales predicted by the quadratic form; NaN where there are none.
    wanted
        The wanted mean effect.

    Returns
    -------
    list of Tolerance
        By layer.
    """
    searches = [_Search(i, scale, wanted) for i, scale in enumerate(predicted) if math.isfinite(scale)]
    for _ in range(MEASUREMENTS):
        orders = {search: search.order() for search in searches if search.is_open}
        if not orders:
            break
        for search, effects in zip(orders, sweep([*orders.values()]), strict=True):
            search.learn(effects)
    found = [Tolerance() for _ in predicted]
    for search in searches:
        found[search.layer] = search.found()
    return found


class _Search:
    """The noise scale of one layer, on its way to an effect."""

    def __init__(self, layer: int, scale: float, wanted: float) -> None:
        self.layer, self.is_open = layer, True
        self._scale, self._wanted, self._slope = scale, wanted, 2.0
        self._count = FIRST_DRAWS
        self._effects: list[float] = []
        self._before: tuple[float, float] | None = None

    def order(self) -> Order:
        """Return the measurements that are missing."""
        return Order(self.layer, self._scale, range(len(self._effects), self._count))

    def learn(self, effects: Sequence[float]) -> None:
        """Learn from measurements."""
        self._effects += effects
        missing, stderr = self._missing()
        if not math.isfinite(missing):
            # Effects vanish in rounding, or overflow.
            self.is_open = False
            return
        if abs(missing) > (REACHED if self._count == FIRST_DRAWS else ACCEPTED):
            self._step(missing)
        elif stderr > STDERR and self._count < MOST_DRAWS:
            self._count = min(MOST_DRAWS, self._count * max(2, min(8, math.ceil((stderr / STDERR) ** 2))))
            self._before = None
        else:
            self.is_open = False

    def found(self) -> Tolerance:
        """Return the scale, if the search has ended at one."""
        missing, stderr = self._missing() if self._effects else (math.nan, math.nan)
        if self.is_open or not math.isfinite(missing):
            return Tolerance()
        return Tolerance(self._scale, math.exp(-missing), stderr)

    def _missing(self) -> tuple[float, float]:
        """Logarithm of the wanted over the measured effect, and the relative standard error of the latter."""
        count, mean = len(self._effects), sum(self._effects) / len(self._effects)
        if not (math.isfinite(mean) and mean > 0):
            return math.nan, math.nan
        variance = sum((effect - mean) ** 2 for effect in self._effects) / (count - 1)
        return math.log(self._wanted / mean), math.sqrt(variance / count) / mean

    def _step(self, missing: float) -> None:
        at = math.log(self._scale)
        if self._before is not None:
            slope = (self._before[1] - missing) / (at - self._before[0])
            self._slope = min(8.0, max(0.25, slope))
        self._before = at, missing
        shift = missing / self._slope
        self._scale *= math.exp(min(LARGEST_STEP, max(-LARGEST_STEP, shift)))
        self._effects = []


def measured_effects(
    network: TappedNetwork,
    x: Tensor,
    rows: Tensor,
    effect: Effect,
    orders: Sequence[Order],
    stream: Callable[[int, int], torch.Generator],
) -> list[Tensor]:
    """Measure effects of noise, by order: (draws, S) each.

    Parameters
    ----------
    network
        The tapped network.
    x, rows
        Samples, (S, *shape), and their rows, (S,).
    effect
        Measure of the target's moves.
    orders
        What to measure.
    stream
        Returns the source of noise for a layer and a draw.
    """
    found = [torch.zeros(len(order.draws), len(x), dtype=torch.float64, device=x.device) for order in orders]
    for i, draw, at, target, moved in moved_targets(network, x, rows, orders, stream):
        found[i][draw, at] = effect.measure(target, moved)
    return found


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
    network, x, rows, orders, stream
        As for :func:`measured_effects`.
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
