"""Thresholds of each input feature at which a layer can jump, if only trees and comparisons read the input."""

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
#: Operators that keep every feature in its column.
_KEEPING = {("", "Cast"), ("", "Identity")}
#: Operators that shift or scale columns by constants.
_SCALING = {"Add", "Div", "Mul", "Sub"}
#: Operators that compare columns with constants.
_COMPARING = {"Greater", "GreaterOrEqual", "Less", "LessOrEqual"}


def thresholds_of(model: ModelSource, input_tensor: str, layer: str) -> list[Floats] | None:
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
        read by anything but trees and comparisons with constants, after scaling and selecting columns.

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
        if held.keys().isdisjoint(flow.needs[position]) or not flow.sees(position):
            continue
        splits = _splits_of(flow, node, held)
        if splits is not None:
            found += splits
            continue
        moved = _moved(flow, node, held)
        if moved is None:
            return None
        held |= moved
    if layer in held:
        return None
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

    def shifted(self, constant: Floats) -> _Columns:
        """The columns minus a constant, or one for each."""
        return _Columns(self.features, self.scale, self.offset + constant / self.scale)

    def times(self, constant: Floats) -> _Columns:
        """The columns times a constant other than 0, or one for each."""
        return _Columns(self.features, self.scale * constant, self.offset)

    def chosen(self, places: npt.NDArray[np.intp]) -> _Columns | None:
        """Columns by their positions; None if one does not exist, or if the number of columns is unknown."""
        if self.features is None or not ((-len(self.features) <= places) & (places < len(self.features))).all():
            return None
        whole = _full(self)
        return _Columns(self.features[places], whole.scale[places], whole.offset[places])

    def in_input(self, splits: Iterable[tuple[int, float]]) -> Iterator[tuple[int, float]]:
        """Feature and threshold of inner nodes of trees that read the columns, in units of the analysis input."""
        for column, value in splits:
            at = value / self.scale[column % len(self.scale)] + self.offset[column % len(self.offset)]
            yield column if self.features is None else int(self.features[column]), float(at)


def _splits_of(flow: Dataflow, node: AnyNode, held: Mapping[str, _Columns]) -> Iterable[tuple[int, float]] | None:
    """Features and thresholds of a node that is constant between them; None for other nodes."""
    if node.domain == _ML and node.op_type in _TREES:
        return held[node.input[0]].in_input(_splits(node))
    if node.domain == _ML and node.op_type == "Binarizer":
        threshold = _attributes(node).get("threshold", 0.0)
        return _each(held[node.input[0]], np.asarray(threshold, float))
    if node.domain or node.op_type not in _COMPARING:
        return None
    name, constant = _operands(flow, node, held)
    return None if name is None or constant is None else _each(held[name], constant)


def _each(columns: _Columns, constant: Floats) -> Iterable[tuple[int, float]] | None:
    """Features and thresholds of columns that are compared with a constant each, or one column with several."""
    count = 0 if columns.features is None else len(columns.features)
    sizes = (1, count) if count > 1 else (constant.size,)
    # All constants lie along the columns; further axes have size 1.
    if not count or constant.size not in sizes or constant.size != (constant.shape or (1,))[-1]:
        return None
    pairs = np.broadcast_arrays(np.arange(count), constant.ravel())
    return columns.in_input(zip(*(each.tolist() for each in pairs), strict=True))


def _operands(flow: Dataflow, node: AnyNode, held: Mapping[str, _Columns]) -> tuple[str | None, Floats | None]:
    """The operand of a node that holds columns, and the other, if it is constant."""
    names = [name for name in node.input if name in held]
    others = [flow.constant(name) for name in node.input if name not in held]
    if len(names) != 1 or len(others) != 1:
        return None, None
    constant = None if others[0] is None else np.asarray(onnx.numpy_helper.to_array(others[0]), float)
    return names[0], constant


def _moved(flow: Dataflow, node: AnyNode, held: Mapping[str, _Columns]) -> dict[str, _Columns] | None:
    """Columns of a node's outputs, if it only moves, selects, shifts or scales columns; None otherwise."""
    kind, output = (node.domain, node.op_type), node.output[0]
    if not flow.is_float(output):
        return None
    if kind in _KEEPING:
        return {output: held[node.input[0]]}
    if kind == (_ML, "Scaler"):
        given = _attributes(node)
        own = held[node.input[0]].shifted(np.asarray(given["offset"], float))
        return {output: own.times(np.asarray(given["scale"], float))}
    if kind in ((_ML, "ArrayFeatureExtractor"), ("", "Gather")):
        return _selected(flow, node, held)
    if not node.domain and node.op_type in _SCALING:
        return _scaled(flow, node, held)
    if kind not in (("", "Concat"), ("", "Split")) or _attributes(node).get("axis", 0) != 1:
        return None
    if node.op_type == "Concat":
        parts = [held.get(name) for name in node.input]
        known = [part for part in parts if part is not None and part.features is not None]
        return {output: _together(known)} if len(known) == len(parts) else None
    sizes = [(flow.shape(name) or (None, None))[-1] for name in node.output]
    if not all(isinstance(size, int) for size in sizes):
        return None
    ends = [0, *itertools.accumulate(int(size) for size in sizes if size is not None)]
    pieces = [held[node.input[0]].part(slice(*each)) for each in itertools.pairwise(ends)]
    return {name: piece for name, piece in zip(node.output, pieces, strict=True) if piece is not None}


def _selected(flow: Dataflow, node: AnyNode, held: Mapping[str, _Columns]) -> dict[str, _Columns] | None:
    """Columns that a node selects by constant positions."""
    places = flow.constant(node.input[1])
    if places is None or node.input[0] not in held:
        return None
    index = onnx.numpy_helper.to_array(places)
    if node.op_type == "Gather" and (index.ndim != 1 or _attributes(node).get("axis", 0) not in (1, -1)):
        return None
    chosen = held[node.input[0]].chosen(index.ravel())
    return None if chosen is None else {node.output[0]: chosen}


def _scaled(flow: Dataflow, node: AnyNode, held: Mapping[str, _Columns]) -> dict[str, _Columns] | None:
    """Columns after an addition or multiplication of constants; nothing if all are multiplied by 0."""
    name, constant = _operands(flow, node, held)
    own = None if name is None else held[name]
    if own is None or own.features is None or constant is None or constant.ndim > 2:
        return None
    values = constant.ravel()
    if len(values) not in (1, len(own.features)) or (constant.ndim == 2 and len(constant) > 1):
        return None
    product, first = node.op_type in ("Mul", "Div"), node.input[0] == name
    if node.op_type == "Mul" and not values.any():
        return {}
    if (product and not values.all()) or (node.op_type in ("Sub", "Div") and not first):
        return None
    match node.op_type:
        case "Add":
            return {node.output[0]: own.shifted(-values)}
        case "Sub":
            return {node.output[0]: own.shifted(values)}
        case "Mul":
            return {node.output[0]: own.times(values)}
    return {node.output[0]: own.times(1 / values)}


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
