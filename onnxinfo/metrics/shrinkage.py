"""Denoising of maps known only through noisy estimates: a Wiener filter with measured spectra."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_LEAST_COEFFICIENTS = 64


def wiener(first: Tensor, second: Tensor, shape: Sequence[int]) -> Tensor:
    """The best linear estimate of a map from two independent noisy measurements of it.

    In each frequency band the gain is signal power over total power. The signal's power is the cross-spectrum of the
    two measurements, whose noises are independent, so it is unbiased; nothing is assumed about smoothness: a map
    without structure is shrunk evenly, in proportion to what is known about it.

    Parameters
    ----------
    first, second
        Independent measurements of the same maps around zero, each (S, n); spectra are pooled over the S samples.
    shape
        Shape of one map, with ``prod(shape) == n``.

    Returns
    -------
    Tensor
        Estimate of the maps, (S, n).
    """
    axes = tuple(range(1, len(shape) + 1))
    a = torch.fft.fftn(first.reshape(-1, *shape), dim=axes)
    b = torch.fft.fftn(second.reshape(-1, *shape), dim=axes)
    mean = (a + b) / 2
    band, bands = _bands(shape, len(first), first.device)
    signal = _pool((a * b.conj()).real, band, bands)
    total = _pool(mean.abs().square(), band, bands)
    gain = (signal / total.clamp(min=torch.finfo(total.dtype).tiny)).clamp(0, 1)
    filtered = torch.fft.ifftn(mean * gain[band].reshape(tuple(shape)), dim=axes)
    denoised: Tensor = filtered.real.reshape(first.shape)
    return denoised


def _pool(power: Tensor, band: Tensor, bands: int) -> Tensor:
    return power.new_zeros(bands).index_add_(0, band, power.sum(0).flatten())


def _bands(shape: Sequence[int], samples: int, device: torch.device) -> tuple[Tensor, int]:
    """Band of every frequency: by radius over the long axes, each pattern over the short ones (channels) apart."""
    radius = torch.zeros(tuple(shape), device=device)
    pattern = torch.zeros(tuple(shape), dtype=torch.long, device=device)
    for axis, size in enumerate(shape):
        broadcast = [-1 if i == axis else 1 for i in range(len(shape))]
        frequency = torch.fft.fftfreq(size, device=device).abs().reshape(broadcast)
        if size <= 4:
            pattern = 2 * pattern + (frequency > 0)
        else:
            radius = radius + frequency.square()
    patterns = int(pattern.max()) + 1
    steps = max(1, min(12, math.prod(shape) * samples // (_LEAST_COEFFICIENTS * patterns)))
    limit = float(radius.max()) ** 0.5 or 1.0
    ring = (radius.sqrt() / limit * steps).long().clamp(max=steps - 1)
    return (pattern * steps + ring).flatten(), patterns * steps
