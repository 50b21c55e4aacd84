"""Traverse ONNX's protobuf messages: nested graphs, the values that nodes need, all tensors of a model."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import onnx

M = TypeVar("M", onnx.ModelProto, onnx.GraphProto, onnx.TensorProto)


class AnyNode(Protocol):
    """A node as a message or as a record."""

    @property
    def op_type(self) -> str:
        """The operator."""

    @property
    def domain(self) -> str:
        """Domain of the operator."""

    @property
    def overload(self) -> str:
        """Overload of the function that the node calls."""

    @property
    def name(self) -> str:
        """Name of the node."""

    @property
    def input(self) -> Sequence[str]:
        """Names of the operands."""

    @property
    def output(self) -> Sequence[str]:
        """Names of the results."""

    @property
    def attribute(self) -> Sequence[onnx.AttributeProto]:
        """The attributes."""


N = TypeVar("N", bound=AnyNode)


@dataclass(slots=True)
class Node:
    """A node that was read once: each access to a field of a message costs several times that of an attribute.

    Attributes
    ----------
    proto
        The message. Changes to it do not change the record.
    """

    proto: onnx.NodeProto
    op_type: str
    domain: str
    overload: str
    name: str
    input: tuple[str, ...]
    output: tuple[str, ...]
    attribute: tuple[onnx.AttributeProto, ...]

    @classmethod
    def of(cls, proto: onnx.NodeProto) -> Node:
        """Read a message."""
        return cls(
            proto,
            proto.op_type,
            proto.domain,
            proto.overload,
            proto.name,
            tuple(proto.input),
            tuple(proto.output),
            tuple(proto.attribute),
        )


def copy_into(target: M, source: M, left_out: Collection[str] = ()) -> M:
    """Copy a message's fields, except the named ones, into an empty message, and return it.

    Unlike ``CopyFrom``, this copies tensors of any size, because none passes through a serialized message.
    """
    for field, value in source.ListFields():
        if field.name in left_out:
            continue
        if field.name == "initializer":
            copy_tensors(target.initializer, value)
        elif field.name == "graph":
            copy_into(target.graph, value)
        elif field.is_repeated:
            getattr(target, field.name).extend(value)
        elif field.type == field.TYPE_MESSAGE:
            getattr(target, field.name).CopyFrom(value)
        else:
            setattr(target, field.name, value)
    return target


def copy_tensors(target: Any, tensors: Iterable[onnx.TensorProto]) -> None:
    """Append copies of tensors to a repeated field."""
    for tensor in tensors:
        copy_into(target.add(), tensor)


def bodies(node: AnyNode) -> Iterator[onnx.GraphProto]:
    """Graphs among a node's attributes: the bodies of control flow."""
    for attribute in node.attribute:
        yield from bodies_of(attribute)


def bodies_of(attribute: onnx.AttributeProto) -> Iterator[onnx.GraphProto]:
    """Graphs in an attribute."""
    if attribute.HasField("g"):
        yield attribute.g
    yield from attribute.graphs


def nested(nodes: Iterable[N]) -> Iterator[N | onnx.NodeProto]:
    """Yield the nodes, each followed by those of its bodies, at any depth."""
    for node in nodes:
        yield node
        if node.attribute:
            for body in bodies(node):
                yield from nested(body.node)


def initial_names(graph: onnx.GraphProto) -> set[str]:
    """Names that a graph's initializers define, including sparse ones."""
    return {tensor.name for tensor in graph.initializer} | {sparse.values.name for sparse in graph.sparse_initializer}


def free_names(graph: onnx.GraphProto) -> list[str]:
    """Names that a body uses but does not define, in order of first use."""
    defined = {value.name for value in graph.input} | initial_names(graph)
    free: dict[str, None] = {}
    for node in graph.node:
        free.update((name, None) for name in needed_names(node) if name not in defined)
        defined.update(node.output)
    free.update((value.name, None) for value in graph.output if value.name not in defined)
    return list(free)


def needed_names(node: AnyNode) -> list[str]:
    """Names of the values that a node reads: its inputs, and the values captured by its bodies."""
    names = dict.fromkeys(node.input)
    if node.attribute:
        names.update((name, None) for body in bodies(node) for name in free_names(body))
    names.pop("", None)
    return list(names)


def tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """All tensors of a model: initializers and attributes, including those in bodies and functions."""
    yield from _graph_tensors(model.graph)
    for function in model.functions:
        yield from _attribute_tensors(function.attribute_proto)
        yield from _node_tensors(function.node)


def _graph_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _node_tensors(graph.node)


def _node_tensors(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    for node in nodes:
        if node.attribute:
            yield from _attribute_tensors(node.attribute)


def _attribute_tensors(attributes: Iterable[onnx.AttributeProto]) -> Iterator[onnx.TensorProto]:
    for attribute in attributes:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        sparse = [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []
        for item in (*sparse, *attribute.sparse_tensors):
            yield from (item.values, item.indices)
        for graph in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
            yield from _graph_tensors(graph)


def tensor_types(type: onnx.TypeProto) -> Iterator[onnx.TypeProto.Tensor]:
    """Tensor types within a type, including sequences, optionals and maps."""
    kind = type.WhichOneof("value")
    if kind in ("sequence_type", "optional_type"):
        yield from tensor_types(getattr(type, kind).elem_type)
    elif kind == "map_type":
        yield from tensor_types(type.map_type.value_type)
    elif kind in ("tensor_type", "sparse_tensor_type"):
        yield getattr(type, kind)
