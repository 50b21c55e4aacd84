"""Linearization of the layers at the samples: column norms of their Jacobians, and D.

``||J_i||^2`` comes from vector-Jacobian products, ``E_u (J^T u)_i^2`` with random signs u. The norms give SID in closed
form, from which the optimization starts. Their sum ``D = ||J||_F^2``, the normalizer of every constraint, has to be
known more precisely. It is also ``E_v ||J v||^2``, and one pass with a tangent v serves all layers.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from .budget import is_exhaustion
from .certificate import mean_and_stderr, relative_stderr
from .journal import Journal, Streams, Sums
from .network import Network
from .noise import generator
from .probe import random_sign
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

    def at_least(self, dtype: torch.dtype) -> Linearization:
        """Copy that is at least as precise as a type: products with a network's tensors need one type."""
        wide = torch.promote_types(self.normalizer.dtype, dtype)
        tensors = self.column_norms.to(wide), self.normalizer.to(wide), self.normalizer_stderr.to(wide)
        return Linearization(*tensors, self.probes)

    def at(self, rows: slice | Tensor) -> Linearization:
        """Subset of the samples."""
        tensors = self.column_norms[rows], self.normalizer[rows], self.normalizer_stderr[rows]
        return Linearization(*tensors, self.probes)


@dataclass(frozen=True)
class Division:
    """How work is divided and recorded.

    Attributes
    ----------
    batch
        Maximum number of inputs evaluated at once.
    journal
        Records the sums over the products.
    """

    batch: int = TOGETHER
    journal: Journal = field(default_factory=Journal)


def linearize(
    network: Network,
    x: Tensor,
    unit: Tensor,
    rows: Tensor,
    probes: torch.Generator,
    *,
    stderr: float = NORMALIZER_STDERR,
    counted: Tensor | None = None,
    division: Division | None = None,
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
    division
        How the work is divided and recorded.
    """
    division = Division() if division is None else division
    if counted is not None:
        unit = unit * counted.reshape(x.shape)
    # As precise as the network: what is computed from the norms meets its features.
    unit = unit.to(x.dtype).expand_as(x)
    seed = int(torch.randint(2**62, (), generator=probes, device=x.device))
    # Tangents take twice the memory of other products.
    size = max(1, division.batch // 2)
    parts = _Parts(len(network.axes))
    for step in division.journal.steps(len(x), size, parts, Streams([probes])):
        part = slice(step.start, step.stop)
        point = _Point(network, x[part], unit[part], rows[part], seed + part.start, division)
        parts.found.append(_linearized(point, stderr))
    return [_joined(layer) for layer in zip(*parts.found, strict=True)]


def _linearized(point: _Point, stderr: float) -> list[Linearization]:
    layers = _Layers()
    for step in point.journal.steps(len(point.network.axes), 1, layers, point.streams("cotangents")):
        layers.found.append(point.exact(step.start) or point.sampled(step.start))
    sampled = {i: each for i, each in enumerate(layers.found) if isinstance(each, _Sampled)}
    point.refine(sampled, stderr)
    return [each.joined() if isinstance(each, _Sampled) else each for each in layers.found]


def _joined(parts: Sequence[Linearization]) -> Linearization:
    """Linearization of one layer at all samples from those of some of them each."""
    return Linearization(
        torch.cat([part.column_norms for part in parts]),
        torch.cat([part.normalizer for part in parts]),
        torch.cat([part.normalizer_stderr for part in parts]),
        max(part.probes for part in parts),
    )


@dataclass
class _Sampled:
    """Estimates for a layer: squared column norms (S, n), and each product's estimate of D, (1, S).

    ``product`` is that of the first cotangent, (S, n).
    """

    norms: Tensor
    traces: list[Tensor]
    product: Tensor

    def precise(self, stderr: float) -> bool:
        """Whether no more products are needed, which is judged after every few of them."""
        traces = torch.cat(self.traces)
        if len(traces) % LEAST_PROBES:
            return False
        return len(traces) >= MOST_PROBES or float(relative_stderr(traces).mean()) <= stderr

    def add(self, traces: Tensor, stderr: float) -> None:
        """Add estimates of D, (products, S), until it is precise."""
        for trace in traces:
            if self.precise(stderr):
                return
            self.traces.append(trace[None])

    def agrees(self, u: Tensor, v: Tensor, response: Tensor) -> bool:
        """Whether the response (S, m) to a tangent v, (S, n), has the same Jacobian as the product of u, (S, m)."""
        apart = (u * response).sum(1) - (self.product * v).sum(1)
        return bool((apart.abs() <= SAME_PRODUCT * response.norm(dim=1)).all())

    def joined(self) -> Linearization:
        """The result, with column norms that add up to D."""
        traces = torch.cat(self.traces)
        mean, error = mean_and_stderr(traces)
        sums = self.norms.sum(1)
        factor = torch.where(sums > 0, mean / sums.clamp(min=torch.finfo(sums.dtype).tiny), 1.0)
        return Linearization(self.norms * factor[:, None], mean, error, len(traces))


class _Layers:
    """Results of a part of the samples for some layers, as the state of a recorded loop."""

    def __init__(self) -> None:
        self.found: list[Linearization | _Sampled] = []

    def get(self) -> list[Tensor]:
        """Four tensors for each layer; the last is the number of products, or the product of a sampled layer."""
        tensors = []
        for each in self.found:
            if isinstance(each, Linearization):
                tensors += [each.column_norms, each.normalizer, each.normalizer_stderr, torch.tensor(each.probes)]
            else:
                tensors += [each.norms, torch.cat(each.traces), torch.empty(0), each.product]
        return tensors

    def set(self, kept: Sequence[Tensor]) -> None:
        """Restore the results."""
        self.found = [self._restored(*kept[start : start + 4]) for start in range(0, len(kept), 4)]

    @staticmethod
    def _restored(norms: Tensor, sums: Tensor, stderr: Tensor, last: Tensor) -> Linearization | _Sampled:
        return _Sampled(norms, [sums], last) if last.dim() else Linearization(norms, sums, stderr, int(last))


class _Parts:
    """Results of all layers for some parts of the samples, as the state of a recorded loop."""

    def __init__(self, layers: int) -> None:
        self.found: list[list[Linearization]] = []
        self._layers = layers

    def get(self) -> list[Tensor]:
        """Four tensors for each part and layer."""
        return [
            each
            for part in self.found
            for layer in part
            for each in (layer.column_norms, layer.normalizer, layer.normalizer_stderr, torch.tensor(layer.probes))
        ]

    def set(self, kept: Sequence[Tensor]) -> None:
        """Restore the results."""
        layers = [
            Linearization(norms, sums, stderr, int(probes))
            for norms, sums, stderr, probes in zip(kept[::4], kept[1::4], kept[2::4], kept[3::4], strict=True)
        ]
        self.found = [layers[at : at + self._layers] for at in range(0, len(layers), self._layers)]


class _Point:
    """Products with the Jacobians of all layers at the samples.

    Parameters
    ----------
    network, x, unit, rows, division
        As for :func:`linearize`; unit has the shape of x.
    seed
        Seed of the probes.
    """

    def __init__(self, network: Network, x: Tensor, unit: Tensor, rows: Tensor, seed: int, division: Division) -> None:
        self.network, self.x, self.unit, self.rows = network, x, unit, rows
        self.seed, self.batch, self.journal = seed, division.batch, division.journal
        # Copies of the samples get different probes. If there are few units, all products are cheap.
        self.copies = 1 if x[0].numel() <= EXACT_UNITS else max(1, min(LEAST_PROBES, self.batch // len(x)))
        self.leaf = x.detach().repeat(self.copies, *([1] * (x.dim() - 1))).requires_grad_(True)

    @cached_property
    def features(self) -> list[Tensor]:
        """Features of the copies, with the graph of their gradients."""
        return self.network(self.leaf, self.rows.repeat(self.copies))

    def streams(self, kind: str) -> Streams:
        """Random stream of the cotangents or tangents, from its start."""
        return Streams([generator(self.x.device, self.seed, kind)])

    def products(self, layer: int, u: Tensor) -> Tensor:
        """``J^T u`` for cotangents (copies, S, m), standardized, (copies, S, n)."""
        product = _product(self.features[layer], self.leaf, u.flatten(0, 1))
        return (product.reshape(self.copies, *self.unit.shape) * self.unit).reshape(self.copies, len(self.x), -1)

    def exact(self, layer: int) -> Linearization | None:
        """Exact norms of a layer with a small Jacobian; None for the others."""
        return self._by_outputs(layer) or self._by_units(self.features[layer])

    def _by_outputs(self, layer: int) -> Linearization | None:
        outputs = self.features[layer].shape[1]
        if outputs > EXACT_OUTPUTS:
            return None
        total = as_rows(torch.zeros_like(self.unit))
        for step in self.journal.steps(outputs, self.copies, Sums([total]), self.streams("cotangents")):
            u = self.features[layer].new_zeros(self.copies, len(self.x), outputs)
            for copy, output in enumerate(step):
                u[copy, :, output] = 1
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
        total, traces, first = as_rows(torch.zeros_like(self.unit)), list[Tensor](), list[Tensor]()
        streams, outputs = self.streams("cotangents"), self.features[layer].shape[1]
        for step in self.journal.steps(LEAST_PROBES, self.copies, Sums([total], [traces, first]), streams):
            products = self.products(layer, self._signs(outputs, self.copies, streams))[: len(step)]
            first += [] if first else [products[0].clone()]
            for squares in products.square():
                total += squares
                traces.append(squares.sum(1)[None])
        return _Sampled(total / LEAST_PROBES, traces, first[0])

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
        self.__dict__.pop("features", None)
        responses = Responses(self.network, self.x, self.rows, copies)
        streams, units = self.streams("tangents"), self.unit[0].numel()

        def moved() -> tuple[Tensor, list[Tensor]]:
            v = self._signs(units, copies, streams)
            return v, responses(v.reshape(copies, *self.x.shape) * self.unit)

        def add(response: list[Tensor]) -> None:
            for i, each in sampled.items():
                each.add(response[i].square().sum(2), stderr)

        # Outside of the recorded loop, which an error must not leave.
        v, response = moved()
        for i, each in sampled.items():
            # An operator may cut the second derivative without an error.
            (u,) = self._signs(response[i].shape[2], 1, self.streams("cotangents"))
            if not each.agrees(u, v[0], response[i][0]):
                raise NotImplementedError("tangents and gradients disagree")
        add(response)
        sums = Sums(parts=[each.traces for each in sampled.values()])
        for _ in self.journal.steps(MOST_PROBES - LEAST_PROBES - copies, copies, sums, streams):
            if all(each.precise(stderr) for each in sampled.values()):
                break
            add(moved()[1])

    def _refine_backward(self, layer: int, sampled: _Sampled, stderr: float) -> None:
        streams, outputs = self.streams("cotangents"), self.features[layer].shape[1]
        for _ in range(0, LEAST_PROBES, self.copies):
            self._signs(outputs, self.copies, streams)
        sums = Sums(parts=[sampled.traces])
        for _ in self.journal.steps(MOST_PROBES, self.copies, sums, streams):
            if sampled.precise(stderr):
                break
            sampled.add(self.products(layer, self._signs(outputs, self.copies, streams)).square().sum(2), stderr)

    def _signs(self, size: int, count: int, streams: Streams) -> Tensor:
        """Random signs (count, S, size), the same for any division of their number."""
        like = self.unit.new_empty(len(self.x), size)
        return torch.stack([random_sign(like, streams.streams[0]) for _ in range(count)])


def _product(feature: Tensor, x: Tensor, u: Tensor) -> Tensor:
    if not feature.requires_grad:
        return torch.zeros_like(x)
    (product,) = torch.autograd.grad(feature, x, u, retain_graph=True, allow_unused=True)
    return torch.zeros_like(x) if product is None else product


def _known(norms: Tensor, products: int) -> Linearization:
    return Linearization(norms, norms.sum(1), torch.zeros_like(norms[:, 0]), products)
