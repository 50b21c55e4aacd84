"""Shape inference part by part, for graphs with many bodies of control flow: for each body, onnx copies all types."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import onnx

from ..errors import ModelError
from . import protos

Infer = Callable[[onnx.ModelProto], onnx.ModelProto]

# Types that onnx may copy for the bodies of a part; ten million take a second. Almost every model is a single part.
_MOST_IN_A_PART = 1_000_000
# The same for bodies within bodies, which are not divided.
_MOST_WITHIN_BODIES = 100_000_000
# Prefix of onnx's names for unknown sizes, which have another meaning in each part.
_INVENTED = "unk__"


def infer_in_parts(model: onnx.ModelProto, infer: Infer) -> onnx.ModelProto:
    """Infer types and shapes of a model's values in time that is linear in the number of nodes.

    Parameters
    ----------
    model
        A model whose nodes are sorted.
    infer
        Infers the types of a model.

    Returns
    -------
    onnx.ModelProto
        A copy with ``value_info``; without onnx's names for unknown sizes if it has several parts.

    Raises
    ------
    ModelError
        The bodies of control flow contain too many others; or what `infer` raises.
    """
    _check_bodies(model.graph)
    starts = _starts(model.graph)
    if len(starts) == 1:
        return infer(model)
    parts = _Parts(model)
    for start, end in itertools.pairwise([*starts, len(model.graph.node)]):
        parts.infer(start, end, infer)
    return parts.joined()


def _check_bodies(graph: onnx.GraphProto) -> None:
    seen, copied = _defined(graph), 0
    for node in graph.node:
        copied += sum(_copied(body, seen) for body in _bodies(node))
        seen += len(node.output)
    if copied > _MOST_WITHIN_BODIES:
        raise ModelError(
            f"the bodies of the model's control flow contain others that could use {copied} values in all, "
            f"expected at most {_MOST_WITHIN_BODIES}; export it with less nested control flow"
        )


def _copied(body: onnx.GraphProto, seen: int) -> int:
    """Number of types copied for the bodies within a body, which could use some values outside it."""
    copied, seen = 0, seen + _defined(body)
    for node in body.node:
        copied += sum(seen + _copied(inner, seen) for inner in _bodies(node))
        seen += len(node.output)
    return copied


def _starts(graph: onnx.GraphProto) -> list[int]:
    """Positions of the nodes with which the parts begin."""
    starts, bodies, values = [0], 0, _defined(graph)
    for position, node in enumerate(graph.node):
        bodies += sum(1 for _ in _bodies(node))
        values += len(node.output)
        if bodies * values > _MOST_IN_A_PART and position > starts[-1]:
            starts.append(position)
            bodies, values = sum(1 for _ in _bodies(node)), len(node.output)
    return starts


def _bodies(node: onnx.NodeProto) -> Sequence[onnx.GraphProto]:
    return list(protos.bodies(node)) if node.attribute else ()


def _defined(graph: onnx.GraphProto) -> int:
    return len(graph.input) + len(graph.initializer) + len(graph.sparse_initializer)


class _Parts:
    """Parts of a main graph, whose types are inferred one after the other."""

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        self._model = model
        self._stored = {tensor.name: tensor for tensor in graph.initializer}
        self._sparse = {sparse.values.name: sparse for sparse in graph.sparse_initializer}
        self._constants = {node.output[0]: node for node in graph.node if node.op_type == "Constant" and node.output}
        self._outputs = {value.name: value for value in graph.output}
        self._values = {value.name: value for value in graph.value_info}
        self._known = {value.name: value for value in (*graph.value_info, *graph.input)}
        self._nodes: list[onnx.NodeProto] = []

    def infer(self, start: int, end: int, infer: Infer) -> None:
        """Infer the types of the results of some nodes."""
        nodes = self._model.graph.node[start:end]
        own = dict.fromkeys(name for node in nodes for name in node.output if name)
        taken = [name for name in dict.fromkeys(_needed(nodes)) if name not in own]
        part = protos.copy_into(onnx.ModelProto(), self._model, ("graph",))
        graph = part.graph
        # Sizes may be computed from the values of constants, not only from their types.
        constants = [self._constants[name] for name in taken if name in self._constants]
        graph.node.extend((*constants, *nodes))
        graph.initializer.extend(self._stored[name] for name in taken if name in self._stored)
        graph.sparse_initializer.extend(self._sparse[name] for name in taken if name in self._sparse)
        graph.input.extend(self._known[name] for name in taken if name in self._known and name not in self._constants)
        graph.value_info.extend(self._values[name] for name in own if name in self._values)
        graph.output.extend(self._outputs[name] for name in own if name in self._outputs)
        found = infer(part).graph
        self._nodes.extend(found.node[len(constants) :])
        for value in (*found.value_info, *found.output):
            _forget_invented(value.type)
            self._known[value.name] = value
            (self._outputs if value.name in self._outputs else self._values)[value.name] = value

    def joined(self) -> onnx.ModelProto:
        """Return the model with what was inferred."""
        model = protos.copy_into(onnx.ModelProto(), self._model, ("graph",))
        graph = protos.copy_into(model.graph, self._model.graph, ("node", "value_info", "output"))
        graph.node.extend(self._nodes)
        graph.value_info.extend(self._values.values())
        graph.output.extend(self._outputs.values())
        return model


def _needed(nodes: Sequence[onnx.NodeProto]) -> Iterator[str]:
    for node in nodes:
        yield from protos.needed_names(node)


def _forget_invented(type: onnx.TypeProto) -> None:
    for tensor in protos.tensor_types(type):
        for dim in tensor.shape.dim:
            if dim.dim_param.startswith(_INVENTED):
                dim.ClearField("dim_param")
