"""Rewrite a quantized graph node by node: the float tensors that tensors of integers stand for."""

from __future__ import annotations

import dataclasses
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..errors import ModelError
from ..graph import protos
from ..graph.dataflow import FLOATS, Dataflow
from ..graph.operators import MATRIX, SUMS
from ..graph.quantization import is_integer_operator
from ..text import quoted

Array = npt.NDArray[Any]

# Operators that only move values: they do the same to the numbers that integers stand for.
_MOVING = {
    "Concat", "DepthToSpace", "Dropout", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity",
    "MaxPool", "ReduceMax", "ReduceMin", "Reshape", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose",
    "Unsqueeze", "Where",
}  # fmt: skip
# Of these, those with several operands that are moved.
_JOINING = {"Concat", "Where"}
# Operators that see a shape only.
_BLIND = {"Shape", "Size"}
# Operators on sums of integers, to which constant integers are added.
_ADDING = {"Add", "Sub"}
# Operators that quantization tools fuse an activation after: the saturation of their integers may be that activation.
_BEFORE_ACTIVATIONS = MATRIX | SUMS | {
    "BatchNormalization", "BiasAdd", "Div", "GroupNormalization", "InstanceNormalization", "LayerNormalization", "Mul",
    "Sub",
}  # fmt: skip
# First opset in which the limits of Clip are inputs.
_CLIP_BY_INPUTS = 11
# What quantization tools append to the name of a tensor.
_SUFFIXES = ("_QuantizeLinear_Output", "_quantized", "_quant", "_q")


@dataclass(frozen=True)
class Rounded:
    """A tensor of integers, and the float tensor that they stand for.

    Attributes
    ----------
    name
        Name of the float tensor in the new graph.
    scale, zero_point
        Names of the integers' scale and zero point; empty for a sum of integers, which stands for itself.
    """

    name: str
    scale: str = ""
    zero_point: str = ""


class Rewriter:
    """Rewrites one graph, or a body of control flow.

    Parameters
    ----------
    proto
        The whole model, with constants as initializers; it is not modified.
    rules
        What takes the place of nodes, by operator.
    body
        Body of control flow to rewrite instead of the main graph.
    outer
        Rewriter of the graph around the body.
    """

    def __init__(
        self,
        proto: onnx.ModelProto,
        rules: Mapping[str, Rule],
        body: onnx.GraphProto | None = None,
        outer: Rewriter | None = None,
    ) -> None:
        graph = proto.graph if body is None else body
        self._proto, self._rules, self._graph, self._flow = proto, rules, graph, Dataflow(graph)
        self._nodes: list[onnx.NodeProto] = []
        self._producers: dict[str, onnx.NodeProto] = {}
        self._tensors: list[onnx.TensorProto] = []
        own = {tensor.name: tensor for tensor in graph.initializer}
        if outer is None:
            self._taken: set[str] = set(_all_names(proto))
            self._known: ChainMap[str, TensorProto] = ChainMap(own)
            #: What tensors of integers stand for, by name.
            self.rounded: ChainMap[str, Rounded] = ChainMap()
            self._renamed: ChainMap[str, str] = ChainMap()
        else:
            self._taken, self._known = outer._taken, outer._known.new_child(own)
            self.rounded, self._renamed = outer.rounded.new_child(), outer._renamed.new_child()
        self._outputs = {value.name for value in graph.output}
        self._decoded: dict[str, list[onnx.NodeProto]] = {}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in protos.needed_names(node):
                self._readers.setdefault(name, []).append(node)
            if node.op_type == "DequantizeLinear":
                self._decoded.setdefault(node.input[0], []).append(node)

    def rewritten(self) -> onnx.GraphProto:
        """Return the new graph, without types of its inner values."""
        for node in self._graph.node:
            rule = self._rules.get(node.op_type)
            if rule is not None:
                rule(self, node)
            elif is_integer_operator(node):
                raise self.refusal(node, "has no counterpart in floats")
            else:
                self.copy(node)
        outputs = [self._output(value) for value in self._graph.output]
        found = onnx.GraphProto(name=self._graph.name, doc_string=self._graph.doc_string)
        found.input.extend(self._graph.input)
        found.output.extend(outputs)
        found.node.extend(self._nodes)
        protos.copy_tensors(found.initializer, [*self._graph.initializer, *self._tensors])
        return found

    def refusal(self, node: onnx.NodeProto, reason: str) -> ModelError:
        """Return the error for a node that cannot be rewritten."""
        return ModelError(
            f"the model cannot be dequantized: node {quoted(node.name or node.output[0])} ({node.op_type}) {reason}; "
            f"leave out dequantize"
        )

    # Constants

    def constant(self, name: str) -> Array | None:
        """Return a constant's value; None for other tensors."""
        return numpy_helper.to_array(self._known[name]) if name in self._known else None

    def add_constant(self, array: Array, like: str) -> str:
        """Add an initializer, named after another tensor, and return its name."""
        name = self.free_name(f"{like}_float")
        self._tensors.append(numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name))
        self._known[name] = self._tensors[-1]
        return name

    def define(self, name: str, array: Array) -> None:
        """Define a constant in place of a tensor that a node computed."""
        self._tensors.append(numpy_helper.from_array(array, name))
        self._known[name] = self._tensors[-1]

    def same(self, one: str, other: str) -> bool:
        """Whether two scales or zero points are equal; an absent zero point is 0."""
        if one == other:
            return True
        first, second = (self.constant(name) if name else np.array(0) for name in (one, other))
        return first is not None and second is not None and np.array_equal(np.squeeze(first), np.squeeze(second))

    # Nodes and names

    def emit(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Add a node of the standard domain with one output, and return its name."""
        self.emit_several(operator, inputs, [output], "", **attributes)
        return output

    def emit_several(
        self, operator: str, inputs: Sequence[str], outputs: Sequence[str], domain: str, **attributes: Any
    ) -> None:
        """Add a node; trailing absent inputs are left out."""
        given = [self.present(name) for name in inputs]
        while given and not given[-1]:
            given.pop()
        name = next(name for name in outputs if name)
        self._add(helper.make_node(operator, given, outputs, name=name, domain=domain, **attributes))

    def _add(self, node: onnx.NodeProto) -> None:
        self._nodes.append(node)
        self._producers.update((name, node) for name in node.output)

    def rank(self, name: str) -> int | None:
        """Number of axes of a tensor of the original graph; None if unknown."""
        return self._flow.rank(name)

    def free_name(self, wanted: str) -> str:
        """Return an unused name, equal to the wanted one if possible."""
        name = next(n for n in chain([wanted], (f"{wanted}_{i}" for i in count(1))) if n not in self._taken)
        self._taken.add(name)
        return name

    def float_name(self, integers: str, scale: str, zero_point: str) -> str:
        """Name of the tensor that integers stand for: that in the float network, if it can be told.

        Without a scale, the integers are sums, which no tensor of the float network equals.
        """
        plain = next((integers.removesuffix(end) for end in _SUFFIXES if integers.endswith(end)), "")
        if not scale:
            return self.free_name(f"{integers}_float")
        decoded = self._decoded_names(integers, scale, zero_point)
        if plain and plain not in self._taken and self._outputs.isdisjoint(decoded):
            return self.free_name(plain)
        return decoded[0] if decoded else self.free_name(plain or f"{integers}_float")

    def _decoded_names(self, integers: str, scale: str, zero_point: str) -> list[str]:
        """Names of the floats that integers are dequantized to, outputs of the graph first."""
        nodes = self._decoded.get(integers, ())
        fitting = [n for n in nodes if self.same(n.input[1], scale) and self.same("".join(n.input[2:3]), zero_point)]
        return sorted((str(n.output[0]) for n in fitting), key=lambda name: name not in self._outputs)

    def rename(self, old: str, new: str) -> None:
        """Let later nodes read another tensor."""
        if old != new:
            self._renamed[old] = new

    def present(self, name: str) -> str:
        """Name under which later nodes read a tensor."""
        return self._renamed.get(name, name)

    # What integers stand for

    def real(
        self, node: onnx.NodeProto, integers: str, scale: str, zero_point: str = "", axis: int | None = None
    ) -> str:
        """Name of the float tensor that integers stand for.

        Raises
        ------
        ModelError
            The integers are computed in a way that has no counterpart in floats.
        """
        found = self.rounded.get(integers)
        if found is not None and self.same(found.scale, scale) and self.same(found.zero_point, zero_point):
            return found.name
        if found is not None:
            raise self.refusal(node, f"reads {quoted(integers)} with another scale than it was rounded with")
        value = self.constant(integers)
        if value is not None:
            factor, zero = self.constant(scale), self.constant(zero_point) if zero_point else np.array(0)
            if factor is None or zero is None:
                raise self.refusal(node, f"scales the constant {quoted(integers)} by a computed value")
            whole = value.astype(np.int64) - along(zero.astype(np.int64), value.ndim, axis)
            return self.add_constant(whole.astype(factor.dtype) * along(factor, value.ndim, axis), integers)
        names = [integers, scale, zero_point] if zero_point else [integers, scale]
        return self.emit("DequantizeLinear", names, self.free_name(f"{integers}_float"))

    def whole(self, node: onnx.NodeProto, integers: str, zero_point: str = "", axis: int | None = None) -> str:
        """Name of the float tensor that equals integers less their zero point, but for rounding.

        Raises
        ------
        ModelError
            As in :meth:`real`.
        """
        found, value = self.rounded.get(integers), self.constant(integers)
        if found is not None and self.same(found.zero_point, zero_point):
            return self.divided(found)
        zero = self.constant(zero_point) if zero_point else np.array(0)
        if value is None or zero is None:
            raise self.refusal(node, f"computes with the integers {quoted(integers)}, which are not rounded floats")
        whole = value.astype(np.int64) - along(zero.astype(np.int64), value.ndim, axis)
        return self.add_constant(whole.astype(np.float32), integers)

    def divided(self, found: Rounded) -> str:
        """Name of the float tensor in units of the integers' scale."""
        scale = self.constant(found.scale) if found.scale else np.array(1)
        if scale is not None and (scale == 1).all():
            return found.name
        return self.emit("Div", [found.name, found.scale], self.free_name(f"{found.name}_in_steps"))

    def saturated(self, name: str, scale: str, zero_point: str, output: str) -> str:
        """Limit a float tensor to the range of integers; unlimited if the range is not one for the whole tensor.

        Without a zero point, the integers are of 8 bits without sign.
        """
        step, zero = self.constant(scale), self.constant(zero_point) if zero_point else np.array(0, np.uint8)
        if step is None or zero is None or step.size > 1 or zero.dtype.kind not in "iu":
            return name if name == output else self.emit("Identity", [name], output)
        limits = np.iinfo(zero.dtype)
        low, high = ((end - zero.astype(np.int64)) * step for end in (int(limits.min), int(limits.max)))
        ends = [np.asarray(end, step.dtype).reshape(()) for end in (low, high)]
        if next((each.version for each in self._proto.opset_import if not each.domain), 1) < _CLIP_BY_INPUTS:
            return self.emit("Clip", [name], output, min=float(ends[0]), max=float(ends[1]))
        names = [self.add_constant(end, f"{output}_{word}") for word, end in zip(("low", "high"), ends, strict=True)]
        return self.emit("Clip", [name, *names], output)

    def round_float(self, given: str, scale: str, zero_point: str, integers: str) -> Rounded:
        """Return what integers stand for: a float tensor, limited if an activation may be part of its rounding."""
        name = self.present(given)
        producer = self._producers.get(name)
        unsigned = self._flow.element_type(integers) in (None, TensorProto.UINT8)
        if producer is None or producer.op_type not in _BEFORE_ACTIVATIONS or not (zero_point or unsigned):
            return Rounded(name, scale, zero_point)
        if self._outputs.isdisjoint(self._decoded_names(integers, scale, zero_point)) and self._only_rounded(given):
            # The tensor before the rounding has the name of the activation that is part of it.
            output, position = given, list(producer.output).index(name)
            name = producer.output[position] = self.free_name(f"{given}_unlimited")
        else:
            output = self.float_name(integers, scale, zero_point)
        return Rounded(self.saturated(name, scale, zero_point, output), scale, zero_point)

    def _only_rounded(self, name: str) -> bool:
        """Whether all readers of a tensor round it, in the same way."""
        readers = self._readers.get(name, ())
        same = {tuple(node.input) for node in readers if node.op_type == "QuantizeLinear"}
        fresh = name not in self._outputs and name not in self._renamed
        return fresh and len(same) == 1 and all(n.op_type == "QuantizeLinear" for n in readers)

    # Other nodes

    def copy(self, node: onnx.NodeProto) -> None:
        """Copy a node; one that only moves integers moves what they stand for."""
        found = [self.rounded[name] for name in node.input if name in self.rounded]
        target = next((each.i for each in node.attribute if each.name == "to"), 0)
        if found and node.op_type == "Cast" and not found[0].scale and target in FLOATS:
            self.emit("Cast", [found[0].name], node.output[0], to=target)
            return
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        operands = [self.rounded[name].name if name in self.rounded else name for name in node.input]
        copy.input[:] = [self.present(name) for name in operands]
        for attribute in copy.attribute:
            for body in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                body.CopyFrom(Rewriter(self._proto, self._rules, body, self).rewritten())
        if found and node.op_type not in _BLIND:
            self._check_moved(node, found)
            copy.input[:] = [
                self._beside(node, found[0], given) if given not in self.rounded else name
                for name, given in zip(copy.input, node.input, strict=True)
            ]
            for i, name in enumerate(node.output):
                if name and (i == 0 or node.op_type == "Split"):
                    copy.output[i] = self.float_name(name, found[0].scale, found[0].zero_point)
                    self.rounded[name] = dataclasses.replace(found[0], name=copy.output[i])
        self._add(copy)

    def _beside(self, node: onnx.NodeProto, found: Rounded, operand: str) -> str:
        """Name of an operand beside integers; constant integers become floats like them."""
        if node.op_type in _ADDING:
            return self.whole(node, operand)
        value = self.constant(operand)
        if node.op_type in _JOINING and value is not None and value.dtype.kind in "iu":
            return self.real(node, operand, found.scale, found.zero_point)
        return self.present(operand)

    def _check_moved(self, node: onnx.NodeProto, found: list[Rounded]) -> None:
        sums = not any(each.scale for each in found)
        if node.domain or node.op_type not in (_MOVING | _ADDING if sums else _MOVING):
            raise self.refusal(node, "computes with the integers of a tensor rather than with what they stand for")
        if any(not self.same(each.scale, found[0].scale) for each in found):
            raise self.refusal(node, "joins integers of different scales")

    def _output(self, value: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
        """Return the declaration of an output, which becomes a float tensor if it was one of integers."""
        result = onnx.ValueInfoProto()
        result.CopyFrom(value)
        name = self.rounded[value.name].name if value.name in self.rounded else self.present(value.name)
        if value.name in self.rounded:
            result.type.tensor_type.elem_type = TensorProto.FLOAT
        if name != value.name:
            self.emit("Identity", [name], value.name)
        return result


def along(parameter: Array, rank: int, axis: int | None) -> Array:
    """Shape one value per index of an axis to broadcast with a tensor; no axis leaves it as it is."""
    if axis is None or parameter.size == 1 or parameter.ndim != 1:
        return parameter.reshape(()) if parameter.size == 1 else parameter
    return parameter.reshape([-1 if i == axis % rank else 1 for i in range(rank)])


def _all_names(proto: onnx.ModelProto) -> Iterator[str]:
    yield from (value.name for value in (*proto.graph.input, *proto.graph.initializer))
    for node in protos.nested(proto.graph.node):
        yield from node.output
        for body in protos.bodies(node):
            yield from (value.name for value in (*body.input, *body.initializer))


#: Adds to a rewriter what takes the place of a quantized node.
Rule = Callable[[Rewriter, onnx.NodeProto], None]
