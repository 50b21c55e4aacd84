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
#: Copies whose gradients are tried, in pairs that begin with the first and with the second.
_WITH_GRADIENTS = 3
_PAIRS = range(_WITH_GRADIENTS - TRIED_INPUTS + 1)
#: Copy in both pairs whose cotangents are zero: no gradient reaches it unless the copies influence each other.
_SILENT = 1
#: Noise added to the copies, in standardized units.
_NOISE = 0.3
#: Rounding tolerances, relative to the norm of a feature, to its spread under the noise, and to the largest gradient.
_OF_VALUE, _OF_SPREAD, _OF_GRADIENT = 1e-3, 1e-3, 1e-2
#: The same for quantized networks, where another order of summation may round to the neighboring step.
_OF_SPREAD_ROUNDED, _OF_GRADIENT_ROUNDED = 0.2, 0.5
#: The gradient's if other neighbors change nothing: rounding may move an activation to the other side of its kink.
_OF_GRADIENT_KINKS = 0.2
#: Tolerance for other neighbors in a batch of the same size, relative to the norm of a feature or gradient.
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
            neighbors tests whether the inputs of a batch influence each other. So it does where gradients differ as an
            activation at its kink makes them.
        """
        of_spread = _OF_SPREAD_ROUNDED if rounded else _OF_SPREAD
        for size in _SIZES:
            with torch.no_grad():
                features = evaluate(self.x[-size:], self.rows[-size:])
            pairs = zip(features, self.features, strict=True)
            if not all(same_features(feature, alone[-size:], of_spread) for feature, alone in pairs):
                return False
        gradients = [self._gradient_of(evaluate, self.x, start) for start in _PAIRS]
        if any(self._leaks(gradient, start) for gradient, start in zip(gradients, _PAIRS, strict=True)):
            return False
        if not rounded and self._has_gradients(gradients, _OF_GRADIENT):
            return True
        return self._has_gradients(gradients, _OF_GRADIENT_ROUNDED if rounded else _OF_GRADIENT_KINKS) and (
            self._neighbors_do_not_matter(evaluate, gradients)
        )

    def _gradient_of(self, evaluate: Evaluate, x: Tensor, start: int) -> Tensor:
        """Gradient at two of the copies, of which the second copy, whose cotangents are zero, is one."""
        part = slice(start, start + TRIED_INPUTS)
        return _gradient(evaluate, x[part], self.rows[part], [cotangent[part] for cotangent in self.cotangents])

    def _leaks(self, gradient: Tensor, start: int) -> bool:
        """Whether the first or third copy's result has a gradient with respect to the second copy."""
        leaked = gradient[_SILENT - start].double()
        leaked = torch.where(self.gradient[_SILENT].isfinite(), leaked, 0)
        return not bool(leaked.norm() <= _OF_NEIGHBORS * _largest(self.gradient[start : start + TRIED_INPUTS]))

    def _has_gradients(self, gradients: Sequence[Tensor], tolerance: float) -> bool:
        return all(
            _same_gradients(gradient, self.gradient[start : start + TRIED_INPUTS], tolerance)
            for gradient, start in zip(gradients, _PAIRS, strict=True)
        )

    def _neighbors_do_not_matter(self, evaluate: Evaluate, gradients: Sequence[Tensor]) -> bool:
        """Check that inputs give the same results next to other inputs, larger than those of the trial.

        The batches have the same size, so that they round alike unless their inputs influence each other.
        """
        with torch.no_grad():
            beside = evaluate(self.x, self.rows)
            beside_others = evaluate(torch.cat([self.x[:1], 2 * self.x[1:]]), self.rows)
        pairs = [(one[0], other[0]) for one, other in zip(beside, beside_others, strict=True)]
        others = self.x.clone()
        others[_SILENT] *= 2
        for gradient, start in zip(gradients, _PAIRS, strict=True):
            # The other copy of the first pair comes first, that of the second pair last.
            pairs.append((gradient[start], self._gradient_of(evaluate, others, start)[start]))
        return all(map(_unmoved, pairs))


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
    return bool(((a - e).norm(dim=1) <= of_gradient * _largest(e)).all())


def _largest(gradients: Tensor) -> float:
    """Largest norm of the gradients of several inputs, without what is not finite."""
    return float(as_rows(torch.where(gradients.isfinite(), gradients, 0).double()).norm(dim=1).max())


def _unmoved(pair: tuple[Tensor, Tensor]) -> bool:
    if not torch.equal(*(each.isfinite() for each in pair)):
        return False
    one, other = (torch.where(each.isfinite(), each, 0).double() for each in pair)
    return bool((one - other).norm() <= _OF_NEIGHBORS * one.norm())


def _cotangent(feature: Tensor, stream: torch.Generator) -> Tensor:
    """Random signs, scaled so that all layers have equal weight; zero for the second input."""
    signs = torch.randint(2, feature.shape, generator=stream).to(feature) * 2 - 1
    finite = torch.where(feature.isfinite(), feature, 0)
    spread = float((finite - finite.mean(0)).norm())
    signs[_SILENT] = 0
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
