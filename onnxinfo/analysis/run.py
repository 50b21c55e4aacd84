"""One call from an ONNX model and samples to an archive of every layer's metrics."""

from __future__ import annotations

import hashlib
import logging
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ..archive.claim import claim_archive
from ..archive.format import RunSchema
from ..archive.writer import RunWriter
from ..errors import UsageError
from ..graph.layers import Layer, list_layers, perturbed_tensor, select_layers
from ..graph.model import Model, ModelSource
from ..graph.optionals import without_optional_inputs
from ..graph.quantisation import quantisation
from ..inputs.foreground import Foreground, open_foreground
from ..inputs.sample_sets import SampleSet
from ..inputs.unit_mask import NO_MASK, MaskSpec, UnitMask, find_unit_mask, open_unit_mask
from ..metrics.budget import CPU_INPUTS, device_of, fit, parse_bytes
from ..metrics.decoder_training import DecoderSettings
from ..metrics.feeds import Feeds, open_samples_of
from ..outputs import claim_folder
from ..torch_graph.precision import to_float32
from .blocks import Measure
from .compute import Analysis
from .decoders import Decoders
from .engines import Resources, open_engine
from .finite import check_values
from .job import Job, prepare, prepare_reached
from .measures import check_metrics, make_measures
from .recovery import Ru
from .settings import Report, Result, Settings
from .tasks import Worker

logger = logging.getLogger(__name__)


def analyze(
    model: ModelSource,
    inputs: Any,
    output: str | os.PathLike[str],
    *,
    layers: Sequence[str] = (),
    exclude: Sequence[str] = (),
    metrics: Sequence[str] = ("sid",),
    run: str | None = None,
    perturb: str | None = None,
    unit_mask: MaskSpec | None = None,
    keep_precision: bool = False,
    labels: Any = None,
    limit: int | None = None,
    preset: str | None = None,
    scale: float | None = None,
    mean: Sequence[float] | float | None = None,
    std: Sequence[float] | float | None = None,
    size: int | tuple[int, int] | None = None,
    foreground: Any = None,
    crop_to_box: float | None = None,
    alpha: float = 1.5e-4,
    normalizer: str = "dataset",
    tie: str = "unit",
    cap: float = 1.0,
    solver: str = "auto",
    seed: int = 0,
    center: str = "input",
    decoders: str | os.PathLike[str] | None = None,
    decoder_inputs: Any = None,
    decoder_limit: int | None = None,
    decoder_width: int = 32,
    decoder_steps: int = 400,
    decoder_batch: int = 32,
    decoder_learning_rate: float = 3e-3,
    decoder_flips: bool = False,
    device: str = "auto",
    memory: int | str | None = None,
    engine: str = "local",
    workers: int | None = None,
    threads: int | None = None,
    address: str | None = None,
    compression: str = "rounded",
    overwrite: bool = False,
    progress: Report | None = None,
) -> Result:
    """Compute metrics of a model's layers on samples and write them to an archive.

    A run cut short keeps every finished cell; the same call goes on where it stopped.

    Parameters
    ----------
    model
        Path, bytes, ``ModelProto`` or :class:`~onnxinfo.Model`.
    inputs
        Samples: a folder or glob of images, ``FILE.npz:key``, ``.npy``, ``FILE.h5:/dataset``, an array; for several
        graph inputs a mapping from their names, or ``NAME=SPEC,...``.
    output
        The archive, an HDF5 file; it is created, or a run is added. Other files are left as they are.
    layers, exclude
        Patterns, see :func:`~onnxinfo.select_layers`; default: what a person would call the layers.
    metrics
        Names of metrics: ``sid``, ``ru``, ``concentration``; baselines ``gradient``, ``gradcam``, ``cam``.
    run
        Name of the run; default: the model's name.
    perturb
        The perturbed tensor; default: the float graph input, or the embedding of integer inputs.
    unit_mask
        Which units of the perturbed tensor count, see :func:`.inputs.unit_mask.open_unit_mask`; ``"none"``: all;
        default: those that an attention mask among the inputs leaves, see :func:`.inputs.unit_mask.find_unit_mask`.
    keep_precision
        Compute float16 and bfloat16 as they are; default: in float32, weights converted.
    labels, limit, preset, scale, mean, std, size
        See :func:`onnxinfo.open_samples`.
    foreground
        Where the samples' objects are, see :func:`onnxinfo.inputs.foreground.open_foreground`; for ``concentration``.
        It follows the images through resize and crop.
    crop_to_box
        Crop each image to the box around its foreground, enlarged so many times (1.5 in the paper), before it is
        resized; images without one are left out then.
    alpha
        Strength of the constraint, ``E||h(x + sigma*delta) - f||^2 = alpha D``.
    normalizer
        ``dataset``: D is averaged over all samples (the paper's); ``image``: each sample's own.
    tie
        ``unit``, ``pixel`` or ``grid:N``, see :func:`onnxinfo.metrics.noise.make_tie`.
    cap
        Greatest noise scale, in standard deviations of the input.
    solver
        ``auto``, or ``reference`` for the paper's optimiser.
    seed
        Of all noise and probes.
    center
        For ``ru``: errors are measured from the sample (``input``, the paper's), or from what is reconstructed without
        noise (``reconstruction``), which leaves the decoder's own error out.
    decoders
        Folder of the decoders for ``ru``; default: beside the archive. Missing ones are trained.
    decoder_inputs, decoder_limit
        Samples that decoders are trained on, thousands at best, and how many of them; default: `inputs`.
    decoder_width, decoder_steps, decoder_batch, decoder_learning_rate, decoder_flips
        See :func:`onnxinfo.train_decoder`; a decoder trained otherwise is another one.
    device
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    memory
        Budget of each worker for activations, bytes or such as ``"2G"``.
    engine, workers, threads, address
        Where it is computed, see :class:`.engines.Resources`: by default on all GPUs of this machine, or in this
        process. Several local workers import the calling program's main module: guard what it does by ``__name__``.
    compression
        How maps are stored, see :meth:`.archive.writer.RunWriter.open`.
    overwrite
        Replace a finished run of the same name.
    progress
        Called with a :class:`Progress` as work is done.

    Returns
    -------
    Result
        The archive and the run's name.

    Raises
    ------
    UsageError
        Something asked for cannot be meant, or the archive is one of the inputs; nothing is written.
    ModelError, InputError, ConversionError, VerificationError
        The model or the samples do not work; nothing is written.
    ArchiveError
        The archive cannot be written; what it holds is safe.
    ResourceError
        A worker was lost for good; or memory does not suffice for a single sample. Before, whenever it runs out, half
        as many inputs are evaluated at once from there on.
    """
    claim_archive(output, [model, inputs, labels, foreground, decoder_inputs])
    decoder_folder = Path(output).with_suffix(".decoders") if decoders is None else Path(decoders)
    if Ru.metric.name in metrics:
        claim_folder(decoder_folder)
    settings = Settings(alpha, normalizer, tie, cap, solver, seed)
    resources = Resources(engine, workers, threads, address)
    check_metrics(metrics)
    target = device_of(device)
    loaded = without_optional_inputs(model if keep_precision else to_float32(model))
    perturbed = perturbed_tensor(loaded, perturb)
    listed = list_layers(loaded, perturbed)
    chosen = select_layers(listed, layers, exclude)
    logger.info("perturbed: %s; layers: %d of %d: %s", perturbed, len(chosen), len(listed), _names(chosen))
    objects = None if foreground is None else open_foreground(foreground)
    training = None
    if decoder_inputs is not None:
        training = open_samples_of(
            loaded, decoder_inputs, preset=preset, scale=scale, mean=mean, std=std, size=size, limit=decoder_limit
        )
    samples = open_samples_of(
        loaded,
        inputs,
        labels=labels,
        limit=limit,
        preset=preset,
        scale=scale,
        mean=mean,
        std=std,
        size=size,
        **_crops(objects, crop_to_box),
    )
    feeds = Feeds(loaded, samples, perturbed)
    logger.info("samples: %d; preprocessing: %s", len(feeds), feeds.main.preprocessing.to_dict())
    logger.info("axes of %s: %s", perturbed, feeds.described)
    masks = None if objects is None else _masks(objects, feeds)
    mask = _unit_mask(unit_mask, feeds)
    if mask is not None:
        logger.info("unit mask: %s", mask)
        feeds.counted = mask.units
    job = (prepare if layers else prepare_reached)(feeds, chosen, settings, target)
    job.foreground = masks
    if mask is not None:
        job.units = torch.from_numpy(mask.units.reshape(len(feeds), -1))
    budget = parse_bytes(memory) if isinstance(memory, str) else memory
    job.memory = budget
    job.chunk = fit(job.network, *job.inputs([0]), memory=budget)
    check_values(job)
    if Ru.metric.name in metrics:
        job.decoders = Decoders(
            decoder_folder,
            feeds if training is None else _training(training, feeds, unit_mask),
            DecoderSettings(decoder_width, decoder_steps, decoder_batch, decoder_learning_rate, decoder_flips, seed),
            center,
            progress or (lambda _: None),
        )
    measures = make_measures(metrics, job)
    logger.info("inputs evaluated at once: %d", job.chunk)
    name = run or loaded.name
    more: dict[str, Any] = {"keep_precision": True} if keep_precision else {}
    if mask is not None:
        more |= {"unit_mask": mask.source, "unit_mask_sha256": mask.digest()}
    schema = _schema(job, measures, more, resources.describe(target, device))
    with RunWriter.open(output, name, schema, overwrite=overwrite, compression=compression) as writer:
        if budget is None:
            job.chunk = _as_begun(writer, job.chunk)
        with open_engine(resources, Worker(job, measures), metrics, device) as opened:
            Analysis(job, measures, opened, writer, progress or (lambda _: None)).compute()
    return Result(Path(output), name)


def _unit_mask(spec: MaskSpec | None, feeds: Feeds) -> UnitMask | None:
    shape = feeds.perturbed([0]).shape[1:]
    if spec is None:
        return find_unit_mask(feeds.samples, shape, feeds.axes())
    if isinstance(spec, str) and spec == NO_MASK and spec not in feeds.samples.inputs:
        return None
    return open_unit_mask(spec, feeds.samples, feeds.main, shape, feeds.axes())


def _training(samples: SampleSet, analyzed: Feeds, spec: MaskSpec | None) -> Feeds:
    """Samples that decoders are trained on; the rows of an array that is a mask are those of the analyzed ones."""
    feeds = Feeds(analyzed.model, samples, analyzed.perturb)
    if spec is None or (isinstance(spec, str) and spec in samples.inputs):
        mask = _unit_mask(spec, feeds)
        feeds.counted = None if mask is None else mask.units
    return feeds


def _as_begun(writer: RunWriter, chunk: int) -> int:
    """Inputs at once that the run was begun with: grouped otherwise, the last digits of a resumed run differ."""
    begun = writer.recorded("inputs_at_once")
    # A file from elsewhere does not decide over this machine's memory.
    return begun if isinstance(begun, int) and 1 <= begun <= max(2 * chunk, CPU_INPUTS) else chunk


def _crops(objects: Foreground | None, times: float | None) -> dict[str, Any]:
    if times is None:
        return {}
    if objects is None:
        raise UsageError("crop_to_box needs boxes or masks to crop to; give --foreground")
    return {"boxes": objects.crops(), "box_scale": times}


def _masks(objects: Foreground, feeds: Feeds) -> npt.NDArray[np.uint8]:
    if feeds.perturb not in feeds.samples.inputs:
        raise UsageError(f"a foreground needs images, and '{feeds.perturb}' is computed from the model's inputs")
    return objects.masks(feeds.main)


def _schema(job: Job, measures: Mapping[str, Measure], more: Mapping[str, Any], where: Mapping[str, Any]) -> RunSchema:
    feeds = job.feeds
    main, axes = feeds.main, feeds.described
    everything = range(len(feeds))
    labels: Any = main.labels
    if labels is not None and main.classes:
        labels = [main.classes[i] for i in labels]
    recipe: dict[str, Any] = {
        "model_sha256": feeds.model.sha256,
        "perturbed": feeds.perturb,
        "unit_axis": "" if axes.channel is None else axes.names[axes.channel],
        "samples_sha256": feeds.samples.digest(),
        "preprocessing": main.preprocessing.to_dict(),
        **asdict(job.settings),
        **more,
    }
    if job.foreground is not None:
        recipe["foreground_sha256"] = hashlib.sha256(job.foreground.tobytes()).hexdigest()
        recipe["without_foreground"] = int((~job.foreground.any((1, 2))).sum())
    for measure in measures.values():
        recipe |= measure.recipe
    import onnx
    import onnxruntime

    from .. import __version__

    provenance = {
        "model_name": feeds.model.name,
        "unreadable_samples": [
            f"{name}: {reason}" for s in feeds.samples.inputs.values() for name, reason in s.unreadable
        ],
        "device": torch.cuda.get_device_name(job.device) if job.device.type == "cuda" else platform.machine(),
        **_precision(feeds.model),
        "axes_known_by": axes.evidence,
        "inputs_at_once": job.chunk,
        "batching": job.network.mode,
        **where,
        "onnxinfo": __version__,
        "torch": torch.__version__,
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
        "python": platform.python_version(),
    }
    return RunSchema(
        layers=job.layers,
        axes=axes.names,
        sample_shape=job.shape,
        sample_names=main.names,
        metrics=tuple(measure.metric for measure in measures.values()),
        unit=job.unit.cpu().numpy(),
        recipe=recipe,
        labels=labels,
        thumbnails=main.thumbnails(everything),
        foreground=job.foreground,
        provenance=provenance,
    )


def _precision(model: Model) -> dict[str, str]:
    found = quantisation(model.proto)
    return {"precision": "quantised" if found else "float", "quantisation": found}


def _names(layers: Sequence[Layer]) -> str:
    names = [layer.name for layer in layers]
    return ", ".join(names if len(names) <= 6 else [*names[:3], "...", *names[-3:]])
