"""Operators that are certainly differentiable: for graphs of these alone, nothing need be converted to know it."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import onnx

from ..graph.dataflow import FLOATS, Dataflow
from ..graph.model import Model
from ..graph.protos import Node
from ..registry import OPERATORS

# Operators of the standard domain that are converted, in all versions and with all attributes, to functions that are
# differentiable by their float operands if their results are floats.
DIFFERENTIABLE = {
    "Abs", "Add", "AveragePool", "BatchNormalization", "Celu", "Concat", "Conv", "ConvTranspose", "Cos",
    "DepthToSpace", "Div", "Dropout", "Elu", "Erf", "Exp", "Expand", "Flatten", "Gather", "Gelu", "Gemm",
    "GlobalAveragePool", "GlobalMaxPool", "HardSigmoid", "HardSwish", "Identity", "InstanceNormalization", "LRN",
    "LayerNormalization", "LeakyRelu", "Log", "LogSoftmax", "MatMul", "Max", "MaxPool", "Mean", "Min", "Mish", "Mul",
    "Neg", "PRelu", "Pad", "Pow", "Reciprocal", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum",
    "ReduceSumSquare", "Relu", "Reshape", "Selu", "Sigmoid", "Sin", "Slice", "Softmax", "Softplus", "Softsign",
    "SpaceToDepth", "Split", "Sqrt", "Squeeze", "Sub", "Sum", "Tanh", "ThresholdedRelu", "Tile", "Transpose",
    "Unsqueeze", "Where",
}  # fmt: skip
#: Operators that are converted if their results are of a type in ``CONVERTED_TYPES``, but may pass no gradient on.
CONVERTED = DIFFERENTIABLE | {"Cast", "ConstantOfShape", "Equal", "Greater", "Less", "Not", "Range", "Shape", "Size"}
CONVERTED_TYPES = {*FLOATS, onnx.TensorProto.INT32, onnx.TensorProto.INT64, onnx.TensorProto.BOOL}
# Attributes of constants that are tensors of numbers.
_DENSE = {"value", "value_float", "value_floats", "value_int", "value_ints"}


def is_differentiable(model: Model, sources: Sequence[str]) -> bool:
    """Whether a gradient certainly reaches all layers of a model, judged by its operators and types alone.

    This needs no torch, whose import takes longer than listing the layers of most models.

    Parameters
    ----------
    model
        A loaded model.
    sources
        The tensors that noise is added to.

    Returns
    -------
    bool
        If False, :func:`.reach.obstacles` tells.
    """
    graph = model.proto.graph
    if OPERATORS.names() or "onnx2torch" in sys.modules or model.proto.functions or graph.sparse_initializer:
        return False
    flow = model.flow
    influenced = flow.influenced(*sources)
    return all(
        _passes(flow, node) if not influenced.isdisjoint(node.output) else _is_converted(flow, node)
        for node in flow.nodes
    )


def _passes(flow: Dataflow, node: Node) -> bool:
    return node.op_type in DIFFERENTIABLE and not node.domain and all(flow.is_float(n) for n in node.output if n)


def _is_converted(flow: Dataflow, node: Node) -> bool:
    known = node.op_type in CONVERTED or (node.op_type == "Constant" and node.attribute[0].name in _DENSE)
    return known and not node.domain and all(flow.element_type(n) in CONVERTED_TYPES for n in node.output if n)
