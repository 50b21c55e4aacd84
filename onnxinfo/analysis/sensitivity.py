"""Sensitivity of a target layer to noise on the layers before it, over all samples of a job."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..config import SensitivityConfig
from ..errors import UsageError
from ..graph.channels import tensor_axes
from ..graph.layers import Layer, select_layers
from ..graph.model import Model
from ..graph.quantization import rounds
from ..graph.scores import makes_probabilities, score_tensor
from ..graph.surgery import expose_only
from ..metrics.rows import as_rows
from ..metrics.sensitivity import (
    MOST_MULTIPLIED,
    Divergence,
    Effect,
    Jacobians,
    Squared,
    multiplied_jacobians,
    squared_jacobians,
)
from ..metrics.taps import TappedNetwork
from ..metrics.tolerance import Tolerance
from ..text import quoted
from ..torch_graph.dequantize import dequantize
from ..torch_graph.runtime import Session
from .job import Job
from .memory import for_each
from .settings import Progress, Report
from .tolerances import Predicted, jacobians_at_once, measure_tolerances

Floats = npt.NDArray[np.float64]
#: Names of the ways to state a change of the target.
RELATIVE, ABSOLUTE, KL = "relative", "absolute", "kl"


@dataclass(frozen=True)
class Change:
    """Change of the target that a tensor's noise may cause.

    Attributes
    ----------
    kind
        ``relative``: mean squared change over the target's variance over the samples, both summed over its entries;
        ``absolute``: mean squared change, summed over the entries; ``kl``: mean divergence of the class probabilities
        in nats.
    amount
        The amount.
    """

    kind: str
    amount: float

    @classmethod
    def of(cls, settings: SensitivityConfig) -> Change:
        """Return the change that the settings name."""
        kind, _, amount = str(settings.change).partition(":")
        return cls(kind, float(amount))

    def __str__(self) -> str:
        return f"{self.kind}:{self.amount:g}"

    @property
    def effect(self) -> Effect:
        """Measure of the target's moves."""
        return Divergence() if self.kind == KL else Squared()


@dataclass(frozen=True)
class Measured:
    """What was measured at one tensor.

    Attributes
    ----------
    layer
        The tensor.
    trace, trace_stderr
        ``tr(J^T J)`` at each sample, and its standard error over probes, (S,).
    effect
        Effect of noise per squared noise scale at each sample, (S,).
    mean, square, low, high
        Mean, mean square, minimum and maximum of the tensor's values at each sample, (S,).
    units
        Squared Jacobian of each unit, averaged over the samples, in the tensor's shape.
    axis
        Axis of the channels, or None.
    predicted
        Noise scale predicted by the quadratic form, NaN where there is none.
    tolerance
        The noise scale; measured, if it was asked for.
    mark
        Empty, or why there is no number.
    """

    layer: Layer
    trace: Floats
    trace_stderr: Floats
    effect: Floats
    mean: Floats
    square: Floats
    low: Floats
    high: Floats
    units: Floats
    axis: int | None
    predicted: float
    tolerance: Tolerance
    mark: str

    @property
    def std(self) -> float:
        """Standard deviation of all of the tensor's values."""
        return float(np.sqrt(max(self.square.mean() - self.mean.mean() ** 2, 0.0)))

    @property
    def channels(self) -> Floats:
        """Squared Jacobian of each channel, summed over its units; of each unit, if there are no channels."""
        if self.axis is None:
            return self.units.reshape(-1)
        others = tuple(axis for axis in range(self.units.ndim) if axis != self.axis)
        return np.asarray(self.units.sum(others))


def measured(settings: SensitivityConfig) -> bool:
    """Whether tolerances are measured with noise, instead of predicted."""
    return settings.measure or Change.of(settings).kind == KL


def find_target(model: Model, listed: Sequence[Layer], wanted: SensitivityConfig) -> Layer:
    """Return the layer whose change is measured: the class scores, or the last default layer, if none is named.

    Raises
    ------
    UsageError
        The name matches several layers or none, or the layer has no class probabilities although the change is one of
        these.
    """
    scores, wanted_change = class_scores(model), Change.of(wanted)
    last = [each for each in listed if each.default] or listed
    # Probabilities in elementary operators are no default layer; what they are computed from is the last one.
    default = next((each for each in last if each.name == scores), last[-1])
    if wanted.target is not None:
        found = select_layers(listed, [wanted.target])
        if len(found) > 1:
            names = ", ".join(quoted(each.name) for each in found[:3])
            raise UsageError(f"target {quoted(wanted.target)} matches {len(found)} layers ({names}, ...); name one")
        target = found[0]
    else:
        target = default
    has_classes = scores is not None and (
        target.name in (scores, default.name) or makes_probabilities(model, target.name)
    )
    if wanted_change.kind == KL and not has_classes:
        hint = f"give target={scores!r}" if scores else "the model is no classifier: give relative:X or absolute:X"
        raise UsageError(f"change '{wanted_change}' needs class scores, and {quoted(target.name)} has none; {hint}")
    return target


def class_scores(model: Model) -> str | None:
    """Name of the class scores; None without any, or if a sigmoid makes them independent."""
    try:
        name = score_tensor(model)
    except UsageError:
        return None
    flow = model.flow
    consumers = (flow.nodes[position].op_type for position in flow.consumers.get(name, ()))
    return None if "Sigmoid" in consumers else name


def check_change(job: Job, target: str) -> None:
    """Check that the change can be measured at a target.

    Raises
    ------
    UsageError
        There are no class probabilities, a single sample, of which there is no variance, or the change is below the
        model's own rounding or that of the target's floats.
    """
    change = Change.of(job.config.sensitivity)
    shape = job.network.part([_position(job, target)]).shapes(*job.inputs([0]))[0]
    if change.kind == KL and (len(shape) != 1 or shape[0] < 2):
        raise UsageError(
            f"change '{change}' is of class probabilities, and {quoted(target)} has shape {shape} per sample; give "
            f"relative:X, or the target that holds the scores"
        )
    if change.kind == RELATIVE and len(job.provider) < 2:
        raise UsageError(f"change '{change}' is relative to the variance over samples, of which there is one; add more")
    _check_rounding(job, target, change)


def _check_rounding(job: Job, target: str, change: Change) -> None:
    """Refuse a change that is smaller than what the model's own rounding causes."""
    model, samples = job.provider.model, range(len(job.provider))
    if rounds(model.proto):
        float_model = dequantize(model)
        rounded, exact = (
            as_rows(torch.from_numpy(job.provider.run(Session(expose_only(each, [name])), samples)[name]).double())
            for each, name in ((model, target), (float_model, _without_rounding(model, float_model, target)))
        )
        what, advice = "the model's own rounding", ", or dequantize=True"
    else:
        exact, rounded = _rounded_floats(job, target)
        what, advice = f"the rounding of {quoted(target)} to its floats", ""
    if change.kind == KL and _are_probabilities(exact):
        more = ", or dequantize=True" if rounds(model.proto) else ""
        raise UsageError(
            f"change '{change}' needs class scores, and {quoted(target)} has probabilities; give the target that holds "
            f"the scores{more}"
        )
    floor, wanted = float(change.effect.measure(exact, rounded).mean()), _wanted(change, exact, target)
    if floor > wanted:
        least = replace(change, amount=_rounded_up(change.amount * (floor / wanted)))
        raise UsageError(
            f"change '{change}' is below what {what} causes, which is {floor / wanted:.2g} times as much; give at "
            f"least '{least}'{advice}"
        )


def _without_rounding(model: Model, float_model: Model, name: str) -> str:
    """Name of a tensor in the float model, which lacks those that are only rounded."""
    while name not in float_model.flow.producer and name in model.flow.producer:
        name = model.flow.nodes[model.flow.producer[name]].input[0]
    return name


def _are_probabilities(target: Tensor) -> bool:
    """Whether all rows, (S, m), are numbers from 0 to 1 that sum to 1, up to rounding to 8 bits."""
    sums = target.sum(1)
    return bool((target >= 0).all() and (target <= 1.01).all() and ((sums - 1).abs() < 0.05).all())


def _rounded_floats(job: Job, target: str) -> tuple[Tensor, Tensor]:
    """Target at all samples, and the same moved by the standard deviation of its rounding, each (S, m).

    Errors of rounding are uniform between half a step below and above: their deviation is the step over the root of 12.
    """
    part, samples = job.network.part([_position(job, target)]), range(len(job.provider))
    found: list[Tensor] = []
    blocks = [list(samples[start : start + job.batch_size]) for start in range(0, len(samples), job.batch_size)]

    def add(block: list[int]) -> None:
        with torch.no_grad():
            found.append(as_rows(part(*job.inputs(block))[0]).cpu())

    for_each(job, blocks, add)
    exact = torch.cat(found)
    steps = torch.nextafter(exact.abs(), torch.full_like(exact, math.inf)) - exact.abs()
    signs = 2 * torch.randint(2, exact.shape, generator=torch.Generator().manual_seed(0)) - 1
    return exact.double(), exact.double() + signs * steps.double() / math.sqrt(12)


def _rounded_up(amount: float) -> float:
    """Amount that is at least the given one, in two digits."""
    return float(f"{amount * 1.05:.1e}")


def _entries(job: Job, target: str) -> int:
    """Number of the target's entries."""
    return math.prod(job.network.part([_position(job, target)]).shapes(*job.inputs([0]))[0])


def _position(job: Job, name: str) -> int:
    return next(i for i, layer in enumerate(job.layers) if layer.name == name)


def measure_sensitivity(
    job: Job, target: str, names: Collection[str], report: Report, *, measure: bool = True
) -> list[Measured]:
    """Measure the sensitivity of a target to layers of a job.

    Parameters
    ----------
    job
        The job; the target is one of its layers.
    target
        Name of the target.
    names
        Names of the layers.
    report
        Receives progress.
    measure
        Whether noise corrects the tolerances if the settings say so.

    Raises
    ------
    UsageError
        The target is the same at all samples.
    """
    settings = job.config.sensitivity
    change = Change.of(settings)
    network = TappedNetwork(job.network, _position(job, target))
    samples = range(len(job.provider))
    controlled = measure and measured(settings) and _entries(job, target) <= MOST_MULTIPLIED
    size = jacobians_at_once(job, _entries(job, target)) if controlled else job.batch_size
    blocks = [list(samples[start : start + size]) for start in range(0, len(samples), size)]
    totals = _Totals()
    report(Progress("sensitivity", 0, len(samples)))

    def add(block: list[int]) -> None:
        x, rows = job.inputs(block)
        stream = job.stream("sensitivity", block[0])
        totals.add(
            multiplied_jacobians(network, x, rows, change.effect)
            if controlled
            else squared_jacobians(network, x, rows, change.effect, settings.probes, stream)
        )
        report(Progress("sensitivity", totals.samples, len(samples)))

    for_each(job, blocks, add)
    wanted = _wanted(change, totals.target, target)
    marks = [_mark(job, totals, i) if layer.name in names else "hidden" for i, layer in enumerate(job.layers)]
    effects = totals.by_layer("effect").mean(1)
    predicted = [
        math.nan if mark else math.sqrt(wanted / float(effect)) for mark, effect in zip(marks, effects, strict=True)
    ]

    found = [Tolerance(scale) for scale in predicted]
    if measure and measured(settings):
        forms = Predicted(totals.target, totals.products, totals.by_layer("effect"), predicted)
        found = measure_tolerances(job, network, change.effect, forms, wanted, report)
    shapes = job.network.shapes(*job.inputs([0]))
    return [
        Measured(
            layer,
            units=(totals.units[i] / len(samples)).cpu().numpy().reshape(shapes[i]),
            axis=channel_axis(job, i, shapes[i]),
            predicted=predicted[i],
            tolerance=found[i],
            mark=marks[i] or ("" if math.isfinite(found[i].scale) else "out_of_reach"),
            **{name: totals.by_layer(name)[i].cpu().numpy() for name in _BY_LAYER},
        )
        for i, layer in enumerate(job.layers)
        if layer.name in names
    ]


_BY_LAYER = ("trace", "trace_stderr", "effect", "mean", "square", "low", "high")


class _Totals:
    """Squared Jacobians of the blocks so far."""

    def __init__(self) -> None:
        self._parts: list[Jacobians] = []
        self.units: list[Tensor] = []

    def add(self, part: Jacobians) -> None:
        sums = [units.sum(0, dtype=torch.float64) for units in part.units]
        self.units = [a + b for a, b in zip(self.units, sums, strict=True)] if self.units else sums
        self._parts.append(replace(part, units=[]))

    @property
    def samples(self) -> int:
        return sum(len(part.target) for part in self._parts)

    @property
    def target(self) -> Tensor:
        return torch.cat([part.target for part in self._parts])

    @property
    def products(self) -> Tensor:
        return torch.cat([part.products for part in self._parts], 1 if self._parts[0].products.dim() > 1 else 0)

    def by_layer(self, name: str) -> Tensor:
        return torch.cat([getattr(part, name) for part in self._parts], 1)


def _wanted(change: Change, target: Tensor, name: str) -> float:
    if change.kind != RELATIVE:
        return change.amount
    variance = float(target.double().var(0, correction=0).sum())
    if not (math.isfinite(variance) and variance > 0):
        raise UsageError(f"{quoted(name)} is the same at all samples, so that it has no variance; give absolute:X")
    return change.amount * variance


def _mark(job: Job, totals: _Totals, layer: int) -> str:
    flow = job.provider.model.flow
    if not flow.is_float(job.layers[layer].name):
        return "integer"
    if not bool(torch.stack([totals.by_layer(name)[layer] for name in ("effect", "trace", "square")]).isfinite().all()):
        return "not_finite"
    return "" if float(totals.by_layer("effect")[layer].sum()) > 0 else "dead"


def channel_axis(job: Job, layer: int, shape: Sequence[int]) -> int | None:
    """Return the axis of the channels of one sample of a layer; None if there is none."""
    layouts = {name: samples.layout for name, samples in job.provider.samples.inputs.items()}
    batch = job.network.axes[layer]
    return tensor_axes(job.provider.model, job.layers[layer].name, len(shape), layouts, batch).channel
