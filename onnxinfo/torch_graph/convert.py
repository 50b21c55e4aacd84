"""Convert an ONNX graph to a differentiable torch graph, by :mod:`.operators` and onnx2torch's registry."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import getitem
from types import MappingProxyType
from typing import Any, Literal, Self

import onnx
from torch import Tensor, fx, nn

from ..errors import ConversionError
from ..graph.model import ModelSource, load
from ..graph.surgery import expose_only
from ..graph.weights import detach_weights
from ..registry import OPERATORS
from . import foreign, lookup
from .host import OnTensors, host_value, materialized
from .nodes import HOST_OUTPUTS, Converted, Graph, Node
from .normalize import normalize
from .operators.control import CONTROL, If, Loop
from .operators.fallback import fallback as run_elsewhere
from .operators.shape_arithmetic import HOST_SOURCES
from .operators.table import Operator, is_small
from .specialize import Shapes, checked, fold_shapes, specialize

#: Metadata key under which a node of the torch graph keeps the :class:`Conversion` of its ONNX node.
CONVERSION = "onnxinfo_conversion"
Server = Literal["onnxinfo", "onnx2torch", "registered", "fallback", "none"]


@dataclass(frozen=True)
class Conversion:
    """Backend that implements one node of the graph.

    Parameters
    ----------
    node
        The node's name, or one derived from its operator if it has none.
    operator
        Operator with its domain, as in "ai.onnx.Conv".
    version
        The opset version that the model imports for the domain.
    server
        "onnxinfo": a function in :mod:`.operators`; "onnx2torch": its own converter; "registered": a converter that
        a program registered with onnx2torch; "fallback": ONNX Runtime or the reference evaluator, as a constant of
        the graph; "none": unsupported.
    outputs
        Names of the node's outputs.
    reason
        Reason why no converter implements the node; empty if one does.
    reads
        Names of the tensors whose elements the node reads while the graph runs, because a size or the course of the
        computation depends on them: there an accelerator has to wait, and a compiler or exporter may give up.
    """

    node: str
    operator: str
    version: int
    server: Server
    outputs: tuple[str, ...]
    reason: str = ""
    reads: tuple[str, ...] = ()


def convert(
    model: ModelSource,
    outputs: Sequence[str] | None = None,
    *,
    fallback: bool = True,
    shapes: Shapes = MappingProxyType({}),
) -> fx.GraphModule:
    """Convert a model; see :func:`.workflows.surgery.convert`, which knows parts of tensors, too."""
    scope = Scope.of(*needed_part(load(model), outputs, shapes), fallback=fallback, shapes=shapes)
    module = _GraphBuilder(scope, shapes).build(outputs)
    _align(module)
    module.meta["conversions"] = scope.conversions
    return module


#: Alignment, in bytes, of torch's own tensor allocations.
_ALIGNMENT = 64


def _align(module: nn.Module) -> None:
    """Align weights as torch would: with other alignments, the last digits of products may differ."""
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.data_ptr() % _ALIGNMENT:
            tensor.data = tensor.data.clone()


def needed_part(
    model: ModelSource, outputs: Sequence[str] | None, shapes: Shapes = MappingProxyType({})
) -> tuple[onnx.ModelProto, dict[str, onnx.TensorProto]]:
    """Part of a model that computes ``outputs``, and its large initializers, whose data are not in it."""
    loaded = load(model)
    names = list(outputs) if outputs is not None else [o.name for o in loaded.proto.graph.output]
    light, weights = detach_weights(loaded.proto)
    part = expose_only(dataclasses.replace(loaded, proto=light), names).proto
    return specialize(part, shapes) if shapes else part, weights


class Scope(Graph):
    """A graph being converted.

    Parameters
    ----------
    proto, opsets, outer, weights
        As for :class:`.nodes.Graph`.
    fallback
        Whether nodes without a converter may run in another engine.
    """

    def __init__(
        self,
        proto: onnx.GraphProto,
        opsets: Mapping[str, int],
        fallback: bool,
        outer: Scope | None = None,
        weights: Mapping[str, onnx.TensorProto] = MappingProxyType({}),
    ) -> None:
        super().__init__(proto, opsets, outer, weights)
        self.fallback = fallback
        self.nested = outer is not None
        self.conversions: list[Conversion] = [] if outer is None else outer.conversions
        self._foreign = foreign.Onnx2torchGraph(self)

    @classmethod
    def of(
        cls,
        proto: onnx.ModelProto,
        weights: Mapping[str, onnx.TensorProto],
        *,
        fallback: bool = True,
        shapes: Shapes = MappingProxyType({}),
    ) -> Self:
        """Normalize a model, given without its large initializers, and begin to convert its graph."""
        OPERATORS.load_installed()
        proto = normalize(proto, weights)
        proto = fold_shapes(proto, weights) if shapes else proto
        opsets = {opset.domain or "ai.onnx": opset.version for opset in proto.opset_import}
        return cls(proto.graph, opsets, fallback, weights=weights)

    def subgraph(self, proto: onnx.GraphProto) -> tuple[fx.GraphModule, tuple[str, ...]]:
        """Convert the body of a control flow operator; see :meth:`.nodes.Graph.subgraph`."""
        builder = _GraphBuilder(Scope(proto, self.opsets, self.fallback, self))
        return builder.build(), tuple(builder.captured)

    def convert_node(self, node: Node) -> Converted:
        """Convert a node and record its backend."""
        try:
            server, result = self._convert(node)
        except ConversionError as error:
            self.record(node, "none", str(error))
            raise
        except NotImplementedError as missing:
            return self._fall_back(node, missing)
        except Exception as error:
            raise self._refused(node, _line(error)) from error
        self.record(node, server, reads=result.reads)
        self._note_host_values(node, result)
        return result

    def _note_host_values(self, node: Node, result: Converted) -> None:
        module = result.module
        if isinstance(module, Operator):
            computed = module.expects.on_host is not None and self.host.issuperset(result.inputs)
            may = computed or node.op_type in HOST_SOURCES
        else:
            may = isinstance(module, CONTROL)
        if may:
            self.host.update(filter(None, node.outputs))

    def _convert(self, node: Node) -> tuple[Server, Converted]:
        if not _moves_values_only(node) and onnx.TensorProto.STRING in (
            self.element_type(name) for name in (*node.inputs, *node.outputs)
        ):
            raise NotImplementedError("torch has no strings")
        operator = (node.op_type, "" if node.domain == "ai.onnx" else node.domain, self.version(node))
        if theirs := foreign.registered(*operator):
            return "registered", self._foreign.convert(theirs, node)
        if ours := lookup.own(*operator):
            return "onnxinfo", ours(node, self)
        if theirs := foreign.built_in(*operator):
            return "onnx2torch", self._foreign.convert(theirs, node)
        raise NotImplementedError("there is no converter")

    def _fall_back(self, node: Node, missing: NotImplementedError) -> Converted:
        if not self.fallback:
            raise self._refused(node, _line(missing)) from missing
        try:
            result = run_elsewhere(node, self)
        except NotImplementedError as unavailable:
            raise self._refused(node, f"{_line(missing)}, and {unavailable}") from missing
        self.record(node, "fallback", _line(missing), result.inputs)
        return result

    def _refused(self, node: Node, reason: str) -> ConversionError:
        self.record(node, "none", reason)
        return ConversionError(f"{self.describe(node)} cannot be converted: {reason}")

    def record(self, node: Node, server: Server, reason: str = "", reads: tuple[str, ...] = ()) -> None:
        """Record the backend of a node."""
        operator = f"{node.domain}.{node.op_type}"
        self.conversions.append(
            Conversion(node.name, operator, self.version(node), server, node.outputs, reason, reads)
        )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


# Operators with scores beside a label, which may be a string.
_LABELING = ("LinearClassifier", "SVMClassifier")


def _moves_values_only(node: Node) -> bool:
    """Whether an operator passes values on without inspecting them, including strings."""
    return node.op_type in ("Identity", "Constant", "If", "Loop", "Scan", *_LABELING) or node.op_type.startswith(
        ("Sequence", "Optional")
    )


class _GraphBuilder:
    """Builds one fx graph from one ONNX graph with topologically sorted nodes."""

    def __init__(self, onnx_graph: Scope, shapes: Shapes = MappingProxyType({})) -> None:
        self.onnx_graph = onnx_graph
        self.shapes = shapes
        self.captured: list[str] = []
        self.root = nn.Module()
        self.initializers = nn.Module()
        self.root.add_module("initializers", self.initializers)
        self.graph = fx.Graph()
        self.values: dict[str, fx.Node] = {}

    def build(self, outputs: Sequence[str] | None = None) -> fx.GraphModule:
        """Build the graph; its outputs are ``outputs``, by default those of the ONNX graph."""
        initializers = self.onnx_graph.own_initializers
        for i, name in enumerate(n for n in self.onnx_graph.inputs if n not in initializers):
            self.values[name] = self.graph.placeholder(f"input_{i + 1}")
        for name in self.shapes:
            self.values[name] = self.graph.call_function(checked, (self.values[name], name, tuple(self.shapes[name])))
        for index, node in enumerate(self.onnx_graph.nodes):
            self._add(index, node)
        self.graph.output(tuple(self._output(name) for name in outputs or self.onnx_graph.outputs))
        self._leave_out_integers()
        self.graph.lint()
        module = fx.GraphModule(self.root, self.graph)
        module.meta[HOST_OUTPUTS] = tuple(map(self.onnx_graph.may_be_host, outputs or self.onnx_graph.outputs))
        return module

    def _add(self, index: int, node: Node) -> None:
        module, inputs, _ = self.onnx_graph.convert_node(node)
        if not isinstance(module, (Operator, *CONTROL)) and any(map(self.onnx_graph.may_be_host, inputs)):
            module = OnTensors(module)
        target = f"node_{index}_{node.op_type}"
        self.root.add_module(target, module)
        operand = self._operand if isinstance(module, (If, Loop)) else self._value
        arguments = tuple(operand(name) if name else None for name in inputs)
        result = self.graph.call_module(target, arguments)
        # The node's own entry follows those of its bodies.
        result.meta[CONVERSION] = self.onnx_graph.conversions[-1]
        outputs = node.outputs
        if len(outputs) == 1:
            self.values[outputs[0]] = result
            return
        for position, name in enumerate(outputs):
            if name:
                self.values[name] = self.graph.call_function(getitem, (result, position))

    def _operand(self, name: str) -> Any:
        """Return an operand or result of control flow: a few integers of the model, to count with, are host values."""
        constant = self.onnx_graph.initializers.get(name)
        if constant is not None and is_small(constant):
            return host_value(self.onnx_graph.constant(name))
        return self._value(name)

    def _output(self, name: str) -> Any:
        if self.onnx_graph.nested:
            return self._operand(name)
        value = self._value(name)
        return self.graph.call_function(materialized, (value,)) if self.onnx_graph.may_be_host(name) else value

    def _leave_out_integers(self) -> None:
        """Remove roundings to integers that nothing reads, because they are converted together with what reads them."""
        for node in reversed(self.graph.nodes):
            if node.op == "call_module" and node.target.endswith("_QuantizeLinear") and not node.users:
                self.graph.erase_node(node)

    def _value(self, name: str) -> fx.Node:
        if name not in self.values and name not in self.onnx_graph.own_initializers and self.onnx_graph.nested:
            placeholders = [node for node in self.graph.nodes if node.op == "placeholder"]
            with self.graph.inserting_after(placeholders[-1] if placeholders else None):
                self.values[name] = self.graph.placeholder(f"captured_{len(self.captured) + 1}")
            self.captured.append(name)
        if name not in self.values:
            value = self.onnx_graph.constant(name)
            buffer = f"initializer_{len(self.values)}"
            if isinstance(value, Tensor):
                self.initializers.register_buffer(buffer, value)
            else:
                setattr(self.initializers, buffer, value)
            self.values[name] = self.graph.get_attr(f"initializers.{buffer}")
        return self.values[name]
