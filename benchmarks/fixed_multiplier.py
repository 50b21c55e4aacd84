"""The procedure of the code published with the paper of 2022, step by step, beside SID at the met constraint.

    python benchmarks/fixed_multiplier.py resnet20.onnx --inputs cifar10.npz:x_test --preset cifar10 --layers relu_18

Its loss is the feature's deviation, relative to that at sigma = 0.01, minus 5 times the mean of ``log(2 pi e sigma^2)``
over a grid of 16 x 16 scales that all channels share; 100 steps of gradient descent on sigma, with 8 noise samples
each. The multiplier, 5, corresponds to alpha = 5 * 0.01^2. Prints the mean H over the samples after numbers of steps,
and SID for that alpha and the same sharing.
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import torch
from common import analysis_parser, machine, prepared
from one_line import as_script
from torch import Tensor
from torch.nn.functional import interpolate

import onnxinfo
from onnxinfo.analysis.job import Job

FIRST, MULTIPLIER, RATE, NOISES, GRID = 0.01, 5.0, 1e-4, 8, 16
CONSTANT = 0.5 * math.log(2 * math.pi * math.e)


def descend(job: Job, layer: int, steps: int, marks: set[int], seed: int) -> dict[int, tuple[float, float]]:
    """Mean H over the samples, and mean relative deviation over the multiplier, after some numbers of steps."""
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
    found = {}
    for step in range(1, steps + 1):
        relative = deviation(sigma) / start
        loss = (relative - MULTIPLIER * (2 * sigma.abs().log() + 2 * CONSTANT).flatten(1).mean(1)).sum()
        (gradient,) = torch.autograd.grad(loss, sigma)
        with torch.no_grad():
            sigma -= RATE * gradient
        if step in marks:
            entropy = sigma.detach().abs().log().mean() + CONSTANT
            found[step] = float(entropy), float(relative.detach().mean() / MULTIPLIER)
    return found


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
    columns = [f"H, {steps} steps" for steps in given.steps]
    print(f"{machine(given.device)}; {given.samples} samples, seed {given.seed}\n")
    print(
        f"| layer | {' | '.join(columns)} | deviation / multiplier | SID | unproven |\n|{' --- |' * (len(columns) + 4)}"
    )
    for i, layer in enumerate(job.layers):
        found = descend(job, i, max(given.steps), set(given.steps), given.seed)
        with tempfile.TemporaryDirectory() as folder:
            result = onnxinfo.analyze(
                given.model, given.inputs, Path(folder) / "out.h5", layers=[layer.name], preset=given.preset,
                limit=given.samples, normalize_by="sample", alpha=MULTIPLIER * FIRST**2, share_sigma=f"grid:{GRID}",
                seed=given.seed, device=given.device,
            )  # fmt: skip
            with onnxinfo.open(result.archive) as archive:
                values = archive[result.run].values("sid")
        heights = " | ".join(f"{found[steps][0]:.3f}" for steps in given.steps)
        unproven = f"{int((~values['converged']).sum())} of {values['value'].size}"
        relative = found[max(given.steps)][1]
        print(f"| {layer.name} | {heights} | {relative:.2f} | {values['value'].mean():.3f} | {unproven} |", flush=True)


if __name__ == "__main__":
    as_script(main)
