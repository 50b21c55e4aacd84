"""Whether many inputs evaluated together give what each gives alone, in values and in gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .rows import as_rows

#: Evaluates (B, *shape) inputs with the rows of their samples.
Evaluate = Callable[[Tensor, Tensor], list[Tensor]]

#: Which of two samples each trial input is a noisy copy of: one sample several times, at odd and at even positions.
_COPIES = (0, 1, 0, 0, 1)
#: Batch sizes of the trials, the gradients' among them: they take the most memory.
_SIZES, _SIZE_OF_GRADIENTS = (5, 2), 3
#: Noise of the copies, in standardized units.
_NOISE = 0.3
#: Differences that are rounding, of the norm of a feature, of what the noise does to it, and of the largest gradient.
_OF_VALUE, _OF_SPREAD, _OF_GRADIENT = 1e-3, 1e-3, 1e-2
#: The same for quantized networks: sums added up in another order may fall on the other side of a step of rounding.
_OF_SPREAD_ROUNDED, _OF_GRADIENT_ROUNDED = 0.2, 0.5
#: Difference, of the norm of a feature, that other neighbors may make in a batch of the same size.
_OF_NEIGHBOURS = 1e-5


@dataclass(frozen=True)
class Trial:
    """Noisy copies of samples, and what each of them gives alone.

    Attributes
    ----------
    x, rows
        The copies, and the rows of their samples.
    features
        Of all of them, (B, m) for each layer.
    cotangents
        What gradients are taken with, of the first few; none for the second of them, so that its gradient is 0.
    gradient
        Of the first few.
    """

    x: Tensor
    rows: Tensor
    features: list[Tensor]
    cotangents: list[Tensor]
    gradient: Tensor

    def holds(self, evaluate: Evaluate, *, rounded: bool = False) -> bool:
        """Whether another way to evaluate the copies gives the same, in batches of several sizes.

        Parameters
        ----------
        evaluate
            The other way.
        rounded
            The network rounds its activations. Then the same sums may differ by steps of rounding, and what tells
            whether the inputs of a batch influence each other is a batch with other neighbors.
        """
        of_spread, of_gradient = (_OF_SPREAD_ROUNDED, _OF_GRADIENT_ROUNDED) if rounded else (_OF_SPREAD, _OF_GRADIENT)
        for size in _SIZES:
            with torch.no_grad():
                features = evaluate(self.x[-size:], self.rows[-size:])
            pairs = zip(features, self.features, strict=True)
            if not all(same_features(feature, alone[-size:], of_spread) for feature, alone in pairs):
                return False
        size = _SIZE_OF_GRADIENTS
        gradient = _gradient(evaluate, self.x[:size], self.rows[:size], self.cotangents)
        if not _same_gradients(gradient, self.gradient, of_gradient):
            return False
        return not rounded or self._neighbours_do_not_matter(evaluate)

    def _neighbours_do_not_matter(self, evaluate: Evaluate) -> bool:
        """Whether the first input gives the same beside other inputs, which are larger than those of the trial."""
        with torch.no_grad():
            beside = evaluate(self.x, self.rows)
            beside_others = evaluate(torch.cat([self.x[:1], 2 * self.x[1:]]), self.rows)
        pairs = ((one[0].double(), other[0].double()) for one, other in zip(beside, beside_others, strict=True))
        return all(
            torch.equal(one, other) or bool((one - other).norm() <= _OF_NEIGHBOURS * one.norm()) for one, other in pairs
        )


def try_alone(alone: Evaluate, x: Tensor, rows: Tensor, unit: Tensor | float) -> Trial:
    """Evaluate noisy copies of samples one by one.

    Parameters
    ----------
    alone
        Evaluates inputs one by one.
    x, rows
        Two samples, which may be the same, and their rows.
    unit
        Standardized unit, broadcastable to x.
    """
    stream = torch.Generator().manual_seed(0)
    chosen = [i % len(x) for i in _COPIES]
    noise = torch.randn((len(chosen), *x.shape[1:]), generator=stream).to(x) * _NOISE
    copies, rows = x[chosen] + noise * unit, rows[chosen]
    with torch.no_grad():
        features = alone(copies, rows)
    size = _SIZE_OF_GRADIENTS
    cotangents = [_cotangent(feature, stream)[:size] for feature in features]
    gradient = _gradient(alone, copies[:size], rows[:size], cotangents)
    return Trial(copies, rows, features, cotangents, gradient)


def same_features(actual: Tensor, expected: Tensor, of_spread: float = _OF_SPREAD) -> bool:
    """Whether features (B, m) are the same but for rounding, each input for itself."""
    finite = expected.isfinite()
    if actual.shape != expected.shape or not torch.equal(actual.isfinite(), finite):
        return False
    a, e = (torch.where(finite, feature, 0).double() for feature in (actual, expected))
    spread = (e - e.mean(0)).norm(dim=1)
    return bool(((a - e).norm(dim=1) <= _OF_VALUE * e.norm(dim=1) + of_spread * spread).all())


def _same_gradients(actual: Tensor, expected: Tensor, of_gradient: float) -> bool:
    finite = expected.isfinite()
    if not torch.equal(actual.isfinite(), finite):
        return False
    a, e = (as_rows(torch.where(finite, gradient, 0).double()) for gradient in (actual, expected))
    return bool(((a - e).norm(dim=1) <= of_gradient * e.norm(dim=1).max()).all())


def _cotangent(feature: Tensor, stream: torch.Generator) -> Tensor:
    """Random signs that let each layer count alike, none for the second input."""
    signs = torch.randint(2, feature.shape, generator=stream).to(feature) * 2 - 1
    finite = torch.where(feature.isfinite(), feature, 0)
    spread = float((finite - finite.mean(0)).norm())
    signs[1] = 0
    return signs / spread if spread > 0 else signs


def _gradient(evaluate: Evaluate, x: Tensor, rows: Tensor, cotangents: Sequence[Tensor]) -> Tensor:
    """Gradient of the inputs, 0 where a layer has none."""
    leaf = x.detach().clone().requires_grad_(True)
    pairs = [(f, u) for f, u in zip(evaluate(leaf, rows), cotangents, strict=True) if f.requires_grad]
    if not pairs:
        return torch.zeros_like(leaf)
    (found,) = torch.autograd.grad(
        [feature for feature, _ in pairs], leaf, [u for _, u in pairs], allow_unused=True, materialize_grads=True
    )
    return found
