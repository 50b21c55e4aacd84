"""ONNX's checker and shape inference on models of any size: weights are set aside, as neither looks at them."""

from __future__ import annotations

import onnx
from google.protobuf.message import DecodeError, EncodeError

from . import protos
from .errors import ModelError
from .text import printable

# Tensors larger than this are weights; what shape inference reads (shapes, axes, scales) is smaller.
_KEPT_BYTES = 4096
_DATA_FIELDS = ("raw_data", "float_data", "int32_data", "int64_data", "uint64_data", "double_data", "string_data")


def checked_with_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Check a model and infer the shapes of its values.

    Parameters
    ----------
    model
        Its larger tensors are emptied: the result takes their data over.

    Returns
    -------
    onnx.ModelProto
        The model with ``value_info``.

    Raises
    ------
    ModelError
        ONNX's checker refuses it.
    """
    weights = {i: tensor for i, tensor in enumerate(protos.tensors(model)) if tensor.ByteSize() > _KEPT_BYTES}
    originals = {i: _take(tensor) for i, tensor in weights.items()}
    try:
        _check(model)
        for i, tensor in weights.items():
            tensor.dims[:] = originals[i].dims
        inferred = _with_shapes(model)
    finally:
        for i, tensor in weights.items():
            tensor.CopyFrom(originals[i])
    for i, tensor in enumerate(protos.tensors(inferred)):
        if i in originals:
            tensor.CopyFrom(originals[i])
    return inferred


def _take(tensor: onnx.TensorProto) -> onnx.TensorProto:
    """Move a tensor's contents into a copy; what stays is a valid tensor without elements."""
    original = onnx.TensorProto()
    original.CopyFrom(tensor)
    for field in (*_DATA_FIELDS, "dims"):
        tensor.ClearField(field)
    tensor.dims.append(0)
    return original


def _check(model: onnx.ModelProto) -> None:
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError, RuntimeError, EncodeError) as error:
        raise ModelError(f"ONNX's checker refuses the model: {_line(error)}") from None


def _with_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    for data_prop in (True, False):
        try:
            return onnx.shape_inference.infer_shapes(model, data_prop=data_prop)
        except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError, RuntimeError, DecodeError) as error:
            reason = _line(error)
    raise ModelError(f"ONNX's shape inference refuses the model: {reason}")


def _line(error: Exception) -> str:
    return printable(" ".join(str(error).split()))[:300]
