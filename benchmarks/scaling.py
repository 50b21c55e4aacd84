"""Speedup of a second worker: cells per second with one and with two single-threaded workers, for each engine.

    python benchmarks/scaling.py resnet20.onnx --inputs cifar10.npz:x_test --preset imagenet --limit 64

Ray clusters consist of single-core nodes on this machine. Throughput is measured from the first cell finished by each
worker, to exclude start-up. The total time is printed, too.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import analysis_parser, machine

import onnxinfo
from onnxinfo.models.studies.script import as_script


@contextlib.contextmanager
def ray_nodes(count: int) -> Iterator[dict[str, Any]]:
    """Start a cluster of single-core nodes."""
    from ray.cluster_utils import Cluster

    # Otherwise Ray's workers yield to everything else on this machine.
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    for _ in range(count - 1):
        nodes.add_node(num_cpus=1)
    try:
        yield {"engine": "ray", "address": nodes.address, "threads": 1}
    finally:
        nodes.shutdown()  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def processes(count: int) -> Iterator[dict[str, Any]]:
    """No cluster to start."""
    yield {"engine": "local", "workers": count, "threads": 1}


def throughput(workers: int, given: argparse.Namespace, options: dict[str, Any]) -> tuple[float, float]:
    """Cells per second once all workers are busy, and total seconds."""
    finished: list[tuple[float, int]] = []

    def note(progress: onnxinfo.Progress) -> None:
        if progress.layer:
            finished.append((time.perf_counter(), progress.done))

    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        onnxinfo.analyze(
            given.model, given.inputs, Path(folder) / "out.h5", preset=given.preset, layers=given.layers,
            limit=given.limit, device=given.device, progress=note, **options,
        )  # fmt: skip
    whole = time.perf_counter() - began
    (first, before), (last, after) = finished[workers - 1], finished[-1]
    if first == last:
        raise SystemExit("each worker finished one task only; analyze more layers or samples")
    return (after - before) / (last - first), whole


def main() -> None:
    """Print the table."""
    parser = analysis_parser(__doc__)
    parser.add_argument("--limit", type=int, default=64)
    given = parser.parse_args()
    print(f"{machine(given.device)}, {os.cpu_count()} cores; {given.limit} images\n")
    print("| engine | workers | cells/s | against one | whole, s |\n| --- | ---: | ---: | ---: | ---: |")
    for name, engine in (("local", processes), ("ray", ray_nodes)):
        one = 0.0
        for workers in (1, 2):
            with engine(workers) as options:
                rate, seconds = throughput(workers, given, options)
            one = one or rate
            print(f"| {name} | {workers} | {rate:.3f} | {rate / one:.2f} | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
    as_script(main)
