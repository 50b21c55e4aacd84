"""Compare the solver's device utilization with a plain forward and backward loop over the same network.

    python benchmarks/efficiency.py resnet20.onnx --inputs cifar10.npz:x_test --preset imagenet --layers relu_2 relu_18

The plain loop evaluates a layer and the gradient of its sum with respect to the input, at its best batch size. The
solver is timed as a whole, including noise, probes, denoising, constraint and certificate. Both are measured in
floating-point operations of the network's forward and backward passes, in the same run.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from common import analysis_parser, machine, prepared
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from onnxinfo.metrics.linearization import linearize
from onnxinfo.metrics.network import Network
from onnxinfo.metrics.problem import Problem
from onnxinfo.metrics.sid import solve
from onnxinfo.models.studies.script import as_script


def seconds_of(work: Callable[[], object], device: torch.device, least: float) -> float:
    """Mean seconds of some work, repeated for a while after a warm-up."""
    work()
    count, began = 0, time.perf_counter()
    while (spent := time.perf_counter() - began) < least:
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        count += 1
    return spent / count


def both(network: Network, x: Tensor, rows: Tensor) -> Tensor:
    """Run a forward and a backward pass."""
    leaf = x.detach().requires_grad_(True)
    # Torch's counter of operations cannot hook into leaves.
    (gradient,) = torch.autograd.grad(network(leaf.view_as(leaf), rows)[0].sum(), leaf)
    return gradient


class Counted:
    """Counts forward and backward passes of a network, in inputs."""

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
    parser = analysis_parser(__doc__)
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument(
        "--batch", type=int, nargs="*", default=[1, 4, 16, 64, 256], help="batch sizes of the plain loop"
    )
    parser.add_argument("--seconds", type=float, default=2.0, help="minimum duration of each measurement")
    arguments = parser.parse_args()
    job = prepared(
        arguments.model, arguments.inputs, arguments.layers, preset=arguments.preset, samples=arguments.samples,
        device=arguments.device,
    )  # fmt: skip
    print(f"{machine(arguments.device)}; {arguments.samples} samples, batch size {job.batch_size}\n")
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
        (start,) = linearize(network, x, job.unit, rows, job.stream("linearise", 0))
        target = job.settings.strength * start.normalizer
        count = Counted(network)

        def work(i: int = i, start: object = start, target: Tensor = target) -> object:
            feature = job.feature(i, x, rows, 0)
            return solve(Problem.of(feature, start, target, job.tie, job.settings.sigma_max, job.shape))  # type: ignore[arg-type]

        with count:
            work()
        seconds = seconds_of(work, job.device, arguments.seconds)
        speed = (count.forward * forward + count.backward * backward) / seconds
        print(
            f"| {layer.name} | {speeds[best] / 1e9:.1f} | {best} | {speed / 1e9:.1f} | {speed / speeds[best]:.0%} |",
            flush=True,
        )


if __name__ == "__main__":
    as_script(main)
