"""Thresholds of each input feature at which a layer of decision trees can jump, if only trees read the input."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from .model import ModelSource
from .surgery import extract

Floats = npt.NDArray[np.float64]
_ML = "ai.onnx.ml"
_TREES = {"TreeEnsemble", "TreeEnsembleClassifier", "TreeEnsembleRegressor"}
#: Operators before the trees that keep every feature in its column.
_KEEPING = {("", "Cast"), ("", "Identity"), (_ML, "Scaler")}


def tree_thresholds(model: ModelSource, input_tensor: str, layer: str) -> list[Floats] | None:
    """Find the values of each feature at which a layer can jump, if it is constant between them.

    Parameters
    ----------
    model
        See :func:`onnxinfo.load`.
    input_tensor
        The analysis input, (N, features).
    layer
        Name of a tensor that depends on it.

    Returns
    -------
    list of ndarray or None
        Ascending thresholds of each feature, one array per feature; None if the input is not two-dimensional or is
        read by anything but trees.

    Raises
    ------
    UsageError, ModelError
        See :func:`onnxinfo.extract`.
    """
    part = extract(model, [input_tensor], [layer])
    flow = part.flow
    shape = flow.shape(input_tensor)
    if shape is None or len(shape) != 2:
        return None
    found: list[tuple[int, float]] = []
    # Tensors that hold the features, with the map of their values to those of the input: value / scale + offset.
    pending: list[tuple[str, Floats, Floats]] = [(input_tensor, np.ones(1), np.zeros(1))]
    while pending:
        name, scale, offset = pending.pop()
        for position in flow.consumers.get(name, ()):
            node = flow.nodes[position]
            if node.op_type in _TREES and node.domain == _ML:
                found += _in_input(node, scale, offset)
            elif (node.domain, node.op_type) in _KEEPING and flow.is_float(node.output[0]):
                pending.append((node.output[0], *_after(node, scale, offset)))
            else:
                return None
    count = shape[1] if isinstance(shape[1], int) else 1 + max((feature for feature, _ in found), default=-1)
    return [np.unique([value for at, value in found if at == feature]).astype(float) for feature in range(count)]


def _after(node: onnx.NodeProto, scale: Floats, offset: Floats) -> tuple[Floats, Floats]:
    """Scale and offset of a node's output, given those of its input."""
    if node.op_type != "Scaler":
        return scale, offset
    given = _attributes(node)
    own, shift = np.asarray(given["scale"], float), np.asarray(given["offset"], float)
    return scale * own, offset + shift / scale


def _in_input(node: onnx.NodeProto, scale: Floats, offset: Floats) -> Iterator[tuple[int, float]]:
    """Feature and threshold of every inner node of the trees, in units of the analysis input."""
    for feature, value in _splits(node):
        yield feature, float(value / scale[feature % len(scale)] + offset[feature % len(offset)])


def _splits(node: onnx.NodeProto) -> Iterator[tuple[int, float]]:
    """Feature and threshold of every inner node of the trees."""
    given = _attributes(node)
    values = given.get("nodes_splits", given.get("nodes_values_as_tensor", given.get("nodes_values")))
    modes = given.get("nodes_modes", [])
    # Operators older than TreeEnsemble list leaves among the nodes.
    leaves = [mode == b"LEAF" for mode in modes] if isinstance(modes, list) else [False] * len(modes)
    for feature, value, leaf in zip(given["nodes_featureids"], values, leaves, strict=True):
        if not leaf:
            yield int(feature), float(value)


def _attributes(node: onnx.NodeProto) -> Mapping[str, Any]:
    """Attributes of a node by name, tensors as arrays."""
    found = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
    tensors = {
        name: onnx.numpy_helper.to_array(each) for name, each in found.items() if isinstance(each, onnx.TensorProto)
    }
    return found | tensors
