"""Cost of a whole network by phase: start-up, conversion, verification, every layer's SID, writing.

    python benchmarks/phases.py resnet20.onnx --inputs cifar10.npz:x_test --preset imagenet --limit 32
    python benchmarks/phases.py vgg16.onnx --inputs images/ --preset imagenet --limit 2 --project 50

All default layers are analyzed unless some are named. The last line extrapolates to the number of images given by
``--project``, in proportion for the phases that grow with the images.
"""

from __future__ import annotations

import importlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from common import analysis_parser, machine, timed

import onnxinfo
from onnxinfo.analysis.tasks import Linearize, Measuring
from onnxinfo.archive.writer import RunWriter
from onnxinfo.metrics.network import Network
from onnxinfo.models.studies.script import as_script

#: Phases, with the functions called in each, and whether they grow with the number of images.
PHASES: dict[str, tuple[list[tuple[Any, str]], bool]] = {
    "model": ([("onnxinfo.workflows.analyze", "open_model")], False),
    "samples": ([("onnxinfo.workflows.analyze", "open_analyzed")], False),
    "conversion": ([("onnxinfo.analysis.job", "convert_reached")], False),
    "verification": ([("onnxinfo.analysis.job", "verify")], False),
    "batching": ([(Network, "select_batching"), ("onnxinfo.workflows.analyze", "fit")], False),
    "linearization": ([(Linearize, "perform")], True),
    "solution": ([(Measuring, "perform")], True),
    "archive": ([(RunWriter, name) for name in ("open", "set_normalizer", "write", "close")], True),
}


@contextmanager
def measured(phases: dict[str, float]) -> Iterator[None]:
    """Add up the seconds that each phase's functions take."""
    with ExitStack() as stack:
        for phase, (places, _) in PHASES.items():
            for place, name in places:
                target = importlib.import_module(place) if isinstance(place, str) else place
                stack.enter_context(patch.object(target, name, timed(phases, phase, getattr(target, name))))
        yield


def start_up() -> float:
    """Seconds until a fresh process has imported everything that an analysis needs."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import onnxinfo.workflows.analyze"], check=True)
    return time.perf_counter() - began


def main() -> None:
    """Print the table."""
    parser = analysis_parser(__doc__)
    parser.add_argument("--limit", type=int, default=2)
    parser.add_argument("--project", type=int, default=50)
    given = parser.parse_args()
    phases = {"start-up": start_up()}
    with tempfile.TemporaryDirectory() as folder, measured(phases):
        began = time.perf_counter()
        result = onnxinfo.analyze(
            given.model, given.inputs, Path(folder) / "out.h5", preset=given.preset, layers=given.layers,
            limit=given.limit, device=given.device,
        )  # fmt: skip
        total = time.perf_counter() - began
        with onnxinfo.open(result.archive) as archive:
            values = archive[result.run].values("sid")
    layers, images = values["value"].shape
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{machine(given.device)}; {layers} layers, {images} images, peak memory {memory:.2f} GiB")
    print(f"converged: {values['converged'].mean():.0%} of {values['value'].size} cells\n")
    print("| phase | s | share |\n| --- | ---: | ---: |")
    whole = total + phases["start-up"]
    phases["rest"] = total - sum(seconds for phase, seconds in phases.items() if phase != "start-up")
    for phase, seconds in phases.items():
        print(f"| {phase} | {seconds:.2f} | {seconds / whole:.1%} |")
    print(f"| total | {whole:.2f} | 100% |")
    growing = sum(phases.get(phase, 0.0) for phase, (_, grows) in PHASES.items() if grows)
    print(f"\n{given.project} images: {whole + growing * (given.project / images - 1):.0f} s")


if __name__ == "__main__":
    as_script(main)
