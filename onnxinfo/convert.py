"""ONNX graph to differentiable torch graph: onnx2torch's converters, extended by :mod:`onnxinfo.operators`."""

from __future__ import annotations

from collections.abc import Sequence
from operator import getitem
from typing import TYPE_CHECKING

from onnx2torch.node_converters import get_converter
from onnx2torch.onnx_graph import OnnxGraph
from onnx2torch.onnx_node import OnnxNode
from torch import fx, nn

from . import operators
from .errors import ConversionError
from .model import ModelSource, load
from .normalize import normalize
from .surgery import expose_only

if TYPE_CHECKING:
    import onnx


def convert(model: ModelSource, outputs: Sequence[str] | None = None) -> fx.GraphModule:
    """Convert an ONNX model to a differentiable :class:`torch.fx.GraphModule`.

    Parameters
    ----------
    model
        A path, the bytes, a ``ModelProto`` or a loaded :class:`~onnxinfo.model.Model`.
    outputs
        Names of the tensors to return, any tensors of the graph; default: the graph outputs. Only the nodes they need
        become part of the module.

    Returns
    -------
    torch.fx.GraphModule
        Positional inputs in the order of the ONNX graph inputs (those that are initializers too excepted); returns
        a tuple with one tensor per requested output.

    Raises
    ------
    ModelError
        The model cannot be loaded.
    UsageError
        An output is no tensor of the graph.
    ConversionError
        A needed operator has no converter; the message names node, operator and opset version.
    """
    loaded = load(model)
    names = list(outputs) if outputs is not None else [o.name for o in loaded.proto.graph.output]
    proto = normalize(expose_only(loaded, names)).proto
    opsets = {opset.domain or "ai.onnx": opset.version for opset in proto.opset_import}
    with operators.registered():
        return _GraphBuilder(_Scope(proto.graph, opsets)).build()


class _Scope(OnnxGraph):  # type: ignore[misc]
    """A graph as converters see it: what an enclosing graph defines is visible, and subgraphs can be built.

    Parameters
    ----------
    proto
        The graph.
    opsets
        Opset version by domain.
    outer
        The graph around it, for the body of a control flow operator.
    """

    def __init__(self, proto: onnx.GraphProto, opsets: dict[str, int], outer: _Scope | None = None) -> None:
        super().__init__(proto)
        self.opsets = opsets
        self.nested = outer is not None
        self.own_initializers = dict(self.initializers)
        if outer is not None:
            hidden = {*self.input_values, *self._node_output_values}
            visible = {name: value for name, value in outer.initializers.items() if name not in hidden}
            self._initializers = visible | self.own_initializers
            self._value_info = {**outer.value_info, **self.value_info}

    def subgraph(self, proto: onnx.GraphProto) -> tuple[fx.GraphModule, tuple[str, ...]]:
        """Convert the body of a control flow operator.

        Returns
        -------
        module
            Takes the body's inputs, then the captured values.
        captured
            Names of the values of this graph, or of one around it, that the body uses.
        """
        builder = _GraphBuilder(_Scope(proto, self.opsets, self))
        return builder.build(), tuple(builder.captured)


class _GraphBuilder:
    """Build one fx graph from one ONNX graph whose nodes are topologically sorted."""

    def __init__(self, onnx_graph: _Scope) -> None:
        self.onnx_graph = onnx_graph
        self.captured: list[str] = []
        self.root = nn.Module()
        self.initializers = nn.Module()
        self.root.add_module("initializers", self.initializers)
        self.graph = fx.Graph()
        self.values: dict[str, fx.Node] = {}

    def build(self) -> fx.GraphModule:
        initializers = self.onnx_graph.own_initializers
        for i, name in enumerate(n for n in self.onnx_graph.input_values if n not in initializers):
            self.values[name] = self.graph.placeholder(f"input_{i + 1}")
        for index, node in enumerate(self.onnx_graph.nodes.values()):
            self._add(index, node)
        self.graph.output(tuple(self._value(name) for name in self.onnx_graph.output_values))
        self.graph.lint()
        return fx.GraphModule(self.root, self.graph)

    def _add(self, index: int, node: OnnxNode) -> None:
        domain = "" if node.domain == "ai.onnx" else node.domain
        version = self.onnx_graph.opsets.get(domain or "ai.onnx", 1)
        try:
            converter = get_converter(node.operation_type, version, domain)
            module, mapping = converter(node, self.onnx_graph)
        except Exception as error:
            raise ConversionError(
                f"node '{node.name or node.unique_name}': operator {domain or 'ai.onnx'}.{node.operation_type} "
                f"(opset {version}) cannot be converted: {' '.join(str(error).split())}"
            ) from error
        target = f"node_{index}_{node.operation_type}"
        self.root.add_module(target, module)
        arguments = tuple(self._value(name) if name else None for name in mapping.inputs)
        result = self.graph.call_module(target, arguments)
        outputs = node.output_values
        if len(outputs) == 1:
            self.values[outputs[0]] = result
            return
        for position, name in enumerate(outputs):
            if name:
                self.values[name] = self.graph.call_function(getitem, (result, position))

    def _value(self, name: str) -> fx.Node:
        if name not in self.values and name not in self.onnx_graph.own_initializers and self.onnx_graph.nested:
            placeholders = [node for node in self.graph.nodes if node.op == "placeholder"]
            with self.graph.inserting_after(placeholders[-1] if placeholders else None):
                self.values[name] = self.graph.placeholder(f"captured_{len(self.captured) + 1}")
            self.captured.append(name)
        if name not in self.values:
            tensor = operators.initializer_value(name, self.onnx_graph)
            buffer = f"initializer_{sum(1 for _ in self.initializers.buffers())}"
            self.initializers.register_buffer(buffer, tensor)
            self.values[name] = self.graph.get_attr(f"initializers.{buffer}")
        return self.values[name]
