"""Specialize a graph to known input shapes: what depends on shapes alone becomes constant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from torch import Tensor

from ..errors import UsageError
from ..graph.constants import static_shape
from ..graph.inference import infer_shapes
from ..text import quoted
from .normalize import normalize

#: Sizes of the axes of graph inputs, by name; None for a free size.
Shapes = Mapping[str, Sequence[int | None]]
# Shapes inside a graph become known one after the other, as those before them are folded.
_ROUNDS = 20


def specialize(proto: onnx.ModelProto, shapes: Shapes) -> onnx.ModelProto:
    """Fix the sizes of graph inputs.

    Parameters
    ----------
    proto
        Modified in place.
    shapes
        Sizes by name of the graph input. An axis with the same symbolic size in another input gets the same size.

    Returns
    -------
    onnx.ModelProto
        The model with shapes inferred from these sizes alone.

    Raises
    ------
    UsageError
        An input does not exist, or its declaration or another input's shape contradicts the sizes.
    """
    inputs = {value.name: value.type.tensor_type for value in proto.graph.input}
    symbols: dict[str, tuple[int, str]] = {}
    for name, sizes in shapes.items():
        if name not in inputs:
            raise UsageError(f"shapes: there is no graph input {quoted(name)}, expected one of {sorted(inputs)}")
        _fix(name, inputs[name], sizes, symbols)
    for type in inputs.values():
        for dim in type.shape.dim:
            if dim.dim_param in symbols:
                dim.dim_value = symbols[dim.dim_param][0]
    # Declared shapes of inner tensors may be those of another input shape.
    for value in (*proto.graph.value_info, *proto.graph.output):
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")
    return infer_shapes(proto)


def _fix(name: str, type: onnx.TypeProto.Tensor, sizes: Sequence[int | None], symbols: dict[str, Any]) -> None:
    if not type.HasField("shape"):
        type.shape.dim.extend(onnx.TensorShapeProto.Dimension() for _ in sizes)
    dims = type.shape.dim
    given = f"shapes: input {quoted(name)} was given as {list(sizes)}"
    if len(dims) != len(sizes):
        raise UsageError(f"{given}, but it has {len(dims)} axes")
    for axis, (dim, size) in enumerate(zip(dims, sizes, strict=True)):
        if size is None:
            continue
        if dim.dim_value and dim.dim_value != size:
            raise UsageError(f"{given}, but the model fixes axis {axis} at {dim.dim_value}")
        other, elsewhere = symbols.setdefault(dim.dim_param, (size, name)) if dim.dim_param else (size, name)
        if other != size:
            raise UsageError(f"{given}, but {quoted(dim.dim_param)} is {other} in input {quoted(elsewhere)}")
        dim.dim_value = size


def fold_shapes(proto: onnx.ModelProto, weights: Mapping[str, onnx.TensorProto]) -> onnx.ModelProto:
    """Replace the shapes of tensors of known shape by constants, and fold what depends on them.

    Parameters
    ----------
    proto
        A model from :func:`specialize`, normalized; may be modified.
    weights
        Its initializers, by name, whose data are not in the model.
    """
    for _ in range(_ROUNDS):
        known = {v.name: static_shape(v.type) for v in (*proto.graph.value_info, *proto.graph.input)}
        known |= {tensor.name: tuple(tensor.dims) for tensor in proto.graph.initializer}
        if not sum(_replaced(node, known) for node in proto.graph.node):
            break
        proto = normalize(proto, weights)
    return proto


def _replaced(node: onnx.NodeProto, known: Mapping[str, tuple[int, ...] | None]) -> bool:
    """Turn a Shape or Size of a tensor of known shape into a constant."""
    shape = known.get(node.input[0]) if node.op_type in ("Shape", "Size") and not node.domain else None
    if shape is None:
        return False
    limits = {each.name: each.i for each in node.attribute}
    array = np.array(shape[limits.get("start", 0) : limits.get("end")], np.int64)
    if node.op_type == "Size":
        array = np.array(np.prod(shape, dtype=np.int64))
    constant = onnx.helper.make_node("Constant", [], node.output, node.name, value=onnx.numpy_helper.from_array(array))
    node.CopyFrom(constant)
    return True


def checked(value: Tensor, name: str, sizes: tuple[int | None, ...]) -> Tensor:
    """Return an input if it has the shape that the graph was specialized to.

    Raises
    ------
    UsageError
        It has another shape.
    """
    shape = tuple(value.shape)
    if len(shape) != len(sizes) or any(size not in (None, n) for n, size in zip(shape, sizes, strict=True)):
        raise UsageError(f"input {quoted(name)} has shape {list(shape)}; the graph was converted for {list(sizes)}")
    return value
