"""The main workflow: from an ONNX model and samples to an archive of every layer's metrics."""

from __future__ import annotations

import hashlib
import logging
import os
import platform
from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt
import torch

from ..analysis.blocks import Measure
from ..analysis.evaluated import prepare_evaluated
from ..analysis.finite import check_values
from ..analysis.job import Job, prepare_reached
from ..analysis.keeping import unfinished_work
from ..analysis.linearization_store import SharedLinearizations
from ..analysis.masks import unit_mask_of
from ..analysis.measures import check_gradients, check_metrics, make_measures, need_gradients, needed, with_needed
from ..analysis.sanity import Reopen, examine
from ..analysis.sensitivity import find_target
from ..analysis.sensitivity_metric import TARGET, SensitivityMetric, sensitivity_target
from ..analysis.settings import Report, Result
from ..analysis.tasks import Worker
from ..archive.begun import Begun, begun
from ..archive.claim import claim_archive
from ..archive.format import PARTS, RETRY, RunSchema, plain_text
from ..archive.growth import unproven
from ..archive.prepare import Request, another_recipe, is_complete
from ..archive.reading import open as open_archive
from ..archive.sanity import ATTRIBUTE, SanityCard
from ..archive.writer import RunWriter
from ..arguments import Names, names_of
from ..config import (
    Config,
    ExecutionConfig,
    FlatOptions,
    InputConfig,
    OutputConfig,
    RuConfig,
    SelectionConfig,
    SensitivityConfig,
    SidConfig,
    as_setting,
    configure,
    recipe,
    recorded_flags,
)
from ..engines.base import describe_execution, open_engine
from ..errors import UnprovenError, UsageError
from ..graph.layers import Layer, choose_layers, spelled_out
from ..graph.model import Model, ModelSource
from ..graph.perturbed import perturbed_tensors
from ..graph.quantization import quantization
from ..inputs.foreground import Foreground, crops_of, open_foreground
from ..inputs.left_out import report_left_out
from ..inputs.sample_sets import SampleSet
from ..inputs.unit_mask import UnitMask
from ..metrics.budget import CPU_INPUTS, device_of, fit
from ..metrics.input_provider import InputProvider
from ..metrics.joint import joined_samples, open_provider
from ..metrics.noise_precision import has_instructions
from ..registry import ENGINES, METRICS
from ..replacing import check_writable
from ..termination import orderly_termination
from ..text import printable, quoted
from .compute import RETRY_PASSES, Analysis
from .computing import computing
from .former import Former
from .given_model import given_model
from .idle import refuse_idle_keywords
from .notebook import reporting
from .open_job import leading, report_astray
from .open_model import open_model, recorded_inputs, runnable, with_chosen_parts, with_moved_parts
from .open_samples import open_analyzed, reopening

logger = logging.getLogger(__name__)
#: Receives the sanity card, line by line, which front ends show also where they show no log.
sanity_logger = logging.getLogger("onnxinfo.sanity")
#: Attribute of a run that says whether its layers may have been solved with noise in bfloat16.
NARROW = "noise_bfloat16"


def analyze(
    model: ModelSource,
    inputs: Any,
    output: str | os.PathLike[str],
    *,
    example: Any = None,
    layers: Names = (),
    exclude: Names = (),
    metrics: Names = SelectionConfig.metrics,
    input: InputConfig = InputConfig(),
    sid: SidConfig = SidConfig(),
    ru: RuConfig = RuConfig(),
    sensitivity: SensitivityConfig = SensitivityConfig(),
    execution: ExecutionConfig = ExecutionConfig(),
    out: OutputConfig = OutputConfig(),
    progress: Report | None = None,
    **flat: Unpack[FlatOptions],
) -> Result:
    """Compute metrics of a model's layers on samples and write them to an archive.

    If an analysis is interrupted, finished cells are kept; the same call resumes it. A run with the same recipe grows
    by further samples, layers and metrics; if it has everything already, nothing is computed.

    Parameters
    ----------
    model
        Path, bytes, ``ModelProto`` or :class:`~onnxinfo.Model`; or a torch module, a Keras model or a fitted
        scikit-learn estimator.
    inputs
        Samples: a folder or glob of images or recordings, ``FILE.npz:key``, ``.npy``, ``FILE.h5:/dataset``, a table
        (``.csv``, ``.parquet``, ``FILE.csv:NAME,NAME``), texts (``.txt``), an array, a torch tensor, Dataset or
        DataLoader, pictures of PIL, a DataFrame; for several graph inputs a mapping
        from their names, ``NAME=SPEC,...``, or a table with a column for each; for a model without a batch axis a list
        of mappings from names to arrays, or a folder of ``.npz`` files, each one complete feed.
    output
        The archive, an HDF5 file; it is created, or a run is added to it. Other files are left alone.
    example
        Input of a torch module, see :func:`~onnxinfo.load`; by default the first samples, if these are float arrays.
    layers, exclude
        Patterns, see :func:`~onnxinfo.select_layers`; default: the default layers of :func:`~onnxinfo.list_layers`.
    metrics
        Names of metrics: ``sid``, ``ru``, ``concentration``; ``sensitivity``; ``cka``, ``vinfo``, ``probe``;
        baselines ``gradient``, ``gradcam``, ``cam``.
    input, sid, ru, sensitivity, execution, out
        All other settings, by concern; see :mod:`onnxinfo.config`. Several local workers import the calling program's
        main module: guard its code with ``if __name__ == "__main__"``.
    progress
        Called with a :class:`Progress` as work is done. Default: a bar in notebooks, nothing elsewhere.
    **flat
        Single settings by flat name, such as ``limit`` or ``alpha``, instead of an object or in addition to one;
        see docs/configuration.md for the list.

    Returns
    -------
    Result
        The archive and the run's name.

    Raises
    ------
    UsageError
        The request is invalid, or the archive is one of the inputs; nothing is written.
    ModelError, InputError, ConversionError, VerificationError
        The model or the samples are unusable; nothing is written.
    ArchiveError
        The archive cannot be written; its existing contents are safe.
    ResourceError
        A worker was lost permanently, or memory is too small for a single sample. If memory runs out before that, the
        batch size is halved.

    Examples
    --------
    >>> onnxinfo.analyze("digits-cnn.onnx", "digits.npz:images", "new.h5", layers=["relu", "logits"], limit=2)
    Result(archive=...Path('new.h5'), run='digits-cnn')

    Settings of one concern can be passed as an object:

    >>> sid = onnxinfo.SidConfig(alpha=0.001, seed=7)
    >>> onnxinfo.analyze("digits-cnn.onnx", "digits.npz:images", "other.h5", layers=["-1"], sid=sid, limit=1).run
    'digits-cnn'
    """
    base = Config(
        SelectionConfig(names_of(layers, "layers"), names_of(exclude, "exclude"), names_of(metrics, "metrics")),
        input,
        sid,
        ru,
        sensitivity,
        execution,
        out,
    )
    config = configure(base, flat)
    refuse_idle_keywords("analyze", flat, config, inputs=inputs, output=output)
    return run_analysis(given_model(model, inputs, example), inputs, output, config, progress)


def run_analysis(
    model: ModelSource,
    inputs: Any,
    output: str | os.PathLike[str],
    config: Config,
    progress: Report | None = None,
) -> Result:
    """Analyze as :func:`analyze` does, with a complete configuration."""
    with computing(config.execution.timeout), orderly_termination():
        return _run(model, inputs, output, config, reporting(progress))


@dataclass(frozen=True)
class Ready:
    """An analysis whose model and samples are prepared, and of which nothing is written yet.

    Attributes
    ----------
    job
        Network, samples and settings.
    measures
        The requested metrics, by name.
    worker
        Worker of this process.
    archive, run
        The archive, with symbolic links resolved, and the run's name.
    request
        What is asked of the run.
    is_complete
        Whether the archive has all of it already.
    """

    job: Job
    measures: Mapping[str, Measure]
    worker: Worker
    archive: Path
    run: str
    request: Request
    is_complete: bool


def ready(
    model: ModelSource,
    inputs: Any,
    output: str | os.PathLike[str],
    config: Config,
    named: Collection[str] | None = None,
) -> Ready:
    """Check a request and prepare model and samples; nothing is written.

    Parameters
    ----------
    model, inputs, output, config
        As for :func:`run_analysis`.
    named
        Names of layers that must not be left out where no gradient reaches them; None: those that are spelled out.
    """
    archive = claim_archive(output, [model, inputs, *config.sources()])
    chosen = config.selection.metrics
    check_metrics(chosen)
    if config.sid.solver == "forward":
        check_gradients(chosen)
    ENGINES.get(config.execution.engine)
    _claim(chosen, config, output)
    target = device_of(config.execution.device)
    loaded = open_model(model, config.input, inputs)
    present = begun(output, config.out.run or loaded.name, overwrite=config.out.overwrite)
    if not present.is_closed:
        check_writable(archive)
    chosen = (*dict.fromkeys((*present.metrics, *chosen)),)
    config = replace(config, selection=replace(config.selection, metrics=chosen))
    _claim(present.metrics, config, output)
    if SensitivityMetric.metric.name in chosen:
        loaded = with_moved_parts(loaded, config, present.layers)
    else:
        loaded = with_chosen_parts(loaded, config.selection, present.layers)
    job, mask = _open_job(loaded, inputs, config, target, present.layers, named)
    job.config, job.source, job.output = config, inputs, Path(output)
    if SensitivityMetric.metric.name in chosen:
        _check_target(job, present, config.out.run or loaded.name)
    measures = make_measures(chosen, job)
    worker = Worker(job, with_needed(measures, job))
    logger.info("batch size: %d", job.batch_size)
    more: dict[str, Any] = {**recorded_flags(config), **recorded_inputs(config.input)}
    if mask is not None:
        more |= {"unit_mask": mask.source, "unit_mask_sha256": mask.digest()}
    schema = _schema(job, measures, more, describe_execution(config.execution, job.device))
    request, run = Request(schema, config.out.compression, config.out.overwrite), config.out.run or loaded.name
    return Ready(job, measures, worker, archive, run, request, is_complete(archive, run, request))


def _check_target(job: Job, present: Begun, run: str) -> None:
    """Refuse a target of the sensitivity that a run's own target or layers rule out.

    Raises
    ------
    UsageError
        They do.
    """
    target = sensitivity_target(job)
    stored = present.recipe.get(TARGET, target)
    if stored != target:
        raise another_recipe(run, f"{as_setting(TARGET, '')[0]} is {printable(str(stored))} there, {target} now")
    flow = job.provider.model.flow
    for name in sorted(present.layers - {target}):
        if target not in flow.influenced(name):
            raise UsageError(
                f"run {quoted(run)} has {quoted(name)}, which does not lead to the target {quoted(target)}; choose "
                f"another run=..., or another target=..."
            )


def check_present(model: ModelSource, inputs: Any, output: str | os.PathLike[str], config: Config) -> None:
    """Refuse what :func:`ready` refuses if the archive has the named run, before other runs are computed."""
    if begun(output, config.out.run or "", overwrite=config.out.overwrite).layers:
        with computing(config.execution.timeout):
            ready(model, inputs, output, config)


def _run(model: ModelSource, inputs: Any, output: str | os.PathLike[str], config: Config, report: Report) -> Result:
    return complete(ready(model, inputs, output, config), output, report)


def complete(
    found: Ready,
    output: str | os.PathLike[str],
    report: Report,
    shared: SharedLinearizations | None = None,
    near: str = "",
) -> Result:
    """Compute what is unfinished of a run, and write it to the archive.

    Parameters
    ----------
    found
        The run.
    output, report
        The archive, and what receives progress.
    shared
        Linearizations that runs of the same layers and samples share.
    near
        Name of a complete run of the archive with another alpha, from whose maps the search for SID begins.
    """
    job, measures, worker, name = found.job, found.measures, found.worker, found.run
    out, schema = job.config.out, found.request.schema
    if found.is_complete:
        logger.info("run %s is complete: it has all cells that were asked for", quoted(name))
        if out.retry_unproven:
            _report_left(Path(output), name)
        return _proven(Result(Path(output), name, unchanged=True), out.min_converged)
    check_writable(found.archive)
    with (
        orderly_termination(),
        RunWriter.open(
            output,
            name,
            schema,
            overwrite=out.overwrite,
            compression=out.compression,
        ) as writer,
    ):
        if job.memory is None:
            job.batch_size = _as_begun(writer, job.batch_size)
        job.precision = _precision_as_begun(writer, job)
        worker.unfinished = unfinished_work(job.output, name, schema, job)
        if any(not writer.finished(metric).all() for metric in measures):
            for measure in worker.measures.values():
                measure.prepare(report)
        with open_engine(job.config.execution, worker) as opened:
            workers = job.config.execution.workers or 1
            neighbor = writer.other(near) if near else None
            former = Former.of(writer.former, schema, job)
            if former is None and neighbor is not None:
                former = Former.at_other_alpha(neighbor, schema, job)
            Analysis(job, measures, worker, opened, writer, report, workers, former, shared).compute()
        # Before the run is marked complete, because no later call looks for it then.
        worker.unfinished.remove()
    return _proven(Result(Path(output), name), out.min_converged)


def _claim(metrics: Sequence[str], config: Config, output: str | os.PathLike[str]) -> None:
    """Refuse files beside the archive that cannot be written."""
    for metric in needed(metrics):
        METRICS.get(metric).claim(config, Path(output))


def _report_left(output: Path, name: str) -> None:
    """Report cells that stay unproven although they had more passes, which are not repeated."""
    with open_archive(output) as archive:
        run = archive[name]
        left = sum(int((run.retried(each.name) & unproven(run, each.name)).sum()) for each in run.metrics)
    if left:
        logger.warning("%d cells stay unproven after %d times the passes; they are not tried again", left, RETRY_PASSES)


def _proven(result: Result, least: float | None) -> Result:
    """Return the result of a complete run, or raise if too few of its cells are proven."""
    if least is None:
        return result
    with open_archive(result.archive) as archive:
        run = archive[result.run]
        proven = [run.values(metric.name)["converged"] for metric in run.metrics]
    share = float(np.concatenate([each.ravel() for each in proven]).mean())
    if share < least:
        raise UnprovenError(
            f"{share:.1%} of the cells of run {quoted(result.run)} are proven, and min_converged asks for {least:.1%}; "
            f"give retry_unproven=True, or look at the marks in the table",
            result,
        )
    return result


def _open_job(
    loaded: Model,
    inputs: Any,
    config: Config,
    target: torch.device,
    present: Set[str],
    named: Collection[str] | None,
) -> tuple[Job, UnitMask | None]:
    """Prepare model and samples on the device; layers that are present in the run are chosen, too."""
    selection, chosen_input = config.selection, config.input
    perturbed = perturbed_tensors(loaded, chosen_input.input_tensor)
    # Raises before samples are read.
    choose_layers(loaded, perturbed, selection.layers, selection.exclude)
    objects = None if chosen_input.foreground is None else open_foreground(chosen_input.foreground)
    crops = crops_of(objects, chosen_input.crop_to_box)
    samples = open_analyzed(loaded, inputs, chosen_input, crops)
    loaded = runnable(loaded, samples)
    report_left_out(samples, anonymous=config.out.anonymous_names)
    if samples.order:
        logger.warning("order of the samples: %s; a random part is drawn with shuffle=True and a limit", samples.order)
    card = _examined(loaded, samples, config, reopening(loaded, inputs, chosen_input, crops))
    provider = open_provider(loaded, samples, perturbed, leave_out=not chosen_input.input_tensor)
    listed, chosen = choose_layers(loaded, provider.tensors, selection.layers, selection.exclude)
    if {*selection.metrics} == {SensitivityMetric.metric.name}:
        target_layer = find_target(loaded, listed, config.sensitivity)
        chosen, astray = leading(loaded, chosen, target_layer, selection.layers)
        report_astray(astray, target_layer.name, selection.layers)
    selected = {layer.name for layer in chosen}
    chosen = [layer for layer in listed if layer.name in selected or plain_text(layer.name) in present]
    _log_inputs(provider)
    logger.info("layers: %d of %d: %s", len(chosen), len(listed), _names(chosen))
    logger.info("samples: %d; preprocessing: %s", len(provider), provider.main.preprocessing.to_dict())
    masks = None if objects is None else _masks(objects, provider)
    # Objects are matched by the samples' real names; nothing needs these from here on.
    if config.out.anonymous_names:
        provider.samples.make_anonymous()
    mask = unit_mask_of(chosen_input.unit_mask, provider)
    if mask is not None and config.out.anonymous_names and mask.from_file:
        mask = replace(mask, source="a file")
    if mask is not None:
        logger.info("unit mask: %s", mask)
        provider.counted = mask.units
    kept = {*(spelled_out(chosen, selection.layers) if named is None else named)}
    kept |= {layer.name for layer in chosen if plain_text(layer.name) in present}
    job = _prepared(provider, chosen, config, target, kept, named=bool(selection.layers or present))
    job.foreground, job.card = masks, card
    if mask is not None:
        job.units = torch.from_numpy(mask.units.reshape(len(provider), -1))
    job.memory = config.execution.memory_bytes
    job.batch_size = fit(job.network, *job.inputs([0]), memory=job.memory)
    check_values(job)
    return job, mask


def _examined(model: Model, samples: SampleSet, config: Config, reopened: Reopen) -> SanityCard:
    """Examine the inputs, and report what is probably wrong before any work is done."""
    names = config.input.input_tensor or ()
    card = examine(
        model,
        samples,
        config.input,
        reopened,
        name=names[0] if names else "",
        memory=config.execution.memory_bytes,
    )
    if config.out.anonymous_names:
        card = replace(card, notes=())  # they may name samples
    for line in replace(card, warnings=()).lines():
        sanity_logger.info("%s", line)
    for warning in card.warnings:
        logger.warning("%s", warning)
    return card


def _log_inputs(provider: InputProvider) -> None:
    """Log which tensors noise is added to, with their axes."""
    joined = joined_samples(provider)
    if joined is None:
        logger.info("analysis input: %s, axes %s", quoted(provider.input_tensor), provider.described)
        return
    sizes = ", ".join(f"{quoted(part.name)} ({'x'.join(map(str, part.shape)) or '1'})" for part in joined.parts)
    logger.info("noise is added to %d inputs together: %s", len(joined.parts), sizes)
    logger.info("axes: %s", joined.evidence)


def _prepared(
    provider: InputProvider,
    chosen: Sequence[Layer],
    config: Config,
    device: torch.device,
    kept: Collection[str],
    *,
    named: bool,
) -> Job:
    """Make layers ready: by evaluations only where none of the metrics needs more, and then all if some are named."""
    settings = config.sid
    if settings.solver == "reference" or need_gradients(config.selection.metrics):
        return prepare_reached(provider, chosen, settings, device, kept)
    return prepare_evaluated(provider, chosen, settings, device, named=named)


def _precision_as_begun(writer: RunWriter, job: Job) -> str:
    """Precision that the run was started with, whatever is faster now; float32 without instructions for bfloat16."""
    begun = writer.recorded(NARROW)
    if job.settings.noise_precision != "auto" or not isinstance(begun, bool):
        return job.precision
    return "auto" if begun and has_instructions(job.device) else "float32"


def _as_begun(writer: RunWriter, batch_size: int) -> int:
    """Batch size that the run was started with: another one would change the last digits of a resumed run."""
    begun = writer.recorded("inputs_at_once")
    # A file from elsewhere does not decide over this machine's memory.
    return begun if isinstance(begun, int) and 1 <= begun <= max(2 * batch_size, CPU_INPUTS) else batch_size


def _masks(objects: Foreground, provider: InputProvider) -> npt.NDArray[np.uint8]:
    joined = joined_samples(provider)
    if joined is not None and len(joined.images) != 1:
        raise UsageError(
            f"a foreground is of one image, and of the {len(joined.parts)} inputs that noise is added to "
            f"{len(joined.images)} are images; name one by input_tensor=..."
        )
    if provider.input_tensor not in provider.samples.inputs:
        raise UsageError(
            f"a foreground needs images, and '{provider.input_tensor}' is computed from the model's inputs"
        )
    return objects.masks(provider.main)


def _schema(job: Job, measures: Mapping[str, Measure], more: Mapping[str, Any], where: Mapping[str, Any]) -> RunSchema:
    provider = job.provider
    main, axes, joined = provider.main, provider.described, joined_samples(provider)
    everything, analyzed = range(len(provider)), provider.samples.inputs.get(provider.input_tensor)
    labels: Any = main.labels
    if labels is not None and main.classes:
        labels = [main.classes[i] for i in labels]
    described: dict[str, Any] = {
        "model_sha256": provider.model.sha256,
        "perturbed": provider.input_tensor if joined is None else joined.tensors,
        "unit_axis": "" if axes.channel is None else axes.names[axes.channel],
        "samples_sha256": provider.samples.digest(),
        "preprocessing": main.preprocessing.to_dict() if joined is None else joined.recipe,
        **recipe(job.settings),
        **more,
    }
    if 0 < len(job.evaluated) < len(job.layers):
        described["forward_layers"] = [job.layers[i].name for i in sorted(job.evaluated)]
    if job.foreground is not None:
        described["foreground_sha256"] = hashlib.sha256(job.foreground.tobytes()).hexdigest()
        described["without_foreground"] = int((~job.foreground.any((1, 2))).sum())
    for measure in measures.values():
        described |= measure.recipe
    import onnx
    import onnxruntime

    from .. import __version__

    provenance = {
        "model_name": provider.model.name,
        "unreadable_samples": [f"{name}: {reason}" if name else reason for name, reason in provider.samples.unreadable],
        **({"samples_order": provider.samples.order} if provider.samples.order else {}),
        "device": torch.cuda.get_device_name(job.device) if job.device.type == "cuda" else platform.machine(),
        **({} if job.card is None else {ATTRIBUTE: job.card.to_dict()}),
        **_precision(provider.model),
        **({"exported_by": provider.model.exported} if provider.model.exported else {}),
        **_parts(job),
        "verified_against": job.witness,
        "axes_known_by": axes.evidence if joined is None else joined.evidence,
        **({"tags": dict(job.config.out.tag)} if job.config.out.tag else {}),
        **({RETRY: True} if job.config.out.retry_unproven else {}),
        "inputs_at_once": job.batch_size,
        "batching": job.network.mode,
        NARROW: job.precision != "float32",
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
        recipe=described,
        labels=labels,
        thumbnails=main.thumbnails(everything) if job.config.out.thumbnails else None,
        foreground=job.foreground,
        digest_of=provider.samples.digest_of,
        predicted=None if job.card is None else job.card.predicted,
        probability=None if job.card is None else job.card.probability,
        provenance=provenance,
        unit_names=analyzed.units if analyzed is not None else None,
        inputs=provider.parts,
    )


def _parts(job: Job) -> dict[str, dict[str, str]]:
    """Return the entry of the provenance for parts of layers: the layer of each."""
    parts = job.provider.model.parts
    found = {plain_text(each.name): plain_text(parts[each.name]) for each in job.layers if each.name in parts}
    return {PARTS: found} if found else {}


def _precision(model: Model) -> dict[str, str]:
    found = quantization(model.proto)
    return {"precision": "quantised" if found else "float", "quantisation": found}


def _names(layers: Sequence[Layer]) -> str:
    names = [layer.name for layer in layers]
    return ", ".join(names if len(names) <= 6 else [*names[:3], "...", *names[-3:]])
