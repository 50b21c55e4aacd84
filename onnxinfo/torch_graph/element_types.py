"""ONNX's element types in torch, including types that torch lacks."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import torch
from torch import Tensor

# Element types that numpy supports only through ml_dtypes, and the torch type that holds their values.
_TORCH_TYPES = {
    np.dtype(ml_dtypes.bfloat16): torch.bfloat16,
    np.dtype(ml_dtypes.float8_e4m3fn): torch.float8_e4m3fn,
    np.dtype(ml_dtypes.float8_e4m3fnuz): torch.float8_e4m3fnuz,
    np.dtype(ml_dtypes.float8_e5m2): torch.float8_e5m2,
    np.dtype(ml_dtypes.float8_e5m2fnuz): torch.float8_e5m2fnuz,
    np.dtype(ml_dtypes.float8_e8m0fnu): torch.float8_e8m0fnu,
}
_WIDER_TYPES = {
    np.dtype(ml_dtypes.int2): np.int8,
    np.dtype(ml_dtypes.int4): np.int8,
    np.dtype(ml_dtypes.uint2): np.uint8,
    np.dtype(ml_dtypes.uint4): np.uint8,
    np.dtype(ml_dtypes.float4_e2m1fn): np.float32,
    np.dtype(ml_dtypes.float6_e2m3fn): np.float32,
    np.dtype(ml_dtypes.float6_e3m2fn): np.float32,
}


def tensor_from(array: np.ndarray[Any, Any]) -> Tensor:
    """Copy an array into a torch tensor; types of 2 to 6 bits widen to the next type that torch can compute with."""
    if array.dtype in _TORCH_TYPES:
        raw = array.view(f"u{array.dtype.itemsize}").copy()
        return torch.from_numpy(raw).view(_TORCH_TYPES[array.dtype])
    return torch.from_numpy(array.astype(_WIDER_TYPES.get(array.dtype, array.dtype)))


# A table, because a compiler that traces the graph cannot look into ONNX's functions.
_BY_ELEMENT_TYPE = {
    number: tensor_from(np.empty(0, onnx.helper.tensor_dtype_to_np_dtype(number))).dtype
    for number in onnx.helper.get_all_tensor_dtypes()
    if number != onnx.TensorProto.STRING
}


def torch_type(element_type: int) -> torch.dtype:
    """Return the torch type that holds values of an ONNX element type."""
    return _BY_ELEMENT_TYPE[element_type]


def single(x: Tensor) -> Tensor:
    """Convert types of lower precision to float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def attribute_value(attribute: onnx.AttributeProto) -> Any:
    """Convert a node's attribute to a Python value: bytes become str, tensors torch tensors; graphs stay protos."""
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode()
    if attribute.type == onnx.AttributeProto.STRINGS:
        return [item.decode() for item in value]
    if isinstance(value, onnx.TensorProto):
        return tensor_from(onnx.numpy_helper.to_array(value))
    if attribute.type in (onnx.AttributeProto.INTS, onnx.AttributeProto.FLOATS):
        return list(value)
    return value
