"""Does the solver keep a device as busy as a plain forward and backward loop over the same network does?

    python benchmarks/efficiency.py resnet20.onnx --inputs cifar10.npz:x_test --preset imagenet --layers relu_2 relu_18

The plain loop evaluates a layer and the gradient of its sum with respect to the input, at the batch size that is best
for it. The solver is timed as a whole: noise, probes, denoising, constraint and certificate included. Both are counted
in floating-point operations of the network's forward and backward passes, in the same run.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import onnxinfo
from onnxinfo.analysis.job import Job, prepare
from onnxinfo.analysis.settings import Settings
from onnxinfo.graph.layers import perturbed_tensor
from onnxinfo.inputs.sample_sets import open_inputs
from onnxinfo.metrics.budget import device_of, fit
from onnxinfo.metrics.feeds import Feeds, graph_inputs
from onnxinfo.metrics.network import Network
from onnxinfo.metrics.sid import linearise, solve
from onnxinfo.torch_graph.precision import to_float32


def job_of(arguments: argparse.Namespace) -> Job:
    """Network and samples, as an analysis prepares them."""
    model = to_float32(arguments.model)
    layers = onnxinfo.select_layers(onnxinfo.list_layers(model), arguments.layers)
    declared = {i.name: (i.shape, i.dtype) for i in graph_inputs(model)}
    samples = open_inputs(arguments.inputs, declared, preset=arguments.preset, limit=arguments.samples)
    feeds = Feeds(model, samples, perturbed_tensor(model))
    job = prepare(feeds, layers, Settings(), device_of(arguments.device))
    job.chunk = fit(job.network, *job.inputs([0]), memory=None)
    return job


def seconds_of(work: Callable[[], object], device: torch.device, least: float) -> float:
    """Mean seconds of some work, repeated for a while after a first time."""
    work()
    count, began = 0, time.perf_counter()
    while (spent := time.perf_counter() - began) < least:
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        count += 1
    return spent / count


def both(network: Network, x: Tensor, rows: Tensor) -> Tensor:
    """A forward and a backward pass."""
    leaf = x.detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(network(leaf, rows)[0].sum(), leaf)
    return gradient


class Counted:
    """Forward and backward passes of a network, counted in inputs."""

    def __init__(self, network: Network) -> None:
        self.network, self.forward, self.backward = network, 0, 0

    def __enter__(self) -> Counted:
        call, grad = Network.__call__, torch.autograd.grad

        def counted_call(network: Network, x: Tensor, rows: Tensor) -> list[Tensor]:
            self.forward += len(x)
            return call(network, x, rows)

        def counted_grad(outputs: Tensor, inputs: Tensor, *rest: object, **options: object) -> object:
            self.backward += len(inputs)
            return grad(outputs, inputs, *rest, **options)  # type: ignore[arg-type]

        self._restore = call, grad
        Network.__call__, torch.autograd.grad = counted_call, counted_grad  # type: ignore[method-assign,assignment]
        return self

    def __exit__(self, *_: object) -> None:
        Network.__call__, torch.autograd.grad = self._restore  # type: ignore[method-assign]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--inputs", required=True)
    parser.add_argument("--preset")
    parser.add_argument("--layers", nargs="*", default=[], help="patterns; default: what is analyzed by default")
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--batch", type=int, nargs="*", default=[1, 4, 16, 64, 256], help="tried by the plain loop")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement at least")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    job = job_of(arguments)
    cuda = job.device.type == "cuda"
    machine = torch.cuda.get_device_name() if cuda else f"{platform.machine()}, {torch.get_num_threads()} threads"
    print(f"{machine}, torch {torch.__version__}; {arguments.samples} samples, {job.chunk} inputs at once\n")
    print("| layer | plain loop, GFLOP/s | at batch | solver, GFLOP/s | share |\n| --- | ---: | ---: | ---: | ---: |")
    x, rows = job.inputs(range(arguments.samples))
    for i, layer in enumerate(job.layers):
        network = job.network.part([i])
        with FlopCounterMode(display=False) as counter:
            network(x[:1], rows[:1])
        forward = counter.get_total_flops()
        with FlopCounterMode(display=False) as counter:
            both(network, x[:1], rows[:1])
        backward = counter.get_total_flops() - forward
        speeds = {}
        for size in arguments.batch:
            many = [j % len(x) for j in range(size)]
            inputs = x[many], rows[many]
            speeds[size] = size * (forward + backward) / seconds_of(
                lambda inputs=inputs, network=network: both(network, *inputs), job.device, arguments.seconds
            )  # fmt: skip
        best = max(speeds, key=lambda size: speeds[size])
        (start,) = linearise(network, x, job.unit, rows, job.stream("linearise", 0))
        target = job.settings.alpha * start.normalizer
        count = Counted(network)

        def work(i: int = i, start: object = start, target: Tensor = target) -> object:
            return solve(job.feature(i, x, rows, 0), start, target, job.tie, job.settings.cap, job.shape)  # type: ignore[arg-type]

        with count:
            work()
        seconds = seconds_of(work, job.device, arguments.seconds)
        speed = (count.forward * forward + count.backward * backward) / seconds
        print(
            f"| {layer.name} | {speeds[best] / 1e9:.1f} | {best} | {speed / 1e9:.1f} | {speed / speeds[best]:.0%} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
