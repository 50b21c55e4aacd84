"""A network whose activations are rounded to 8 bits or fewer."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..errors import UsageError
from ..graph.layers import Layer, list_layers
from ..metrics.taps import TappedNetwork
from ..text import quoted
from .accuracy import check_labels
from .bits import STORED_BITS, Grid
from .job import Job, convert_layers, make_job
from .memory import for_each
from .settings import Progress, Report


class Rounding:
    """A network in which any tensor that leads to a target can be rounded, to evaluate what that does.

    Parameters
    ----------
    job
        Prepared job; the target is one of its layers.
    target
        Name of the target.
    report
        Receives progress.
    """

    def __init__(self, job: Job, target: str, report: Report) -> None:
        self._job, self._target, self._report = job, target, report
        model = job.provider.model
        self.layers = {
            layer.name: layer
            for layer in (*_given(job), *list_layers(model, job.provider.tensors))
            if layer.name not in model.parts and target in {layer.name, *model.flow.influenced(layer.name)}
        }
        #: Tensors that are rounded to the grids of others, with these.
        self.sources: Mapping[str, str] = {}
        self._changes: dict[tuple[str, str], float] = {}
        self._ranges: dict[str, tuple[float, float]] = {}
        self._wide = job
        self._network: TappedNetwork | None = None

    def check(self, wanted: float) -> None:
        """Refuse an accuracy of a target that has no class scores, or that the float network has not."""
        labels, place = self._labels(), [layer.name for layer in self._job.layers].index(self._target)
        shape = self._job.network.part([place]).shapes(*self._job.inputs([0]))[0]
        if len(shape) != 1:
            raise UsageError(
                f"accuracy is of class scores, and {quoted(self._target)} has shape {shape} per sample; give the "
                "target=... that holds the scores"
            )
        check_labels(labels, shape[0])
        clean = self.accuracy({})
        if clean < wanted:
            raise UsageError(f"accuracy={wanted:g} cannot be met: the float network has {clean:.3f} on these samples")

    def accuracy(self, grids: Mapping[str, Grid]) -> float:
        """Return the accuracy with some tensors rounded."""
        self._open(grids)
        scores: list[Tensor] = []
        self._for_each(lambda block: scores.append(self._scores(grids, block).cpu()))
        return float((torch.cat(scores).argmax(1).numpy() == self._labels()).mean())

    def changes(self, names: Collection[str]) -> dict[str, float]:
        """Return the mean squared change of the target if each tensor alone is rounded to the quantizer's 8 bits.

        It is measured with rounded values, so that it holds for errors of any size; infinite if it is not finite.

        Parameters
        ----------
        names
            Tensors among :attr:`layers`.
        """
        new = sorted(name for name in set(names) if self._key(name) not in self._changes)
        if new:
            grids = self.grids(new)
            totals = dict.fromkeys(grids, 0.0)
            samples, done = len(self._job.provider), 0
            self._report(Progress("rounding", 0, samples))

            def add(block: list[int]) -> None:
                nonlocal done
                for name, change in self._moves(grids, block).items():
                    totals[name] += change / samples
                done += len(block)
                self._report(Progress("rounding", done, samples))

            self._for_each(add)
            endless = {name for name in new if not np.isfinite(self._ranges[self._source(name)]).all()}
            for name in new:
                total = np.inf if name in endless else totals.get(name, 0.0)
                self._changes[self._key(name)] = total if np.isfinite(total) else np.inf
        return {name: self._changes[self._key(name)] for name in names}

    def _source(self, name: str) -> str:
        """Tensor whose grid a tensor has."""
        return self.sources.get(name, name)

    def _key(self, name: str) -> tuple[str, str]:
        return name, self._source(name)

    def grids(self, names: Collection[str]) -> dict[str, Grid]:
        """Return the quantizer's own grids of tensors: 8 bits over the range at the samples.

        Tensors of zeros, and those with infinite values, have none. Those in :attr:`sources` have the grid of another
        tensor.
        """
        sources = {name: self._source(name) for name in names}
        new = sorted(set(sources.values()).difference(self._ranges))
        self._open({*sources, *sources.values()})
        if new:
            self._ranges |= dict.fromkeys(new, (0.0, 0.0))
            self._for_each(lambda block: self._widen(new, block))
        ranges = {
            name: (0.0, 1.0) if self.layers[source].op == "Softmax" else self._ranges[source]
            for name, source in sources.items()
        }
        return {name: Grid(low, high, STORED_BITS) for name, (low, high) in ranges.items() if 0 < high - low < np.inf}

    def _open(self, names: Collection[str]) -> None:
        """Make the network have taps at some tensors."""
        known = {layer.name for layer in self._wide.layers}
        missing = [layer for name, layer in self.layers.items() if name in names and name not in known]
        if missing:
            self._wide = _widened(self._job, [*self._wide.layers, *missing])
        if missing or self._network is None:
            self._places = {layer.name: i for i, layer in enumerate(self._wide.layers)}
            self._network = TappedNetwork(self._wide.network, self._places[self._target])

    def _for_each(self, work: Any) -> None:
        samples, size = range(len(self._job.provider)), self._wide.batch_size
        for_each(self._wide, [[*samples[start : start + size]] for start in range(0, len(samples), size)], work)

    def _labels(self) -> npt.NDArray[np.int64]:
        labels = self._job.provider.main.labels
        if labels is None:
            raise UsageError("accuracy is of labeled samples; give labels=...")
        return labels

    def _parts(self, block: Sequence[int]) -> Iterator[tuple[int, list[Tensor]]]:
        """Inputs of the graph that are evaluated at once, with their numbers of samples."""
        assert self._network is not None
        for at, given in self._network.parts(*self._wide.inputs(block)):
            yield at.stop - at.start, given

    def _widen(self, names: Sequence[str], block: list[int]) -> None:
        network = self._network
        assert network is not None
        for count, given in self._parts(block):
            network.begin(given, count)
            for name in names:
                seen, (low, high) = network.taps[self._places[name]].seen, self._ranges[name]
                if not seen.numel():
                    continue
                self._ranges[name] = min(low, float(seen.min())), max(high, float(seen.max()))

    def _moves(self, grids: Mapping[str, Grid], block: list[int]) -> dict[str, float]:
        """Squared change of the target by each rounding alone, summed over a block."""
        network = self._network
        assert network is not None
        totals = dict.fromkeys(grids, 0.0)
        for count, given in self._parts(block):
            clean, values = network.begin(given, count)
            for name, grid in grids.items():
                moved = network.resume(values, self._places[name], _errors(grid), count)
                totals[name] += float((moved - clean).double().square().sum())
        return totals

    def _scores(self, grids: Mapping[str, Grid], block: list[int]) -> Tensor:
        network = self._network
        assert network is not None
        for name, grid in grids.items():
            network.taps[self._places[name]].noise = _errors(grid)
        try:
            return torch.cat([network.begin(given, count)[0] for count, given in self._parts(block)])
        finally:
            for tap in network.taps:
                tap.noise = None


def _given(job: Job) -> list[Layer]:
    """Return the analyzed tensors, and the other float inputs of the graph, as layers."""
    provider, flow = job.provider, job.provider.model.flow
    # Several analyzed tensors are parts of one input, which the original model has not; and what the analyzed tensors
    # are computed from has no influence here.
    others = [
        name
        for name in provider.samples.inputs
        if name != provider.input_tensor
        and flow.is_float(name)
        and not flow.influenced(name).intersection(provider.tensors)
    ]
    names = [*provider.tensors, *others]
    return [Layer(-1, name, "", "", flow.shape(name), 0, 0, default=False) for name in names]


def _errors(grid: Grid) -> Any:
    return lambda value: grid.rounded(value) - value


def _widened(job: Job, layers: Sequence[Layer]) -> Job:
    """Return a job with more layers, evaluated as the given one: only its target needs a batch axis."""
    converted = convert_layers(job.provider, [layer.name for layer in layers])
    others = converted.conditioning_inputs
    made = make_job(job.provider, layers, job.settings, converted.module, others, job.unit, job.device)
    axes = dict(zip([layer.name for layer in job.layers], job.network.axes, strict=True))
    made.network.set_batching(job.network.mode, [axes.get(layer.name, 0) for layer in layers])
    made.config, made.source, made.memory, made.batch_size = job.config, job.source, job.memory, job.batch_size
    return made
