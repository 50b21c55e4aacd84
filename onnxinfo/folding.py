"""Constant folding: what depends on no graph input is computed once, as far as its size stays in bounds."""

from __future__ import annotations

import contextlib
from collections import ChainMap
from collections.abc import Iterable
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx.reference import ReferenceEvaluator

from . import protos
from .engine import Engine
from .tensor_data import byte_count, element_count

Array = npt.NDArray[Any]

# Operators whose result differs from run to run.
_RANDOM = {
    "Bernoulli", "Dropout", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike",
}  # fmt: skip
# How large the result is depends on the operands' values, within a small multiple of the operands' own size.
_BOUNDED = {"Compress", "NonZero", "Unique"}
# Folded values may take this many bytes, and this many times the bytes of the model's own constants: enough for
# weights of 4 bits to become floats, too little for a few small numbers to ask for terabytes.
_FREE_BYTES = 1 << 28
_GROWTH = 8
# Operands up to this size can be shapes, axes or repeats, which shape inference wants to see.
_SEEN_BYTES = 4096
# ONNX Runtime reads no newer format version; one node needs nothing newer.
_IR_VERSION = 10


class _Constant:
    """A constant, with its array made when it is first needed."""

    def __init__(self, tensor: onnx.TensorProto) -> None:
        self.tensor = tensor

    @cached_property
    def array(self) -> Array:
        return onnx.numpy_helper.to_array(self.tensor)

    @cached_property
    def type(self) -> onnx.TypeProto:
        return onnx.helper.make_tensor_type_proto(self.tensor.data_type, list(self.tensor.dims))


# By name; None: known not to be constant, whatever a graph around has of that name.
_Scope = ChainMap[str, _Constant | None]


def fold(model: onnx.ModelProto) -> bool:
    """Replace what depends on no graph input by initializers, in bodies of control flow too.

    Initializers that are graph inputs as well count as constants. Not folded are random operators, control flow,
    values that are no tensors, results that would be too large, and tensors whose data is not in the model.

    Parameters
    ----------
    model
        A model without functions; changed in place.

    Returns
    -------
    bool
        Whether anything was folded.
    """
    own = sum(byte_count(t) for t in protos.tensors(model) if t.data_type != onnx.TensorProto.STRING)
    evaluator = _Evaluator(model, _FREE_BYTES + _GROWTH * own)
    return _fold_graph(model.graph, evaluator, ChainMap())


def fold_sizes(model: onnx.ModelProto) -> bool:
    """Replace the sizes (operators Shape and Size) of values of known shape by constants, in the main graph.

    Parameters
    ----------
    model
        A model with inferred shapes; changed in place.

    Returns
    -------
    bool
        Whether there were any.
    """
    graph = model.graph
    shapes = {value.name: static_shape(value.type) for value in (*graph.value_info, *graph.input)}
    folded = {}
    for i, node in enumerate(graph.node):
        shape = shapes.get(node.input[0]) if node.op_type in ("Shape", "Size") and not node.domain else None
        if shape is None:
            continue
        cut = {attribute.name: attribute.i for attribute in node.attribute}
        value = shape[cut.get("start", 0) : cut.get("end", len(shape))] if node.op_type == "Shape" else np.prod(shape)
        folded[i] = [onnx.numpy_helper.from_array(np.asarray(value, dtype=np.int64), node.output[0])]
    _replace(graph, folded)
    return bool(folded)


def static_shape(type: onnx.TypeProto) -> tuple[int, ...] | None:
    """Return the shape of a tensor type, None unless all of it is known."""
    if not type.HasField("tensor_type") or not type.tensor_type.HasField("shape"):
        return None
    dims = type.tensor_type.shape.dim
    return tuple(d.dim_value for d in dims) if all(d.HasField("dim_value") and d.dim_value >= 0 for d in dims) else None


def _fold_graph(graph: onnx.GraphProto, evaluator: _Evaluator, outer: _Scope) -> bool:
    evaluator.write_out_sparse(graph)
    scope: _Scope = outer.new_child({value.name: None for value in graph.input})
    scope.update({t.name: _Constant(t) for t in graph.initializer if t.data_location != onnx.TensorProto.EXTERNAL})
    folded = {}
    inside = False
    for i, node in enumerate(graph.node):
        values = evaluator.evaluate(node, scope)
        if values is None:
            scope.update((name, None) for name in node.output)
            for body in protos.bodies(node):
                inside = _fold_graph(body, evaluator, scope) or inside
        else:
            scope.update((tensor.name, _Constant(tensor)) for tensor in values)
            folded[i] = values
    _replace(graph, folded)
    return bool(folded) or inside


def _replace(graph: onnx.GraphProto, folded: dict[int, list[onnx.TensorProto]]) -> None:
    """Replace nodes, given by position, by initializers; leave out the initializers that nothing needs any more."""
    for i in sorted(folded, reverse=True):
        del graph.node[i]
    needed = {value.name for value in (*graph.output, *graph.input)}
    needed.update(name for node in graph.node for name in protos.needed_names(node))
    for i in reversed(range(len(graph.initializer))):
        if graph.initializer[i].name not in needed:
            del graph.initializer[i]
    graph.initializer.extend(t for values in folded.values() for t in values if t.name in needed)


class _Evaluator:
    """Computes nodes of constants, within a budget of bytes."""

    def __init__(self, model: onnx.ModelProto, budget: int) -> None:
        self.opsets = {opset.domain: opset.version for opset in model.opset_import}
        self.imports = list(model.opset_import)
        self.budget = budget

    def evaluate(self, node: onnx.NodeProto, scope: _Scope) -> list[onnx.TensorProto] | None:
        """Compute the named outputs of a node; None where it cannot or should not be done."""
        if node.op_type == "Constant" and not node.domain:
            return self._value(node)
        operands = {name: scope.get(name) for name in node.input if name}
        constants = {name: constant for name, constant in operands.items() if constant is not None}
        if not constants or len(constants) < len(operands) or node.op_type in _RANDOM or any(protos.bodies(node)):
            return None
        # Whatever goes wrong with a node that is damaged or beyond both engines: it stays, for others to judge.
        with contextlib.suppress(Exception):
            types = self._types(node, constants)
            if types is not None and self._spend(node, types, constants):
                return self._compute(node, types, constants)
        return None

    def write_out_sparse(self, graph: onnx.GraphProto) -> None:
        """Replace sparse initializers by dense ones, where that stays within the budget."""
        for i in reversed(range(len(graph.sparse_initializer))):
            if (tensor := self._dense(graph.sparse_initializer[i])) is not None:
                graph.initializer.append(tensor)
                del graph.sparse_initializer[i]

    def _dense(self, sparse: onnx.SparseTensorProto) -> onnx.TensorProto | None:
        full = onnx.TensorProto(name=sparse.values.name, data_type=sparse.values.data_type, dims=sparse.dims)
        with contextlib.suppress(Exception):
            if byte_count(full) <= self.budget:
                self.budget -= byte_count(full)
                values, indices = (onnx.numpy_helper.to_array(t) for t in (sparse.values, sparse.indices))
                array = np.zeros(tuple(sparse.dims), dtype=values.dtype)
                array[tuple(indices.T) if indices.ndim == 2 else np.unravel_index(indices, array.shape)] = values
                return onnx.numpy_helper.from_array(array, full.name)
        return None

    def _value(self, node: onnx.NodeProto) -> list[onnx.TensorProto] | None:
        (attribute,) = node.attribute
        if attribute.name == "sparse_value":
            dense = self._dense(attribute.sparse_tensor)
            if dense is None:
                return None
            tensor = dense
        elif attribute.name == "value":
            tensor = onnx.TensorProto()
            tensor.CopyFrom(attribute.t)
        else:
            kind = {"f": np.float32, "i": np.int64, "s": object}[attribute.name.removeprefix("value_")[0]]
            value = onnx.helper.get_attribute_value(attribute)
            tensor = onnx.numpy_helper.from_array(np.asarray(value, dtype=kind))
        tensor.name = node.output[0]
        return None if tensor.data_location == onnx.TensorProto.EXTERNAL else [tensor]

    def _types(self, node: onnx.NodeProto, constants: dict[str, _Constant]) -> dict[str, onnx.TypeProto] | None:
        version = self.opsets.get(node.domain)
        if version is None or not onnx.defs.has(node.op_type, node.domain):
            return None
        return onnx.shape_inference.infer_node_outputs(
            onnx.defs.get_schema(node.op_type, version, node.domain),
            node,
            {name: constant.type for name, constant in constants.items()},
            {name: c.tensor for name, c in constants.items() if c.tensor.ByteSize() <= _SEEN_BYTES},
            opset_imports=self.imports,
            ir_version=_IR_VERSION,
        )

    def _spend(self, node: onnx.NodeProto, types: dict[str, onnx.TypeProto], constants: dict[str, _Constant]) -> bool:
        """Take the bytes of the results from the budget, if it has them."""
        total = 0
        for name in filter(None, node.output):
            shape = static_shape(types[name])
            if shape is not None:
                total += 8 * int(np.prod(shape, dtype=object))
            elif node.op_type in _BOUNDED:
                total += sum(8 * max(1, len(c.tensor.dims)) * element_count(c.tensor) for c in constants.values())
            else:
                return False
        if total > self.budget:
            return False
        self.budget -= total
        return True

    def _compute(
        self, node: onnx.NodeProto, types: dict[str, onnx.TypeProto], constants: dict[str, _Constant]
    ) -> list[onnx.TensorProto] | None:
        outputs = [name for name in node.output if name]
        model = onnx.helper.make_model(
            onnx.helper.make_graph(
                [node],
                "constant",
                [onnx.helper.make_value_info(name, constant.type) for name, constant in constants.items()],
                [onnx.helper.make_value_info(name, types[name]) for name in outputs],
            ),
            opset_imports=self.imports,
            ir_version=_IR_VERSION,
        )
        arrays = _run(model, {name: constant.array for name, constant in constants.items()})
        expected = [onnx.helper.tensor_dtype_to_np_dtype(types[name].tensor_type.elem_type) for name in outputs]
        results = [np.asarray(array) for array in arrays]
        if [array.dtype for array in results] != expected:
            return None
        return [onnx.numpy_helper.from_array(array, name) for array, name in zip(results, outputs, strict=True)]


def _run(model: onnx.ModelProto, feeds: dict[str, Array]) -> Iterable[Any]:
    # The reference evaluator has what ONNX Runtime lacks: the newest operators and rare element types.
    with contextlib.suppress(Exception):
        return Engine(model, threads=1).run(feeds)
    return ReferenceEvaluator(model).run(None, feeds)
