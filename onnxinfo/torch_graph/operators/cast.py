"""Conversions between element types.

Types of fewer than 8 bits are represented by the next type that torch can compute with. 8-bit floats are represented by
rounded float32 values, whose rounding has the gradient of the identity (straight-through estimator).
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import torch
from torch import Tensor

from ..element_types import torch_type
from ..nodes import Converted, Graph, Node
from .quantized import MINIFLOATS
from .rounding import round_to_float
from .table import bind, converter

# Bits and lowest value of integer types that torch lacks.
_SMALL_INTEGERS = {
    np.dtype(type): (ml_dtypes.iinfo(type).bits, int(ml_dtypes.iinfo(type).min))
    for type in (ml_dtypes.int2, ml_dtypes.int4, ml_dtypes.uint2, ml_dtypes.uint4)
}


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
    type = onnx.helper.tensor_dtype_to_np_dtype(to)
    if type in MINIFLOATS:
        return round_to_float(x, to, saturate)
    if type in _SMALL_INTEGERS:
        return _wrapped(x.to(torch.int64), *_SMALL_INTEGERS[type]).to(torch_type(to))
    return x.to(torch_type(to))


def CastLike(input, target_type, *, to, round_mode="up", saturate=1):
    return Cast(input, to=to, saturate=saturate) if to else input.to(target_type.dtype)


def _wrapped(x: Tensor, bits: int, lowest: int) -> Tensor:
    """Keep the lowest bits, as conversions between integers do."""
    return ((x - lowest) & (2**bits - 1)) + lowest


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
