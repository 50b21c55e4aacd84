"""Serializable description of an analysis for other processes and machines: model, samples and settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import fx

from ..analysis.blocks import Measure
from ..analysis.job import Job, conditioning_inputs_of, make_job, specialized
from ..analysis.tasks import Worker
from ..archive.unfinished import Unfinished
from ..config import SidConfig
from ..errors import UsageError
from ..graph.engine import libraries, register_ort_library
from ..graph.interruption import current_limit, set_limit
from ..graph.layers import Layer
from ..graph.model import Model
from ..graph.quantization import rounds
from ..graph.weights import attach_weights, detach_weights
from ..inputs.memmap import PreprocessedSamples, write_memmap
from ..inputs.parts import InputPart
from ..inputs.sample_sets import SampleSet
from ..metrics.budget import FEW_INPUTS, fit
from ..metrics.freed_memory import return_freed_tensors
from ..metrics.input_provider import InputProvider
from ..torch_graph.evaluation import with_evaluations


@dataclass(frozen=True)
class WorkerSpec:
    """Specification from which a worker in another process is made.

    Attributes
    ----------
    version
        Version of onnxinfo, which must equal the worker's.
    model, weights
        See :func:`onnxinfo.graph.weights.detach_weights`: a large model cannot be sent in one piece.
    name, sha256
        Name and digest of the model.
    batch_axes
        See :class:`onnxinfo.Model`.
    inputs
        Samples by graph input.
    input_tensor, parts, layers, conditioning_inputs, unit, evaluated, settings, foreground, units, memory
        Those of the job.
    measures
        The prepared metrics themselves: a worker does not look up names.
    libraries
        Libraries of custom operators for ONNX Runtime.
    device, threads
        Device of the worker, and its number of CPU threads.
    timeout
        Time limit of ONNX Runtime for one batch, in seconds.
    unfinished
        Where unfinished work is kept.
    batching, precision
        Batching strategy, batch axes and batch size, and precision of the noise; None: the worker selects its own.
    """

    version: str
    model: onnx.ModelProto
    weights: dict[str, onnx.TensorProto]
    name: str
    sha256: str
    batch_axes: Mapping[str, int]
    inputs: dict[str, PreprocessedSamples]
    input_tensor: str
    parts: tuple[InputPart, ...]
    layers: tuple[Layer, ...]
    conditioning_inputs: tuple[str, ...]
    unit: npt.NDArray[np.float32]
    evaluated: frozenset[int]
    settings: SidConfig
    foreground: npt.NDArray[np.uint8] | None
    units: npt.NDArray[np.bool_] | None
    memory: int | None
    measures: dict[str, Measure]
    libraries: tuple[str, ...]
    device: str
    threads: int
    timeout: float
    unfinished: Unfinished | None
    batching: tuple[str, list[int], int] | None
    precision: str | None

    def in_memory(self) -> WorkerSpec:
        """Copy for another machine: all samples are in arrays, no unfinished work is kept, and its speed is its own."""
        inputs = {name: PreprocessedSamples(held, held.batch(range(len(held)))) for name, held in self.inputs.items()}
        return dataclasses.replace(self, inputs=inputs, unfinished=None, precision=None)

    def for_device(self, device: str) -> WorkerSpec:
        """Copy for a worker on another device of the same kind."""
        return dataclasses.replace(self, device=device)

    def worker(self) -> Worker:
        """Make a worker in this process.

        Raises
        ------
        UsageError
            A different version of onnxinfo is installed here.
        """
        from .. import __version__

        if self.version != __version__:
            raise UsageError(f"a worker has onnxinfo {__version__}, not {self.version}; install the same everywhere")
        torch.set_num_threads(self.threads)
        set_limit(self.timeout)
        for library in self.libraries:
            register_ort_library(library)
        job = self._job()
        measures = {name: measure.attached(job) for name, measure in self.measures.items()}
        return Worker(job, measures, self.unfinished)

    def _job(self) -> Job:
        light = onnx.ModelProto()
        light.CopyFrom(self.model)
        model = Model(attach_weights(light, self.weights), self.sha256, self.name, None, self.batch_axes)
        provider = InputProvider(model, SampleSet(dict(self.inputs)), self.input_tensor, parts=self.parts)
        module = self._module(provider)
        unit, device = torch.from_numpy(self.unit), torch.device(self.device)
        job = make_job(provider, self.layers, self.settings, module, self.conditioning_inputs, unit, device)
        job.foreground, job.memory = self.foreground, self.memory
        job.evaluated = self.evaluated
        job.units = None if self.units is None else torch.from_numpy(self.units)
        if self.precision is not None:
            job.precision = self.precision
        if self.batching is None:
            job.network.select_batching(
                *job.inputs([0, len(provider) - 1]), job.unit, rounded=rounds(provider.model.proto)
            )
            job.batch_size = fit(job.network, *job.inputs([0]), memory=self.memory)
        else:
            mode, axes, job.batch_size = self.batching
            job.network.set_batching(mode, axes)
            if job.batch_size < FEW_INPUTS:
                return_freed_tensors()
            if job.batch_size == 1:
                # Perhaps because not even one input fits.
                fit(job.network, *job.inputs([0]), memory=self.memory)
        return job

    def _module(self, provider: InputProvider) -> fx.GraphModule:
        model, names = provider.model, [layer.name for layer in self.layers]
        converted = [name for i, name in enumerate(names) if i not in self.evaluated]
        module = specialized(provider, converted) if converted else None
        if not self.evaluated:
            assert module is not None
            return module
        inputs = [] if module is None else conditioning_inputs_of(model, self.input_tensor, converted)
        evaluated = [names[i] for i in sorted(self.evaluated)]
        return with_evaluations(module, inputs, model, self.input_tensor, names, evaluated)[0]


def describe_worker(worker: Worker, folder: Path, *, device: str, threads: int) -> WorkerSpec:
    """Describe this process's worker for workers elsewhere.

    Parameters
    ----------
    worker
        Worker of this process, with prepared metrics.
    folder
        Folder in which samples are written for workers on this machine.
    device, threads
        See :class:`WorkerSpec`.
    """
    from .. import __version__

    job = worker.job
    light, weights = detach_weights(job.provider.model.proto)
    given = job.provider.samples.inputs
    inputs = {name: write_memmap(samples, folder / f"{i}.npy") for i, (name, samples) in enumerate(given.items())}
    same = torch.device(device).type == job.device.type
    return WorkerSpec(
        __version__, light, weights, job.provider.model.name, job.provider.model.sha256,
        job.provider.model.batch_axes, inputs,
        job.provider.input_tensor, job.provider.parts, job.layers, job.conditioning_inputs, job.unit.cpu().numpy(),
        job.evaluated, job.settings,
        job.foreground,
        None if job.units is None else job.units.numpy(),
        job.memory, dict(worker.measures), libraries(), device, threads, current_limit(), worker.unfinished,
        (job.network.mode, job.network.axes, job.batch_size) if same else None,
        job.precision if same else None,
    )  # fmt: skip
