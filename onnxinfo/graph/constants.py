"""Evaluate constants with ONNX Runtime, in batches of nodes, within a byte budget."""

from __future__ import annotations

import contextlib
import math
from collections import ChainMap
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from . import protos
from .engine import Engine
from .reference import Reference
from .tensor_data import byte_count, is_external

Array = npt.NDArray[Any]

# Operators whose results vary from run to run.
RANDOM = {
    "Bernoulli", "Dropout", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike",
}  # fmt: skip
# The result's size depends on the operands' values, but is at most a small multiple of the operands' size.
_BOUNDED = {"Compress", "NonZero", "Unique"}
# Operands up to this size may be shapes, axes or repeats, which shape inference needs to see.
_SEEN_BYTES = 4096
# ONNX Runtime reads no newer format version; a single node needs nothing newer.
_IR_VERSION = 10


class Constant:
    """A constant: known, still to be computed, or found not to be computable."""

    def __init__(self, type: onnx.TypeProto, tensor: onnx.TensorProto | None = None) -> None:
        self.type = type
        self.tensor = tensor
        self.failed = False

    @classmethod
    def known(cls, tensor: onnx.TensorProto) -> Constant:
        """Make a constant from a known tensor."""
        return cls(onnx.helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims)), tensor)

    @cached_property
    def array(self) -> Array:
        """Elements of the constant."""
        assert self.tensor is not None
        return onnx.numpy_helper.to_array(self.tensor)


# Constants by name; None: known not to be constant, even if an enclosing graph has a constant of that name.
Scope = ChainMap[str, Constant | None]


def static_shape(type: onnx.TypeProto) -> tuple[int, ...] | None:
    """Return the shape of a tensor type; None unless all of it is known."""
    if not type.HasField("tensor_type") or not type.tensor_type.HasField("shape"):
        return None
    dims = type.tensor_type.shape.dim
    return tuple(d.dim_value for d in dims) if all(d.HasField("dim_value") and d.dim_value >= 0 for d in dims) else None


class Evaluator:
    """Evaluates nodes with constant operands, in batches, within a byte budget."""

    def __init__(self, imports: Iterable[onnx.OperatorSetIdProto], budget: int) -> None:
        self.imports = list(imports)
        self.opsets = {opset.domain: opset.version for opset in self.imports}
        self.budget = budget
        self._batch: list[onnx.NodeProto] = []
        self._operands: dict[str, Constant] = {}
        self._results: dict[str, Constant] = {}

    def evaluate(self, node: onnx.NodeProto, scope: Scope) -> list[Constant] | None:
        """Return the outputs of a node, possibly still to be computed; None if it cannot or should not be evaluated."""
        if node.op_type == "Constant" and not node.domain:
            tensor = self._value(node) if len(node.attribute) == 1 else None
            return None if tensor is None else [Constant.known(tensor)]
        constants: dict[str, Constant] = {}
        for name in filter(None, node.input):
            constant = scope.get(name)
            if constant is None or constant.failed:
                return None
            constants[name] = constant
        if not constants or node.op_type in RANDOM or any(protos.bodies(node)):
            return None
        if not all(node.output):
            return None
        # If a node is damaged or unsupported by both engines, it is kept, for later stages to handle.
        with contextlib.suppress(Exception):
            types = self._types(node, constants)
            if types is None and any(constant.tensor is None for constant in constants.values()):
                # The types of its results depend on values that have not been computed yet.
                self.compute()
                types = self._types(node, constants)
            if types is not None:
                return self._plan(node, types, constants)
        return None

    def compute(self) -> None:
        """Compute the pending nodes."""
        batch, operands, results = self._batch, self._operands, self._results
        self._batch, self._operands, self._results = [], {}, {}
        if not batch:
            return
        with contextlib.suppress(Exception):
            self._run(batch, operands, results, _in_runtime)
            return
        for node in batch:
            needed = {name: operands.get(name) or results[name] for name in node.input if name}
            produced = {name: results[name] for name in node.output}
            for run in (_in_runtime, _in_reference):
                # The reference evaluator supports what ONNX Runtime lacks: the newest operators and rare element types.
                with contextlib.suppress(Exception):
                    self._run([node], needed, produced, run)
                    break
            for constant in produced.values():
                constant.failed = constant.tensor is None

    def write_out_sparse(self, graph: onnx.GraphProto) -> None:
        """Replace sparse initializers by dense ones, within the byte budget."""
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

    def _value(self, node: onnx.NodeProto) -> onnx.TensorProto | None:
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
        return None if is_external(tensor) else tensor

    def infer(
        self, node: onnx.NodeProto, types: Mapping[str, onnx.TypeProto], constants: Mapping[str, Constant]
    ) -> dict[str, onnx.TypeProto]:
        """Infer the types of a node's outputs from those of its operands and the values of constant operands.

        Raises
        ------
        Exception
            Any error of ONNX for an unknown operator or failed inference.
        """
        return onnx.shape_inference.infer_node_outputs(
            onnx.defs.get_schema(node.op_type, self.opsets[node.domain], node.domain),
            node,
            dict(types),
            {name: t for name, c in constants.items() if (t := c.tensor) is not None and t.ByteSize() <= _SEEN_BYTES},
            opset_imports=self.imports,
            ir_version=_IR_VERSION,
        )

    def _types(self, node: onnx.NodeProto, constants: dict[str, Constant]) -> dict[str, onnx.TypeProto] | None:
        """Types of the outputs of a node with constant operands, if their sizes are known or bounded."""
        types = self.infer(node, {name: constant.type for name, constant in constants.items()}, constants)
        sized = all(static_shape(types[name]) is not None for name in node.output)
        bounded = node.op_type in _BOUNDED and all(static_shape(c.type) is not None for c in constants.values())
        return types if sized or bounded else None

    def _plan(
        self, node: onnx.NodeProto, types: dict[str, onnx.TypeProto], constants: dict[str, Constant]
    ) -> list[Constant] | None:
        """Schedule a node for computation if its results fit the byte budget."""
        total = sum(_most_bytes(types[name], constants) for name in node.output)
        if total > self.budget:
            return None
        self.budget -= total
        results = {name: Constant(types[name]) for name in node.output}
        self._batch.append(node)
        self._operands.update((name, c) for name, c in constants.items() if name not in self._results)
        self._results.update(results)
        if node.op_type in _BOUNDED:
            self.compute()
        return list(results.values())

    def _run(
        self,
        nodes: list[onnx.NodeProto],
        operands: dict[str, Constant],
        results: dict[str, Constant],
        run: Callable[[onnx.ModelProto, dict[str, Array]], list[Any]],
    ) -> None:
        """Compute nodes and store their results."""
        model = onnx.helper.make_model(
            onnx.helper.make_graph(
                nodes,
                "constants",
                [onnx.helper.make_value_info(name, constant.type) for name, constant in operands.items()],
                [onnx.helper.make_value_info(name, constant.type) for name, constant in results.items()],
            ),
            opset_imports=self.imports,
            ir_version=_IR_VERSION,
        )
        arrays = run(model, {name: constant.array for name, constant in operands.items()})
        for (name, constant), value in zip(results.items(), arrays, strict=True):
            expected = onnx.helper.tensor_dtype_to_np_dtype(constant.type.tensor_type.elem_type)
            array = np.asarray(value)
            if array.dtype != expected and expected.kind != "O":
                raise TypeError(f"'{name}' has elements of type {array.dtype}, expected {expected}")
            tensor = onnx.numpy_helper.from_array(array, name)
            constant.tensor, constant.type = tensor, Constant.known(tensor).type


def _most_bytes(type: onnx.TypeProto, constants: dict[str, Constant]) -> int:
    """Size of a result in bytes; for operators in ``_BOUNDED``, whose size is unknown, an upper bound."""
    shape = static_shape(type)
    if shape is not None:
        return 8 * math.prod(shape)
    known = [shape for c in constants.values() if (shape := static_shape(c.type)) is not None]
    return sum(8 * max(1, len(shape)) * math.prod(shape) for shape in known)


def _in_runtime(model: onnx.ModelProto, feeds: dict[str, Array]) -> list[Any]:
    return Engine(model, threads=1).run(feeds)


def _in_reference(model: onnx.ModelProto, feeds: dict[str, Array]) -> list[Any]:
    return Reference(model).run(feeds)
