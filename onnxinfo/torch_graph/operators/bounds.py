"""Shapes and positions that torch's kernels take without a look at them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def check_shape(what: str, operand: Tensor, shape: Sequence[int]) -> None:
    """Refuse an operand of another shape.

    Raises
    ------
    ValueError
        Names the operand, its shape and the expected one.
    """
    if tuple(operand.shape) != tuple(shape):
        raise ValueError(f"{what} is {tuple(operand.shape)}, expected {tuple(shape)}")


def check_range(what: str, values: Tensor, low: int, high: int) -> None:
    """Refuse integers outside of a closed range; those that a transform of torch.func traces are not known.

    Raises
    ------
    IndexError
        Names what the integers are, the first one outside, and the range.
    """
    if torch._C._functorch.is_functorch_wrapped_tensor(values):
        return
    outside = values[(values < low) | (values > high)]
    if outside.numel():
        raise IndexError(f"{what} {int(outside[0])} is out of range, expected {low} to {high}")
