"""PyTorch exports, compiles and transforms converted models; benchmarks/capture.py has the corpus."""

from __future__ import annotations

import capture
import graphs
import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto

from onnxinfo.models import path
from onnxinfo.torch_graph.conversions import conversion_report

ZOO = sorted(file.name for file in path("digits.npz").parent.glob("*.onnx"))


@pytest.mark.parametrize("name", ZOO)
def test_nothing_is_read_back_on_a_fake_device(name: str) -> None:
    assert capture.attempt(capture.zoo_case(name), "fake CUDA") == ""


@pytest.mark.parametrize("way", capture.WAYS)
def test_shape_arithmetic_of_a_small_network(way: str) -> None:
    assert capture.attempt(capture.case_of("residual", graphs.residual_net()), way) == ""


def test_a_compiler_skips_the_check_of_indices() -> None:
    """It knows shapes, not values."""
    ends = [graphs.value("x", (3, 4)), graphs.value("i", (2, 1), TensorProto.INT64), graphs.value("u", (2, 4))]
    nodes = [graphs.node("ScatterND", "x i u", "y")]
    case = capture.case_of("update", graphs.model(nodes, ends, [graphs.value("y", (3, 4))]))
    assert capture.attempt(case, "compile") == ""


def test_a_branch_that_depends_on_values_is_named() -> None:
    model = graphs.branch_model()
    case = capture.case_of("branch", model)
    assert "Data" in capture.attempt(case, "fake CUDA")
    assert {c.operator: c.reads for c in conversion_report(model) if c.reads} == {"ai.onnx.If": ("positive",)}


@pytest.mark.slow
@pytest.mark.parametrize("way", capture.WAYS)
@pytest.mark.parametrize("name", ZOO)
def test_every_bundled_network(name: str, way: str) -> None:
    assert capture.attempt(capture.zoo_case(name), way) == ""


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_a_compiled_network_agrees_with_onnx_runtime(name: str) -> None:
    case = capture.zoo_case(name)
    session = onnxruntime.InferenceSession(path(name), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    expected = session.run(None, {n: x.numpy() for n, x in zip(names, case.inputs, strict=True)})
    torch._dynamo.reset()
    with torch.no_grad():
        found = torch.compile(case.module, fullgraph=True, backend="aot_eager")(*case.inputs)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * max(np.abs(theirs).max(), 1e-30))


@pytest.mark.slow
@pytest.mark.parametrize("way", [way for way in capture.WAYS if way != "export, free batch"])
def test_nearly_all_of_onnx_s_cases(way: str) -> None:
    reasons = [capture.attempt(case, way) for case in capture.conformance_cases()]
    assert len(reasons) > 1_900
    assert reasons.count("") >= 0.95 * len(reasons)
