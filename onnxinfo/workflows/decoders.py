"""Train decoders ahead of an analysis."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Unpack

from ..analysis.decoders import DecoderCache, decoder_settings
from ..analysis.job import prepare, prepare_reached
from ..analysis.masks import unit_mask_of
from ..analysis.settings import Report
from ..arguments import Names, names_of
from ..config import (
    Config,
    DecoderConfig,
    ExecutionConfig,
    InputConfig,
    RuConfig,
    SelectionConfig,
    SidConfig,
    TrainingOptions,
    configure,
    entries,
    former_names,
)
from ..errors import UsageError
from ..graph.layers import choose_layers
from ..graph.model import ModelSource
from ..graph.perturbed import perturbed_tensors
from ..inputs.left_out import report_left_out
from ..metrics.budget import device_of
from ..metrics.decoder_store import StoredDecoder, list_decoders
from ..metrics.input_provider import open_samples_of
from ..metrics.joint import open_provider
from ..moved import present_names
from ..outputs import claim_folder
from ..text import no_such
from .computing import computing
from .given_model import given_model
from .notebook import reporting
from .open_model import open_model, runnable, with_chosen_parts


def train_decoder(
    model: ModelSource,
    inputs: Any,
    folder: str | os.PathLike[str],
    *,
    example: Any = None,
    layers: Names = (),
    exclude: Names = (),
    input: InputConfig = InputConfig(),
    decoder: DecoderConfig = DecoderConfig(),
    seed: int = SidConfig.seed,
    device: str = ExecutionConfig.device,
    progress: Report | None = None,
    **flat: Unpack[TrainingOptions],
) -> list[StoredDecoder]:
    """Train decoders that reconstruct a model's input from its layers, and store them for the metric ``ru``.

    Parameters
    ----------
    model, layers, exclude
        As for :func:`onnxinfo.analyze`.
    inputs
        Training samples, see :func:`onnxinfo.open_samples`; a fraction is held out for validation.
    folder
        Folder of the decoders. Existing ones are not trained again.
    example
        Input of a torch module, see :func:`~onnxinfo.load`; by default the first samples, if these are float arrays.
    input, decoder
        How samples are read, and how decoders are trained; see :mod:`onnxinfo.config`.
    seed
        Random seed of split, initial weights and order of samples.
    device
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    progress
        Called with a :class:`~onnxinfo.Progress` as work is done (default: a bar in notebooks); its value is the loss
        relative to the samples' variance.
    **flat
        Single settings, instead of an object or in addition to one: ``limit``, ``preset`` and the other fields of
        `input`; ``width``, ``steps``, ``batch``, ``learning_rate`` and ``horizontal_flip`` of `decoder`.

    Returns
    -------
    list of StoredDecoder
        One per layer.

    Raises
    ------
    UsageError, ModelError, InputError, ConversionError, VerificationError
        As for :func:`onnxinfo.analyze`.
    ArchiveError
        The folder cannot be created or written.

    Examples
    --------
    >>> decoders = onnxinfo.train_decoder(
    ...     "digits-cnn.onnx", "digits.npz:images", "decoders", layers=["relu"], limit=16, steps=2, width=8
    ... )
    >>> [(decoder.tensor, decoder.width, decoder.steps) for decoder in decoders]
    [('relu', 8, 2)]
    """
    full = {each.name: each.setting.flat for each in entries("ru.decoder") if each.setting.recipe}
    known = [*(each.name for each in entries("input")), *full]
    given = present_names(flat, former_names("input", "ru.decoder"))
    if unknown := [name for name in given if name not in known]:
        raise UsageError(no_such("option", unknown[0], known, "the training of decoders"))
    named = {full.get(name, name): value for name, value in given.items()}
    base = Config(
        SelectionConfig(names_of(layers, "layers"), names_of(exclude, "exclude")),
        input,
        SidConfig(seed=seed),
        RuConfig(decoder=decoder),
        execution=ExecutionConfig(device=device),
    )
    config = configure(base, named, "input", "ru.decoder")
    claim_folder(folder)
    with computing(config.execution.timeout):
        return _trained(given_model(model, inputs, example), inputs, Path(folder), config, reporting(progress))


def _trained(model: ModelSource, inputs: Any, folder: Path, config: Config, report: Report) -> list[StoredDecoder]:
    target = device_of(config.execution.device)
    loaded = with_chosen_parts(open_model(model, config.input, inputs), config.selection)
    perturbed = perturbed_tensors(loaded, config.input.input_tensor)
    choose_layers(loaded, perturbed, config.selection.layers, config.selection.exclude)
    samples = open_samples_of(loaded, inputs, limit=config.input.limit, **config.input.reading())
    report_left_out(samples)
    loaded = runnable(loaded, samples)
    provider = open_provider(loaded, samples, perturbed, leave_out=not config.input.input_tensor)
    _, chosen = choose_layers(loaded, provider.tensors, config.selection.layers, config.selection.exclude)
    mask = unit_mask_of(config.input.unit_mask, provider)
    provider.counted = None if mask is None else mask.units
    job = (prepare if config.selection.layers else prepare_reached)(provider, chosen, config.sid, target)
    decoders = DecoderCache(folder, job.provider, decoder_settings(config.ru.decoder, config.sid.seed))
    decoders.of(job, report)
    wanted = [key.stem for key in decoders.keys(job)]
    by_stem = {stored.path.stem: stored for stored in list_decoders(folder)}
    return [by_stem[stem] for stem in wanted]
