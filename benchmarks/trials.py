"""Check whether anything can be gained after the solver has ended, by further steps or by more noise samples per pass.

    python benchmarks/trials.py resnet20.onnx --inputs images.npz:x_test --preset imagenet --layers relu_18 \\
        --samples 8

Steps: the Newton step suggested by fresh noise, denoised by the solver's own filter, in three sizes; its gain at the
met constraint is measured on other fresh noise, shared by both ends. Passes: the same cells with two and four times the
noise samples per pass; a cell has fallen if it ends lower by more than two standard errors of both.
"""

from __future__ import annotations

import argparse
from functools import partial

import torch
from common import analysis_parser, machine, prepared
from solver_parts import replaced
from torch import Tensor

from onnxinfo.analysis.job import Job
from onnxinfo.metrics.ascent import MOST_STEP
from onnxinfo.metrics.linearization import linearize
from onnxinfo.metrics.mean_jacobian import control_of
from onnxinfo.metrics.measured import merge, relative_gradient
from onnxinfo.metrics.noise import ENTROPY, generator
from onnxinfo.metrics.problem import CONTROLLED_NOISES, PASS_NOISES, Problem
from onnxinfo.metrics.sid import Solution, solve
from onnxinfo.metrics.trial import Sampling, price_of, try_step
from onnxinfo.models.studies.script import as_script

ALPHA, CAP = 1.5e-4, 1.0
SIZES, PASSES, NOISES = (0.1, 0.35, 1.0), 16, 1024
TIMES = (2, 4)


def problem_of(job: Job, position: int, samples: int, seed: int) -> Problem:
    """State the problem of one layer on the first samples."""
    x, rows = job.inputs(list(range(samples)))
    start = linearize(job.network.part([position]), x, job.unit, rows, generator(x.device, 0, "probes"))[0]
    feature = job.feature(position, x, rows, seed)
    return Problem.of(feature, start, ALPHA * start.normalizer, job.tie, CAP, job.shape)


def gains(problem: Problem, found: Solution) -> tuple[Tensor, Tensor]:
    """Gains of steps of three sizes in nats, and their standard errors, (sizes, S)."""
    scales = problem.tie.sum(found.sigma) / problem.tie.size
    problem.feature.noise = generator(scales.device, 0, "fresh")
    control = control_of(problem.feature, found.sigma)
    measured = merge([problem.measured(scales, control) for _ in range(PASSES)])
    free = problem.free(scales)
    relative = relative_gradient(measured.halves, free)
    newton = -problem.tie.expand(problem.denoised(relative.first, relative.second)) / 2
    trials = []
    for size in SIZES:
        step = torch.where(free, (size * newton).clamp(-MOST_STEP, MOST_STEP), 0.0)
        nothing = torch.zeros(len(scales))
        trial, _ = try_step(
            problem.feature, partial(problem.moved, scales), step, nothing, nothing + 1, Sampling(NOISES),
            price_of(measured.exponent(free), free, problem.counted), control,
        )  # fmt: skip
        trials.append((trial.gain, trial.gain_stderr))
    gain, error = zip(*trials, strict=True)
    return torch.stack(gain), torch.stack(error)


def fallen(job: Job, position: int, samples: int, found: Solution, times: int) -> Tensor:
    """Whether cells end lower by more than two standard errors with ``times`` as many noise samples, (S,) bool."""
    with replaced(PASS_NOISES=times * PASS_NOISES, CONTROLLED_NOISES=times * CONTROLLED_NOISES):
        more = solve(problem_of(job, position, samples, seed=1))
    error = (_monte_carlo(found).square() + _monte_carlo(more).square()).sqrt()
    return more.entropy.mean(1) - found.entropy.mean(1) < -2 * error


def _monte_carlo(found: Solution) -> Tensor:
    """Error of the mean entropy at the same normalizer, (S,)."""
    return found.certificate.ratio_stderr / found.certificate.exponent


def main() -> None:
    parser = analysis_parser(__doc__)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--times", type=int, nargs="*", default=TIMES, help="factors on the noise samples per pass")
    given: argparse.Namespace = parser.parse_args()
    job = prepared(
        given.model, given.inputs, given.layers, preset=given.preset, samples=given.samples, device=given.device
    )
    print(f"{machine(given.device)}; {given.samples} samples\n")
    steps = " | ".join(f"step {size}: mean, most (error)" for size in SIZES)
    print(f"| layer | mean H | {steps} | " + " | ".join(f"fallen at {times} times" for times in given.times) + " |")
    print("| --- |" + " ---: |" * (1 + len(SIZES) + len(given.times)))
    for position, layer in enumerate(job.layers):
        problem = problem_of(job, position, given.samples, seed=0)
        found = solve(problem)
        gain, error = gains(problem, found)
        most = gain.argmax(1)
        cells = [
            layer.name,
            f"{found.sigma.log().mean() + ENTROPY:.4f}",
            *(f"{g.mean():.4f}, {g[i]:.4f} ({e[i]:.4f})" for g, e, i in zip(gain, error, most, strict=True)),
            *(f"{fallen(job, position, given.samples, found, t).sum()} of {given.samples}" for t in given.times),
        ]
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    as_script(main)
