"""The dataflow of a graph reads every node once."""

from __future__ import annotations

from graphs import constant, model, node, value, weight
from onnx import helper

from onnxinfo import load
from onnxinfo.graph.dataflow import Dataflow
from onnxinfo.graph.protos import Node

FIELDS = ("op_type", "domain", "overload", "name")
LISTS = ("input", "output", "attribute")


def test_records_hold_what_the_messages_do() -> None:
    nodes = [
        node("Conv", "x w", "c", pads=[1, 1, 1, 1]),
        node("Binarizer", "c", "b", domain="ai.onnx.ml", threshold=0.5),
        node("Reshape", "b shape", "y"),
    ]
    imports = [helper.make_opsetid("ai.onnx.ml", 3)]
    constants = [weight("w", 2, 1, 3, 3), constant("shape", [0, -1])]
    flow = load(model(nodes, [value("x", ("N", 1, 4, 4))], [value("y", ("N", 32))], constants, imports=imports)).flow
    for record, message in zip(flow.nodes, flow.graph.node, strict=True):
        assert record.proto is message or record.proto == message
        assert [getattr(record, name) for name in FIELDS] == [getattr(message, name) for name in FIELDS]
        assert [list(getattr(record, name)) for name in LISTS] == [list(getattr(message, name)) for name in LISTS]
    assert flow.operators == {"Conv", "Binarizer", "Reshape"}


def test_records_keep_what_was_read() -> None:
    graph = model([node("Relu", "x", "y")], [value("x")], [value("y")]).graph
    flow = Dataflow(graph)
    graph.node[0].op_type = "Sigmoid"
    assert (flow.nodes[0].op_type, flow.nodes[0].proto.op_type) == ("Relu", "Sigmoid")


def test_a_record_tells_overloads_apart() -> None:
    message = node("Twice", "x", "y", domain="local")
    message.overload = "fast"
    assert (Node.of(message).domain, Node.of(message).overload) == ("local", "fast")
