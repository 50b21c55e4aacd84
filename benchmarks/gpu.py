"""Measure everything that a GPU decides, in one command and under eight minutes.

Runs the tests that need a GPU, then prints four tables: (a) the solver's speed relative to a plain forward and backward
loop, (b) the time for VGG-16 with 16 layers and 50 images, (c) operators, kernel launches and read-backs per pass, and
(d) H in several precisions beside float64. Networks have random weights, and images are noise::

    python benchmarks/gpu.py
    python benchmarks/gpu.py --device cpu --size 32 --width 0.05 --images 2 --samples 2 --networks VGG-16
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import machine, prepared
from efficiency import Counted, both, seconds_of
from gpu_networks import NETWORKS, exported
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from variants import products_in

import onnxinfo
from onnxinfo.analysis.job import Job
from onnxinfo.metrics.linearization import linearize
from onnxinfo.metrics.network import Network
from onnxinfo.metrics.probe import LayerProbe
from onnxinfo.metrics.problem import Problem
from onnxinfo.metrics.sid import Solution, solve
from onnxinfo.models.studies.script import as_script

#: Number of layers of the whole analysis, and batch sizes of the plain loop.
LAYERS, BATCHES = 16, (1, 8, 64)


class Operators(TorchDispatchMode):
    """Counts the operators that run, and the times that the host waits for a value."""

    def __init__(self) -> None:
        super().__init__()
        self.count, self.reads = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.count += 1
        copied = isinstance(result, Tensor) and not result.is_cuda and any(_is_cuda(x) for x in args)
        self.reads += func is torch.ops.aten._local_scalar_dense.default or copied
        return result


def _is_cuda(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_cuda


def solved(job: Job, layer: int, network: Network, x: Tensor, rows: Tensor) -> Solution:
    """Solve one layer, with the random streams of an analysis."""
    unit = job.unit.to(x.dtype)
    (start,) = linearize(network, x, unit, rows, job.stream("linearise", 0))
    streams = job.stream("noise", 0), job.stream("probes", 0)
    feature = LayerProbe(network, x, unit, rows, *streams, job.batch_size)
    target = job.settings.strength * start.normalizer
    return solve(Problem.of(feature, start, target, job.tie, job.settings.sigma_max, job.shape))


def ratios(jobs: Mapping[str, Job], device: torch.device, seconds: float) -> list[list[str]]:
    """Speed of the solver as a share of that of a plain loop at its best batch size, in FLOP/s."""
    rows_of_table = []
    for name, job in jobs.items():
        x, rows = job.inputs(range(len(job.provider)))
        for i, layer in enumerate(job.layers):
            network = job.network.part([i])
            with FlopCounterMode(display=False) as counter:
                network(x[:1], rows[:1])
            forward = counter.get_total_flops()
            with FlopCounterMode(display=False) as counter:
                both(network, x[:1], rows[:1])
            backward = counter.get_total_flops() - forward
            speeds = [_plain(network, x, size, device, seconds) * (forward + backward) for size in BATCHES]
            with Counted(network) as count:
                solved(job, i, network, x, rows)
            work = count.forward * forward + count.backward * backward
            taken = seconds_of(partial(solved, job, i, network, x, rows), device, seconds)
            best, speed = max(speeds), work / taken
            rows_of_table.append(
                [
                    name,
                    layer.name,
                    f"{best / 1e9:.0f}",
                    f"{speed / 1e9:.0f}",
                    f"{speed / best:.0%}",
                    str(job.batch_size),
                ]
            )
    return rows_of_table


def _plain(network: Network, x: Tensor, size: int, device: torch.device, seconds: float) -> float:
    """Inputs per second of a forward and backward loop."""
    many = [j % len(x) for j in range(size)]
    inputs = x[many], torch.tensor(many, device=device)
    return size / seconds_of(partial(both, network, *inputs), device, seconds)


def counted(jobs: Mapping[str, Job], device: torch.device) -> list[list[str]]:
    """Operators, kernel launches and read-backs of one forward and backward pass."""
    found = []
    for name, job in jobs.items():
        x, rows = job.inputs(range(len(job.provider)))
        network = job.network.part([len(job.layers) - 1])
        both(network, x, rows)
        with Operators() as operators:
            both(network, x, rows)
        launches = _launches(partial(both, network, x, rows)) if device.type == "cuda" else ""
        found.append([name, job.layers[-1].name, str(operators.count), launches, str(operators.reads)])
    return found


def _launches(work: Callable[[], object]) -> str:
    with torch.profiler.profile(activities=list(torch.profiler.supported_activities())) as profile:
        work()
        torch.cuda.synchronize()
    counts = Counter(event.name for event in profile.events())
    return str(sum(number for name, number in counts.items() if "LaunchKernel" in name))


def precisions(jobs: Mapping[str, Job], device: torch.device) -> list[list[str]]:
    """H of a layer in several precisions: mean over the samples, and largest difference of one from float64."""
    found = []
    for name, job in jobs.items():
        layer = len(job.layers) - 1
        x, rows = job.inputs(range(len(job.provider)))
        exact: Tensor | None = None
        for precision, (network, dtype, setting) in _networks(job.network.part([layer]), device).items():
            began = time.perf_counter()
            with setting:
                solution = solved(job, layer, network, x.to(dtype), rows)
            entropy = solution.entropy.nanmean(1).double().cpu()
            exact = entropy if exact is None else exact
            worst, gap = (entropy - exact).abs().max(), solution.certificate.gap.nanmean()
            taken = time.perf_counter() - began
            shown = f"{entropy.nanmean():.4f}", f"{worst:.1e}", f"{gap:.4f}", f"{taken:.1f}"
            found.append([name, job.layers[layer].name, precision, *shown])
    return found


def _networks(network: Network, device: torch.device) -> dict[str, tuple[Network, torch.dtype, Any]]:
    """The network in several precisions, the type of its input, and the context in which it runs."""
    single: Any = contextlib.nullcontext()
    found = {"float64": (_in(network, torch.float64), torch.float64, single)}
    found["float32"] = (network, torch.float32, single)
    if device.type == "cuda":
        found["TF32"] = (network, torch.float32, products_in("tf32"))
    found["bfloat16"] = (_in(network, torch.bfloat16), torch.float32, single)
    return found


def _in(network: Network, dtype: torch.dtype) -> Network:
    """Copy of a network that computes in a type; its results have the type of its input."""
    module = copy.deepcopy(network.module).to(dtype)
    other = Network(module, network.conditioning_inputs, network.batch, mode=network.mode)
    other.axes = list(network.axes)
    other.evaluate = lambda x, *more: tuple(y.to(x.dtype) for y in module(x.to(dtype), *more))
    return other


def whole(file: Path, images: np.ndarray[Any, Any], device: str, precision: str) -> list[str]:
    """Analyze the last layers of a network, as a user does, with the noise in a precision."""
    listed = onnxinfo.list_layers(file)
    layers = [each.name for each in listed if each.op in ("Relu", "Gemm", "MatMul")][-LAYERS:]
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        result = onnxinfo.analyze(
            file, images, Path(folder) / "out.h5", layers=layers, device=device, noise_precision=precision
        )
        taken = time.perf_counter() - began
        with onnxinfo.open(result.archive) as archive:
            values = archive[result.run].values("sid")
    cells = values["value"].size
    converged = f"{np.mean(values['converged']):.0%}"
    mean = f"{np.nanmean(values['value']):.4f}"
    return [file.stem, str(len(layers)), str(len(images)), precision, f"{taken:.1f}", converged, str(cells), mean]


def run_tests() -> str:
    """Run the tests that need a GPU, and return the last line of their output."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "tests"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent.parent, check=False)
    return (done.stdout.strip().splitlines() or [done.stderr.strip()])[-1]


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table."""
    print(f"\n{title}\n\n| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)


def jobs_of(given: argparse.Namespace, folder: Path) -> Iterator[tuple[str, Path, Job]]:
    """Prepare each network with two layers: one in the middle, and the last activation."""
    images = np.random.default_rng(0).standard_normal((given.samples, 3, given.size, given.size)).astype(np.float32)
    for name in given.networks:
        file = exported(name, given.width, given.size, folder)
        activations = [layer.name for layer in onnxinfo.list_layers(file) if layer.op == "Relu"]
        chosen = [activations[len(activations) // 2], activations[-1]]
        yield name, file, prepared(str(file), images, chosen, samples=given.samples, device=given.device)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--size", type=int, default=224, help="pixels of an image along each axis")
    parser.add_argument("--width", type=float, default=1.0, help="channels, relative to the original networks")
    parser.add_argument("--images", type=int, default=50, help="images of table (b)")
    parser.add_argument("--samples", type=int, default=8, help="images of the other tables")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--seconds", type=float, default=1.0, help="minimum duration of each measurement")
    given = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    device = onnxinfo.metrics.budget.device_of(given.device)
    print(f"{machine(given.device)}; images of {given.size} pixels, width {given.width:g}")
    if device.type == "cuda":
        print(f"tests: {run_tests()}")
    with tempfile.TemporaryDirectory() as folder:
        prepared_ = list(jobs_of(given, Path(folder)))
        jobs = {name: job for name, _, job in prepared_}
        columns = ["network", "layer"]
        ratio = ratios(jobs, device, given.seconds)
        show("(a) Speed, GFLOP/s", [*columns, "plain loop", "solver", "share", "batch size"], ratio)
        images = np.random.default_rng(1).standard_normal((given.images, 3, given.size, given.size)).astype(np.float32)
        files = [file for name, file, _ in prepared_ if name == "VGG-16"]
        # Processors without arithmetic of their own for bfloat16 would take hours.
        noise = ("float32", "bfloat16") if device.type == "cuda" else ("auto",)
        table = [whole(file, images, given.device, precision) for file in files for precision in noise]
        analyzed = ["network", "layers", "images", "noise", "s", "converged", "cells", "mean H"]
        show("(b) Whole analysis", analyzed, table)
        launched = counted(jobs, device)
        show("(c) One pass", [*columns, "operators", "kernel launches", "read-backs"], launched)
        entropies = precisions(jobs, device)
        show("(d) Precision", [*columns, "precision", "H", "largest difference", "gap", "s"], entropies)


if __name__ == "__main__":
    as_script(main)
