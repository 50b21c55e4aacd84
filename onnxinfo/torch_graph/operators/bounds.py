"""Checks of shapes and indices that torch's kernels do not validate."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def check_shape(what: str, operand: Tensor, shape: Sequence[int]) -> None:
    """Check the shape of an operand.

    Parameters
    ----------
    what
        Name of the operand in the error message.
    operand
        The operand.
    shape
        Expected shape.

    Raises
    ------
    ValueError
        The shape differs; the message names the operand and both shapes.
    """
    if tuple(operand.shape) != tuple(shape):
        raise ValueError(f"{what} is {tuple(operand.shape)}, expected {tuple(shape)}")


def check_range(what: str, values: Tensor, low: int, high: int) -> None:
    """Check that integers lie in a closed range; values traced by a torch.func transform are unknown and not checked.

    Parameters
    ----------
    what
        Name of the integers in the error message.
    values
        Integers of any shape.
    low, high
        Smallest and largest permitted value.

    Raises
    ------
    IndexError
        A value is out of range; the message names the first one and the range.
    """
    if torch._C._functorch.is_functorch_wrapped_tensor(values):
        return
    outside = values[(values < low) | (values > high)]
    if outside.numel():
        raise IndexError(f"{what} {int(outside[0])} is out of range, expected {low} to {high}")
