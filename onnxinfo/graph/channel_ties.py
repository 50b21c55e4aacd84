"""Which axes of a node's operands and outputs have the same channels, by operator: they can only lose them together."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from .dataflow import Dataflow, Shape
from .protos import Node
from .stored import StoredValues

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Port:
    """An axis of an operand or output of a node.

    Attributes
    ----------
    output
        Whether it is one of an output.
    position
        Position of the operand or output.
    axis
        The axis.
    size
        Number of channels along the axis.
    offset, per, cycle
        Its channel c is number ``offset + c // per % cycle`` of the channels of its tie; a cycle of 0 is none.
    """

    output: bool
    position: int
    axis: int
    size: int
    offset: int = 0
    per: int = 1
    cycle: int = 0

    @property
    def places(self) -> Array:
        """Numbers of the axis' channels among the channels of the tie."""
        counted = np.arange(self.size) // self.per
        return self.offset + (counted % self.cycle if self.cycle else counted)


@dataclass(frozen=True)
class Tie:
    """Axes that have the same channels.

    Without an output, the node sums over the channels: it can do without those that are constant.
    """

    ports: tuple[Port, ...]

    @property
    def size(self) -> int:
        """Number of channels."""
        return max(int(port.places.max()) for port in self.ports) + 1

    @property
    def sums(self) -> bool:
        """Whether the node sums over the channels."""
        return not any(port.output for port in self.ports)


class View:
    """A node with the shapes and constants of its operands.

    Parameters
    ----------
    flow
        The graph.
    stored
        Its stored values.
    position
        Position of the node.
    opset
        Version of ONNX's operators.
    """

    def __init__(self, flow: Dataflow, stored: StoredValues, position: int, opset: int) -> None:
        self._flow, self._stored, self.position, self.opset = flow, stored, position, opset
        self.node: Node = flow.nodes[position]

    def attribute(self, name: str, default: Any = None) -> Any:
        """Value of an attribute."""
        found = [a for a in self.node.attribute if a.name == name]
        return onnx.helper.get_attribute_value(found[0]) if found else default

    def has(self, operand: int) -> bool:
        """Whether an operand is given."""
        return operand < len(self.node.input) and bool(self.node.input[operand])

    def shape(self, operand: int) -> Shape:
        """Shape of an operand; empty if it is not given or has none that is known."""
        return (self._shape(self.node.input[operand]) or ()) if self.has(operand) else ()

    def result(self, output: int = 0) -> Shape:
        """Shape of an output; empty if it is not known."""
        return self._shape(self.node.output[output]) or ()

    def _shape(self, name: str) -> Shape | None:
        tensor = self._flow.constant(name)
        return tuple(tensor.dims) if tensor is not None else self._flow.shape(name)

    def is_fixed(self, operand: int) -> bool:
        """Whether an operand does not depend on the graph's inputs."""
        return self.has(operand) and self.node.input[operand] not in self._flow.driven

    def constant(self, operand: int) -> Array | None:
        """Elements of an operand that is stored in the model."""
        tensor = self._stored.get(self.node.input[operand]) if self.has(operand) else None
        return None if tensor is None else onnx.numpy_helper.to_array(tensor)

    @cached_property
    def ties(self) -> tuple[Tie, ...]:
        """Axes that have the same channels; axes that are in no tie cannot lose any."""
        rule = RULES.get(self.node.op_type) if not self.node.domain else None
        return tuple(Tie(tuple(ports)) for ports in rule(self)) if rule is not None else ()

    def operand(self, position: int, axis: int, offset: int = 0, per: int = 1, cycle: int = 0) -> list[Port]:
        """Port of an operand's axis; none if the size is not known or the operand is not given."""
        return _port(self.shape(position), axis, Port(False, position, axis, 0, offset, per, cycle))

    def output(self, axis: int, per: int = 1, cycle: int = 0) -> list[Port]:
        """Port of an axis of the first output; none if the size is not known."""
        return _port(self.result(), axis, Port(True, 0, axis, 0, 0, per, cycle))


#: Axes with their sizes.
Sizes = list[tuple[int, int | str | None]]
Ports = Iterable[Port]
Rule = Callable[[View], Iterator[Ports]]


def _port(shape: Shape, axis: int, port: Port) -> list[Port]:
    size = shape[axis] if axis < len(shape) else None
    return [replace(port, size=size)] if isinstance(size, int) and size else []


def _same(view: View, axes: Iterable[int]) -> Iterator[Ports]:
    """Tie axes of the first operand to the same axes of the only output."""
    if len([name for name in view.node.output if name]) == 1:
        for axis in axes:
            before, after = view.operand(0, axis), view.output(axis)
            if before and after and before[0].size == after[0].size:
                yield before + after


def _axes(view: View) -> range:
    return range(len(view.shape(0)))


def _keeping(view: View) -> Iterator[Ports]:
    return _same(view, _axes(view))


def _pool(view: View) -> Iterator[Ports]:
    return _same(view, (0, 1))


def _softmax(view: View) -> Iterator[Ports]:
    axis = view.attribute("axis", -1 if view.opset >= 13 else 1) % max(1, len(view.shape(0)))
    return _same(view, (a for a in _axes(view) if (a != axis if view.opset >= 13 else a < axis)))


def _layer_normalization(view: View) -> Iterator[Ports]:
    return _same(view, range(view.attribute("axis", -1) % max(1, len(view.shape(0)))))


def _broadcast(view: View) -> Iterator[Ports]:
    rank = len(view.result())
    operands = [i for i in range(len(view.node.input)) if view.has(i)]
    if any(a.name in ("axis", "broadcast") for a in view.node.attribute):
        return
    for axis in range(rank):
        ports = view.output(axis)
        for i in operands:
            at = axis - rank + len(view.shape(i))
            if at >= 0 and view.shape(i)[at] == view.result()[axis]:
                ports = ports + view.operand(i, at)
        if len(ports) > 1:
            yield ports


def _normalization(view: View) -> Iterator[Ports]:
    if not view.attribute("training_mode", 0):
        for ports in _keeping(view):
            if all(port.axis == 1 for port in ports):
                ports = [*ports, *(port for i in range(1, len(view.node.input)) for port in view.operand(i, 0))]
            yield ports


def _conv(view: View) -> Iterator[Ports]:
    yield from _same(view, [0])
    yield from _with_groups(view, outputs_axis=0)


def _conv_transpose(view: View) -> Iterator[Ports]:
    yield from _same(view, [0])
    yield from _with_groups(view, outputs_axis=1)


def _with_groups(view: View, outputs_axis: int) -> Iterator[Ports]:
    """Tie channels to the axes of weights; of several groups, all channels of a group."""
    groups, weight, channels, results = view.attribute("group", 1), view.shape(1), view.shape(0), view.result()
    if len(weight) < 2 or len(channels) < 2 or len(results) < 2 or not view.is_fixed(1):
        return
    if groups == 1:
        yield view.operand(0, 1) + view.operand(1, 1 - outputs_axis)
        yield view.output(1) + view.operand(1, outputs_axis) + view.operand(2, 0)
    elif isinstance(channels[1], int) and isinstance(results[1], int):
        before, after = channels[1] // groups, results[1] // groups
        weights = view.operand(1, 0, per=before if outputs_axis else after)
        yield [*view.operand(0, 1, per=before), *weights, *view.operand(2, 0, per=after), *view.output(1, per=after)]


def _gemm(view: View) -> Iterator[Ports]:
    if view.attribute("transA", 0) or not view.is_fixed(1):
        return
    features = 1 if view.attribute("transB", 0) else 0
    results, bias = view.result(), view.shape(2)
    if not results:
        return
    yield from _same(view, [0] if len(bias) < 2 or bias[0] == 1 else [])
    yield view.operand(0, 1) + view.operand(1, features)
    wide = view.operand(2, len(bias) - 1) if bias and bias[-1] == results[1] else []
    yield view.output(1) + view.operand(1, 1 - features) + wide


def _matmul(view: View) -> Iterator[Ports]:
    rank = len(view.shape(0))
    if rank < 2 or len(view.shape(1)) != 2 or not view.is_fixed(1):
        return
    yield from _same(view, range(rank - 1))
    yield view.operand(0, rank - 1) + view.operand(1, 0)
    yield view.output(rank - 1) + view.operand(1, 1)


def _concat(view: View) -> Iterator[Ports]:
    rank = len(view.result())
    joined = view.attribute("axis", 1) % max(1, rank)
    sizes = [view.shape(i)[joined] if len(view.shape(i)) == rank else None for i in range(len(view.node.input))]
    for axis in range(rank):
        offsets = [0] * len(sizes)
        if axis == joined:
            known = [size for size in sizes if isinstance(size, int)]
            if len(known) < len(sizes):
                continue
            offsets = [sum(known[:i]) for i in range(len(known))]
        ports = [port for i, offset in enumerate(offsets) for port in view.operand(i, axis, offset)]
        if len(ports) == len(sizes):
            yield view.output(axis) + ports


def _regrouped(view: View) -> Iterator[Ports]:
    """Tie axes that a change of shape keeps, merges, or divides: a merged axis has the channels of each part."""
    for before, after in _groups(*_told_apart(view)):
        if len(before) == len(after) == 1:
            yield view.operand(0, before[0]) + view.output(after[0])
        elif len(after) == 1:
            for axis, per, cycle in _parts(view.shape(0), before):
                yield view.operand(0, axis) + view.output(after[0], per=per, cycle=cycle)
        elif len(before) == 1:
            for axis, per, cycle in _parts(view.result(), after):
                yield view.operand(0, before[0], per=per, cycle=cycle) + view.output(axis)


def _told_apart(view: View) -> tuple[Shape, Shape]:
    """Shapes of the operand and the output of a change of shape, in which open axes that it keeps have a name."""
    shapes = [*view.shape(0)], [*view.result()]
    for i, (before, after) in enumerate(_kept(view)):
        if before < len(shapes[0]) and after < len(shapes[1]) and shapes[0][before] is None:
            shapes[0][before] = shapes[1][after] = f"\0{i}"
    return tuple(shapes[0]), tuple(shapes[1])


def _kept(view: View) -> list[tuple[int, int]]:
    """Axes that a change of shape keeps whatever their sizes are, before and after it."""
    if view.node.op_type == "Reshape":
        stated = view.constant(1) if not view.attribute("allowzero", 0) else None
        return [(axis, axis) for axis, size in enumerate(() if stated is None else stated.tolist()) if size == 0]
    if view.node.op_type == "Flatten":
        return [(0, 0)] if view.attribute("axis", 1) == 1 else []
    wide = [[axis for axis, size in enumerate(shape) if size != 1] for shape in (view.shape(0), view.result())]
    return [*zip(*wide, strict=True)] if len(wide[0]) == len(wide[1]) else []


def _groups(one: Shape, other: Shape) -> Iterator[tuple[list[int], list[int]]]:
    """Smallest groups of neighboring axes with equally many entries on both sides, without axes of size 1.

    They are counted from the end, and from the start up to the first axes that do not correspond: entries keep their
    order, so that both are certain. Axes of open size correspond only if they have the same name.
    """
    sides: list[Sizes] = [[(i, size) for i, size in enumerate(shape) if size != 1] for shape in (one, other)]
    last = [*_leading(*([*reversed(side)] for side in sides))]
    before = [side[: len(side) - sum(len(group[i]) for group in last)] for i, side in enumerate(sides)]
    yield from _leading(*before)
    yield from ((sorted(first), sorted(second)) for first, second in reversed(last))


def _leading(one: Sizes, other: Sizes) -> Iterator[tuple[list[int], list[int]]]:
    """Smallest groups of axes with equally many entries, as far as they correspond."""
    sizes = [[*one], [*other]]
    while all(sizes):
        (i, first), (j, second) = (side.pop(0) for side in sizes)
        if not isinstance(first, int) or not isinstance(second, int):
            if first is None or first != second:
                return
            yield [i], [j]
            continue
        group: tuple[list[int], list[int]] = [i], [j]
        totals = [first, second]
        while totals[0] != totals[1]:
            short = int(totals[0] > totals[1])
            if not sizes[short] or not isinstance(size := sizes[short][0][1], int):
                return
            group[short].append(sizes[short].pop(0)[0])
            totals[short] *= size
        yield group


def _parts(shape: Shape, axes: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Each of some axes, the number of entries of those after it, and its own."""
    sizes = [size if isinstance(size := shape[axis], int) else 1 for axis in axes]
    for i, axis in enumerate(axes):
        yield axis, math.prod(sizes[i + 1 :]), sizes[i]


def _transpose(view: View) -> Iterator[Ports]:
    rank = len(view.shape(0))
    for at, axis in enumerate(view.attribute("perm", [*range(rank)][::-1])):
        yield view.operand(0, axis) + view.output(at)


def _reduction(view: View) -> Iterator[Ports]:
    rank = len(view.shape(0))
    listed = view.attribute("axes")
    if listed is None and view.has(1):
        listed = view.constant(1)
        if listed is None:
            return
    if listed is None or not len(listed):
        listed = [] if view.attribute("noop_with_empty_axes", 0) else range(rank)
    gone = {int(axis) % rank for axis in listed} if rank else set()
    at = 0
    for axis in range(rank):
        if axis not in gone:
            yield view.operand(0, axis) + view.output(at)
        at += axis not in gone or view.attribute("keepdims", 1) == 1


def _pad(view: View) -> Iterator[Ports]:
    pads = view.attribute("pads") if view.opset < 11 else view.constant(1)
    if pads is None or view.has(3):
        return
    rank = len(view.shape(0))
    yield from _same(view, (axis for axis in range(rank) if not pads[axis] and not pads[axis + rank]))


def _resize(view: View) -> Iterator[Ports]:
    scales = view.attribute("scales") or next((s for i in (2, 1) if (s := view.constant(i)) is not None), None)
    rank = len(view.shape(0))
    resized = view.attribute("axes")
    if resized is not None:
        kept = {*range(rank)}.difference(axis % rank for axis in resized)
        yield from _same(view, sorted(kept))
    elif scales is not None and len(scales) == rank and not view.has(3):
        yield from _same(view, (axis for axis in range(rank) if scales[axis] == 1))


def _slice(view: View) -> Iterator[Ports]:
    rank, starts = len(view.shape(0)), view.attribute("starts", view.constant(1))
    axes = view.attribute("axes", view.constant(3))
    if starts is None or (axes is None and view.has(3)):
        return
    cut = {int(axis) % max(1, rank) for axis in (range(len(starts)) if axes is None else axes)}
    yield from _same(view, (axis for axis in range(rank) if axis not in cut))


def _quantization(view: View) -> Iterator[Ports]:
    if view.attribute("block_size", 0):
        return
    axis = view.attribute("axis", 1) % max(1, len(view.shape(0)))
    # A list of one scale is of the whole tensor, like a scalar: ONNX Runtime's quantizer writes such ones for biases.
    by_channel = len(view.shape(1)) == 1 and view.shape(1) != (1,)
    for ports in _keeping(view):
        if by_channel and all(port.axis == axis for port in ports):
            ports = [*ports, *view.operand(1, 0), *view.operand(2, 0)]
        yield ports


#: Operators that compute each entry of the output from the same entry of the first operand.
UNARY = frozenset({
    "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Cast", "Ceil", "Celu", "Clip", "Cos", "Cosh", "Dropout",
    "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Log", "Mish", "Neg",
    "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt",
    "Swish", "Tan", "Tanh", "ThresholdedRelu",
})  # fmt: skip
#: Operators that combine the same entries of their operands.
COMBINING = frozenset({"Add", "Div", "Max", "Mean", "Min", "Mul", "PRelu", "Pow", "Sub", "Sum", "Where"})
#: Operators that change the shape alone.
RESHAPING = ("Flatten", "Reshape", "Squeeze", "Unsqueeze")
_REDUCING = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")

RULES: dict[str, Rule] = {
    **dict.fromkeys(UNARY, _keeping),
    **dict.fromkeys(COMBINING, _broadcast),
    **dict.fromkeys(("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LpPool", "MaxPool"), _pool),
    **dict.fromkeys((f"Reduce{name}" for name in _REDUCING), _reduction),
    **dict.fromkeys(RESHAPING, _regrouped),
    **dict.fromkeys(("LogSoftmax", "Softmax"), _softmax),
    **dict.fromkeys(("DequantizeLinear", "QuantizeLinear"), _quantization),
    **dict.fromkeys(("BatchNormalization", "InstanceNormalization"), _normalization),
    **dict.fromkeys(("Resize", "Upsample"), _resize),
    "Concat": _concat,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "LayerNormalization": _layer_normalization,
    "MatMul": _matmul,
    "Pad": _pad,
    "Slice": _slice,
    "Transpose": _transpose,
}
