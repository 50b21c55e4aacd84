"""Effects of noise beside those that it would have if the target were linear."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .sensitivity import Effect, effect_factors, quadratic_effect
from .taps import TappedNetwork

#: Number of pairs of deviations over all samples from which the mean effect of a linear target is estimated.
PAIRS = 2**15


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
        count, entries = target.shape
        self._effect, self._quadratic = effect, quadratic_effect(effect, target, products)
        values, vectors = torch.linalg.eigh(products.double())
        root = vectors * values.clamp(min=0).sqrt()[:, None]
        pairs = max(64, PAIRS // count)
        draws = torch.randn(pairs, count, entries, generator=generator, dtype=torch.float64, device=target.device)
        self._moves = torch.einsum("skl,dsl->dsk", root, draws)
        self._target = target.double().repeat(pairs, 1)
        factors = effect_factors(effect, target).double()
        self._small = torch.einsum("sak,dsa->dsk", factors, self._moves).square().sum(2)

    def by_sample(self, scale: float) -> Tensor:
        """Return the mean effect at each sample, (S,)."""
        return self._effects(scale).mean(0)

    def mean(self, scale: float) -> tuple[float, float]:
        """Return the mean effect over the samples and its standard error; the quadratic form is a control."""
        effects, small = self._effects(scale).mean(1), scale**2 * self._small.mean(1)
        apart = small - small.mean()
        factor = (effects * apart).sum() / apart.square().sum().clamp(min=torch.finfo(torch.float64).tiny)
        controlled = effects - factor * (small - scale**2 * self._quadratic.mean())
        return float(controlled.mean()), float(controlled.std()) / math.sqrt(len(controlled))

    def _effects(self, scale: float) -> Tensor:
        """Effects averaged over pairs of opposite deviations, (pairs, S)."""
        target, move = self._target, scale * self._moves.flatten(0, 1)
        both = self._effect.measure(target, target + move) + self._effect.measure(target, target - move)
        return (both / 2).reshape(self._small.shape)


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
