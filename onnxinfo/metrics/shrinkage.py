"""Wiener filtering of noisy map estimates, with measured spectra."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .rows import as_rows

_LEAST_COEFFICIENTS = 64


def wiener(first: Tensor, second: Tensor, shape: Sequence[int]) -> Tensor:
    """Best linear estimate of a map from two independent noisy measurements.

    In each frequency band the gain is signal power over total power. The cross-spectrum of the two measurements
    estimates the signal power without bias, since their noise is independent. Smoothness is not assumed: a map without
    structure is shrunk evenly, in proportion to its signal-to-noise ratio.

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
    pair = _Pair(first, second, shape)
    return pair.back(pair.mean * pair.spread(pair.signal / _positive(pair.total)))


def wiener_with(first: Tensor, second: Tensor, akin: Tensor, shape: Sequence[int]) -> Tensor:
    """Best linear estimate of a map from two independent noisy measurements of it and one of a related map.

    In addition to what :func:`wiener` measures, the cross-spectrum with the related map is measured in each band. The
    related map gets the weight that this implies, whatever its own noise and bias.

    Parameters
    ----------
    first, second, shape
        As in :func:`wiener`.
    akin
        Related maps around zero, (S, n), whose noise is independent of the two measurements.

    Returns
    -------
    Tensor
        Estimate of the maps, (S, n).
    """
    pair = _Pair(first, second, shape)
    other = pair.transform(akin)
    power, shared = pair.pool(other.abs().square()), pair.pool((pair.mean * other.conj()).real)
    most = (pair.signal * power).sqrt()
    shared = torch.minimum(torch.maximum(shared, -most), most)
    # [total, shared; shared, power] [gain, other gain] = [signal, shared], with total = signal + noise, written as a
    # sum of non-negative terms, so that noiseless measurements or identical maps do not divide by zero.
    apart = (pair.signal * power - shared.square()).clamp(min=0)
    noise = (pair.total - pair.signal) * power
    known = apart + noise
    certain = known <= 1e-6 * pair.total * power
    gain = torch.where(power > 0, apart / _positive(known), pair.signal / _positive(pair.total))
    gain = torch.where((power > 0) & certain, 1.0, gain)
    other_gain = torch.where(certain, 0.0, shared * (pair.total - pair.signal) / _positive(known))
    return pair.back(pair.mean * pair.spread(gain) + other * pair.spread(other_gain))


class _Pair:
    """Fourier transform of the mean of two measurements, with signal and total power in each band."""

    def __init__(self, first: Tensor, second: Tensor, shape: Sequence[int]) -> None:
        self.shape = tuple(shape)
        self._band, self._bands = _bands(shape, len(first), first.device)
        a, b = self.transform(first), self.transform(second)
        self.mean = (a + b) / 2
        self.total = self.pool(self.mean.abs().square())
        self.signal = torch.minimum(self.pool((a * b.conj()).real).clamp(min=0), self.total)

    def transform(self, maps: Tensor) -> Tensor:
        transformed: Tensor = torch.fft.fftn(maps.reshape(-1, *self.shape), dim=tuple(range(1, len(self.shape) + 1)))
        return transformed

    def back(self, transformed: Tensor) -> Tensor:
        maps: Tensor = torch.fft.ifftn(transformed, dim=tuple(range(1, len(self.shape) + 1)))
        return as_rows(maps.real)

    def pool(self, power: Tensor) -> Tensor:
        """Sum over samples and the frequencies of each band."""
        return power.new_zeros(self._bands).index_add_(0, self._band, power.sum(0).flatten())

    def spread(self, gains: Tensor) -> Tensor:
        """Expand one gain per band to all frequencies."""
        return gains[self._band].reshape(self.shape)


def _positive(power: Tensor) -> Tensor:
    return power.clamp(min=torch.finfo(power.dtype).tiny)


def _bands(shape: Sequence[int], samples: int, device: torch.device) -> tuple[Tensor, int]:
    """Band of each frequency: by radius over the long axes, separately for each pattern over the short ones."""
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
