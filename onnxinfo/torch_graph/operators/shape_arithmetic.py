"""Operators on host values: the arithmetic of shapes, computed with Python numbers.

Each function is named like its operator and takes the operands as host values (None if absent) and the attributes by
name, in every version of the operator: what is an input in one version and an attribute in another is one parameter.
It returns a host value or several, or `NotImplemented` if the result would be large or is not simple: then the
operands become tensors, and the operator's torch function computes it.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from itertools import product
from typing import Any

import torch

from ..element_types import torch_type
from ..host import LARGEST, HostValue, first_device, numbers, scalar, vector

Function = Callable[..., Any]
Shape_ = tuple[int, ...]

_FLOATS = (torch.float32, torch.float64)
# Multiplying by this and subtracting leaves the 24 leading bits of a double.
_SPLIT = float(2**29 + 1)
# Numbers beyond this count as infinite.
_HUGE = 1e300


def Identity(input):
    return input


def Shape(data, *, start=0, end=None):
    return vector(data.shape[start:end], data.device)


def Size(data):
    return scalar(len(data.values), torch.int64, data.device)


def Cast(input, *, to, round_mode="up", saturate=1):
    type = torch_type(to)
    if not _simple(input.dtype) or not _simple(type):
        return NotImplemented
    return input._replace(values=tuple(_converted(value, type) for value in input.values), dtype=type)


def CastLike(input, target_type, *, to, round_mode="up", saturate=1):
    return Cast(input, to=to) if to else NotImplemented


def _simple(type: torch.dtype) -> bool:
    """Whether Python numbers represent a type: bool, signed integers and floats of at least 32 bits."""
    return type in (torch.bool, torch.int32, torch.int64, *_FLOATS)


def _converted(value: Any, type: torch.dtype) -> Any:
    if type == torch.bool:
        return value != 0
    if type in _FLOATS:
        return _rounded(_as_float(value), type)
    if isinstance(value, float):
        if not -_HUGE < value < _HUGE:
            raise ValueError(f"{value} cannot be converted to an integer")
        value = math.trunc(value)
    return _rounded(int(value) if _known(value) else torch.sym_int(value), type)


def _as_float(value: Any) -> Any:
    return float(value) if _known(value) else torch.sym_float(value)


def _rounded(value: Any, type: torch.dtype) -> Any:
    """Round a result as the type would: floats to 24 bits, integers to the lowest bits. Sizes left open stay exact."""
    if isinstance(value, bool):
        return value
    if isinstance(value, float):
        if type != torch.float32 or not -_HUGE < value < _HUGE:
            return value
        return value * _SPLIT - (value * _SPLIT - value)
    if isinstance(value, int):
        half = 2**31 if type == torch.int32 else 2**63
        return value if -half <= value < half else (value + half) % (2 * half) - half
    return value


def Reshape(data, shape=None, *, allowzero=0):
    target = [size if size or allowzero else data.shape[i] for i, size in enumerate(numbers(shape))]
    return data._replace(shape=_resolved(target, len(data.values)))


def _resolved(target: Sequence[int], count: int) -> Shape_:
    """Replace -1 in a target shape."""
    known = math.prod([size for size in target if size != -1])
    shape = tuple(count // max(known, 1) if size == -1 else size for size in target)
    if math.prod(shape) != count:
        raise ValueError(f"{count} elements cannot be arranged in shape {list(target)}")
    return shape


def Flatten(input, *, axis=1):
    rows = math.prod(input.shape[:axis])
    return input._replace(shape=(rows, math.prod(input.shape[axis:])))


def Squeeze(data, axes=None):
    rank = len(data.shape)
    dropped = [i for i, n in enumerate(data.shape) if n == 1] if axes is None else [a % rank for a in numbers(axes)]
    if any(data.shape[axis] != 1 for axis in dropped):
        return NotImplemented
    return data._replace(shape=tuple(n for i, n in enumerate(data.shape) if i not in dropped))


def Unsqueeze(data, axes):
    shape = list(data.shape)
    rank = len(shape) + len(numbers(axes))
    for axis in sorted(axis % rank for axis in numbers(axes)):
        shape.insert(axis, 1)
    return data._replace(shape=tuple(shape))


def Transpose(data, *, perm=None):
    order = list(reversed(range(len(data.shape)))) if perm is None else perm
    shape = tuple(data.shape[axis] for axis in order)
    steps = _steps(data.shape)
    return _placed(data, shape, [steps[axis] for axis in order])


def Expand(input, shape):
    sizes = numbers(shape)
    return _expanded(input, _broadcast([input.shape, tuple(sizes)])) if _small(sizes) else NotImplemented


def Tile(input, repeats):
    sizes = [n * r for n, r in zip(input.shape, numbers(repeats), strict=True)]
    if not _small(sizes):
        return NotImplemented
    steps = _steps(input.shape)
    order = product(*map(range, sizes))
    values = tuple(
        input.values[sum((i % n) * step for i, n, step in zip(position, input.shape, steps, strict=True))]
        for position in order
    )
    return input._replace(values=values, shape=tuple(sizes))


def ConstantOfShape(input, *, value):
    if not _small(input.values) or not _simple(value.dtype):
        return NotImplemented
    shape = tuple(input.values)
    return HostValue(value.values * math.prod(shape), shape, value.dtype, input.device)


def Range(start, limit, delta):
    bounds = (start.values[0], limit.values[0], delta.values[0])
    if start.dtype not in (torch.int32, torch.int64) or not all(isinstance(bound, int) for bound in bounds):
        return NotImplemented
    values = range(*bounds)
    if not _small([len(values)]):
        return NotImplemented
    return vector(values, first_device(start, limit, delta))._replace(dtype=start.dtype)


def Concat(*inputs, axis=1):
    axis = axis % len(inputs[0].shape)
    before = math.prod(inputs[0].shape[:axis])
    values: list[Any] = []
    for row in range(before):
        for each in inputs:
            size = len(each.values) // before
            values += each.values[row * size : (row + 1) * size]
    length = sum(each.shape[axis] for each in inputs)
    shape = (*inputs[0].shape[:axis], length, *inputs[0].shape[axis + 1 :])
    return HostValue(tuple(values), shape, inputs[0].dtype, first_device(*inputs))


def Gather(data, indices, *, axis=0):
    axis = axis % len(data.shape)
    n = data.shape[axis]
    chosen = list(indices.values)
    if not all(isinstance(i, int) for i in chosen):
        return NotImplemented
    if any(not -n <= i < n for i in chosen):
        raise IndexError(
            f"index {next(i for i in chosen if not -n <= i < n)} is out of range, expected {-n} to {n - 1}"
        )
    taken = _taken(data, axis, [i % n for i in chosen])
    return taken._replace(shape=(*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :]))


def Slice(data, starts=None, ends=None, axes=None, steps=None):
    starts, ends = numbers(starts), numbers(ends)
    if not all(isinstance(bound, int) for bound in (*starts, *ends)):
        return NotImplemented
    along = list(range(len(starts))) if axes is None else numbers(axes)
    strides = [1] * len(starts) if steps is None else numbers(steps)
    for start, end, axis, step in zip(starts, ends, along, strides, strict=True):
        axis = axis % len(data.shape)
        data = _taken(data, axis, list(range(data.shape[axis])[start:end:step]))
    return data


def Split(input, split=None, *, axis=0, num_outputs=None, outputs=1):
    axis = axis % len(input.shape)
    n, count = input.shape[axis], num_outputs or outputs
    part = -(-n // count)
    lengths = [part] * (count - 1) + [n - part * (count - 1)] if split is None else numbers(split)
    ends = [sum(lengths[: i + 1]) for i in range(len(lengths))]
    return tuple(_taken(input, axis, list(range(end - length, end))) for length, end in zip(lengths, ends, strict=True))


def Where(condition, X, Y):
    return _elementwise(lambda c, x, y: x if c else y, X.dtype, condition, X, Y)


def Clip(input, min=None, max=None):
    for bound, choose in ((min, _larger), (max, _smaller)):
        if bound is not None:
            input = _elementwise(choose, input.dtype, input, bound)
    return input


def _larger(a: Any, b: Any) -> Any:
    return max(a, b) if _known(a, b) else torch.sym_max(a, b)


def _smaller(a: Any, b: Any) -> Any:
    return min(a, b) if _known(a, b) else torch.sym_min(a, b)


def _known(*values: Any) -> bool:
    """Whether values are numbers of Python; otherwise, torch's functions for symbolic sizes are needed."""
    return all(isinstance(value, (bool, int, float)) for value in values)


def Max(*data):
    return reduce(lambda a, b: _elementwise(_larger, a.dtype, a, b), data)


def Min(*data):
    return reduce(lambda a, b: _elementwise(_smaller, a.dtype, a, b), data)


def Sum(*data):
    return reduce(lambda a, b: _elementwise(operator.add, a.dtype, a, b), data)


def Mod(A, B, *, fmod=0):
    return NotImplemented if fmod or A.dtype in _FLOATS else _elementwise(operator.mod, A.dtype, A, B)


def Div(A, B):
    return _elementwise(operator.truediv if A.dtype in _FLOATS else _quotient, A.dtype, A, B)


def _quotient(a: Any, b: Any) -> Any:
    """Divide integers, rounding toward zero."""
    if b == 0:
        raise ZeroDivisionError("division by zero")
    whole = _magnitude(a) // _magnitude(b)
    return whole if (a < 0) == (b < 0) else -whole


def _magnitude(a: Any) -> Any:
    return -a if a < 0 else a


def _enter_binary(function: Function, *, logical: bool = False) -> Function:
    def binary(A, B):
        return _elementwise(function, torch.bool if logical else A.dtype, A, B)

    return binary


def _enter_unary(function: Function) -> Function:
    def unary(X):
        return _elementwise(function, X.dtype, X) if _simple(X.dtype) else NotImplemented

    return unary


def _enter_rounding(function: Function) -> Function:
    def rounding(X):
        return _elementwise(lambda x: _as_float(function(x)), X.dtype, X) if X.dtype in _FLOATS else NotImplemented

    return rounding


def _enter_reduction(function: Function) -> Function:
    def reduction(data, axes=None, *, keepdims=1, noop_with_empty_axes=0):
        chosen = [] if axes is None else numbers(axes)
        if len(data.shape) > 1 or not data.values or (not chosen and noop_with_empty_axes):
            return NotImplemented
        value = _rounded(reduce(function, data.values), data.dtype)
        return data._replace(values=(value,), shape=data.shape if not data.shape else (1,) if keepdims else ())

    return reduction


#: Host implementation of each operator of ONNX's standard domain that has one.
HOST: dict[str, Function] = {
    "Add": _enter_binary(operator.add),
    "Sub": _enter_binary(operator.sub),
    "Mul": _enter_binary(operator.mul),
    "Equal": _enter_binary(operator.eq, logical=True),
    "Greater": _enter_binary(operator.gt, logical=True),
    "GreaterOrEqual": _enter_binary(operator.ge, logical=True),
    "Less": _enter_binary(operator.lt, logical=True),
    "LessOrEqual": _enter_binary(operator.le, logical=True),
    "And": _enter_binary(lambda a, b: a and b, logical=True),
    "Or": _enter_binary(lambda a, b: a or b, logical=True),
    "Not": _enter_unary(operator.not_),
    "Neg": _enter_unary(operator.neg),
    "Abs": _enter_unary(_magnitude),
    "Floor": _enter_rounding(math.floor),
    "Ceil": _enter_rounding(math.ceil),
    "ReduceMax": _enter_reduction(_larger),
    "ReduceMin": _enter_reduction(_smaller),
    "ReduceProd": _enter_reduction(operator.mul),
    "ReduceSum": _enter_reduction(operator.add),
} | {
    function.__name__: function
    for function in (
        *(Cast, CastLike, Clip, Concat, ConstantOfShape, Div, Expand, Flatten, Gather, Identity, Max, Min, Mod, Range),
        *(Reshape, Shape, Size, Slice, Split, Squeeze, Sum, Tile, Transpose, Unsqueeze, Where),
    )
}


#: Operators whose results are host values whatever their operands are.
HOST_SOURCES = {"Shape", "Size", "SequenceLength", "OptionalHasElement"}


def _elementwise(function: Function, type: torch.dtype, *operands: HostValue) -> Any:
    """Apply a function to the elements of broadcast operands."""
    if not all(_simple(operand.dtype) for operand in operands):
        return NotImplemented
    shape = _broadcast([operand.shape for operand in operands])
    if not _small(shape):
        return NotImplemented
    columns = [_expanded(operand, shape).values for operand in operands]
    values = tuple(_rounded(function(*row), type) for row in zip(*columns, strict=True))
    return HostValue(values, shape, type, first_device(*operands))


def _broadcast(shapes: Sequence[Shape_]) -> Shape_:
    rank = max(map(len, shapes))
    padded = [(1,) * (rank - len(shape)) + shape for shape in shapes]
    result = []
    for sizes in zip(*padded, strict=True):
        others = [n for n in sizes if n != 1]
        if any(n != others[0] for n in others):
            raise ValueError(f"shapes {', '.join(str(list(shape)) for shape in shapes)} cannot be broadcast")
        result.append(others[0] if others else 1)
    return tuple(result)


def _expanded(value: HostValue, shape: Shape_) -> HostValue:
    """Repeat elements to a shape that the value can be broadcast to."""
    if value.shape == shape:
        return value
    if len(value.values) == 1:
        return value._replace(values=value.values * math.prod(shape), shape=shape)
    missing = len(shape) - len(value.shape)
    steps = [0 if n == 1 else step for n, step in zip(value.shape, _steps(value.shape), strict=True)]
    return _placed(value, shape, [0] * missing + steps)


def _placed(value: HostValue, shape: Shape_, steps: Sequence[int]) -> HostValue:
    """Arrange elements by strides over the value's elements."""
    positions: Iterable[tuple[int, ...]] = product(*map(range, shape))
    values = tuple(value.values[sum(i * step for i, step in zip(p, steps, strict=True))] for p in positions)
    return value._replace(values=values, shape=shape)


def _steps(shape: Shape_) -> list[int]:
    """Strides of a contiguous tensor."""
    return [math.prod(shape[i + 1 :]) for i in range(len(shape))]


def _taken(value: HostValue, axis: int, indices: Sequence[int]) -> HostValue:
    """Select elements along an axis."""
    before, after = math.prod(value.shape[:axis]), math.prod(value.shape[axis + 1 :])
    n = value.shape[axis]
    values: list[Any] = []
    for row in range(before):
        for i in indices:
            start = (row * n + i) * after
            values += value.values[start : start + after]
    return value._replace(values=tuple(values), shape=(*value.shape[:axis], len(indices), *value.shape[axis + 1 :]))


def _small(shape: Iterable[Any]) -> bool:
    """Whether a shape is known and has few elements."""
    sizes = list(shape)
    return all(isinstance(n, int) and n >= 0 for n in sizes) and math.prod(sizes) <= LARGEST
