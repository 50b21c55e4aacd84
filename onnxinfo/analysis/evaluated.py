"""Preparation of layers that ONNX Runtime only evaluates: no gradient reaches them, or the solver needs none."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import torch

from ..config import SidConfig
from ..errors import ConversionError
from ..graph.constants import RANDOM
from ..graph.layers import Layer
from ..metrics.input_provider import InputProvider
from ..metrics.noise import make_joint_tie
from ..torch_graph.convert import Conversion
from ..torch_graph.evaluation import with_evaluations
from ..torch_graph.reach import describe_obstacle, obstacles
from .job import Converted, Job, convert_layers, settled

logger = logging.getLogger(__name__)

#: Maximum number of noise scales per sample that can be solved in reasonable time from evaluations alone.
MOST_SCALES = 1024


def prepare_evaluated(
    provider: InputProvider, layers: Sequence[Layer], settings: SidConfig, device: torch.device, *, named: bool
) -> Job:
    """Prepare a job like :func:`.job.prepare`, with ONNX Runtime evaluating the layers that no gradient reaches.

    Parameters
    ----------
    provider
        Model and samples.
    layers
        Analyzed layers, in order.
    settings
        Constraint, noise and solver. With the solver ``forward`` no layer is converted.
    device
        Device of the analysis.
    named
        Whether the user named the layers. If so, no layer is left out; otherwise layers that cannot be solved are
        left out with a warning.

    Returns
    -------
    Job
        Its ``evaluated`` holds the positions of the layers that ONNX Runtime evaluates.

    Raises
    ------
    ConversionError, VerificationError, ModelError
        As raised by :func:`.job.prepare`. ConversionError also if a layer that no gradient reaches has more than
        ``MOST_SCALES`` noise scales, or depends on an operator that draws random numbers.
    """
    names = [layer.name for layer in layers]
    if settings.solver == "forward":
        _check_scales(provider, settings)
        return _with_evaluated(provider, layers, settings, device, None, names)
    converted, ends = _reached(provider, names)
    if not ends:
        assert converted is not None
        return settled(provider, layers, settings, converted, device)
    _refuse_random(ends, provider.input_tensor)
    reason = describe_obstacle(*next(iter(ends.items())), provider.input_tensor)
    try:
        _check_scales(provider, settings)
    except ConversionError as error:
        if named or len(ends) == len(names):
            raise ConversionError(f"{reason}; {error}") from None
        logger.warning("left out: %s; %s", reason, error)
        kept = [layer for layer in layers if layer.name not in ends]
        assert converted is not None
        return settled(provider, kept, settings, converted, device)
    own = settings.without_gradients()
    budget = (
        f"{own.strength:g} of the feature's variance (normalize_by='feature')" if own.budget is None else own.budget
    )
    logger.warning(
        "%s; %d of %d layers are solved without gradients, budget: %s", reason, len(ends), len(names), budget
    )
    return _with_evaluated(provider, layers, settings, device, converted, [name for name in names if name in ends])


def _reached(provider: InputProvider, names: Sequence[str]) -> tuple[Converted | None, dict[str, Conversion]]:
    """Convert the layers that a gradient reaches; for each of the others return the node that blocks the gradient."""
    ends: dict[str, Conversion] = {}
    while rest := [name for name in names if name not in ends]:
        try:
            converted = convert_layers(provider, rest)
        except ConversionError:
            found = obstacles(provider.model, provider.tensors, rest)
            if not found:
                raise
        else:
            found = {rest[position]: node for position, node in converted.ends.items()}
        if not found:
            return converted, ends
        ends |= found
    return None, ends


def _with_evaluated(
    provider: InputProvider,
    layers: Sequence[Layer],
    settings: SidConfig,
    device: torch.device,
    converted: Converted | None,
    evaluated: Sequence[str],
) -> Job:
    """Create a job for converted layers and the named layers that ONNX Runtime evaluates, in the order of `layers`."""
    names = [layer.name for layer in layers]
    module = None if converted is None else converted.module
    inputs = [] if converted is None else converted.conditioning_inputs
    graph, inputs = with_evaluations(module, inputs, provider.model, provider.input_tensor, names, evaluated)
    witness = "ONNX Runtime" if converted is None else converted.witness
    # If all layers are evaluated, their normalizer and solver are those of the run.
    own = settings.without_gradients() if len(evaluated) == len(names) else settings
    job = settled(provider, layers, own, Converted(graph, inputs, {}, witness), device)
    job.evaluated = frozenset(i for i, name in enumerate(names) if name in evaluated)
    return job


def _refuse_random(ends: Mapping[str, Conversion], input_tensor: str) -> None:
    """Refuse layers that depend on operators drawing random numbers: their feature has no fixed value to deviate from.

    Raises
    ------
    ConversionError
        Names the first such layer and its operator.
    """
    for layer, node in ends.items():
        if node.operator.rpartition(".")[2] in RANDOM:
            raise ConversionError(describe_obstacle(layer, node, input_tensor))


def _check_scales(provider: InputProvider, settings: SidConfig) -> None:
    """Check that a sample has at most ``MOST_SCALES`` noise scales; raise ConversionError otherwise."""
    groups = make_joint_tie(settings.share_sigma, provider.described_parts()).groups
    if groups > MOST_SCALES:
        raise ConversionError(
            f"without gradients at most {MOST_SCALES} noise scales can be solved, and the input has {groups}: "
            f"let units share them, such as share_sigma='grid:8'"
        )
