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
    before, older = [kind.fp32_precision for kind in kinds], _allows_tf32()
    # Where the older setting contradicts the newer ones, torch refuses to read it.
    cudnn.allow_tf32 = False
    for kind in kinds:
        kind.fp32_precision = "ieee"
    try:
        yield
    finally:
        if older is not None:
            cudnn.allow_tf32 = older
        for kind, precision in zip(kinds, before, strict=True):
            kind.fp32_precision = precision


@contextlib.contextmanager
def without_cudnn() -> Iterator[None]:
    """Disable cuDNN; unlike ``torch.backends.cudnn.flags``, which would also allow TF32, change nothing else."""
    cudnn: Any = torch.backends.cudnn
    before = cudnn.enabled
    cudnn.enabled = False
    try:
        yield
    finally:
        cudnn.enabled = before


def _allows_tf32() -> bool | None:
    """Return torch's older setting for cuDNN; None if it contradicts the newer ones."""
    try:
        return bool(torch.backends.cudnn.allow_tf32)
    except RuntimeError:
        return None
