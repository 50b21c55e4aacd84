"""Randomly generated inputs that fit a model's declared inputs, for use without samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from ..errors import InputError
from ..graph.dataflow import Dataflow
from ..graph.model import Model
from ..graph.protos import AnyNode
from ..text import quoted

Array = npt.NDArray[Any]

# Operators that pass on their first operand's values; a lookup after them still bounds what an input may hold.
_MOVES = {"Cast", "Expand", "Flatten", "Identity", "Reshape", "Slice", "Squeeze", "Tile", "Transpose", "Unsqueeze"}
# Position of the table that an index looks up, by operator and position of the index.
_LOOKUPS = {
    ("Gather", 1): 0,
    ("GatherElements", 1): 0,
    ("EmbedLayerNormalization", 0): 2,
    ("EmbedLayerNormalization", 1): 4,
}
# Operators elementwise in both operands, the shape of one of which may state that of the other.
_ELEMENTWISE = {"Add", "Div", "Mul", "Sub"}
# Maximum number of elements of an input.
_MOST_ELEMENTS = 1 << 28


def generate(model: Model, *, batch: int = 2, size: int = 64, seed: int = 0) -> dict[str, Array]:
    """Generate a random value for every required graph input.

    Floats are drawn from a standard normal distribution. Values that index a table (token ids, classes) are drawn from
    its rows, other 8-bit integers from their full range; all other integers (masks, lengths) and booleans are 1, and
    strings are ``text``. Axes of one name have one size.

    Parameters
    ----------
    model
        A loaded model.
    batch
        Size of the batch axis if it is dynamic; the batch axis is the first unless the model states another.
    size
        Size of the other dynamic axes, but for those whose size follows from parameters that the input meets first.
    seed
        Random seed.

    Returns
    -------
    dict
        Arrays by graph input.

    Raises
    ------
    InputError
        An input is not a tensor of known rank, or is too large to generate.
    """
    flow = model.flow
    rng = np.random.default_rng(seed)
    needed = set(flow.inputs)
    open_sizes = _OpenSizes(batch, size)
    return {
        value.name: _value(value, flow, rng, open_sizes, model.batch_axes.get(value.name, 0))
        for value in model.proto.graph.input
        if value.name in needed
    }


class _OpenSizes:
    """Sizes of the axes that a model leaves open, the same for axes of the same name."""

    def __init__(self, batch: int, size: int) -> None:
        self._batch, self._size = batch, size
        self._named: dict[str, int] = {}

    def of(self, declared: str | None, *, is_batch: bool, stated: int | None) -> int:
        size = self._batch if is_batch else stated or self._size
        return self._named.setdefault(declared, size) if declared else size


def _value(
    value: onnx.ValueInfoProto, flow: Dataflow, rng: np.random.Generator, open_sizes: _OpenSizes, batch_axis: int
) -> Array:
    declared = flow.shape(value.name)
    if not value.type.HasField("tensor_type") or declared is None:
        raise InputError(f"graph input {quoted(value.name)} is not a tensor of known rank; give inputs=... for it")
    stated = dict(_stated(flow, value.name, len(declared)))
    shape = tuple(
        n if isinstance(n, int) else open_sizes.of(n, is_batch=axis == batch_axis, stated=stated.get(axis))
        for axis, n in enumerate(declared)
    )
    if np.prod(shape, dtype=float) > _MOST_ELEMENTS:
        raise InputError(f"graph input {quoted(value.name)} of shape {shape} is too large to generate; give inputs=...")
    bound = min(_bounds(flow, value.name), default=None)
    return _drawn(shape, onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type), bound, rng)


def _drawn(shape: tuple[int, ...], dtype: np.dtype[Any], bound: int | None, rng: np.random.Generator) -> Array:
    if bound is not None:
        return rng.integers(0, max(bound, 1), shape).astype(dtype)
    if dtype.kind in "iu" and dtype.itemsize == 1:
        limits = np.iinfo(dtype)
        return rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)
    if dtype.kind in "biu" or not shape:
        return np.ones(shape, dtype)
    if dtype.kind == "O":
        return np.full(shape, "text", dtype)
    return rng.standard_normal(shape).astype(dtype)


def _uses(flow: Dataflow, name: str, passes: Callable[[AnyNode, str], bool]) -> Iterator[tuple[AnyNode, str]]:
    """Nodes that use a value, also behind nodes that pass it on, and the value's name there."""
    pending, seen = [name], {name}
    while pending:
        value = pending.pop()
        for position in flow.consumers.get(value, ()):
            node = flow.nodes[position]
            yield node, value
            if node.output and node.output[0] not in seen and passes(node, value):
                seen.add(node.output[0])
                pending.append(node.output[0])


def _stated(flow: Dataflow, name: str, rank: int) -> Iterator[tuple[int, int]]:
    """Axes of a value, and the sizes that parameters of the nodes that use it state."""

    def passes(node: AnyNode, value: str) -> bool:
        return node.op_type in {"Cast", "Identity"} or (
            node.op_type in _ELEMENTWISE and any(other in flow.initializers for other in node.input)
        )

    for node, value in _uses(flow, name, passes):
        others = [flow.initializers.get(other) for other in node.input if other != value]
        sizes = next((tuple(tensor.dims) for tensor in others if tensor is not None and tensor.dims), None)
        if sizes is None or node.domain:
            continue
        if node.op_type in _ELEMENTWISE:
            yield from ((rank - 1 - i, size) for i, size in enumerate(reversed(sizes)) if size > 1 and i < rank)
        elif node.input[0] == value and (found := _of_parameter(node, sizes, rank)) is not None:
            yield found


def _of_parameter(node: AnyNode, sizes: tuple[int, ...], rank: int) -> tuple[int, int] | None:
    """The axis and size of an operand that the sizes of the first parameter of its node state."""
    options = {attribute.name: attribute.i for attribute in node.attribute}
    if node.op_type == "MatMul":
        return rank - 1, sizes[max(len(sizes) - 2, 0)]
    if node.op_type == "Gemm" and len(sizes) == 2 and not options.get("transA"):
        return rank - 1, sizes[1 if options.get("transB") else 0]
    if node.op_type == "Conv" and len(sizes) == rank:
        return 1, sizes[1] * options.get("group", 1)
    if node.op_type == "BatchNormalization":
        return 1, sizes[0]
    if node.op_type in {"GRU", "LSTM", "RNN"} and len(sizes) == 3:
        return 2, sizes[2]
    return None


def _bounds(flow: Dataflow, name: str) -> Iterator[int]:
    """Lengths of the tables that a value's elements index."""

    def passes(node: AnyNode, value: str) -> bool:
        return node.op_type in _MOVES and node.input[0] == value

    for node, value in _uses(flow, name, passes):
        for operand, used in enumerate(node.input):
            table = _LOOKUPS.get((node.op_type, operand)) if used == value else None
            if table is not None and (length := _length(flow, node, table)) is not None:
                yield length


def _length(flow: Dataflow, node: AnyNode, table: int) -> int | None:
    """Number of rows in the table that a node looks up; None if unknown."""
    name = node.input[table] if table < len(node.input) else ""
    tensor = flow.initializers.get(name)
    shape = tuple(tensor.dims) if tensor is not None else flow.shape(name)
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
    length = shape[axis] if shape and -len(shape) <= axis < len(shape) else None
    return length if isinstance(length, int) else None
