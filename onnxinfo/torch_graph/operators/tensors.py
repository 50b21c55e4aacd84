"""Operators that create, reshape and rearrange tensors without computing with their elements."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..element_types import torch_type
from ..host import first_device, host_value, materialized, numbers, scalar, vector
from ..nodes import Converted, Graph, Node
from .bounds import check_range, check_shape
from .table import Either, Ints, Sizes, bind, converter, operator


@operator()
def Identity(input):
    return input


@operator()
def Constant(
    *,
    value=None,
    sparse_value=None,
    value_int=None,
    value_ints=None,
    value_float=None,
    value_floats=None,
    value_string=None,
    value_strings=None,
):
    if value is not None or sparse_value is not None:
        return sparse_value if value is None else value
    if value_string is not None or value_strings is not None:
        return np.array(value_strings if value_string is None else value_string, dtype=object)
    if value_float is not None or value_floats is not None:
        return torch.tensor(value_floats if value_float is None else value_float, dtype=torch.float32)
    return torch.tensor(value_ints if value_int is None else value_int, dtype=torch.int64)


@converter("ConstantOfShape")
def _constant_of_shape(node: Node, graph: Graph) -> Converted:
    value = node.attributes.get("value")
    constant = scalar(0.0, torch.float32) if value is None else host_value(value)
    return bind(ConstantOfShape, node, graph, value=constant)


def ConstantOfShape(input: Sizes, *, value):
    return materialized(value, first_device(input)).reshape(()).expand(numbers(input))


@operator()
def EyeLike(input, *, dtype=None, k=0):
    ones = torch.ones_like(input, dtype=None if dtype is None else torch_type(dtype))
    return ones.triu(k).tril(k)


@operator()
def Range(start: Sizes, limit: Sizes, delta: Sizes, *, stash_type=1):
    first, end, step = (numbers(bound)[0] for bound in (start, limit, delta))
    device = first_device(start, limit, delta)
    if not start.dtype.is_floating_point:
        count = max(-((first - end) // step), 0)
        return (torch.arange(count, device=device) * step + first).to(start.dtype)
    steps = torch.arange(max(math.ceil((end - first) / step), 0), device=device)
    type = torch_type(stash_type) if start.dtype in (torch.float16, torch.bfloat16) else start.dtype
    origin, stride = (materialized(bound, device).to(type) for bound in (start, delta))
    return (origin + steps.to(type) * stride).to(start.dtype)


@operator()
def Shape(data, *, start=0, end=None):
    return vector(data.shape[start:end], data.device)


@operator()
def Size(data):
    return scalar(data.numel(), device=data.device)


@operator(versions=(5, None))
def Reshape(data, shape: Ints, *, allowzero=0):
    return data.reshape(shape if allowzero else [n or data.shape[i] for i, n in enumerate(shape)])


@operator("Reshape", versions=(1, 4))
def Reshape_1(data, *, shape=()):
    return Reshape(data, shape)


@operator()
def Flatten(input, *, axis=1):
    return input.reshape(math.prod(input.shape[:axis]), -1 if input.numel() else math.prod(input.shape[axis:]))


@operator(versions=(13, None))
def Squeeze(data, axes: Ints = None):
    return data.squeeze() if axes is None else data.squeeze(tuple(axes))


@operator("Squeeze", versions=(1, 12))
def Squeeze_1(data, *, axes=None):
    return Squeeze(data, axes)


@operator(versions=(13, None))
def Unsqueeze(data, axes: Ints):
    rank = data.dim() + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        data = data.unsqueeze(axis)
    return data


@operator("Unsqueeze", versions=(1, 12))
def Unsqueeze_1(data, *, axes):
    return Unsqueeze(data, axes)


@operator()
def Transpose(data, *, perm=None):
    return data.permute(tuple(reversed(range(data.dim()))) if perm is None else perm)


@operator()
def Expand(input, shape: Ints):
    return input.expand(torch.broadcast_shapes(input.shape, shape))


@operator(versions=(6, None))
def Tile(input, repeats: Ints):
    return input.tile(repeats)


@operator("Tile", versions=(1, 5))
def Tile_1(input, tiles: Ints, axis: Ints):
    repeats = [1] * input.dim()
    repeats[axis[0]] = tiles[0]
    return input.tile(repeats)


@operator(versions=(4, None))
def Concat(*inputs, axis):
    return torch.cat(inputs, axis)


@operator("Concat", versions=(1, 3))
def Concat_1(*inputs, axis=1):
    return torch.cat(inputs, axis)


@operator(versions=(13, None))
def Split(input, split: Ints = None, *, axis=0, num_outputs=None, outputs=1):
    n = input.shape[axis]
    return input.split(split or _parts(n, num_outputs or outputs), axis)


@operator("Split", versions=(2, 12))
def Split_2(input, *, axis=0, split=None, outputs=1):
    return Split(input, split, axis=axis, outputs=outputs)


@operator("Split", versions=(1, 1))
def Split_1(input, split: Ints = None, *, axis=0, outputs=1, **attributes):
    return Split(input, split or attributes.get("split"), axis=axis, outputs=outputs)


def _parts(length: int, count: int) -> list[int]:
    """Equal parts; the last one is smaller if the length is not divisible."""
    part = -(-length // count)
    return [part] * (count - 1) + [length - part * (count - 1)]


@operator(versions=(10, None))
def Slice(data, starts: Ints, ends: Ints, axes: Ints = None, steps: Ints = None):
    slices = [slice(None)] * data.dim()
    reversed_axes = []
    for start, end, axis, step in zip(
        starts, ends, axes or range(len(starts)), steps or [1] * len(starts), strict=True
    ):
        slices[axis] = slice(start, end, step)
        if step < 0:
            reversed_axes.append(axis)
            chosen = range(data.shape[axis])[start:end:step][::-1]
            slices[axis] = slice(chosen.start, chosen.stop, chosen.step)
    data = data[tuple(slices)]
    return data.flip(reversed_axes) if reversed_axes else data


@operator("Slice", versions=(1, 9))
def Slice_1(data, *, axes=None, ends, starts):
    return Slice(data, starts, ends, axes)


@operator(versions=(11, None))
def Pad(data, pads: Ints, constant_value: Either = None, axes: Ints = None, *, mode="constant"):
    axes = list(range(data.dim())) if axes is None else [axis % data.dim() for axis in axes]
    amounts = {axis: pads[i :: len(axes)] for i, axis in enumerate(axes)}
    if mode == "constant":
        flat = [amount for axis in reversed(range(data.dim())) for amount in amounts.get(axis, (0, 0))]
        if isinstance(constant_value, Tensor):
            inside = functional.pad(torch.ones_like(data, dtype=torch.bool), flat)
            return torch.where(inside, functional.pad(data, flat), constant_value.to(data))
        return functional.pad(data, flat, value=0 if constant_value is None else numbers(constant_value)[0])
    for axis, (before, after) in amounts.items():
        if before or after:
            positions = torch.arange(-before, data.shape[axis] + after, device=data.device)
            data = data.index_select(axis, _SOURCES[mode](positions, data.shape[axis]))
    return data


def _reflected(positions: Tensor, n: int) -> Tensor:
    period = 2 * (n - 1)
    return positions * 0 if n == 1 else (n - 1) - ((positions % period) - (n - 1)).abs()


# Source position of an element outside an axis of n elements, for each padding mode.
_SOURCES = {
    "edge": lambda positions, n: positions.clamp(0, n - 1),
    "reflect": _reflected,
    "wrap": lambda positions, n: positions % n,
}


@operator("Pad", versions=(2, 10))
def Pad_2(data, *, mode="constant", pads, value=0.0):
    return Pad(data, pads, [value], mode=mode)


@operator("Pad", versions=(1, 1))
def Pad_1(data, *, mode="constant", paddings, value=0.0):
    return Pad(data, paddings, [value], mode=mode)


@operator()
def CenterCropPad(input_data, shape: Ints, *, axes=None):
    # With an odd number of elements, the extra one is at the end, in cropping as in padding.
    for axis, target in zip(range(input_data.dim()) if axes is None else axes, shape, strict=True):
        n = input_data.shape[axis]
        if n > target:
            input_data = input_data.narrow(axis, (n - target) // 2, target)
        else:
            before = (target - n) // 2
            input_data = Pad(input_data, [before, target - n - before], axes=[axis])
    return input_data


@operator()
def DepthToSpace(input, *, blocksize, mode="DCR"):
    N, C, H, W = input.shape
    b = blocksize
    if mode == "DCR":
        y = input.reshape(N, b, b, C // b**2, H, W).permute(0, 3, 4, 1, 5, 2)
    else:
        y = input.reshape(N, C // b**2, b, b, H, W).permute(0, 1, 4, 2, 5, 3)
    return y.reshape(N, C // b**2, H * b, W * b)


@operator()
def SpaceToDepth(input, *, blocksize, mode="DCR"):
    N, C, H, W = input.shape
    b = blocksize
    y = input.reshape(N, C, H // b, b, W // b, b)
    return y.permute(*((0, 3, 5, 1, 2, 4) if mode == "DCR" else (0, 1, 3, 5, 2, 4))).reshape(
        N, C * b**2, H // b, W // b
    )


@operator()
def Trilu(input, k: Ints = None, *, upper=1):
    diagonal = k[0] if k else 0
    return input.triu(diagonal) if upper else input.tril(diagonal)


@operator()
def ReverseSequence(input, sequence_lens, *, batch_axis=1, time_axis=0):
    x = input.movedim((batch_axis, time_axis), (0, 1))
    check_shape("sequence_lens", sequence_lens, x.shape[:1])
    check_range("length", sequence_lens, 0, x.shape[1])
    step = torch.arange(x.shape[1], device=x.device)
    lengths = sequence_lens.unsqueeze(1)
    source = torch.where(step < lengths, lengths - 1 - step, step)
    samples = torch.arange(x.shape[0], device=x.device).unsqueeze(1)
    return x[samples, source].movedim((0, 1), (batch_axis, time_axis))
