"""Check that the stated gap of RU covers the shortfall: the solver and broken versions against a long ascent.

    python benchmarks/ru.py --samples 4 --layers relu avg_pool2d logits

Decoders of the bundled digits network are trained and kept in a temporary folder. An ascent of many more and smaller
steps continues from the solution; a cell is covered if its mean H at the met constraint is at most its gap below the
ascent's. Two standard errors of both measurements are allowed for. Times are CPU times per cell.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import torch
from common import machine, prepared
from torch import Tensor

from onnxinfo.analysis.decoders import DecoderCache, decoder_settings
from onnxinfo.config import DecoderConfig
from onnxinfo.metrics import ru
from onnxinfo.metrics.linearization import linearize
from onnxinfo.metrics.noise import generator
from onnxinfo.metrics.reconstruction import Reconstruction
from onnxinfo.models import path
from onnxinfo.models.studies.script import as_script

ALPHA, CAP = 1.5e-4, 1.0


def met(reconstruction: Reconstruction, sigma: Tensor, target: Tensor, draws: int = 2048) -> tuple[Tensor, Tensor]:
    """Mean H at the met constraint, (S,), and its standard error, from fresh noise."""
    moments = reconstruction.moments(sigma, draws)
    wider = reconstruction.moments(torch.where(sigma < CAP, 1.05 * sigma, sigma), draws)
    entropy, ratio = moments.log_power().mean(1) / 2, moments.deviations.mean(0) / target
    steeper = (wider.deviations.mean(0) / moments.deviations.mean(0)).log()
    slope = ((wider.log_power().mean(1) / 2 - entropy) / steeper).clamp(0, 1)
    stderr = moments.deviations.std(0) / math.sqrt(len(moments.deviations)) / moments.deviations.mean(0)
    own = moments.parts.log().mean(2).std(0) / 2 / math.sqrt(len(moments.parts))
    return entropy + ru.ENTROPY - slope * ratio.log(), ((slope * stderr).square() + own.square()).sqrt()


@contextmanager
def _as_it_is() -> Iterator[None]:
    yield


def _ascent(**changed: float) -> Callable[[], object]:
    """Change the ascents of both references."""
    return lambda: patch.dict(ru.ASCENTS, {name: each._replace(**changed) for name, each in ru.ASCENTS.items()})  # type: ignore[arg-type]


SABOTAGE: dict[str, Callable[[], object]] = {
    "as it is": _as_it_is,
    "5 steps": _ascent(steps=5),
    "rate fivefold": _ascent(rate=1.5),
    "rate tenfold": _ascent(rate=3.0),
    "no ascent": lambda: patch.object(ru.Problem, "ascend", lambda self, scales, **_: scales),
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--layers", nargs="*", default=[])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--draws", type=int, default=32)
    arguments = parser.parse_args()
    model, images = str(path("digits-cnn.onnx")), f"{path('digits.npz')}:images"
    with tempfile.TemporaryDirectory() as folder:
        job = prepared(model, images, arguments.layers, samples=200, device="cpu")
        trained = decoder_settings(DecoderConfig(width=16, steps=200), seed=0)
        decoders = DecoderCache(Path(folder), job.provider, trained).of(job)
    x, rows = job.inputs(range(arguments.samples))
    starts = linearize(job.network, x, job.unit, rows, generator(job.device, "starts"))
    print(f"{machine('cpu')}; {arguments.samples} samples, {len(starts)} layers\n")
    print("| error reference | ascent | mean shortfall | largest | mean gap | converged | covered | seconds |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for reference in ("input", "reconstruction"):

        def recovered(layer: int, key: int, reference: str = reference) -> Reconstruction:
            return Reconstruction(job.feature(layer, x, rows, key), decoders[layer].decoder, reference)

        truths: list[tuple[Tensor, Tensor]] = []
        for name, broken in SABOTAGE.items():
            rows_found = []
            for layer, start in enumerate(starts):
                target, began = ALPHA * start.normalizer, time.process_time()
                with broken():  # type: ignore[attr-defined]
                    found = ru.solve_ru(ru.Problem.of(recovered(layer, 1), start, target, job.tie, CAP))
                seconds = (time.process_time() - began) / len(x)
                if len(truths) <= layer:
                    problem = ru.Problem.of(recovered(layer, 2), start, target, job.tie, CAP)
                    options = {"steps": arguments.steps, "draws": arguments.draws, "rate": 0.1}
                    longer = problem.sigma(problem.enforce_constraint(problem.ascend(found.sigma, **options)))
                    truths.append(met(recovered(layer, 3), longer, target))
                value, error = met(recovered(layer, 3), found.sigma, target)
                short = truths[layer][0] - value
                slack = 2 * (error.square() + truths[layer][1].square()).sqrt()
                covered = (short <= found.certificate.gap + slack) | found.certificate.gap.isnan()
                kept = found.certificate.converged.float()
                rows_found.append(
                    (short, found.certificate.gap, kept, covered.float(), torch.full_like(short, seconds))
                )
            short, gap, kept, covered, seconds_each = map(torch.cat, zip(*rows_found, strict=True))
            print(
                f"| {reference} | {name} | {short.mean():.4f} | {short.max():.4f} | {gap.nanmean():.4f} | "
                f"{kept.mean():.0%} | {covered.mean():.0%} | {seconds_each.mean():.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    as_script(main)
