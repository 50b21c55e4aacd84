"""Rewrite half-precision models to compute in float32."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping

import onnx

from ..errors import ModelError
from ..graph import protos
from ..graph.inference import check
from ..graph.model import Model, ModelSource, load
from ..text import printable

_HALF = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
#: Element types of floats narrower than double precision.
FLOATS = (onnx.TensorProto.FLOAT, *_HALF)
_SIXTEEN_BITS = (*_HALF, onnx.TensorProto.INT16, onnx.TensorProto.UINT16)
# Attributes whose integers denote element types.
_TYPE_ATTRIBUTES = {"dtype", "output_datatype", "output_dtype", "precision", "softmax_precision", "stash_type", "to"}


def to_float32(model: ModelSource) -> Model:
    """Replace float16 and bfloat16 by float32 everywhere in a model.

    Half precision rounds away the effect of small noise on a layer; the float32 model is the function defined by
    the weights.

    Parameters
    ----------
    model
        See :func:`onnxinfo.load`.

    Returns
    -------
    Model
        Model with converted weights, inputs, outputs, casts and bodies; a model without half precision is returned
        unchanged.

    Raises
    ------
    ModelError
        The model cannot be loaded, or uses the bits of half precision (BitCast).
    """
    return widened(load(model), _HALF, onnx.TensorProto.FLOAT)


def widened(model: Model, narrow: Collection[int], wide: int) -> Model:
    """Replace element types by a wider type everywhere in a model.

    Parameters
    ----------
    model
        A loaded model; it is not modified.
    narrow, wide
        Element types (of ``TensorProto``).

    Returns
    -------
    Model
        The same object if the model has no tensor of the narrow types.

    Raises
    ------
    ModelError
        The model uses the bits of a narrow type (BitCast).
    """
    if not _has(model.proto, narrow):
        return model
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    widen(proto, narrow, wide)
    check(proto)
    return dataclasses.replace(model, proto=proto)


def widen(proto: onnx.ModelProto, narrow: Collection[int], wide: int) -> None:
    """Replace element types by a wider one everywhere in a message, in place and unchecked; see :func:`widened`."""
    dtype = onnx.helper.tensor_dtype_to_np_dtype(wide)
    for tensor in protos.tensors(proto):
        if tensor.data_type in narrow:
            array = onnx.numpy_helper.to_array(tensor).astype(dtype)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    types = dict.fromkeys(narrow, wide)
    _widen_values((*proto.graph.input, *proto.graph.output, *proto.graph.value_info), types)
    _widen_nodes(proto.graph.node, types)
    for function in proto.functions:
        _widen_values(function.value_info, types)
        _widen_nodes(function.node, types)


def _has(proto: onnx.ModelProto, narrow: Collection[int]) -> bool:
    values = (*proto.graph.input, *proto.graph.output, *proto.graph.value_info)
    return any(tensor.data_type in narrow for tensor in protos.tensors(proto)) or any(
        types.elem_type in narrow for value in values for types in protos.tensor_types(value.type)
    )


def _widen_values(values: Iterable[onnx.ValueInfoProto], types: Mapping[int, int]) -> None:
    for value in values:
        _widen_type(value.type, types)


def _widen_type(type: onnx.TypeProto, types: Mapping[int, int]) -> None:
    for tensor_type in protos.tensor_types(type):
        tensor_type.elem_type = types.get(tensor_type.elem_type, tensor_type.elem_type)


def _widen_nodes(nodes: Iterable[onnx.NodeProto], types: Mapping[int, int]) -> None:
    for node in protos.nested(nodes):
        if node.op_type == "BitCast" and any(attribute.i in _SIXTEEN_BITS for attribute in node.attribute):
            raise ModelError(f"node '{printable(node.name)}' takes bits of 16 bit values apart; export in float32")
        for attribute in node.attribute:
            if attribute.name in _TYPE_ATTRIBUTES:
                attribute.i = types.get(attribute.i, attribute.i)
            if attribute.HasField("tp"):
                _widen_type(attribute.tp, types)
        for body in protos.bodies(node):
            _widen_values((*body.input, *body.output, *body.value_info), types)
