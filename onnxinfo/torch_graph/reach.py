"""Determine which layers a gradient reaches: no node on the way may run as a constant."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Any

import onnx
from torch import Tensor, fx

from ..errors import ConversionError, UsageError
from ..graph import protos
from ..graph.dataflow import Dataflow
from ..graph.layers import list_layers
from ..graph.model import Model, ModelSource, load
from ..graph.protos import Node
from ..graph.surgery import extract
from ..graph.text_inputs import tensors_of_text
from ..text import printable
from .conversions import reported_part
from .convert import CONVERSION, Conversion, convert
from .specialize import Shapes

# Types that never carry a gradient. Smaller integers may, because quantized values are represented by floats.
_DISCRETE = {onnx.TensorProto.INT64, onnx.TensorProto.BOOL, onnx.TensorProto.STRING}
_INTEGERS = _DISCRETE | {
    number for name, number in onnx.TensorProto.DataType.items() if re.fullmatch(r"U?INT\d+", name)
}
_CONSTANT = ("fallback", "none")
# Operators whose gradient in torch is 0 everywhere, or absent.
_FLAT = {"ai.onnx.Sign", "ai.onnx.Hardmax"}
_SUM, _DIFFERENCE = "Add", "Sub"
_SHOWN = 10


def obstacles(model: ModelSource, perturb: str | Sequence[str], layers: Sequence[str]) -> dict[str, Conversion]:
    """Find the layers that no gradient reaches because a node on the way has no differentiable converter.

    Parameters
    ----------
    model
        See :func:`onnxinfo.load`.
    perturb
        Name of the analysis input, or of several tensors that it consists of.
    layers
        Names of tensors that depend on it.

    Returns
    -------
    dict
        By layer, the first such node on the way to it, or an unsupported node that it needs; if every way to it leads
        through integers or truth values, the node that computes these. A gradient must reach a layer from each of the
        tensors that it depends on. Other layers are omitted.

    Raises
    ------
    ModelError
        The model cannot be loaded.
    UsageError
        A tensor is not in the graph, or no layer depends on the analysis input.
    """
    loaded = load(model)
    named = [perturb] if isinstance(perturb, str) else list(perturb)
    sources = [name for name in named if not loaded.flow.influenced(name).isdisjoint(layers)] or named[:1]
    part = extract(loaded, [*sources, *tensors_of_text(loaded, sources, layers)], layers)
    way = _Way(part)
    found: dict[str, Conversion] = {}
    for source in sources:
        found = {**way.blocked(source), **found}
    return {name: found[name] for name in layers if name in found}


class _Way:
    """The part of a model between the analysis input and layers, as far as gradients are concerned."""

    def __init__(self, part: Model) -> None:
        graph, conversions = reported_part(part)
        self._served = {name: c for c in conversions for name in c.outputs}
        self._without = {name: c for name, c in self._served.items() if c.server in _CONSTANT}
        self._graph = graph
        self._types = {v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.output)}

    @cached_property
    def _flow(self) -> Dataflow:
        return Dataflow(self._graph)

    @cached_property
    def _is_open(self) -> bool:
        """Whether no node can block a gradient: all are converted, none computes integers, and none is flat."""
        return not self._without and not any(
            self._types.get(name) in _INTEGERS or conversion.operator in _FLAT
            for name, conversion in self._served.items()
        )

    def blocked(self, source: str) -> dict[str, Conversion]:
        """Return the values that depend on a tensor, but have no gradient by it, each with the node that blocks it."""
        if self._is_open:
            return {}
        flow, types, served, without = self._flow, self._types, self._served, self._without
        carrying = {source}
        found: dict[str, Conversion] = {}
        ends: dict[str, Conversion] = {}
        for position, node in enumerate(flow.nodes):
            needed = flow.needs[position]
            operands = [name for name in needed if name in carrying] if flow.sees(position) else []
            discrete = _INTEGERS if _casts(node, types) else _DISCRETE
            outputs = [name for name in node.output if name and types.get(name) not in discrete]
            if operands:
                carrying.update(outputs)
            within = [without[name] for name in _computed_within(node) if name in without] if without else []
            ahead = [found[name] for name in needed if name in found] if found else []
            # An unsupported node is an obstacle even if no gradient needs to pass through it.
            obstacle = next((c for c in (*ahead, *within) if operands or c.server == "none"), None)
            if obstacle is not None:
                found.update(dict.fromkeys(node.output if obstacle.server == "none" else outputs, obstacle))
                continue
            # Where a gradient ends in integers or truth values, whatever is computed from them alone has none.
            ended = [ends[name] for name in needed if name in ends] if ends and flow.sees(position) else []
            cancelled = self._cancelled(node, ends) if ends else None
            for name in node.output:
                flat = operands and name in served and (name not in outputs or served[name].operator in _FLAT)
                cause = served[name] if flat else cancelled if operands else next(iter(ended), None)
                if cause is not None:
                    carrying.discard(name)
                    ends[name] = cause
        return {**ends, **found}

    def _cancelled(self, node: Node, ends: Mapping[str, Conversion]) -> Conversion | None:
        """Node at which the gradient of ``x + (q - x)`` ends, if q has none: the gradients by x cancel.

        Exports of models that were trained with a straight-through estimator, such as VQ-VAEs, contain such sums.
        """
        if node.op_type != _SUM:
            return None
        for x, difference in (node.input, reversed(node.input)):
            before = self._flow.nodes[self._flow.producer[difference]] if difference in self._flow.producer else node
            if before.op_type == _DIFFERENCE and before.input[1] == x:
                return ends.get(before.input[0])
        return None


def reasons_unreached(model: ModelSource, perturb: str | Sequence[str], layers: Sequence[str]) -> dict[str, str]:
    """Explain for each layer that no gradient reaches which node blocks it, and why.

    Parameters
    ----------
    model, perturb, layers
        As in :func:`obstacles`.

    Returns
    -------
    dict
        Reasons by layer; all layers have one if the part of the model that they need cannot be converted.

    Raises
    ------
    ModelError
        The model cannot be loaded.
    """
    try:
        blocked = obstacles(model, perturb, layers)
    except (ConversionError, UsageError) as error:
        return dict.fromkeys(layers, str(error))
    return {
        name: f"node '{c.node}' ({c.operator}, opset {c.version}): {c.reason or 'it has no gradient'}"
        for name, c in blocked.items()
    }


def _casts(node: protos.AnyNode, types: Mapping[str, int]) -> bool:
    """Whether a node converts values to another type."""
    return node.op_type in ("Cast", "CastLike") and types.get(node.input[0]) != types.get(node.output[0])


def _computed_within(node: protos.AnyNode) -> Iterator[str]:
    """Names of the results of a node and of the nodes in its bodies."""
    for inner in protos.nested([node]):
        yield from inner.output


def convert_reached(
    model: ModelSource, perturb: str, layers: Sequence[str], shapes: Shapes = MappingProxyType({})
) -> fx.GraphModule:
    """Convert the part of a model between the analysis input and layers, all of which a gradient must reach.

    Parameters
    ----------
    model, perturb, layers
        As in :func:`obstacles`.
    shapes
        Shapes of inputs of that part, as in :func:`.convert.convert`.

    Returns
    -------
    torch.fx.GraphModule
        Takes the analysis input, then the tensors computed from text inputs, then the other graph inputs that the
        layers need; returns the layers' tensors.

    Raises
    ------
    ConversionError
        As raised by :func:`check_reach`; or a node off the gradient's way is unsupported.
    ModelError, UsageError
        As raised by :func:`obstacles`.
    """
    try:
        part = extract(model, [perturb, *tensors_of_text(model, perturb, layers)], layers)
        module = convert(part, layers, shapes=shapes)
    except ConversionError:
        check_reach(model, perturb, layers)
        raise
    if any(conversion.server in _CONSTANT for conversion in module.meta["conversions"]):
        check_reach(model, perturb, layers)
    return module


def check_reach(model: ModelSource, perturb: str, layers: Sequence[str]) -> None:
    """Raise if no gradient reaches a layer, before any work is done for it.

    Parameters
    ----------
    model, perturb, layers
        As in :func:`obstacles`.

    Raises
    ------
    ConversionError
        The message names the first such layer, the node and its operator, layers that are reached, and what to do.
    ModelError, UsageError
        As raised by :func:`obstacles`.
    """
    found = obstacles(model, perturb, layers)
    if not found:
        return
    layer, node = next(iter(found.items()))
    names = [layer.name for layer in list_layers(model, perturb)]
    blocked = obstacles(model, perturb, names)
    reached = [name for name in names if name not in blocked]
    raise ConversionError(
        f"{describe_obstacle(layer, node, perturb)}; {listed_layers(reached)}; choose among them, or register a "
        f"converter with onnx2torch"
    )


def describe_obstacle(layer: str, node: Conversion, perturb: str) -> str:
    """Describe in one clause that no gradient reaches a layer, and which node blocks it.

    Parameters
    ----------
    layer
        Name of the layer.
    node
        The node that blocks the gradient.
    perturb
        Name of the analysis input.
    """
    reason = f"has no differentiable converter ({node.reason})" if node.reason else "is not differentiable"
    return (
        f"no gradient reaches layer '{printable(layer)}': node '{printable(node.node)}' ({node.operator}, opset "
        f"{node.version}) on the way from '{printable(perturb)}' {reason}"
    )


def listed_layers(reached: Sequence[str]) -> str:
    """Name the layers that a gradient reaches; only the last ones if there are many."""
    names = [f"'{printable(name)}'" for name in reached[-_SHOWN:]]
    more = f" and {len(reached) - _SHOWN} before them" if len(reached) > _SHOWN else ""
    return f"layers that are reached: {', '.join(names) if names else 'none'}{more}"


def ends_of_gradient(module: fx.GraphModule, inputs: Sequence[Tensor]) -> dict[int, Conversion]:
    """Find the outputs of a converted graph that no gradient reaches, by evaluating it.

    Parameters
    ----------
    module
        Graph module from :func:`convert_reached`.
    inputs
        Values of its inputs; the first is the analysis input.

    Returns
    -------
    dict
        By position of the output, the first node on the way to it through which no gradient passes.
    """
    walk = _GradientWalk(module)
    leaf = inputs[0].detach().clone().requires_grad_(True)
    walk.run(leaf, *inputs[1:])
    (values,) = next(node for node in reversed(module.graph.nodes) if node.op == "output").args
    return {i: walk.ends[value] for i, value in enumerate(values) if value in walk.ends}


class _GradientWalk(fx.Interpreter):
    """Evaluates a graph and records which values carry no gradient, and from which node on."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.ends: dict[fx.Node, Conversion] = {}
        self._carrying: set[fx.Node] = set()

    def run_node(self, n: fx.Node) -> Any:
        """Evaluate a node; results with a gradient of 0 are detached."""
        result = super().run_node(n)
        conversion = n.meta.get(CONVERSION)
        if conversion is not None and conversion.operator in _FLAT:
            result = result.detach()
        cancelled = self._cancelled(n)
        if cancelled is not None:
            self.ends[n] = cancelled
            return result.detach()
        if any(tensor.requires_grad for tensor in _tensors(result)):
            self._carrying.add(n)
            return result
        ahead = [self.ends[operand] for operand in n.all_input_nodes if operand in self.ends]
        carrying = next((operand for operand in n.all_input_nodes if operand in self._carrying), None)
        if carrying is not None:
            # Each output of a node has a node of its own after it; an output without gradient is detected there.
            cause = conversion or carrying.meta.get(CONVERSION)
            ahead[:0] = [] if cause is None else [cause]
        if ahead:
            self.ends[n] = ahead[0]
        return result

    def _cancelled(self, n: fx.Node) -> Conversion | None:
        """Node at which the gradient of ``x + (q - x)`` ends; see :meth:`_Way._cancelled`."""
        if _operator(n) != _SUM or len(n.all_input_nodes) != 2:
            return None
        for x, difference in (n.all_input_nodes, reversed(n.all_input_nodes)):
            if _operator(difference) == _DIFFERENCE and difference.all_input_nodes[1:] == [x]:
                return self.ends.get(difference.all_input_nodes[0])
        return None


def _operator(n: fx.Node) -> str:
    """ONNX operator of a node, without its domain; empty if it was not converted from one."""
    conversion = n.meta.get(CONVERSION)
    return "" if conversion is None else conversion.operator.rpartition(".")[2]


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
