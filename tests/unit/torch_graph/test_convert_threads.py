"""Conversion in many threads at once: each gets its graph, and no global state changes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch
from onnx2torch.node_converters import registry
from places import ROOT

import onnxinfo
from onnxinfo.torch_graph.conversions import conversion_report
from onnxinfo.torch_graph.convert import convert

MODELS = sorted((ROOT / "models").glob("*digits*.onnx"))[:6]
THREADS = 6


@pytest.fixture
def _switching_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("_switching_often")
def test_conversion_in_many_threads() -> None:
    models = [onnxinfo.load(path) for path in MODELS]
    alone = [convert(model) for model in models]
    registered = dict(registry._CONVERTER_REGISTRY)
    together = Barrier(THREADS)

    def work(thread: int) -> list[tuple[int, torch.fx.GraphModule]]:
        together.wait()
        order = [(thread + i) % len(models) for i in range(len(models))]
        return [(i, convert(models[i])) for i in order]

    with ThreadPoolExecutor(THREADS) as pool:
        converted = [each for found in pool.map(work, range(THREADS)) for each in found]
    assert len(converted) == THREADS * len(models)
    for i, module in converted:
        assert module.code == alone[i].code
        assert module.meta["conversions"] == alone[i].meta["conversions"]
        assert all(torch.equal(a, b) for a, b in zip(module.buffers(), alone[i].buffers(), strict=True))
    assert dict(registry._CONVERTER_REGISTRY) == registered


def test_what_is_registered_during_a_conversion_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread's registration, simulated by a converter that registers one."""
    monkeypatch.setattr(registry, "_CONVERTER_REGISTRY", dict(registry._CONVERTER_REGISTRY))

    def nested(node: object, graph: object) -> None:
        registry.add_converter("Later", 1, "custom")(nested)
        raise NotImplementedError("this one registers another")

    registry._CONVERTER_REGISTRY[registry.OperationDescription("", "Relu", 14)] = nested
    assert "fallback" in {each.server for each in conversion_report(MODELS[0])}
    assert registry.get_converter("Later", 1, "custom") is nested


def test_first_conversions_of_a_process_at_once() -> None:
    """ONNX's schema registry refuses to register the checker's additional operators twice."""
    code = """
import sys, time
from concurrent.futures import ThreadPoolExecutor
import onnxinfo
from onnxinfo.graph import schemas
make = schemas._normalization
schemas._normalization = lambda name: time.sleep(0.1) or make(name)
with ThreadPoolExecutor(3) as pool:
    assert len([*pool.map(onnxinfo.convert, 3 * sys.argv[1:])]) == 3
"""
    subprocess.run([sys.executable, "-c", code, str(MODELS[0])], check=True, timeout=120)
