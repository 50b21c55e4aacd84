"""The resident size of a process stays near what it takes anyway plus the memory limit, also with large maps."""

from __future__ import annotations

import os
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import model, node, relu_model, value, weight
from processes import context

import onnxinfo

LIMIT, ALLOWED = 512 << 20, 1.2
#: A limit that three inputs of the start of a VGG fit into, 118 MiB each, and the seconds of CPU time until the size
#: does not change any more.
OF_THREE, LONG_ENOUGH = 360 << 20, 60
PIXELS, CHANNELS, SAMPLES = 224, 64, 32


def classifier() -> onnx.ModelProto:
    """Three maps of 13 MB per sample, as at the start of a VGG, but of few operations."""
    nodes = [
        node("Conv", "x w", "c", pads=[1] * 4),
        node("Relu", "c", "r"),
        node("Conv", "r v", "d", pads=[1] * 4, group=CHANNELS),
        node("GlobalAveragePool", "d", "pooled"),
        node("Flatten", "pooled", "flat"),
        node("MatMul", "flat u", "y"),
    ]
    constants = [weight("w", CHANNELS, 3, 3, 3), weight("v", CHANNELS, 1, 3, 3), weight("u", CHANNELS, 10)]
    return model(nodes, [value("x", ("N", 3, PIXELS, PIXELS))], [value("y", ("N", 10))], constants)


def _kib(field: str) -> int:
    return int(Path("/proc/self/status").read_text().partition(f"{field}:")[2].split()[0])


def _analyze(pipe: Connection, folder: Path) -> None:
    onnxinfo.analyze(relu_model(), np.eye(2, 4, dtype=np.float32), folder / "base.h5", metrics=("gradient",))
    base = _kib("VmRSS")
    samples = np.random.default_rng(0).random((SAMPLES, 3, PIXELS, PIXELS), dtype=np.float32)
    onnxinfo.analyze(
        classifier(), samples, folder / "a.h5", metrics=("gradient",), layers=["y"], memory_limit=LIMIT, threads=1
    )
    pipe.send((base << 10, _kib("VmHWM") << 10, samples.nbytes))


@pytest.mark.slow
def test_large_maps_stay_within_the_limit(tmp_path: Path) -> None:
    ours, theirs = context().Pipe()
    process = context().Process(target=_analyze, args=(theirs, tmp_path))
    process.start()
    theirs.close()
    base, peak, held = ours.recv()
    process.join()
    assert peak < ALLOWED * (base + held + LIMIT), f"{peak >> 20} MiB, base {base >> 20}, samples {held >> 20}"


def start_of_vgg() -> onnx.ModelProto:
    nodes = [
        node("Conv", "x w", "c", pads=[1] * 4),
        node("Relu", "c", "r"),
        node("Conv", "r v", "d", pads=[1] * 4),
        node("Relu", "d", "s"),
        node("MaxPool", "s", "p", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", "p u", "e", pads=[1] * 4),
        node("Relu", "e", "g"),
        node("GlobalAveragePool", "g", "pooled"),
        node("Flatten", "pooled", "flat"),
        node("MatMul", "flat z", "y"),
    ]
    constants = [weight("w", 64, 3, 3, 3), weight("v", 64, 64, 3, 3), weight("u", 128, 64, 3, 3), weight("z", 128, 10)]
    return model(nodes, [value("x", ("N", 3, PIXELS, PIXELS))], [value("y", ("N", 10))], constants)


def _search(pipe: Connection, folder: Path) -> None:
    """Send the base and the peak of the first minute of a search, which takes several."""
    onnxinfo.analyze(relu_model(), np.eye(2, 4, dtype=np.float32), folder / "base.h5", metrics=("gradient",))
    base = _kib("VmRSS")

    def watch() -> None:
        while time.process_time() < LONG_ENOUGH:
            time.sleep(0.1)
        pipe.send((base << 10, _kib("VmHWM") << 10))
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()
    samples = np.random.default_rng(0).random((2, 3, PIXELS, PIXELS), dtype=np.float32)
    onnxinfo.analyze(start_of_vgg(), samples, folder / "a.h5", layers=["y"], memory_limit=OF_THREE, threads=1)


@pytest.mark.slow
def test_a_search_stays_within_a_limit_of_three_inputs(tmp_path: Path) -> None:
    """If it holds two, this took 1.4 to 1.5 times base and limit while glibc kept freed tensors, and 1.2 since."""
    ours, theirs = context().Pipe()
    process = context().Process(target=_search, args=(theirs, tmp_path))
    process.start()
    theirs.close()
    base, peak = ours.recv()
    process.join()
    assert peak < ALLOWED * (base + OF_THREE), f"{peak >> 20} MiB, base {base >> 20}"
