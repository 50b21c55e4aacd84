"""The solver with noise carried in float32 and in bfloat16: CPU time, H, constraint and verdict, in turns on one core.

    python benchmarks/noise_precision.py resnet50.onnx --inputs animals.npz:images --preset imagenet --samples 1 \\
        --layers /layer1/layer1.0/relu_2/Relu_output_0

Both start from the same linearization, whose time is not included. ``ratio`` is measured with fresh noise in float32,
relative to the budget.
"""

from __future__ import annotations

import time

from common import analysis_parser, machine, prepared

from onnxinfo.analysis.job import Job
from onnxinfo.metrics.linearization import linearize
from onnxinfo.metrics.noise import generator
from onnxinfo.metrics.noise_precision import carried, relative_time
from onnxinfo.metrics.problem import Problem
from onnxinfo.metrics.sid import solve
from onnxinfo.models.studies.script import as_script

ALPHA, CAP = 1.5e-4, 1.0
PRECISIONS = "float32", "bfloat16"


def measured(job: Job, position: int, samples: int, seed: int, draws: int) -> list[dict[str, float]]:
    """Results of both precisions for one layer."""
    x, rows = job.inputs(list(range(samples)))
    start = linearize(job.network.part([position]), x, job.unit, rows, generator(x.device, seed, "probes"))[0]
    results = []
    for precision in PRECISIONS:
        feature, target = job.feature(position, x, rows, seed), ALPHA * start.normalizer
        feature.precision = precision
        began = time.process_time()
        found = solve(Problem.of(feature, start, target, job.tie, CAP, job.shape))
        seconds = time.process_time() - began
        fresh = job.feature(position, x, rows, seed + 1)
        deviations = fresh.deviations(found.sigma, draws) / target
        fresh.precision = precision
        results.append(
            {
                "seconds": seconds / samples,
                "h": float(found.entropy.mean()),
                "ratio": float(deviations.mean()),
                "converged": float(found.certificate.converged.float().mean()),
                "products": float(found.probes.float().mean()),
                "narrow": float(carried(fresh, found.sigma) is not None),
            }
        )
    return results


def main() -> None:
    """Print the table."""
    parser = analysis_parser(__doc__)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--draws", type=int, default=64, help="fresh noise samples of the ratio")
    given = parser.parse_args()
    job = prepared(
        given.model, given.inputs, given.layers, preset=given.preset, samples=given.samples, device=given.device
    )
    print(f"{machine(given.device)}; {given.samples} samples, seed {given.seed}")
    print(f"A convolution in bfloat16 takes {relative_time():.2f} of the time in float32.\n")
    print("| layer | CPU s per cell, float32 | bfloat16 | relative | H, float32 | H | ratio | converged | products |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for position, layer in enumerate(job.layers):
        wide, narrow = measured(job, position, given.samples, given.seed, given.draws)
        cells = [
            layer.name if narrow["narrow"] else f"{layer.name} (not used)",
            *(f"{each['seconds']:.2f}" for each in (wide, narrow)),
            f"{narrow['seconds'] / wide['seconds']:.2f}",
            *(f"{each['h']:.4f}" for each in (wide, narrow)),
            f"{narrow['ratio']:.4f}",
            f"{wide['converged']:.0%}, {narrow['converged']:.0%}",
            f"{wide['products']:.0f}, {narrow['products']:.0f}",
        ]
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    as_script(main)
