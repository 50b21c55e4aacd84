"""Recommendations from sensitivities: bits for the activations of a network."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import onnx
import torch

from ..analysis.bits import STORED_BITS, Floats, Grid, allocate, uniform_noise
from ..analysis.job import Job
from ..analysis.rounding import Rounding
from ..analysis.sensitivity import Measured, measure_sensitivity
from ..analysis.settings import Report
from ..arguments import Names, names_of
from ..config import Config, FlatOptions, SelectionConfig, configure
from ..errors import UsageError
from ..graph.layers import spelled_out
from ..graph.model import Model, ModelSource, load
from ..graph.quantization import quantization
from ..graph.runtime_quantizer import HALF_OPSET, RuntimeQuantizer
from ..text import listed, quoted
from ..views.bits_figure import draw_bits
from ..views.canvas import Canvas
from ..views.drawn import Drawn
from .computing import computing
from .given_model import given_model
from .idle import refuse_idle_keywords
from .notebook import reporting
from .recommendation import Recommendation, check_idle, refuse_parts
from .sensitivity import open_sensitivity

if TYPE_CHECKING:
    import pandas

logger = logging.getLogger(__name__)

#: Fewest bits that are recommended.
FEWEST_BITS = 2
#: Largest part of the target's variance by which the rounding of a single tensor to 8 bits may change it.
UNUSABLE = 0.01


@dataclass(frozen=True)
class TensorBits:
    """Recommendation for one tensor.

    Attributes
    ----------
    tensor, op, depth
        Name, operator and depth of the tensor.
    bits
        Number of bits; 32 for a tensor that stays in float.
    low, high
        Range of its values at the samples.
    trace
        Mean squared Jacobian of the target, ``tr(J^T J)``.
    loss
        Expected mean squared change of the target by its rounding errors.
    element_type
        Type of its values in the model, and of its scale: ``float32`` or ``float16``.
    """

    tensor: str
    op: str
    depth: int
    bits: int
    low: float
    high: float
    trace: float
    loss: float
    element_type: str


@dataclass(frozen=True)
class BitPlan(Recommendation, Drawn):
    """Bits for the activations of a network; the result of :func:`recommend_bits`.

    :meth:`plot` draws bits, expected changes and the tensors that stay in float, by depth.

    Attributes
    ----------
    target
        Layer whose change is expected.
    tensors
        Recommendation for each tensor.
    expected
        Expected mean squared change of the target by all rounding errors of activations, in units of its variance over
        the samples: the sum of the tensors' losses, and of the measured changes by all others that the quantizer rounds
        to 8 bits, such as the graph's inputs.
    accuracy
        Accuracy on the samples with rounded activations and float weights, if it was asked for.
    nodes_to_exclude
        Nodes that must stay in float so that the tensors of `keep_float` and `unusable` do.
    unusable
        Tensors that stay in float, chosen or not, because rounding them to the quantizer's 8 bits alone would change
        the target by more than a hundredth of its variance, such as attention scores with a mask of -1e9.

    Examples
    --------
    >>> plan = onnxinfo.recommend_bits("digits-cnn.onnx", "digits.npz:images", mean_bits=4, limit=32)
    >>> table = plan.to_dataframe()
    >>> float(table.bits.mean()), plan.to_dict()["TensorQuantOverrides"]["relu"][0]["quant_type"]
    (4.0, 'QUInt8')
    """

    target: str
    tensors: tuple[TensorBits, ...]
    expected: float
    accuracy: float | None
    nodes_to_exclude: tuple[str, ...]
    unusable: tuple[str, ...] = ()
    _probabilities: tuple[str, ...] = ()
    _variance: float = math.nan

    def to_dataframe(self) -> pandas.DataFrame:
        """Return a table with one row per tensor: the attributes of :class:`TensorBits`."""
        import pandas

        return pandas.DataFrame([vars(each) for each in self.tensors])

    def _draw(self, canvas: Canvas) -> None:
        table = {name: [getattr(each, name) for each in self.tensors] for name in ("tensor", "depth", "bits", "loss")}
        title = f"mean {self.mean_bits:.2f} bits; expected change of {self.target}: {self.expected:.2%} of its variance"
        draw_bits(canvas, table, most=STORED_BITS, variance=self._variance, target=self.target, title=title)

    @property
    def mean_bits(self) -> float:
        """Mean number of bits over the rounded tensors; NaN if all stay in float."""
        rounded = [each.bits for each in self.tensors if each.bits <= STORED_BITS]
        return sum(rounded) / len(rounded) if rounded else math.nan

    def to_dict(self) -> dict[str, Any]:
        """Return the recommendation as JSON values.

        ``nodes_to_exclude`` and ``TensorQuantOverrides`` are for ONNX Runtime's ``quantize_static``, the latter as one
        of its ``extra_options``, after scale, zero point and type are converted as docs/bits.md shows. The latter also
        has float16 outputs of ``Softmax`` without a recommendation, at 8 bits, because ONNX Runtime cannot load a model
        with the scales that its quantizer gives them.
        """
        recommended = {
            each.tensor: [_override(Grid(each.low, each.high, each.bits), each.element_type)]
            for each in self.tensors
            if each.bits <= STORED_BITS
        }
        probabilities = {name: [_override(Grid(0.0, 1.0, STORED_BITS), "float16")] for name in self._probabilities}
        return {
            "target": self.target,
            "expected_change": self.expected,
            "accuracy": self.accuracy,
            "bits": {each.tensor: each.bits for each in self.tensors},
            "unusable": [*self.unusable],
            "nodes_to_exclude": [*self.nodes_to_exclude],
            "TensorQuantOverrides": probabilities | recommended,
        }


def _override(grid: Grid, scale_type: str) -> dict[str, Any]:
    return {"quant_type": "QUInt8", "scale": grid.step, "scale_type": scale_type, "zero_point": grid.zero_point}


def recommend_bits(
    model: ModelSource,
    inputs: Any,
    *,
    example: Any = None,
    mean_bits: float | None = None,
    accuracy: float | None = None,
    keep_float: int = 0,
    layers: Names = (),
    exclude: Names = (),
    progress: Report | None = None,
    **flat: Unpack[FlatOptions],
) -> BitPlan:
    """Divide bits among the activation tensors of a network, by how strongly their rounding errors move the target.

    Rounding to a grid of ``2^b`` values adds errors of variance ``step^2 / 12`` to a tensor, and changes the target by
    that times ``tr(J^T J)`` in the mean square. Bits, from 2 to 8, go where they reduce the sum most. ONNX Runtime's
    quantizer is asked which tensors of the model it rounds; others get no bits. It rounds tensors that are not chosen,
    too, to 8 bits: those for which these are too few stay in float, see :attr:`BitPlan.unusable`.

    Parameters
    ----------
    model, inputs
        As for :func:`onnxinfo.sensitivity`; the samples also give the tensors' ranges.
    example
        Input of a torch module, see :func:`~onnxinfo.load`; by default the first samples, if these are float arrays.
    mean_bits
        Mean number of bits over the tensors.
    accuracy
        Instead: smallest accuracy on the samples, whose labels are needed. The smallest mean number of bits is searched
        that reaches it, by evaluations with rounded activations.
    keep_float
        Number of tensors that stay in float: those with the largest expected change at 8 bits. The nodes that compute
        or read them are excluded from quantization by name; other tensors that nothing else rounds stay in float, too.
    layers, exclude
        Patterns, see :func:`onnxinfo.select_layers`; default: the default layers that lead to the target, without the
        target, as far as the quantizer rounds them.
    progress
        Called with a :class:`~onnxinfo.Progress` as work is done. Default: a bar in notebooks, nothing elsewhere.
    **flat
        Single settings of input, sensitivity and execution by flat name, such as ``limit``, ``labels`` or ``target``.

    Returns
    -------
    BitPlan
        Bits, ranges and expected change, and the options of ONNX Runtime's quantizer.

    Raises
    ------
    UsageError
        Neither or both of mean_bits and accuracy are given, the labels are missing, the model is quantized already,
        the accuracy cannot be reached, the quantizer rounds no chosen tensor or not all named ones, or a tensor must
        stay in float and its nodes have no names.
    ModelError
        ONNX Runtime's quantizer refuses the model.
    OnnxinfoError
        As raised by :func:`onnxinfo.sensitivity`.

    Examples
    --------
    >>> plan = onnxinfo.recommend_bits(
    ...     "digits-cnn.onnx", "digits.npz:images", accuracy=0.9, labels="digits.npz:labels", limit=64
    ... )
    >>> plan.accuracy >= 0.9
    True
    """
    _check_request(mean_bits, accuracy, keep_float)
    base = Config(SelectionConfig(names_of(layers, "layers"), names_of(exclude, "exclude")))
    check_idle(flat)
    config = configure(base, {**flat}, "input", "sid", "sensitivity", "execution")
    refuse_idle_keywords("bits", flat, config, inputs=inputs, accuracy=accuracy)
    if accuracy is not None and config.input.labels is None and not isinstance(inputs, str | os.PathLike):
        raise UsageError("accuracy is of labeled samples; give labels=...")
    # The change only determines tolerances, which are not used here.
    config = replace(config, sensitivity=replace(config.sensitivity, change="absolute:1", measure=False))
    with computing(config.execution.timeout):
        model = given_model(model, inputs, example)
        return _recommended(model, inputs, config, mean_bits, accuracy, keep_float, reporting(progress))


def _recommended(
    model: ModelSource,
    inputs: Any,
    config: Config,
    mean_bits: float | None,
    accuracy: float | None,
    keep_float: int,
    report: Report,
) -> BitPlan:
    loaded = load(model)
    opened = open_sensitivity(loaded, inputs, config)
    opened_model = opened.job.provider.model
    refuse_parts(opened, "bits")
    if found := quantization(opened_model.proto):
        raise UsageError(f"the model is quantized already ({found}); give the float model, or dequantize=True")
    rounding = Rounding(opened.job, opened.target, report)
    if accuracy is not None:
        rounding.check(accuracy)
    names = opened.shown - {opened.target}
    if not names:
        raise UsageError(f"no tensor but the target '{opened.target}' is chosen; choose more layers")
    quantizer = RuntimeQuantizer(opened_model.proto if config.input.dequantize else _as_stored(model, loaded))
    names = _with_grids(quantizer, names, spelled_out(opened.job.layers, config.selection.layers))
    if keep_float:
        _check_node_names(quantizer, names)
    _check_kept(keep_float, len(names))
    variance = target_variance(opened.job, opened.target)
    kept = _Kept(rounding, quantizer, opened.target, variance)
    names = names.difference(kept.unusable)
    if not names:
        raise UsageError(f"all chosen tensors must stay in float: {listed(kept.unusable)}; choose others by layers=...")
    if quantizer.unusable_opset:
        logger.warning(
            "ONNX Runtime cannot load what its quantizer makes of float16 models of opset %d; convert to %d or later",
            *(quantizer.unusable_opset, HALF_OPSET),
        )
    # Those that do not move the target are only known afterwards.
    _check_kept(keep_float, len(names))
    measured = [each for each in measure_sensitivity(opened.job, opened.target, names, report) if _moves(each)]
    if not measured:
        raise UsageError(f"no chosen tensor moves the target '{opened.target}'; choose other layers")
    _check_kept(keep_float, len(measured))
    plans = _Plans(measured, keep_float, quantizer, kept)
    if kept.unusable:
        logger.warning(
            "kept in float, because ONNX Runtime's 8 bits for each alone would change '%s' by more than %g %% of its "
            "variance: %s",
            *(opened.target, 100 * UNUSABLE, listed(kept.unusable)),
        )
    bits, reached = (plans.at(mean_bits), None) if mean_bits is not None else _fewest(rounding, plans, accuracy or 0.0)
    return _plan(opened.target, variance, plans, bits, reached, quantizer)


def _as_stored(source: ModelSource, loaded: Model) -> onnx.ModelProto:
    """Return the model that would be quantized: a file as it is, without the types that were inferred."""
    if isinstance(source, str | os.PathLike):
        return onnx.load(source, load_external_data=False)
    return source if isinstance(source, onnx.ModelProto) else loaded.proto


def _with_grids(quantizer: RuntimeQuantizer, names: frozenset[str], named: frozenset[str]) -> frozenset[str]:
    """Return the tensors that the quantizer rounds to scales of their own; named ones must be among them."""
    found = names & quantizer.own_grids()
    left = sorted(names - found)
    reason = "in float or at the scale of another tensor, whatever bits are recommended"
    refused = [name for name in left if name in named]
    if refused or not found:
        what = listed(refused) if found else "all chosen tensors"
        raise UsageError(f"ONNX Runtime's quantizer leaves {what} {reason}; choose others by layers=...")
    if left:
        logger.warning("left out, because ONNX Runtime's quantizer leaves them %s: %s", reason, listed(left))
    return found


class _Kept:
    """Tensors that stay in float, because 8 bits destroy them or because that is asked for.

    Their nodes are excluded from quantization. The quantizer may then round other tensors, such as the output of a
    ``Reshape`` that had the scale of its operand: therefore it is asked again until nothing is left to exclude.
    """

    def __init__(self, rounding: Rounding, quantizer: RuntimeQuantizer, target: str, variance: float) -> None:
        self.rounding = rounding
        self._quantizer, self._target, self._variance = quantizer, target, variance
        self.unusable: tuple[str, ...] = ()
        self.excluded: tuple[str, ...] = ()
        self.add([])

    def add(self, wanted: Collection[str]) -> None:
        """Exclude the nodes of tensors, and of those that 8 bits then destroy."""
        self._exclude(wanted)
        while found := self._destroyed():
            _check_node_names(self._quantizer, found, "an unusable tensor")
            self.unusable += (*found,)
            self._exclude(found)

    def _find_averages(self) -> None:
        """Find the tensors that are rounded to the grids of others, given what is excluded."""
        found, layers = self._quantizer.averages(self.excluded), self.rounding.layers
        self.rounding.sources = {name: source for name, source in found.items() if name in layers and source in layers}

    def _exclude(self, tensors: Collection[str]) -> None:
        nodes = [node.name for tensor in tensors for node in self._quantizer.nodes(tensor)]
        self.excluded = tuple(dict.fromkeys([*self.excluded, *nodes]))

    def _destroyed(self) -> list[str]:
        """Other tensors that are rounded and whose rounding alone changes the target too much."""
        self._find_averages()
        if not self._variance > 0:
            return []
        names = self._quantizer.own_grids(self.excluded).union(self.rounding.sources).intersection(self.rounding.layers)
        changes = self.rounding.changes(names.difference({self._target}, self.unusable))
        return [name for name in self.rounding.layers if changes.get(name, 0.0) > UNUSABLE * self._variance]


def _check_node_names(quantizer: RuntimeQuantizer, tensors: Collection[str], why: str = "keep_float") -> None:
    nodes = {id(node): node for tensor in sorted(tensors) for node in quantizer.nodes(tensor)}
    unnamed = [node for node in nodes.values() if not node.name]
    if unnamed:
        first = f"{unnamed[0].op_type} {quoted(next(filter(None, unnamed[0].output)))}"
        raise UsageError(
            f"{why} excludes nodes from quantization by name, and {len(unnamed)} of {len(nodes)} nodes have none, "
            f"such as {first}; name them first, as docs/bits.md shows"
            + (", or use keep_float=0" if why == "keep_float" else "")
        )


def _check_request(mean_bits: float | None, accuracy: float | None, keep_float: int) -> None:
    if (mean_bits is None) == (accuracy is None):
        raise UsageError("bits are divided for a mean or for an accuracy; give one of mean_bits=... and accuracy=...")
    if mean_bits is not None and not FEWEST_BITS <= mean_bits <= STORED_BITS:
        raise UsageError(f"mean_bits={mean_bits}: a number from {FEWEST_BITS} to {STORED_BITS} expected")
    if accuracy is not None and not 0 < accuracy <= 1:
        raise UsageError(f"accuracy={accuracy}: a number above 0 and at most 1 expected")
    if keep_float < 0:
        raise UsageError(f"keep_float={keep_float}: at least 0 expected")


def _check_kept(keep_float: int, tensors: int) -> None:
    if keep_float >= tensors:
        raise _none_left(keep_float, tensors)


def _none_left(keep_float: int, tensors: int) -> UsageError:
    return UsageError(f"keep_float={keep_float} leaves none of {tensors} tensors to be rounded; keep fewer")


def _moves(each: Measured) -> bool:
    return each.mark == "" and float(each.high.max()) > float(each.low.min())


class _Plans:
    """Tensors with their losses at every number of bits."""

    choices = range(FEWEST_BITS, STORED_BITS + 1)

    def __init__(self, measured: Sequence[Measured], keep_float: int, quantizer: RuntimeQuantizer, kept: _Kept) -> None:
        self.tensors = measured
        self.ranges = [(float(each.low.min()), float(each.high.max())) for each in measured]
        noise = np.array([uniform_noise(low, high, self.choices) for low, high in self.ranges])
        self._rounding, self._noise = kept.rounding, noise
        self.losses = self._losses()
        order = np.argsort(-self.losses[:, -1], kind="stable").tolist()
        kept.add([measured[i].layer.name for i in sorted(order[:keep_float])])
        self.losses = self._losses()
        self.excluded, self.unusable = kept.excluded, kept.unusable
        marked = quantizer.own_grids(self.excluded)
        self.rounded = [i for i in sorted(order[keep_float:]) if measured[i].layer.name in marked]
        if not self.rounded:
            raise _none_left(keep_float, len(measured))
        others = marked.difference(measured[i].layer.name for i in self.rounded)
        #: Grids of the tensors that are rounded without being chosen.
        averages = {name for name, source in self._rounding.sources.items() if source in others}
        self.others = self._rounding.grids((others | averages).intersection(self._rounding.layers))

    def _losses(self) -> Floats:
        """Expected changes by tensor and number of bits, with those by averages of its values at the same scale."""
        found: Floats = np.array([each.trace.mean() for each in self.tensors])[:, None] * self._noise
        averages = self._rounding.changes(self._rounding.sources)
        for i, each in enumerate(self.tensors):
            for name in self._averages(each.layer.name):
                found[i] += averages[name] * self._noise[i] / self._noise[i, -1]
        return found

    def _averages(self, source: str) -> list[str]:
        return [name for name, other in self._rounding.sources.items() if other == source]

    def at(self, mean: float) -> dict[int, int]:
        """Return the bits of rounded tensors at a mean number of bits."""
        chosen = allocate(self.losses[self.rounded], self.choices, mean)
        return dict(zip(self.rounded, chosen, strict=True))

    def grids(self, bits: Mapping[int, int]) -> dict[str, Grid]:
        """Return the grids of all tensors that are rounded, by name."""
        chosen = {self.tensors[i].layer.name: Grid(*self.ranges[i], number) for i, number in bits.items()}
        sources = self._rounding.sources
        averages = {name: chosen[source] for name, source in sources.items() if source in chosen}
        return self.others | chosen | averages

    def loss(self, tensor: int, bits: int | None) -> float:
        """Return the expected change by a tensor's rounding; 0 without rounding."""
        return 0.0 if bits is None else float(self.losses[tensor, bits - FEWEST_BITS])

    def loss_of_others(self) -> float:
        """Return the sum of the measured changes by the tensors that are rounded to 8 bits without being chosen."""
        return sum(self._rounding.changes(self.others).values())


def _fewest(rounding: Rounding, plans: _Plans, wanted: float) -> tuple[dict[int, int], float]:
    """Return the bits with the smallest mean that bisection finds to reach an accuracy, and that accuracy."""
    count = len(plans.rounded)
    low, high = FEWEST_BITS * count, STORED_BITS * count
    bits = plans.at(high / count)
    reached = rounding.accuracy(plans.grids(bits))
    if reached < wanted:
        raise UsageError(
            f"accuracy={wanted:g} cannot be met: it is {reached:.3f} with {STORED_BITS} bits everywhere; give a "
            f"lower one, or keep_float=..."
        )
    while low < high:
        middle = (low + high) // 2
        tried = plans.at(middle / count)
        found = rounding.accuracy(plans.grids(tried))
        if found >= wanted:
            high, bits, reached = middle, tried, found
        else:
            low = middle + 1
    return bits, reached


def _plan(
    target: str,
    variance: float,
    plans: _Plans,
    bits: Mapping[int, int],
    accuracy: float | None,
    quantizer: RuntimeQuantizer,
) -> BitPlan:
    rows = tuple(
        TensorBits(
            each.layer.name,
            each.layer.op,
            each.layer.depth,
            bits.get(i, 32),
            *plans.ranges[i],
            float(each.trace.mean()),
            plans.loss(i, bits.get(i)),
            quantizer.element_type(each.layer.name),
        )
        for i, each in enumerate(plans.tensors)
    )
    total = sum(each.loss for each in rows) + plans.loss_of_others()
    change = total / variance if variance > 0 else math.nan
    probabilities = tuple(quantizer.half_probabilities(plans.excluded))
    return BitPlan(target, rows, change, accuracy, plans.excluded, plans.unusable, probabilities, variance)


def target_variance(job: Job, target: str) -> float:
    """Return the variance of a target over the samples, summed over its entries."""
    place = next(i for i, layer in enumerate(job.layers) if layer.name == target)
    samples, size = range(len(job.provider)), job.batch_size
    with torch.no_grad():
        values = [
            job.network.part([place])(*job.inputs(list(samples[start : start + size])))[0].double().cpu()
            for start in range(0, len(samples), size)
        ]
    return float(torch.cat(values).var(0, correction=0).sum())
