"""Sequence and optional operators: sequences are Python lists of tensors, an optional without a value is None."""

from __future__ import annotations

import torch

from ..host import first_device, numbers, scalar
from .table import Ints, Sizes, operator


@operator()
def SequenceConstruct(*inputs):
    return list(inputs)


@operator()
def SequenceEmpty(*, dtype=1):
    return []


@operator()
def SequenceAt(input_sequence, position: Ints):
    return input_sequence[position[0]]


@operator()
def SequenceInsert(input_sequence, tensor, position: Ints = None):
    before = len(input_sequence) if position is None else position[0]
    return [*input_sequence[:before], tensor, *input_sequence[before:]]


@operator()
def SequenceErase(input_sequence, position: Ints = None):
    erased = (-1 if position is None else position[0]) % len(input_sequence)
    return [*input_sequence[:erased], *input_sequence[erased + 1 :]]


@operator()
def SequenceLength(input_sequence):
    return scalar(len(input_sequence))


@operator()
def ConcatFromSequence(input_sequence, *, axis, new_axis=0):
    return torch.stack(input_sequence, axis) if new_axis else torch.cat(input_sequence, axis)


@operator()
def SplitToSequence(input, split: Sizes = None, *, axis=0, keepdims=1):
    if split is None:
        return list(input.split(1, axis) if keepdims else input.unbind(axis))
    sizes = numbers(split)
    return list(input.split(sizes if split.shape else sizes[0], axis))


@operator()
def Optional(input=None, *, type=None):
    return input


@operator()
def OptionalGetElement(input):
    if input is None:
        raise ValueError("OptionalGetElement: the optional has no value")
    return input


@operator()
def OptionalHasElement(input=None):
    return scalar(input is not None, torch.bool, first_device(input))
