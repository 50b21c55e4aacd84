"""Thresholds of each input feature at which a layer of decision trees can jump, if only trees read the input."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from .dataflow import Dataflow
from .model import ModelSource
from .protos import AnyNode
from .surgery import extract

Floats = npt.NDArray[np.float64]
_ML = "ai.onnx.ml"
_TREES = {"TreeEnsemble", "TreeEnsembleClassifier", "TreeEnsembleRegressor"}
#: Operators before the trees that keep every feature in its column; Concat and Split along the columns move them.
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
    count = shape[1] if isinstance(shape[1], int) else None
    # Tensors that hold features in their columns.
    held = {input_tensor: _Columns.of_input(count)}
    for position, node in enumerate(flow.nodes):
        if held.keys().isdisjoint(flow.needs[position]):
            continue
        if node.op_type in _TREES and node.domain == _ML:
            found += held[node.input[0]].in_input(_splits(node))
            continue
        moved = _moved(flow, node, held)
        if moved is None:
            return None
        held |= moved
    features = count or 1 + max((feature for feature, _ in found), default=-1)
    return [np.unique([value for at, value in found if at == feature]).astype(float) for feature in range(features)]


@dataclass(frozen=True)
class _Columns:
    """Columns of a tensor: the feature that each holds (None: column i holds feature i), as value / scale + offset."""

    features: npt.NDArray[np.intp] | None
    scale: Floats
    offset: Floats

    @classmethod
    def of_input(cls, count: int | None) -> _Columns:
        return cls(None if count is None else np.arange(count), np.ones(count or 1), np.zeros(count or 1))

    def part(self, place: slice) -> _Columns | None:
        """Some columns; None if their number is unknown."""
        if self.features is None:
            return None
        count = len(self.features)
        return _Columns(
            self.features[place], np.broadcast_to(self.scale, count)[place], np.broadcast_to(self.offset, count)[place]
        )

    def in_input(self, splits: Iterable[tuple[int, float]]) -> Iterator[tuple[int, float]]:
        """Feature and threshold of inner nodes of trees that read the columns, in units of the analysis input."""
        for column, value in splits:
            at = value / self.scale[column % len(self.scale)] + self.offset[column % len(self.offset)]
            yield column if self.features is None else int(self.features[column]), float(at)


def _moved(flow: Dataflow, node: AnyNode, held: Mapping[str, _Columns]) -> dict[str, _Columns] | None:
    """Columns of a node's outputs, if it only moves or scales columns; None otherwise."""
    if (node.domain, node.op_type) in _KEEPING and flow.is_float(node.output[0]):
        own = held[node.input[0]]
        return {node.output[0]: _scaled(node, own) if node.op_type == "Scaler" else own}
    if (node.domain, node.op_type) not in (("", "Concat"), ("", "Split")) or _attributes(node).get("axis", 0) != 1:
        return None
    if node.op_type == "Concat":
        parts = [held.get(name) for name in node.input]
        known = [part for part in parts if part is not None and part.features is not None]
        return {node.output[0]: _together(known)} if len(known) == len(parts) else None
    sizes = [(flow.shape(name) or (None, None))[-1] for name in node.output]
    if not all(isinstance(size, int) for size in sizes):
        return None
    ends = [0, *itertools.accumulate(int(size) for size in sizes if size is not None)]
    pieces = [held[node.input[0]].part(slice(*each)) for each in itertools.pairwise(ends)]
    return {name: piece for name, piece in zip(node.output, pieces, strict=True) if piece is not None}


def _together(parts: Sequence[_Columns]) -> _Columns:
    full = [part for part in map(_full, parts) if part.features is not None]
    return _Columns(
        np.concatenate([part.features for part in full if part.features is not None]),
        np.concatenate([part.scale for part in full]),
        np.concatenate([part.offset for part in full]),
    )


def _full(columns: _Columns) -> _Columns:
    """The columns with a scale and an offset each."""
    found = columns.part(slice(None))
    assert found is not None
    return found


def _scaled(node: AnyNode, columns: _Columns) -> _Columns:
    """Columns after a Scaler node."""
    given = _attributes(node)
    own, shift = np.asarray(given["scale"], float), np.asarray(given["offset"], float)
    return _Columns(columns.features, columns.scale * own, columns.offset + shift / columns.scale)


def _splits(node: AnyNode) -> Iterator[tuple[int, float]]:
    """Feature and threshold of every inner node of the trees."""
    given = _attributes(node)
    values = given.get("nodes_splits", given.get("nodes_values_as_tensor", given.get("nodes_values")))
    modes = given.get("nodes_modes", [])
    # Operators older than TreeEnsemble list leaves among the nodes.
    leaves = [mode == b"LEAF" for mode in modes] if isinstance(modes, list) else [False] * len(modes)
    for feature, value, leaf in zip(given["nodes_featureids"], values, leaves, strict=True):
        if not leaf:
            yield int(feature), float(value)


def _attributes(node: AnyNode) -> Mapping[str, Any]:
    """Attributes of a node by name, tensors as arrays."""
    found = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
    tensors = {
        name: onnx.numpy_helper.to_array(each) for name, each in found.items() if isinstance(each, onnx.TensorProto)
    }
    return found | tensors
