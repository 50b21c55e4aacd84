"""Samples as rows."""

from __future__ import annotations

from torch import Tensor


def as_rows(values: Tensor) -> Tensor:
    """Return values (S, *shape) as (S, n); a sample may be a single number, of shape ()."""
    return values.reshape(len(values), -1)
