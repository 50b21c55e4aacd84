"""The solver against the paper's optimizer: mean H at the met constraint, and seconds per cell, layer by layer.

    python benchmarks/solvers.py resnet20.onnx --inputs cifar10.npz:x_test --preset imagenet --layers relu_2 relu_18
    python benchmarks/solvers.py resnet20.onnx --inputs cifar10.npz:x_test --preset imagenet --layers relu_2 \
        --metric ru --decoders DIR --decoder-inputs cifar10.npz:x_train

Both run on the same machine, one after the other, the paper's optionally on fewer samples; H is compared on common
samples, with the same D of each sample. Seconds are CPU time on a CPU, which other work on the machine hardly changes,
and elapsed time elsewhere. For ru both use the same decoders, trained beforehand. The ratio is measured by each cell's
certificate, with noise independent of either solver.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from common import analysis_parser, machine

import onnxinfo
from onnxinfo.archive.means import mean_and_stderr, pair_up
from onnxinfo.metrics.budget import device_of
from onnxinfo.models.studies.script import as_script


@dataclass
class Clock:
    """Seconds of a timer spent on each layer, and on the work common to all."""

    now: Callable[[], float]
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    last: float = field(init=False)

    def __post_init__(self) -> None:
        self.last = self.now()

    def note(self, progress: onnxinfo.Progress) -> None:
        """Attribute the time since the last call to the finished item: a layer, or normalizers and closed form."""
        now = self.now()
        self.seconds[progress.layer or progress.stage] += now - self.last
        self.last = now


def run(arguments: argparse.Namespace, solver: str, samples: int) -> tuple[dict[str, dict[str, Any]], Clock]:
    """Analyze, and return each layer's numbers and the times."""
    clock = Clock(time.process_time if device_of(arguments.device).type == "cpu" else time.perf_counter)
    metric = arguments.metric
    more: dict[str, Any] = {}
    if metric == "ru":
        more = {
            "error_reference": arguments.error_reference,
            "decoders": arguments.decoders,
            "decoder_inputs": arguments.decoder_inputs,
        }
        more["decoder_limit"] = arguments.decoder_limit
    with tempfile.TemporaryDirectory() as folder:
        result = onnxinfo.analyze(
            arguments.model, arguments.inputs, Path(folder) / "out.h5", layers=arguments.layers, limit=samples,
            preset=arguments.preset, normalize_by="sample", metrics=[metric], solver=solver, seed=arguments.seed,
            device=arguments.device, progress=clock.note, **more,
        )  # fmt: skip
        with onnxinfo.open(result.archive) as archive:
            opened = archive[result.run]
            values = opened.values(metric)
            names = [layer.name for layer in opened.layers]
    return {name: {key: numbers[i] for key, numbers in values.items()} for i, name in enumerate(names)}, clock


def main() -> None:
    """Print the table."""
    parser = analysis_parser(__doc__)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument(
        "--reference-samples", type=int, help="number of samples for the paper's optimizer; default: all"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--metric", choices=["sid", "ru"], default="sid")
    parser.add_argument("--error-reference", choices=["input", "reconstruction"], default="input")
    parser.add_argument("--decoders", type=Path, default=Path("decoders"), help="folder of the decoders")
    parser.add_argument("--decoder-inputs", help="training samples of the decoders for ru")
    parser.add_argument("--decoder-limit", type=int, default=5000)
    arguments = parser.parse_args()
    fewer = arguments.reference_samples or arguments.samples
    print(f"{machine(arguments.device)}; {arguments.samples} samples, {fewer} by the paper's optimizer\n")
    print("| layer | H | H, paper's | difference | ratio | converged | s per cell | s per cell, paper's | 1/ |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    ours, clock = run(arguments, "auto", arguments.samples)
    # D, which both need, depends within its error on the samples that are analyzed together.
    same = ours if fewer == arguments.samples else run(arguments, "auto", fewer)[0]
    theirs, slow = run(arguments, "reference", fewer)
    rows = []
    for name, found in ours.items():
        pairs = pair_up(theirs[name], same[name])
        h, reference = pairs.second, pairs.first
        seconds, longer = clock.seconds[name] / arguments.samples, slow.seconds[name] / fewer
        rows.append([h, reference, pairs.difference, seconds, longer])
        ratio, converged = float(mean_and_stderr(found["ratio"])[0]), found["converged"].mean()
        print(
            f"| {name} | {h:.4f} | {reference:.4f} | {pairs.difference:+.4f} | {ratio:.4f} | {converged:.0%} "
            f"| {seconds:.3f} | {longer:.3f} | {longer / seconds:.1f} |",
            flush=True,
        )
    h, reference, difference, seconds, longer = np.mean(rows, 0)
    # Common to all layers: D, which both solvers need, and our solver's closed form.
    before = clock.seconds["normalizer"] / arguments.samples, slow.seconds["normalizer"] / fewer
    print(f"| D | | | | | | {before[0] / len(rows):.3f} | {before[1] / len(rows):.3f} | |")
    seconds, longer = seconds + before[0] / len(rows), longer + before[1] / len(rows)
    print(
        f"| mean | {h:.4f} | {reference:.4f} | {difference:+.4f} | | "
        f"| {seconds:.3f} | {longer:.3f} | {longer / seconds:.1f} |"
    )


if __name__ == "__main__":
    as_script(main)
