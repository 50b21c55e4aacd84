"""PyTorch exports, compiles and transforms converted models; benchmarks/capture.py has the corpus."""

from __future__ import annotations

import capture
import capture_cases
import graphs
import pytest
from onnx import TensorProto

from onnxinfo.models import path
from onnxinfo.torch_graph.conversions import conversion_report

ZOO = sorted(file.name for file in path("digits.npz").parent.glob("*.onnx"))


@pytest.mark.parametrize("name", ZOO)
def test_nothing_is_read_back_on_a_fake_device(name: str) -> None:
    assert capture.attempt(capture_cases.zoo_case(name), "fake CUDA") == ""


@pytest.mark.parametrize("way", capture.WAYS)
def test_shape_arithmetic_of_a_small_network(way: str) -> None:
    assert capture.attempt(capture_cases.case_of("residual", graphs.residual_net()), way) == ""


def test_a_compiler_skips_the_check_of_indices() -> None:
    """It knows shapes, not values."""
    ends = [graphs.value("x", (3, 4)), graphs.value("i", (2, 1), TensorProto.INT64), graphs.value("u", (2, 4))]
    nodes = [graphs.node("ScatterND", "x i u", "y")]
    case = capture_cases.case_of("update", graphs.model(nodes, ends, [graphs.value("y", (3, 4))]))
    assert capture.attempt(case, "compile") == ""


def test_a_scale_of_integers_may_be_mapped() -> None:
    ends = [graphs.value("x", (3,), TensorProto.INT8), graphs.value("s", ())]
    nodes = [graphs.node("DequantizeLinear", "x s", "y")]
    case = capture_cases.case_of("integers", graphs.model(nodes, ends, [graphs.value("y", (3,))]))
    assert capture.attempt(case, "vmap") == ""


def test_statistics_may_have_tangents() -> None:
    ends = [graphs.value("x", ("N", 2)), *(graphs.value(name, (2,)) for name in "sbmv")]
    proto = graphs.model([graphs.node("BatchNormalization", "x s b m v", "y")], ends, [graphs.value("y", ("N", 2))])
    case = capture_cases.case_of("normalized", proto)
    assert capture.attempt(case, "jvp") == ""


@pytest.mark.parametrize("by", ["scales", "sizes"])
def test_a_resize_leaves_the_batch_size_open(by: str) -> None:
    shape = [graphs.node("Shape", "x", "before", start=0, end=2), graphs.node("Concat", "before two", "sizes", axis=0)]
    operands = "x none scales" if by == "scales" else "x none none sizes"
    nodes = [*(shape if by == "sizes" else []), graphs.node("Resize", operands, "y", mode="linear")]
    weights = [graphs.constant("none", [], "float32"), graphs.constant("scales", [1, 1, 0.6, 0.6], "float32")]
    ends = [graphs.value("x", ("N", 1, 4, 4))], [graphs.value("y", ("N", 1, 2, 2))]
    proto = graphs.model(nodes, *ends, [*weights, graphs.constant("two", [2, 2])])
    case = capture_cases.case_of("smaller", proto)
    assert case.free == (True,)
    assert capture.attempt(case, "export, free batch") == ""


def test_a_branch_that_depends_on_values_is_named() -> None:
    model = graphs.branch_model()
    case = capture_cases.case_of("branch", model)
    assert "Data" in capture.attempt(case, "fake CUDA")
    assert {c.operator: c.reads for c in conversion_report(model) if c.reads} == {"ai.onnx.If": ("positive",)}


@pytest.mark.slow
@pytest.mark.parametrize("way", capture.WAYS)
@pytest.mark.parametrize("name", ZOO)
def test_every_bundled_network(name: str, way: str) -> None:
    assert capture.attempt(capture_cases.zoo_case(name), way) == ""


@pytest.mark.slow
@pytest.mark.parametrize("part", ["conformance", "contrib"])
def test_nearly_all_operators(part: str) -> None:
    """By way: the share of the models to which it applies."""
    built = (capture.record_of(part, name, build, tuple(capture.WAYS)) for name, build in capture.PARTS[part][1]())
    records = [record for record in built if record is not None]
    for way in capture.WAYS:
        passed, total = capture.counts(records, way)
        assert passed >= 0.95 * total > 0, way
