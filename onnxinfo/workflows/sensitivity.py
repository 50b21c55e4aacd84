"""Sensitivity of a network's output to noise on its inner tensors, in absolute units."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import numpy.typing as npt

from ..analysis.sensitivity import Measured, check_change, find_target, measure_sensitivity, measured
from ..analysis.sensitivity_metric import SensitivityMetric
from ..analysis.settings import Report
from ..archive.claim import claim_archive
from ..archive.format import CHANNELS, plain_text
from ..archive.means import mean_and_stderr
from ..arguments import Names, names_of
from ..config import (
    PARALLEL,
    Config,
    ExecutionConfig,
    FlatOptions,
    InputConfig,
    OutputConfig,
    SelectionConfig,
    SensitivityConfig,
    configure,
    refuse_idle,
)
from ..errors import UsageError
from ..graph.layers import Layer, choose_layers, spelled_out
from ..graph.model import Model, ModelSource
from ..graph.perturbed import perturbed_tensors
from ..termination import orderly_termination
from ..text import no_such
from .analyze import Ready, complete, ready
from .computing import IN_ONE_PROCESS, computing
from .given_model import given_model
from .idle import refuse_idle_keywords
from .notebook import reporting
from .open_job import Opened, leading, open_job, reached_names, report_astray
from .open_model import open_model, with_moved_parts

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Sensitivity:
    """Sensitivity of a target to a network's tensors; the result of :func:`sensitivity`.

    Attributes
    ----------
    target
        Name of the layer whose change is measured.
    change
        The change that the tolerances cause, such as ``relative:0.01``.
    samples
        Number of samples.
    measured
        Whether the tolerances were measured with noise, not only predicted.

    Examples
    --------
    >>> found = onnxinfo.sensitivity("digits-cnn.onnx", "digits.npz:images", limit=16)
    >>> found.target, found.samples, found.to_dataframe().tensor[0], found.units("relu").shape
    ('logits', 16, 'relu', (16, 8, 8))
    """

    target: str
    change: str
    samples: int
    measured: bool
    _tensors: tuple[Measured, ...]

    def table(self) -> dict[str, list[Any]]:
        """Return the columns of :meth:`to_dataframe` as lists, without importing pandas."""
        rows = [_row(each) for each in self._tensors]
        return {name: [row[name] for row in rows] for name in rows[0]}

    def to_dataframe(self) -> pandas.DataFrame:
        """Return a table with one row per tensor.

        Returns
        -------
        pandas.DataFrame
            Columns tensor, op, depth; units and channels, their numbers; trace, the mean over the samples of
            ``tr(J^T J)``, where J is the Jacobian of the target by the tensor; stderr, its standard error over samples,
            which includes that over probes, NaN for a single sample with an exact trace; trace_stderr, the latter
            alone, 0 if the Jacobians are exact; effect, the change per squared noise scale in the quadratic
            approximation: the trace, or half the trace of ``J^T F J`` with the Fisher information F of the
            probabilities; std, the standard deviation of the tensor's values; tolerance, the standard deviation of
            noise on all units that causes the change; tolerance_std, the same in units of std; predicted, the tolerance
            in the quadratic approximation; achieved, the measured change over the wanted one at the tolerance, and
            achieved_stderr, NaN if it was not measured; mark, empty or the reason why there is no tolerance: ``dead``,
            ``integer``, ``not_finite``, ``out_of_reach``.
        """
        import pandas

        return pandas.DataFrame(self.table())

    def units(self, tensor: str) -> npt.NDArray[np.float64]:
        """Return the mean squared Jacobian of each unit of a tensor, in the tensor's shape.

        Raises
        ------
        UsageError
            The tensor was not measured.
        """
        return self._of(tensor).units

    def channels(self, tensor: str) -> npt.NDArray[np.float64]:
        """Return the mean squared Jacobian of each channel of a tensor, summed over the channel's units.

        Raises
        ------
        UsageError
            The tensor was not measured.
        """
        return self._of(tensor).channels

    def _of(self, tensor: str) -> Measured:
        found = {each.layer.name: each for each in self._tensors}
        if tensor not in found:
            raise UsageError(no_such("tensor", tensor, [*found], "the sensitivity"))
        return found[tensor]


def _row(each: Measured) -> dict[str, Any]:
    trace, probes = each.trace, float(np.sqrt((each.trace_stderr**2).sum())) / len(each.trace)
    integer = each.mark == "integer"
    known = not integer and bool(np.isfinite(trace).all())
    return {
        "tensor": each.layer.name,
        "op": each.layer.op,
        "depth": each.layer.depth,
        "units": each.units.size,
        "channels": each.channels.size,
        "trace": float("nan") if integer else float(trace.mean()),
        "stderr": float(mean_and_stderr(trace, each.trace_stderr)[1]) if known else float("nan"),
        "trace_stderr": probes,
        "effect": float("nan") if integer else float(each.effect.mean()),
        "std": each.std,
        "tolerance": each.tolerance.scale,
        "tolerance_std": each.tolerance.scale / each.std if each.std > 0 else float("nan"),
        "predicted": each.predicted,
        "achieved": each.tolerance.achieved,
        "achieved_stderr": each.tolerance.stderr,
        "mark": each.mark,
    }


def sensitivity(
    model: ModelSource,
    inputs: Any,
    output: str | os.PathLike[str] | None = None,
    *,
    example: Any = None,
    layers: Names = (),
    exclude: Names = (),
    input: InputConfig = InputConfig(),
    sensitivity: SensitivityConfig = SensitivityConfig(),
    execution: ExecutionConfig = ExecutionConfig(),
    out: OutputConfig = OutputConfig(),
    progress: Report | None = None,
    **flat: Unpack[FlatOptions],
) -> Sensitivity:
    """Measure how much noise each tensor of a network tolerates, in the tensor's own units.

    Noise of standard deviation s on all units of a tensor changes the target by ``s^2 tr(J^T J)`` in the mean square,
    where J is the Jacobian of the target by the tensor, as long as s is small. All tensors are measured by the same
    backward passes.

    Parameters
    ----------
    model, inputs
        As for :func:`onnxinfo.analyze`.
    output
        Archive to which the numbers are added as a run with the metric ``sensitivity``; None: none.
    example
        Input of a torch module, see :func:`~onnxinfo.load`; by default the first samples, if these are float arrays.
    layers, exclude
        Patterns, see :func:`onnxinfo.select_layers`; default: the default layers of :func:`onnxinfo.list_layers` that
        lead to the target.
    input, sensitivity, execution, out
        How samples are read, what is measured, the device and its memory, and the run; see :mod:`onnxinfo.config`.
    progress
        Called with a :class:`~onnxinfo.Progress` as work is done. Default: a bar in notebooks, nothing elsewhere.
    **flat
        Single settings by flat name, instead of an object or in addition to one: ``limit``, ``preset`` and the other
        fields of ``input``; ``seed``, ``device`` and ``memory_limit``; and

        ``target``: layer whose change is measured, by name or pattern; default: the class scores, before a softmax, or
        the last default layer.
        ``change``: change that a tensor's noise may cause: ``relative:X``, X times the target's variance over the
        samples (default: 0.01); ``absolute:X``, mean squared change, summed over the target's entries; ``kl:X``, mean
        divergence of the class probabilities in nats. A number is relative.
        ``measure``: correct the tolerance until noise, in evaluations of the network, causes the change to within 5 %;
        always done with ``kl``. This takes many times as long.
        ``probes``: number of random directions if the target has more than 128 entries; otherwise, Jacobians are exact.

    Returns
    -------
    Sensitivity
        The result, with a row for each tensor.

    Raises
    ------
    UsageError
        The request is invalid, such as a divergence at a target without class probabilities.
    ModelError, InputError, ConversionError, VerificationError
        The model or the samples are unusable, or no gradient reaches a layer.
    ResourceError
        The memory does not suffice for one sample.

    Examples
    --------
    >>> found = onnxinfo.sensitivity("digits-cnn.onnx", "digits.npz:images", change="relative:0.01", limit=32)
    >>> table = found.to_dataframe()
    >>> table.tensor[table.tolerance_std.idxmin()]
    'logits'
    """
    if output is None:
        refuse_idle(flat, ["output"], "without output=...", "give that")
        refuse_idle(flat, PARALLEL, IN_ONE_PROCESS)
    base = Config(SelectionConfig(names_of(layers, "layers"), names_of(exclude, "exclude")), input)
    base = replace(base, sensitivity=sensitivity, execution=execution, out=out)
    given: dict[str, Any] = {**flat}
    seed = {name: given.pop(name) for name in ("seed",) if name in given}
    config = configure(configure(base, given, "input", "sensitivity", "execution", "output"), seed, "sid")
    refuse_idle_keywords("sensitivity", flat, config, inputs=inputs, output=output)
    report = reporting(progress)
    with computing(config.execution.timeout):
        model = given_model(model, inputs, example)
        if output is None:
            opened = open_sensitivity(model, inputs, config)
            check_change(opened.job, opened.target)
            found = measure_sensitivity(opened.job, opened.target, opened.shown, report)
        else:
            opened, found = _archived(model, inputs, output, config, report)
    chosen = config.sensitivity
    return Sensitivity(opened.target, str(chosen.change), len(opened.job.provider), measured(chosen), tuple(found))


def _archived(
    model: ModelSource, inputs: Any, output: str | os.PathLike[str], config: Config, report: Report
) -> tuple[Opened, list[Measured]]:
    """Measure as a metric of a run, which the archive gets."""
    claim_archive(output, [model, inputs, *config.sources()])
    loaded = with_moved_parts(open_model(model, config.input, inputs), config)
    chosen, target, astray = _choose(loaded, perturbed_tensors(loaded, config.input.input_tensor), config)
    report_astray(astray, target.name, config.selection.layers)
    names = [layer.name for layer in chosen]
    selection = SelectionConfig(
        (*names, *([] if target in chosen else [target.name])), metrics=(SensitivityMetric.metric.name,)
    )
    named = spelled_out(chosen, config.selection.layers) | {target.name}
    prepared = ready(model, inputs, output, replace(config, selection=selection), named)
    shown = reached_names(prepared.job, chosen)
    metric = prepared.measures[SensitivityMetric.metric.name]
    assert isinstance(metric, SensitivityMetric)
    with orderly_termination():
        metric.prepare(report)
        complete(_with_channels(prepared, metric.measured), output, report)
    found = [each for each in metric.measured if each.layer.name in shown]
    return Opened(prepared.job, target.name, shown), found


def _with_channels(prepared: Ready, found: Sequence[Measured]) -> Ready:
    """Return what is asked of a run, whose provenance gets the sensitivity of each layer's channels."""
    schema = prepared.request.schema
    channels = {plain_text(each.layer.name): [float(f"{x:.6g}") for x in each.channels] for each in found}
    schema = replace(schema, provenance={**schema.provenance, CHANNELS: channels})
    return replace(prepared, request=replace(prepared.request, schema=schema))


def open_sensitivity(model: ModelSource, inputs: Any, config: Config) -> Opened:
    """Prepare model and samples for :func:`sensitivity`.

    Raises
    ------
    UsageError
        The target is not one layer, a named layer does not lead to it, or it has no class probabilities.
    OnnxinfoError
        As raised by :func:`sensitivity`.
    """
    astray: list[Layer] = []

    def choose(loaded: Model, perturbed: Sequence[str]) -> tuple[list[Layer], Layer]:
        chosen, target, astray[:] = _choose(loaded, perturbed, config)
        return chosen, target

    opened = open_job(model, inputs, config, choose)
    report_astray(astray, opened.target, config.selection.layers)
    return opened


def _choose(model: Model, perturbed: Sequence[str], config: Config) -> tuple[list[Layer], Layer, list[Layer]]:
    """Choose the tensors and the target; the last are those that patterns match and that do not lead to it."""
    patterns = config.selection.layers
    listed, chosen = choose_layers(model, perturbed, patterns, config.selection.exclude)
    target = find_target(model, listed, config.sensitivity)
    found, astray = leading(model, chosen, target, patterns)
    return found, target, astray
