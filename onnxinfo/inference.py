"""ONNX's checker and shape inference on models of any size: weights are set aside, as neither looks at them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import onnx
from google.protobuf.message import DecodeError, EncodeError

from . import protos, schemas
from .errors import ModelError
from .text import printable

# Tensors larger than this are weights; what shape inference reads (shapes, axes, scales) is smaller.
_KEPT_BYTES = 4096
_DATA_FIELDS = ("raw_data", "float_data", "int32_data", "int64_data", "uint64_data", "double_data", "string_data")

Tensors = dict[int, onnx.TensorProto]


def check(model: onnx.ModelProto) -> None:
    """Run ONNX's checker.

    Raises
    ------
    ModelError
        It refuses the model.
    """
    schemas.register()
    with weights_set_aside(model) as weights:
        # Data of a tensor without elements is nothing: that keeps the emptied tensors valid.
        for i, tensor in enumerate(protos.tensors(model)):
            if i in weights:
                tensor.ClearField("data_location")
                tensor.dims[:] = [0]
        try:
            onnx.checker.check_model(model)
        except (onnx.checker.ValidationError, ValueError, RuntimeError, EncodeError) as error:
            raise ModelError(f"ONNX's checker refuses the model: {_line(error)}") from None


def infer_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Infer types and shapes of values.

    Returns
    -------
    onnx.ModelProto
        A copy with ``value_info``.

    Raises
    ------
    ModelError
        Types or shapes contradict each other.
    """
    with weights_set_aside(model) as weights:
        inferred = _inferred(model)
    _put_back(inferred, weights)
    return inferred


@contextmanager
def weights_set_aside(model: onnx.ModelProto) -> Iterator[Tensors]:
    """Take the data out of a model's large tensors for a while.

    Yields
    ------
    dict
        The tensors as they were, by position in :func:`protos.tensors`. In the model they keep name, type and shape,
        and say that their data is elsewhere.
    """
    weights: Tensors = {}
    for i, tensor in enumerate(protos.tensors(model)):
        if tensor.ByteSize() > _KEPT_BYTES:
            weights[i] = onnx.TensorProto()
            weights[i].CopyFrom(tensor)
            for field in _DATA_FIELDS:
                tensor.ClearField(field)
            tensor.data_location = onnx.TensorProto.EXTERNAL
    try:
        yield weights
    finally:
        _put_back(model, weights)


def _put_back(model: onnx.ModelProto, weights: Tensors) -> None:
    for i, tensor in enumerate(protos.tensors(model)):
        if i in weights:
            tensor.CopyFrom(weights[i])


def _inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    reason = ""
    for data_prop in (True, False):
        try:
            return onnx.shape_inference.infer_shapes(model, data_prop=data_prop)
        except (
            onnx.shape_inference.InferenceError,
            onnx.checker.ValidationError,
            RuntimeError,
            DecodeError,
            EncodeError,
        ) as error:
            reason = _line(error)
    raise ModelError(f"ONNX's shape inference refuses the model: {reason}")


def _line(error: Exception) -> str:
    return printable(" ".join(str(error).split()))[:300]
