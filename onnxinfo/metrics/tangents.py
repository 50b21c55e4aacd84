"""Responses of all layers to tangents at the input.

``J^T u`` is linear in u, and its derivative along v is ``J v``. The products of all layers are differentiated together,
so that a tangent takes about one pass, as long as one forward pass, for all layers at once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from .network import Network

_ATEN = torch.ops.aten
#: Operations whose result is the same tensor in another form.
_FORMS = (_ATEN.slice.Tensor, _ATEN.narrow.default, _ATEN.clone.default, _ATEN.view.default, _ATEN._unsafe_view.default)


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
        with _WithoutWeights():
            found = iter(torch.autograd.grad(product, open_, v.flatten(0, 1), retain_graph=True, allow_unused=True))
        moved = [next(found) if zero.requires_grad else None for zero in self._zeros]
        return [
            (torch.zeros_like(zero) if each is None else each).reshape(self.copies, -1, *zero.shape[1:])
            for zero, each in zip(self._zeros, moved, strict=True)
        ]


class _WithoutWeights(TorchDispatchMode):
    """Skip what the derivative of a convolution's gradient computes for the weights, which nobody reads.

    It is a convolution by a kernel as large as the image. Both of its operands are transposed in this pass, whereas
    the kernel of the convolution that is needed comes from the graph.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._turned: dict[int, Tensor] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is _ATEN.convolution.default and all(id(each) in self._turned for each in args[:2]):
            on_meta = [each.to("meta") if isinstance(each, Tensor) else each for each in args]
            return args[0].new_zeros(func(*on_meta).shape)
        result = func(*args, **(kwargs or {}))
        swapped = func is _ATEN.transpose.int and tuple(args[1:]) == (0, 1)
        if swapped or (func in _FORMS and id(args[0]) in self._turned):
            # Kept alive, so that no other tensor gets its identity.
            self._turned[id(result)] = result
        return result
