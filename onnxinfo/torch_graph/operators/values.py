"""Conversion of values between numpy, which has all ONNX types, and torch, in which the graph computes.

A tensor of strings stays a numpy array of objects; a sequence is a list, an absent optional value None.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor

from ..element_types import tensor_from


def to_torch(value: Any, device: torch.device | str = "cpu") -> Any:
    """Convert a value of ONNX engines to the representation in the converted graph."""
    if value is None:
        return None
    if isinstance(value, (list, tuple)):
        return [to_torch(item, device) for item in value]
    array = np.asarray(value)
    return array.astype(object) if array.dtype.kind in "OSUT" else tensor_from(array).to(device)


def to_numpy(value: Any, type: onnx.TypeProto) -> Any:
    """Convert a value of the graph to ``type``; types that torch lacks are restored from their wider substitutes."""
    if value is None or isinstance(value, np.ndarray):
        return value
    if isinstance(value, (list, tuple)):
        return [to_numpy(item, _element(type)) for item in value]
    return array_from(value, _element(type).tensor_type.elem_type)


def _element(type: onnx.TypeProto) -> onnx.TypeProto:
    """Return the element type of a sequence or optional."""
    while kind := type.WhichOneof("value"):
        if kind not in ("sequence_type", "optional_type"):
            break
        type = getattr(type, kind).elem_type
    return type


def array_from(tensor: Tensor, element_type: int = 0) -> np.ndarray[Any, Any]:
    """Copy a tensor into an array of an ONNX element type, by default its own."""
    tensor = tensor.detach().cpu()
    exotic = tensor.dtype == torch.bfloat16 or (tensor.is_floating_point() and tensor.dtype.itemsize == 1)
    array = (tensor.float() if exotic else tensor).resolve_conj().resolve_neg().numpy()
    if not element_type and exotic:
        raise TypeError(f"a tensor of {tensor.dtype} needs its ONNX element type to become an array")
    return array.astype(onnx.helper.tensor_dtype_to_np_dtype(element_type)) if element_type else array
