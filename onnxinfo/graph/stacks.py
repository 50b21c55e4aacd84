"""Sums that are written as a stack of values, which is summed over the axis along which they are stacked."""

from __future__ import annotations

from typing import Any

import onnx

from .dataflow import Dataflow
from .protos import AnyNode


def stacked_sums(flow: Dataflow) -> dict[int, int]:
    """Find the sums ``ReduceSum(Concat(a, b, ...))`` of values of size 1 along the axis of both.

    Parameters
    ----------
    flow
        Dataflow of a graph.

    Returns
    -------
    dict
        Position of each ReduceSum by that of its Concat, which nothing else reads.
    """
    found = {}
    for i, node in enumerate(flow.nodes):
        if node.op_type != "ReduceSum" or node.domain or node.input[0] not in flow.producer:
            continue
        stack = node.input[0]
        position = flow.producer[stack]
        alone = stack not in flow.outputs and flow.consumers.get(stack) == [i]
        if alone and _is_stack(flow, position) and _axes(flow, node) == [_axis(flow, position)]:
            found[position] = i
    return found


def _is_stack(flow: Dataflow, position: int) -> bool:
    """Whether a node joins values of size 1 along its axis."""
    node = flow.nodes[position]
    if node.op_type != "Concat" or node.domain:
        return False
    axis, shapes = _axis(flow, position), [flow.shape(name) for name in node.input]
    return axis is not None and all(shape is not None and shape[axis] == 1 for shape in shapes)


def _axis(flow: Dataflow, position: int) -> int | None:
    """Axis of a Concat, from the first one on; None if the number of axes is unknown."""
    node = flow.nodes[position]
    shape = flow.shape(node.output[0])
    return None if shape is None else _attribute(node, "axis", 0) % len(shape)


def _axes(flow: Dataflow, node: AnyNode) -> list[int] | None:
    """Axes of a reduction, from the first one on; None if they are not known."""
    shape, axes = flow.shape(node.input[0]), _attribute(node, "axes", None)
    if axes is None and len(node.input) > 1 and (tensor := flow.constant(node.input[1])) is not None:
        axes = onnx.numpy_helper.to_array(tensor).tolist()
    return None if shape is None or axes is None else [axis % len(shape) for axis in axes]


def _attribute(node: AnyNode, name: str, default: Any) -> Any:
    return next((onnx.helper.get_attribute_value(each) for each in node.attribute if each.name == name), default)
