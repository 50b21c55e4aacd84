"""Fourier transforms, windows and the mel scale. The last axis of a signal holds real or real and imaginary parts."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..element_types import single, torch_type
from ..host import HostValue, first_device, numbers
from .table import Floats, Ints, Sizes, operator


@operator("DFT", versions=(17, 19))
def DFT_17(input, dft_length: Ints = None, *, axis=1, inverse=0, onesided=0):
    return DFT(input, dft_length, [axis], inverse=inverse, onesided=onesided)


@operator(versions=(20, None))
def DFT(input, dft_length: Ints = None, axis: Ints = None, *, inverse=0, onesided=0):
    signal = _as_complex(single(input))
    # Axes are counted with the axis of the parts, which the complex signal no longer has.
    dim = (axis[0] if axis else -2) % input.dim()
    length = dft_length[0] if dft_length else None
    if onesided and inverse:
        return torch.fft.irfft(signal, length, dim).unsqueeze(-1).to(input.dtype)
    transform = torch.fft.ifft if inverse else torch.fft.rfft if onesided else torch.fft.fft
    return torch.view_as_real(transform(signal, length, dim).resolve_conj()).to(input.dtype)


@operator()
def STFT(signal, frame_step: Ints, window=None, frame_length: Ints = None, *, onesided=1):
    length = frame_length[0] if frame_length else signal.shape[1] if window is None else window.shape[0]
    frames = _as_complex(single(signal)).unfold(1, length, frame_step[0])
    frames = frames if window is None else frames * window
    transform = torch.fft.rfft if onesided else torch.fft.fft
    return torch.view_as_real(transform(frames).resolve_conj()).to(signal.dtype)


def _as_complex(signal: Tensor) -> Tensor:
    return signal.squeeze(-1) if signal.shape[-1] == 1 else torch.view_as_complex(signal.contiguous())


@operator()
def HannWindow(size: Sizes, *, output_datatype=1, periodic=1):
    return _window(size, (0.5, 0.5), periodic, output_datatype)


@operator()
def HammingWindow(size: Sizes, *, output_datatype=1, periodic=1):
    return _window(size, (25 / 46, 21 / 46), periodic, output_datatype)


@operator()
def BlackmanWindow(size: Sizes, *, output_datatype=1, periodic=1):
    return _window(size, (0.42, 0.5, 0.08), periodic, output_datatype)


def _window(size: Tensor | HostValue, coefficients: tuple[float, ...], periodic: int, type: int) -> Tensor:
    """Sum of cosines with alternating signs."""
    (n,) = numbers(size)
    angle = 2 * math.pi * torch.arange(n, dtype=torch.float64, device=first_device(size)) / (n if periodic else n - 1)
    cosines = [(-1) ** k * c * torch.cos(k * angle) for k, c in enumerate(coefficients)]
    return torch.stack(cosines).sum(0).to(torch_type(type))


@operator()
def MelWeightMatrix(
    num_mel_bins: Ints,
    dft_length: Ints,
    sample_rate: Ints,
    lower_edge_hertz: Floats,
    upper_edge_hertz: Floats,
    *,
    output_datatype=1,
):
    low, high = (2595 * math.log10(1 + edge[0] / 700) for edge in (lower_edge_hertz, upper_edge_hertz))
    edges = num_mel_bins[0] + 2
    mel = low + torch.arange(edges, dtype=torch.float64) * (high - low) / edges
    hertz = 700 * (10 ** (mel / 2595) - 1)
    bins = torch.floor((dft_length[0] + 1) * hertz / sample_rate[0])
    left, center, right = bins[:-2], bins[1:-1], bins[2:]
    spectrum = torch.arange(dft_length[0] // 2 + 1).unsqueeze(-1)
    rising = torch.where(center > left, (spectrum - left) / (center - left), 1.0)
    falling = (right - spectrum) / (right - center)
    inside = (spectrum >= left) & (spectrum <= center)
    triangles = torch.where(inside, rising, torch.where((spectrum > center) & (spectrum < right), falling, 0.0))
    return triangles.to(torch_type(output_datatype))
