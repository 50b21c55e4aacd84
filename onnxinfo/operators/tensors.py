"""Operators that move elements without computing: padding, slicing, reshaping."""

from __future__ import annotations

import torch
from torch.nn import functional

from .table import Ints, operator


@operator()
def Shape(data, *, start=0, end=None):
    return torch.tensor(list(data.shape)[start:end], dtype=torch.int64)
