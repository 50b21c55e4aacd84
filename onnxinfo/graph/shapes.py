"""Complete types and shapes that ONNX's inference leaves open: foreign operators, and sizes computed from sizes."""

from __future__ import annotations

import contextlib
import math
from collections import ChainMap
from collections.abc import Iterable, Mapping

import numpy as np
import onnx

from . import protos
from .constants import Constant, Evaluator, Scope, static_shape
from .engine import Engine
from .inference import infer_shapes
from .tensor_data import is_external

# Operators of ai.onnx.ml whose result has the shape of their first operand, although their schemas do not say so.
_SAME_SHAPE = {"Binarizer", "Imputer", "Normalizer", "Scaler"}
_SAME_SHAPE_DOMAIN = "ai.onnx.ml"
# Trial values for symbolic sizes, of the first axis (the batch) and of others: sizes that are the same in both trials
# do not depend on them. Images and sequences of these sizes pass through most networks.
_TRIALS = ((2, 256), (3, 320))
# Sizes of a third trial: a size counts as constant only if it is the same here, too. Windows of sound can be longer
# than the sizes of the first two trials, so that a convolution gives the same number of windows for both.
_REFUTING = (5, 65_537)
# Byte budget for values computed from sizes.
_BUDGET = 1 << 26
# Prefix of ONNX's names for unknown sizes.
_INVENTED = "unk__"


def free_dimensions(model: onnx.ModelProto) -> None:
    """Leave open every declared size below 1: exporters write -1 or 0 for a dynamic size.

    A tensor that is really empty gets its 0 back from shape inference.

    Parameters
    ----------
    model
        Modified in place: inputs, outputs and values of the graph, of control flow bodies and of functions.
    """
    nodes = (*model.graph.node, *(node for function in model.functions for node in function.node))
    graphs = [model.graph, *(body for node in protos.nested(nodes) for body in protos.bodies(node))]
    declared = [value for graph in graphs for value in (*graph.input, *graph.output, *graph.value_info)]
    declared += [value for function in model.functions for value in function.value_info]
    for value in declared:
        for type in protos.tensor_types(value.type):
            for dim in type.shape.dim:
                if dim.HasField("dim_value") and dim.dim_value < 1:
                    dim.ClearField("dim_value")


def complete_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Infer the types and shapes of a model's values beyond ONNX's own inference.

    Parameters
    ----------
    model
        A checked model with detached large tensors.

    Returns
    -------
    onnx.ModelProto
        A copy with ``value_info``. Sizes that remain unknown are left open, without a name.

    Raises
    ------
    ModelError
        Types or shapes are contradictory.
    """
    model = infer_shapes(model)
    if _add_types(model):
        model = infer_shapes(model)
    if any(map(_is_open, _distinct_types(model))):
        one, two = (_trial(model, *sizes) for sizes in _TRIALS)
        # A third traversal takes time, and most graphs do without.
        other = _trial(model, *_REFUTING) if any(_is_constant(value, one, two) for value in _values(model)) else {}
        _settle(model, [one, two, other])
    return model


def _values(model: onnx.ModelProto) -> Iterable[onnx.ValueInfoProto]:
    return (*model.graph.value_info, *model.graph.output)


def _distinct_types(model: onnx.ModelProto) -> Iterable[onnx.TypeProto]:
    """Types of the values, most of which occur many times in a large graph, once each."""
    return {value.type.SerializePartialToString(): value.type for value in _values(model)}.values()


def _add_types(model: onnx.ModelProto) -> bool:
    """Add the types of foreign operators' results; return whether there were any to add."""
    graph = model.graph
    known = {v.name: v.type for v in (*graph.value_info, *graph.input, *graph.output) if v.type.WhichOneof("value")}
    computed = [name for node in graph.node for name in node.output if name]
    found = _types_in_engine(model, [name for name in computed if name not in known])
    foreign = any(opset.domain == _SAME_SHAPE_DOMAIN for opset in model.opset_import)
    for node in graph.node if foreign else ():
        same = known.get(node.input[0]) if node.op_type in _SAME_SHAPE and node.input else None
        if same is not None and same.tensor_type.HasField("shape"):
            type = onnx.TypeProto()
            type.tensor_type.shape.CopyFrom(same.tensor_type.shape)
            type.tensor_type.elem_type = known.get(
                node.output[0], found.get(node.output[0], same)
            ).tensor_type.elem_type
            found[node.output[0]] = type
    for name, type in found.items():
        if name in known:
            known[name].CopyFrom(type)
        else:
            graph.value_info.append(onnx.helper.make_value_info(name, type))
    return bool(found)


def _types_in_engine(model: onnx.ModelProto, names: list[str]) -> dict[str, onnx.TypeProto]:
    """Types inferred by ONNX Runtime; none if it rejects the model."""
    if not names:
        return {}
    asking = protos.copy_into(onnx.ModelProto(), model, ("graph",))
    graph = protos.copy_into(asking.graph, model.graph, ("output",))
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    types = {}
    with contextlib.suppress(Exception):
        # Types do not depend on the weights' values; zeros cost nothing until they are read.
        weights = {
            tensor.name: np.zeros(tensor.dims, onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
            for tensor in graph.initializer
            if is_external(tensor)
        }
        for argument in Engine(asking, weights, threads=1).session.get_outputs():
            element = _ELEMENTS.get(argument.type.removeprefix("tensor(").removesuffix(")"))
            if element is not None:
                # An empty list of sizes may mean an unknown rank or a scalar.
                types[argument.name] = onnx.helper.make_tensor_type_proto(element, argument.shape or None)
    return types


# ONNX Runtime's names of element types.
_ELEMENTS = {name.lower(): number for name, number in onnx.TensorProto.DataType.items()}


def _is_open(type: onnx.TypeProto) -> bool:
    """Whether the rank or a size of a tensor is unknown."""
    if not type.HasField("tensor_type"):
        return False
    tensor = type.tensor_type
    if not tensor.HasField("shape"):
        return True
    return any(not dim.HasField("dim_value") and not _name(dim) for dim in tensor.shape.dim)


def _name(dim: onnx.TensorShapeProto.Dimension) -> str:
    return "" if dim.dim_param.startswith(_INVENTED) else dim.dim_param


def _trial(model: onnx.ModelProto, first: int, other: int) -> dict[str, tuple[int, ...]]:
    """Shapes of all values, and values of symbolic sizes as ``"dim:NAME"``, for given sizes of the inputs.

    One traversal of the graph infers shapes and computes the values that are constant for these input sizes.
    """
    sizes: dict[str, int] = {}
    walk = _Walk(model)
    for value in model.graph.input:
        type = onnx.TypeProto()
        type.CopyFrom(value.type)
        for axis, dim in enumerate(type.tensor_type.shape.dim):
            if not dim.HasField("dim_value"):
                dim.dim_value = sizes.setdefault(dim.dim_param or f"axis:{min(axis, 1)}", other if axis else first)
        walk.types[value.name] = type
    for node in model.graph.node:
        walk.pass_node(node)
    return walk.shapes() | {f"dim:{name}": (size,) for name, size in sizes.items()}


class _Walk:
    """Types and constants of a graph, computed node by node."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.declared = {value.name: value.type for value in _values(model)}
        self.evaluator = Evaluator(model.opset_import, _BUDGET)
        self.constants: Scope = ChainMap()
        self.types: dict[str, onnx.TypeProto] = {}
        for tensor in model.graph.initializer:
            constant = Constant.known(tensor)
            self.types[tensor.name] = constant.type
            if not is_external(tensor):
                self.constants[tensor.name] = constant

    def pass_node(self, node: onnx.NodeProto) -> None:
        """Infer the types of a node's outputs, and their values if those are constant."""
        values = self._size(node) or self.evaluator.evaluate(node, self.constants)
        if values is not None:
            self.constants.update(zip(node.output, values, strict=True))
            self.types.update((name, value.type) for name, value in zip(node.output, values, strict=True))
            return
        known = {name: c for name in node.input if (c := self.constants.get(name)) is not None}
        if any(c.tensor is None for c in known.values()):
            self.evaluator.compute()
        found: dict[str, onnx.TypeProto] = {}
        with contextlib.suppress(Exception):
            found = self.evaluator.infer(node, self._operands(node), known)
        for name in node.output:
            type = found.get(name)
            if type is None or static_shape(type) is None:
                type = self.declared.get(name)
            if type is not None:
                self.types[name] = type

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Known shapes."""
        return {name: shape for name, type in self.types.items() if (shape := static_shape(type)) is not None}

    def _operands(self, node: onnx.NodeProto) -> dict[str, onnx.TypeProto]:
        return {name: self.types[name] for name in protos.needed_names(node) if name in self.types}

    def _size(self, node: onnx.NodeProto) -> list[Constant] | None:
        """Result of Shape or Size for a value of known shape."""
        if node.op_type not in ("Shape", "Size") or node.domain or node.input[0] not in self.types:
            return None
        shape = static_shape(self.types[node.input[0]])
        if shape is None:
            return None
        cut = {attribute.name: attribute.i for attribute in node.attribute}
        part = shape[cut.get("start", 0) : cut.get("end", len(shape))]
        if math.prod(shape) > np.iinfo(np.int64).max:
            return None
        value = np.asarray(part if node.op_type == "Shape" else math.prod(shape), dtype=np.int64)
        return [Constant.known(onnx.numpy_helper.from_array(value, node.output[0]))]


def _settle(model: onnx.ModelProto, trials: list[dict[str, tuple[int, ...]]]) -> None:
    """Fill in open sizes from the trials; those that follow one symbolic size get its name."""
    one, two, other = trials
    symbols: dict[tuple[int, int], str] = {}
    for key in one:
        if key.startswith("dim:") and not key.startswith("dim:axis:"):
            sizes = (one[key][0], two[key][0])
            symbols[sizes] = key.removeprefix("dim:") if sizes not in symbols else ""
    for value in _values(model):
        a, b = one.get(value.name), two.get(value.name)
        type = value.type.tensor_type
        if a is not None and b is not None and len(a) == len(b) and value.type.HasField("tensor_type"):
            if not type.HasField("shape"):
                type.shape.SetInParent()
                type.shape.dim.extend(onnx.TensorShapeProto.Dimension() for _ in a)
            # Some networks do not take the last trial's sizes.
            refuting = c if (c := other.get(value.name)) is not None and len(c) == len(a) else a
            for dim, first, second, far in zip(type.shape.dim, a, b, refuting, strict=False):
                if first != second or first == far:
                    _fill(dim, (first, second), symbols)
        for dim in type.shape.dim if type.HasField("shape") else ():
            if dim.dim_param.startswith(_INVENTED):
                dim.ClearField("dim_param")


def _is_constant(
    value: onnx.ValueInfoProto, one: Mapping[str, tuple[int, ...]], two: Mapping[str, tuple[int, ...]]
) -> bool:
    """Whether an open size of a value is the same in both trials."""
    a, b = one.get(value.name, ()), two.get(value.name, ())
    if not _is_open(value.type) or len(a) != len(b):
        return False
    dims = value.type.tensor_type.shape.dim
    stated = [dim.HasField("dim_value") or bool(_name(dim)) for dim in dims] or [False] * len(a)
    return any(first == second for first, second, is_stated in zip(a, b, stated, strict=False) if not is_stated)


def _fill(dim: onnx.TensorShapeProto.Dimension, sizes: tuple[int, int], symbols: dict[tuple[int, int], str]) -> None:
    if dim.HasField("dim_value") or _name(dim):
        return
    if sizes[0] == sizes[1]:
        dim.dim_value = sizes[0]
    elif symbols.get(sizes):
        dim.dim_param = symbols[sizes]
