"""ONNX's checker and shape inference, with one-line errors."""

from __future__ import annotations

import onnx
from google.protobuf.message import DecodeError, EncodeError

from ..errors import ModelError
from ..text import printable
from . import protos, schemas
from .inference_parts import infer_in_parts
from .tensor_data import is_external
from .weights import mark_external

_ERRORS = (
    onnx.shape_inference.InferenceError,
    onnx.checker.ValidationError,
    RuntimeError,
    ValueError,
    DecodeError,
    EncodeError,
)


def check(model: onnx.ModelProto) -> None:
    """Run ONNX's checker; tensors with detached data are assumed valid.

    Raises
    ------
    ModelError
        The checker rejects the model.
    """
    schemas.register()
    elsewhere = [(tensor, list(tensor.dims)) for tensor in protos.tensors(model) if is_external(tensor)]
    # A tensor without elements is valid without data.
    for tensor, _ in elsewhere:
        tensor.ClearField("data_location")
        del tensor.external_data[:]
        tensor.dims[:] = [0]
    # The checker requires what the standard leaves optional: shapes of the graph's inputs and outputs.
    ends = (value.type.tensor_type for value in (*model.graph.input, *model.graph.output))
    shapeless = [type for type in ends if type.elem_type and not type.HasField("shape")]
    for type in shapeless:
        type.shape.SetInParent()
    try:
        onnx.checker.check_model(model)
    except _ERRORS as error:
        raise ModelError(f"ONNX's checker refuses the model: {_line(error)}") from None
    finally:
        for type in shapeless:
            type.ClearField("shape")
        for tensor, dims in elsewhere:
            mark_external(tensor)
            tensor.dims[:] = dims


def infer_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Infer types and shapes of values.

    Values of sizes are not propagated: for that, onnx lists the elements of every small integer tensor, and a ``Range``
    of a few bytes may have arbitrarily many. :mod:`.shapes` computes them within a budget.

    Parameters
    ----------
    model
        A model whose large tensors should be detached: it passes through a protobuf message.

    Returns
    -------
    onnx.ModelProto
        A copy with ``value_info``.

    Raises
    ------
    ModelError
        Types or shapes are contradictory, or control flow is nested so much that inferring them would take minutes.
    """
    return infer_in_parts(model, _infer)


def _infer(model: onnx.ModelProto) -> onnx.ModelProto:
    try:
        return onnx.shape_inference.infer_shapes(model)
    except _ERRORS as error:
        raise ModelError(f"ONNX's shape inference refuses the model: {_line(error)}") from None


def _line(error: Exception) -> str:
    return printable(" ".join(str(error).split()))[:300]
