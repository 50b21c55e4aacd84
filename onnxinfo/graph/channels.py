"""Infer which axis of a tensor holds its channels: from neighboring operators, from the samples, or from its rank."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import onnx

from ..inputs.axes import Layout, axis_names
from ..text import quoted
from .dataflow import Dataflow
from .model import Model
from .operators import LAYOUT, POINTWISE
from .protos import AnyNode
from .series import is_series

# Operators whose first operand and first output have the channels on axis 1, right after the batch.
_SECOND = {
    "AveragePool", "BatchNormalization", "Conv", "ConvInteger", "ConvTranspose", "DepthToSpace", "GlobalAveragePool",
    "GlobalLpPool", "GlobalMaxPool", "GroupNormalization", "InstanceNormalization", "LRN", "LpPool", "MaxPool",
    "QLinearAveragePool", "QLinearConv", "QLinearGlobalAveragePool", "SpaceToDepth",
}  # fmt: skip
# Operators whose first operand and first output have the features on the last axis.
_LAST = {
    "Attention", "BiasGelu", "EmbedLayerNormalization", "FusedMatMul", "GRU", "Gemm", "LSTM", "LayerNormalization",
    "MatMul", "MatMulInteger", "MatMulNBits", "NhwcConv", "QAttention", "QGemm", "QLinearMatMul", "RMSNormalization",
    "RNN", "SimplifiedLayerNormalization", "SkipLayerNormalization", "SkipSimplifiedLayerNormalization",
}  # fmt: skip
# Operators that tell which axis holds the channels.
_TELLING = _SECOND | _LAST | {"Gather"}
# Operators that preserve all axes, unless their attributes say otherwise.
_KEEPING = (POINTWISE | LAYOUT) - {"Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze"} | {
    "BiasAdd", "Expand", "Pad", "Resize", "Slice", "Upsample", "Where",
}  # fmt: skip
# Names of a sample's axes by rank: channels first, and channels last.
_FIRST = {1: ("feature",), 2: ("channel", "time"), 3: ("channel", "y", "x"), 4: ("channel", "z", "y", "x")}
_FINAL = {1: ("feature",), 2: ("position", "embedding"), 3: ("y", "x", "channel"), 4: ("z", "y", "x", "channel")}
_CHANNELS = ("channel", "feature", "embedding")


@dataclass(frozen=True)
class Axes:
    """Axes of one sample of a tensor.

    Attributes
    ----------
    names
        One name per axis, without the batch.
    channel
        Position of the axis along which units differ; None if there is none.
    evidence
        Evidence for the channel axis.
    """

    names: tuple[str, ...]
    channel: int | None
    evidence: str

    def __str__(self) -> str:
        unit = "one unit for the whole tensor" if self.channel is None else f"one unit per {self.names[self.channel]}"
        return f"({', '.join(self.names)}), {unit} ({self.evidence})"


def tensor_axes(model: Model, tensor: str, rank: int, layouts: Mapping[str, tuple[str, ...]], batch: int = 0) -> Axes:
    """Infer the axes of a computed tensor.

    The channel axis is that of the nearest operator with a convention, such as axis 1 for a convolution or the last
    axis for a matrix product, if the tensor is connected to it through operators that keep or transpose axes. Otherwise
    it is that of the samples from which the tensor is computed through such operators. Otherwise the rank decides:
    images and volumes are channels first, sequences channels last.

    Parameters
    ----------
    model
        A loaded model.
    tensor
        Name of the tensor.
    rank
        Number of axes of one sample, without the batch.
    layouts
        Names of the axes of one sample by graph input.
    batch
        Axis of the tensor that holds the samples; -1: none.
    """
    flow = model.flow
    walk = _Walk(flow, tensor, rank + (batch >= 0))
    found = walk.nearest()
    if tensor in layouts:
        own = _named(layouts[tensor], f"layout of the samples of {quoted(tensor)}")
        return replace(own, evidence=found[1]) if found is not None and _is(found[0], batch, own.channel) else own
    if found is not None and found[0] != batch:
        axis, evidence = _sample_axis(found[0], batch), found[1]
        return Axes(_names(rank, axis), axis, evidence)
    for name, axes in walk.sources():
        layout = layouts.get(name, ())
        if len(layout) == rank and axes[0] == batch == 0:
            names = tuple(layout[axes.index(axis + 1) - 1] for axis in range(rank))
            return _named(names, f"layout of the samples of {quoted(name)}")
    if not rank:
        return Axes((), None, "a single number")
    axis = rank - 1 if rank == 2 else 0
    return Axes(_names(rank, axis), axis, f"convention for {rank} {'axes' if rank > 1 else 'axis'}")


def input_layout(flow: Dataflow, name: str, batch: int = 0) -> Layout:
    """Channel position implied by the operators that a graph input reaches; ``auto`` if none implies one.

    `batch` is the batch axis; -1: none. An input with one more axis may be a series, see :func:`.series.is_series`.
    """
    shape = flow.shape(name)
    if shape is not None and len(shape) == 2 and batch in (0, 1) and is_series(flow, name, shape[1 - batch]):
        return "series"
    found = _Walk(flow, name, len(shape)).nearest() if shape is not None and len(shape) > 2 else None
    if found is None or shape is None or found[0] == batch:
        return "auto"
    axis = _sample_axis(found[0], batch)
    if axis not in (0, len(shape) - 1 - (batch >= 0)):
        return "auto"
    return "NCHW" if axis == 0 else "NHWC"


def _sample_axis(axis: int, batch: int) -> int:
    """Convert an axis of a tensor to an axis of one sample, given the batch axis (-1: none)."""
    return axis - (axis > batch) if batch >= 0 else axis


def declared_axes(model: Model, tensors: Sequence[str]) -> list[Axes]:
    """Infer the axes of tensors from the model alone, with the inputs' layouts of :func:`.axis_names`.

    Parameters
    ----------
    model
        A loaded model.
    tensors
        Names of tensors of known rank; for other tensors the result is empty.
    """
    flow = model.flow
    layouts = {}
    for value in model.proto.graph.input:
        shape = flow.shape(value.name)
        if shape:
            dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
            batch = model.batch_axes.get(value.name, 0)
            sample = tuple(size for axis, size in enumerate(shape) if axis != batch)
            layouts[value.name] = axis_names(sample, dtype, input_layout(flow, value.name, batch))
    return [_declared(model, tensor, layouts) for tensor in tensors]


def _declared(model: Model, tensor: str, layouts: Mapping[str, tuple[str, ...]]) -> Axes:
    shape, batch = model.flow.shape(tensor), model.batch_axes.get(tensor, 0)
    if not shape:
        return Axes((), None, "its rank is not known")
    return tensor_axes(model, tensor, len(shape) - (batch >= 0), layouts, batch)


def _is(axis: int, batch: int, channel: int | None) -> bool:
    return axis != batch and _sample_axis(axis, batch) == channel


def _named(names: tuple[str, ...], evidence: str) -> Axes:
    channel = next((axis for axis, name in enumerate(names) if name in _CHANNELS), None)
    return Axes(names, channel, evidence)


def _names(rank: int, channel: int) -> tuple[str, ...]:
    """Names of a sample's axes, of which one is known to hold the channels."""
    if channel == 0 and rank in _FIRST:
        return _FIRST[rank]
    if channel == rank - 1 and rank in _FINAL:
        return _FINAL[rank]
    return tuple("channel" if axis == channel else f"axis_{axis}" for axis in range(rank))


@dataclass(frozen=True)
class _Place:
    """A tensor connected to the original one, with the correspondence of its axes."""

    name: str
    axes: tuple[int, ...]
    distance: int


class _Walk:
    """Neighborhood of a tensor, as far as its axes can be traced."""

    def __init__(self, flow: Dataflow, tensor: str, rank: int) -> None:
        self.flow, self.rank = flow, rank
        self.start = _Place(tensor, tuple(range(rank)), 0)

    def nearest(self) -> tuple[int, str] | None:
        """The channel axis according to the nearest operator, and that operator."""
        if self.flow.operators.isdisjoint(_TELLING):
            return None
        found = [
            next(((place.distance, *evidence) for place in places for evidence in tell(place)), None)
            for places, tell in (
                (self._follow(self._back), self._producer_tells),
                (self._follow(self._onward), self._consumers_tell),
            )
        ]
        known = [each for each in found if each is not None]
        return min(known, key=lambda each: each[0])[1:] if known else None

    def sources(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Graph inputs to which the tensor's axes can be traced, with the correspondence of their axes."""
        inputs = set(self.flow.inputs)
        for place in self._follow(self._back):
            if place.name in inputs:
                yield place.name, place.axes

    def _follow(self, step: Callable[[_Place], Iterator[_Place]]) -> Iterator[_Place]:
        pending, seen = deque([self.start]), {self.start.name}
        while pending:
            place = pending.popleft()
            yield place
            for other in step(place):
                if other.name not in seen:
                    seen.add(other.name)
                    pending.append(other)

    def _consumers_tell(self, place: _Place) -> Iterator[tuple[int, str]]:
        for position in self.flow.consumers.get(place.name, ()):
            node = self.flow.nodes[position]
            if node.input and node.input[0] == place.name:
                yield from _told(node, place.axes, "takes it")

    def _producer_tells(self, place: _Place) -> Iterator[tuple[int, str]]:
        position = self.flow.producer.get(place.name)
        if position is not None and (node := self.flow.nodes[position]).output[0] == place.name:
            if node.op_type == "Gather" and self.flow.rank(node.input[0]) == 2 and not _attributes(node).get("axis"):
                yield place.axes[-1], f"{_described(node)} looks it up"
            yield from _told(node, place.axes, "computes it")

    def _onward(self, place: _Place) -> Iterator[_Place]:
        for position in self.flow.consumers.get(place.name, ()):
            node = self.flow.nodes[position]
            if node.op_type == "Transpose":
                order = _permutation(node, len(place.axes))
                yield _Place(node.output[0], tuple(place.axes[axis] for axis in order), place.distance + 1)
            elif self._keeps(node, place.name, node.output[0]):
                yield _Place(node.output[0], place.axes, place.distance + 1)

    def _back(self, place: _Place) -> Iterator[_Place]:
        position = self.flow.producer.get(place.name)
        if position is None:
            return
        node = self.flow.nodes[position]
        if node.op_type == "Transpose":
            order = _permutation(node, len(place.axes))
            axes = tuple(place.axes[order.index(axis)] for axis in range(len(order)))
            yield _Place(node.input[0], axes, place.distance + 1)
            return
        for name in node.input:
            if name and name not in self.flow.initializers and self._keeps(node, name, place.name):
                yield _Place(name, place.axes, place.distance + 1)

    def _keeps(self, node: AnyNode, before: str, after: str) -> bool:
        return node.op_type in _KEEPING and self.flow.rank(before) == self.flow.rank(after) == self.rank


def _told(node: AnyNode, axes: Sequence[int], how: str) -> Iterator[tuple[int, str]]:
    """The channel axis according to a node's convention."""
    rank = len(axes)
    if node.op_type in _SECOND and rank > 1:
        yield axes[1], f"{_described(node)} {how}"
    elif node.op_type in _LAST and rank > 1:
        attributes = _attributes(node)
        # A normalization over several axes does not distinguish them; a Gemm may transpose.
        several = "Normalization" in node.op_type and attributes.get("axis", -1) not in (-1, rank - 1)
        transposed = how == "takes it" and attributes.get("transA", 0) != 0
        if not several and not transposed:
            yield axes[-1], f"{_described(node)} {how}"


def _attributes(node: AnyNode) -> dict[str, int]:
    return {attribute.name: attribute.i for attribute in node.attribute}


def _described(node: AnyNode) -> str:
    return f"{node.op_type} node {quoted(node.name or node.output[0])}"


def _permutation(node: AnyNode, rank: int) -> list[int]:
    order = next((list(attribute.ints) for attribute in node.attribute if attribute.name == "perm"), None)
    return order or list(range(rank))[::-1]
