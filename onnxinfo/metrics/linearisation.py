"""The layers as they are at the samples themselves: column norms of their Jacobians, and D.

``||J_i||^2`` and ``D = ||J||_F^2`` from vector-Jacobian products, ``E_u (J^T u)_i^2`` with random signs u. D is the
normalizer of every constraint; the norms are the closed form of the discarding, where its optimization starts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .certificate import mean_and_stderr, relative_stderr
from .network import Network
from .probe import random_signs, unit_vectors
from .rows import as_rows

#: Probes: at least, and at most where D is not known well enough before.
LEAST_PROBES, MOST_PROBES = 16, 128
#: Relative standard error of a sample's D, on average over the samples, at which probing stops.
NORMALIZER_STDERR = 0.03
#: Layers with no more outputs, or no more units, than this are linearized exactly, by their whole Jacobian. Few units
#: mean a small network, where products are cheap; few outputs do not.
EXACT_OUTPUTS, EXACT_UNITS = 128, 512


@dataclass(frozen=True)
class Linearisation:
    """A layer around a block of S samples: squared column norms (S, n), D (S,) with standard error."""

    column_norms: Tensor
    normalizer: Tensor
    normalizer_stderr: Tensor
    probes: int

    def to(self, device: torch.device) -> Linearisation:
        """The same on another device."""
        tensors = self.column_norms.to(device), self.normalizer.to(device), self.normalizer_stderr.to(device)
        return Linearisation(*tensors, self.probes)

    def at(self, rows: slice | Tensor) -> Linearisation:
        """The same of some of the samples only."""
        tensors = self.column_norms[rows], self.normalizer[rows], self.normalizer_stderr[rows]
        return Linearisation(*tensors, self.probes)


def linearise(
    network: Network,
    x: Tensor,
    unit: Tensor,
    rows: Tensor,
    probes: torch.Generator,
    *,
    stderr: float = NORMALIZER_STDERR,
    counted: Tensor | None = None,
) -> list[Linearisation]:
    """Column norms ``||J_i||^2`` and ``D = ||J||_F^2`` of every layer at the samples.

    One forward pass serves all layers; each probe costs one vector-Jacobian product per layer. Where a layer has few
    outputs, or the samples have few units, products with unit vectors give the norms exactly, at every sample.

    Parameters
    ----------
    network
        The layers.
    x
        Perturbed tensor of S samples, (S, *shape).
    unit
        Standardized unit, broadcastable to x.
    rows
        Rows of the samples in the network's context.
    probes
        Random stream.
    stderr
        Relative standard error of each sample's D to aim at.
    counted
        Units that count, (S, n) bool, or None for all. The others have norm zero and no part in D.
    """
    if counted is not None:
        unit = unit * counted.reshape(x.shape)
    leaf = x.detach().requires_grad_(True)
    features = network(leaf, rows)
    results = []
    for feature in features:
        exact = _exact_norms(feature, leaf, unit)
        results.append(_sampled_norms(feature, leaf, unit, probes, stderr) if exact is None else exact)
    return results


def _product(feature: Tensor, x: Tensor, u: Tensor) -> Tensor:
    if not feature.requires_grad:
        return torch.zeros_like(x)
    (product,) = torch.autograd.grad(feature, x, u, retain_graph=True, allow_unused=True)
    return torch.zeros_like(x) if product is None else product


def _exact_norms(feature: Tensor, x: Tensor, unit: Tensor) -> Linearisation | None:
    """Norms from unit vectors at the smaller side of the Jacobian; None where both are large."""
    units, outputs = x[0].numel(), feature.shape[1]
    if outputs <= EXACT_OUTPUTS:
        total = torch.zeros_like(x)
        for u in unit_vectors(feature):
            total += (_product(feature, x, u) * unit).square()
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
        # An operator whose gradient has no derivative of its own.
        return None
    return _known(torch.stack(columns, 1).detach(), units)


def _known(norms: Tensor, products: int) -> Linearisation:
    return Linearisation(norms, norms.sum(1), torch.zeros_like(norms[:, 0]), products)


def _sampled_norms(
    feature: Tensor, x: Tensor, unit: Tensor, generator: torch.Generator, stderr: float
) -> Linearisation:
    total = as_rows(torch.zeros_like(x))
    traces: list[Tensor] = []
    for u in random_signs(feature, MOST_PROBES, generator):
        squares = as_rows((_product(feature, x, u) * unit).square())
        total += squares
        traces.append(squares.sum(1))
        if len(traces) % LEAST_PROBES == 0 and float(relative_stderr(torch.stack(traces)).mean()) <= stderr:
            break
    mean, error = mean_and_stderr(torch.stack(traces))
    return Linearisation(total / len(traces), mean, error, len(traces))
