"""Leakage of the input through the tensors at which a network may be split."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import numpy.typing as npt

from ..analysis.decoder_attack import Attack, attack_inputs, count_seen
from ..analysis.leakage import RANGE, Leak, Wanted, check_bound, measure_leakage
from ..analysis.sensitivity import class_scores
from ..analysis.settings import Report
from ..archive.means import mean_and_stderr
from ..arguments import Names, names_of
from ..config import (
    PARALLEL,
    Config,
    ExecutionConfig,
    FlatOptions,
    InputConfig,
    SelectionConfig,
    configure,
    refuse_idle,
)
from ..errors import UsageError
from ..graph.layers import Layer, choose_layers
from ..graph.model import Model, ModelSource
from ..graph.splits import is_split
from ..metrics.input_provider import InputProvider
from ..text import no_such
from ..views.canvas import Canvas
from ..views.drawn import Drawn
from ..views.leakage_figure import draw_leakage
from .computing import IN_ONE_PROCESS, computing
from .given_model import given_model
from .idle import refuse_idle_keywords
from .notebook import reporting
from .open_job import Opened, leading, open_job, report_astray

if TYPE_CHECKING:
    import pandas

#: Bound if none is given, as a fraction of the input's variance.
DEFAULT_BOUND = 0.1
#: Largest PSNR, in decibels: floats tell no smaller errors from none.
MOST_DECIBELS = 130
#: Smallest relative noise, and error, that are not lost in the rounding of floats of 32 bits.
SMALLEST_NOISE, SMALLEST_BOUND = 1e-6, 1e-13
#: What the bound assumes; stated wherever it is shown.
ASSUMPTION = (
    "The bound is on unbiased estimators; none exists where the Jacobian has less rank than the input has units. "
    "Trained decoders are biased and can beat it: it is a yardstick, no guarantee."
)


@dataclass(frozen=True)
class Leakage(Drawn):
    """What a network's tensors reveal of its input; the result of :func:`leakage`.

    The bound is the Cramer-Rao bound on unbiased estimators of the input from the noisy tensor. None exists where the
    Jacobian has less rank than the input has units, as in every tensor with fewer entries (``narrow``), and trained
    decoders are biased and can beat it. It is a yardstick to compare tensors with, no guarantee. :meth:`plot` draws
    accuracy left, noise, and bound beside a decoder's error by depth.

    Attributes
    ----------
    samples
        Number of samples.
    input_units
        Number of input units of channels that vary over the samples; with a unit mask, the mean number of counted ones.
    unit
        Unit of the mean squared errors: ``variance`` or ``range``, the variance of the input unit's channel over the
        samples or the squared range of its values.
    wanted
        The bound that the noise reaches, in this unit; NaN if the noise was given.
    guess
        Error of guessing the mean of each channel over the samples, in this unit: 1 in units of the variance, unless
        a unit mask differs between samples. A decoder without a smaller one recovers nothing.
    accuracy
        Accuracy without noise, NaN if it was not measured.
    assumption
        What the bound assumes, as a sentence.
    seen
        Number of samples that are among the training samples of the attack, whose error on them is too small.
    constant
        Number of input units of channels that are constant over the samples. There is nothing to reconstruct of them,
        so they are no part of `input_units`, the traces or the errors.

    Examples
    --------
    >>> found = onnxinfo.leakage("digits-cnn.onnx", "digits.npz:images", labels="digits.npz:labels", limit=16)
    >>> found.input_units, found.wanted, found.unit
    (64, 0.1, 'variance')
    >>> table = found.to_dataframe().set_index("tensor")
    >>> figure = found.plot("leakage.png")
    >>> float(table.bound["relu"].round(3)), bool(table.narrow["logits"]), found.bounds("relu").shape
    (0.1, True, (16,))
    """

    samples: int
    input_units: int
    unit: str
    wanted: float
    guess: float
    accuracy: float
    _tensors: tuple[Leak, ...]
    assumption: str = ASSUMPTION
    seen: int = 0
    constant: int = 0

    def table(self) -> dict[str, list[Any]]:
        """Return the columns of :meth:`to_dataframe` as lists, without importing pandas."""
        rows = [_row(each, self.unit) for each in self._tensors]
        return {name: [row[name] for row in rows] for name in rows[0]}

    def to_dataframe(self) -> pandas.DataFrame:
        """Return a table with one row per tensor.

        Returns
        -------
        pandas.DataFrame
            Columns tensor, op, depth; units, the number of its entries; trace, the mean over the samples of
            ``tr(J^T J)``, where J is the Jacobian of the tensor by the input, in units of the channel's standard
            deviation or range; stderr, its standard error over samples, which includes that over probes, NaN for a
            single sample with an exact trace; std, the
            standard deviation of the tensor's values; noise, the standard deviation of the noise, and noise_std, the
            same in units of std; bound, on the mean over samples of an unbiased estimator's mean squared error per
            input unit, and lowest, the smallest bound of a sample; psnr, the bound in decibels below the squared range,
            NaN with other units; accuracy with that noise, accuracy_low and accuracy_high, its 95 % confidence
            interval over samples, NaN if it was not measured; attack, the mean squared error per input unit of a
            decoder trained on noisy tensors, on the samples, attack_stderr, its standard error over samples,
            attack_over_bound, the ratio of the error to the bound, and attack_steps, the training steps after which the
            decoder was best, NaN without attack; attack_converged, whether its error fell by at most its standard error
            when the steps were last doubled, None if they were not; narrow, whether the tensor has fewer entries than
            the input has units, so that no unbiased estimator exists; mark, empty or a caveat: ``bypassed`` (the
            network cannot be split here, because its output also depends on the input along other ways), ``dead`` (the
            tensor does not depend on the input), and, without numbers, ``integer`` and ``not_finite``.
        """
        import pandas

        return pandas.DataFrame(self.table())

    def bounds(self, tensor: str) -> npt.NDArray[np.float64]:
        """Return a tensor's bound for each sample, at the same noise.

        Raises
        ------
        UsageError
            The tensor was not measured.
        """
        found = {each.layer.name: each for each in self._tensors}
        if tensor not in found:
            raise UsageError(no_such("tensor", tensor, [*found], "the leakage"))
        return found[tensor].bounds

    def _draw(self, canvas: Canvas) -> None:
        draw_leakage(
            canvas, self.table(), accuracy=self.accuracy, unit=self.unit, guess=self.guess, notes=(self.assumption,)
        )

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values: the attributes, and the rows of the table; NaN and infinity are None."""
        table = self.table()
        rows = [dict(zip(table, values, strict=True)) for values in zip(*table.values(), strict=True)]
        return {
            "assumption": self.assumption,
            "samples": self.samples,
            "input_units": self.input_units,
            "constant": self.constant,
            "unit": self.unit,
            "wanted": _finite(self.wanted),
            "guess": self.guess,
            "accuracy": _finite(self.accuracy),
            "seen": self.seen,
            "tensors": [{name: _finite(value) for name, value in row.items()} for row in rows],
        }


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _row(each: Leak, unit: str) -> dict[str, Any]:
    number = each.mark not in ("integer", "not_finite")
    trace, stderr, _ = mean_and_stderr(each.trace, each.trace_stderr)
    bound, lowest = each.bound, float(each.bounds.min())
    return {
        "tensor": each.layer.name,
        "op": each.layer.op,
        "depth": each.layer.depth,
        "units": each.units,
        "trace": float(trace) if number else math.nan,
        "stderr": float(stderr) if number else math.nan,
        "std": each.std,
        "noise": each.noise,
        "noise_std": each.noise / each.std if each.std > 0 else math.nan,
        "bound": bound if number else math.nan,
        "lowest": lowest if number else math.nan,
        "psnr": -10 * math.log10(bound) if unit == RANGE and number and 0 < bound < math.inf else math.nan,
        "accuracy": each.accuracy.value,
        "accuracy_low": each.accuracy.low,
        "accuracy_high": each.accuracy.high,
        **_attack(each.attack, bound),
        "narrow": each.narrow,
        "mark": each.mark,
    }


def _attack(found: Attack | None, bound: float) -> dict[str, float | None]:
    if found is None:
        unknown = dict.fromkeys(("attack", "attack_stderr", "attack_over_bound", "attack_steps"), math.nan)
        return {**unknown, "attack_converged": None}
    error, stderr, _ = mean_and_stderr(found.errors)
    return {
        "attack": float(error),
        "attack_stderr": float(stderr),
        "attack_over_bound": float(error) / bound,
        "attack_steps": found.steps,
        "attack_converged": found.converged,
    }


def leakage(
    model: ModelSource,
    inputs: Any,
    *,
    example: Any = None,
    mse: float | None = None,
    psnr: float | None = None,
    noise: float | None = None,
    accuracy: bool = True,
    attack: bool = False,
    doublings: int = 0,
    layers: Names = (),
    exclude: Names = (),
    input: InputConfig = InputConfig(),
    execution: ExecutionConfig = ExecutionConfig(),
    progress: Report | None = None,
    **flat: Unpack[FlatOptions],
) -> Leakage:
    """Measure what each tensor of a network reveals of the input, and the noise that hides it.

    Gaussian noise of standard deviation s on a tensor bounds the mean squared error of unbiased reconstructions of the
    n input units: it is at least ``n s^2 / tr(J^T J)`` per unit, where J is the Jacobian of the tensor by the input.
    The noise is chosen so that the bound has a wanted value, and the accuracy of the network with this noise is
    measured. The bound is a yardstick, no guarantee; see :class:`Leakage`.

    Parameters
    ----------
    model, inputs
        As for :func:`onnxinfo.analyze`.
    example
        Input of a torch module, see :func:`~onnxinfo.load`; by default the first samples, if these are float arrays.
    mse
        Wanted bound: mean squared error per input unit, in units of the variance of its channel over the samples.
        Guessing the channel's mean has error 1. Default: 0.1.
    psnr
        Instead: wanted bound in decibels, with the range of a channel's values over the samples as the peak; of 8-bit
        images that contain black and white, that is the usual PSNR.
    noise
        Instead: standard deviation of the noise, in units of each tensor's own.
    accuracy
        Measure the accuracy under the noise, which needs a classifier and labels; only tensors that lead to the class
        scores are then measured.
    attack
        Train a decoder for each tensor that reconstructs the input from the noisy tensor, on the samples
        ``decoder_inputs``, and measure its error on `inputs`. This takes minutes to hours. A warning and
        :attr:`Leakage.seen` tell how many of the samples it was trained on.
    doublings
        Largest number of times that the decoders' training steps are doubled, as long as an error falls by more than
        its standard error: a decoder that is trained too briefly makes a tensor look private. A warning names the
        tensors whose errors still fall.
    layers, exclude
        Patterns, see :func:`onnxinfo.select_layers`; default: the default layers of :func:`onnxinfo.list_layers` at
        which the network can be split: its output depends on the input through them alone.
    input, execution
        How samples are read, and the device and its memory; see :mod:`onnxinfo.config`.
    progress
        Called with a :class:`~onnxinfo.Progress` as work is done. Default: a bar in notebooks, nothing elsewhere.
    **flat
        Single settings by flat name: ``limit``, ``labels``, ``preset`` and the other fields of ``input``; ``seed``,
        ``device`` and ``memory_limit``; ``decoder_inputs``, ``decoder_limit``, ``decoder_width``, ``decoder_steps`` and
        the other settings of decoders, for an attack.

    Returns
    -------
    Leakage
        The result, with a row for each tensor.

    Raises
    ------
    UsageError
        The request is invalid: more than one bound, a bound that guessing meets, accuracy without labels, or an attack
        without training samples of its own.
    ModelError, InputError, ConversionError, VerificationError
        The model or the samples are unusable, or no gradient reaches a layer.
    ResourceError
        The memory does not suffice for one sample.

    Examples
    --------
    >>> found = onnxinfo.leakage("digits-cnn.onnx", "digits.npz:images", mse=0.05, accuracy=False, limit=16)
    >>> table = found.to_dataframe()
    >>> table.tensor[table.noise_std.idxmin()] in [*table.tensor]
    True
    """
    _check_options(flat, attack, doublings)
    wanted = _wanted(mse, psnr, noise)
    base = Config(SelectionConfig(names_of(layers, "layers"), names_of(exclude, "exclude")), input, execution=execution)
    given: dict[str, Any] = {**flat}
    seed = {name: given.pop(name) for name in ("seed",) if name in given}
    config = configure(configure(base, given, "input", "ru.decoder", "execution"), seed, "sid")
    refuse_idle_keywords("leakage", flat, config, inputs=inputs, accuracy=accuracy, attack=attack)
    with computing(config.execution.timeout):
        opened, scores = _open(given_model(model, inputs, example), inputs, config, accuracy)
        training = attack_inputs(opened.job) if attack else None
        seen = 0 if training is None else count_seen(opened.job.provider, training)
        report = reporting(progress)
        found = measure_leakage(opened.job, scores, opened.shown, wanted, report, training, doublings)
    bound = math.nan if wanted.bound is None else wanted.bound
    return Leakage(
        samples=len(opened.job.provider),
        input_units=round(float(found.leaks[0].inputs.mean())),
        unit=wanted.unit,
        wanted=bound,
        guess=found.guess,
        accuracy=found.clean.value,
        _tensors=_with_bypasses(found.leaks, opened, scores),
        seen=seen,
        constant=round(found.constant),
    )


def _check_options(given: Collection[str], attack: bool, doublings: int) -> None:
    if doublings < 0 or not float(doublings).is_integer():
        raise UsageError(f"doublings={doublings}: an integer of at least 0 expected")
    if doublings and not attack:
        raise UsageError(f"doublings={doublings} has no effect without attack=True; give that")
    refuse_idle(given, PARALLEL, IN_ONE_PROCESS)
    refuse_idle(given, ["decoders"], "on an attack, which trains decoders of its own")
    if not attack:
        refuse_idle(given, ["ru.decoder"], "without attack=True", "give that")


def _wanted(mse: float | None, psnr: float | None, noise: float | None) -> Wanted:
    given = {name: value for name, value in (("mse", mse), ("psnr", psnr), ("noise", noise)) if value is not None}
    if len(given) > 1:
        raise UsageError(f"{' and '.join(f'{name}={given[name]:g}' for name in given)}: give one of them")
    for name, value in given.items():
        if not (math.isfinite(value) and (value > 0 or name == "psnr")):
            raise UsageError(f"{name}={value:g}: a number{' above 0' if name != 'psnr' else ''} expected")
    for name, least in (("mse", SMALLEST_BOUND), ("noise", SMALLEST_NOISE)):
        if given.get(name, least) < least:
            raise UsageError(f"{name}={given[name]:g}: at least {least:g} expected; the rounding of floats is larger")
    if noise is not None:
        return Wanted(None, noise)
    if psnr is not None:
        if not abs(psnr) <= MOST_DECIBELS:
            raise UsageError(f"psnr={psnr:g}: a number from {-MOST_DECIBELS} to {MOST_DECIBELS} expected")
        return Wanted(10 ** (-psnr / 10), unit=RANGE)
    bound = DEFAULT_BOUND if mse is None else mse
    # Nothing has a larger error than guessing, whose error is at most the variance; the samples may lower this limit.
    check_bound(bound, 1.0)
    return Wanted(bound)


def _open(model: ModelSource, inputs: Any, config: Config, accuracy: bool) -> tuple[Opened, str | None]:
    """Prepare model and samples; return them with the name of the class scores, None without accuracy."""
    scores: list[str] = []
    astray: list[Layer] = []

    def choose(loaded: Model, sources: Sequence[str]) -> tuple[list[Layer], Layer]:
        listed, chosen = choose_layers(loaded, sources, config.selection.layers, config.selection.exclude)
        target = _scores(loaded, listed) if accuracy else None
        scores[:] = [target.name] if target else []
        if target:
            chosen, astray[:] = leading(loaded, chosen, target, config.selection.layers)
        if not config.selection.layers:
            chosen = [each for each in chosen if is_split(loaded.flow, each.name, sources, _ends(loaded, scores))]
        if not chosen:
            raise UsageError("the network can be split at none of its default layers; name some by layers=...")
        return chosen, target or chosen[-1]

    def check(provider: InputProvider) -> None:
        if accuracy and provider.main.labels is None:
            raise UsageError("accuracy is of labeled samples; give labels=... or accuracy=False")

    opened = open_job(model, inputs, config, choose, check)
    report_astray(astray, opened.target, config.selection.layers)
    return opened, scores[0] if scores else None


def _scores(model: Model, listed: Sequence[Layer]) -> Layer:
    name = class_scores(model)
    found = next((each for each in listed if each.name == name), None)
    if found is None:
        raise UsageError("accuracy is of classifiers, and the model has no class scores; give accuracy=False")
    return found


def _ends(model: Model, scores: Sequence[str]) -> Sequence[str]:
    """Tensors that the part of a network after a split computes: the class scores, or all outputs."""
    return scores or model.flow.results


def _with_bypasses(found: Sequence[Leak], opened: Opened, scores: str | None) -> tuple[Leak, ...]:
    """Mark tensors at which the network cannot be split."""
    provider = opened.job.provider
    ends = _ends(provider.model, [scores] if scores else [])
    return tuple(
        each
        if each.mark or is_split(provider.model.flow, each.layer.name, provider.tensors, ends)
        else replace(each, mark="bypassed")
        for each in found
    )
