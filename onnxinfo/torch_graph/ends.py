"""Inputs and outputs of a graph that computes in 16 bits: they get the precision of the solver."""

from __future__ import annotations

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


def _narrow_first_input(graph: fx.Graph, dtype: torch.dtype) -> None:
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    users = list(inputs[0].users)
    with graph.inserting_after(inputs[-1]):
        narrow = graph.call_function(Tensor.to, (inputs[0], dtype))
    for user in users:
        user.replace_input_with(inputs[0], narrow)


def _widened(value: Tensor) -> Tensor:
    return value.float() if value.dtype in _HALF else value
