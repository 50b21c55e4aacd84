"""Detach weights from the graph: checks and inference do not need them, and a model without them fits any message."""

from __future__ import annotations

import re
from collections.abc import Mapping

import onnx
from onnx import TensorProto

from . import protos
from .tensor_data import byte_count, check_byte_count, check_data_size, is_external

#: Tensors larger than this are weights; scales, and other numbers that operators read as attributes, are smaller.
LARGE = 4096
#: Tensors of int32 or int64 larger than this are weights. Shapes, axes and pads, which shape inference reads, have one
#: number per axis, and a tensor may have thousands of axes of size 1.
LARGE_INTEGERS = 1 << 17
#: Data of tensors by position in :func:`onnxinfo.graph.protos.tensors`; a whole tensor if it is not raw data.
DetachedData = dict[int, bytes | onnx.TensorProto]

_DATA_FIELDS = ("raw_data", "float_data", "int32_data", "int64_data", "uint64_data", "double_data")
# Element types that numpy supports natively.
_NATIVE = {
    number
    for name, number in TensorProto.DataType.items()
    if re.fullmatch(r"U?INT(8|16|32|64)|FLOAT(16)?|DOUBLE|BOOL", name)
}


def detach_data(model: onnx.ModelProto) -> DetachedData:
    """Detach the data of a model's large tensors, which keep name, type and shape.

    Raises
    ------
    ModelError
        The data of a tensor do not have the size that its shape implies.
    """
    aside: DetachedData = {}
    for i, tensor in enumerate(protos.tensors(model)):
        if is_external(tensor):
            continue
        if not is_large(tensor):
            check_data_size(tensor)
            continue
        if tensor.HasField("raw_data"):
            data = tensor.raw_data
            check_byte_count(tensor, len(data))
            aside[i] = data
        else:
            check_data_size(tensor)
            copy = onnx.TensorProto()
            copy.CopyFrom(tensor)
            aside[i] = copy
        for field in _DATA_FIELDS:
            tensor.ClearField(field)
        mark_external(tensor)
    return aside


def attach_data(model: onnx.ModelProto, aside: DetachedData) -> None:
    """Attach the detached data to their tensors; ``aside`` is emptied in the process."""
    for i, tensor in enumerate(protos.tensors(model)):
        if i not in aside:
            continue
        data = aside.pop(i)
        if isinstance(data, bytes):
            tensor.ClearField("data_location")
            del tensor.external_data[:]
            tensor.raw_data = data
        else:
            tensor.CopyFrom(data)


def detach_weights(model: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, onnx.TensorProto]]:
    """Copy a model without the data of its large initializers.

    Returns
    -------
    light
        The copy.
    weights
        Those initializers of the model, by name; their types are native to numpy.
    """
    light = protos.copy_into(onnx.ModelProto(), model, ("graph",))
    protos.copy_into(light.graph, model.graph, ("initializer",))
    weights = {}
    for tensor in model.graph.initializer:
        if tensor.data_type in _NATIVE and is_large(tensor):
            weights[tensor.name] = tensor
            stub = light.graph.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
            mark_external(stub)
        else:
            light.graph.initializer.append(tensor)
    return light, weights


def attach_weights(light: onnx.ModelProto, weights: Mapping[str, onnx.TensorProto]) -> onnx.ModelProto:
    """Reverse :func:`detach_weights`: attach the large initializers to the copy, and return it."""
    for tensor in light.graph.initializer:
        if tensor.name in weights:
            tensor.CopyFrom(weights[tensor.name])
    return light


def is_large(tensor: onnx.TensorProto) -> bool:
    """Whether a tensor is a weight, which checks and shape inference do not read."""
    integers = tensor.data_type in (TensorProto.INT32, TensorProto.INT64)
    return tensor.data_type != TensorProto.STRING and byte_count(tensor) > (LARGE_INTEGERS if integers else LARGE)


def mark_external(tensor: onnx.TensorProto) -> None:
    """Mark a tensor's data as external."""
    tensor.data_location = TensorProto.EXTERNAL
    del tensor.external_data[:]
    tensor.external_data.add(key="location", value="memory")
