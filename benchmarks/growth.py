"""Growth of time and peak memory with layers, images, pixels and probes, with a line fitted to each.

    python benchmarks/growth.py
    python benchmarks/growth.py --model resnet20.onnx --inputs cifar10.npz:x_test --preset imagenet --images 10 100 1000

Every point is an analysis in a process of its own, of a chain of convolutions with random weights on random images
unless a model is named (then only images and layers vary). Times exclude import and conversion; memory is the process's
peak. For probes, only the Gauss-Newton round is measured.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import machine, prepared

import onnxinfo
from onnxinfo.models.studies.script import as_script

CHANNELS, DEPTH = 16, 8


def chain(side: int, file: Path) -> None:
    """Write a chain of convolutions with random weights, for images of the given side length."""
    from onnx import TensorProto, helper, numpy_helper, save

    random = np.random.default_rng(0)
    nodes, weights, name, width = [], [], "x", 3
    for i in range(DEPTH):
        kernel = random.normal(size=(CHANNELS, width, 3, 3)) * np.sqrt(2 / (9 * width))
        weights.append(numpy_helper.from_array(kernel.astype(np.float32), f"w{i}"))
        nodes.append(helper.make_node("Conv", [name, f"w{i}"], [f"conv_{i}"], pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"conv_{i}"], [f"relu_{i}"]))
        name, width = f"relu_{i}", CHANNELS
    first, last = (
        helper.make_tensor_value_info(each, TensorProto.FLOAT, ["N", size, side, side])
        for each, size in (("x", 3), (name, CHANNELS))
    )
    graph = helper.make_graph(nodes, "chain", [first], [last], weights)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), file)


def point(request: dict[str, Any]) -> None:
    """Run one analysis in this process and print its time and memory."""
    clock: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        onnxinfo.analyze(
            output=Path(folder) / "out.h5", progress=lambda _: clock.append(time.perf_counter()), **request
        )  # fmt: skip
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(json.dumps({"seconds": clock[-1] - clock[0], "mebibytes": memory}))


def measure(**request: Any) -> dict[str, float]:
    """Run one analysis in a fresh process."""
    done = subprocess.run(
        [sys.executable, __file__, "--point", json.dumps(request)], check=True, capture_output=True, text=True
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def probes(file: Path, images: Path, counts: list[int]) -> dict[int, dict[str, float]]:
    """Time of one layer's column norms for several numbers of noise samples, with two probes each."""
    job = prepared(str(file), str(images), [f"relu_{DEPTH - 1}"], samples=8, device="cpu")
    job.batch_size = 64
    feature = job.feature(0, *job.inputs(range(8)), 0)
    sigma = torch.full((8, feature.units), 0.01)
    feature.column_norms(sigma, 8, 2)
    found = {}
    for count in counts:
        began = time.perf_counter()
        feature.column_norms(sigma, count, 2)
        seconds = time.perf_counter() - began
        found[2 * count] = {"seconds": seconds, "mebibytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10}
    return found


def show(what: str, found: dict[int, dict[str, float]]) -> None:
    """Print the points, the line fitted to the times, and the change of memory."""
    x = np.array(list(found), dtype=float)
    seconds = np.array([each["seconds"] for each in found.values()])
    memory = [each["mebibytes"] for each in found.values()]
    slope, intercept = np.polyfit(x, seconds, 1)
    rest = seconds - (slope * x + intercept)
    fit = 1 - float((rest**2).sum() / ((seconds - seconds.mean()) ** 2).sum())
    print(f"\n| {what} | s | peak MiB |\n| ---: | ---: | ---: |")
    for count, each in found.items():
        print(f"| {count} | {each['seconds']:.2f} | {each['mebibytes']:.0f} |")
    print(f"\ntime = {intercept:.2f} s + {slope:.4f} s per {what[:-1]}, R^2 = {fit:.4f}; ", end="")
    print(f"memory {memory[-1] / memory[0] - 1:+.1%} from {min(found)} to {max(found)}", flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--inputs")
    parser.add_argument("--preset")
    parser.add_argument("--images", type=int, nargs="*", default=[10, 30, 100, 300, 1000])
    parser.add_argument("--layers", type=int, nargs="*", default=[1, 2, 4, 8])
    parser.add_argument("--sides", type=int, nargs="*", default=[16, 32, 64, 128])
    parser.add_argument("--draws", type=int, nargs="*", default=[16, 32, 64, 128, 256])
    parser.add_argument("--point", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.point:
        point(json.loads(given.point))
        return
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        file, images = Path(folder) / "chain.onnx", Path(folder) / "images.npy"
        if not given.model:
            chain(16, file)
            np.save(images, np.random.default_rng(0).normal(size=(max(given.images), 3, 16, 16)).astype(np.float32))
        common = {"model": given.model or str(file), "inputs": given.inputs or str(images), "preset": given.preset}
        names = [layer.name for layer in onnxinfo.list_layers(common["model"]) if layer.default]
        show("images", {n: measure(**common, layers=names[:1], limit=n) for n in given.images})
        # Layers around the middle: equally deep on average for any count; a layer's cost is that of the layers before
        # it.
        middle = {n: names[(len(names) - n) // 2 :][:n] for n in given.layers if n <= len(names)}
        show("layers", {n: measure(**common, layers=chosen, limit=32) for n, chosen in middle.items()})
        if given.model:
            return
        squares = {}
        for side in given.sides:
            chain(side, file)
            np.save(images, np.random.default_rng(0).normal(size=(8, 3, side, side)).astype(np.float32))
            squares[side * side] = measure(**common, layers=names[:1], limit=4)
        show("pixels", squares)
        show("probes", probes(file, images, given.draws))


if __name__ == "__main__":
    as_script(main)
