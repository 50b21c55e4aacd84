"""One call from an ONNX model and samples to an archive of every layer's metrics."""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ..archive.format import RunSchema
from ..archive.writer import RunWriter
from ..errors import UsageError
from ..graph.layers import Layer, list_layers, perturbed_tensor, select_layers
from ..graph.model import ModelSource
from ..graph.optionals import without_optional_inputs
from ..inputs.foreground import Foreground, open_foreground
from ..inputs.sample_sets import open_inputs
from ..metrics.budget import CPU_INPUTS, device_of, inputs_at_once, parse_bytes
from ..metrics.decoder_training import DecoderSettings
from ..metrics.feeds import Feeds, graph_inputs
from ..torch_graph.precision import to_float32
from .blocks import Block, Measure, Starts
from .decoders import Decoders
from .job import Job, prepare
from .measures import OnDemand, check_metrics, make_measures
from .memory import for_each
from .recovery import Ru
from .settings import Progress, Report, Result, Settings

logger = logging.getLogger(__name__)

#: Samples solved together, at most; the unit in which results are written and work is resumed.
BLOCK = 32


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
    device: str = "auto",
    memory: int | str | None = None,
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
        The archive, an HDF5 file; it is created, or a run is added.
    layers, exclude
        Patterns, see :func:`~onnxinfo.select_layers`; default: what a person would call the layers.
    metrics
        Names of metrics: ``sid``, ``ru``, ``concentration``; baselines ``gradient``, ``gradcam``, ``cam``.
    run
        Name of the run; default: the model's name.
    perturb
        The perturbed tensor; default: the float graph input, or the embedding of integer inputs.
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
    decoder_width, decoder_steps
        See :func:`onnxinfo.train_decoder`.
    device
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    memory
        Budget for activations, bytes or such as ``"2G"``.
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
        Something asked for cannot be meant; nothing is written.
    ModelError, InputError, ConversionError, VerificationError
        The model or the samples do not work; nothing is written.
    ArchiveError
        The archive cannot be written; what it holds is safe.
    ResourceError
        Memory does not suffice for a single sample. Before, whenever it runs out, half as many inputs are evaluated at
        once from there on.
    """
    settings = Settings(alpha, normalizer, tie, cap, solver, seed)
    check_metrics(metrics)
    target = device_of(device)
    loaded = without_optional_inputs(model if keep_precision else to_float32(model))
    perturbed = perturbed_tensor(loaded, perturb)
    listed = list_layers(loaded, perturbed)
    chosen = select_layers(listed, layers, exclude)
    logger.info("perturbed: %s; layers: %d of %d: %s", perturbed, len(chosen), len(listed), _names(chosen))
    declared = {i.name: (i.shape, i.dtype) for i in graph_inputs(loaded)}
    objects = None if foreground is None else open_foreground(foreground)
    training = None
    if decoder_inputs is not None:
        training = open_inputs(
            decoder_inputs, declared, preset=preset, scale=scale, mean=mean, std=std, size=size, limit=decoder_limit
        )
    samples = open_inputs(
        inputs,
        declared,
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
    masks = None if objects is None else _masks(objects, feeds)
    job = prepare(feeds, chosen, settings, target)
    job.foreground = masks
    budget = parse_bytes(memory) if isinstance(memory, str) else memory
    job.memory = budget
    job.chunk = inputs_at_once(job.network, *job.inputs([0]), memory=budget)
    if Ru.metric.name in metrics:
        job.decoders = Decoders(
            Path(decoders) if decoders is not None else Path(output).with_suffix(".decoders"),
            feeds if training is None else Feeds(loaded, training, perturbed),
            DecoderSettings(decoder_width, decoder_steps, seed=seed),
            center,
            progress or (lambda _: None),
        )
    measures = make_measures(metrics, job)
    logger.info("inputs evaluated at once: %d", job.chunk)
    name = run or loaded.name
    schema = _schema(job, measures, {"keep_precision": True} if keep_precision else {})
    with RunWriter.open(output, name, schema, overwrite=overwrite, compression=compression) as writer:
        if budget is None:
            job.chunk = _as_begun(writer, job.chunk)
        _compute(job, measures, writer, progress or (lambda _: None))
    return Result(Path(output), name)


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


def _schema(job: Job, measures: Mapping[str, Measure], more: Mapping[str, Any]) -> RunSchema:
    feeds = job.feeds
    main = feeds.main
    everything = range(len(feeds))
    labels: Any = main.labels
    if labels is not None and main.classes:
        labels = [main.classes[i] for i in labels]
    recipe: dict[str, Any] = {
        "model_sha256": feeds.model.sha256,
        "perturbed": feeds.perturb,
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
        "inputs_at_once": job.chunk,
        "batching": job.network.mode,
        "onnxinfo": __version__,
        "torch": torch.__version__,
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
        "python": platform.python_version(),
    }
    return RunSchema(
        layers=job.layers,
        axes=feeds.axes(),
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


def _compute(job: Job, measures: Mapping[str, Measure], writer: RunWriter, report: Report) -> None:
    """Fill every cell that is not finished, block of samples by block of samples."""
    finished = {name: writer.finished(name) for name in measures}
    for name, done in finished.items():
        logger.info("%s: %d of %d cells are in the archive already", name, done.sum(), done.size)
    samples = len(job.feeds)
    size = min(BLOCK, job.chunk, samples)
    blocks = [list(range(start, min(start + size, samples))) for start in range(0, samples, size)]
    if all(done.all() for done in finished.values()):
        return
    for name, done in finished.items():
        report(Progress(name, int(done.sum()), done.size))
    starts = Starts(job, blocks)
    normalizers = _normalizers(starts, measures, writer, report) if job.settings.normalizer == "dataset" else None
    everything = OnDemand(measures, job)

    def fill(indices: list[int]) -> None:
        block = Block(job, indices, normalizers, starts.of, everything)
        for layer in range(len(job.layers)):
            for name, done in finished.items():
                if not done[layer, indices].all():
                    _fill_cells(block, name, layer, writer)
                    done[layer, indices] = True
                    mean = float(block.cells(name, layer).values["value"].double().nanmean())
                    report(Progress(name, int(done.sum()), done.size, job.layers[layer].name, mean))
            block.forget(layer)

    open_blocks = [block for block in starts.blocks if not all(done[:, block].all() for done in finished.values())]
    for_each(job, open_blocks, fill)


def _fill_cells(block: Block, name: str, layer: int, writer: RunWriter) -> None:
    began = time.monotonic()
    cells = block.cells(name, layer)
    values = {column: numbers.cpu().numpy() for column, numbers in cells.values.items()}
    maps = None if cells.map is None else cells.map.cpu().numpy()
    writer.write(name, layer, block.indices, values=values, map=maps)
    _log_cells(name, block.job.layers[layer].name, block.indices, values, time.monotonic() - began)


def _log_cells(
    metric: str, layer: str, indices: Sequence[int], values: Mapping[str, npt.NDArray[Any]], seconds: float
) -> None:
    if logger.isEnabledFor(logging.INFO):
        means = ", ".join(f"{name} {np.nanmean(column.astype(float)):.4g}" for name, column in values.items())
        span = f"{indices[0]}-{indices[-1]}"
        logger.info("%s of %s, samples %s, %.2f s; means: %s", metric, layer, span, seconds, means)


def _names(layers: Sequence[Layer]) -> str:
    names = [layer.name for layer in layers]
    return ", ".join(names if len(names) <= 6 else [*names[:3], "...", *names[-3:]])


def _normalizers(
    starts: Starts, measures: Mapping[str, Measure], writer: RunWriter, report: Report
) -> torch.Tensor | None:
    """``D`` of every layer averaged over all samples, (layers,), recorded in the archive."""
    names = [name for name, measure in measures.items() if measure.uses_normalizer]
    if not names:
        return None
    began = time.monotonic()
    means = starts.average(lambda done, total: report(Progress("normalizer", done, total)))
    logger.info("normalizers D of %d layers, %.2f s", len(means), time.monotonic() - began)
    for name in names:
        for layer, mean in enumerate(means):
            # A resumed run keeps the normalizer that its finished cells were computed with.
            if writer.finished(name)[layer].any():
                means[layer] = writer.normalizer(name, layer)
            else:
                writer.set_normalizer(name, layer, mean)
    return torch.tensor(means, device=starts.job.device)
