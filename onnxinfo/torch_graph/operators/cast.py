"""Conversions between element types.

Types of fewer than 8 bits are represented by the next type that torch can compute with. 8-bit floats are represented by
rounded float32 values, whose rounding has the gradient of the identity (straight-through estimator).
"""

from __future__ import annotations

import numpy as np
import onnx
import torch
from torch import Tensor

from ..element_types import torch_type
from ..nodes import Converted, Graph, Node
from .rounding import INTEGERS, MINIFLOATS, SmallInteger, round_to_float
from .table import bind, converter

# Integer types that torch lacks.
_SMALL_INTEGERS = {number: type for number, type in INTEGERS.items() if type.bits < 8}


@converter("Cast")
def _cast(node: Node, graph: Graph) -> Converted:
    _check(node.attributes["to"])
    if graph.element_type(node.inputs[0]) == node.attributes["to"]:
        return bind(_same, node, graph)
    return bind(Cast, node, graph)


@converter("CastLike")
def _cast_like(node: Node, graph: Graph) -> Converted:
    type = graph.element_type(node.inputs[1])
    _check(type)
    return bind(CastLike, node, graph, to=type)


def _check(to: int) -> None:
    if to in (onnx.TensorProto.FLOAT8E8M0, onnx.TensorProto.STRING):
        raise NotImplementedError(f"conversion to {onnx.TensorProto.DataType.Name(to)}")


def _same(input, *, to, round_mode="up", saturate=1):
    # Quantized values are represented by floats: converting them to their own type would lose the gradient.
    return input


def Cast(input, *, to, round_mode="up", saturate=1):
    x = _plain(input)
    if to in MINIFLOATS:
        return round_to_float(x, to, saturate)
    if to in _SMALL_INTEGERS:
        return _wrapped(x.to(torch.int64), _SMALL_INTEGERS[to]).to(torch_type(to))
    return x.to(torch_type(to))


def CastLike(input, target_type, *, to, round_mode="up", saturate=1):
    return Cast(input, to=to, saturate=saturate) if to else input.to(target_type.dtype)


def _wrapped(x: Tensor, type: SmallInteger) -> Tensor:
    """Keep the lowest bits, as conversions between integers do."""
    return ((x - type.low) & (2**type.bits - 1)) + type.low


def _plain(x: Tensor) -> Tensor:
    """Widen 8-bit floats, which torch converts to few other types."""
    return x.float() if x.is_floating_point() and x.dtype.itemsize == 1 else x


@converter("BitCast")
def _bit_cast(node: Node, graph: Graph) -> Converted:
    types = (graph.element_type(node.inputs[0]), node.attributes["to"])
    if any(t not in _WHOLE for t in types):
        raise NotImplementedError("BitCast of a type that torch does not have")
    return bind(BitCast, node, graph)


# Types whose bits a torch tensor holds unchanged.
_WHOLE = {
    onnx.helper.np_dtype_to_tensor_dtype(np.dtype(name))
    for name in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float32", "float64")
} | {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.BOOL}


def BitCast(input, *, to):
    if input.dtype.itemsize != torch_type(to).itemsize:
        raise ValueError(f"{input.dtype} and {torch_type(to)} have different numbers of bits")
    return input.view(torch_type(to))
