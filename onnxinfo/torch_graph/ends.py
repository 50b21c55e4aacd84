"""Adapters of a graph's inputs and outputs to the solver: floats of at least 32 bits, samples along the first axis."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, fx

_HALF = (torch.float16, torch.bfloat16)


def with_wide_ends(module: fx.GraphModule, declared: torch.dtype) -> fx.GraphModule:
    """Make a graph take and return floats of at least 32 bits.

    Small noise, and the squares of its effects on a feature, do not survive in 16 bits; the graph itself still
    computes in 16 bits.

    Parameters
    ----------
    module
        Modified in place: its first input is converted to ``declared``, its 16-bit outputs to float32.
    declared
        Type of the first input in the model.
    """
    graph = module.graph
    if declared in _HALF:
        _narrow_first_input(graph, declared)
    end = next(node for node in graph.nodes if node.op == "output")
    with graph.inserting_before(end):
        end.args = (tuple(graph.call_function(_widened, (value,)) for value in end.args[0]),)
    module.recompile()
    return module


def with_samples_first(module: fx.GraphModule, axes: Sequence[int]) -> fx.GraphModule:
    """Make a graph take all its inputs with the samples along the first axis.

    Parameters
    ----------
    module
        Modified in place if any batch axis is not the first axis.
    axes
        Batch axis of every input; -1 if it has none, in which case the graph takes one sample per call.

    Returns
    -------
    GraphModule
        `module`. When called, it raises ValueError if an input without a batch axis gets several samples.
    """
    graph = module.graph
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    moved = [(node, axis) for node, axis in zip(inputs, axes, strict=True) if axis]
    for node, axis in moved:
        users = list(node.users)
        with graph.inserting_after(inputs[-1]):
            placed = (
                graph.call_function(_only, (node,)) if axis < 0 else graph.call_function(torch.movedim, (node, 0, axis))
            )
        for user in users:
            user.replace_input_with(node, placed)
    if any(axis < 0 for axis in axes):
        end = next(node for node in graph.nodes if node.op == "output")
        with graph.inserting_before(end):
            end.args = (tuple(graph.call_function(torch.unsqueeze, (value, 0)) for value in end.args[0]),)
    if moved:
        module.recompile()
    return module


def _narrow_first_input(graph: fx.Graph, dtype: torch.dtype) -> None:
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    users = list(inputs[0].users)
    with graph.inserting_after(inputs[-1]):
        narrow = graph.call_function(Tensor.to, (inputs[0], dtype))
    for user in users:
        user.replace_input_with(inputs[0], narrow)


def _only(batch: Tensor) -> Tensor:
    """Return the only sample of a batch; ValueError if there are several."""
    if len(batch) != 1:
        raise ValueError(f"the graph has no batch axis and takes one sample, not {len(batch)}")
    return batch[0]


def _widened(value: Tensor) -> Tensor:
    return value.float() if value.dtype in _HALF else value


#: Functions that are added to the outputs of a graph here.
ENDS = (_widened, torch.unsqueeze)
