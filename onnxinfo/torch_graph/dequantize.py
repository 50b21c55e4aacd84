"""Rewrite quantized models as the float networks that their integers stand for."""

from __future__ import annotations

import dataclasses

import onnx

from ..errors import ModelError
from ..graph import protos
from ..graph.model import Model, ModelSource, load
from ..graph.quantization import WEIGHTS, quantization
from ..graph.weights import attach_weights, detach_weights
from .folding import fold
from .integer_rules import RULES
from .integers import Rewriter
from .normalize import normalize


def dequantize(model: ModelSource) -> Model:
    """Return the float network that the integers of a quantized model stand for.

    Activations are no longer rounded, and integer weights become floats. Where an activation may have been fused into
    the rounding, which saturates, the range of the integers is kept as a ``Clip``.

    Parameters
    ----------
    model
        See :func:`onnxinfo.load`.

    Returns
    -------
    Model
        The float network; a model without quantization is returned unchanged. Tensors keep the names that the float
        network gave them, if these can be told from the names in the quantized one.

    Raises
    ------
    ModelError
        The model cannot be loaded, or computes with integers in a way that has no counterpart in floats.
    """
    loaded = load(model)
    if not quantization(loaded.proto):
        return loaded
    light, weights = detach_weights(loaded.proto)
    proto = attach_weights(normalize(light, weights), weights)
    try:
        graph = Rewriter(proto, RULES).rewritten()
    except (IndexError, ValueError) as error:
        raise ModelError(f"the model cannot be dequantized: {' '.join(str(error).split())}; export it again") from None
    result = protos.copy_into(onnx.ModelProto(), proto, ("graph",))
    protos.copy_into(result.graph, graph)
    fold(result)
    changed = load(result)
    if quantization(changed.proto) not in ("", WEIGHTS):
        raise ModelError("the model cannot be dequantized: some of its operators still round; leave out dequantize")
    return dataclasses.replace(changed, sha256=loaded.sha256, name=loaded.name, path=loaded.path)
