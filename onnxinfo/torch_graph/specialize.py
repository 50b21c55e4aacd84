"""Specialize a graph to known input shapes: what depends on shapes alone becomes constant."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from torch import Tensor

from ..errors import UsageError
from ..graph import protos
from ..graph.inference import infer_shapes
from ..graph.tensor_data import is_external
from ..text import quoted
from .normalize import normalize

#: Sizes of the axes of graph inputs, by name; None for a free size.
Shapes = Mapping[str, Sequence[int | None]]
# Shapes inside a graph become known one after the other, as those before them are folded.
_ROUNDS = 20
_INDICES = (onnx.TensorProto.INT32, onnx.TensorProto.INT64)


def specialize(proto: onnx.ModelProto, shapes: Shapes) -> onnx.ModelProto:
    """Fix the sizes of graph inputs.

    Parameters
    ----------
    proto
        Modified in place.
    shapes
        Sizes by name of the graph input; None leaves the size of an axis free, even if the model fixes it. An axis with
        the same symbolic size in an input without given sizes gets the same size.

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
    for name, type in inputs.items():
        for dim in type.shape.dim:
            if dim.dim_param in symbols and name not in shapes:
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
            dim.ClearField("dim_value")
            continue
        if dim.dim_value and dim.dim_value != size:
            raise UsageError(f"{given}, but the model fixes axis {axis} at {dim.dim_value}")
        other, elsewhere = symbols.setdefault(dim.dim_param, (size, name)) if dim.dim_param else (size, name)
        if other != size:
            raise UsageError(f"{given}, but {quoted(dim.dim_param)} is {other} in input {quoted(elsewhere)}")
        dim.dim_value = size


def fold_shapes(proto: onnx.ModelProto, weights: Mapping[str, onnx.TensorProto]) -> onnx.ModelProto:
    """Replace known sizes of tensors by constants, and fold what depends on them.

    Parameters
    ----------
    proto
        A model from :func:`specialize`, normalized; may be modified.
    weights
        Its initializers, by name, whose data are not in the model.
    """
    for _ in range(_ROUNDS):
        if not _fold_known(proto.graph):
            break
        proto = normalize(proto, weights)
        _remove_unused(proto.graph)
    return proto


def _remove_unused(graph: onnx.GraphProto) -> None:
    """Remove nodes whose results nothing needs any more."""
    needed = {output.name for output in graph.output}
    for i in reversed(range(len(graph.node))):
        if needed.isdisjoint(graph.node[i].output):
            del graph.node[i]
        else:
            needed.update(protos.needed_names(graph.node[i]))


def _fold_known(graph: onnx.GraphProto) -> bool:
    """Turn nodes that select known sizes into constants; return whether there are any."""
    shapes = {v.name: _sizes(v.type) for v in (*graph.value_info, *graph.input)}
    shapes |= {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    constants = {t.name: t for t in graph.initializer if t.data_type in _INDICES and not is_external(t)}
    found = False
    # Shapes, and vectors of their elements, with None for a size that is not known.
    vectors: dict[str, npt.NDArray[Any]] = {}
    for node in graph.node:
        if node.domain:
            continue
        sizes = _selected(node, shapes, vectors, constants)
        if sizes is None:
            continue
        if None in sizes.reshape(-1).tolist():
            vectors[node.output[0]] = sizes
            continue
        value = onnx.numpy_helper.from_array(sizes.astype(np.int64))
        node.CopyFrom(onnx.helper.make_node("Constant", [], node.output, node.name, value=value))
        found = True
    return found


def _sizes(type: onnx.TypeProto) -> list[int | None] | None:
    """Sizes of a tensor, None for those not known; None if its rank is unknown."""
    if not type.tensor_type.HasField("shape"):
        return None
    return [dim.dim_value if dim.HasField("dim_value") else None for dim in type.tensor_type.shape.dim]


def _selected(
    node: onnx.NodeProto,
    shapes: Mapping[str, Sequence[int | None] | None],
    vectors: Mapping[str, npt.NDArray[Any]],
    constants: Mapping[str, onnx.TensorProto],
) -> npt.NDArray[Any] | None:
    """Return the sizes that a node selects from the shape of a tensor, as objects; None if it does something else."""
    attributes = {each.name: each.i for each in node.attribute}
    shape = shapes.get(node.input[0]) if node.op_type in ("Shape", "Size") else None
    if shape is not None:
        array = np.array(shape, object)
        if node.op_type == "Shape":
            return array[attributes.get("start", 0) : attributes.get("end")]
        return None if None in shape else np.array(math.prod(array), object)
    vector = vectors.get(node.input[0]) if node.input else None
    if vector is None:
        return None
    if node.op_type == "Identity" or (node.op_type == "Cast" and attributes["to"] == onnx.TensorProto.INT64):
        return vector
    if node.op_type not in ("Gather", "Slice") or not all(name in constants for name in node.input[1:]):
        return None
    operands = [onnx.numpy_helper.to_array(constants[name]) for name in node.input[1:]]
    if node.op_type == "Gather":
        (indices,) = operands
        return np.asarray(vector[indices], object) if (np.abs(indices + 0.5) < len(vector)).all() else None
    if len(operands) < 2 or any(operand.size != 1 for operand in operands):
        return None
    start, end, step = (int(operands[i].item()) if i < len(operands) else 1 for i in (0, 1, 3))
    return vector[start:end:step]


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
