"""Resident memory over a long analysis: it must not grow, and stay within base and ``--memory-limit``.

    OMP_NUM_THREADS=1 python benchmarks/soak.py
    OMP_NUM_THREADS=1 python benchmarks/soak.py --samples 2000 --layers 10 --memory 256M

Analyzes random samples in one process, with a chain of dense layers of random weights. The base is the resident size
after an analysis of two samples, which loads all libraries. Prints the largest resident size in each tenth of the
analysis; exits with 1 if it grows by more than 2 % after the first tenth, or exceeds base and limit by more than 20 %.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from common import machine
from onnx import ModelProto, TensorProto, helper, numpy_helper

import onnxinfo
from onnxinfo.models.studies.script import as_script

WIDTH = 16
GROWTH, EXCESS = 1.02, 1.2


def chain(depth: int) -> ModelProto:
    """A chain of dense layers with random weights."""
    random = np.random.default_rng(0)
    nodes, weights, name = [], [], "x"
    for i in range(depth):
        matrix = random.normal(size=(WIDTH, WIDTH)) * np.sqrt(2 / WIDTH)
        weights.append(numpy_helper.from_array(matrix.astype(np.float32), f"w{i}"))
        nodes.append(helper.make_node("MatMul", [name, f"w{i}"], [f"product_{i}"]))
        nodes.append(helper.make_node("Relu", [f"product_{i}"], [f"relu_{i}"]))
        name = f"relu_{i}"
    ends = [helper.make_tensor_value_info(each, TensorProto.FLOAT, ["N", WIDTH]) for each in ("x", name)]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def resident() -> float:
    """Resident size of this process in MiB."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 2**10


def tenths(sizes: list[float]) -> list[float]:
    """Largest size in each tenth of a series."""
    return [float(max(part, default=0.0)) for part in np.array_split(np.array(sizes), 10)]


def main() -> None:
    """Run the analysis and judge its memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--layers", type=int, default=10)
    parser.add_argument("--memory", default="256M")
    options = parser.parse_args()
    limit = (onnxinfo.ExecutionConfig(memory_limit=options.memory).memory_bytes or 0) / 2**20
    samples = np.random.default_rng(1).standard_normal((options.samples, WIDTH)).astype(np.float32)
    model, sizes = chain(options.layers), []
    with tempfile.TemporaryDirectory() as folder:
        onnxinfo.analyze(model, samples[:2], Path(folder) / "base.h5", memory_limit=options.memory)
        base = resident()
        onnxinfo.analyze(
            model,
            samples,
            Path(folder) / "soak.h5",
            memory_limit=options.memory,
            progress=lambda _: sizes.append(resident()),
        )
    found = tenths(sizes)
    print(f"{machine('cpu')}; {options.samples} samples, {options.layers} layers, limit {limit:.0f} MiB")
    print(f"base {base:.0f} MiB; tenths: {', '.join(f'{size:.0f}' for size in found)} MiB")
    growth, excess = max(found) / found[0], max(found) / (base + limit)
    print(f"growth after the first tenth: {growth - 1:+.1%}; largest / (base + limit): {excess:.2f}")
    raise SystemExit(int(growth > GROWTH or excess > EXCESS))


if __name__ == "__main__":
    as_script(main)
