"""Bits for the activations of a network: how a budget is divided among its tensors."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Floats = npt.NDArray[np.float64]
#: Largest number of bits of ONNX Runtime's 8-bit tensors.
STORED_BITS = 8


@dataclass(frozen=True)
class Grid:
    """Uniform grid of ``2^bits`` values over a range that contains 0.

    Attributes
    ----------
    low, high
        The range.
    bits
        Number of bits.
    """

    low: float
    high: float
    bits: int

    @property
    def step(self) -> float:
        """Distance between neighboring values."""
        return (max(self.high, 0.0) - min(self.low, 0.0)) / float(2**self.bits - 1)

    @property
    def zero_point(self) -> int:
        """Zero point in an unsigned 8-bit tensor: the number of values below 0.

        Values above the range keep the step, as long as 8 bits hold them. A zero point that made them saturate would
        put all values at the end of the 8 bits, where ONNX Runtime's kernels overflow on processors without VNNI.
        """
        return round(-min(self.low, 0.0) / self.step)

    def rounded(self, values: Tensor) -> Tensor:
        """Round values as an 8-bit tensor with this grid's scale and zero point does."""
        lowest, highest = -self.zero_point, 2**STORED_BITS - 1 - self.zero_point
        return torch.clamp(torch.round(values / self.step), lowest, highest) * self.step


def uniform_noise(low: float, high: float, choices: Sequence[int]) -> Floats:
    """Variance of the rounding errors of grids with some numbers of bits, if errors are uniform: ``step^2 / 12``."""
    return np.array([Grid(low, high, bits).step ** 2 / 12 for bits in choices])


def allocate(losses: Floats, choices: Sequence[int], mean: float) -> list[int]:
    """Choose each tensor's number of bits, so that the sum of losses is small at a mean number of bits.

    Tensors begin with the fewest bits. More go, one step after the other, to the tensor whose loss falls most per bit:
    the solution is optimal where losses are convex, as those of uniform rounding errors are.

    Parameters
    ----------
    losses
        Loss by tensor and choice, (T, C).
    choices
        Numbers of bits, ascending.
    mean
        The largest mean number of bits.

    Returns
    -------
    list of int
        Number of bits by tensor.
    """
    chosen = [0] * len(losses)
    left = round(mean * len(losses), 6) - choices[0] * len(losses)
    waiting = [_offer(losses, choices, i, 0) for i in range(len(losses))] if len(choices) > 1 else []
    heapq.heapify(waiting)
    while waiting:
        _, tensor, to = heapq.heappop(waiting)
        cost = choices[to] - choices[chosen[tensor]]
        if cost > left:
            continue
        left -= cost
        chosen[tensor] = to
        if to + 1 < len(choices):
            heapq.heappush(waiting, _offer(losses, choices, tensor, to))
    return [choices[at] for at in chosen]


def _offer(losses: Floats, choices: Sequence[int], tensor: int, at: int) -> tuple[float, int, int]:
    """Return the step to more bits that gains most per bit, with its negative gain for a heap."""
    gains = [
        ((losses[tensor, at] - losses[tensor, to]) / (choices[to] - choices[at]), to)
        for to in range(at + 1, len(choices))
    ]
    gain, to = max(gains, key=lambda each: each[0])
    return -float(gain), tensor, to
