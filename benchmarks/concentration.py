"""Spread of concentration over seeds, relative to its stated error, for regions of several sizes.

    python benchmarks/concentration.py resnet20.onnx --inputs images.npz:x_test --preset imagenet --layers relu_9

The error comes from fresh noise at the solver's scales, and is only known to about a quarter for a single sample; the
table has root mean squares over the samples. The last column is the ratio to an error that takes units as independent.
"""

from __future__ import annotations

import math

import torch
from common import analysis_parser, machine, prepared
from torch import Tensor

from onnxinfo.analysis.job import Job
from onnxinfo.metrics.contrast import sum_stderr
from onnxinfo.metrics.linearization import linearize
from onnxinfo.metrics.noise import generator
from onnxinfo.metrics.problem import Problem
from onnxinfo.metrics.sid import solve
from onnxinfo.models.studies.script import as_script

ALPHA, CAP = 1.5e-4, 1.0
#: First and last row, and first and last column, as fractions of the image.
REGIONS = {
    "central quarter": (0.25, 0.75, 0.25, 0.75),
    "small": (0.4, 0.6, 0.3, 0.55),
    "large": (0.05, 0.9, 0.1, 0.95),
    "corner": (0.0, 0.4, 0.0, 0.5),
}


def region(shape: tuple[int, ...], box: tuple[float, float, float, float]) -> Tensor:
    """Units within a box, (n,) bool."""
    height, width = shape[-2:]
    inside = torch.zeros(shape, dtype=torch.bool)
    inside[..., int(box[0] * height) : int(box[1] * height), int(box[2] * width) : int(box[3] * width)] = True
    return inside.flatten()


def tried(job: Job, position: int, samples: int, seed: int) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Concentration of one layer for each region, its stated error, and that of independent units, (S,)."""
    x, rows = job.inputs(list(range(samples)))
    start = linearize(job.network.part([position]), x, job.unit, rows, generator(x.device, seed, "probes"))[0]
    feature = job.feature(position, x, rows, seed)
    found = solve(Problem.of(feature, start, ALPHA * start.normalizer, job.tie, CAP, job.shape))
    feature.noise, entropy, units = generator(x.device, seed, "fresh"), found.sigma.log(), {}
    for name, box in REGIONS.items():
        inside = region(job.shape, box).to(x.device)
        weights = (~inside / (~inside).sum() - inside / inside.sum()).expand_as(entropy)
        stated = sum_stderr(feature, found.sigma, found.sigma < CAP, job.tie, weights, found.probes)
        alone = (weights.square().sum(1) / (2 * found.probes.to(weights))).sqrt()
        units[name] = (entropy * weights).sum(1), stated, alone
    return units


def size(values: Tensor) -> float:
    """Root mean square."""
    return math.sqrt(float(values.square().mean()))


def main() -> None:
    parser = analysis_parser(__doc__)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=8)
    given = parser.parse_args()
    job = prepared(
        given.model, given.inputs, given.layers, preset=given.preset, samples=given.samples, device=given.device
    )
    print(f"{machine(given.device)}; {given.samples} samples, {given.seeds} seeds\n")
    print("| layer | region | spread over seeds | stated error | ratio | ratio, independent units |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    for position, layer in enumerate(job.layers):
        runs = [tried(job, position, given.samples, seed) for seed in range(given.seeds)]
        for name in REGIONS:
            value, stated, alone = (torch.stack(each) for each in zip(*(run[name] for run in runs), strict=True))
            spread = size(value.std(0))
            numbers = f"{spread:.4f} | {size(stated):.4f} | {spread / size(stated):.2f} | {spread / size(alone):.1f}"
            print(f"| {layer.name} | {name} | {numbers} |", flush=True)


if __name__ == "__main__":
    as_script(main)
