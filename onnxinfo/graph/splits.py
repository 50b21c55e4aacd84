"""Tensors at which a network can be split in two."""

from __future__ import annotations

from collections.abc import Collection

from .dataflow import Dataflow


def is_split(flow: Dataflow, tensor: str, sources: Collection[str], targets: Collection[str]) -> bool:
    """Whether targets depend on the values of sources through one tensor alone.

    Parameters
    ----------
    flow
        The graph.
    tensor
        Name of the tensor.
    sources, targets
        Names of other tensors, such as the inputs and the outputs.
    """
    reached = {name for name in sources if name != tensor}
    pending = [*reached]
    while pending:
        for position in flow.consumers.get(pending.pop(), ()):
            if flow.sees(position):
                fresh = {name for name in flow.nodes[position].output if name} - reached - {tensor}
                reached |= fresh
                pending += fresh
    return reached.isdisjoint(set(targets) - {tensor})
