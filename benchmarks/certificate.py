"""Check that the stated gap covers the shortfall: the solver and sabotaged versions against a long stochastic ascent.

    python benchmarks/certificate.py --samples 8 --seeds 0 1 2

Every layer of the bundled digits network is solved by a plain stochastic ascent of many small steps, which shares
nothing with the solver but the layer itself. Then the solver runs unchanged, and with one part after the other broken.
A cell is covered if its mean H at the met constraint, measured with 4,096 fresh noise samples, is at most its gap
below the ascent's, or if it is not marked as converged. Two standard errors of both measurements are allowed for.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from common import machine, prepared
from solver_parts import replaced
from torch import Tensor

from onnxinfo.metrics.ascent import Ascent
from onnxinfo.metrics.certification import certify_scales
from onnxinfo.metrics.constraint import feasible
from onnxinfo.metrics.linearization import linearize
from onnxinfo.metrics.noise import ENTROPY, generator
from onnxinfo.metrics.probe import LayerProbe
from onnxinfo.metrics.problem import Problem
from onnxinfo.metrics.sid import solve
from onnxinfo.models import path
from onnxinfo.models.studies.script import as_script

ALPHA, CAP = 1.5e-4, 1.0


def ascent(feature: LayerProbe, scales: Tensor, target: Tensor, *, steps: int = 3000, draws: int = 64) -> Tensor:
    """``log sigma`` (S, n) from a stochastic ascent, averaged over its second half."""
    logs, average, smooth = scales.log(), torch.zeros_like(scales), None
    for step in range(steps):
        halves, deviations = feature.gradients(logs.exp(), draws)
        gradient, deviation = halves.mean, deviations.mean(0)
        smooth = deviation if smooth is None else 0.97 * smooth + 0.03 * deviation
        rate = 0.15 * (0.02 / 0.15) ** (step / steps)
        relative = gradient / gradient.mean(1, keepdim=True) - 1
        logs = logs - rate / 2 * relative.clamp(-20, 20) - rate / 2 * (smooth / target).log().clamp(-0.5, 0.5)[:, None]
        logs = logs.clamp(max=math.log(CAP))
        if step >= steps // 2:
            average += logs
    return average / (steps - steps // 2)


def met(feature: LayerProbe, logs: Tensor, target: Tensor, exponent: Tensor) -> tuple[Tensor, Tensor]:
    """Mean H at the met constraint, (S,), and its standard error, from 4,096 fresh noise samples."""
    deviations = feature.deviations(logs.exp(), 4096) / target
    ratio, stderr = deviations.mean(0), deviations.std(0) / math.sqrt(len(deviations))
    free = (logs < math.log(CAP)).float().mean(1)
    return logs.mean(1) + ENTROPY - free * ratio.log() / exponent, free * stderr / ratio / exponent


def _nothing(first: Tensor, second: Tensor, *_: object) -> Tensor:
    return torch.zeros_like(first)


def _mean(first: Tensor, second: Tensor, *_: object) -> Tensor:
    return (first + second) / 2


def _backwards(first: Tensor, second: Tensor, *_: object) -> Tensor:
    """Flip the filter's result, like a forgotten complex conjugate."""
    return ((first + second) / 2).flip(1)


def _damped(factor: float) -> object:
    """Take the same fraction of the Newton step in all samples."""
    return patch.object(Ascent, "damping", property(lambda self: torch.full_like(self.curvature, factor)))


def _asleep(one_of: int, factor: float) -> object:
    """Divide one of so many scales by a factor before they are certified."""

    def certified(problem: Problem, scales: Tensor, control: object, passes: object, *rest: int) -> object:
        scales = scales.clone()
        scales[:, ::one_of] /= factor
        return certify_scales(problem, scales, control, [], *rest)  # type: ignore[arg-type]

    return replaced(certify_scales=certified)


@contextmanager
def _as_it_is() -> Iterator[None]:
    yield


SABOTAGE: dict[str, Callable[[], object]] = {
    "as it is": _as_it_is,
    "filter flipped": lambda: replaced(wiener=_backwards, wiener_with=_backwards),
    "filter off": lambda: replaced(wiener=_mean, wiener_with=_mean),
    "ascent off": lambda: replaced(ROUNDS=((0, 0.2),)),
    "ascent filter returns nothing": lambda: replaced(wiener=_nothing),
    "steps tenfold": lambda: _damped(3.0),
    "steps reversed": lambda: _damped(-0.3),
    "Gauss-Newton off": lambda: replaced(gauss_newton=lambda problem, scales: (feasible(problem, scales), None)),
    "5 % of the scales a thirtieth": lambda: _asleep(20, 30.0),
    "uniform, no ascent": lambda: replaced(
        ROUNDS=((0, 0.2),),
        waterfill=lambda norms, target, tie, cap: _uniform(norms, target),
    ),
}


def _uniform(norms: Tensor, target: Tensor) -> Tensor:
    return (target / norms.sum(1)).sqrt()[:, None].expand_as(norms).contiguous()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--layers", nargs="*", default=[])
    parser.add_argument("--steps", type=int, default=3000)
    arguments = parser.parse_args()
    job = prepared(
        str(path("digits-cnn.onnx")), f"{path('digits.npz')}:images", arguments.layers,
        samples=arguments.samples, device="cpu",
    )  # fmt: skip
    x, rows = job.inputs(range(arguments.samples))
    starts = linearize(job.network, x, job.unit, rows, generator(job.device, "starts"))
    truths = []
    for layer, start in enumerate(starts):
        feature, target = job.feature(layer, x, rows, 1), ALPHA * start.normalizer
        begun = solve(Problem.of(feature, start, target, job.tie, CAP, job.shape))
        logs = ascent(feature, begun.sigma, target, steps=arguments.steps)
        truths.append(met(feature, logs, target, begun.certificate.exponent))
    print(f"{machine('cpu')}; {arguments.samples} samples, {len(starts)} layers, seeds {arguments.seeds}\n")
    print("| solver | mean shortfall | largest | mean gap | converged | covered | covered of converged |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, broken in SABOTAGE.items():
        missing, gaps, proven, covered = [], [], [], []
        for seed in arguments.seeds:
            for layer, start in enumerate(starts):
                feature, target = job.feature(layer, x, rows, 100 + seed), ALPHA * start.normalizer
                with broken():  # type: ignore[attr-defined]
                    found = solve(Problem.of(feature, start, target, job.tie, CAP, job.shape))
                best, best_error = truths[layer]
                value, error = met(feature, found.sigma.log(), target, found.certificate.exponent)
                short, slack = best - value, 2 * (error.square() + best_error.square()).sqrt()
                missing.append(short)
                gaps.append(found.certificate.gap)
                proven.append(found.certificate.converged)
                covered.append(short <= found.certificate.gap + slack)
        short, gap, kept, inside = (torch.stack(each).flatten() for each in (missing, gaps, proven, covered))
        shares = kept.float().mean(), (inside | ~kept).float().mean(), inside[kept].float().mean()
        print(
            f"| {name} | {short.mean():.4f} | {short.max():.4f} | {gap.nanmean():.4f} | "
            + " | ".join(f"{float(share):.0%}" if share.isfinite() else "-" for share in shares)
            + " |",
            flush=True,
        )


if __name__ == "__main__":
    as_script(main)
