"""Dataflow of a graph: producers, consumers, types, and the influence of a tensor's values."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Set
from functools import cached_property

import onnx
from onnx import TensorProto

from ..errors import ModelError
from . import protos

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
Shape = tuple[int | str | None, ...]

# Operators that depend only on the shape or type of their operands.
_BLIND = {"Shape", "Size", "ConstantOfShape", "EyeLike", "RandomNormalLike", "RandomUniformLike"}
# Operators that round real numbers to integers; operators that compute with these are layers, the rounding is not.
_ROUNDING = {"QuantizeLinear", "DynamicQuantizeLinear"}
_QUANTIZED = {"ConvInteger", "MatMulInteger", "MatMulInteger16", "QGemm"}
# Positions of the operands that hold content, not scales or zero points.
_CONTENT = {
    "DequantizeLinear": (0,), "QuantizeLinear": (0,), "ConvInteger": (0, 1), "MatMulInteger": (0, 1),
    "QLinearConv": (0, 3, 8), "QLinearMatMul": (0, 3), "QLinearAdd": (0, 3), "QLinearMul": (0, 3), "QGemm": (0, 3, 6),
    "MatMulIntegerToFloat": (0, 1, 6), "DynamicQuantizeMatMul": (0, 1, 4), "DynamicQuantizeLSTM": tuple(range(8)),
    "QAttention": (0, 1, 2, 5, 8), "QEmbedLayerNormalization": tuple(range(8)), "MatMulNBits": (0, 1, 4, 5),
}  # fmt: skip
# Operators that add biases stored as 32-bit integers, or turn these into floats.
_WITH_WIDE_INTEGERS = {"DequantizeLinear", "QLinearConv", "QGemm"}
# Types of constants that count as parameters: floats, and the integers that store quantized weights.
_PARAMETERS = (*FLOATS, *(TensorProto.DataType.Value(f"{u}INT{bits}") for u in ("", "U") for bits in (2, 4, 8)))

# Maximum number of nodes visited to find the constants that all weights are computed from: chains of nodes that each
# use all nodes before them take quadratic time.
_MAX_STEPS = 2_000_000


def _size(dim: onnx.TensorShapeProto.Dimension) -> int | str | None:
    return dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None


class Dataflow:
    """Values of a graph by name, and its nodes by position.

    Parameters
    ----------
    graph
        A checked graph with inferred shapes and topologically sorted nodes.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.nodes = [protos.Node.of(node) for node in graph.node]
        self.needs = [protos.needed_names(node) for node in self.nodes]
        self.producer = {name: i for i, node in enumerate(self.nodes) for name in node.output if name}
        self.consumers: dict[str, list[int]] = defaultdict(list)
        for i, names in enumerate(self.needs):
            for name in names:
                self.consumers[name].append(i)
        self.outputs = {value.name for value in graph.output}
        self._shapes: dict[str, Shape | None] = {}
        self._sizes_by_type: dict[bytes, Shape | None] = {}
        self._types = {value.name: value.type for value in (*graph.value_info, *graph.input, *graph.output)}
        self._elements = {name: type.tensor_type.elem_type for name, type in self._types.items()}
        self._influenced: dict[tuple[str, ...], frozenset[str]] = {}
        self._steps = 0

    @cached_property
    def operators(self) -> frozenset[str]:
        """Types of the operators in the graph itself, without their domains."""
        return frozenset(node.op_type for node in self.nodes)

    @cached_property
    def initializers(self) -> dict[str, TensorProto]:
        """Dense initializers by name."""
        return {tensor.name: tensor for tensor in self.graph.initializer}

    @property
    def inputs(self) -> list[str]:
        """Names of the required graph inputs."""
        initial = protos.initial_names(self.graph)
        return [value.name for value in self.graph.input if value.name not in initial]

    @cached_property
    def results(self) -> list[str]:
        """Names of the graph outputs; for a classifier's list of maps, the name of the tensor that it lists."""
        return [self._listed(value.name) for value in self.graph.output]

    def _listed(self, output: str) -> str:
        node = self.nodes[self.producer[output]] if output in self.producer else None
        return output if node is None or node.op_type != "ZipMap" else node.input[0]

    def is_float(self, name: str) -> bool:
        """Whether a value is known to be a float tensor."""
        return self._elements.get(name) in FLOATS

    def is_feature(self, name: str) -> bool:
        """Whether a value represents real numbers: floats, or the integers that quantized operators compute with."""
        return self.is_float(name) or name in self._quantized

    @cached_property
    def _quantized(self) -> set[str]:
        """Integers that represent real numbers: computed by a quantized operator from other such integers, or moved."""
        found: set[str] = set()
        rounded: set[str] = set()
        for node in self.nodes:
            results = set(node.output[:1])
            if node.op_type in _ROUNDING:
                rounded |= results
            elif node.op_type in _QUANTIZED or node.op_type.startswith("QLinear"):
                found |= results
            else:
                kinds = {self.element_type(name) for name in node.input if name in found or name in rounded}
                found |= {name for name in results if self.element_type(name) in kinds}
        return {name for name in found if not self.is_float(name)}

    def element_type(self, name: str) -> int | None:
        """ONNX element type of a tensor; None if unknown."""
        return self._elements.get(name)

    def shape(self, name: str) -> Shape | None:
        """Sizes of a tensor: numbers, names of symbolic ones, None for unknown ones; None if the rank is unknown."""
        if name not in self._shapes:
            self._shapes[name] = self._sizes(self._types[name]) if name in self._types else None
        return self._shapes[name]

    def _sizes(self, type: onnx.TypeProto) -> Shape | None:
        # Many values of a large graph have the same type, and each access to a field of a message takes long.
        key = type.SerializePartialToString()
        if key not in self._sizes_by_type:
            shaped = type.tensor_type.HasField("shape")
            self._sizes_by_type[key] = tuple(map(_size, type.tensor_type.shape.dim)) if shaped else None
        return self._sizes_by_type[key]

    def rank(self, name: str) -> int | None:
        """Number of axes of a tensor; None if unknown."""
        if name in self.initializers:
            return len(self.initializers[name].dims)
        shape = self.shape(name)
        return None if shape is None else len(shape)

    def influenced(self, *sources: str) -> frozenset[str]:
        """Names of the values that depend on tensors' values, not only on their shapes, including these tensors."""
        if sources not in self._influenced:
            reached, pending = set(sources), list(sources)
            while pending:
                for position in self.consumers.get(pending.pop(), ()):
                    outputs = [name for name in self.nodes[position].output if name and name not in reached]
                    if outputs and self.sees(position):
                        reached.update(outputs)
                        pending.extend(outputs)
            self._influenced[sources] = frozenset(reached)
        return self._influenced[sources]

    @cached_property
    def driven(self) -> frozenset[str]:
        """Names of the values that depend on the values of a graph input, including the inputs."""
        return self.influenced(*self.inputs)

    @cached_property
    def before_features(self) -> frozenset[str]:
        """Names of the values that a feature depends on, other than the value itself."""
        found: set[str] = set()
        for position in reversed(range(len(self.nodes))):
            outputs = self.nodes[position].output
            if self.sees(position) and any(name in found or self.is_feature(name) for name in outputs):
                found.update(self.needs[position])
        return frozenset(found)

    def sees(self, position: int) -> bool:
        """Whether a node depends on its operands' values."""
        node = self.nodes[position]
        return node.op_type not in _BLIND or bool(node.domain)

    def parameters_of(self, position: int, influenced: Set[str]) -> dict[str, int]:
        """Parameters that a node uses, directly or through constants: their names and numbers of elements.

        Float tensors and tensors of integers of at most 8 bits count, and biases of 32 bits; scalars (rank 0), and the
        scales and zero points of quantized tensors, do not.
        """
        found: dict[str, int] = {}
        for name, wide in self._sources(position, influenced).items():
            tensor = self.constant(name)
            types = (*_PARAMETERS, TensorProto.INT32) if wide else _PARAMETERS
            if tensor is not None and tensor.data_type in types and tensor.dims:
                found[name] = math.prod(tensor.dims)
        # Parameters in bodies of control flow.
        for body in protos.bodies(self.nodes[position]) if self.nodes[position].attribute else ():
            inner = Dataflow(body)
            for i in range(len(inner.nodes)):
                found.update(inner.parameters_of(i, {value.name for value in body.input}))
        return found

    def _sources(self, position: int, influenced: Set[str]) -> dict[str, bool]:
        """Names of the values from which a node's constant operands are computed, including those operands.

        With each, whether the node that reads it may have biases stored as 32-bit integers.
        """
        wide = self.nodes[position].op_type in _WITH_WIDE_INTEGERS
        pending = [name for name in self._content(position) if name not in influenced]
        if not pending:
            return {}
        sources = dict.fromkeys(pending, wide)
        while pending:
            self._steps += 1
            if self._steps > _MAX_STEPS:
                raise ModelError(
                    f"the model computes its weights from constants in more than {_MAX_STEPS} steps; fold its constants"
                )
            producer = self.producer.get(pending.pop())
            # A size computed from a value does not turn that value's weights into parameters.
            if producer is not None and self.sees(producer):
                wide = self.nodes[producer].op_type in _WITH_WIDE_INTEGERS
                fresh = [name for name in self._content(producer) if name not in sources]
                sources |= dict.fromkeys(fresh, wide)
                pending.extend(fresh)
        return sources

    def _content(self, position: int) -> list[str]:
        """Operands of a node without scales and zero points."""
        node = self.nodes[position]
        if node.op_type not in _CONTENT:
            return self.needs[position]
        return [name for i, name in enumerate(node.input) if name and i in _CONTENT[node.op_type]]

    def constant(self, name: str) -> TensorProto | None:
        """Tensor of an initializer or a Constant node."""
        if name in self.initializers:
            return self.initializers[name]
        if name not in self.producer:
            return None
        node = self.nodes[self.producer[name]]
        values = [a.t for a in node.attribute if a.name == "value"] if node.op_type == "Constant" else []
        return values[0] if values else None
