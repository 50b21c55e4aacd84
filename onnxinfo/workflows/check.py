"""Check a model: describe it, list the backend of each operator, and compare the torch graph with ONNX Runtime."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt

from ..config import Config, ExecutionConfig, InputConfig, InputOptions, SidConfig, configure
from ..errors import ConversionError, InputError, ModelError, OnnxinfoError, VerificationError
from ..graph.dataflow import Shape
from ..graph.joint import joint_name
from ..graph.layers import list_layers
from ..graph.model import Model, ModelSource, load
from ..graph.perturbed import TensorNames, holds_ids, perturbed_tensors
from ..graph.surgery import expose_only
from ..inputs.axes import describe, shape_text
from ..inputs.generated import generate
from ..inputs.left_out import report_left_out
from ..inputs.sample_sets import SampleSet
from ..metrics.input_provider import graph_inputs, open_samples_of, placed
from ..text import printable, quoted
from ..torch_graph.compare import Difference, Tensors
from ..torch_graph.conversions import conversion_report
from ..torch_graph.convert import Server, convert
from ..torch_graph.reach import reasons_unreached
from ..torch_graph.runtime import Session, Witness
from ..torch_graph.verify import Verification, verify
from .computing import computing
from .given_model import given_model
from .idle import refuse_idle_keywords
from .open_model import open_model, runnable

Feeds = dict[str, npt.NDArray[Any]]

#: Maximum number of given samples to compare.
SAMPLES = 2
# Sizes to try for dynamic axes until ONNX Runtime runs the model: batch sizes, and sizes of all other axes.
_BATCHES = (2, 1)
_SIZES = (64, 16, 32, 8, 1, 128, 224, 299)
# Further sizes if no input has more than one dynamic axis besides the batch, such as the length of a sound.
_LENGTHS = (256, 400, 512, 576, 1024, 1536, 4096, 16_000, 48_000)


@dataclass(frozen=True)
class OperatorUse:
    """How often a model uses an operator, and what implements it.

    Parameters
    ----------
    operator
        Operator with its domain, as in "ai.onnx.Conv".
    version
        The opset version that the model imports for the domain.
    server
        As in :class:`~onnxinfo.torch_graph.convert.Conversion`.
    count
        Number of nodes, including those in control flow bodies, after functions are inlined and constants folded.
    reason
        Reason why no converter implements it; empty if one does.
    """

    operator: str
    version: int
    server: Server
    count: int
    reason: str


@dataclass(frozen=True)
class ModelCheck:
    """Result of :func:`check_model`.

    Parameters
    ----------
    name, sha256
        Name and digest of the model, see :class:`~onnxinfo.Model`.
    producer
        Program that wrote the file, with its version; empty if the file does not say.
    ir_version, opsets
        Version of the file format, and of each operator domain.
    operators
        Operators, sorted by number of uses.
    parameters
        Number of the model's parameters.
    inputs
        Shape of the array passed to each graph input; optional inputs are omitted.
    generated
        Whether the inputs were randomly generated.
    perturbed
        The tensors that an analysis would add noise to, separated by commas; None if there is none.
    reached
        Names of the layers that a gradient reaches from it.
    unreached
        The other layers, each with the node that blocks gradients and the reason.
    witness
        Reference for the torch graph: "ONNX Runtime", or "ONNX's reference evaluator" if ONNX Runtime does not support
        the model's operators in their versions.
    compared
        Number of tensors compared with the reference.
    largest
        Difference that is largest relative to its tolerance; None if nothing could be compared.
    error
        How the torch graph deviates from the reference; None if it does not.
    rounding
        Tensors whose own node differs by more than its tolerance and is right all the same, with the evidence.
    flips
        Number of integers that differ by one, because a float lies between two of them.

    Examples
    --------
    >>> check = onnxinfo.check_model("digits-cnn.onnx", "digits.npz:images")
    >>> check.opsets, check.parameters, check.inputs, check.generated
    ({'ai.onnx': 20}, 46890, {'image': (2, 1, 8, 8)}, False)
    """

    name: str
    sha256: str
    producer: str
    ir_version: int
    opsets: dict[str, int]
    operators: list[OperatorUse]
    parameters: int
    inputs: dict[str, tuple[int, ...]]
    generated: bool
    perturbed: str | None
    reached: list[str]
    unreached: dict[str, str]
    witness: Witness
    compared: int
    largest: Difference | None
    error: str | None
    rounding: dict[str, str] = field(default_factory=dict)
    flips: int = 0


def check_model(
    model: ModelSource,
    inputs: Any = None,
    *,
    example: Any = None,
    input: InputConfig = InputConfig(),
    seed: int = SidConfig.seed,
    timeout: float = ExecutionConfig.timeout,
    **flat: Unpack[InputOptions],
) -> ModelCheck:
    """Describe a model and compare every tensor of its torch graph with ONNX Runtime.

    ONNX's reference evaluator replaces ONNX Runtime if that does not support the model's operators in their versions;
    ``witness`` records which one was used.

    Parameters
    ----------
    model
        See :func:`onnxinfo.load`.
    inputs
        Samples as for :func:`onnxinfo.analyze`, of which the first two are compared; default: generated, see
        :func:`.inputs.generated.generate`, in sizes that ONNX Runtime accepts.
    example
        Input of a torch module, see :func:`~onnxinfo.load`; by default the first samples, if these are float arrays.
    input
        How samples are read, and which tensor noise would be added to; see :mod:`onnxinfo.config`.
    seed
        Seed of randomly generated inputs.
    timeout
        Time limit of ONNX Runtime for each evaluation of the model, in seconds.
    **flat
        Single fields of `input`, such as ``preset``, instead of it or in addition to it.

    Returns
    -------
    ModelCheck
        Result; its ``error`` names the first node that differs or cannot be converted.

    Raises
    ------
    ModelError
        The model cannot be loaded, or ONNX Runtime cannot run it.
    InputError
        The inputs do not fit the model, or none can be generated.
    UsageError
        An option is unknown, or ``input_tensor`` is not a float tensor of the graph.

    Examples
    --------
    >>> check = onnxinfo.check_model("digits-cnn.onnx")
    >>> check.compared, check.error is None, check.unreached
    (22, True, {})
    """
    config = configure(Config(input=input), flat, "input")
    refuse_idle_keywords("check", flat, config, inputs=inputs)
    chosen = config.input
    with computing(ExecutionConfig(timeout=timeout).timeout):
        return _check(given_model(model, inputs, example), inputs, chosen, seed)


def _check(model: ModelSource, inputs: Any, chosen: InputConfig, seed: int) -> ModelCheck:
    original = load(model)
    loaded = open_model(original, chosen, inputs)
    if chosen.input_tensor:
        perturbed_tensors(loaded, chosen.input_tensor)
    loaded, feeds = with_feeds(loaded, inputs, chosen, seed)
    conversions = conversion_report(loaded)
    uses = Counter((c.operator, c.version, c.server, c.reason) for c in conversions)
    tensors = _compared(loaded)
    verification, error, witness = _verified(loaded, feeds, tensors)
    largest = None if verification is None else verification.largest
    source, reached, unreached = _reach(loaded, chosen.input_tensor)
    proto = original.proto
    return ModelCheck(
        name=original.name,
        sha256=original.sha256,
        producer=f"{proto.producer_name} {proto.producer_version}".strip(),
        ir_version=proto.ir_version,
        opsets={opset.domain or "ai.onnx": opset.version for opset in proto.opset_import},
        operators=[OperatorUse(o, v, s, count, why) for (o, v, s, why), count in uses.most_common()],
        parameters=parameter_count(original),
        inputs={name: value.shape for name, value in feeds.items()},
        generated=inputs is None,
        perturbed=source,
        reached=reached,
        unreached=unreached,
        witness=witness,
        compared=0 if largest is None else len(tensors),
        largest=largest,
        error=error,
        rounding={} if verification is None else dict(verification.excused),
        flips=0 if verification is None else verification.flips,
    )


def with_feeds(model: Model, inputs: Any, chosen: InputConfig, seed: int) -> tuple[Model, Feeds]:
    """Return a model that runs, and arrays to run it with: the first samples, or randomly generated ones.

    Parameters
    ----------
    model
        A model from :func:`.open_model.open_model`.
    inputs
        Samples as for :func:`onnxinfo.analyze`; None: generated.
    chosen
        How samples are read.
    seed
        Seed of randomly generated inputs.

    Raises
    ------
    InputError
        The inputs do not fit the model, or none can be generated.
    """
    if inputs is None:
        return model, _generated(model, seed)
    samples = open_samples_of(model, inputs, limit=chosen.limit, **chosen.reading())
    report_left_out(samples)
    model = runnable(model, samples)
    return model, _given(model, samples)


def _given(model: Model, samples: SampleSet) -> Feeds:
    declared = graph_inputs(model)
    some = list(range(min(SAMPLES, len(samples))))
    batch = next((i.batch for i in declared if i.batch is not None), len(some))
    given = samples.feeds((some * batch)[:batch])
    return {i.name: placed(given[i.name].astype(i.dtype), i.axis) for i in declared}


def _generated(model: Model, seed: int) -> Feeds:
    """Inputs in the first sizes with which ONNX Runtime runs the model."""
    session = Session(model)
    refused: dict[str, OnnxinfoError] = {}
    sizes = _SIZES + (_LENGTHS if _is_series(model) else ())
    for batch, size in product(_BATCHES, sizes):
        try:
            feeds = generate(model, batch=batch, size=size, seed=seed)
        except InputError as error:
            refused.setdefault(f"with open sizes of {size}", error)
            continue
        shapes = str({name: value.shape for name, value in feeds.items()})
        if shapes in refused:
            continue
        try:
            session.run(feeds)
        except (InputError, ModelError) as error:
            refused[shapes] = error
        else:
            return feeds
    tried, refusal = next(iter(refused.items()))
    if not tried.startswith("{"):
        raise refusal
    raise InputError(f"{refusal} (inputs were generated with shapes {tried}; {_advice(model)})")


def _is_series(model: Model) -> bool:
    """Whether no input leaves more than one axis open besides the batch."""
    shapes = {name: model.flow.shape(name) or () for name in model.flow.inputs}
    return all(
        sum(not isinstance(size, int) for axis, size in enumerate(shape) if axis != model.batch_axes.get(name, 0)) < 2
        for name, shape in shapes.items()
    )


def _advice(model: Model) -> str:
    """Advice on the inputs to give to a model of this kind."""
    flow = model.flow
    shapes = {name: flow.shape(name) or () for name in flow.inputs}
    scalars = [name for name, shape in shapes.items() if not shape]
    arrays = {name: shape for name, shape in shapes.items() if shape}
    advice = [f"give inputs=... {_samples_of(model, arrays)}"] if arrays else []
    advice += [f"give the value of the scalar {quoted(name)} by set='{printable(name)}=VALUE'" for name in scalars]
    return ", and ".join(advice)


def _samples_of(model: Model, shapes: Mapping[str, Shape]) -> str:
    if len(shapes) > 1:
        return f"with samples of each of {', '.join(map(printable, shapes))}"
    name, shape = next(iter(shapes.items()))
    axis = model.batch_axes.get(name, 0)
    sample = tuple(size for position, size in enumerate(shape) if position != axis)
    if model.flow.is_float(name) and describe(sample, np.float32).is_image:
        return "with images, such as a folder"
    values = "numbers" if model.flow.is_float(name) and not holds_ids(model.flow, name) else "ids or other integers"
    return f"with an array of {printable(shape_text(('N', *sample)))} {values}, such as FILE.npy"


def _compared(model: Model) -> list[str]:
    """Names of the comparable tensors that depend on an input."""
    tensors = Tensors(model.proto)
    influenced = tensors.flow.driven
    return [name for name in tensors.comparable if name in influenced]


def _verified(model: Model, feeds: Feeds, tensors: Sequence[str]) -> tuple[Verification | None, str | None, Witness]:
    if not tensors:
        return None, "nothing in the model depends on its inputs", Session(model).witness
    exposed = expose_only(model, tensors)
    try:
        verification = verify(exposed, convert(exposed), [feeds], tensors)
    except (ConversionError, VerificationError) as error:
        return None, str(error), Session(exposed).witness
    return verification, None, verification.witness


def _reach(model: Model, input_tensor: TensorNames) -> tuple[str | None, list[str], dict[str, str]]:
    """Tensors that noise would be added to, and the layers that a gradient reaches from them or not."""
    try:
        sources = perturbed_tensors(model, input_tensor)
    except ModelError:
        return None, [], {}
    names = [layer.name for layer in list_layers(model, sources)]
    unreached = reasons_unreached(model, sources, names)
    return joint_name(sources), [name for name in names if name not in unreached], unreached


def parameter_count(model: Model) -> int:
    """Return the number of a model's parameters."""
    flow = model.flow
    influenced = flow.driven
    found: dict[str, int] = {}
    for position in range(len(flow.nodes)):
        found |= flow.parameters_of(position, influenced)
    return sum(found.values())
