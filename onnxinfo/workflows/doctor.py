"""Examine the inputs of a model before an analysis, in one call."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Unpack

from ..analysis.sanity import examine
from ..archive.sanity import SanityCard
from ..config import Config, ExecutionConfig, InputConfig, InputOptions, configure
from ..errors import OnnxinfoError
from ..graph.layers import choose_layers
from ..graph.model import Model, ModelSource
from ..graph.perturbed import perturbed_tensors
from ..inputs.left_out import lines_left_out
from ..inputs.sample_sets import SampleSet
from ..metrics.joint import open_provider
from .computing import computing
from .given_model import given_model
from .idle import refuse_idle_keywords
from .open_model import open_model
from .open_samples import open_analyzed, reopening

#: Maximum number of samples that alternatives are tried on.
TRIED_SAMPLES = 512


def doctor(
    model: ModelSource,
    inputs: Any,
    *,
    example: Any = None,
    input: InputConfig = InputConfig(),
    timeout: float = ExecutionConfig.timeout,
    **flat: Unpack[InputOptions],
) -> SanityCard:
    """Examine what a model receives and what it makes of it, and try other presets and layouts against the labels.

    Parameters
    ----------
    model
        See :func:`onnxinfo.load`.
    inputs
        Samples as for :func:`onnxinfo.analyze`.
    example
        Input of a torch module, see :func:`~onnxinfo.load`; by default the first samples, if these are float arrays.
    input
        How samples are read; see :mod:`onnxinfo.config`. Presets, scales and layouts are compared only if ``labels``
        are given.
    timeout
        Time limit of ONNX Runtime for each evaluation of the model, in seconds.
    **flat
        Single fields of `input`, such as ``preset``, instead of it or in addition to it.

    Returns
    -------
    SanityCard
        The findings; ``better`` holds the settings to use instead, if others do much better.

    Raises
    ------
    ModelError
        The model cannot be loaded.
    InputError, UsageError
        The inputs do not fit the model, or an option is unknown.

    Examples
    --------
    >>> card = onnxinfo.doctor("digits-cnn.onnx", "digits.npz:images", labels="digits.npz:labels", scale=5.0)
    >>> print(card.warnings[0])
    accuracy is 0.70, and would be 1.00 with the default preprocessing (on 50 samples): ...
    """
    config = configure(Config(input=input), flat, "input")
    refuse_idle_keywords("doctor", flat, config, inputs=inputs)
    chosen = config.input
    with computing(timeout):
        opened = open_model(given_model(model, inputs, example), chosen, inputs)
        samples = open_analyzed(opened, inputs, chosen)
        card = examine(opened, samples, chosen, reopening(opened, inputs, chosen), most=TRIED_SAMPLES)
        warnings = (*card.warnings, *lines_left_out(samples))
        return replace(card, warnings=warnings, obstacle=_obstacle(opened, samples, chosen))


def _obstacle(model: Model, samples: SampleSet, chosen: InputConfig) -> str:
    """Return why an analysis finds nothing to perturb, no unit of noise or no layers; empty if it finds them."""
    try:
        tensors = perturbed_tensors(model, chosen.input_tensor)
        provider = open_provider(model, samples, tensors, leave_out=not chosen.input_tensor)
        choose_layers(model, provider.tensors, (), ())
        provider.unit()
    except OnnxinfoError as error:
        return str(error)
    return ""
