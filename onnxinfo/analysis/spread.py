"""Mean, variance and range of a job's inputs over the samples, per channel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..errors import InputError
from ..inputs.axes import channel_axis
from ..inputs.parts import InputPart
from ..text import numbered, quoted
from .job import Job

# Samples that are read at a time, in 64 bits.
_READ = 16

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Spread:
    """How the inputs of a job spread over all samples and the positions of a channel.

    Unlike the job's unit, it is measured at every sample, whatever the preprocessing divides by. Constant channels have
    nothing to reconstruct: their units are not counted.

    Attributes
    ----------
    job
        The samples, and the units that are counted and vary.
    constant
        Number of counted units of constant channels, the mean over the samples.
    groups
        Number of each unit's channel, (n,).
    variance, range
        By channel, (channels,): 0 if it is constant; NaN where no unit is counted.
    errors
        Mean over the samples of the squared distances of a channel's units from its mean, divided by the number of the
        sample's units that are counted and vary, (channels,).
    """

    job: Job
    constant: float
    groups: npt.NDArray[np.intp]
    variance: Floats
    range: Floats
    errors: Floats

    @classmethod
    def of(cls, job: Job) -> Spread:
        """Measure the inputs of a job.

        Raises
        ------
        InputError
            They are constant over all samples.
        """
        groups = _channels(job)
        size = int(groups.max()) + 1
        count, total = np.zeros(size), np.zeros(size)
        low, high = np.full(size, np.inf), np.full(size, -np.inf)
        for x, counted in _values(job):
            count += np.bincount(groups, counted.sum(0), size)
            total += np.bincount(groups, np.where(counted, x, 0).sum(0), size)
            np.minimum.at(low, groups, np.where(counted, x, np.inf).min(0))
            np.maximum.at(high, groups, np.where(counted, x, -np.inf).max(0))
        if not (high > low).any():
            over = numbered(len(job.provider), "sample")
            raise InputError(f"{quoted(job.provider.input_tensor)} is constant over {over}; give others")
        seen = count > 0
        mean = np.divide(total, count, out=np.full(size, np.nan), where=seen)
        varying = _varying(job, (high > low)[groups])
        squares, errors, samples = np.zeros(size), np.zeros(size), 0
        for x, counted in _values(varying):
            apart = np.square(np.where(counted, x - mean[groups], 0))
            units = counted.sum(1, keepdims=True)
            squares += np.bincount(groups, apart.sum(0), size)
            errors += np.bincount(groups, (apart / np.maximum(units, 1)).sum(0), size)
            samples += int((units > 0).sum())
        variance = np.divide(squares, count, out=np.full(size, np.nan), where=seen)
        constant = float(count[seen & (high <= low)].sum()) / len(job.provider)
        return cls(varying, constant, groups, variance, np.where(seen, high - low, np.nan), errors / samples)

    def deviations(self) -> Tensor:
        """Standard deviation of each unit's channel, like the job's unit; 1 for channels that are not counted."""
        return self._like_unit(np.where(self.variance > 0, np.sqrt(self.variance), 1.0))

    def ranges(self) -> Tensor:
        """Range of each unit's channel, like the job's unit; 1 for channels that are not counted."""
        return self._like_unit(np.where(self.range > 0, self.range, 1.0))

    def guess(self, unit: Tensor) -> float:
        """Mean over the samples of the mean squared error, per counted unit, of guessing each channel's mean."""
        return float((self.errors / np.square(self._by_channel(unit))).sum())

    def _by_channel(self, unit: Tensor) -> Floats:
        found = np.ones(len(self.variance))
        found[self.groups] = np.broadcast_to(unit.double().cpu().numpy(), self.job.shape).reshape(-1)
        return found

    def _like_unit(self, by_channel: Floats) -> Tensor:
        unit = self.job.unit
        # All units along an axis of size 1 have the same channel.
        firsts = tuple(slice(0, size) for size in unit.shape)
        values = by_channel[self.groups.reshape(self.job.shape)[firsts]]
        return torch.from_numpy(values).to(unit)


def _varying(job: Job, varies: npt.NDArray[np.bool_]) -> Job:
    """Return the job without the units that do not vary, (n,)."""
    if varies.all():
        return job
    own = torch.from_numpy(varies)
    counted = own.expand(len(job.provider), -1) if job.units is None else job.units & own
    return replace(job, units=counted)


def _channels(job: Job) -> npt.NDArray[np.intp]:
    """Number of each unit's channel, (n,): channels of different tensors have different numbers."""
    provider, found, size = job.provider, [], 0
    if not provider.parts:
        places_of_unit = np.arange(job.unit.numel()).reshape(job.unit.shape)
        return np.broadcast_to(places_of_unit, job.shape).reshape(-1)
    for part in provider.parts:
        own = _channels_of(part)
        found.append(own + size)
        size += int(own.max()) + 1
    return np.concatenate(found)


def _channels_of(part: InputPart) -> npt.NDArray[np.intp]:
    axis = channel_axis(part.axes)
    shape = [size if position == axis else 1 for position, size in enumerate(part.shape)]
    return np.broadcast_to(np.arange(np.prod(shape, dtype=int)).reshape(shape), part.shape).reshape(-1)


def _values(job: Job) -> Iterator[tuple[Floats, npt.NDArray[np.bool_]]]:
    """Samples and which of their units are counted, a batch of (S, n) at a time."""
    for start in range(0, len(job.provider), _READ):
        block = range(start, min(start + _READ, len(job.provider)))
        x = job.provider.perturbed(block).reshape(len(block), -1).astype(np.float64)
        yield x, np.ones(x.shape, bool) if job.units is None else job.units[list(block)].numpy()
