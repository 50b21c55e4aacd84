"""Graph inputs of an optional type, which an analysis leaves out."""

from __future__ import annotations

import dataclasses

import onnx

from . import protos
from .model import Model, ModelSource, load


def without_optional_inputs(model: ModelSource) -> Model:
    """Make every graph input of an optional type permanently absent.

    Parameters
    ----------
    model
        See :func:`onnxinfo.load`.

    Returns
    -------
    Model
        Each such input becomes the result of an ``Optional`` node without operand; a model without optional inputs is
        returned unchanged.

    Raises
    ------
    ModelError
        The model cannot be loaded.
    """
    loaded = load(model)
    graph = loaded.proto.graph
    optional = [value for value in graph.input if value.type.HasField("optional_type")]
    if not optional:
        return loaded
    proto = protos.copy_into(onnx.ModelProto(), loaded.proto)
    absent = [
        onnx.helper.make_node("Optional", [], [value.name], type=value.type.optional_type.elem_type)
        for value in optional
    ]
    nodes = [*absent, *graph.node]
    required = [value for value in graph.input if not value.type.HasField("optional_type")]
    del proto.graph.node[:], proto.graph.input[:]
    proto.graph.node.extend(nodes)
    proto.graph.input.extend(required)
    proto.graph.value_info.extend(optional)
    return dataclasses.replace(loaded, proto=proto)
