"""Linearization of the layers at the samples: column norms of their Jacobians, and D.

``||J_i||^2`` comes from vector-Jacobian products, ``E_u (J^T u)_i^2`` with random signs u. The norms give SID in closed
form, from which the optimization starts. Their sum ``D = ||J||_F^2``, the normalizer of every constraint, has to be
known more precisely. It is also ``E_v ||J v||^2``, and one pass with a tangent v serves all layers.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .budget import is_exhaustion
from .certificate import mean_and_stderr, relative_stderr
from .network import Network
from .noise import generator
from .probe import random_signs
from .rows import as_rows
from .tangents import Responses

logger = logging.getLogger(__name__)

#: Probes of the column norms; and maximum number of products if D is not precise enough earlier.
LEAST_PROBES, MOST_PROBES = 16, 128
#: Relative standard error of a sample's D, averaged over the samples, at which probing stops.
NORMALIZER_STDERR = 0.03
#: Layers with at most this many outputs, or units, are linearized exactly, from their whole Jacobian. Few units mean a
#: small network, where products are cheap; few outputs do not.
EXACT_OUTPUTS, EXACT_UNITS = 128, 512
#: Difference between ``u^T (J v)`` and ``(J^T u)^T v``, relative to ``||J v||``, beyond which tangents are not trusted.
SAME_PRODUCT = 0.05
#: Default for the number of inputs evaluated at once.
TOGETHER = 64


@dataclass(frozen=True)
class Linearization:
    """Linearization of a layer at S samples: squared column norms (S, n), D (S,) with its standard error."""

    column_norms: Tensor
    normalizer: Tensor
    normalizer_stderr: Tensor
    probes: int

    def to(self, device: torch.device) -> Linearization:
        """Copy on another device."""
        tensors = self.column_norms.to(device), self.normalizer.to(device), self.normalizer_stderr.to(device)
        return Linearization(*tensors, self.probes)

    def at(self, rows: slice | Tensor) -> Linearization:
        """Subset of the samples."""
        tensors = self.column_norms[rows], self.normalizer[rows], self.normalizer_stderr[rows]
        return Linearization(*tensors, self.probes)


def linearize(
    network: Network,
    x: Tensor,
    unit: Tensor,
    rows: Tensor,
    probes: torch.Generator,
    *,
    stderr: float = NORMALIZER_STDERR,
    counted: Tensor | None = None,
    batch: int = TOGETHER,
) -> list[Linearization]:
    """Column norms ``||J_i||^2`` and ``D = ||J||_F^2`` of every layer at the samples.

    One forward pass serves all layers; each probe of the column norms costs one vector-Jacobian product per layer. If a
    layer has few outputs, or the samples have few units, products with unit vectors give the exact norms at every
    sample. For the others, passes with tangents are added until D is precise, or further vector-Jacobian products if
    an operator's gradient has no derivative of its own.

    A layer's result does not depend on the other layers: each draws the same probes, and stops by itself.

    Parameters
    ----------
    network
        Network whose outputs are the layers.
    x
        Analysis input of S samples, (S, *shape).
    unit
        Standardized unit, broadcastable to x.
    rows
        Rows of the samples in the network's context.
    probes
        Random stream.
    stderr
        Target for the relative standard error of each sample's D.
    counted
        Counted units, (S, n) bool; None: all. The others have norm zero and do not contribute to D.
    batch
        Maximum number of inputs evaluated at once.
    """
    if counted is not None:
        unit = unit * counted.reshape(x.shape)
    unit = unit.expand_as(x)
    seed = int(torch.randint(2**62, (), generator=probes, device=x.device))
    # Tangents take twice the memory of other products.
    size = max(1, batch // 2)
    parts = [
        _linearized(_Point(network, x[part], unit[part], rows[part], batch, seed + part.start), stderr)
        for part in (slice(start, start + size) for start in range(0, len(x), size))
    ]
    return [_joined(layer) for layer in zip(*parts, strict=True)]


def _linearized(point: _Point, stderr: float) -> list[Linearization]:
    found = point.exact()
    sampled = {i: point.sampled(i) for i, known in enumerate(found) if known is None}
    point.refine(sampled, stderr)
    return [sampled[i].joined() if known is None else known for i, known in enumerate(found)]


def _joined(parts: Sequence[Linearization]) -> Linearization:
    """Linearization of one layer at all samples from those of some of them each."""
    names = ("column_norms", "normalizer", "normalizer_stderr")
    tensors = (torch.cat([getattr(part, name) for part in parts]) for name in names)
    return Linearization(*tensors, max(part.probes for part in parts))


@dataclass
class _Sampled:
    """Estimates for a layer: squared column norms (S, n), and each product's estimate of D, (S,).

    ``pair`` is a cotangent (S, m) with its product (S, n).
    """

    norms: Tensor
    traces: list[Tensor]
    pair: tuple[Tensor, Tensor]

    def precise(self, stderr: float) -> bool:
        """Whether no more products are needed, which is judged after every few of them."""
        if len(self.traces) % LEAST_PROBES:
            return False
        return len(self.traces) >= MOST_PROBES or float(relative_stderr(torch.stack(self.traces)).mean()) <= stderr

    def add(self, traces: Iterable[Tensor], stderr: float) -> None:
        """Add estimates of D until it is precise."""
        for trace in traces:
            if self.precise(stderr):
                return
            self.traces.append(trace)

    def agrees(self, v: Tensor, response: Tensor) -> bool:
        """Whether the response (S, m) to a tangent v, (S, n), has the same Jacobian as the cotangent's product."""
        u, product = self.pair
        apart = (u * response).sum(1) - (product * v).sum(1)
        return bool((apart.abs() <= SAME_PRODUCT * response.norm(dim=1)).all())

    def joined(self) -> Linearization:
        """The result, with column norms that add up to D."""
        mean, error = mean_and_stderr(torch.stack(self.traces))
        sums = self.norms.sum(1)
        factor = torch.where(sums > 0, mean / sums.clamp(min=torch.finfo(sums.dtype).tiny), 1.0)
        return Linearization(self.norms * factor[:, None], mean, error, len(self.traces))


class _Point:
    """Products with the Jacobians of all layers at the samples.

    Parameters
    ----------
    network, x, unit, rows, batch
        As for :func:`linearize`; unit has the shape of x.
    seed
        Seed of the probes.
    """

    def __init__(self, network: Network, x: Tensor, unit: Tensor, rows: Tensor, batch: int, seed: int) -> None:
        self.network, self.x, self.unit, self.rows = network, x, unit, rows
        self.batch, self.seed = batch, seed
        # Copies of the samples get different probes. If there are few units, all products are cheap.
        self.copies = 1 if x[0].numel() <= EXACT_UNITS else max(1, min(LEAST_PROBES, batch // len(x)))
        self.leaf = x.detach().repeat(self.copies, *([1] * (x.dim() - 1))).requires_grad_(True)

    @cached_property
    def features(self) -> list[Tensor]:
        """Features of the copies, with the graph of their gradients."""
        return self.network(self.leaf, self.rows.repeat(self.copies))

    def products(self, layer: int, u: Tensor) -> Tensor:
        """``J^T u`` for cotangents (copies, S, m), standardized, (copies, S, n)."""
        product = _product(self.features[layer], self.leaf, u.flatten(0, 1))
        return (product.reshape(self.copies, *self.unit.shape) * self.unit).flatten(2)

    def exact(self) -> list[Linearization | None]:
        """Exact norms of the layers with a small Jacobian; None for the others."""
        return [self._by_outputs(i) or self._by_units(feature) for i, feature in enumerate(self.features)]

    def _by_outputs(self, layer: int) -> Linearization | None:
        outputs = self.features[layer].shape[1]
        if outputs > EXACT_OUTPUTS:
            return None
        total = as_rows(torch.zeros_like(self.unit))
        for start in range(0, outputs, self.copies):
            u = self.features[layer].new_zeros(self.copies, len(self.x), outputs)
            for copy in range(min(self.copies, outputs - start)):
                u[copy, :, start + copy] = 1
            total += self.products(layer, u).square().sum(0)
        return _known(total, outputs)

    def _by_units(self, feature: Tensor) -> Linearization | None:
        units = self.unit[0].numel()
        if units > EXACT_UNITS or not feature.requires_grad:
            return None
        # J v from two vector-Jacobian products: J^T u is linear in u, and its derivative along v is J v.
        u = torch.zeros_like(feature, requires_grad=True)
        try:
            (product,) = torch.autograd.grad(feature, self.leaf, u, create_graph=True, allow_unused=True)
            if product is None or not product.requires_grad:
                return None
            columns = []
            scaled = as_rows(product * self.unit)
            for i in range(units):
                (column,) = torch.autograd.grad(scaled[:, i].sum(), u, retain_graph=True)
                columns.append(column.square().sum(1))
        except NotImplementedError:
            # An operator's gradient has no derivative of its own.
            return None
        return _known(torch.stack(columns, 1).detach(), units)

    def sampled(self, layer: int) -> _Sampled:
        """Column norms from the first cotangents."""
        squares: list[Tensor] = []
        for u in self._cotangents(layer, LEAST_PROBES):
            products = self.products(layer, u)
            squares += list(products.square())
        squares = squares[:LEAST_PROBES]
        return _Sampled(torch.stack(squares).mean(0), [each.sum(1) for each in squares], (u[0], products[0]))

    def refine(self, sampled: dict[int, _Sampled], stderr: float) -> None:
        """Add products until every layer's D is precise."""
        if all(each.precise(stderr) for each in sampled.values()):
            return
        try:
            self._refine_forward(sampled, stderr)
        except RuntimeError as error:
            if is_exhaustion(error):
                raise
            logger.debug("D from vector-Jacobian products: %s", error)
            for layer, each in sampled.items():
                self._refine_backward(layer, each, stderr)

    def _refine_forward(self, sampled: dict[int, _Sampled], stderr: float) -> None:
        """Add responses to tangents, which all layers share."""
        copies = max(1, min(LEAST_PROBES, self.batch // (2 * len(self.x))))
        if self.network.segments > 1 or self.batch < 2:
            raise NotImplementedError("there is no memory for tangents")
        # Frees the memory of their graph.
        del self.features
        responses = Responses(self.network, self.x, self.rows, copies)
        tangents = self._signs(self.unit[0].numel(), "tangents")
        for _ in range(0, MOST_PROBES - LEAST_PROBES, copies):
            open_ = [i for i, each in sampled.items() if not each.precise(stderr)]
            if not open_:
                break
            v = torch.stack([next(tangents) for _ in range(copies)])
            moved = responses(v.reshape(copies, *self.x.shape) * self.unit)
            for i in open_:
                # An operator may cut the second derivative without an error.
                if not sampled[i].agrees(v[0], moved[i][0]):
                    raise NotImplementedError("tangents and gradients disagree")
                sampled[i].add(list(moved[i].square().sum(2)), stderr)

    def _refine_backward(self, layer: int, sampled: _Sampled, stderr: float) -> None:
        for position, u in enumerate(self._cotangents(layer, MOST_PROBES)):
            if sampled.precise(stderr):
                break
            if position * self.copies >= LEAST_PROBES:
                sampled.add(self.products(layer, u).square().sum(2), stderr)

    def _cotangents(self, layer: int, count: int) -> Iterator[Tensor]:
        """Random signs (copies, S, m), the same for any number of copies."""
        signs = self._signs(self.features[layer].shape[1], "cotangents")
        for _ in range(0, count, self.copies):
            yield torch.stack([next(signs) for _ in range(self.copies)])

    def _signs(self, size: int, kind: str) -> Iterator[Tensor]:
        """Random signs (S, size) without end."""
        like = self.unit.new_empty(len(self.x), size)
        return random_signs(like, None, generator(self.x.device, self.seed, kind))


def _product(feature: Tensor, x: Tensor, u: Tensor) -> Tensor:
    if not feature.requires_grad:
        return torch.zeros_like(x)
    (product,) = torch.autograd.grad(feature, x, u, retain_graph=True, allow_unused=True)
    return torch.zeros_like(x) if product is None else product


def _known(norms: Tensor, products: int) -> Linearization:
    return Linearization(norms, norms.sum(1), torch.zeros_like(norms[:, 0]), products)
