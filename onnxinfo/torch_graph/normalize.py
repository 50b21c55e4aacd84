"""Normal form of a graph for conversion: no functions, no constant nodes, nothing left to compute from constants."""

from __future__ import annotations

import dataclasses

import onnx
import onnx.inliner

from ..errors import ModelError
from ..graph import protos
from ..graph.inference import infer_shapes
from ..graph.model import Model
from ..graph.weights import beside
from ..text import printable
from .folding import fold


def normalize(model: Model) -> Model:
    """Inline functions, turn constant nodes into initializers and fold what depends on no graph input.

    Parameters
    ----------
    model
        A loaded model; left as it is.

    Returns
    -------
    Model
        A model that computes the same. Graph inputs and outputs, and the names of values that still are computed,
        survive; values inside functions get new names.

    Raises
    ------
    ModelError
        A function cannot be inlined.
    """
    proto, weights = beside(model.proto)
    if proto.functions:
        proto = infer_shapes(_inlined(proto))
    if fold(proto, weights):
        proto = infer_shapes(proto)
    for tensor in proto.graph.initializer:
        if tensor.name in weights:
            original = weights[tensor.name]
            tensor.Clear()
            protos.copy_into(tensor, original)
    return dataclasses.replace(model, proto=proto)


def _inlined(proto: onnx.ModelProto) -> onnx.ModelProto:
    try:
        return onnx.inliner.inline_local_functions(proto, convert_version=True)
    except Exception as error:
        reason = printable(" ".join(str(error).split()))[:300]
        raise ModelError(f"the model's functions cannot be inlined: {reason}") from None
