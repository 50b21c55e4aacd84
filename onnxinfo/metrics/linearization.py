"""Linearization of the layers at the samples: column norms of their Jacobians, and D.

``||J_i||^2`` and ``D = ||J||_F^2`` come from vector-Jacobian products, ``E_u (J^T u)_i^2`` with random signs u. D is
the normalizer of every constraint. The norms give SID in closed form, from which the optimization starts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .certificate import mean_and_stderr, relative_stderr
from .journal import Journal, Streams, Sums
from .network import Network
from .probe import random_sign, unit_vector
from .rows import as_rows

#: Minimum number of probes, and the maximum if D is not precise enough earlier.
LEAST_PROBES, MOST_PROBES = 16, 128
#: Relative standard error of a sample's D, averaged over the samples, at which probing stops.
NORMALIZER_STDERR = 0.03
#: Layers with at most this many outputs, or units, are linearized exactly, from their whole Jacobian. Few units mean a
#: small network, where products are cheap; few outputs do not.
EXACT_OUTPUTS, EXACT_UNITS = 128, 512


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
    journal: Journal | None = None,
) -> list[Linearization]:
    """Column norms ``||J_i||^2`` and ``D = ||J||_F^2`` of every layer at the samples.

    One forward pass serves all layers; each probe costs one vector-Jacobian product per layer. If a layer has few
    outputs, or the samples have few units, products with unit vectors give the exact norms at every sample.

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
    journal
        Records the sums over the probes.
    """
    journal = Journal() if journal is None else journal
    if counted is not None:
        unit = unit * counted.reshape(x.shape)
    streams = Streams([probes])
    leaf = x.detach().requires_grad_(True)
    features = network(leaf, rows)
    results = []
    for feature in features:
        exact = _exact_norms(feature, leaf, unit, streams, journal)
        results.append(_sampled_norms(feature, leaf, unit, streams, stderr, journal) if exact is None else exact)
    return results


def _product(feature: Tensor, x: Tensor, u: Tensor) -> Tensor:
    if not feature.requires_grad:
        return torch.zeros_like(x)
    (product,) = torch.autograd.grad(feature, x, u, retain_graph=True, allow_unused=True)
    return torch.zeros_like(x) if product is None else product


def _exact_norms(feature: Tensor, x: Tensor, unit: Tensor, streams: Streams, journal: Journal) -> Linearization | None:
    """Exact norms from unit vectors on the smaller side of the Jacobian; None if both sides are large."""
    units, outputs = x[0].numel(), feature.shape[1]
    if outputs <= EXACT_OUTPUTS:
        total = torch.zeros_like(x)
        for (j,) in journal.steps(outputs, 1, Sums([total]), streams):
            total += (_product(feature, x, unit_vector(feature, j)) * unit).square()
        return _known(as_rows(total), outputs)
    if units > EXACT_UNITS or not feature.requires_grad:
        return None
    # J v from two vector-Jacobian products: J^T u is linear in u, and its derivative along v is J v.
    u = torch.zeros_like(feature, requires_grad=True)
    try:
        (product,) = torch.autograd.grad(feature, x, u, create_graph=True, allow_unused=True)
        if product is None or not product.requires_grad:
            return None
        columns = []
        scaled = as_rows(product * unit)
        for i in range(units):
            (column,) = torch.autograd.grad(scaled[:, i].sum(), u, retain_graph=True)
            columns.append(column.square().sum(1))
    except NotImplementedError:
        # An operator's gradient has no derivative of its own.
        return None
    return _known(torch.stack(columns, 1).detach(), units)


def _known(norms: Tensor, products: int) -> Linearization:
    return Linearization(norms, norms.sum(1), torch.zeros_like(norms[:, 0]), products)


def _sampled_norms(
    feature: Tensor, x: Tensor, unit: Tensor, streams: Streams, stderr: float, journal: Journal
) -> Linearization:
    total = as_rows(torch.zeros_like(x))
    traces: list[Tensor] = []
    for _ in journal.steps(MOST_PROBES, 1, Sums([total], [traces]), streams):
        u = random_sign(feature, streams.streams[0])
        squares = as_rows((_product(feature, x, u) * unit).square())
        total += squares
        traces.append(squares.sum(1)[None])
        found = torch.cat(traces)
        if len(found) % LEAST_PROBES == 0 and float(relative_stderr(found).mean()) <= stderr:
            break
    found = torch.cat(traces)
    mean, error = mean_and_stderr(found)
    return Linearization(total / len(found), mean, error, len(found))
