"""Two independent estimates of the same quantity, from alternating noise samples."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Halves:
    """Two independent estimates of the same map, each (S, n)."""

    first: Tensor
    second: Tensor

    @property
    def mean(self) -> Tensor:
        """Estimate from all probes, (S, n)."""
        return (self.first + self.second) / 2


class HalfSums:
    """Sums over a stream of noise samples that alternate between two halves, for any batch size.

    Parameters
    ----------
    like
        Map of the shape that is summed, (S, n).
    """

    def __init__(self, like: Tensor) -> None:
        self._sums = (torch.zeros_like(like), torch.zeros_like(like))
        self._count = torch.zeros((), dtype=torch.long)

    @property
    def totals(self) -> tuple[Tensor, ...]:
        """The sums and the number of noise samples, which change in place."""
        return *self._sums, self._count

    def add(self, values: Tensor) -> None:
        """Add the values of some noise samples, (draws, S, n)."""
        count = int(self._count)
        for i, total in enumerate(self._sums):
            total += values[(i + count) % 2 :: 2].sum(0)
        self._count += len(values)

    @property
    def both(self) -> tuple[Tensor, Tensor]:
        """Mean of each half, (S, n); the number of noise samples must be even."""
        count = int(self._count)
        first, second = (total * (2 / count) for total in self._sums)
        return first, second

    def means(self) -> Halves:
        """Mean of each half, as :class:`Halves`."""
        return Halves(*self.both)
