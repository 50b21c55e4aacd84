"""Distance between the solver's results and the optimum, and reliability of its verdict, over several seeds.

    python benchmarks/optimum.py resnet20.onnx --inputs images.npz:x_test --preset imagenet --layers relu_18 logits \\
        --samples 8 --seeds 0 1 2 --truth truth.jsonl

For each layer: the mean H at the met constraint, measured with 4,096 fresh noise samples; the fraction of cells that
are proven, and of those with the same verdict under every seed; the spread between seeds over the stated error; the
mean square of (fresh ratio - stated ratio) over both errors; products and seconds per cell. With truths from a longer
ascent (lines of JSON with ``layer``, ``image``, ``truth`` and ``stderr``): the mean and maximum shortfall, and how
often the stated gap covers it.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from common import analysis_parser, machine, prepared
from torch import Tensor

from onnxinfo.analysis.job import Job
from onnxinfo.metrics.linearization import linearize
from onnxinfo.metrics.noise import ENTROPY, generator
from onnxinfo.metrics.problem import Problem
from onnxinfo.metrics.sid import Solution, solve
from onnxinfo.models.studies.script import as_script

ALPHA, CAP = 1.5e-4, 1.0
NOISES = 4096


@dataclass(frozen=True)
class Tried:
    """Result of one layer with one seed; tensors are (S,)."""

    value: Tensor
    error: Tensor
    chi_square: Tensor
    found: Solution
    seconds: float


def tried(job: Job, position: int, samples: int, seed: int) -> Tried:
    """Solve one layer, and measure its constraint with fresh noise."""
    x, rows = job.inputs(list(range(samples)))
    probes = generator(x.device, seed, "probes")
    began = time.process_time()
    start = linearize(job.network.part([position]), x, job.unit, rows, probes)[0]
    feature, target = job.feature(position, x, rows, seed), ALPHA * start.normalizer
    found = solve(Problem.of(feature, start, target, job.tie, CAP, job.shape))
    seconds = time.process_time() - began
    feature.noise = generator(x.device, seed, "fresh")
    deviations = feature.deviations(found.sigma, NOISES) / target
    ratio, stderr = deviations.mean(0), deviations.std(0) / math.sqrt(NOISES)
    exponent, free = found.certificate.exponent, (found.sigma < CAP).float().mean(1)
    # The stated ratio precedes the last correction, after which the scales meet the constraint.
    chi_square = (ratio - 1).square() / (stderr.square() + found.certificate.ratio_stderr.square())
    value = found.sigma.log().mean(1) + ENTROPY - free * ratio.log() / exponent
    return Tried(value, free * stderr / exponent, chi_square, found, seconds)


def row(name: str, runs: list[Tried], truths: Mapping[int, tuple[float, float]]) -> str:
    """Return one row of the table."""
    value = torch.stack([run.value for run in runs])
    proven = torch.stack([run.found.certificate.converged for run in runs])
    stated = torch.stack([run.found.entropy.mean(1) for run in runs])
    stderr = torch.stack([run.found.stderr for run in runs])
    same = (proven == proven[0]).all(0).float().mean()
    spread = (stated.var(0).mean() / stderr.square().mean()).sqrt() if len(runs) > 1 else torch.tensor(math.nan)
    chi_square = torch.stack([run.chi_square for run in runs]).mean()
    products = torch.stack([run.found.probes.float() for run in runs]).mean()
    seconds = sum(run.seconds for run in runs) / value.numel()
    cells = [
        name,
        f"{value.mean():.4f}",
        f"{proven.float().mean():.0%}",
        f"{same:.0%}",
        f"{spread:.2f}",
        f"{chi_square:.2f}",
        f"{products:.0f}",
        f"{seconds:.2f}",
        *missing(runs, truths),
    ]
    return "| " + " | ".join(cells) + " |"


def missing(runs: list[Tried], truths: Mapping[int, tuple[float, float]]) -> list[str]:
    """Mean and maximum shortfall from the truth in nats, mean stated gap, and fraction of cells that it covers."""
    if not truths:
        return ["-"] * 4
    short, gap, covered = [], [], []
    for run in runs:
        for image, (truth, error) in truths.items():
            lost = truth - float(run.value[image])
            slack = 2 * math.hypot(error, float(run.error[image]))
            short.append(lost)
            gap.append(float(run.found.certificate.gap[image]))
            covered.append(lost <= gap[-1] + slack)
    means = sum(short) / len(short), max(short), sum(gap) / len(gap)
    return [*(f"{each:.4f}" for each in means), f"{sum(covered)} of {len(covered)}"]


def read_truths(path: Path | None) -> dict[str, dict[int, tuple[float, float]]]:
    """Truth and its error, by layer and image."""
    found: dict[str, dict[int, tuple[float, float]]] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path else []:
        if line.strip():
            cell = json.loads(line)
            found.setdefault(cell["layer"], {})[cell["image"]] = (cell["truth"], cell["stderr"])
    return found


def main() -> None:
    parser = analysis_parser(__doc__)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--truth", type=Path)
    given = parser.parse_args()
    job = prepared(
        given.model, given.inputs, given.layers, preset=given.preset, samples=given.samples, device=given.device
    )
    truths = read_truths(given.truth)
    print(f"{machine(given.device)}; {given.samples} samples, seeds {given.seeds}\n")
    print(
        "| layer | mean H | proven | agree | sd / error | chi^2 | products | CPU s | missing | most | gap | covered |"
    )
    print("| --- | " + "---: | " * 11)
    for position, layer in enumerate(job.layers):
        runs = [tried(job, position, given.samples, seed) for seed in given.seeds]
        known = {image: cell for image, cell in truths.get(layer.name, {}).items() if image < given.samples}
        print(row(layer.name, runs, known), flush=True)


if __name__ == "__main__":
    as_script(main)
