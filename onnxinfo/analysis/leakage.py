"""What noisy tensors of a network reveal of its input: the Fisher bound on the error of a reconstruction.

With Gaussian noise of standard deviation s on a tensor whose Jacobian by the input is J, the Fisher information of the
input is ``J^T J / s^2``. By the inequality of Cramer and Rao, an unbiased estimator of the n input units has a mean
squared error per unit of at least ``n s^2 / tr(J^T J)`` (Guo et al., "Bounding Training Data Reconstruction in Private
(Deep) Learning", ICML 2022; for features of networks Maeng et al., "Bounding the Invertibility of Privacy-preserving
Instance Encoding using Fisher Information", NeurIPS 2023, whose dFIL is the inverse of the bound).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..errors import UsageError
from ..graph.layers import Layer
from ..metrics.input_provider import InputProvider
from ..metrics.linearization import Division, linearize
from ..metrics.sensitivity import moved_targets
from ..metrics.taps import TappedNetwork
from ..metrics.tolerance import Order
from .accuracy import Accuracy, check_labels
from .decoder_attack import Attack, attack
from .job import Job
from .memory import for_each
from .settings import Progress, Report
from .spread import Spread

Floats = npt.NDArray[np.float64]
#: Units of errors: the variance of an input channel over the samples, and the squared range of its values.
VARIANCE, RANGE = "variance", "range"
#: Draws of noise per sample for the accuracy.
DRAWS = 4
#: Target for the relative standard error of ``tr(J^T J)`` at each sample.
TRACE_STDERR = 0.05
#: Relative rounding of errors.
ROUNDING = 1e-6


@dataclass(frozen=True)
class Wanted:
    """The noise that is wanted at every tensor.

    Attributes
    ----------
    bound
        The bound that the noise reaches, as a mean squared error per input unit; None: the noise is given.
    noise
        The noise in units of each tensor's standard deviation, if it is given.
    unit
        Unit of errors: ``variance`` or ``range``.
    """

    bound: float | None
    noise: float = math.nan
    unit: str = VARIANCE

    def scale(self, information: float, std: float) -> float:
        """Return the standard deviation of the noise, given ``tr(J^T J)`` per input unit and the tensor's deviation."""
        return self.noise * std if self.bound is None else math.sqrt(self.bound * information)


@dataclass(frozen=True)
class Leak:
    """What was measured at one tensor.

    Attributes
    ----------
    layer
        The tensor.
    units
        Number of its entries.
    trace, trace_stderr
        ``tr(J^T J)`` of the tensor by the input at each sample, in squared units of the tensor over those of errors,
        and its standard error over probes, (S,).
    inputs
        Number of input units of each sample that are counted and vary, (S,).
    std
        Standard deviation of the tensor's values, over units and samples.
    noise
        Standard deviation of the noise, in the tensor's own units; NaN if there is none.
    accuracy
        Accuracy under the noise; NaN if it was not measured.
    attack
        Attack by a trained decoder; None if there was none.
    mark
        Empty, or why the numbers say nothing.
    """

    layer: Layer
    units: int
    trace: Floats
    trace_stderr: Floats
    inputs: Floats
    std: float
    noise: float
    accuracy: Accuracy
    attack: Attack | None
    mark: str

    @property
    def information(self) -> Floats:
        """Fisher information per input unit at noise 1 for each sample, (S,); NaN for samples without units."""
        return _per_unit(self.trace, self.inputs)

    @property
    def bounds(self) -> Floats:
        """Bound at the noise for each sample, (S,); infinite where the tensor does not depend on the input."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.information > 0, self.noise**2 / self.information, np.inf)

    @property
    def bound(self) -> float:
        """Bound on the error averaged over the samples: with their mean information, at most their mean bound."""
        mean = float(_mean_per_unit(self.trace, self.inputs))
        return self.noise**2 / mean if mean > 0 else math.inf

    @property
    def narrow(self) -> bool:
        """Whether the tensor has fewer entries than the input has units, so that no unbiased estimator exists."""
        return self.units < float(self.inputs.max())


@dataclass(frozen=True)
class Measured:
    """What was measured at a job's tensors, and at its inputs.

    Attributes
    ----------
    leaks
        By layer, in the order of the job.
    clean
        Accuracy without noise.
    guess
        Mean squared error per input unit of guessing each channel's mean.
    constant
        Number of units of constant channels, which are left out; the mean over the samples.
    """

    leaks: list[Leak]
    clean: Accuracy
    guess: float
    constant: float


def measure_leakage(
    job: Job,
    scores: str | None,
    names: Collection[str],
    wanted: Wanted,
    report: Report,
    training: InputProvider | None = None,
    doublings: int = 0,
) -> Measured:
    """Measure what layers of a job reveal of the input.

    Parameters
    ----------
    job
        The job.
    scores
        Name of the layer with the class scores, for the accuracy; None: it is not measured.
    names
        Names of the layers.
    wanted
        The noise.
    report
        Receives progress.
    training
        Training samples of an attack by decoders; None: there is none.
    doublings
        Largest number of times that its training steps are doubled, see :func:`.decoder_attack.attack`.

    Returns
    -------
    Measured
        The result.

    Raises
    ------
    InputError
        A label is none of the classes, or the samples are constant.
    UsageError
        The bound is an error that needs no tensor.
    """
    spread = Spread.of(job)
    job = spread.job
    unit = spread.deviations() if wanted.unit == VARIANCE else spread.ranges()
    guess = spread.guess(unit)
    if wanted.bound is not None:
        check_bound(wanted.bound, guess)
    classifier = None if scores is None else _Classifier(job, scores)
    found = _Totals(job, unit, report)
    information = _mean_per_unit(found.trace, found.inputs)
    chosen = [i for i, layer in enumerate(job.layers) if layer.name in names]
    marks = {i: _mark(job, i, float(information[i])) for i in chosen}
    noise = {i: wanted.scale(float(information[i]), found.std[i]) for i in chosen if marks[i] in ("", "dead")}
    clean, accuracy = Accuracy(), dict[int, Accuracy]()
    if classifier is not None:
        clean, accuracy = classifier.accuracy(noise, report)
    attacked = {i: scale for i, scale in noise.items() if scale > 0}
    attacks = attack(job, training, attacked, unit, report, doublings) if training is not None and attacked else {}
    leaks = [
        Leak(
            job.layers[i],
            found.units[i],
            found.trace[i],
            found.trace_stderr[i],
            found.inputs,
            found.std[i],
            noise.get(i, math.nan),
            accuracy.get(i, Accuracy()),
            attacks.get(i),
            marks[i],
        )
        for i in chosen
    ]
    return Measured(leaks, clean, guess, spread.constant)


def _per_unit(trace: Floats, inputs: Floats) -> Floats:
    """Share of the trace, (..., S), of each input unit; NaN for samples without units."""
    found: Floats = np.divide(trace, inputs, out=np.full(trace.shape, np.nan), where=inputs > 0)
    return found


def _mean_per_unit(trace: Floats, inputs: Floats) -> Floats:
    """Mean of that share over the samples that have units, (...)."""
    found: Floats = _per_unit(trace, inputs).mean(axis=-1, where=inputs > 0)
    return found


def check_bound(bound: float, guess: float) -> None:
    """Refuse a bound that says nothing.

    Parameters
    ----------
    bound
        Mean squared error per input unit.
    guess
        That of guessing each channel's mean.

    Raises
    ------
    UsageError
        Guessing is at least as good.
    """
    # Units are rounded, so that an error of the variance itself is not exactly 1.
    if bound >= guess * (1 - ROUNDING):
        raise UsageError(
            f"a mean squared error of {bound:.3g} cannot be a bound: guessing each channel's mean has {guess:.3g} "
            f"without seeing any tensor; give a smaller mse=..., or a larger psnr=..."
        )


def _blocks(job: Job) -> Iterator[list[int]]:
    samples = range(len(job.provider))
    for start in range(0, len(samples), job.batch_size):
        yield list(samples[start : start + job.batch_size])


def _mark(job: Job, layer: int, information: float) -> str:
    if not job.provider.model.flow.is_float(job.layers[layer].name):
        return "integer"
    if not math.isfinite(information):
        return "not_finite"
    return "" if information > 0 else "dead"


class _Totals:
    """Jacobians and values of all layers over all samples.

    Attributes
    ----------
    trace, trace_stderr
        ``tr(J^T J)`` by layer and sample, and its standard error, (T, S).
    inputs
        Number of counted input units, (S,).
    units, std
        Number of entries of each layer, and the standard deviation of their values.
    """

    def __init__(self, job: Job, unit: Tensor, report: Report) -> None:
        count, done = len(job.provider), 0
        self.trace, self.trace_stderr = (np.full((len(job.layers), count), np.nan) for _ in range(2))
        self.inputs = np.full(count, float(math.prod(job.shape)))
        self.units = [math.prod(shape) for shape in job.network.shapes(*job.inputs([0]))]
        sums = np.zeros((3, len(job.layers)))
        report(Progress("leakage", 0, count))

        def add(block: list[int]) -> None:
            nonlocal done
            x, rows = job.inputs(block)
            counted = job.counted(block)
            stream, division = job.stream("leakage", block[0]), Division(job.batch_size)
            found = linearize(
                job.network, x, unit, rows, stream, stderr=TRACE_STDERR, counted=counted, division=division
            )
            self.trace[:, block] = [each.normalizer.double().cpu().numpy() for each in found]
            self.trace_stderr[:, block] = [each.normalizer_stderr.double().cpu().numpy() for each in found]
            if counted is not None:
                self.inputs[block] = counted.sum(1).double().cpu().numpy()
            with torch.no_grad():
                features = [feature.double() for feature in job.network(x, rows)]
            sums[0] += [feature.numel() for feature in features]
            sums[1] += [float(feature.sum()) for feature in features]
            sums[2] += [float(feature.square().sum()) for feature in features]
            done += len(block)
            report(Progress("leakage", done, count))

        for_each(job, _blocks(job), add)
        mean, square = sums[1:] / sums[0]
        self.std = np.sqrt(np.maximum(square - mean**2, 0)).tolist()


class _Classifier:
    """Accuracy of a network with noise on one of its layers.

    Parameters
    ----------
    job
        The job, whose samples have labels.
    scores
        Name of the layer with the class scores.
    """

    def __init__(self, job: Job, scores: str) -> None:
        self._job = job
        place = next(i for i, layer in enumerate(job.layers) if layer.name == scores)
        self._network = TappedNetwork(job.network, place)
        labels = job.provider.main.labels
        assert labels is not None
        check_labels(labels, math.prod(job.network.part([place]).shapes(*job.inputs([0]))[0]))
        self._labels = torch.from_numpy(labels).to(job.device)

    def accuracy(self, noise: dict[int, float], report: Report) -> tuple[Accuracy, dict[int, Accuracy]]:
        """Return the accuracy without noise, and that with noise of a standard deviation on each of some layers."""
        job, count, done = self._job, len(self._job.provider), 0
        orders = [Order(layer, scale, range(DRAWS)) for layer, scale in noise.items()]
        clean, noisy = np.zeros(count), np.zeros((len(orders), count))
        report(Progress("accuracy", 0, count))

        def add(block: list[int]) -> None:
            nonlocal done
            correct, moved = self._correct(block, orders)
            clean[block], noisy[:, block] = correct.cpu().numpy(), moved.cpu().numpy()
            done += len(block)
            report(Progress("accuracy", done, count))

        for_each(job, _blocks(job), add)
        by_layer = {order.layer: Accuracy.of(noisy[i]) for i, order in enumerate(orders)}
        return Accuracy.of(clean), by_layer

    def _correct(self, block: list[int], orders: Sequence[Order]) -> tuple[Tensor, Tensor]:
        """Whether samples are classified correctly, (S,), and the fraction of draws at which they are, (orders, S)."""
        job, labels = self._job, self._labels[block]
        x, rows = job.inputs(block)
        clean = torch.zeros(len(block), dtype=torch.float64, device=job.device)
        noisy = torch.zeros(len(orders), len(block), dtype=torch.float64, device=job.device)
        for at, given in self._network.parts(x, rows):
            clean[at] = (self._network.begin(given, at.stop - at.start)[0].argmax(1) == labels[at]).double()

        def stream(layer: int, draw: int) -> torch.Generator:
            # By the layer's name: its position depends on which others are measured.
            return job.stream("accuracy", job.layers[layer].name, draw, block[0])

        for i, _, at, _, moved in moved_targets(self._network, x, rows, orders, stream):
            noisy[i, at] += (moved.argmax(1) == labels[at]).double() / DRAWS
        return clean, noisy
