"""What a model is, what serves its operators, and whether the torch graph computes what ONNX Runtime computes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Unpack

import numpy.typing as npt

from ..config import Config, ExecutionConfig, InputConfig, InputOptions, SidConfig, configure
from ..errors import ConversionError, InputError, ModelError, OnnxinfoError, VerificationError
from ..graph.interruption import time_limit
from ..graph.layers import list_layers, perturbed_tensor
from ..graph.model import Model, ModelSource, load
from ..graph.optionals import without_optional_inputs
from ..graph.surgery import expose_only
from ..inputs.generated import generate
from ..metrics.input_provider import graph_inputs, open_samples_of
from ..torch_graph.compare import Difference, Tensors
from ..torch_graph.convert import Server, conversion_report, convert
from ..torch_graph.precision import to_float32
from ..torch_graph.reach import reasons_unreached
from ..torch_graph.runtime import Session, Witness
from ..torch_graph.verify import Verification, verify

Feeds = dict[str, npt.NDArray[Any]]

#: Given samples that are compared, at most.
SAMPLES = 2
# What open axes are tried with, until ONNX Runtime runs the model: batch sizes, and sizes of all other axes.
_BATCHES = (2, 1)
_SIZES = (64, 16, 32, 8, 1, 128, 224, 299)


@dataclass(frozen=True)
class OperatorUse:
    """How often a model uses an operator, and what serves it.

    Parameters
    ----------
    operator
        With its domain, as in "ai.onnx.Conv".
    version
        The opset version that the model imports for the domain.
    server
        As in :class:`~onnxinfo.torch_graph.convert.Conversion`.
    count
        Nodes, those in bodies of control flow too, after functions are inlined and constants folded.
    reason
        Why no converter serves it; empty where one does.
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
        Of the model, see :class:`~onnxinfo.Model`.
    producer
        Program that wrote the file, with its version; empty if the file does not say.
    ir_version, opsets
        Version of the file format, and of each operator domain.
    operators
        By number of uses.
    parameters
        Number of the model's parameters.
    inputs
        Shape of the array passed to each graph input; optional inputs are absent.
    generated
        Whether the inputs were randomly generated.
    perturbed
        The tensor that an analysis would perturb; None where there is none.
    reached
        Names of the layers that a gradient reaches from it.
    unreached
        The others, with the node in the way and the reason.
    witness
        What the torch graph is compared with: "ONNX Runtime", or "ONNX's reference evaluator" where ONNX Runtime does
        not have the model's operators in their versions.
    compared
        Number of tensors compared with the witness.
    largest
        The difference that is largest relative to its tolerance; None where nothing could be compared.
    error
        Why the torch graph is not what the witness computes; None where it is.
    rounding
        Tensors whose own node differs by more than its tolerance and is right all the same, with the evidence.
    flips
        Number of integers that differ by one, since a float lies between two of them.

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
    input: InputConfig = InputConfig(),
    seed: int = SidConfig.seed,
    timeout: float = ExecutionConfig.timeout,
    **flat: Unpack[InputOptions],
) -> ModelCheck:
    """Describe a model and compare every tensor of its torch graph with ONNX Runtime.

    ONNX's reference evaluator takes the place of ONNX Runtime where that does not have the model's operators in their
    versions; ``witness`` says which it was.

    Parameters
    ----------
    model
        Path, bytes, ``ModelProto`` or :class:`~onnxinfo.Model`.
    inputs
        Samples as for :func:`onnxinfo.analyze`, of which the first two are compared; default: generated, see
        :func:`.inputs.generated.generate`, in sizes that ONNX Runtime accepts.
    input
        How the samples are read, and which tensor noise would be added to; see :mod:`onnxinfo.config`.
    seed
        Seed of randomly generated inputs.
    timeout
        Seconds that ONNX Runtime may take for each computation of the model.
    **flat
        Single fields of `input`, such as ``preset``, instead of it or on top of it.

    Returns
    -------
    ModelCheck
        Its ``error`` says what differs, or what cannot be converted; the first node that differs is named.

    Raises
    ------
    ModelError
        The model cannot be loaded, or ONNX Runtime does not run it.
    InputError
        The inputs do not fit the model, or none can be generated.
    UsageError
        An option is unknown, or ``input_tensor`` is no float tensor of the graph.

    Examples
    --------
    >>> check = onnxinfo.check_model("digits-cnn.onnx")
    >>> check.compared, check.error is None, check.unreached
    (22, True, {})
    """
    chosen = configure(Config(input=input), flat, "input").input
    with time_limit(ExecutionConfig(timeout=timeout).timeout):
        return _check(model, inputs, chosen, seed)


def _check(model: ModelSource, inputs: Any, chosen: InputConfig, seed: int) -> ModelCheck:
    original = load(model)
    loaded = without_optional_inputs(original if chosen.keep_precision else to_float32(original))
    if chosen.input_tensor is not None:
        perturbed_tensor(loaded, chosen.input_tensor)
    feeds = _generated(loaded, seed) if inputs is None else _given(loaded, inputs, chosen)
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
        parameters=_parameters(original),
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


def _given(model: Model, inputs: Any, config: InputConfig) -> Feeds:
    declared = graph_inputs(model)
    samples = open_samples_of(model, inputs, limit=config.limit, **config.reading())
    some = list(range(min(SAMPLES, len(samples))))
    batch = next((i.batch for i in declared if i.batch is not None), len(some))
    given = samples.feeds((some * batch)[:batch])
    return {i.name: given[i.name].astype(i.dtype) for i in declared}


def _generated(model: Model, seed: int) -> Feeds:
    """Inputs in the first sizes that ONNX Runtime runs the model with."""
    session = Session(model)
    refused: dict[str, OnnxinfoError] = {}
    for batch, size in product(_BATCHES, _SIZES):
        feeds = generate(model, batch=batch, size=size, seed=seed)
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
    raise InputError(f"{refusal} (inputs were generated with shapes {tried}; give inputs=...)")


def _compared(model: Model) -> list[str]:
    """Names of the tensors that depend on an input and can be compared."""
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


def _reach(model: Model, input_tensor: str | None) -> tuple[str | None, list[str], dict[str, str]]:
    try:
        source = perturbed_tensor(model, input_tensor)
    except ModelError:
        return None, [], {}
    names = [layer.name for layer in list_layers(model, source)]
    unreached = reasons_unreached(model, source, names)
    return source, [name for name in names if name not in unreached], unreached


def _parameters(model: Model) -> int:
    flow = model.flow
    influenced = flow.driven
    found: dict[str, int] = {}
    for position in range(len(flow.nodes)):
        found |= flow.parameters_of(position, influenced)
    return sum(found.values())
