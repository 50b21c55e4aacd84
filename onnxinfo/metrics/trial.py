"""A trial step: the gain of a move along the remaining gradient, measured on fresh noise.

Its direction comes from block averages at dyadic scales instead of the solver's filter, so that a fault of that filter
is detected. Base and trial share their noise, which makes their difference far more precise than either.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from .control import Control
from .halves import Halves
from .probe import LayerProbe, less_control
from .rows import as_rows

#: Axes up to this size (mostly channels) are not split into scales.
SHORT_AXIS = 4
#: Minimum number of noise samples whose spread is believed.
FEWEST = 4


@dataclass(frozen=True)
class Trial:
    """Trial step of each sample in a block; every tensor is (S,).

    Attributes
    ----------
    gain, gain_stderr
        Increase of the mean entropy at the met constraint, in nats, and its standard error.
    slope
        First-order prediction of the gain from the gradient, in nats.
    size
        Second-order loss of a linear layer, in nats: the mean square of the change of ``log sigma``.
    draws
        Number of noise samples.
    """

    gain: Tensor
    gain_stderr: Tensor
    slope: Tensor
    size: Tensor
    draws: int = 0

    @property
    def curvature(self) -> Tensor:
        """Curvature of the deviation along the step, 1 where the layer is linear."""
        return (self.slope - self.gain) / self.size.clamp(min=torch.finfo(self.size.dtype).tiny)

    @property
    def curvature_stderr(self) -> Tensor:
        """Standard error of the curvature due to the gain."""
        return self.gain_stderr / self.size.clamp(min=torch.finfo(self.size.dtype).tiny)


@dataclass(frozen=True)
class Sampling:
    """How many noise samples a step takes.

    Attributes
    ----------
    most
        Maximum number.
    is_enough
        Whether no more are needed: asked after a third of them, and each time that their number has doubled. None: all
        are drawn at once.
    """

    most: int
    is_enough: Callable[[Trial], bool] | None = None

    def portions(self) -> Iterator[int]:
        """Numbers of noise samples to draw one after the other."""
        first, done = self.most if self.is_enough is None else max(FEWEST, math.ceil(self.most / 3)), 0
        while done < self.most:
            count = min(done or first, self.most - done)
            yield count
            done += count


def pyramid(relative: Halves, shape: Sequence[int]) -> Tensor:
    """Estimate a map from two independent noisy measurements, scale by scale.

    Differences between block means at neighboring dyadic scales are weighted by the agreement of the two measurements,
    pooled over all samples.

    Parameters
    ----------
    relative
        The measurements, (S, n).
    shape
        Shape of one map.

    Returns
    -------
    Tensor
        (S, n).
    """
    halves = [half.reshape(len(half), *shape) for half in (relative.first, relative.second)]
    longest = max((length for length in shape if length > SHORT_AXIS), default=1)
    total, size = torch.zeros_like(halves[0]), 1
    while size < longest:
        size *= 2
        coarser = [_block_means(half, size) for half in halves]
        total += _agreed(*(half - coarse for half, coarse in zip(halves, coarser, strict=True)))
        halves = coarser
    return as_rows(total + _agreed(*halves))


def _agreed(first: Tensor, second: Tensor) -> Tensor:
    mean = (first + second) / 2
    power = mean.square().sum()
    shared = (first * second).sum().clamp(min=0)
    return mean * torch.where(power > 0, (shared / power).clamp(max=1.0), 0.0)


def _block_means(maps: Tensor, size: int) -> Tensor:
    """Means over blocks of the given size along the long axes, repeated over each block."""
    means = maps
    for axis in range(1, maps.dim()):
        length = maps.shape[axis]
        if length > SHORT_AXIS:
            blocks = max(1, math.ceil(length / size))
            flat = means.movedim(axis, -1)
            rows = flat.reshape(1, -1, length)
            pooled = torch.nn.functional.adaptive_avg_pool1d(rows, blocks)
            spread = interpolate(pooled, size=length, mode="nearest")
            means = spread.reshape(flat.shape).movedim(-1, axis)
    return means


def price_of(exponent: Tensor, free: Tensor, counted: Tensor) -> Tensor:
    """Mean entropy, in nats, that it costs to reduce the logarithm of the deviation by one, (S,).

    Only units below the cap pay: a common factor on these changes the mean by their share of its logarithm.

    Parameters
    ----------
    exponent
        Exponent of the deviation's growth with the scales of the free units, (S,).
    free, counted
        Counted units below the cap, and all counted units, (S, n) bool.
    """
    return free.sum(1) / counted.sum(1).clamp(min=1) / exponent


def try_step(
    feature: LayerProbe,
    sigma: Callable[[Tensor], Tensor],
    step: Tensor,
    slope: Tensor,
    size: Tensor,
    draws: Sampling,
    price: Tensor,
    control: Control | None = None,
) -> tuple[Trial, Tensor]:
    """Take a step and compare it with the current scales on shared fresh noise.

    Parameters
    ----------
    feature
        The layer on a block of S samples.
    sigma
        Maps a change of ``log sigma``, (S, n), to noise scales (S, n).
    step
        Change of ``log sigma``, (S, n).
    slope, size
        See :class:`Trial`.
    draws
        How many noise samples to take.
    price
        What meeting the constraint again costs; see :func:`price_of`, (S,).
    control
        Linear model of the layer, whose contribution to both deviations is known.

    Returns
    -------
    tuple
        The trial, and the deviations at the current scales, (draws, S).
    """
    before, after = sigma(torch.zeros_like(step)), sigma(step)
    entropy = (after.log() - before.log()).nan_to_num(0.0).sum(1) / (before > 0).sum(1).clamp(min=1)
    old, new = step.new_empty(0, feature.samples), step.new_empty(0, feature.samples)
    modeled = old, new
    for count in draws.portions():
        fresh, energies = _compared(feature, before, after, count, control)
        old, new = torch.cat([old, fresh[0]]), torch.cat([new, fresh[1]])
        modeled = torch.cat([modeled[0], energies[0]]), torch.cat([modeled[1], energies[1]])
        less = old, new
        if control is not None:
            less = (
                less_control(old, modeled[0], (before.square() * control.norms).sum(1)),
                less_control(new, modeled[1], (after.square() * control.norms).sum(1)),
            )
        trial = _priced(*less, entropy, slope, size, price)
        if draws.is_enough is not None and draws.is_enough(trial):
            break
    return trial, less[0]


def _compared(
    feature: LayerProbe, before: Tensor, after: Tensor, draws: int, control: Control | None
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Deviations at two noise scales under the same noise, and a control's energies, each (draws, S)."""
    found: tuple[list[Tensor], list[Tensor]] = ([], [])
    modeled: tuple[list[Tensor], list[Tensor]] = ([], [])
    with torch.no_grad():
        for count in feature.batches(draws, torch.stack([before, after]), parts=[*found, *modeled]):
            delta = torch.randn((count, feature.samples, feature.units), generator=feature.noise, device=before.device)
            for scales, parts, energies in zip((before, after), found, modeled, strict=True):
                x = (feature.x + (delta * scales).reshape(count, *feature.x.shape) * feature.unit).flatten(0, 1)
                parts.append(feature.deviation(feature.change(x)))
                if control is not None:
                    energies.append(control.apply(delta * scales)[0])
    old, new = (torch.cat(parts) for parts in found)
    if control is None:
        return (old, new), (old[:0], new[:0])
    first, second = (torch.cat(parts) for parts in modeled)
    return (old, new), (first, second)


def _priced(old: Tensor, new: Tensor, entropy: Tensor, slope: Tensor, size: Tensor, price: Tensor) -> Trial:
    """The trial step whose deviations are given, (draws, S)."""
    tiny = torch.finfo(old.dtype).tiny
    ratio = new.mean(0) / old.mean(0).clamp(min=tiny)
    # If no noise sample crosses any of a layer's rare steps, the ratio is bounded by that of a single crossing.
    ratio = torch.where(ratio > 0, ratio, old.amax(0) / old.sum(0).clamp(min=tiny))
    # Error of a ratio of means of paired samples.
    errors = (new - ratio * old) / old.mean(0).clamp(min=tiny)
    stderr = price * errors.std(0) / math.sqrt(len(old)) / ratio.clamp(min=tiny)
    return Trial(entropy - price * ratio.clamp(min=tiny).log(), stderr, slope, size, len(old))
