"""Effects of noise beside those that it would have if the target were linear."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .sensitivity import Effect, effect_factors, quadratic_effect
from .taps import TappedNetwork

#: Number of pairs of deviations over all samples in a portion.
PAIRS = 2**15
#: Relative standard error of a linear target's mean effect above which the number of portions doubles, and its limit.
PRECISE, MOST_PORTIONS = 0.009, 8


class LinearTarget:
    """Mean effect of noise on one layer if the target were linear: deviations are normal, with covariance ``J J^T``.

    Parameters
    ----------
    effect
        Measure of the target's moves.
    target
        The target, (S, m).
    products
        ``J J^T`` at each sample, (S, m, m).
    generator
        Source of the deviations, which all scales share.
    """

    def __init__(self, effect: Effect, target: Tensor, products: Tensor, generator: torch.Generator) -> None:
        self._effect, self._quadratic = effect, quadratic_effect(effect, target, products)
        values, vectors = torch.linalg.eigh(products.double())
        self._root = vectors * values.clamp(min=0).sqrt()[:, None]
        self._factors = effect_factors(effect, target).double()
        self._target, self._generator = target.double(), generator
        self._portions: list[_Portion] = []

    def by_sample(self, scale: float) -> Tensor:
        """Return the mean effect at each sample, (S,)."""
        return self._effects(scale, self._portion(0)).mean(0)

    def mean(self, scale: float) -> tuple[float, float]:
        """Return the mean effect over the samples and its standard error; the quadratic form is a control."""
        effects, small = torch.empty(0, dtype=torch.float64), torch.empty(0, dtype=torch.float64)
        number = 1
        while True:
            for portion in [self._portion(i) for i in range(number // 2, number)]:
                effects = torch.cat([effects, self._effects(scale, portion).mean(1).cpu()])
                small = torch.cat([small, scale**2 * portion.small.mean(1).cpu()])
            mean, stderr = self._controlled(effects, small, scale)
            if number == MOST_PORTIONS or not stderr > PRECISE * abs(mean):
                return mean, stderr
            number *= 2

    def _controlled(self, effects: Tensor, small: Tensor, scale: float) -> tuple[float, float]:
        apart = small - small.mean()
        factor = (effects * apart).sum() / apart.square().sum().clamp(min=torch.finfo(torch.float64).tiny)
        controlled = effects - factor * (small - scale**2 * float(self._quadratic.mean()))
        return float(controlled.mean()), float(controlled.std()) / math.sqrt(len(controlled))

    def _portion(self, place: int) -> _Portion:
        """Return the deviations of a portion; they are drawn when they are first needed, and kept for other scales."""
        while len(self._portions) <= place:
            count, entries = self._target.shape
            shape = (max(64, PAIRS // count), count, entries)
            normal = torch.randn(shape, generator=self._generator, dtype=torch.float64, device=self._target.device)
            moves = torch.einsum("skl,dsl->dsk", self._root, normal)
            self._portions.append(_Portion(moves, torch.einsum("sak,dsa->dsk", self._factors, moves).square().sum(2)))
        return self._portions[place]

    def _effects(self, scale: float, portion: _Portion) -> Tensor:
        """Effects averaged over pairs of opposite deviations, (pairs, S)."""
        target, move = self._target.repeat(len(portion.moves), 1), scale * portion.moves.flatten(0, 1)
        both = self._effect.measure(target, target + move) + self._effect.measure(target, target - move)
        return (both / 2).reshape(portion.small.shape)


@dataclass(frozen=True)
class _Portion:
    """Deviations of a linear target at each sample for a unit scale, (pairs, S, m), and small effects, (pairs, S)."""

    moves: Tensor
    small: Tensor


class Pair:
    """Noise on a layer, and the same with the opposite sign.

    Parameters
    ----------
    scale
        Standard deviation.
    generator
        Source of the noise, which is drawn when the layer's tensor is first seen.
    """

    def __init__(self, scale: float, generator: torch.Generator) -> None:
        self._scale, self._generator = scale, generator
        self.noise = torch.empty(0)

    def plus(self, value: Tensor) -> Tensor:
        """Return noise like the layer's tensor."""
        draw = torch.randn(value.shape, generator=self._generator, dtype=value.dtype, device=value.device)
        self.noise = self._scale * draw
        return self.noise

    def minus(self, value: Tensor) -> Tensor:
        """Return the opposite of the noise drawn before."""
        return -self.noise


def paired_effects(
    network: TappedNetwork,
    x: Tensor,
    rows: Tensor,
    effect: Effect,
    layers: Sequence[tuple[int, float]],
    jacobians: Callable[[int], Tensor] | None,
    stream: Callable[[int, int], torch.Generator],
) -> tuple[Tensor, Tensor]:
    """Measure effects of noise, averaged over pairs of opposite sign, and those for a linear target.

    Parameters
    ----------
    network
        The tapped network.
    x, rows
        Samples, (S, *shape), which may repeat, and their rows, (S,).
    effect
        Measure of the target's moves.
    layers
        Position and noise scale of each layer.
    jacobians
        Returns a layer's Jacobian at the samples, (m, S, n); None: there are none.
    stream
        Returns the source of noise for a layer and the first sample of a part.

    Returns
    -------
    effects, controls : Tensor
        (layers, S) each; controls are 0 without Jacobians.
    """
    effects, controls = (torch.zeros(len(layers), len(x), dtype=torch.float64, device=x.device) for _ in range(2))
    for at, given in network.parts(x, rows):
        count = at.stop - at.start
        target, values = network.begin(given, count)
        for i, (layer, scale) in enumerate(layers):
            pair = Pair(scale, stream(layer, at.start))
            above = effect.measure(target, network.resume(values, layer, pair.plus, count))
            below = effect.measure(target, network.resume(values, layer, pair.minus, count))
            effects[i, at] = (above + below) / 2
            if jacobians is not None:
                noise = network.rows(pair.noise, layer, count).float()
                move = torch.einsum("ksn,sn->sk", jacobians(layer)[:, at], noise)
                controls[i, at] = (effect.measure(target, target + move) + effect.measure(target, target - move)) / 2
    return effects, controls
