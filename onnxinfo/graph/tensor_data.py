"""Sizes of ONNX tensors according to shape and element type, and checks of the data's size."""

from __future__ import annotations

import math
import os

import onnx
from onnx import TensorProto

from ..errors import ModelError
from ..text import quoted

#: Memory of the machine in bytes; infinite if unknown.
MEMORY = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 1 << 50

_BITS = {
    "FLOAT": 32, "UINT8": 8, "INT8": 8, "UINT16": 16, "INT16": 16, "INT32": 32, "INT64": 64, "BOOL": 8, "FLOAT16": 16,
    "DOUBLE": 64, "UINT32": 32, "UINT64": 64, "COMPLEX64": 64, "COMPLEX128": 128, "BFLOAT16": 16, "FLOAT8E4M3FN": 8,
    "FLOAT8E4M3FNUZ": 8, "FLOAT8E5M2": 8, "FLOAT8E5M2FNUZ": 8, "UINT4": 4, "INT4": 4, "FLOAT4E2M1": 4,
    "FLOAT8E8M0": 8, "UINT2": 2, "INT2": 2, "FLOAT6E2M3": 6, "FLOAT6E3M2": 6,
}  # fmt: skip
_BITS_OF = {number: _BITS[name] for name, number in TensorProto.DataType.items() if name in _BITS}

# Field that holds the elements if raw_data does not, and the number of its entries per element.
_FIELDS: dict[int, tuple[str, int]] = {
    TensorProto.FLOAT: ("float_data", 1),
    TensorProto.COMPLEX64: ("float_data", 2),
    TensorProto.DOUBLE: ("double_data", 1),
    TensorProto.COMPLEX128: ("double_data", 2),
    TensorProto.INT64: ("int64_data", 1),
    TensorProto.UINT32: ("uint64_data", 1),
    TensorProto.UINT64: ("uint64_data", 1),
    TensorProto.STRING: ("string_data", 1),
}


def element_count(tensor: onnx.TensorProto) -> int:
    """Number of elements declared by a tensor's shape.

    Raises
    ------
    ModelError
        A dimension is negative.
    """
    if any(size < 0 for size in tensor.dims):
        raise ModelError(f"tensor {quoted(tensor.name)} has the shape {_shape(tensor)}; export again")
    return math.prod(tensor.dims)


def byte_count(tensor: onnx.TensorProto) -> int:
    """Size of a tensor's raw data in bytes, by shape and element type.

    Raises
    ------
    ModelError
        Its elements have no fixed size, or are of an unknown type.
    """
    if tensor.data_type not in _BITS_OF:
        raise ModelError(
            f"tensor {quoted(tensor.name)} has elements of type {tensor.data_type}, which raw data cannot hold"
        )
    return -(-element_count(tensor) * _BITS_OF[tensor.data_type] // 8)


def is_external(tensor: onnx.TensorProto) -> bool:
    """Whether a tensor's data are stored outside the tensor."""
    return tensor.data_location == TensorProto.EXTERNAL


def check_data_size(tensor: onnx.TensorProto) -> None:
    """Compare the data of a tensor with its shape and element type.

    Raises
    ------
    ModelError
        The sizes differ.
    """
    if tensor.HasField("raw_data"):
        check_byte_count(tensor, len(tensor.raw_data))
        return
    field, entries = _FIELDS.get(tensor.data_type, ("int32_data", 1))
    bits = _BITS_OF.get(tensor.data_type, 8)
    expected = -(-element_count(tensor) * entries // (8 // bits if bits < 6 else 1))
    _compare(tensor, len(getattr(tensor, field)), expected, "values")


def check_byte_count(tensor: onnx.TensorProto, actual: int) -> None:
    """Compare the number of bytes of a tensor's raw data with its shape and element type.

    Raises
    ------
    ModelError
        The sizes differ.
    """
    _compare(tensor, actual, byte_count(tensor), "bytes")


def _compare(tensor: onnx.TensorProto, actual: int, expected: int, unit: str) -> None:
    if actual != expected:
        raise ModelError(
            f"tensor {quoted(tensor.name)} of shape {_shape(tensor)} has {actual} {unit} of data, "
            f"expected {expected if expected < 2**63 else 'far more'}; the model is damaged, export it again"
        )


def _shape(tensor: onnx.TensorProto) -> str:
    """Format a shape for messages."""
    return "x".join(map(str, tensor.dims)) if len(tensor.dims) <= 8 else f"of {len(tensor.dims)} dimensions"
