"""Memory of an evaluation, by hand."""

from __future__ import annotations

import itertools

import pytest
from graphs import model, node, value
from onnx import TensorProto

from onnxinfo.graph.activations import live_bytes
from onnxinfo.graph.dataflow import Dataflow

FOUR = 4 * 4  # bytes of a tensor N x 4 for one sample


def flow(*nodes: tuple[str, str], outputs: tuple[str, ...] = ("y",)) -> Dataflow:
    proto = model([node("Sum", *ends) for ends in nodes], [value("x")], [])
    proto.graph.value_info.extend(value(name) for _, name in nodes if name not in outputs)
    proto.graph.output.extend(value(name) for name in outputs)
    return Dataflow(proto.graph)


def test_a_chain_holds_two_values_however_long() -> None:
    names = ["x", *(f"v{i}" for i in range(9)), "y"]
    assert live_bytes(flow(*itertools.pairwise(names))) == 2 * FOUR


def test_values_read_later_and_outputs_stay() -> None:
    assert live_bytes(flow(("x", "a"), ("a", "b"), ("b a", "y"))) == 3 * FOUR
    assert live_bytes(flow(("x", "a"), ("a", "b"), ("b", "y"), outputs=("a", "b", "y"))) == 3 * FOUR


def test_a_value_that_nothing_reads_is_gone_at_once() -> None:
    assert live_bytes(flow(("x", "unused"), ("x", "y"))) == 2 * FOUR


@pytest.mark.parametrize(
    ("shape", "element", "expected"),
    [
        (("N", 4), TensorProto.DOUBLE, 8 * 4),
        (("N", "length", 4), TensorProto.FLOAT, FOUR),
        (None, TensorProto.FLOAT, 0),
        (("N", 4), TensorProto.STRING, 0),
        (("N", 4), TensorProto.UNDEFINED, 0),
    ],
)
def test_sizes_that_are_not_known_are_not_counted(
    shape: tuple[str | int, ...] | None, element: int, expected: int
) -> None:
    proto = model([], [value("x", shape, element)], [])
    assert live_bytes(Dataflow(proto.graph)) == expected
