"""Branches of control flow: inline those that a constant decides, and describe the layers inside others."""

from __future__ import annotations

from collections import ChainMap, Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count
from operator import attrgetter
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from ..text import printable, quoted
from . import protos
from .constants import Constant, Evaluator, Scope
from .dataflow import Dataflow
from .operators import MATRIX
from .patterns import is_index, matches
from .tensor_data import is_external

Array = npt.NDArray[Any]

# Budget for the values that conditions are computed from, in bytes.
_BUDGET = 1 << 20


def inline_decided_branches(proto: onnx.ModelProto) -> bool:
    """Replace every ``If`` of the main graph whose condition is constant by the nodes of its branch.

    The condition may be computed from constants and from the known sizes of tensors. Tensors of a branch keep their
    names, unless another one has it; its outputs get the names of the node's outputs.

    Parameters
    ----------
    proto
        A checked model with inferred shapes; modified in place. Shapes of inlined tensors are not inferred yet, and
        may decide further branches.

    Returns
    -------
    bool
        Whether anything was inlined.
    """
    if not any(node.op_type == "If" and not node.domain for node in proto.graph.node):
        return False
    return _Inlining(proto).run()


class _Inlining:
    """Walk through the main graph, in which the nodes of decided branches take the place of their ``If``."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self._graph = proto.graph
        self._flow = Dataflow(proto.graph)
        self._evaluator = Evaluator(proto.opset_import, _BUDGET)
        self._scope: Scope = ChainMap()
        self._sizes: dict[str, Array] = {}
        self._needed = _needed_by_conditions(proto.graph)
        self._names = Counter(_defined(proto.graph))
        self._labels = Counter(node.name for node in protos.nested(proto.graph.node))
        for tensor in proto.graph.initializer:
            self._know(tensor)

    def run(self) -> bool:
        """Inline, and say whether anything was."""
        pending, kept, inlined = deque(self._graph.node), [], False
        while pending:
            node = pending.popleft()
            branch = self._branch(node)
            if branch is None:
                self._evaluate(node)
                kept.append(node)
                continue
            inlined = True
            pending.extendleft(reversed(self._nodes(node, branch)))
        if inlined:
            del self._graph.node[:]
            self._graph.node.extend(kept)
        return inlined

    def _know(self, tensor: onnx.TensorProto) -> None:
        if tensor.name in self._needed and not is_external(tensor):
            self._scope[tensor.name] = Constant.known(tensor)

    def _branch(self, node: onnx.NodeProto) -> onnx.AttributeProto | None:
        """The branch that a node runs; None for other operators, or if it is not known."""
        if node.op_type != "If" or node.domain or self._scope.get(node.input[0]) is None:
            return None
        self._evaluator.compute()
        condition = self._scope[node.input[0]]
        if condition is None or condition.failed or condition.tensor is None or condition.array.size != 1:
            return None
        name = "then_branch" if condition.array.item() else "else_branch"
        chosen = next((attribute for attribute in node.attribute if attribute.name == name), None)
        return None if chosen is None or chosen.g.sparse_initializer else chosen

    def _evaluate(self, node: onnx.NodeProto) -> None:
        """Note the results of a node if they are constant and a condition needs them."""
        if not any(name in self._needed for name in node.output):
            return
        sizes = self._known_sizes(node)
        if sizes is not None:
            self._sizes[node.output[0]] = sizes
            if all(isinstance(size, int) for size in sizes.flat):
                known = onnx.numpy_helper.from_array(sizes.astype(np.int64), node.output[0])
                self._scope[node.output[0]] = Constant.known(known)
            return
        values = self._evaluator.evaluate(node, self._scope)
        if values is not None:
            self._scope.update(zip(node.output, values, strict=True))

    def _known_sizes(self, node: onnx.NodeProto) -> Array | None:
        """Sizes that a node returns, of which some may be unknown; None if it returns no sizes."""
        if node.domain:
            return None
        if node.op_type == "Shape":
            shape = self._flow.shape(node.input[0])
            ends = {attribute.name: attribute.i for attribute in node.attribute}
            return None if shape is None else np.array(shape[ends.get("start", 0) : ends.get("end")], dtype=object)
        index = self._value(node.input[1]) if node.op_type == "Gather" and node.input[0] in self._sizes else None
        if index is None:
            return None
        sizes = self._sizes[node.input[0]]
        inside = np.all((index >= -len(sizes)) & (index < len(sizes))) if sizes.ndim == 1 else False
        return np.array(sizes[index], dtype=object) if inside else None

    def _value(self, name: str) -> Any:
        if self._scope.get(name) is None:
            return None
        self._evaluator.compute()
        constant = self._scope[name]
        return None if constant is None or constant.failed or constant.tensor is None else constant.array

    def _nodes(self, node: onnx.NodeProto, chosen: onnx.AttributeProto) -> list[onnx.NodeProto]:
        """Nodes that take the place of an ``If``, with names for the main graph; adds the branch's initializers."""
        for attribute in node.attribute:
            if attribute.name != chosen.name:
                self._names.subtract(_defined(attribute.g))
                self._labels.subtract(inner.name for inner in protos.nested(attribute.g.node))
        branch = chosen.g
        produced = {name for inner in branch.node for name in inner.output}
        names: dict[str, str] = {}
        copies = []
        for outer, value in zip(node.output, branch.output, strict=True):
            if outer and value.name in produced and value.name not in names:
                names[value.name] = outer
            elif outer:
                copies.append((value.name, outer))
        for name in _own_names(branch):
            if name not in names and self._names[name] > 1:
                names[name] = _free(name, self._names)
        for tensor in branch.initializer:
            copy = protos.copy_into(onnx.TensorProto(), tensor)
            copy.name = names.get(tensor.name, tensor.name)
            protos.copy_tensors(self._graph.initializer, [copy])
            self._needed |= {copy.name} if tensor.name in self._needed else set()
            self._know(copy)
        self._needed |= {names[name] for name in names if name in self._needed}
        for declared in branch.value_info:
            self._graph.value_info.add().CopyFrom(declared)
            self._graph.value_info[-1].name = names.get(declared.name, declared.name)
        found = [_renamed(inner, names) for inner in branch.node]
        for inner in found:
            if inner.name and self._labels[inner.name] > 1:
                inner.name = _free(inner.name, self._labels)
        make = onnx.helper.make_node
        return found + [make("Identity", [names.get(name, name)], [outer], outer) for name, outer in copies]


def _free(name: str, taken: Counter[str]) -> str:
    """Return a name that no other has, and count it."""
    found = next(n for n in (f"{name}_{i}" for i in count(1)) if not taken[n])
    taken[found] += 1
    return found


def _renamed(node: onnx.NodeProto, names: Mapping[str, str]) -> onnx.NodeProto:
    """Copy a node, with other names for the values that it reads and computes, also inside its bodies."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    for inner in protos.nested([copy]):
        inner.input[:] = [names.get(name, name) for name in inner.input]
        for body in protos.bodies(inner):
            for value in body.output:
                value.name = names.get(value.name, value.name)
    copy.output[:] = [names.get(name, name) for name in copy.output]
    return copy


def _own_names(graph: onnx.GraphProto) -> Iterator[str]:
    """Names that a graph defines, without those of its bodies."""
    yield from (value.name for value in graph.input)
    yield from (name for name in protos.initial_names(graph))
    for node in graph.node:
        yield from (name for name in node.output if name)


def _defined(graph: onnx.GraphProto) -> Iterator[str]:
    """Names that a graph and its bodies define, each as often as it is defined."""
    yield from set(_own_names(graph))
    for node in graph.node:
        for body in protos.bodies(node):
            yield from _defined(body)


def _needed_by_conditions(graph: onnx.GraphProto) -> set[str]:
    """Names of the values that conditions are computed from, in the graph and in the branches of its ``If`` nodes."""
    found: set[str] = set()
    nodes = list(protos.nested(graph.node))
    pending = [node.input[0] for node in nodes if node.op_type == "If" and not node.domain]
    producers: dict[str, list[onnx.NodeProto]] = {}
    for node in nodes:
        for name in node.output:
            producers.setdefault(name, []).append(node)
    while pending:
        name = pending.pop()
        if name not in found:
            found.add(name)
            for node in producers.get(name, ()):
                inner = (value.name for body in protos.bodies(node) for value in body.output)
                pending += [other for other in chain(node.input, inner) if other]
    return found


def layers_inside(flow: Dataflow, input_tensors: Sequence[str]) -> list[str]:
    """Describe the control flow nodes of a graph whose bodies contain layers, and why these are not listed.

    Parameters
    ----------
    flow
        Dataflow of the main graph.
    input_tensors
        The tensors that noise is added to.

    Returns
    -------
    list of str
        A line for each such node, with what can be done about it.
    """
    found = []
    for node in filter(attrgetter("attribute"), flow.nodes):
        inner = [each for body in protos.bodies(node) for each in protos.nested(body.node)]
        names = [quoted(each.output[0]) for each in inner if each.op_type in MATRIX]
        if names:
            number = f"1 layer, {names[0]}," if len(names) == 1 else f"{len(names)} layers, {names[0]} to {names[-1]},"
            where, reason = _described(node), _why_inside(flow, node, input_tensors)
            found.append(f"{number} inside {where} not listed: {reason}")
    return found


@dataclass(frozen=True)
class Inner:
    """A tensor inside control flow, as patterns see it, and the control flow node of the main graph."""

    index: int
    name: str
    op: str
    node: protos.AnyNode


def why_not_listed(flow: Dataflow, input_tensors: Sequence[str], patterns: Sequence[str]) -> str | None:
    """Say why layers that patterns name are not listed, if they are inside control flow.

    Parameters
    ----------
    flow
        Dataflow of the main graph.
    input_tensors
        The tensors that noise is added to.
    patterns
        Patterns, of which some match no listed layer.

    Returns
    -------
    str or None
        One line; None if no pattern matches a tensor inside control flow.
    """
    tensors = (
        (name, inner.op_type, node)
        for node in flow.nodes
        for body in protos.bodies(node)
        for inner in protos.nested(body.node)
        for name in inner.output
        if name
    )
    inside = [Inner(index, *tensor) for index, tensor in enumerate(tensors)]
    for pattern in patterns:
        if not is_index(pattern) and (chosen := matches(pattern, inside)):
            found = inside[min(chosen)]
            where, reason = _described(found.node), _why_inside(flow, found.node, input_tensors)
            return f"{quoted(found.name)} is inside {where}, whose layers are not listed: {reason}"
    return None


def _described(node: protos.AnyNode) -> str:
    return f"{quoted(node.name or node.output[0])} ({node.op_type})"


def _why_inside(flow: Dataflow, node: protos.AnyNode, input_tensors: Sequence[str]) -> str:
    if node.op_type != "If" or node.domain:
        return "they have one value for each repetition of the body"
    condition = node.input[0]
    perturbed = next((name for name in input_tensors if condition in flow.influenced(name)), None)
    if perturbed is not None:
        return f"which branch runs depends on {quoted(perturbed)}, so that they exist for some samples only"
    deciding = [name for name in flow.inputs if condition in flow.influenced(name)]
    if not deciding:
        return "which branch runs depends on sizes that the model leaves open"
    names = ", ".join(f"set='{printable(name)}=VALUE'" for name in deciding)
    return f"which branch runs depends on {names}; give it"
