"""Exact integrals of a layer's deviation along each unit's noise, for piecewise constant layers.

Along one input, a tree ensemble changes only where the input crosses a threshold. Between two neighboring thresholds,
at standard noise a and b, the deviation is a constant d, and the interval adds ``d (a phi(a) - b phi(b))`` to
``sigma_i dL/dsigma_i`` and ``d (Phi(b) - Phi(a))`` to the deviation L.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .journal import Sums
from .probe import LayerProbe
from .radial import Integrals

#: Standard noise beyond which thresholds are ignored: its probability is 2e-9.
FARTHEST = 6.0


class Intervals:
    """Integrates exactly over the intervals between thresholds.

    Parameters
    ----------
    feature
        Probe of the layer at one sample.
    thresholds
        Ascending values of each unit at which the feature may jump, in the model's units: n tensors.
    counted
        Counted units, (n,) bool.
    """

    def __init__(self, feature: LayerProbe, thresholds: Sequence[Tensor], counted: Tensor) -> None:
        self._feature, self._counted = feature, counted
        x = feature.x.reshape(-1).double()
        unit = feature.unit.double().expand(feature.x.shape).reshape(-1)
        #: Thresholds minus the sample's value, in standardized units.
        self.offsets = [(each.double() - x[i]) / unit[i] for i, each in enumerate(thresholds)]

    def __call__(self, sigma: Tensor, backgrounds: int, guess: Tensor) -> Integrals:
        """Integrate for every unit; see :class:`.radial.Integrator`. The guess is not used."""
        feature = self._feature
        units, places, of_gradient, of_level = self._pieces(sigma.double())
        delta = torch.randn((backgrounds, len(sigma)), generator=feature.noise, device=sigma.device) * sigma
        rows = torch.arange(backgrounds * len(units), device=sigma.device)
        found: list[Tensor] = []
        for step in feature.journal.steps(len(rows), feature.batch_size, Sums(parts=[found]), feature, delta):
            some = rows[step.start : step.stop]
            background, piece = some // len(units), some % len(units)
            x = delta[background]
            x[torch.arange(len(some), device=x.device), units[piece]] = places[piece].to(x)
            found.append(feature.deviations_at(x))
        deviations = torch.cat(found).reshape(backgrounds, -1).double()
        nothing = torch.zeros((backgrounds, len(sigma)), dtype=deviations.dtype, device=sigma.device)
        gradient = nothing.index_add(1, units, deviations * of_gradient)
        level = nothing.index_add(1, units, deviations * of_level)
        live = self._counted & torch.tensor([len(each) > 0 for each in self.offsets], device=sigma.device)
        return Integrals((gradient * live).to(sigma), level[:, live].mean(1).to(sigma), len(rows))

    def _pieces(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Unit of each interval, an offset within it, and its weights in gradient and deviation, (intervals,) each."""
        parts = [self._pieces_of(i, float(sigma[i])) for i in range(len(sigma)) if float(sigma[i]) > 0]
        units, *rest = zip(*parts, strict=True)
        return torch.cat(units), *(torch.cat(each) for each in rest)  # type: ignore[return-value]

    def _pieces_of(self, unit: int, sigma: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Intervals of one unit; see :meth:`_pieces`."""
        offsets = self.offsets[unit]
        near = offsets[(offsets / sigma).abs() <= FARTHEST]
        edges = torch.cat([near.new_tensor([-math.inf]), near / sigma, near.new_tensor([math.inf])])
        if not len(near):
            places = near.new_zeros(1)
        else:
            # Stay close to the first and last threshold: the next one, which is ignored, may be near.
            below, above = offsets[offsets < near[0]], offsets[offsets > near[-1]]
            first = max(float(near[0]) - sigma, float(below[-1]) if len(below) else -math.inf)
            last = min(float(near[-1]) + sigma, float(above[0]) if len(above) else math.inf)
            ends = torch.cat([near.new_tensor([first]), near, near.new_tensor([last])])
            places = (ends[:-1] + ends[1:]) / 2
        return torch.full((len(places),), unit, device=places.device), places, *_weights(edges)


def _weights(edges: Tensor) -> tuple[Tensor, Tensor]:
    """Integrals of ``z^2 - 1`` and of 1 over the intervals between edges, under the normal distribution."""
    density = torch.exp(-edges.square() / 2) / math.sqrt(2 * math.pi)
    moment = torch.where(edges.isfinite(), edges * density, 0.0)
    return moment[:-1] - moment[1:], torch.special.ndtr(edges[1:]) - torch.special.ndtr(edges[:-1])
