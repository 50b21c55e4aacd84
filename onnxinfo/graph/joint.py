"""Join several tensors of a model into one graph input, (batch, units), from which the graph itself restores them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from ..text import shorten
from . import protos
from .batch_axes import SEPARATE
from .model import Model, load
from .surgery import without_outputs

# Prefix of the names of added nodes.
_ADDED = "onnxinfo/joint/"
_LONGEST_NAME = 80
# Operator version from which the sizes of a split are an operand, not an attribute.
_SIZES_AS_OPERAND = 13


@dataclass(frozen=True)
class JoinedTensor:
    """A tensor to join: its name, the shape of one sample, and its batch axis (-1: none)."""

    name: str
    shape: tuple[int, ...]
    axis: int


def is_joining(node: protos.AnyNode) -> bool:
    """Whether :func:`join_tensors` added a node: its outputs are the analysis input, not layers."""
    return node.name.startswith(_ADDED)


def join_tensors(model: Model, tensors: Sequence[JoinedTensor]) -> tuple[Model, str]:
    """Replace tensors by parts of one graph input.

    Parameters
    ----------
    model
        A loaded model.
    tensors
        Float tensors, none of which depends on another one.

    Returns
    -------
    tuple
        The model, whose first graph input holds all values of the tensors side by side, (batch, units), or (units,)
        without a batch axis; and that input's name. The other inputs follow in their order, the tensors keep their
        names, and the digest remains that of the original.
    """
    graph = model.proto.graph
    names = [each.name for each in tensors]
    proto = protos.copy_into(onnx.ModelProto(), model.proto)
    known = {*model.flow.producer, *model.flow.initializers, *(value.name for value in graph.input)}
    joint = _unused(joint_name(names), known)
    del proto.graph.input[:], proto.graph.node[:]
    separate = tensors[0].axis == SEPARATE
    types = [model.flow.element_type(name) or TensorProto.FLOAT for name in names]
    widest = types[0] if len(set(types)) == 1 else TensorProto.DOUBLE if TensorProto.DOUBLE in types else 1
    units = sum(math.prod(each.shape) for each in tensors)
    batch = [] if separate else [_batch(model, tensors)]
    proto.graph.input.append(onnx.helper.make_tensor_value_info(joint, widest, [*batch, units]))
    proto.graph.input.extend(value for value in graph.input if value.name not in names)
    proto.graph.node.extend(_restoring(proto, joint, widest, tensors, types))
    proto.graph.node.extend(without_outputs(graph.node, names, known))
    _declare(proto.graph, model, tensors, types)
    axes = {name: axis for name, axis in model.batch_axes.items() if name not in names}
    if separate:
        axes[joint] = SEPARATE
    return (
        dataclasses.replace(
            load(proto),
            sha256=model.sha256,
            name=model.name,
            path=model.path,
            batch_axes=axes,
            parts=model.parts,
        ),
        joint,
    )


def joint_name(names: Sequence[str]) -> str:
    """Name of several tensors together, for messages; shortened if there are many."""
    text = ", ".join(names)
    if len(text) <= _LONGEST_NAME:
        return text
    return f"{shorten(names[0], 30)}, {shorten(names[1], 30)} and {len(names) - 2} more"


def _unused(name: str, known: Collection[str]) -> str:
    return name if name not in known else _unused(f"{name} ", known)


def _batch(model: Model, tensors: Sequence[JoinedTensor]) -> int | str | None:
    """Declared size of the batch axis: a number if one of the tensors is made for it, else its name, if it has one."""
    sizes = [(model.flow.shape(each.name) or ())[each.axis : each.axis + 1] for each in tensors]
    found = [size for declared in sizes for size in declared if size is not None]
    return next((size for size in found if isinstance(size, int) and size > 0), next(iter(found), None))


def _restoring(
    proto: onnx.ModelProto, joint: str, widest: int, tensors: Sequence[JoinedTensor], types: Sequence[int]
) -> list[onnx.NodeProto]:
    """Nodes that restore the tensors from the joint input."""
    sizes = [math.prod(each.shape) for each in tensors]
    pieces, nodes = [], []
    for each, element in zip(tensors, types, strict=True):
        steps = _steps(proto, each, widest, element)
        pieces.append(steps[0].input[0] if steps else each.name)
        nodes += steps
    split = onnx.helper.make_node("Split", [joint], pieces, f"{_ADDED}split", axis=0 if tensors[0].axis < 0 else 1)
    if _version(proto) >= _SIZES_AS_OPERAND:
        split.input.append(_constant(proto, "sizes", sizes))
    else:
        split.attribute.append(onnx.helper.make_attribute("split", sizes))
    return [split, *nodes]


def _steps(proto: onnx.ModelProto, tensor: JoinedTensor, widest: int, element: int) -> list[onnx.NodeProto]:
    """Nodes that give a piece of the joint input the tensor's type and shape, and move its batch axis."""
    todo: list[tuple[str, list[str], dict[str, Any]]] = []
    if element != widest:
        todo.append(("Cast", [], {"to": element}))
    batch = [] if tensor.axis == SEPARATE else [-1]
    if len(tensor.shape) != 1:
        todo.append(("Reshape", [_constant(proto, f"{tensor.name}/shape", [*batch, *tensor.shape])], {}))
    if tensor.axis > 0:
        order = list(range(1, len(tensor.shape) + 1))
        todo.append(("Transpose", [], {"perm": [*order[: tensor.axis], 0, *order[tensor.axis :]]}))
    names = [*(f"{_ADDED}{tensor.name}/{operator}" for operator, _, _ in todo), tensor.name]
    return [
        onnx.helper.make_node(operator, [names[i], *operands], [names[i + 1]], names[i], **attributes)
        for i, (operator, operands, attributes) in enumerate(todo)
    ]


def _constant(proto: onnx.ModelProto, name: str, values: Sequence[int]) -> str:
    tensor = onnx.numpy_helper.from_array(np.array(values, np.int64), f"{_ADDED}{name}")
    proto.graph.initializer.append(tensor)
    return str(tensor.name)


def _version(proto: onnx.ModelProto) -> int:
    """Version of ONNX's own operators; imported if the model uses only others."""
    found = next((opset.version for opset in proto.opset_import if opset.domain in ("", "ai.onnx")), None)
    if found is None:
        proto.opset_import.append(onnx.helper.make_opsetid("", _SIZES_AS_OPERAND))
    return found or _SIZES_AS_OPERAND


def _declare(graph: onnx.GraphProto, model: Model, tensors: Sequence[JoinedTensor], types: Sequence[int]) -> None:
    """Declare the tensors with the sizes that the samples have, instead of what the original leaves open."""
    names = {each.name for each in tensors}
    kept = [value for value in graph.value_info if value.name not in names]
    del graph.value_info[:]
    graph.value_info.extend(kept)
    for each, element in zip(tensors, types, strict=True):
        shape: list[int | str | None] = list(each.shape)
        if each.axis != SEPARATE:
            shape.insert(each.axis, (model.flow.shape(each.name) or (None,) * (each.axis + 1))[each.axis])
        graph.value_info.append(onnx.helper.make_tensor_value_info(each.name, element, shape))
