"""The layers as they are at the samples themselves: column norms of their Jacobians, and D.

``||J_i||^2`` and ``D = ||J||_F^2`` from vector-Jacobian products, ``E_u (J^T u)_i^2`` with random signs u. D is the
normaliser of every constraint; the norms are the closed form of the discarding, where its optimisation starts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .certificate import mean_and_stderr, relative_stderr
from .network import Network
from .probe import cotangents

#: Probes: at least, and at most where D is not known well enough before.
LEAST_PROBES, MOST_PROBES = 16, 128
#: Relative standard error of a sample's D, on average over the samples, at which probing stops.
NORMALIZER_STDERR = 0.03
#: Affine layers up to this many outputs are solved exactly, by their whole Jacobian; samples that tell whether one is.
EXACT_OUTPUTS, AFFINE_SAMPLES = 4096, 4


@dataclass(frozen=True)
class Linearisation:
    """A layer around a block of S samples: squared column norms (S, n), D (S,) with standard error, affinity."""

    column_norms: Tensor
    normalizer: Tensor
    normalizer_stderr: Tensor
    affine: bool
    probes: int

    def to(self, device: torch.device) -> Linearisation:
        """The same on another device."""
        tensors = self.column_norms.to(device), self.normalizer.to(device), self.normalizer_stderr.to(device)
        return Linearisation(*tensors, self.affine, self.probes)

    def at(self, rows: slice) -> Linearisation:
        """The same of some of the samples only."""
        tensors = self.column_norms[rows], self.normalizer[rows], self.normalizer_stderr[rows]
        return Linearisation(*tensors, self.affine, self.probes)


def linearise(
    network: Network,
    x: Tensor,
    unit: Tensor,
    rows: Tensor,
    probes: torch.Generator,
    *,
    stderr: float = NORMALIZER_STDERR,
) -> list[Linearisation]:
    """Column norms ``||J_i||^2`` and ``D = ||J||_F^2`` of every layer at the samples.

    One forward pass serves all layers; each probe costs one vector-Jacobian product per layer. A layer whose products
    do not change when the input moves by a whole standard deviation is affine: its Jacobian is the same everywhere.

    Parameters
    ----------
    network
        The layers.
    x
        Perturbed tensor of S samples, (S, *shape).
    unit
        Standardised unit, broadcastable to x.
    rows
        Rows of the samples in the network's context.
    probes
        Random stream.
    stderr
        Relative standard error of each sample's D to aim at.
    """
    leaf = x.detach().requires_grad_(True)
    features = network(leaf, rows)
    results = []
    for layer, (feature, affine) in enumerate(zip(features, _affine(network, x, unit, rows, probes), strict=True)):
        if affine and MOST_PROBES < feature.shape[1] <= EXACT_OUTPUTS and not network.context:
            norms = _exact_norms(network.part([layer]), leaf, unit, rows)
            exact = norms.expand(len(x), -1)
            none = torch.zeros(len(x), device=x.device)
            results.append(Linearisation(exact, exact.sum(1), none, True, feature.shape[1]))
        else:
            results.append(_sampled_norms(feature, leaf, unit, probes, stderr, affine))
    return results


def _affine(network: Network, x: Tensor, unit: Tensor, rows: Tensor, probes: torch.Generator) -> list[bool]:
    """Whether each layer's vector-Jacobian products stay the same when some of the inputs move."""
    few, rows = x[:AFFINE_SAMPLES].detach(), rows[:AFFINE_SAMPLES]
    here = few.clone().requires_grad_(True)
    there = (few + unit * torch.randn(few.shape, generator=probes, device=x.device)).requires_grad_(True)
    found = []
    for feature, other in zip(network(here, rows), network(there, rows), strict=True):
        u = next(cotangents(feature, 1, probes))
        one, two = _product(feature, here, u), _product(other, there, u)
        found.append(torch.allclose(one, two, rtol=1e-4, atol=1e-6 * float(one.abs().max())))
    return found


def _product(feature: Tensor, x: Tensor, u: Tensor) -> Tensor:
    if not feature.requires_grad:
        return torch.zeros_like(x)
    (product,) = torch.autograd.grad(feature, x, u, retain_graph=True, allow_unused=True)
    return torch.zeros_like(x) if product is None else product


def _sampled_norms(
    feature: Tensor, x: Tensor, unit: Tensor, generator: torch.Generator, stderr: float, affine: bool
) -> Linearisation:
    total = torch.zeros_like(x).flatten(1)
    traces: list[Tensor] = []
    outputs = feature.shape[1]
    for u in cotangents(feature, min(MOST_PROBES, outputs + 1) if outputs <= MOST_PROBES else MOST_PROBES, generator):
        squares = (_product(feature, x, u) * unit).square().flatten(1)
        total += squares
        traces.append(squares.sum(1))
        if outputs <= MOST_PROBES or len(traces) % LEAST_PROBES:
            continue
        if float(relative_stderr(torch.stack(traces)).mean()) <= stderr:
            break
    if outputs <= MOST_PROBES:  # unit vectors: their squares sum to the norms exactly
        return Linearisation(total, total.sum(1), torch.zeros_like(total[:, 0]), affine, outputs)
    mean, error = mean_and_stderr(torch.stack(traces))
    return Linearisation(total / len(traces), mean, error, affine, len(traces))


def _exact_norms(network: Network, x: Tensor, unit: Tensor, rows: Tensor) -> Tensor:
    """Squared column norms (1, n) of an affine layer, row by row of its Jacobian."""
    with torch.no_grad():
        outputs = network(x[:1], rows[:1])[0].shape[1]
    norms = torch.zeros_like(x[:1])
    identity = torch.arange(outputs, device=x.device)
    for part in torch.split(identity, 256):
        leaf = x[:1].detach().repeat(len(part), *([1] * (x.dim() - 1))).requires_grad_(True)
        (feature,) = network(leaf, rows[:1].repeat(len(part)))
        (product,) = torch.autograd.grad(feature.gather(1, part[:, None]).sum(), leaf)
        norms += product.square().sum(0, keepdim=True)
    return (norms * unit.square()).flatten(1)
