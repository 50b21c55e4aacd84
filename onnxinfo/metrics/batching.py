"""Check that evaluating inputs as a batch gives the same values and gradients as evaluating them one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .rows import as_rows

#: Evaluates (B, *shape) inputs; the second argument holds the rows of their samples.
Evaluate = Callable[[Tensor, Tensor], list[Tensor]]

#: Sample that each trial input is a noisy copy of: one of the two appears several times, at odd and even positions.
_COPIES = (0, 1, 0, 0, 1)
#: Batch sizes of the trials without gradients.
_SIZES = 5, 2
#: Inputs that are evaluated at once with gradients, which take the most memory, whatever the limit.
TRIED_INPUTS = 2
#: Copies whose gradients are tried, so that each of the two samples comes first once.
_WITH_GRADIENTS = 3
#: Noise added to the copies, in standardized units.
_NOISE = 0.3
#: Rounding tolerances, relative to the norm of a feature, to its spread under the noise, and to the largest gradient.
_OF_VALUE, _OF_SPREAD, _OF_GRADIENT = 1e-3, 1e-3, 1e-2
#: The same for quantized networks, where another order of summation may round to the neighboring step.
_OF_SPREAD_ROUNDED, _OF_GRADIENT_ROUNDED = 0.2, 0.5
#: Tolerance for other neighbors in a batch of the same size, relative to the norm of a feature.
_OF_NEIGHBORS = 1e-5


@dataclass(frozen=True)
class Trial:
    """Noisy copies of samples with their reference results, evaluated one by one.

    Attributes
    ----------
    x, rows
        The copies, and the rows of their samples.
    features
        Features of all copies, (B, m) for each layer.
    cotangents
        Cotangents of the first few copies; zero for the second, so that its gradient is 0.
    gradient
        Gradient at the first few copies.
    """

    x: Tensor
    rows: Tensor
    features: list[Tensor]
    cotangents: list[Tensor]
    gradient: Tensor

    def holds(self, evaluate: Evaluate, *, rounded: bool = False) -> bool:
        """Check whether another way of evaluating the copies reproduces the results, in batches of several sizes.

        Parameters
        ----------
        evaluate
            The other evaluation.
        rounded
            The network rounds its activations. The same sums may then differ by whole steps, so a batch with other
            neighbors tests whether the inputs of a batch influence each other.
        """
        of_spread, of_gradient = (_OF_SPREAD_ROUNDED, _OF_GRADIENT_ROUNDED) if rounded else (_OF_SPREAD, _OF_GRADIENT)
        for size in _SIZES:
            with torch.no_grad():
                features = evaluate(self.x[-size:], self.rows[-size:])
            pairs = zip(features, self.features, strict=True)
            if not all(same_features(feature, alone[-size:], of_spread) for feature, alone in pairs):
                return False
        for start in range(_WITH_GRADIENTS - TRIED_INPUTS + 1):
            part = slice(start, start + TRIED_INPUTS)
            cotangents = [cotangent[part] for cotangent in self.cotangents]
            gradient = _gradient(evaluate, self.x[part], self.rows[part], cotangents)
            if not _same_gradients(gradient, self.gradient[part], of_gradient):
                return False
        return not rounded or self._neighbors_do_not_matter(evaluate)

    def _neighbors_do_not_matter(self, evaluate: Evaluate) -> bool:
        """Check that the first input gives the same result next to other inputs, larger than those of the trial."""
        with torch.no_grad():
            beside = evaluate(self.x, self.rows)
            beside_others = evaluate(torch.cat([self.x[:1], 2 * self.x[1:]]), self.rows)
        pairs = ((one[0].double(), other[0].double()) for one, other in zip(beside, beside_others, strict=True))
        return all(
            torch.equal(one, other) or bool((one - other).norm() <= _OF_NEIGHBORS * one.norm()) for one, other in pairs
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
    cotangents = [_cotangent(feature, stream)[:_WITH_GRADIENTS] for feature in features]
    single = [slice(i, i + 1) for i in range(_WITH_GRADIENTS)]
    gradients = [_gradient(alone, copies[one], rows[one], [each[one] for each in cotangents]) for one in single]
    return Trial(copies, rows, features, cotangents, torch.cat(gradients))


def same_features(actual: Tensor, expected: Tensor, of_spread: float = _OF_SPREAD) -> bool:
    """Whether features (B, m) agree up to rounding, compared input by input."""
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
    """Random signs, scaled so that all layers have equal weight; zero for the second input."""
    signs = torch.randint(2, feature.shape, generator=stream).to(feature) * 2 - 1
    finite = torch.where(feature.isfinite(), feature, 0)
    spread = float((finite - finite.mean(0)).norm())
    signs[1] = 0
    return signs / spread if spread > 0 else signs


def _gradient(evaluate: Evaluate, x: Tensor, rows: Tensor, cotangents: Sequence[Tensor]) -> Tensor:
    """Gradient with respect to the inputs; 0 where a layer has none."""
    leaf = x.detach().clone().requires_grad_(True)
    pairs = [(f, u) for f, u in zip(evaluate(leaf, rows), cotangents, strict=True) if f.requires_grad]
    if not pairs:
        return torch.zeros_like(leaf)
    (found,) = torch.autograd.grad(
        [feature for feature, _ in pairs], leaf, [u for _, u in pairs], allow_unused=True, materialize_grads=True
    )
    return found
