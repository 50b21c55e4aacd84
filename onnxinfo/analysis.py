"""The main job: from an ONNX model and samples to an archive of every layer's metrics."""

from __future__ import annotations

import math
import os
import platform
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .archive.format import CERTIFICATE, Field, Metric, RunSchema
from .archive.writer import RunWriter
from .errors import UsageError
from .graph.layers import Layer, list_layers, perturbed_tensor, select_layers
from .graph.model import ModelSource, load
from .graph.surgery import extract
from .inputs.sample_sets import open_inputs
from .metrics.budget import device_of, inputs_at_once, parse_bytes
from .metrics.feeds import Feeds, graph_inputs
from .metrics.network import Network
from .metrics.noise import Tie, generator, make_tie
from .metrics.probe import Feature
from .metrics.reference import solve_by_gradient
from .metrics.sid import NORMALIZER_STDERR, Linearisation, Solution, linearise, solve
from .torch_graph.reach import convert_reached
from .torch_graph.verify import verify

#: Samples solved together, at most; the unit in which results are written and work is resumed.
BLOCK = 32
#: Samples the torch graph is verified on.
VERIFIED_SAMPLES = 2
#: Column norms of the whole run above this many bytes are kept on disk between the two passes.
CACHE_BYTES = 256 * 2**20

SID = Metric(
    "sid",
    "strict information discarding",
    fields=(*CERTIFICATE, Field("residual_stderr", "<f8", "1", "standard error of the residual")),
)


@dataclass(frozen=True)
class Settings:
    """What determines the numbers, besides model and samples; see :func:`analyze`."""

    alpha: float = 1.5e-4
    normalizer: str = "dataset"
    tie: str = "unit"
    cap: float = 1.0
    solver: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.alpha) and self.alpha > 0):
            raise UsageError(f"alpha {self.alpha} is not usable: give a positive number, such as 1.5e-4")
        if self.normalizer not in ("dataset", "image"):
            raise UsageError(f"normalizer '{self.normalizer}' is unknown: use dataset or image")
        if not (math.isfinite(self.cap) and self.cap > 0):
            raise UsageError(f"cap {self.cap} is not usable: give a positive number of standard deviations, such as 1")
        if self.solver not in ("auto", "reference"):
            raise UsageError(f"solver '{self.solver}' is unknown: use auto or reference")


@dataclass(frozen=True)
class Progress:
    """How far an analysis is: stage, cells (layer, sample) done of all, the layer just finished and its mean SID."""

    stage: str
    done: int
    total: int
    layer: str = ""
    value: float = math.nan


Report = Callable[[Progress], None]


@dataclass(frozen=True)
class Result:
    """Where an analysis went. It keeps no file open: read it with :func:`onnxinfo.open`.

    Attributes
    ----------
    archive
        The HDF5 file.
    run
        Name of the run in it.
    """

    archive: Path
    run: str


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
    labels: Any = None,
    limit: int | None = None,
    preset: str | None = None,
    scale: float | None = None,
    mean: Sequence[float] | float | None = None,
    std: Sequence[float] | float | None = None,
    size: int | tuple[int, int] | None = None,
    alpha: float = 1.5e-4,
    normalizer: str = "dataset",
    tie: str = "unit",
    cap: float = 1.0,
    solver: str = "auto",
    seed: int = 0,
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
        Names of metrics; ``sid``.
    run
        Name of the run; default: the model's name.
    perturb
        The perturbed tensor; default: the float graph input, or the embedding of integer inputs.
    labels, limit, preset, scale, mean, std, size
        See :func:`onnxinfo.open_samples`.
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
    """
    settings = Settings(alpha, normalizer, tie, cap, solver, seed)
    unknown = [name for name in metrics if name != SID.name]
    if unknown or not metrics:
        raise UsageError(f"metric '{', '.join(unknown)}' is unknown: use {SID.name}")
    target = device_of(device)
    loaded = load(model)
    perturbed = perturbed_tensor(loaded, perturb)
    chosen = select_layers(list_layers(loaded, perturbed), layers, exclude)
    declared = {i.name: (i.shape, i.dtype) for i in graph_inputs(loaded)}
    samples = open_inputs(
        inputs, declared, labels=labels, limit=limit, preset=preset, scale=scale, mean=mean, std=std, size=size
    )
    job = _prepare(Feeds(loaded, samples, perturbed), chosen, settings, target)
    chunk = inputs_at_once(
        job.network, *job.block([0]), memory=parse_bytes(memory) if isinstance(memory, str) else memory
    )
    schema = _schema(job, chosen, chunk)
    name = run or loaded.name
    with RunWriter.open(output, name, schema, overwrite=overwrite, compression=compression) as writer:
        _compute(job, writer, [layer.name for layer in chosen], chunk, progress or (lambda _: None))
    return Result(Path(output), name)


@dataclass
class _Job:
    """Everything the computation needs, ready on its device."""

    feeds: Feeds
    network: Network
    unit: Tensor
    tie: Tie
    settings: Settings
    device: torch.device
    shape: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.shape = tuple(self.feeds.perturbed([0]).shape[1:])

    def block(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The perturbed tensor of some samples and their rows."""
        x = torch.from_numpy(self.feeds.perturbed(indices)).to(self.device)
        return x, torch.as_tensor(list(indices), device=self.device)


def _prepare(feeds: Feeds, layers: Sequence[Layer], settings: Settings, device: torch.device) -> _Job:
    names = [layer.name for layer in layers]
    graph = extract(feeds.model, [feeds.perturb], names)
    module = convert_reached(feeds.model, feeds.perturb, names)
    some = list(range(min(VERIFIED_SAMPLES, len(feeds))))
    context_names = [i.name for i in graph_inputs(graph) if i.name != feeds.perturb]
    count = feeds.batch_size or len(some)
    shown = (some * count)[:count]
    given = {feeds.perturb: feeds.perturbed(shown)} | {
        k: v for k, v in feeds.samples.feeds(shown).items() if k in context_names
    }
    verify(graph, module, [given], names)
    everything = range(len(feeds))
    context = [torch.from_numpy(feeds.samples.inputs[name].batch(everything)).to(device) for name in context_names]
    network = Network(module.to(device), context, feeds.batch_size)
    tie = make_tie(settings.tie, given[feeds.perturb].shape[1:], feeds.axes()).to(device)
    job = _Job(feeds, network, torch.from_numpy(feeds.unit()).to(device), tie, settings, device)
    x, rows = job.block([0, len(feeds) - 1])
    network.settle_batching(x, rows)
    return job


def _schema(job: _Job, layers: Sequence[Layer], chunk: int) -> RunSchema:
    feeds = job.feeds
    main = feeds.main
    everything = range(len(feeds))
    labels: Any = main.labels
    if labels is not None and main.classes:
        labels = [main.classes[i] for i in labels]
    recipe = {
        "model_sha256": feeds.model.sha256,
        "perturbed": feeds.perturb,
        "samples_sha256": feeds.samples.digest(),
        "preprocessing": main.preprocessing.to_dict(),
        **asdict(job.settings),
    }
    import onnx
    import onnxruntime

    from . import __version__

    provenance = {
        "model_name": feeds.model.name,
        "unreadable_samples": [
            f"{name}: {reason}" for s in feeds.samples.inputs.values() for name, reason in s.unreadable
        ],
        "device": torch.cuda.get_device_name(job.device) if job.device.type == "cuda" else platform.machine(),
        "inputs_at_once": chunk,
        "batching": job.network.mode,
        "onnxinfo": __version__,
        "torch": torch.__version__,
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
        "python": platform.python_version(),
    }
    return RunSchema(
        layers=layers,
        axes=feeds.axes(),
        sample_shape=job.shape,
        sample_names=main.names,
        metrics=(SID,),
        unit=job.unit.cpu().numpy(),
        recipe=recipe,
        labels=labels,
        thumbnails=main.thumbnails(everything),
        provenance=provenance,
    )


def _compute(job: _Job, writer: RunWriter, names: Sequence[str], chunk: int, report: Report) -> None:
    """Fill every cell that is not finished, block of samples by block of samples."""
    finished = writer.finished(SID.name)
    layers, samples = finished.shape
    size = min(BLOCK, chunk, samples)
    blocks = [list(range(start, min(start + size, samples))) for start in range(0, samples, size)]
    open_blocks = [block for block in blocks if not finished[:, block].all()]
    if not open_blocks:
        return
    report(Progress("SID", int(finished.sum()), finished.size))
    starts = _Starts(job, blocks, layers)
    targets = starts.first_pass(writer, report) if job.settings.normalizer == "dataset" else None
    done = int(finished.sum())
    for block in open_blocks:
        x, rows = job.block(block)
        for layer, start in enumerate(starts.of(block, x, rows)):
            if finished[layer, block].all():
                continue
            normalizer = start.normalizer if targets is None else targets[layer].expand(len(block))
            feature = _feature(job, layer, x, rows, block[0], chunk)
            solution = _solve(job, feature, start, job.settings.alpha * normalizer)
            _write(writer, layer, block, job.shape, solution)
            done += len(block) - int(finished[layer, block].sum())
            report(Progress("SID", done, finished.size, names[layer], float(solution.entropy.mean())))


def _feature(job: _Job, layer: int, x: Tensor, rows: Tensor, first: int, chunk: int) -> Feature:
    seed = job.settings.seed
    # The noise is the same for all layers: what differs between them is then not the draw.
    noise = generator(job.device, seed, "noise", first)
    probes = generator(job.device, seed, "probes", first)
    return Feature(job.network.part([layer]), x, job.unit, rows, noise, probes, chunk)


def _solve(job: _Job, feature: Feature, start: Linearisation, target: Tensor) -> Solution:
    if job.settings.solver == "reference":
        return solve_by_gradient(feature, start, target, job.tie, job.settings.cap)
    return solve(feature, start, target, job.tie, job.settings.cap, job.shape)


def _write(writer: RunWriter, layer: int, block: Sequence[int], shape: Sequence[int], solution: Solution) -> None:
    certificate, entropy = solution.certificate, solution.entropy
    count = len(block)
    values = {
        "value": entropy.double().mean(1),
        "stderr": solution.stderr,
        "converged": certificate.converged & entropy.isfinite().all(1),
        "ratio": certificate.ratio,
        "ratio_stderr": certificate.ratio_stderr,
        "residual": certificate.residual,
        "residual_stderr": certificate.residual_stderr,
        "probes": torch.full((count,), solution.probes),
        "iterations": torch.full((count,), solution.iterations),
        "capped": solution.capped,
    }
    arrays = {name: value.cpu().numpy() for name, value in values.items()}
    writer.write(SID.name, layer, block, values=arrays, map=entropy.reshape(count, *shape).cpu().numpy())


@dataclass
class _Starts:
    """Linearisations of all layers, block by block; kept between the passes, in memory or on disk."""

    job: _Job
    blocks: list[list[int]]
    layers: int
    _kept: dict[int, list[Linearisation]] = field(default_factory=dict)
    _file: npt.NDArray[np.float32] | None = None

    def of(self, block: list[int], x: Tensor, rows: Tensor) -> list[Linearisation]:
        """Linearisations of a block's samples, one per layer."""
        if block[0] not in self._kept:
            return self._linearise(block, x, rows)
        kept = self._kept.pop(block[0])
        if self._file is None:
            return kept
        norms = torch.from_numpy(np.array(self._file[:, block])).to(x.device)
        return [
            Linearisation(norms[i], k.normalizer, k.normalizer_stderr, k.affine, k.probes) for i, k in enumerate(kept)
        ]

    def first_pass(self, writer: RunWriter, report: Report) -> Tensor:
        """``D`` of every layer averaged over all samples, (layers,), recorded in the archive."""
        total = torch.zeros(self.layers, dtype=torch.float64, device=self.job.device)
        units = math.prod(self.job.shape)
        samples = self.blocks[-1][-1] + 1
        if 4 * units * self.layers * samples > CACHE_BYTES:
            file = tempfile.TemporaryFile()  # noqa: SIM115 - the memory map owns it, and it has no name to leave behind
            self._file = np.memmap(file, np.float32, "w+", shape=(self.layers, samples, units))
        for block in self.blocks:
            found = self._linearise(block, *self.job.block(block))
            total += torch.stack([start.normalizer.double().sum() for start in found])
            self._kept[block[0]] = [self._keep(i, block, start) for i, start in enumerate(found)]
            report(Progress("normalizer", block[-1] + 1, samples))
        means = (total / samples).float()
        for layer in range(self.layers):
            if not writer.finished(SID.name)[layer].any():
                writer.set_normalizer(SID.name, layer, float(means[layer]))
        # A resumed run keeps the normalizer that its finished cells were computed with.
        kept = [writer.normalizer(SID.name, layer) for layer in range(self.layers)]
        return torch.tensor(kept, device=self.job.device)

    def _keep(self, layer: int, block: list[int], start: Linearisation) -> Linearisation:
        if self._file is None:
            return start
        self._file[layer, block] = start.column_norms.cpu().numpy()
        nothing = start.column_norms[:, :0]
        return Linearisation(nothing, start.normalizer, start.normalizer_stderr, start.affine, start.probes)

    def _linearise(self, block: list[int], x: Tensor, rows: Tensor) -> list[Linearisation]:
        job = self.job
        stream = generator(job.device, job.settings.seed, "linearise", block[0])
        return linearise(job.network, x, job.unit, rows, stream, stderr=self._stderr())

    def _stderr(self) -> float:
        if self.job.settings.normalizer == "image":
            return NORMALIZER_STDERR
        # The mean over all samples is what has to be known well.
        return min(0.05, NORMALIZER_STDERR / 4 * math.sqrt(self.blocks[-1][-1] + 1))
