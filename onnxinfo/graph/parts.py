"""Parts of layers: a channel, a class or a region, as tensors of their own that are named ``tensor[index]``."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import onnx

from ..arguments import Names, names_of
from ..errors import UsageError
from ..text import quoted
from . import protos
from .batch_axes import SEPARATE
from .dataflow import Shape
from .model import Model
from .patterns import part_name

#: Documentation of the nodes that are added for parts, by which they are known.
_MARK = "onnxinfo: part of a layer"
#: The same of the last node that puts a layer together again; the name of the layer's own tensor follows.
_WHOLE = f"{_MARK}, whole: "
_END = 2**63 - 1
_INTEGER = re.compile(r"[+-]?\d{1,18}")
#: Opset from which Slice takes its bounds as inputs, and may take every other entry.
_BOUNDS_AS_INPUTS = 10


@dataclass(frozen=True)
class Part:
    """A part of a tensor.

    Attributes
    ----------
    name
        Name of the part, as it was given, without spaces.
    tensor
        Name of the tensor.
    index
        One slice for each indexed axis, without the batch axis; a single entry is a slice of one.
    """

    name: str
    tensor: str
    index: tuple[slice, ...]


def parse_part(pattern: str) -> Part | None:
    """Return the part that a pattern such as ``relu[5,2:6]`` names; None if it is no tensor's name and an index.

    Raises
    ------
    UsageError
        A slice has a step below 1.
    """
    name = part_name(pattern)
    tensor, bracket, index = name.rpartition("[")
    if not (tensor and bracket and index.endswith("]")) or tensor.startswith(("re:", "op:")):
        return None
    found = [_slice(each) for each in index[:-1].removesuffix(",").split(",")]
    if None in found:
        return None
    chosen = tuple(each for each in found if each is not None)
    if any(each.step is not None and each.step < 1 for each in chosen):
        raise UsageError(f"{quoted(name)}: a step of at least 1 expected")
    return Part(name, tensor, chosen)


def _slice(text: str) -> slice | None:
    """Return an index of one axis as a slice; None if the text is no index."""
    if _INTEGER.fullmatch(text):
        at = int(text)
        return slice(at, None if at == -1 else at + 1, 1)
    bounds = text.split(":")
    if not 2 <= len(bounds) <= 3 or not all(each == "" or _INTEGER.fullmatch(each) for each in bounds):
        return None
    return slice(*(int(each) if each else None for each in bounds))


def with_parts(model: Model, patterns: Names, axes: Mapping[str, int] | None = None) -> Model:
    """Return a model with the parts of layers that patterns name as tensors of their own.

    Parameters
    ----------
    model
        A loaded model.
    patterns
        Patterns of layers, see :func:`onnxinfo.select_layers`. Those that are neither the name of a tensor nor name a
        tensor with an index are ignored.
    axes
        Axis of the samples by tensor, where it is known; see :func:`.metrics.batch_axes.sample_axes`. Otherwise it is
        inferred from names and sizes.

    Returns
    -------
    Model
        The model itself if no part is named. Otherwise the rest of its graph is unchanged: nothing reads the parts.

    Raises
    ------
    UsageError
        A part does not exist: an index is out of range, a slice is empty, or there are more indices than axes.
    """
    return _with(model, patterns, axes or {}, _ends)


def through_parts(model: Model, patterns: Names, axes: Mapping[str, int] | None = None) -> Model:
    """Return a model with parts of layers as :func:`with_parts` does, through which the rest of the graph is computed.

    What follows a layer reads the layer put together again from its part and the rest, so that noise on the part moves
    what depends on the layer. All values stay the same.

    Raises
    ------
    UsageError
        As for :func:`with_parts`, or a slice has a step.
    """
    return _with(model, patterns, axes or {}, _joined)


def parted_tensors(model: Model, patterns: Names) -> list[str]:
    """Return the names of the tensors whose parts patterns name."""
    parts = [parse_part(name) for name in names_of(patterns, "layers") if name not in model.flow.producer]
    return [*dict.fromkeys(part.tensor for part in parts if part is not None and part.tensor in model.flow.producer)]


def existing_parts(model: Model, names: Iterable[str], axes: Mapping[str, int] | None = None) -> list[str]:
    """Return those names that are of parts of layers that a model has."""
    graph, found = _Graph(model, axes or {}), []
    for name in names:
        try:
            part = parse_part(name)
            if part is not None and part.name == name and part.tensor in model.flow.producer:
                graph.cuts(part)
                found.append(name)
        except UsageError:
            continue
    return found


def whole_layers(model: Model) -> Model:
    """Return a model without its parts of layers; the model itself if it has none."""
    if not model.parts:
        return model
    graph = model.proto.graph
    added = [node for node in graph.node if node.doc_string.startswith(_MARK)]
    last = [node for node in added if node.doc_string.startswith(_WHOLE)]
    own = {node.doc_string.removeprefix(_WHOLE): node.output[0] for node in last}
    dropped = {name for node in added for name in (*node.output, *node.input[1:])}
    dropped = dropped.difference(own.values()).union(own)
    proto = protos.copy_into(onnx.ModelProto(), model.proto, ("graph",))
    protos.copy_into(proto.graph, graph, ("node", "value_info", "initializer"))
    for node in graph.node:
        if not node.doc_string.startswith(_MARK):
            _add(proto.graph, node, own)
    proto.graph.value_info.extend(value for value in graph.value_info if value.name not in dropped)
    protos.copy_tensors(proto.graph.initializer, (tensor for tensor in graph.initializer if tensor.name not in dropped))
    return dataclasses.replace(model, proto=proto, parts={})


def _with(
    model: Model,
    patterns: Names,
    axes: Mapping[str, int],
    nodes_of: Callable[[_Graph, str, Sequence[Part]], None],
) -> Model:
    """Return a model with the nodes that ``nodes_of`` makes for the parts of each tensor, after the tensor's own."""
    parts = _named(model, names_of(patterns, "layers"))
    if not parts:
        return model
    added = _Graph(model, axes)
    for tensor, group in parts.items():
        nodes_of(added, tensor, group)
    graph = model.proto.graph
    proto = protos.copy_into(onnx.ModelProto(), model.proto, ("graph",))
    protos.copy_into(proto.graph, graph, ("node",))
    for node in graph.node:
        _add(proto.graph, node, added.renamed)
        for name in node.output:
            proto.graph.node.extend(added.nodes.get(name, ()))
    proto.graph.value_info.extend(added.values)
    proto.graph.initializer.extend(added.constants.values())
    fresh = {part.name: part.tensor for group in parts.values() for part in group}
    names = dict(sorted({**model.parts, **fresh}.items(), key=lambda item: _order(item[0])))
    return dataclasses.replace(model, proto=proto, parts=names)


def _add(graph: onnx.GraphProto, node: onnx.NodeProto, names: Mapping[str, str]) -> None:
    """Append a node, with other names for some of its results."""
    copied = graph.node.add()
    copied.CopyFrom(node)
    copied.output[:] = [names.get(name, name) for name in node.output]


def _named(model: Model, patterns: Iterable[str]) -> dict[str, list[Part]]:
    """Return the parts that patterns name, by tensor and both in order; what the graph has already is left out."""
    known = model.flow.producer
    found: dict[str, dict[str, Part]] = {}
    for pattern in patterns:
        if pattern in known or part_name(pattern) in known:
            continue
        part = parse_part(pattern)
        if part is None:
            _check_index(pattern, known)
        elif part.tensor in known:
            found.setdefault(part.tensor, {})[part.name] = part
    tensors = sorted(found, key=known.__getitem__)
    return {tensor: sorted(found[tensor].values(), key=lambda part: _order(part.name)) for tensor in tensors}


def _check_index(pattern: str, tensors: Collection[str]) -> None:
    """Refuse a tensor's name with brackets that hold no index, unless it is a glob that matches a tensor."""
    tensor, bracket, index = pattern.rpartition("[")
    if bracket and index.endswith("]") and tensor in tensors and not any(fnmatchcase(t, pattern) for t in tensors):
        raise UsageError(
            f"{quoted(pattern)}: the index of a part consists of integers and slices, as in {quoted(tensor + '[3]')} "
            f"and {quoted(tensor + '[0,2:6]')}"
        )


def _order(name: str) -> tuple[list[tuple[int, int]], str]:
    """Return a key that sorts the parts of a tensor by their entries."""
    part = parse_part(name)
    index = () if part is None else part.index
    return [(each.start or 0, _END if each.stop is None else each.stop) for each in index], name


@dataclass(frozen=True)
class _Cut:
    """Entries of a tensor along one axis; ``size`` is their number, if it is known."""

    axis: int
    start: int
    stop: int
    step: int
    size: int | None


class _Graph:
    """What parts add to a graph.

    Attributes
    ----------
    nodes
        Nodes, by the tensor after whose node they come.
    values, constants
        Declarations of the nodes' results, and the constants that they read.
    renamed
        New names of tensors, by the names that others still read.
    """

    def __init__(self, model: Model, axes: Mapping[str, int]) -> None:
        self._model, self._flow, self._axes = model, model.flow, axes
        self._opset = next((each.version for each in model.proto.opset_import if not each.domain), 0)
        self._taken = {name for node in protos.nested(model.proto.graph.node) for name in (*node.input, *node.output)}
        self._shapes: dict[str, Shape] = {}
        self.nodes: dict[str, list[onnx.NodeProto]] = {}
        self.values: list[onnx.ValueInfoProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self.renamed: dict[str, str] = {}

    def rename(self, tensor: str) -> str:
        """Give a tensor's own node a new name for it, and return the name."""
        name = self.renamed[tensor] = self._unused(f"{tensor}/whole")
        self._declare(name, tensor, self._shape(tensor))
        return name

    def cuts(self, part: Part) -> list[_Cut]:
        """Return a part's entries along the axes of which it does not take everything.

        Raises
        ------
        UsageError
            The part does not exist.
        """
        if not self._opset:
            raise UsageError(f"{quoted(part.name)}: the model imports none of ONNX's own operators, which take parts")
        shape = self._shape(part.tensor)
        batch = self._axes.get(part.tensor, inferred_axis(self._model, shape)[0])
        axes = [axis for axis in range(len(shape)) if axis != batch]
        if len(part.index) > len(axes):
            sizes = "x".join(str(shape[axis] or "?") for axis in axes)
            raise UsageError(
                f"{quoted(part.name)} has {len(part.index)} indices, and {quoted(part.tensor)} has "
                f"{len(axes)} {'axis' if len(axes) == 1 else 'axes'} besides that of the samples ({sizes}); give fewer"
            )
        found = [_cut(part, axis, shape[axis], each) for axis, each in zip(axes, part.index, strict=False)]
        return [cut for cut in found if not (cut.start == 0 and cut.step == 1 and cut.stop in (shape[cut.axis], _END))]

    def take(self, tensor: str, source: str, cuts: Sequence[_Cut], target: str) -> str:
        """Add a node that takes entries of ``source``; return ``target``, the name of the result."""
        if not cuts:
            return self.add(tensor, "Identity", [source], target, self._shape(source))
        sizes = {cut.axis: cut.size for cut in cuts}
        shape = tuple(sizes.get(axis, size) for axis, size in enumerate(self._shape(source)))
        starts, ends, axes, steps = zip(*((cut.start, cut.stop, cut.axis, cut.step) for cut in cuts), strict=True)
        if self._opset >= _BOUNDS_AS_INPUTS:
            inputs = [source, *(self._constant(each) for each in (starts, ends, axes, steps))]
            return self.add(tensor, "Slice", inputs, target, shape)
        if any(step != 1 for step in steps):
            raise UsageError(
                f"{quoted(target)}: opset {_BOUNDS_AS_INPUTS} or newer expected for a step, the model has {self._opset}"
            )
        return self.add(tensor, "Slice", [source], target, shape, starts=starts, ends=ends, axes=axes)

    def join(self, tensor: str, source: str, cuts: Sequence[_Cut], part: str, target: str, doc: str = _MARK) -> str:
        """Add nodes that put ``source`` together again from its part and the rest; return ``target``."""
        if not cuts:
            return self.add(tensor, "Identity", [part], target, self._shape(source), doc)
        (cut, *inner), shape = cuts, self._shape(source)
        size = shape[cut.axis]
        before = self._rest(tensor, source, cut.axis, 0, cut.start, size)
        after = self._rest(tensor, source, cut.axis, cut.stop, _END, size)
        middle = part
        if inner:
            row = self.take(tensor, source, [cut], self._unused(f"{target}/row"))
            middle = self.join(tensor, row, inner, part, self._unused(f"{target}/row_joined"))
        pieces = [*before, middle, *after]
        return self.add(tensor, "Concat", pieces, target, shape, doc, axis=cut.axis)

    def _rest(self, tensor: str, source: str, axis: int, start: int, stop: int, size: object) -> list[str]:
        """Add a node that takes the entries before or after a part, if there are any."""
        if start == stop or stop == 0 or (isinstance(size, int) and start >= size):
            return []
        count = None
        if isinstance(size, int):
            count = len(range(*slice(start, stop).indices(size)))
        cut = _Cut(axis, start, stop, 1, count)
        return [self.take(tensor, source, [cut], self._unused(f"{source}/rest"))]

    def add(
        self, tensor: str, op: str, inputs: Sequence[str], target: str, shape: Shape, doc: str = _MARK, **options: Any
    ) -> str:
        """Add a node after that of ``tensor``, and declare its result, whose name is returned."""
        node = onnx.helper.make_node(op, inputs, [target], name=target, doc_string=doc, **options)
        self.nodes.setdefault(tensor, []).append(node)
        self._taken.add(target)
        if target != tensor:
            self._declare(target, tensor, shape)
        return target

    def _shape(self, tensor: str) -> Shape:
        shape = self._shapes.get(tensor, self._flow.shape(tensor))
        if shape is None:
            raise UsageError(f"the number of axes of {quoted(tensor)} is not known, so that no part of it can be taken")
        return shape

    def _declare(self, name: str, like: str, shape: Shape) -> None:
        self._shapes[name] = shape
        element = self._flow.element_type(like) or onnx.TensorProto.FLOAT
        self.values.append(onnx.helper.make_tensor_value_info(name, element, shape))

    def _constant(self, numbers: Sequence[int]) -> str:
        name = "onnxinfo/part/" + ",".join(map(str, numbers))
        if name not in self._flow.initializers:
            self.constants[name] = onnx.helper.make_tensor(name, onnx.TensorProto.INT64, [len(numbers)], numbers)
        return name

    def _unused(self, name: str) -> str:
        found = next(other for i in itertools.count() if (other := f"{name}{i or ''}") not in self._taken)
        self._taken.add(found)
        return found


def _ends(graph: _Graph, tensor: str, parts: Sequence[Part]) -> None:
    """Add parts that nothing reads."""
    for part in parts:
        graph.take(tensor, tensor, graph.cuts(part), part.name)


def _joined(graph: _Graph, tensor: str, parts: Sequence[Part]) -> None:
    """Add parts from which the tensor is put together again, one after the other."""
    own = source = graph.rename(tensor)
    for i, part in enumerate(parts):
        cuts = graph.cuts(part)
        if any(cut.step != 1 for cut in cuts):
            raise UsageError(
                f"{quoted(part.name)}: what follows is computed from a part only if it has no step; leave it out"
            )
        graph.take(tensor, source, cuts, part.name)
        last = i == len(parts) - 1
        target, doc = (tensor, _WHOLE + own) if last else (f"{own}/joined{i}", _MARK)
        source = graph.join(tensor, source, cuts, part.name, target, doc)


def _cut(part: Part, axis: int, size: int | str | None, chosen: slice) -> _Cut:
    """Return the entries that a slice takes along an axis, after checking that there are some."""
    start, stop, step = chosen.start or 0, _END if chosen.stop is None else chosen.stop, chosen.step or 1
    single = stop == start + 1 or (start == -1 and stop == _END)
    if not isinstance(size, int):
        return _Cut(axis, start, stop, step, 1 if single else None)
    inside = range(*chosen.indices(size))
    if single and not -size <= start < size:
        raise UsageError(
            f"{quoted(part.name)}: index {start} is out of range along axis {axis} of {quoted(part.tensor)}, which has "
            f"{size} {'entry' if size == 1 else 'entries'}; give {-size} to {size - 1}"
        )
    if not inside:
        raise UsageError(
            f"{quoted(part.name)}: a slice is empty along axis {axis} of {quoted(part.tensor)}, which has {size} "
            f"{'entry' if size == 1 else 'entries'}"
        )
    return _Cut(axis, inside.start, inside.stop, inside.step, len(inside))


def inferred_axis(model: Model, shape: Shape) -> tuple[int | None, bool]:
    """Infer the axis of a tensor that holds the samples.

    Returns
    -------
    tuple
        The axis, None if the model has no batch axis; and whether that is certain because it has the name of an
        input's batch axis and no other has.
    """
    flow = model.flow
    axes = {name: model.batch_axes.get(name, 0) for name in flow.inputs}
    if SEPARATE in axes.values():
        return None, True
    shapes = {name: flow.shape(name) or () for name in axes}
    sizes = {shapes[name][axis] for name, axis in axes.items() if axis < len(shapes[name])}
    found = [axis for axis, size in enumerate(shape) if size is not None and size in sizes]
    if not found:
        return 0, False
    certain = len(found) == 1 and isinstance(shape[found[0]], str)
    return found[0], certain
