"""The procedure of the code published with the paper of 2022, step by step, beside SID at the met constraint.

    python benchmarks/fixed_multiplier.py resnet20.onnx --inputs cifar10.npz:x_test --preset cifar10 --layers relu_18

Its loss is the feature's deviation, relative to that at sigma = 0.01, minus 5 times the mean of ``log(2 pi e sigma^2)``
over a grid of 16 x 16 scales that all channels share; 100 steps of gradient descent on sigma, with 8 noise samples
each. Of these it reports the one whose measured deviation is closest to 1.5, which corresponds to alpha = 1.5 * 0.01^2;
the minimum of the loss corresponds to alpha = 5 * 0.01^2. Prints the mean H over the samples of the reported step and
after numbers of steps, and SID for both alphas and the same sharing.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from common import analysis_parser, machine, prepared
from torch import Tensor
from torch.nn.functional import interpolate

import onnxinfo
from onnxinfo.analysis.job import Job
from onnxinfo.models.studies.script import as_script

FIRST, MULTIPLIER, RATE, NOISES, GRID = 0.01, 5.0, 1e-4, 8, 16
STEPS, WANTED = 100, 1.5
CONSTANT = 0.5 * math.log(2 * math.pi * math.e)


@dataclass
class Descent:
    """Mean H and mean relative deviation after some steps, and the reported H and step of each sample, (S,)."""

    after: dict[int, tuple[float, float]]
    reported: Tensor
    step: Tensor


def descend(job: Job, layer: int, marks: set[int], seed: int) -> Descent:
    """Descend as many steps as the largest mark."""
    x, rows = job.inputs(range(len(job.provider)))
    unit, network = job.unit.to(x.dtype), job.network.part([layer])
    generator = torch.Generator().manual_seed(seed)
    many, at = x.repeat_interleave(NOISES, 0), rows.repeat_interleave(NOISES)
    feature = network(x, rows)[0].detach().repeat_interleave(NOISES, 0)
    sigma = torch.full((len(x), 1, GRID, GRID), FIRST, requires_grad=True)

    def deviation(scale: Tensor) -> Tensor:
        wide = interpolate(scale, size=x.shape[2:], mode="nearest").repeat_interleave(NOISES, 0)
        noise = torch.randn(many.shape, generator=generator)
        moved = network(many + wide * unit * noise, at)[0]
        return (moved - feature).square().mean(1).view(len(x), NOISES).mean(1)

    start = deviation(sigma).detach()
    found = Descent({}, torch.zeros(len(x)), torch.zeros(len(x)))
    closest = torch.full((len(x),), math.inf)
    for step in range(1, max(marks) + 1):
        before = sigma.detach().abs().log().flatten(1).mean(1) + CONSTANT
        relative = deviation(sigma) / start
        off = (relative.detach() - WANTED).abs()
        if step <= STEPS:
            closer = off < closest
            closest = torch.where(closer, off, closest)
            found.reported = torch.where(closer, before, found.reported)
            found.step = torch.where(closer, step - 1, found.step)
        loss = (relative - MULTIPLIER * (2 * sigma.abs().log() + 2 * CONSTANT).flatten(1).mean(1)).sum()
        (gradient,) = torch.autograd.grad(loss, sigma)
        with torch.no_grad():
            sigma -= RATE * gradient
        if step in marks:
            entropy = sigma.detach().abs().log().mean() + CONSTANT
            found.after[step] = float(entropy), float(relative.detach().mean() / MULTIPLIER)
    return found


def solved(given: argparse.Namespace, layer: str, alpha: float) -> tuple[float, int, int]:
    """Return mean SID of a layer with the same sharing of scales, and how many of how many cells are unproven."""
    with tempfile.TemporaryDirectory() as folder:
        result = onnxinfo.analyze(
            given.model, given.inputs, Path(folder) / "out.h5", layers=[layer], preset=given.preset,
            limit=given.samples, normalize_by="sample", alpha=alpha, share_sigma=f"grid:{GRID}",
            seed=given.seed, device=given.device,
        )  # fmt: skip
        with onnxinfo.open(result.archive) as archive:
            values = archive[result.run].values("sid")
    return float(values["value"].mean()), int((~values["converged"]).sum()), values["value"].size


def main() -> None:
    """Print the table."""
    parser = analysis_parser(__doc__)
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--steps", type=int, nargs="+", default=[100, 1000, 3000])
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    job = prepared(
        given.model, given.inputs, given.layers, preset=given.preset, samples=given.samples, device=given.device
    )
    steps = [f"H, {each} steps" for each in given.steps]
    alphas = [relative * FIRST**2 for relative in (WANTED, MULTIPLIER)]
    sid = [f"SID, alpha {alpha:g}" for alpha in alphas]
    columns = ["layer", "H, reported", "after updates", sid[0], *steps, "deviation / multiplier", sid[1], "unproven"]
    print(f"{machine(given.device)}; {given.samples} samples, seed {given.seed}\n")
    print(f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")
    for i, layer in enumerate(job.layers):
        found = descend(job, i, {STEPS, *given.steps}, given.seed)
        (close, *one), (far, *other) = (solved(given, layer.name, alpha) for alpha in alphas)
        cells = [layer.name, f"{found.reported.mean():.3f}", f"{found.step.min():.0f} to {found.step.max():.0f}"]
        cells += [f"{close:.3f}", *(f"{found.after[each][0]:.3f}" for each in given.steps)]
        cells += [f"{found.after[max(given.steps)][1]:.2f}", f"{far:.3f}"]
        cells.append(" of ".join(str(first + second) for first, second in zip(one, other, strict=True)))
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    as_script(main)
