"""A network and its samples, ready to be measured in one pass, without an archive."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..analysis.finite import check_values
from ..analysis.job import Job, prepare_reached
from ..analysis.masks import unit_mask_of
from ..config import Config
from ..errors import UsageError
from ..graph.layers import Layer, spelled_out
from ..graph.model import Model, ModelSource
from ..graph.perturbed import perturbed_tensors
from ..inputs.left_out import report_left_out
from ..metrics.budget import device_of, fit
from ..metrics.input_provider import InputProvider
from ..metrics.joint import open_provider
from ..text import quoted
from .open_model import open_model, runnable, with_moved_parts
from .open_samples import open_analyzed

logger = logging.getLogger(__name__)

#: Returns the chosen layers and the target, given a model and the tensors that noise is added to.
Choose = Callable[[Model, Sequence[str]], tuple[list[Layer], Layer]]


@dataclass(frozen=True)
class Opened:
    """A job that is ready to be measured, the name of its target, and the names of the tensors to show."""

    job: Job
    target: str
    shown: frozenset[str]


def open_job(
    model: ModelSource,
    inputs: Any,
    config: Config,
    choose: Choose,
    check: Callable[[InputProvider], None] = lambda _: None,
) -> Opened:
    """Prepare model and samples.

    Parameters
    ----------
    model, inputs
        As for :func:`onnxinfo.analyze`.
    config
        All settings.
    choose
        Chooses layers and target; called before samples are read, and again with the tensors that these have.
    check
        Checks the samples before anything is computed.

    Raises
    ------
    UsageError
        No gradient reaches the target.
    OnnxinfoError
        As raised by :func:`onnxinfo.sensitivity`.
    """
    device = device_of(config.execution.device)
    loaded = with_moved_parts(open_model(model, config.input, inputs), config)
    perturbed = perturbed_tensors(loaded, config.input.input_tensor)
    choose(loaded, perturbed)
    samples = open_analyzed(loaded, inputs, config.input)
    report_left_out(samples, anonymous=config.out.anonymous_names)
    loaded = runnable(loaded, samples)
    provider = open_provider(loaded, samples, perturbed, leave_out=not config.input.input_tensor)
    check(provider)
    chosen, target = choose(loaded, provider.tensors)
    mask = unit_mask_of(config.input.unit_mask, provider)
    if mask is not None:
        provider.counted = mask.units
    layers = chosen if target in chosen else [*chosen, target]
    named = spelled_out(chosen, config.selection.layers)
    job = prepare_reached(provider, layers, config.sid, device, named)
    if target not in job.layers:
        raise UsageError(f"no gradient reaches the target {quoted(target.name)}; name a layer before it by target=...")
    if mask is not None:
        job.units = torch.from_numpy(mask.units.reshape(len(provider), -1))
    job.config, job.source, job.memory = config, inputs, config.execution.memory_bytes
    job.batch_size = fit(job.network, *job.inputs([0]), memory=job.memory)
    check_values(job)
    return Opened(job, target.name, reached_names(job, chosen))


def reached_names(job: Job, chosen: Sequence[Layer]) -> frozenset[str]:
    """Return the names of the chosen layers that the job has, because a gradient reaches them.

    Raises
    ------
    UsageError
        There are none.
    """
    found = frozenset(layer.name for layer in chosen if layer in job.layers)
    if not found:
        raise UsageError("no gradient reaches a chosen layer; choose others by layers=...")
    return found


def leading(
    model: Model, chosen: Sequence[Layer], target: Layer, patterns: Sequence[str]
) -> tuple[list[Layer], list[Layer]]:
    """Return the chosen layers that lead to a target, and the others, which patterns only match.

    Parameters
    ----------
    model, chosen, target
        The model, the chosen layers, and the target.
    patterns
        Patterns that chose the layers; those that they spell out must lead to the target.

    Raises
    ------
    UsageError
        A layer whose name was given does not lead to the target, or none does.
    """
    found = [each for each in chosen if each == target or target.name in model.flow.influenced(each.name)]
    astray = [each for each in chosen if each not in found]
    named = spelled_out(astray, patterns)
    if named:
        first = next(each for each in astray if each.name in named)
        raise UsageError(f"{quoted(first.name)} does not lead to the target {quoted(target.name)}; leave it out")
    if not found:
        raise UsageError(f"no chosen layer leads to the target {quoted(target.name)}; choose another target")
    return found, astray


def report_astray(astray: Sequence[Layer], target: str, patterns: Sequence[str]) -> None:
    """Report the layers that patterns match and that do not lead to the target; of default layers, nothing."""
    if astray and patterns:
        logger.warning(
            "left out, because they do not lead to the target %s: %d of the layers that the patterns match",
            *(quoted(target), len(astray)),
        )
