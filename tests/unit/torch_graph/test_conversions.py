"""The report of conversions says what a conversion does, without doing it node by node."""

from __future__ import annotations

import itertools

import onnx
import pytest
from graphs import branch_model, function_model, model, node, residual_net, value

from onnxinfo import convert
from onnxinfo.models import path
from onnxinfo.torch_graph.conversions import conversion_report
from onnxinfo.torch_graph.convert import Scope

MODELS = [branch_model, function_model, residual_net, lambda: onnx.load(path("keras-digits-gru.onnx"))]


def chain(length: int) -> onnx.ModelProto:
    names = ["x", *(f"v{i}" for i in range(1, length)), "y"]
    nodes = [node("Relu" if i % 2 else "Neg", a, b) for i, (a, b) in enumerate(itertools.pairwise(names))]
    return model(nodes, [value("x")], [value("y")])


@pytest.mark.parametrize("build", MODELS)
def test_the_report_is_that_of_the_conversion(build) -> None:
    proto = build()
    assert conversion_report(proto) == convert(proto).meta["conversions"]


def test_nodes_that_differ_in_names_are_converted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    converted = []
    monkeypatch.setattr(Scope, "_convert", lambda self, n, of=Scope._convert: converted.append(n.name) or of(self, n))
    proto = chain(20)
    report = conversion_report(proto)
    assert converted == ["/v1", "/v2"]
    assert [each.node for each in report] == [each.name for each in proto.graph.node]
    assert report == convert(proto).meta["conversions"]


def reading() -> onnx.ModelProto:
    """Two reshapes alike except in where their sizes come from: a shape, through two slices alike, and an input."""
    nodes = [
        node("Shape", "x", "sizes"),
        node("Identity", "sizes", "a"),
        node("Identity", "a", "b"),
        node("Reshape", "x b", "y"),
        node("Reshape", "x given", "z"),
        node("Reshape", "x given", "w"),
        node("Reshape", "x other", "v"),
    ]
    integers = [value(name, ("k",), onnx.TensorProto.INT64) for name in ("given", "other")]
    outputs = [value(name, None) for name in "yzwv"]
    return model(nodes, [value("x"), *integers], outputs)


def test_what_each_node_reads_is_reported() -> None:
    report = conversion_report(reading())
    assert [each.reads for each in report[3:]] == [(), ("given",), ("given",), ("other",)]
    assert report == convert(reading()).meta["conversions"]
