"""Constant folding: precompute what depends on no graph input, within limits of size."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping
from types import MappingProxyType

import onnx

from ..graph import protos
from ..graph.constants import Constant, Evaluator, Scope
from ..graph.tensor_data import byte_count, is_external

# Folded values may take this many bytes, and this many times the bytes of the model's own constants: enough for 4-bit
# weights to become floats, too little for a few small numbers to request terabytes.
_FREE_BYTES = 1 << 28
_GROWTH = 8


def fold(model: onnx.ModelProto, weights: Mapping[str, onnx.TensorProto] = MappingProxyType({})) -> bool:
    """Replace values that depend on no graph input by initializers, also in bodies of control flow.

    Initializers that are also graph inputs count as constants. Random operators, control flow, values other than
    tensors, results that would be too large, and tensors without data are not folded.

    Parameters
    ----------
    model
        A model without functions; modified in place.
    weights
        Initializers of the main graph, by name, whose data are not in the model.

    Returns
    -------
    bool
        Whether anything was folded.
    """
    own = sum(byte_count(t) for t in protos.tensors(model) if t.data_type != onnx.TensorProto.STRING)
    evaluator = Evaluator(model.opset_import, _FREE_BYTES + _GROWTH * own)
    return _fold_graph(model.graph, evaluator, ChainMap(), weights)


def _fold_graph(
    graph: onnx.GraphProto, evaluator: Evaluator, outer: Scope, weights: Mapping[str, onnx.TensorProto]
) -> bool:
    evaluator.write_out_sparse(graph)
    scope: Scope = outer.new_child({value.name: None for value in graph.input})
    for tensor in graph.initializer:
        tensor = weights.get(tensor.name, tensor)
        scope[tensor.name] = None if is_external(tensor) else Constant.known(tensor)
    folded: dict[int, list[Constant]] = {}
    inside = False
    varying = {name for name, constant in scope.maps[0].items() if constant is None}
    for i, node in enumerate(graph.node):
        values = evaluator.evaluate(node, scope) if varying.isdisjoint(node.input) else None
        if values is not None:
            scope.update(zip(node.output, values, strict=True))
            folded[i] = values
            continue
        varying.update(filter(None, node.output))
        scope.maps[0].update(dict.fromkeys(node.output))
        for body in protos.bodies(node) if node.attribute else ():
            evaluator.compute()
            inside = _fold_graph(body, evaluator, scope, {}) or inside
    evaluator.compute()
    if not folded and not graph.initializer:
        return inside
    done = {i: [t for c in values if (t := c.tensor) is not None] for i, values in folded.items()}
    done = {i: tensors for i, tensors in done.items() if len(tensors) == len(folded[i])}
    _replace(graph, done)
    return bool(done) or inside


def _replace(graph: onnx.GraphProto, folded: dict[int, list[onnx.TensorProto]]) -> None:
    """Replace nodes, given by position, by initializers; remove initializers that are no longer needed."""
    for i in sorted(folded, reverse=True):
        del graph.node[i]
    needed = {value.name for value in (*graph.output, *graph.input)}
    needed.update(name for node in graph.node for name in protos.needed_names(node))
    for i in reversed(range(len(graph.initializer))):
        if graph.initializer[i].name not in needed:
            del graph.initializer[i]
    graph.initializer.extend(t for values in folded.values() for t in values if t.name in needed)
