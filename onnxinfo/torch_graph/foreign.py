"""Converters of onnx2torch's registry, the ecosystem's: those a program registered there, and onnx2torch's own.

onnx2torch brings torchvision and torch's compiler. It is imported where an operator is met that onnxinfo does not have,
or by the program itself; without it nothing can be registered there.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from functools import cached_property
from types import ModuleType
from typing import TYPE_CHECKING, Any

from .nodes import Converted, Graph, Node

if TYPE_CHECKING:
    from onnx2torch.onnx_graph import OnnxGraph

_REGISTRY = "onnx2torch.node_converters.registry"

#: Takes onnx2torch's node and graph, and returns a module and a mapping of names.
ForeignConverter = Callable[..., Any]


def registered(op_type: str, domain: str, version: int) -> ForeignConverter | None:
    """Return the converter that a program registered with onnx2torch, if it did.

    Parameters
    ----------
    op_type, domain
        The operator; the domain of ONNX's own is "".
    version
        Opset version that the model imports for the domain.
    """
    found = _find(sys.modules.get(_REGISTRY), op_type, domain, version)
    return None if found is None or found.__module__.startswith("onnx2torch.") else found


def built_in(op_type: str, domain: str, version: int) -> ForeignConverter | None:
    """Return onnx2torch's own converter, if it has one; parameters as in :func:`registered`."""
    return _find(importlib.import_module(_REGISTRY), op_type, domain, version)


def _find(registry: ModuleType | None, op_type: str, domain: str, version: int) -> ForeignConverter | None:
    # While another thread imports it, the module is there and its function may not be.
    get_converter: Callable[..., ForeignConverter] | None = getattr(registry, "get_converter", None)
    if get_converter is None:
        return None
    try:
        found = get_converter(op_type, version, domain)
    except NotImplementedError:
        return None
    return found


class Onnx2torchGraph:
    """A graph as converters written for onnx2torch see it.

    Parameters
    ----------
    graph
        The graph.
    """

    def __init__(self, graph: Graph) -> None:
        self._source = graph

    def convert(self, converter: ForeignConverter, node: Node) -> Converted:
        """Convert a node of the graph."""
        module, mapping = converter(self._graph.nodes[node.unique_name], self._graph)
        return Converted(module, tuple(mapping.inputs))

    @cached_property
    def _graph(self) -> OnnxGraph:
        from onnx2torch.onnx_graph import OnnxGraph
        from onnx2torch.onnx_node import OnnxNode
        from onnx2torch.onnx_tensor import OnnxTensor

        source, graph = self._source, OnnxGraph(self._source.proto)
        # The graph itself lacks weights that were set aside and what an enclosing graph defines; and names that
        # onnx2torch makes can meet a node's real one, and hide that node.
        graph._nodes = {node.unique_name: OnnxNode(node.proto, node.unique_name) for node in source.nodes}
        graph._node_output_values = {
            name: (node, i) for node in graph._nodes.values() for i, name in enumerate(node.output_values)
        }
        graph._initializers = {name: OnnxTensor(tensor) for name, tensor in source.initializers.items()}
        graph._value_info = source.value_info
        return graph
