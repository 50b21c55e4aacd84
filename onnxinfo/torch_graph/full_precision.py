"""Arithmetic in float32 on every device, whatever the process allows otherwise.

By default, torch rounds the operands of convolutions on NVIDIA GPUs to TF32, which has 10 bits of mantissa. The change
that noise causes is too small for that, and samples evaluated together differ from samples evaluated alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Compute products of matrices, convolutions and recurrences in float32; the settings of torch are then restored.

    The settings belong to the process: work in other threads is computed in float32, too, while the context is open.
    """
    backends: Any = torch.backends
    cuda, cudnn, mkldnn = backends.cuda, backends.cudnn, backends.mkldnn
    kinds = cuda.matmul, cudnn.conv, cudnn.rnn, mkldnn.matmul, mkldnn.conv, mkldnn.rnn
    before = [kind.fp32_precision for kind in kinds]
    for kind in kinds:
        kind.fp32_precision = "ieee"
    try:
        yield
    finally:
        for kind, precision in zip(kinds, before, strict=True):
            kind.fp32_precision = precision
