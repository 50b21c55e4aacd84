"""Decide whether the change caused by noise is carried through the network in bfloat16, and check that it agrees."""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from .budget import is_exhaustion
from .differences import Differences, UnsupportedGraphError, differences
from .noise import generator
from .probe import LayerProbe

logger = logging.getLogger(__name__)

#: Operations per input in products with weights below which float32 is about as fast.
LEAST_PRODUCTS = 4e6
#: Largest relative differences from the float32 network: of a sample's deviation, and of its gradient.
OF_DEVIATION, OF_GRADIENT = 0.03, 0.15
#: Time of a convolution in bfloat16, relative to float32, below which passes are carried in bfloat16; the least of this
#: many measurements counts, of a convolution between so many channels, in images of this side.
FASTER, TIMINGS, TIMED_CHANNELS, TIMED_SIDE = 0.8, 7, 64, 28
#: Noise samples of the check, and of the comparison of deviations at certified scales.
CHECKED_NOISES, COMPARED_NOISES = 2, 4


class DisagreementError(Exception):
    """The deviations differ from those of the float32 network."""


def carried(feature: LayerProbe, sigma: Tensor) -> Differences | None:
    """Changes in bfloat16 where they are allowed, faster, and agree with the network's at every sample; else None.

    Parameters
    ----------
    feature
        The layer on a block of S samples.
    sigma
        Noise scales, (S, n), standardized.
    """
    if feature.precision == "float32":
        return None
    # The activations that are kept for every sample take at most as much memory as those of a pass.
    if feature.samples > feature.batch_size:
        logger.debug("noise in float32: %d samples, %d inputs at once", feature.samples, feature.batch_size)
        return None
    try:
        found = differences(feature.network, feature.x)
    except UnsupportedGraphError as error:
        logger.debug("noise in float32: %s", error)
        return None
    if feature.precision == "auto" and found.products < LEAST_PRODUCTS:
        return None
    try:
        of_deviation, of_gradient = _apart(feature, found, sigma)
    except RuntimeError as error:
        if is_exhaustion(error):
            raise
        logger.debug("noise in float32, because bfloat16 fails: %s", error)
        return None
    agrees = of_deviation <= OF_DEVIATION and of_gradient <= OF_GRADIENT
    message = "noise in bfloat16 %s float32: deviations differ by %.4f, gradients by %.4f"
    logger.debug(message, "instead of" if agrees else "does not agree with", of_deviation, of_gradient)
    return found if agrees else None


def resolved(precision: str, device: torch.device) -> str:
    """Precision for a run's layers, given that of the settings: ``auto`` is float32 on devices slow at bfloat16.

    On the others it stays ``auto``: bfloat16 in layers with enough products.
    """
    return "float32" if precision == "auto" and not is_fast(device) else precision


def is_fast(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 numbers faster than float32 numbers.

    Instructions for it are no proof: on some processors they take twice as long as those for float32.
    """
    return has_instructions(device) and relative_time() < FASTER


def has_instructions(device: torch.device) -> bool:
    """Whether a device is a CPU with instructions for bfloat16."""
    names = "_is_avx512_bf16_supported", "_is_amx_tile_supported"
    return device.type == "cpu" and any(getattr(torch.cpu, name, bool)() for name in names)


@functools.cache
def relative_time() -> float:
    """Time of a convolution in bfloat16, relative to float32, on this processor."""
    runs = [_convolution(dtype) for dtype in (torch.float32, torch.bfloat16)]
    shortest = [math.inf, math.inf]
    for _ in range(TIMINGS):
        # In turns, so that other work on the processor slows both down.
        shortest = [min(least, _seconds(run)) for least, run in zip(shortest, runs, strict=True)]
    logger.debug("a convolution takes %.4f s in float32, %.4f s in bfloat16", *shortest)
    return shortest[1] / shortest[0] if shortest[0] else math.inf


def _convolution(dtype: torch.dtype) -> Callable[[], Tensor]:
    weight = torch.ones(TIMED_CHANNELS, TIMED_CHANNELS, 3, 3, dtype=dtype)
    x = torch.ones(2, TIMED_CHANNELS, TIMED_SIDE, TIMED_SIDE, dtype=dtype)
    weight, x = (each.contiguous(memory_format=torch.channels_last) for each in (weight, x))
    run = functools.partial(conv2d, x, weight, padding=1)
    run()
    return run


def _seconds(run: Callable[[], Tensor]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def factor_to_float32(feature: LayerProbe, sigma: Tensor, effort: int = 1) -> Tensor:
    """Deviation of the float32 network in units of the measured one, on shared noise, (S,).

    Parameters
    ----------
    feature, sigma
        The layer, and its noise scales (S, n).
    effort
        Factor on the number of noise samples.

    Raises
    ------
    DisagreementError
        It is far from one.
    """
    if feature.differences is None:
        return torch.ones_like(sigma[:, 0])
    narrow, wide = torch.zeros_like(sigma[:, 0]), torch.zeros_like(sigma[:, 0])
    evaluated = feature.in_float32()
    with torch.no_grad():
        for count in feature.batches(effort * COMPARED_NOISES, sigma, [narrow, wide]):
            _, x = feature.perturb(sigma, count)
            narrow += feature.deviation(feature.change(x)).sum(0)
            wide += evaluated.deviation(evaluated.change(x)).sum(0)
    factor = torch.where(wide == narrow, 1.0, wide / narrow)
    apart = torch.where(wide.isnan(), 0.0, (factor - 1).abs())
    # A deviation that is zero or unknown only in bfloat16 makes this infinite or NaN.
    if not bool((apart <= OF_DEVIATION).all()):
        raise DisagreementError(f"deviations differ by up to {float(apart.max()):.3f}")
    return factor


def _apart(feature: LayerProbe, found: Differences, sigma: Tensor) -> tuple[float, float]:
    """Largest relative difference of a sample's deviation and gradient."""
    draws = min(CHECKED_NOISES, feature.batch_size)
    # With a stream of its own, a check that fails does not change the result.
    stream = generator(feature.x.device, "noise precision")
    noise = torch.randn((draws, *feature.x.shape), generator=stream, device=feature.x.device)
    noise *= sigma.reshape(feature.x.shape) * feature.unit
    # A few samples at a time: the check takes memory beside the activations that are kept.
    size = max(1, feature.batch_size // (2 * draws))
    parts = [
        torch.arange(i, min(i + size, feature.samples), device=noise.device) for i in range(0, feature.samples, size)
    ]
    apart = [_apart_at(feature.at(part), found.at(part), noise[:, part]) for part in parts]
    # Unlike Python's, this maximum of a NaN is NaN.
    of_deviation, of_gradient = torch.tensor(apart).amax(0).tolist()
    return of_deviation, of_gradient


def _apart_at(feature: LayerProbe, found: Differences, noise: Tensor) -> tuple[float, float]:
    narrow = dataclasses.replace(feature)
    narrow.differences = found
    x = (feature.x + noise).flatten(0, 1)
    (deviation, gradient), (other, near) = (_response(each, x) for each in (feature, narrow))
    apart, size = (each.square().sum((0, 2)).sqrt() for each in (gradient - near, gradient))
    return _largest((deviation - other).sum(0).abs(), deviation.sum(0)), _largest(apart, size)


def _largest(difference: Tensor, whole: Tensor) -> float:
    """Largest relative difference of a sample, from (S,)."""
    return float((difference / whole.clamp(min=torch.finfo(whole.dtype).tiny)).max())


def _response(feature: LayerProbe, x: Tensor) -> tuple[Tensor, Tensor]:
    """Deviation (draws, S) and its gradient (draws, S, n) at perturbed inputs (draws * S, *shape)."""
    leaf = x.clone().requires_grad_(True)
    change = feature.change(leaf)
    (gradient,) = torch.autograd.grad(change, leaf, change.detach())
    return feature.deviation(change.detach()), gradient.reshape(-1, feature.samples, feature.units)
