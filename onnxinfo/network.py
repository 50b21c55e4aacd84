"""The analyzed network: features of the chosen layers as functions of the perturbed tensor, for any batch size."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, fx

from .errors import ConversionError

#: Maps (B, *shape) perturbed inputs and the rows of their samples to one (B, m) feature per layer.
Forward = Callable[[Tensor, Tensor], list[Tensor]]


class Network:
    """Several layers' features ``h(x)`` of one model.

    Parameters
    ----------
    module
        Graph module whose first input is the perturbed tensor (batch axis first) and whose outputs are the layers'
        tensors, in order; further inputs are the model's other inputs.
    context
        The other inputs of every sample, each (samples, ...).
    batch
        The batch size the graph is made for, None if any.
    """

    def __init__(
        self, module: fx.GraphModule, context: Sequence[Tensor] = (), batch: int | None = None, *, mode: str = "batch"
    ) -> None:
        self.module = module.eval().requires_grad_(False)
        self.context = list(context)
        self.batch = batch
        self.mode = mode
        self._parts: dict[tuple[int, ...], Network] = {}

    def part(self, layers: Sequence[int]) -> Network:
        """The network that computes only the given layers (positions among the outputs)."""
        key = tuple(layers)
        if key not in self._parts:
            self._parts[key] = Network(_restrict(self.module, key), self.context, self.batch, mode=self.mode)
        return self._parts[key]

    def __call__(self, x: Tensor, rows: Tensor) -> list[Tensor]:
        """Features of the perturbed inputs.

        Parameters
        ----------
        x
            (B, *shape), in the model's units.
        rows
            (B,) sample of each input, to find its context.

        Returns
        -------
        list of Tensor
            One (B, m) tensor per layer.
        """
        context = [tensor[rows] for tensor in self.context]
        return _MODES[self.mode](self.module, x, context, self.batch or 1)

    def settle_batching(self, x: Tensor, rows: Tensor) -> str:
        """Find, and keep, the fastest way to evaluate many inputs at once that is right for this graph.

        A graph may have a batch size baked in, merge the batch axis with others, or put it elsewhere than first. Each
        way is tried on two different inputs and compared with evaluating them one by one.

        Parameters
        ----------
        x
            At least two inputs, (B, *shape).
        rows
            Their samples.

        Raises
        ------
        ConversionError
            The graph runs in no way.
        """
        try:
            expected = _one_by_one(self.module, x, [t[rows] for t in self.context], self.batch or 1)
        except Exception as error:
            raise ConversionError(f"the converted graph does not run: {' '.join(str(error).split())[:300]}") from error
        for mode in _MODES:
            self.mode = mode
            try:
                actual = self(x, rows)
            except Exception:
                # Whatever a graph raises on a batch size it was not made for, the next way is tried.
                continue
            if all(a.shape == e.shape and _close(a, e) for a, e in zip(actual, expected, strict=True)):
                break
        self._parts.clear()
        return self.mode


def _close(actual: Tensor, expected: Tensor) -> bool:
    scale = float(expected.abs().max()) if expected.numel() else 0.0
    return torch.allclose(actual, expected, rtol=1e-3, atol=1e-4 * scale + 1e-12, equal_nan=True)


def _whole(module: fx.GraphModule, x: Tensor, context: list[Tensor], batch: int) -> list[Tensor]:
    return [_rows(output, len(x)) for output in module(x, *context)]


def _rows(output: Tensor, count: int) -> Tensor:
    if output.dim() and output.shape[0] % count == 0:
        return output.reshape(count, -1)
    # Recurrent layers and the like keep the batch on a later axis.
    axis = next(i for i, size in enumerate(output.shape) if size == count)
    return output.movedim(axis, 0).reshape(count, -1)


def _mapped(module: fx.GraphModule, x: Tensor, context: list[Tensor], batch: int) -> list[Tensor]:
    def one(x_: Tensor, *context_: Tensor) -> tuple[Tensor, ...]:
        repeat = [_fill(t, batch) for t in (x_, *context_)]
        return tuple(_first(output, batch) for output in module(*repeat))

    mapped = torch.func.vmap(one, randomness="same")
    return [output.reshape(len(x), -1) for output in mapped(x, *context)]


def _one_by_one(module: fx.GraphModule, x: Tensor, context: list[Tensor], batch: int) -> list[Tensor]:
    outputs: list[list[Tensor]] = []
    for i in range(len(x)):
        inputs = [_fill(t[i], batch) for t in (x, *context)]
        outputs.append([_first(output, batch).reshape(1, -1) for output in module(*inputs)])
    return [torch.cat(parts) for parts in zip(*outputs, strict=True)]


def _fill(sample: Tensor, batch: int) -> Tensor:
    """A batch of the size the graph wants, holding one sample."""
    return sample.unsqueeze(0).expand(batch, *sample.shape)


def _first(output: Tensor, batch: int) -> Tensor:
    """What belongs to the first sample of a batch: all of it where the batch is one."""
    return output if batch == 1 else _rows(output, batch)[0]


_MODES: dict[str, Callable[[fx.GraphModule, Tensor, list[Tensor], int], list[Tensor]]] = {
    "batch": _whole,
    "vmap": _mapped,
    "loop": _one_by_one,
}


def _restrict(module: fx.GraphModule, layers: Sequence[int]) -> fx.GraphModule:
    """The graph module without the outputs, and what only they need; parameters are shared."""
    graph = copy.deepcopy(module.graph)
    output = next(node for node in reversed(graph.nodes) if node.op == "output")
    values = output.args[0]
    assert isinstance(values, tuple)
    output.args = (tuple(values[i] for i in layers),)
    for node in reversed(list(graph.nodes)):
        if node.op not in ("output", "placeholder") and not node.users:
            graph.erase_node(node)
    return fx.GraphModule(module, graph)
