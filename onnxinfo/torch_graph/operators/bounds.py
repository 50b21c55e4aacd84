"""Checks of shapes and indices that torch's kernels do not validate."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor


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
    """Check that integers lie in a closed range.

    Values that a torch.func transform or a compiler traces are unknown and not checked. Values on an accelerator are
    checked there, without waiting for the result: an error appears later, and without the value.

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
    if not is_readable(values):
        if values.device.type != "cpu" and not _is_traced(values):
            torch._assert_async(((values >= low) & (values <= high)).all(), f"{what} is out of range: {low} to {high}")
        return
    outside = values[(values < low) | (values > high)]
    if outside.numel():
        raise IndexError(f"{what} {int(outside[0])} is out of range, expected {low} to {high}")


def is_readable(tensor: Tensor) -> bool:
    """Whether the elements of a tensor are known, and reading them makes no accelerator wait."""
    return tensor.device.type == "cpu" and not _is_traced(tensor)


def _is_traced(tensor: Tensor) -> bool:
    return torch.compiler.is_compiling() or is_transformed(tensor) or isinstance(tensor, FakeTensor)


def is_transformed(*operands: Tensor) -> bool:
    """Whether a torch.func transform traces any of the operands; a compiler, which cannot tell, counts as none."""
    if torch.compiler.is_dynamo_compiling():
        return False
    return any(torch._C._functorch.is_functorch_wrapped_tensor(operand) for operand in operands)
