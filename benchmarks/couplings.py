"""How much of the noise of gradients couplings remove, and what they cost: at the solution of some layers.

    python benchmarks/couplings.py resnet20.onnx --inputs cifar10.npz:x_test --preset imagenet --layers relu_10

``variance`` is that of a gradient from one noise sample, relative to its squared mean, and averaged over units; passes
have eight noise samples, and the couplings are from the closed form's scales, as in the solver.
"""

from __future__ import annotations

import time

import torch
from common import analysis_parser, machine, prepared
from torch import Tensor

from onnxinfo.analysis.job import Job
from onnxinfo.metrics.constraint import feasible
from onnxinfo.metrics.couplings import Couplings
from onnxinfo.metrics.gauss_newton import ROUND_NOISES, ROUND_PROBES
from onnxinfo.metrics.linearization import linearize
from onnxinfo.metrics.measured import measure, measure_coupled
from onnxinfo.metrics.noise import generator, waterfill
from onnxinfo.metrics.probe import LayerProbe
from onnxinfo.metrics.problem import COUPLED_NOISES, Problem
from onnxinfo.metrics.sid import solve
from onnxinfo.models.studies.script import as_script

ALPHA, CAP, PASSES = 1.5e-4, 1.0, 16


def measured(feature: LayerProbe, sigma: Tensor, couplings: Couplings | None) -> tuple[float, float]:
    """Relative variance of one noise sample's gradient, and CPU seconds of a pass."""
    noise, mean = torch.zeros_like(sigma), torch.zeros_like(sigma)
    began = time.process_time()
    for _ in range(PASSES):
        if couplings is None:
            found = measure(feature, sigma, COUPLED_NOISES)
        else:
            found = measure_coupled(feature, sigma, COUPLED_NOISES, couplings)
        noise += found.parts.var(0) / len(found.parts)
        mean += found.parts.mean(0)
    seconds = (time.process_time() - began) / PASSES
    level = (mean / PASSES).mean(1, keepdim=True)
    return float((COUPLED_NOISES * noise / PASSES / level.square()).mean()), seconds


def compared(job: Job, position: int, samples: int, seed: int) -> tuple[tuple[float, float], tuple[float, float]]:
    """Variance and seconds without couplings, and with them."""
    x, rows = job.inputs(list(range(samples)))
    start = linearize(job.network.part([position]), x, job.unit, rows, generator(x.device, seed, "probes"))[0]
    problem = Problem.of(job.feature(position, x, rows, seed), start, ALPHA * start.normalizer, job.tie, CAP, job.shape)
    sigma = solve(problem).sigma
    closed = waterfill(start.column_norms, problem.target, problem.tie, CAP)
    fresh = job.feature(position, x, rows, seed + 1)
    *_, couplings = fresh.column_norms(problem.sigma(feasible(problem, closed)), ROUND_NOISES, ROUND_PROBES)
    return measured(fresh, sigma, None), measured(fresh, sigma, couplings)


def main() -> None:
    """Print the table."""
    parser = analysis_parser(__doc__)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    job = prepared(
        given.model, given.inputs, given.layers, preset=given.preset, samples=given.samples, device=given.device
    )
    print(f"{machine(given.device)}; {given.samples} samples, seed {given.seed}\n")
    print("| layer | variance | with couplings | removed | CPU s of a pass | with couplings |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for position, layer in enumerate(job.layers):
        (before, plain), (after, coupled) = compared(job, position, given.samples, given.seed)
        print(
            f"| {layer.name} | {before:.2f} | {after:.2f} | {1 - after / before:.0%} | {plain:.4f} | {coupled:.4f} |",
            flush=True,
        )


if __name__ == "__main__":
    as_script(main)
