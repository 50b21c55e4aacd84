"""ONNX graph to differentiable torch graph: onnx2torch's converters, extended by :mod:`.operators`."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import getitem
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

import onnx
from onnx2torch.node_converters import get_converter
from onnx2torch.onnx_graph import OnnxGraph
from onnx2torch.onnx_node import OnnxNode
from onnx2torch.onnx_tensor import OnnxTensor
from torch import Tensor, fx, nn

from ..errors import ConversionError
from ..graph.model import ModelSource, load
from ..graph.surgery import expose_only
from ..graph.weights import detach_weights
from . import operators
from .normalize import normalize
from .operators.fallback import fallback as run_elsewhere

if TYPE_CHECKING:
    from onnx2torch.utils.common import OperationConverterResult

#: Under this name a node of the torch graph has the :class:`Conversion` of the ONNX node it stands for.
CONVERSION = "onnxinfo_conversion"
Server = Literal["onnxinfo", "onnx2torch", "registered", "fallback", "none"]


@dataclass(frozen=True)
class Conversion:
    """What serves one node of the graph.

    Parameters
    ----------
    node
        The node's name, or one made from its operator where it has none.
    operator
        Operator with its domain, as in "ai.onnx.Conv".
    version
        The opset version that the model imports for the domain.
    server
        "onnxinfo": a function of :mod:`.operators`; "onnx2torch": its own converter; "registered": one that
        somebody else registered with onnx2torch; "fallback": ONNX Runtime or the reference evaluator, as a constant of
        the graph; "none": nothing runs it.
    outputs
        Names of what the node computes.
    reason
        Why no converter serves the node; empty where one does.
    """

    node: str
    operator: str
    version: int
    server: Server
    outputs: tuple[str, ...]
    reason: str = ""


def convert(model: ModelSource, outputs: Sequence[str] | None = None, *, fallback: bool = True) -> fx.GraphModule:
    """Convert an ONNX model to a differentiable :class:`torch.fx.GraphModule`.

    Parameters
    ----------
    model
        A path, the bytes, a ``ModelProto`` or a loaded :class:`~onnxinfo.graph.model.Model`.
    outputs
        Names of the tensors to return, any tensors of the graph; default: the graph outputs. Only the nodes they need
        become part of the module.
    fallback
        Whether a node without a converter may run through ONNX Runtime or the reference evaluator, as a constant: no
        gradient passes it.

    Returns
    -------
    torch.fx.GraphModule
        Positional inputs in the order of the ONNX graph inputs (those that are initializers too excepted); returns
        a tuple with one tensor per requested output. ``meta["conversions"]`` lists what serves each node, as
        :func:`conversion_report` does.

    Raises
    ------
    ModelError
        The model cannot be loaded.
    UsageError
        An output is no tensor of the graph.
    ConversionError
        A needed operator has no converter; the message names node, operator and opset version.

    Examples
    --------
    >>> import torch
    >>> module = onnxinfo.convert("digits-cnn.onnx", ["relu_1", "logits"])
    >>> [tuple(output.shape) for output in module(torch.zeros(2, 1, 8, 8))]
    [(2, 16, 8, 8), (2, 10)]
    """
    scope = _scope(model, outputs, fallback)
    with operators.registered():
        module = _GraphBuilder(scope).build(outputs)
    _align(module)
    module.meta["conversions"] = scope.conversions
    return module


#: Where torch itself lets the memory of a tensor begin: at multiples of this many bytes.
_ALIGNMENT = 64


def _align(module: nn.Module) -> None:
    """Let weights begin where torch would: elsewhere the same products may end in other digits, by chance."""
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.data_ptr() % _ALIGNMENT:
            tensor.data = tensor.data.clone()


def conversion_report(model: ModelSource, outputs: Sequence[str] | None = None) -> list[Conversion]:
    """Tell for every node that ``outputs`` (default: the graph outputs) need what serves it.

    Nodes in the bodies of control flow come before the node they belong to.

    Raises
    ------
    ModelError
        The model cannot be loaded.
    UsageError
        An output is no tensor of the graph.
    """
    scope = _scope(model, outputs, fallback=True)
    with operators.registered():
        for node in scope.nodes.values():
            with contextlib.suppress(ConversionError):
                scope.convert_node(node)
    return scope.conversions


def _scope(model: ModelSource, outputs: Sequence[str] | None, fallback: bool) -> _Scope:
    loaded = load(model)
    names = list(outputs) if outputs is not None else [o.name for o in loaded.proto.graph.output]
    light, weights = detach_weights(loaded.proto)
    proto = normalize(expose_only(dataclasses.replace(loaded, proto=light), names).proto, weights)
    opsets = {opset.domain or "ai.onnx": opset.version for opset in proto.opset_import}
    return _Scope(proto.graph, opsets, fallback, weights=weights)


class _Scope(OnnxGraph):  # type: ignore[misc]
    """A graph as converters see it: what an enclosing graph defines is visible, and subgraphs can be built.

    Parameters
    ----------
    proto
        The graph.
    opsets
        Opset version by domain.
    fallback
        Whether another engine may run what has no converter.
    outer
        The graph around it, for the body of a control flow operator.
    weights
        Initializers, by name, whose data is not in the graph.
    """

    def __init__(
        self,
        proto: onnx.GraphProto,
        opsets: dict[str, int],
        fallback: bool,
        outer: _Scope | None = None,
        weights: Mapping[str, onnx.TensorProto] = MappingProxyType({}),
    ) -> None:
        super().__init__(proto)
        apart = {name: OnnxTensor(t) for name, t in weights.items() if name in self.initializers}
        self._initializers = {**self.initializers, **apart}
        self._number_nodes()
        self.opsets = opsets
        self.fallback = fallback
        self.nested = outer is not None
        self.own_initializers = dict(self.initializers)
        self.conversions: list[Conversion] = []
        if outer is not None:
            hidden = {*self.input_values, *self._node_output_values}
            visible = {name: value for name, value in outer.initializers.items() if name not in hidden}
            self._initializers = visible | self.own_initializers
            self._value_info = {**outer.value_info, **self.value_info}
            self.conversions = outer.conversions

    def _number_nodes(self) -> None:
        """Give every node its own name: those onnx2torch gives can meet a node's real one, and hide that node."""
        names = (f"{self.generate_node_name(node)}_{i}" for i, node in enumerate(self.proto.node))
        self._nodes = {name: OnnxNode(node, name) for name, node in zip(names, self.proto.node, strict=True)}
        self._node_output_values = {
            output: (node, i) for node in self._nodes.values() for i, output in enumerate(node.output_values)
        }

    def subgraph(self, proto: onnx.GraphProto) -> tuple[fx.GraphModule, tuple[str, ...]]:
        """Convert the body of a control flow operator.

        Returns
        -------
        module
            Takes the body's inputs, then the captured values.
        captured
            Names of the values of this graph, or of one around it, that the body uses.
        """
        builder = _GraphBuilder(_Scope(proto, self.opsets, self.fallback, self))
        return builder.build(), tuple(builder.captured)

    def convert_node(self, node: OnnxNode) -> OperationConverterResult:
        """Convert a node and record what serves it."""
        try:
            converter = self._converter(node)
            result = converter(node, self)
            self.record(node, _server(converter))
        except ConversionError as error:
            self.record(node, "none", str(error))
            raise
        except NotImplementedError as missing:
            return self._fall_back(node, missing)
        except Exception as error:
            raise self._refused(node, _line(error)) from error
        return result

    def _fall_back(self, node: OnnxNode, missing: NotImplementedError) -> OperationConverterResult:
        if not self.fallback:
            raise self._refused(node, _line(missing)) from missing
        try:
            result = run_elsewhere(node, self, self.opsets)
        except NotImplementedError as unavailable:
            raise self._refused(node, f"{_line(missing)}, and {unavailable}") from missing
        self.record(node, "fallback", _line(missing))
        return result

    def _refused(self, node: OnnxNode, reason: str) -> ConversionError:
        self.record(node, "none", reason)
        return ConversionError(f"{self.describe(node)} cannot be converted: {reason}")

    def record(self, node: OnnxNode, server: Server, reason: str = "") -> None:
        """Keep what serves a node."""
        operator, version = self._operator(node)
        name = node.name or node.unique_name
        self.conversions.append(Conversion(name, operator, version, server, node.output_values, reason))

    def _converter(self, node: OnnxNode) -> operators.Converter:
        operands = (*node.input_values, *node.output_values)
        if not _moves_values_only(node) and onnx.TensorProto.STRING in (
            operators.element_type(n, self) for n in operands
        ):
            raise NotImplementedError("torch has no strings")
        domain = "" if node.domain == "ai.onnx" else node.domain
        try:
            found: operators.Converter = get_converter(node.operation_type, self._operator(node)[1], domain)
        except NotImplementedError:
            raise NotImplementedError("there is no converter") from None
        return found

    def _operator(self, node: OnnxNode) -> tuple[str, int]:
        domain = node.domain or "ai.onnx"
        return f"{domain}.{node.operation_type}", self.opsets.get(domain, 1)

    def describe(self, node: OnnxNode) -> str:
        """Name a node, its operator and the operator's version, as errors do."""
        operator, version = self._operator(node)
        return f"node '{node.name or node.unique_name}': operator {operator} (opset {version})"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _server(converter: operators.Converter) -> Server:
    if converter.__module__.startswith("onnxinfo."):
        return "onnxinfo"
    return "onnx2torch" if converter.__module__.startswith("onnx2torch.") else "registered"


def _moves_values_only(node: OnnxNode) -> bool:
    """Whether an operator hands values on without looking at them, strings too."""
    return node.operation_type in ("Identity", "Constant", "If", "Loop", "Scan") or node.operation_type.startswith(
        ("Sequence", "Optional")
    )


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

    def build(self, outputs: Sequence[str] | None = None) -> fx.GraphModule:
        """Build the graph; it returns ``outputs``, by default those of the ONNX graph."""
        initializers = self.onnx_graph.own_initializers
        for i, name in enumerate(n for n in self.onnx_graph.input_values if n not in initializers):
            self.values[name] = self.graph.placeholder(f"input_{i + 1}")
        for index, node in enumerate(self.onnx_graph.nodes.values()):
            self._add(index, node)
        self.graph.output(tuple(self._value(name) for name in outputs or self.onnx_graph.output_values))
        self.graph.lint()
        return fx.GraphModule(self.root, self.graph)

    def _add(self, index: int, node: OnnxNode) -> None:
        module, mapping = self.onnx_graph.convert_node(node)
        target = f"node_{index}_{node.operation_type}"
        self.root.add_module(target, module)
        arguments = tuple(self._value(name) if name else None for name in mapping.inputs)
        result = self.graph.call_module(target, arguments)
        # The node's own comes after those of its bodies.
        result.meta[CONVERSION] = self.onnx_graph.conversions[-1]
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
            value = operators.initializer_value(name, self.onnx_graph)
            buffer = f"initializer_{len(self.values)}"
            if isinstance(value, Tensor):
                self.initializers.register_buffer(buffer, value)
            else:
                setattr(self.initializers, buffer, value)
            self.values[name] = self.graph.get_attr(f"initializers.{buffer}")
        return self.values[name]
