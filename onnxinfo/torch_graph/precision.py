"""Models in half precision, rewritten to compute in float32."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np
import onnx

from ..errors import ModelError
from ..graph import protos
from ..graph.inference import check
from ..graph.model import Model, ModelSource, load
from ..text import printable

_HALF = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
_SIXTEEN_BITS = (*_HALF, onnx.TensorProto.INT16, onnx.TensorProto.UINT16)
# Attributes whose integers are element types.
_TYPE_ATTRIBUTES = {"dtype", "output_datatype", "output_dtype", "precision", "softmax_precision", "stash_type", "to"}


def to_float32(model: ModelSource) -> Model:
    """Replace float16 and bfloat16 by float32 everywhere in a model.

    Half precision rounds away what noise of small amplitude does to a layer; the float32 model is the function that
    the weights define.

    Parameters
    ----------
    model
        See :func:`onnxinfo.load`.

    Returns
    -------
    Model
        Weights, inputs, outputs, casts and bodies converted; a model without half precision is returned as it is.

    Raises
    ------
    ModelError
        The model cannot be loaded, or uses the bits of half precision (BitCast).
    """
    loaded = load(model)
    if not _has_half(loaded.proto):
        return loaded
    proto = onnx.ModelProto()
    proto.CopyFrom(loaded.proto)
    for tensor in protos.tensors(proto):
        if tensor.data_type in _HALF:
            array = onnx.numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    _widen_graph(proto.graph)
    for function in proto.functions:
        _widen_values(function.value_info)
        _widen_nodes(function.node)
    check(proto)
    return dataclasses.replace(loaded, proto=proto)


def _has_half(proto: onnx.ModelProto) -> bool:
    values = (*proto.graph.input, *proto.graph.output, *proto.graph.value_info)
    return any(tensor.data_type in _HALF for tensor in protos.tensors(proto)) or any(
        types.elem_type in _HALF for value in values for types in _tensor_types(value.type)
    )


def _tensor_types(type: onnx.TypeProto) -> Iterator[onnx.TypeProto.Tensor]:
    """Tensor types within a type, also in sequences, optionals and maps."""
    kind = type.WhichOneof("value")
    if kind in ("sequence_type", "optional_type"):
        yield from _tensor_types(getattr(type, kind).elem_type)
    elif kind == "map_type":
        yield from _tensor_types(type.map_type.value_type)
    elif kind in ("tensor_type", "sparse_tensor_type"):
        yield getattr(type, kind)


def _widen_graph(graph: onnx.GraphProto) -> None:
    _widen_values((*graph.input, *graph.output, *graph.value_info))
    _widen_nodes(graph.node)


def _widen_values(values: Iterable[onnx.ValueInfoProto]) -> None:
    for value in values:
        _widen_type(value.type)


def _widen_type(type: onnx.TypeProto) -> None:
    for tensor_type in _tensor_types(type):
        if tensor_type.elem_type in _HALF:
            tensor_type.elem_type = onnx.TensorProto.FLOAT


def _widen_nodes(nodes: Iterable[onnx.NodeProto]) -> None:
    for node in protos.nested(nodes):
        if node.op_type == "BitCast" and any(attribute.i in _SIXTEEN_BITS for attribute in node.attribute):
            raise ModelError(f"node '{printable(node.name)}' takes bits of 16 bit values apart; export in float32")
        for attribute in node.attribute:
            if attribute.name in _TYPE_ATTRIBUTES and attribute.i in _HALF:
                attribute.i = onnx.TensorProto.FLOAT
            if attribute.HasField("tp"):
                _widen_type(attribute.tp)
        for body in protos.bodies(node):
            _widen_values((*body.input, *body.output, *body.value_info))
