"""Nodes and graphs in the form that operator converters use."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import ChainMap
from collections.abc import Mapping, MutableMapping
from functools import cached_property
from types import MappingProxyType
from typing import Any, NamedTuple

import onnx
from torch import fx, nn

from ..graph import protos
from .element_types import attribute_value, tensor_from

#: Metadata key under which the graph of a body keeps, for each output, whether it may be a host value.
HOST_OUTPUTS = "onnxinfo_host_outputs"


class Converted(NamedTuple):
    """Result of converting a node.

    Parameters
    ----------
    module
        Computes the node's outputs: the value itself for one output, else a sequence of values.
    inputs
        Names of the module's inputs, in order; "" for an absent one.
    reads
        Names of the inputs whose elements the module reads while it runs.
    """

    module: nn.Module
    inputs: tuple[str, ...]
    reads: tuple[str, ...] = ()


class Node:
    """A node of a graph.

    Parameters
    ----------
    proto
        The node.
    position
        Its position in the graph.

    Attributes
    ----------
    op_type, domain
        The operator; the domain of ONNX's standard operators is "ai.onnx".
    inputs, outputs
        Names of its operands and results; "" for absent ones.
    unique_name
        Name derived from the node's name or operator and its position, unique in the graph.
    name
        The node's name, or the unique one if it has none.
    """

    def __init__(self, proto: onnx.NodeProto, position: int) -> None:
        self.proto = proto
        name, domain = proto.name, proto.domain
        self.op_type = proto.op_type
        self.domain = domain or "ai.onnx"
        self.inputs = tuple(proto.input)
        self.outputs = tuple(proto.output)
        # Torch does not allow dots in module names.
        own = name.replace(".", "/") or self.op_type
        self.unique_name = f"{domain}/{own}_{position}".lstrip("/")
        self.name = name or self.unique_name

    @cached_property
    def attributes(self) -> Mapping[str, Any]:
        """Attributes of the node as Python values: tensors become torch tensors, graphs stay protos."""
        return MappingProxyType({each.name: attribute_value(each) for each in self.proto.attribute})


class Graph(ABC):
    """A graph being converted; values of an enclosing graph are visible in it.

    Parameters
    ----------
    proto
        The graph, with topologically sorted nodes.
    opsets
        Opset version by domain; the domain of ONNX's standard operators is "ai.onnx".
    outer
        The enclosing graph, for the body of a control flow operator.
    weights
        Initializers, by name, whose data are not in the graph.

    Attributes
    ----------
    inputs, outputs
        Names of the graph inputs and outputs.
    nodes
        The nodes.
    own_initializers, initializers
        Constants by name: those of the graph itself, and all that it uses.
    value_info
        Declared types by name of a value.
    host
        Names of the values that may be host values (see :mod:`.host`); it grows during conversion. In the body of
        control flow, all inputs may be.
    """

    def __init__(
        self,
        proto: onnx.GraphProto,
        opsets: Mapping[str, int],
        outer: Graph | None = None,
        weights: Mapping[str, onnx.TensorProto] = MappingProxyType({}),
    ) -> None:
        self.proto = proto
        self.opsets = opsets
        self.inputs = tuple(value.name for value in proto.input)
        self.outputs = tuple(value.name for value in proto.output)
        self.nodes = [Node(node, i) for i, node in enumerate(proto.node)]
        self.own_initializers = {t.name: weights.get(t.name, t) for t in proto.initializer}
        self.initializers = dict(self.own_initializers)
        self.value_info: MutableMapping[str, onnx.ValueInfoProto] = {
            v.name: v for v in (*proto.value_info, *proto.input, *proto.output)
        }
        self.host: set[str] = set()
        if outer is not None:
            # Copies of all that is visible, for each of many bodies, would take quadratic time and memory.
            free = protos.free_names(proto)
            self.initializers |= {name: outer.initializers[name] for name in free if name in outer.initializers}
            self.value_info = ChainMap(self.value_info, outer.value_info)
            self.host = {*self.inputs, *outer.host.intersection(free)}

    @cached_property
    def producers(self) -> Mapping[str, Node]:
        """The node of the graph itself that computes each value, by name."""
        return {name: node for node in self.nodes for name in node.outputs if name}

    @abstractmethod
    def subgraph(self, proto: onnx.GraphProto) -> tuple[fx.GraphModule, tuple[str, ...]]:
        """Convert the body of a control flow operator.

        Returns
        -------
        module
            Module that takes the body's inputs, then the captured values.
        captured
            Names of the values of this or an enclosing graph that the body uses.
        """

    def may_be_host(self, name: str) -> bool:
        """Whether a value may be a host value."""
        return name in self.host

    def constant(self, name: str) -> Any:
        """Read an initializer as a torch tensor; strings as an array."""
        array = onnx.numpy_helper.to_array(self.initializers[name])
        return array if array.dtype == object else tensor_from(array)

    def element_type(self, name: str) -> int:
        """Return the ONNX element type of a value; 0 if unknown."""
        if name in self.initializers:
            return int(self.initializers[name].data_type)
        return int(self.value_info[name].type.tensor_type.elem_type) if name in self.value_info else 0

    def version(self, node: Node) -> int:
        """Return the opset version for a node's operator."""
        return self.opsets.get(node.domain, 1)

    def describe(self, node: Node) -> str:
        """Describe a node for errors: name, operator and operator version."""
        return f"node '{node.name}': operator {node.domain}.{node.op_type} (opset {self.version(node)})"
