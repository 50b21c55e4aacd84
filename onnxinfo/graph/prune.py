"""Magnitude pruning: set the smallest weights of a model to zero."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import numpy as np
import onnx

from ..errors import ModelError, UsageError
from . import protos
from .dataflow import FLOATS, Dataflow
from .model import Model, ModelSource, load
from .operators import MATRIX

#: Key of the pruning record in the model's metadata.
METADATA = "onnxinfo_pruned"
SCOPES = ("global", "layer")


def prune(model: ModelSource, keep: float, *, scope: str = "global", example: Any = None) -> Model:
    """Keep the given fraction of the weights, those of largest magnitude, and set the others to zero.

    Weights are the float initializers of at least two dimensions read by convolutions, matrix products, recurrent
    layers and attention. Biases and normalizations are left unchanged.

    Parameters
    ----------
    model
        See :func:`onnxinfo.load`.
    keep
        Fraction of the weights to keep, above 0 and at most 1. Among weights equal to the smallest kept magnitude, the
        first ones in the file are kept.
    scope
        ``global``: one threshold for the whole model; ``layer``: the same fraction of every initializer.
    example
        Input of a torch module, see :func:`onnxinfo.load`.

    Returns
    -------
    Model
        The pruned model. Its metadata have, as JSON under ``onnxinfo_pruned``, ``keep`` and ``scope`` as given,
        ``weights``, the number of weights, and ``kept``, the fraction that is not zero.

    Raises
    ------
    UsageError
        The fraction or the scope is invalid.
    ModelError
        The model cannot be loaded, or has no weights in initializers.

    Examples
    --------
    >>> import json
    >>> model = onnxinfo.prune("digits-cnn.onnx", 0.25)
    >>> properties = {each.key: each.value for each in model.proto.metadata_props}
    >>> round(json.loads(properties["onnxinfo_pruned"])["kept"], 2)
    0.25
    """
    if not (math.isfinite(keep) and 0 < keep <= 1):
        raise UsageError(f"keep {keep} is not usable: give a share above 0 and at most 1, such as 0.38")
    if scope not in SCOPES:
        raise UsageError(f"scope '{scope}' is unknown: use {' or '.join(SCOPES)}")
    loaded = load(model, example=example)
    proto = protos.copy_into(onnx.ModelProto(), loaded.proto)
    tensors = _weights(Dataflow(proto.graph))
    if not tensors:
        raise ModelError("the model has no float weights in initializers that could be pruned")
    for group in [tensors] if scope == "global" else [[tensor] for tensor in tensors]:
        _prune(group, keep)
    count = sum(math.prod(tensor.dims) for tensor in tensors)
    left = sum(np.count_nonzero(onnx.numpy_helper.to_array(tensor)) for tensor in tensors)
    record = {"keep": keep, "scope": scope, "weights": count, "kept": left / count}
    for entry in [entry for entry in proto.metadata_props if entry.key == METADATA]:
        proto.metadata_props.remove(entry)
    proto.metadata_props.add(key=METADATA, value=json.dumps(record))
    return dataclasses.replace(loaded, proto=proto)


def kept_share(model: ModelSource) -> float:
    """Fraction of nonzero weights, as recorded by :func:`prune`; 1 for a model that was not pruned."""
    for entry in load(model).proto.metadata_props:
        if entry.key == METADATA:
            return float(json.loads(entry.value)["kept"])
    return 1.0


def _weights(flow: Dataflow) -> list[onnx.TensorProto]:
    """Initializers read by matrix operators, in the order of the graph's nodes."""
    names = [name for i, node in enumerate(flow.nodes) if node.op_type in MATRIX for name in flow.needs[i]]
    found = (flow.initializers[name] for name in dict.fromkeys(names) if name in flow.initializers)
    return [tensor for tensor in found if tensor.data_type in FLOATS and len(tensor.dims) > 1]


def _prune(tensors: list[onnx.TensorProto], keep: float) -> None:
    arrays = [onnx.numpy_helper.to_array(tensor) for tensor in tensors]
    magnitudes = np.concatenate([np.abs(array.astype(np.float32)).ravel() for array in arrays])
    kept = max(1, round(keep * len(magnitudes)))
    stays = np.zeros(len(magnitudes), dtype=bool)
    threshold = np.partition(magnitudes, len(magnitudes) - kept)[len(magnitudes) - kept]
    stays[magnitudes > threshold] = True
    stays[np.nonzero(magnitudes == threshold)[0][: kept - int(stays.sum())]] = True
    start = 0
    for tensor, array in zip(tensors, arrays, strict=True):
        mask = stays[start : start + array.size].reshape(array.shape)
        start += array.size
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.where(mask, array, np.zeros_like(array)), tensor.name))
