"""Normal form of a graph for conversion: no functions, no constant nodes, nothing left to compute from constants."""

from __future__ import annotations

import dataclasses

import onnx
import onnx.inliner

from . import protos
from .errors import ModelError
from .folding import fold
from .inference import infer_shapes
from .model import Model
from .text import printable


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
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    if proto.functions:
        proto = infer_shapes(_inline(proto))
    if fold(proto):
        proto = infer_shapes(proto)
    return dataclasses.replace(model, proto=proto)


def _inline(proto: onnx.ModelProto) -> onnx.ModelProto:
    weights = list(proto.graph.initializer)
    light = protos.copy_without(proto, ("graph",))
    light.graph.CopyFrom(protos.copy_without(proto.graph, ("initializer",)))
    light.graph.initializer.extend(protos.stub(tensor) for tensor in weights)
    try:
        inlined = onnx.inliner.inline_local_functions(light, convert_version=True)
    except Exception as error:
        reason = printable(" ".join(str(error).split()))[:300]
        raise ModelError(f"the model's functions cannot be inlined: {reason}") from None
    del inlined.graph.initializer[:]
    inlined.graph.initializer.extend(weights)
    return inlined
