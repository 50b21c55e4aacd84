"""Remove channels from a model, and check that nothing else changes."""

from __future__ import annotations

import dataclasses
import json
import logging
from typing import Any, Unpack

from ..config import Config, ExecutionConfig, InputConfig, InputOptions, SidConfig, configure
from ..errors import UsageError, VerificationError
from ..graph.channel_removal import Removal, masked
from ..graph.channel_spec import Spec, channels_of
from ..graph.model import Model, ModelSource, load
from ..graph.surgery import expose_only
from ..text import quoted
from ..torch_graph.compare import Tensors
from ..torch_graph.runtime import Session
from .check import parameter_count, with_feeds
from .computing import computing
from .given_model import given_model
from .idle import refuse_idle_keywords
from .open_model import open_model

logger = logging.getLogger(__name__)

#: Key of the record in the metadata of the model.
METADATA = "onnxinfo_pruned_channels"
# Largest relative difference after values were rounded to integers: those near the middle may be rounded either way.
_ROUNDED = 0.05


def prune_channels(
    model: ModelSource,
    channels: Spec,
    inputs: Any = None,
    *,
    example: Any = None,
    input: InputConfig = InputConfig(),
    seed: int = SidConfig.seed,
    timeout: float = ExecutionConfig.timeout,
    **flat: Unpack[InputOptions],
) -> Model:
    """Remove channels of tensors from a model, which gets smaller, and computes the same as with these set to zero.

    Channels are removed from all weights that compute or read them, through convolutions (of groups, whole groups),
    matrix products, normalizations, activations, sums, concatenations, pooling and changes of shape. If tensors after
    zeros are constant, such as a bias before the next convolution, the constants are added to biases. A graph is
    refused if the result could not be the same: because an operator needs all channels, such as a softmax over them,
    or adds them to channels that stay.

    Before it is returned, the model is compared with the original one whose named channels are multiplied by zero.

    Parameters
    ----------
    model
        See :func:`onnxinfo.load`.
    channels
        Indices by tensor and axis, ``{tensor: {axis: [indices]}}``, or the path of a JSON file with these. Tensors that
        are added to each other must lose the same channels, and each that is read by a layer has to be named.
    inputs
        Samples as for :func:`onnxinfo.analyze`, of which the first two are compared; default: generated, as for
        :func:`onnxinfo.check_model`.
    example
        Input of a torch module, see :func:`~onnxinfo.load`; by default the first samples, if these are float arrays.
    input
        How samples are read; see :mod:`onnxinfo.config`.
    seed
        Seed of randomly generated inputs.
    timeout
        Time limit of ONNX Runtime for each evaluation of the model, in seconds.
    **flat
        Single fields of `input`, such as ``preset``, instead of it or in addition to it.

    Returns
    -------
    Model
        The smaller model. Its metadata have, as JSON under ``onnxinfo_pruned_channels``, the ``channels``, the numbers
        of ``parameters`` before and after, and the largest relative ``difference`` of an output.

    Raises
    ------
    UsageError
        A tensor, axis or index does not exist, or the graph cannot do without the channels.
    InputError
        The file of the channels is unusable, or the inputs do not fit the model.
    ModelError
        The model cannot be loaded or run.
    VerificationError
        The smaller model computes something else.

    Examples
    --------
    >>> smaller = onnxinfo.prune_channels("digits-cnn.onnx", {"relu_1": {1: [0, 3, 4]}})
    >>> [tuple(each.dims) for each in smaller.proto.graph.initializer if each.name.startswith("3.body.0.weight")]
    [(13, 16, 3, 3), (13,)]
    """
    config = configure(Config(input=input), flat, "input")
    refuse_idle_keywords("prune", flat, config, inputs=inputs)
    chosen = config.input
    loaded = load(given_model(model, inputs, example))
    wanted = channels_of(channels, loaded.flow)
    pruned = Removal(loaded, wanted).model()
    with computing(ExecutionConfig(timeout=timeout).timeout):
        difference = _difference(masked(loaded, wanted), pruned, inputs, chosen, seed)
    before, after = parameter_count(loaded), parameter_count(pruned)
    if after > before:
        logger.warning(
            "the model has %d parameters, %d before: it shares weights between nodes, which have copies of their own "
            "where these do not all lose the same channels; name the same ones at all of these nodes, or none",
            *(after, before),
        )
    record = {"channels": wanted, "parameters": [before, after], "difference": difference}
    for entry in [entry for entry in pruned.proto.metadata_props if entry.key == METADATA]:
        pruned.proto.metadata_props.remove(entry)
    pruned.proto.metadata_props.add(key=METADATA, value=json.dumps(record))
    return dataclasses.replace(load(pruned.proto), name=loaded.name, path=loaded.path)


def _difference(reference: Model, pruned: Model, inputs: Any, chosen: InputConfig, seed: int) -> float:
    """Largest relative difference between the outputs of two models.

    Raises
    ------
    VerificationError
        It is larger than rounding explains.
    """
    chosen = dataclasses.replace(chosen, keep_precision=True)
    runs, feeds = with_feeds(open_model(reference, chosen, inputs), inputs, chosen, seed)
    names = runs.flow.results
    expected = Session(expose_only(runs, names)).run(feeds)
    found = Session(expose_only(open_model(pruned, chosen, inputs), names)).run(feeds)
    tensors, largest = Tensors(runs.proto), 0.0
    compared = [name for name in names if name in tensors.comparable]
    if not compared:
        raise UsageError("no output of the model is a tensor of numbers, so that the result cannot be checked")
    for name in compared:
        difference = tensors.difference(name, expected[name], found[name])
        if not difference.agrees and not (name in tensors.stepped and difference.relative <= _ROUNDED):
            raise VerificationError(
                f"without the channels, output {quoted(name)} differs from that with channels of zeros by "
                f"{difference.relative:.2g} of its largest value; this is a defect of onnxinfo: please report it"
            )
        largest = max(largest, difference.relative)
    return largest
