"""Memory that an evaluation of a graph takes, from the declared and inferred shapes."""

from __future__ import annotations

import math

import onnx

from .dataflow import Dataflow


def live_bytes(flow: Dataflow) -> int:
    """Return the most bytes of values that exist at once while the nodes run in order, for one sample.

    A value exists from the node that computes it to the last one that reads it. Unknown sizes count as 1, as the batch
    size does; weights are not counted.
    """
    sizes = {name: _size(flow, name) for name in flow.inputs}
    most = alive = sum(sizes.values())
    for position, node in enumerate(flow.nodes):
        made = {name: _size(flow, name) for name in node.output if name}
        sizes |= made
        alive += sum(made.values())
        most = max(most, alive)
        for name in {*flow.needs[position], *made} - flow.outputs:
            # Positions of consumers ascend.
            if flow.consumers.get(name, [-1])[-1] <= position:
                alive -= sizes.pop(name, 0)
    return most


def _size(flow: Dataflow, name: str) -> int:
    shape, element = flow.shape(name), flow.element_type(name)
    if shape is None or not element or element == onnx.TensorProto.STRING:
        return 0
    return (
        math.prod(size for size in shape if isinstance(size, int))
        * onnx.helper.tensor_dtype_to_np_dtype(element).itemsize
    )
