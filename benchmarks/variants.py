"""Ways to evaluate a layer: time of a forward and a backward pass, and difference from float32.

    python benchmarks/variants.py resnet20.onnx --inputs cifar10.npz:x_test --preset imagenet --layers relu_2 relu_18

``as analyzed`` is what an analysis uses. The first call of a compiled graph compiles it, a cost for every layer. The
difference is that of the vector-Jacobian products, relative to their root mean square.
"""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Callable, Iterator

import torch
from common import analysis_parser, machine, prepared
from torch import Tensor

from onnxinfo.metrics.network import Network
from onnxinfo.models.studies.script import as_script

Evaluate = Callable[[Tensor], Tensor]


@contextlib.contextmanager
def products_in(precision: str) -> Iterator[None]:
    """Compute matrix products in ``tf32`` or ``ieee`` float32."""
    before = torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = torch.backends.cudnn.conv.fp32_precision = precision
    try:
        yield
    finally:
        torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision = before


def variants(network: Network, rows: Tensor, device: torch.device) -> dict[str, tuple[Evaluate, torch.memory_format]]:
    """Evaluations by name, with the memory format of their inputs."""
    module, axes, context = network.module, network.axes, [tensor[rows] for tensor in network.conditioning_inputs]
    compiled = torch.compile(module)

    def plain(x: Tensor) -> Tensor:
        return module(x, *context)[0].movedim(axes[0], 0).flatten(1)

    half = copy.deepcopy(module).to(torch.bfloat16)

    def halved(x: Tensor) -> Tensor:
        return half(x.bfloat16(), *context)[0].movedim(axes[0], 0).flatten(1).float()

    def tensor_float(x: Tensor) -> Tensor:
        with products_in("tf32"):
            return plain(x)

    first, last = torch.contiguous_format, torch.channels_last
    found: dict[str, tuple[Evaluate, torch.memory_format]] = {
        "as analyzed": (lambda x: network(x, rows)[0], first),
        "channels first": (plain, first),
        "compiled": (lambda x: compiled(x, *context)[0].movedim(axes[0], 0).flatten(1), last),
        "bfloat16": (halved, last),
    }
    if device.type == "cuda":
        found["TF32"] = tensor_float, last
    return found


def passes(evaluate: Evaluate, x: Tensor, u: Tensor) -> Tensor:
    """Run one forward and one backward pass."""
    leaf = x.detach().requires_grad_(True)
    (product,) = torch.autograd.grad(evaluate(leaf), leaf, u)
    if product.is_cuda:
        torch.cuda.synchronize()
    return product


def main() -> None:
    """Print the table."""
    parser = analysis_parser(__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="minimum duration of each measurement")
    given = parser.parse_args()
    job = prepared(given.model, given.inputs, given.layers, preset=given.preset, samples=1, device=given.device)
    print(f"{machine(given.device)}; batch size {job.batch_size}, strategy: {job.network.mode}\n")
    print("| layer | variant | ms per input | of as analyzed | first call, s | difference |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    sample, _ = job.inputs([0])
    x = sample + 0.1 * job.unit * torch.randn(job.batch_size, *sample.shape[1:], device=job.device)
    rows = torch.zeros(job.batch_size, dtype=torch.long, device=job.device)
    for i, layer in enumerate(job.layers):
        network = job.network.part([i])
        with torch.no_grad():
            u = torch.randn_like(network(x, rows)[0])
        exact, usual = None, 0.0
        for name, (evaluate, layout) in variants(network, rows, job.device).items():
            inputs = x.contiguous(memory_format=layout) if x.dim() == 4 else x
            if name == "channels first":
                network.module.to(memory_format=torch.contiguous_format)
            began = time.perf_counter()
            product = passes(evaluate, inputs, u)
            first, began, count = time.perf_counter() - began, time.perf_counter(), 0
            while time.perf_counter() - began < given.seconds:
                passes(evaluate, inputs, u)
                count += 1
            taken = (time.perf_counter() - began) / count / len(x)
            exact, usual = (product, taken) if exact is None else (exact, usual)
            difference = float((product - exact).square().mean().sqrt() / exact.square().mean().sqrt())
            print(
                f"| {layer.name} | {name} | {1e3 * taken:.3f} | {taken / usual:.2f} | {first:.1f} | {difference:.1e} |",
                flush=True,
            )
            network.set_batching(network.mode, network.axes)


if __name__ == "__main__":
    as_script(main)
