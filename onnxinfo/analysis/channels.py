"""Channels of a network: what they contribute to a target, and which ones can go together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import torch

from ..metrics.channel_effects import channel_effects, without_channels
from ..metrics.taps import TappedNetwork
from .job import Job
from .memory import for_each
from .sensitivity import channel_axis
from .settings import Progress, Report

Floats = npt.NDArray[np.float32]
#: Number of rounds in which channels are chosen; Jacobians are computed anew after each.
ROUNDS = 4


@dataclass(frozen=True)
class Choice:
    """Channels that were chosen.

    Attributes
    ----------
    removed
        Channels by layer, in the order of their choice.
    effects
        Contribution of each channel to the target before any is removed, one row per channel, (C, S m), by layer.
    change
        Mean squared change of the target without the channels, measured.
    """

    removed: dict[str, list[int]]
    effects: dict[str, Floats]
    change: float


class ChannelChooser:
    """Chooses channels of layers without which a target changes least.

    Parameters
    ----------
    job
        The job; the target is one of its layers.
    target
        Name of the target.
    axes
        Axis of the channels by layer, counted with the batch.
    report
        Receives progress.
    joint
        Groups of layers that lose the same channels; other layers lose their own.
    bundles
        Numbers of neighboring channels that can only go together, by layer; 1 if a layer is not named. Layers that lose
        the same channels have the same.
    """

    def __init__(
        self,
        job: Job,
        target: str,
        axes: Mapping[str, int],
        report: Report,
        joint: Sequence[Sequence[str]] = (),
        bundles: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        self._bundles = {name: bundles.get(name, 1) for name in axes}
        self._job, self._axes, self._report = job, axes, report
        grouped = {name for group in joint for name in group}
        self._groups = {group[0]: tuple(group) for group in (*joint, *([name] for name in axes if name not in grouped))}
        self._places = {layer.name: i for i, layer in enumerate(job.layers)}
        self._network = TappedNetwork(job.network, self._places[target])
        shapes = job.network.shapes(*job.inputs([0]))
        self._channels: list[tuple[tuple[int, ...], int] | None] = [None] * len(self._places)
        for name in axes:
            place = self._places[name]
            axis = channel_axis(job, place, shapes[place])
            assert axis is not None
            self._channels[place] = tuple(shapes[place]), axis

    def choose(self, counts: Mapping[str, int], rounds: int = ROUNDS) -> Choice:
        """Choose channels in rounds, each a share of them.

        Parameters
        ----------
        counts
            Number of channels to choose by layer; of bundles, where channels only go together.
        rounds
            Number of rounds.
        """
        removed: dict[str, list[int]] = {name: [] for name in self._axes}
        effects, clean = self.measure(removed, 0, rounds)
        now, moved = effects, np.zeros_like(clean)
        for done in range(1, rounds + 1):
            more = {
                name: counts[name] * done // rounds - len(channels) // self._bundles[name]
                for name, channels in removed.items()
            }
            for name, channels in self._chosen(now, more, moved, removed).items():
                removed[name] += channels
            now, target = self.measure(removed, done, rounds)
            moved = target - clean
        return Choice(removed, effects, self._change(removed))

    def _change(self, removed: Mapping[str, Sequence[int]]) -> float:
        """Return the mean squared change of all entries of the target without some channels."""
        at, total = self._without(removed), 0.0

        def add(block: list[int]) -> None:
            nonlocal total
            moves = 0.0
            for part, given in self._network.parts(*self._job.inputs(block)):
                clean, _ = self._network.begin(given, part.stop - part.start)
                with without_channels(self._network, at):
                    moved, _ = self._network.begin(given, part.stop - part.start)
                moves += float((moved - clean).double().square().sum())
            # At the end only: the work on a block is repeated if memory runs out.
            total += moves

        self._for_each(add)
        return total / len(self._job.provider)

    def _without(self, removed: Mapping[str, Sequence[int]]) -> dict[int, tuple[int, Sequence[int]]]:
        return {self._places[name]: (self._axes[name], channels) for name, channels in removed.items() if channels}

    def _for_each(self, work: Callable[[list[int]], None]) -> None:
        samples, size = range(len(self._job.provider)), self._job.batch_size
        for_each(self._job, [[*samples[start : start + size]] for start in range(0, len(samples), size)], work)

    def _chosen(
        self,
        effects: Mapping[str, Floats],
        counts: Mapping[str, int],
        moved: Floats,
        removed: Mapping[str, Sequence[int]],
    ) -> dict[str, list[int]]:
        """Choose channels by layer; the same ones in all layers of a group, whose contributions add up."""
        together, before = {}, {}
        for first, names in self._groups.items():
            size = self._bundles[first]
            summed = np.sum([effects[name] for name in names], axis=0) if len(names) > 1 else effects[first]
            together[first] = summed if size == 1 else summed.reshape(-1, size, summed.shape[1]).sum(1)
            before[first] = sorted({channel // size for channel in removed[first]})
        found = choose(together, counts, moved, before)
        return {name: _unbundled(found[first], self._bundles[first]) for first in found for name in self._groups[first]}

    def measure(
        self, removed: Mapping[str, Sequence[int]], done: int = 0, rounds: int = 0
    ) -> tuple[dict[str, Floats], Floats]:
        """Return each channel's contributions by layer, (C, S m), and the target, (S m,), without some channels."""
        samples = range(len(self._job.provider))
        total = (rounds + 1) * len(samples)
        parts: dict[str, list[Floats]] = {name: [] for name in self._axes}
        targets: list[Floats] = []

        def add(block: list[int]) -> None:
            # The same directions in every round.
            stream = self._job.stream("channels", block[0])
            probes = self._job.config.sensitivity.probes
            found, target = channel_effects(self._network, *self._job.inputs(block), self._channels, probes, stream)
            for name in self._axes:
                each = found[self._places[name]]
                assert isinstance(each, torch.Tensor)
                parts[name].append(each.flatten(1).cpu().numpy())
            targets.append(target.flatten().cpu().numpy())
            self._report(Progress("channels", done * len(samples) + block[-1] + 1, total))

        self._report(Progress("channels", done * len(samples), total))
        with without_channels(self._network, self._without(removed)):
            self._for_each(add)
        return {name: np.concatenate(each, 1) for name, each in parts.items()}, np.concatenate(targets)


def _unbundled(bundles: Sequence[int], size: int) -> list[int]:
    return [bundle * size + i for bundle in bundles for i in range(size)]


def choose(
    effects: Mapping[str, Floats],
    counts: Mapping[str, int],
    moved: Floats | None = None,
    removed: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, list[int]]:
    """Choose channels so that the target moves little in all: one after the other, that which adds least.

    Parameters
    ----------
    effects
        Contributions by layer, (C, n).
    counts
        Number of channels to choose by layer.
    moved
        By how much the target has moved already, (n,).
    removed
        Channels that were chosen before, by layer.

    Returns
    -------
    dict
        Chosen channels by layer, in the order of their choice.
    """
    names = [*effects]
    rows = np.concatenate([effects[name] for name in names])
    owner = np.repeat(range(len(names)), [len(effects[name]) for name in names])
    first = dict(zip(names, np.cumsum([0, *(len(effects[name]) for name in names[:-1])]), strict=True))
    own = np.einsum("cn,cn->c", rows, rows, dtype=np.float64)
    crossed = np.zeros(len(rows)) if moved is None else -(rows @ moved).astype(np.float64)
    left = [counts[name] for name in names]
    closed = np.isin(owner, [i for i, count in enumerate(left) if not count])
    for name, channels in (removed or {}).items():
        closed[first[name] + np.array(channels, int)] = True
    chosen: dict[str, list[int]] = {name: [] for name in names}
    for _ in range(sum(left)):
        best = int(np.argmin(np.where(closed, np.inf, own + 2 * crossed)))
        layer = int(owner[best])
        chosen[names[layer]].append(best - int(first[names[layer]]))
        crossed += rows @ rows[best]
        left[layer] -= 1
        closed[best] = True
        closed[owner == layer] |= not left[layer]
    return chosen
