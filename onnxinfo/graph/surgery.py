"""Graph surgery: add outputs, keep only some outputs, extract a part. Names of values are preserved."""

from __future__ import annotations

import dataclasses
import difflib
import itertools
from collections.abc import Collection, Iterable, Sequence

import onnx

from ..errors import ModelError, UsageError
from ..text import quoted
from . import protos
from .dataflow import Dataflow
from .functions import function_key
from .model import Model, ModelSource, load


def expose(model: Model, tensors: Iterable[str]) -> Model:
    """Make tensors additional outputs; see :func:`.workflows.surgery.expose`, which knows parts of tensors, too."""
    names = [output.name for output in model.proto.graph.output]
    values = _Values(model.proto.graph)
    added = [values.declared(name) for name in dict.fromkeys(tensors) if name not in names]
    proto = protos.copy_into(onnx.ModelProto(), model.proto)
    proto.graph.output.extend(added)
    return dataclasses.replace(model, proto=proto)


def expose_only(model: ModelSource, tensors: Sequence[str]) -> Model:
    """Make tensors the only outputs of a model, in this order, and remove what they do not need.

    Parameters
    ----------
    model
        See :func:`onnxinfo.load`.
    tensors
        Names of tensors of the main graph, as in :func:`expose`.

    Returns
    -------
    Model
        All graph inputs are kept in order, except initializers among them that are no longer needed.

    Raises
    ------
    ModelError
        The model cannot be loaded, or the type of a tensor is unknown.
    UsageError
        A tensor is not in the graph.
    """
    loaded = load(model)
    return _part(loaded, [], tensors, keep_inputs=True)


def extract(model: ModelSource, inputs: Sequence[str], outputs: Sequence[str]) -> Model:
    """Extract the part of a graph between tensors; see :func:`.workflows.surgery.extract`."""
    return _part(load(model), inputs, outputs, keep_inputs=False)


def _part(model: Model, inputs: Sequence[str], outputs: Sequence[str], *, keep_inputs: bool) -> Model:
    """Part of a model that computes ``outputs`` from ``inputs`` and the other graph inputs that it needs."""
    source = model.proto.graph
    values = _Values(source)
    cut, wanted = list(dict.fromkeys(inputs)), list(dict.fromkeys(outputs))
    heads, tails = [values.declared(name) for name in cut], [values.declared(name) for name in wanted]
    nodes, needed = _needed(model.flow, cut, wanted)
    for name in cut:
        if name not in needed:
            raise UsageError(
                f"none of the outputs {_listed(wanted)} depends on input {quoted(name)}; name tensors that do"
            )
    initial = protos.initial_names(source)
    kept = [
        value
        for value in source.input
        if value.name not in cut and (value.name in needed or (keep_inputs and value.name not in initial))
    ]
    proto = protos.copy_into(onnx.ModelProto(), model.proto, ("graph", "functions"))
    graph = proto.graph
    graph.name, graph.doc_string = source.name, source.doc_string
    graph.node.extend(without_outputs(nodes, cut, needed))
    graph.input.extend([*heads, *kept])
    graph.output.extend(tails)
    protos.copy_tensors(graph.initializer, (t for t in source.initializer if t.name in needed and t.name not in cut))
    computed = needed.difference(cut)
    graph.sparse_initializer.extend(t for t in source.sparse_initializer if t.values.name in computed)
    inner = computed.difference(wanted, (value.name for value in kept))
    graph.value_info.extend(value for value in source.value_info if value.name in inner)
    graph.quantization_annotation.extend(a for a in source.quantization_annotation if a.tensor_name in needed)
    graph.metadata_props.extend(source.metadata_props)
    proto.functions.extend(_called(model.proto, nodes))
    return dataclasses.replace(model, proto=proto)


def _needed(flow: Dataflow, cut: Collection[str], outputs: Iterable[str]) -> tuple[list[onnx.NodeProto], set[str]]:
    """Nodes that outputs need, in graph order, and the names of all values that they read or write."""
    needed = set(outputs)
    nodes = []
    # Nodes are sorted topologically: in reverse, the users of a node precede it.
    for node, reads in zip(reversed(flow.nodes), reversed(flow.needs), strict=True):
        if any(name in needed and name not in cut for name in node.output if name):
            nodes.append(node.proto)
            needed.update(reads, filter(None, node.output))
    return nodes[::-1], needed


def without_outputs(
    nodes: Iterable[onnx.NodeProto], cut: Collection[str], names: Collection[str]
) -> list[onnx.NodeProto]:
    """Nodes with renamed outputs where these are now inputs: a node may be needed for its other outputs."""
    changed, removed = [], set(cut)
    for node in nodes:
        if not removed.isdisjoint(node.output):
            copied = onnx.NodeProto()
            copied.CopyFrom(node)
            copied.output[:] = [_unused(name, names) if name in cut else name for name in node.output]
            node = copied
        changed.append(node)
    return changed


def _unused(name: str, names: Collection[str]) -> str:
    """A name similar to the given one that is not among the names."""
    return next(other for i in itertools.count() if (other := f"{name}/unused{i or ''}") not in names)


def _called(model: onnx.ModelProto, nodes: Iterable[onnx.NodeProto]) -> list[onnx.FunctionProto]:
    """Functions of the model that nodes call, directly or indirectly."""
    functions = {function_key(function): function for function in model.functions}
    called: set[tuple[str, str, str]] = set()
    pending = list(nodes)
    while pending and functions:
        for node in protos.nested([pending.pop()]):
            key = function_key(node)
            if key in functions and key not in called:
                called.add(key)
                pending.extend(functions[key].node)
    return [function for key, function in functions.items() if key in called]


class _Values:
    """Known properties of a graph's values, by name."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self._declared: dict[str, onnx.ValueInfoProto] = {
            value.name: value for value in (*graph.value_info, *graph.input, *graph.output)
        }
        self._initializers = {tensor.name: tensor for tensor in graph.initializer}

    def declared(self, name: str) -> onnx.ValueInfoProto:
        """Name and type of a value, in the form of a graph's input or output declaration."""
        if name in self._declared and self._declared[name].type.WhichOneof("value"):
            return self._declared[name]
        if name in self._initializers:
            tensor = self._initializers[name]
            value = onnx.ValueInfoProto()
            value.CopyFrom(onnx.helper.make_tensor_value_info(name, tensor.data_type, list(tensor.dims)))
            return value
        computed = dict.fromkeys(output for node in self._graph.node for output in node.output)
        if name in computed and name:
            raise ModelError(
                f"the type of tensor {quoted(name)} is not known: shape inference does not know the operator "
                f"that computes it; add a value_info entry to the model"
            )
        known = dict.fromkeys([*computed, *self._declared, *self._initializers])
        close = difflib.get_close_matches(name, known, n=3)
        inside = any(name in node.output for node in protos.nested(self._graph.node))
        hint = "it is inside the body of a control flow node" if inside else f"close to it: {_listed(close)}"
        raise UsageError(
            f"the graph has no tensor {quoted(name)}; {hint if inside or close else 'list the layers for names'}"
        )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"{quoted(name)}" for name in names)
