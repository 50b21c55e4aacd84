"""Control variate for features with many entries: how the noise of neighboring units interacts, from few products.

Of a linear layer, the pathwise gradient is ``2 sigma_i delta_i sum_j (J_i . J_j) sigma_j delta_j``: nearly all of its
noise comes from the pairs i, j. The vector-Jacobian products ``p = J^T u`` of the Gauss-Newton round, with random signs
u, estimate these dot products, ``E[p_i p_j] = J_i . J_j``. For any fixed matrix M the mean of
``2 sigma_i delta_i sum_j M_ij sigma_j delta_j`` is ``2 sigma_i^2 M_ii``, so a multiple of its difference from this mean
may be subtracted: the expectation stays the same, and the closer M is, the lower the variance.

Distant pairs interact little, and their estimates are mostly noise. Pairs are therefore grouped by distance, and each
group gets a weight of its own, measured by how much of the gradient's variance it explains.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .halves import HalfSums

#: Axes up to this size (mostly channels) have no distances.
SHORT_AXIS = 4
#: Largest distance of neighbors along each long axis; all other pairs have weights in common.
REACH = 1
#: Minimum number of products, and maximum number of bytes that they and the dot products of neighbors may take.
LEAST_PRODUCTS, MOST_BYTES = 16, 2**25
#: Features with at most so many entries have a linear model instead.
FEW_ENTRIES = 16
#: Number of units per sample from which on couplings are not worth their cost: maps are so smooth over them that the
#: filter removes the noise as well.
MANY_UNITS = 2**16
#: Ridge of the regression for the weights, relative to the largest power of a group.
RIDGE = 1e-6


def products_kept(draws: int, probes: int, x: Tensor, entries: int) -> int:
    """How many products of each noise sample to keep; 0 if couplings are not worth their cost, or memory is short.

    Parameters
    ----------
    draws, probes
        Number of noise samples, and of products for each.
    x
        The samples, (S, *shape).
    entries
        Number of entries of the feature.
    """
    if x[0].numel() >= MANY_UNITS or entries <= FEW_ENTRIES:
        return 0
    layout = Layout(tuple(x.shape[1:]))
    most = MOST_BYTES // (x.numel() * x.element_size()) - len(layout.offsets) * layout.channels
    # One more product of each noise sample is along the change that it causes.
    kept = min(probes, most // draws - 1)
    return kept if kept * draws >= LEAST_PRODUCTS else 0


@dataclass(frozen=True)
class Layout:
    """Arrangement of units by position, in which a neighbor at some distance is always the same number of entries away.

    Each long axis is padded with zeros; the short ones are channels of a position.

    Attributes
    ----------
    shape
        Shape of one sample.
    """

    shape: tuple[int, ...]

    @property
    def _long(self) -> list[int]:
        return [axis for axis, size in enumerate(self.shape) if size > SHORT_AXIS]

    @property
    def _order(self) -> list[int]:
        return [*(axis for axis in range(len(self.shape)) if axis not in self._long), *self._long]

    @property
    def _padded(self) -> list[int]:
        return [self.shape[axis] + 2 * REACH for axis in self._long]

    @property
    def channels(self) -> int:
        """Number of channels."""
        return math.prod(size for size in self.shape if size <= SHORT_AXIS)

    @cached_property
    def offsets(self) -> dict[tuple[int, ...], int]:
        """Steps to the neighbors, by increasing distance, with the numbers of entries in between."""
        strides = [math.prod(self._padded[i + 1 :]) for i in range(len(self._long))]
        steps = itertools.product(range(-REACH, REACH + 1), repeat=len(strides))
        return {step: sum(map(operator.mul, step, strides)) for step in sorted(steps, key=distance)}

    @property
    def margin(self) -> int:
        """Number of entries before the first unit, and after the last."""
        return max(self.offsets.values())

    def arranged(self, values: Tensor) -> Tensor:
        """Arrange values (..., n) by position, (..., channels, entries)."""
        before = values.shape[:-1]
        whole = values.reshape(-1, *self.shape).permute(0, *(1 + axis for axis in self._order))
        padded = torch.nn.functional.pad(whole, (REACH, REACH) * len(self._long))
        return padded.reshape(*before, self.channels, -1)

    def units(self, arranged: Tensor) -> Tensor:
        """Arrange by unit, (..., n), what is arranged by position; a view where there are no channels to move."""
        before, short = arranged.shape[:-2], len(self.shape) - len(self._long)
        sizes = [self.shape[axis] for axis in self._order]
        whole = arranged.reshape(-1, *sizes[:short], *self._padded)
        for axis in range(1 + short, whole.dim()):
            whole = whole.narrow(axis, REACH, whole.shape[axis] - 2 * REACH)
        back = [1 + self._order.index(axis) for axis in range(len(self.shape))]
        return whole.permute(0, *back).reshape(*before, -1)

    def core(self, arranged: Tensor, offset: int = 0) -> Tensor:
        """Entries that many places after those from the first unit to the last."""
        return arranged.narrow(-1, self.margin + offset, arranged.shape[-1] - 2 * self.margin)


def distance(step: Sequence[int]) -> int:
    """Largest distance along an axis."""
    return max(map(abs, step), default=0)


@dataclass(frozen=True)
class Couplings:
    """Vector-Jacobian products under noise, standardized, of S samples, and the dot products that follow from them.

    Attributes
    ----------
    random
        ``J^T u`` for random signs u, (S, P, n).
    along
        ``J^T u`` for changes u that noise causes, of mean square one, (S, Q, n).
    layout
        Which units are neighbors.
    """

    random: Tensor
    along: Tensor
    layout: Layout

    @classmethod
    def of(cls, random: Sequence[Tensor], along: Sequence[Tensor], shape: Sequence[int]) -> Couplings | None:
        """Couplings of samples of a shape from products, each (P, S, n); None without any."""
        if not random:
            return None
        by_sample = [torch.cat([*each]).transpose(0, 1).contiguous() for each in (random, along)]
        return cls(by_sample[0], by_sample[1], Layout(tuple(shape)))

    def at(self, index: Tensor) -> Couplings:
        """Couplings of a subset of the samples."""
        return Couplings(self.random[index], self.along[index], self.layout)

    @property
    def groups(self) -> int:
        """Number of groups of pairs: one for each distance of neighbors, and two of all pairs, by either products."""
        return distance(next(reversed(self.layout.offsets))) + 3

    @cached_property
    def near(self) -> dict[tuple[int, ...], Tensor]:
        """Estimated dot products with the neighbors after each step, (S, channels, channels, entries)."""
        # Sample by sample, the products of two channels stay in the processor's cache.
        parts = [_near(self.layout, each) for each in self.random]
        return {step: torch.stack([part[step] for part in parts]) for step in self.layout.offsets}

    @cached_property
    def means(self) -> Tensor:
        """``M_ii`` of each group, (S, groups, n); a unit is its own neighbor at distance 0, and one of all pairs."""
        norms, along = self.random.square().mean(1), self.along.square().mean(1)
        return torch.stack([norms, *[torch.zeros_like(norms)] * (self.groups - 3), norms, along], 1)

    def effects(self, delta: Tensor, found: Tensor) -> None:
        """Compute each group's part of the gradient under noise. Its mean is twice ``sigma^2`` times :attr:`means`.

        Parameters
        ----------
        delta
            Standardized perturbations ``sigma*delta``, (draws, S, n).
        found
            Filled with the parts, (draws, S, groups, n).
        """
        arranged = self.layout.arranged(delta)
        rings = torch.zeros_like(arranged)[None].repeat(self.groups - 2, *[1] * arranged.dim())
        for step, products in self.near.items():
            ring = self.layout.core(rings[distance(step)])
            there = self.layout.core(arranged, self.layout.offsets[step])
            for c in range(self.layout.channels):
                ring.addcmul_(products[:, :, c], there[:, :, c, None])
        for i, each in enumerate(rings):
            found[:, :, i] = self.layout.units(each)
        by_sample = delta.transpose(0, 1)
        for i, each in enumerate((self.random, self.along), len(rings)):
            moved = torch.bmm(by_sample, each.transpose(1, 2)) / each.shape[1]
            found[:, :, i] = torch.bmm(moved, each).transpose(0, 1)
        found.mul_(2 * delta[:, :, None])


def _near(layout: Layout, products: Tensor) -> dict[tuple[int, ...], Tensor]:
    """Dot products of neighbors at one sample from products (P, n), (channels, channels, entries) for each step."""
    found: dict[tuple[int, ...], Tensor] = {}
    arranged = layout.arranged(products)
    here = layout.core(arranged)
    for step, offset in layout.offsets.items():
        opposite = tuple(-each for each in step)
        if opposite in found:
            mirrored = torch.nn.functional.pad(found[opposite].transpose(0, 1), (layout.margin, layout.margin))
            found[step] = layout.core(mirrored, offset)
        else:
            there = layout.core(arranged, offset)
            each = [(here * there[:, c, None]).mean(0) for c in range(layout.channels)]
            found[step] = torch.stack(each, 1)
    return found


class CoupledSums:
    """Sums of gradients, and of their parts by couplings, over noise samples that alternate between two halves.

    Parameters
    ----------
    couplings
        The couplings.
    sigma
        Noise scales, (S, n).
    """

    def __init__(self, couplings: Couplings, sigma: Tensor) -> None:
        self._couplings, self._means = couplings, 2 * sigma[:, None].square() * couplings.means
        groups = couplings.groups
        self._sums = HalfSums(sigma.new_empty(len(sigma), groups + 1, sigma.shape[1]))
        self._powers = HalfSums(sigma.new_empty(len(sigma), groups + 1, groups + 1))

    @property
    def totals(self) -> tuple[Tensor, ...]:
        """The sums, which change in place."""
        return *self._sums.totals, *self._powers.totals

    def add(self, values: Tensor, delta: Tensor) -> None:
        """Add the gradients (draws, S, n) of standardized perturbations ``sigma*delta`` (draws, S, n)."""
        draws, samples, units = values.shape
        both = values.new_empty(draws, samples, 1 + self._couplings.groups, units)
        both[:, :, 0] = values
        effects = both[:, :, 1:]
        self._couplings.effects(delta, effects)
        effects -= self._means
        self._sums.add(both)
        self._powers.add(torch.matmul(both, both.transpose(2, 3)))

    @property
    def halves(self) -> list[tuple[Tensor, Tensor]]:
        """Means of each half: gradient and effects (S, 1 + groups, n), and products of both."""
        return [*zip(self._sums.both, self._powers.both, strict=True)]


def less_noise(sums: Sequence[CoupledSums]) -> list[Tensor]:
    """Mean gradient of each half, less what couplings explain of its noise, each (S, n).

    The weights of each half are fitted to the next one, and those of the last one to the first. So none is biased, and
    with at least three halves, the mean product of the errors of any two is zero, as without couplings.
    """
    halves = [half for each in sums for half in each.halves]
    weights = [_weights(powers) for _, powers in halves]
    found = zip(halves, weights[1:] + weights[:1], strict=True)
    return [means[:, 0] - _explained(means[:, 1:], weight) for (means, _), weight in found]


def _explained(effects: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum of effects (S, groups, n), (S, n); what has no weight may be infinite or NaN."""
    return torch.where(weights[:, :, None] == 0, 0.0, weights[:, :, None] * effects).sum(1)


def _weights(powers: Tensor) -> Tensor:
    """Weights of the groups, (S, groups), from summed products of gradient and effects (S, 1 + groups, 1 + groups).

    They are those with which the effects explain most of the gradients' power, over all samples; 0 for samples in which
    these weights would add noise, or numbers are too large.
    """
    tiny = torch.finfo(powers.dtype).tiny
    relative = powers / powers[:, :1, :1].clamp(min=tiny)
    relative = torch.where(relative.isfinite().all(2).all(1)[:, None, None], relative, 0.0)
    pooled = relative.sum(0)
    diagonal = pooled.diagonal()[1:]
    ridge = (RIDGE * diagonal.max()).clamp(min=tiny)
    gram = pooled[1:, 1:] + ridge * torch.eye(len(diagonal), dtype=powers.dtype, device=powers.device)
    found, _ = torch.linalg.solve_ex(gram, pooled[1:, 0])
    explained = 2 * relative[:, 0, 1:] @ found - torch.einsum("g,sgh,h->s", found, relative[:, 1:, 1:], found)
    return torch.where(explained[:, None] > 0, found.nan_to_num(0.0, 0.0, 0.0), 0.0)
