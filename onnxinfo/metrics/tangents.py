"""Responses of all layers to tangents at the input.

``J^T u`` is linear in u, and its derivative along v is ``J v``. The products of all layers are differentiated together,
so that a tangent takes about one pass, as long as one forward pass, for all layers at once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .network import Network


class Responses:
    """Responses ``J v`` of all layers at the samples.

    Parameters
    ----------
    network
        Network whose outputs are the layers.
    x, rows
        Samples, (S, *shape), and their rows in the network's context.
    copies
        Number of tangents per sample that are computed at once. The graph keeps twice as much memory as a gradient's.
    """

    def __init__(self, network: Network, x: Tensor, rows: Tensor, copies: int) -> None:
        self.copies = copies
        leaf = x.detach().repeat(copies, *([1] * (x.dim() - 1))).requires_grad_(True)
        features = network(leaf, rows.repeat(copies))
        self._zeros = [torch.zeros_like(feature, requires_grad=feature.requires_grad) for feature in features]
        pairs = [(feature, zero) for feature, zero in zip(features, self._zeros, strict=True) if feature.requires_grad]
        (self._product,) = torch.autograd.grad(
            [feature for feature, _ in pairs], leaf, [zero for _, zero in pairs], create_graph=True, allow_unused=True
        )

    def __call__(self, v: Tensor) -> list[Tensor]:
        """Compute ``J v`` of every layer, each (copies, S, m).

        Parameters
        ----------
        v
            Tangents, (copies, S, *shape), in the model's units.

        Raises
        ------
        NotImplementedError, RuntimeError
            An operator's gradient has no derivative of its own.
        """
        open_ = [zero for zero in self._zeros if zero.requires_grad]
        product = self._product
        if product is None or not product.requires_grad:
            raise NotImplementedError("the gradient has no derivative")
        found = iter(torch.autograd.grad(product, open_, v.flatten(0, 1), retain_graph=True, allow_unused=True))
        moved = [next(found) if zero.requires_grad else None for zero in self._zeros]
        return [
            (torch.zeros_like(zero) if each is None else each).unflatten(0, (self.copies, -1))
            for zero, each in zip(self._zeros, moved, strict=True)
        ]
