"""Shapes that are inferred part by part are those that are inferred at once."""

import itertools

import onnx
import pytest
from graphs import model, node, value, weight
from onnx import TensorProto, helper
from places import ROOT

from onnxinfo import ModelError, list_layers
from onnxinfo.graph import inference_parts
from onnxinfo.graph.inference import infer_shapes

MODELS = sorted((ROOT / "models").glob("*.onnx"))


def types_of(graph):
    """Types of all values by name, also of those in bodies, without onnx's names for unknown sizes."""
    found = {}
    for each in (*graph.input, *graph.value_info, *graph.output):
        type = onnx.TypeProto.FromString(each.type.SerializeToString())
        inference_parts._forget_invented(type)
        found[each.name] = type.SerializeToString(deterministic=True)
    for i, each in enumerate(graph.node):
        for attribute in each.attribute:
            for body in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                found.update({(i, attribute.name, name): type for name, type in types_of(body).items()})
    return found


def compared(proto, monkeypatch, length):
    """Infer at once and in parts of some length, and compare."""
    at_once = infer_shapes(proto)
    with monkeypatch.context() as patched:
        patched.setattr(inference_parts, "_starts", lambda graph: list(range(0, len(graph.node), length)))
        in_parts = infer_shapes(proto)
    assert types_of(in_parts.graph) == types_of(at_once.graph)
    assert [each.name for each in in_parts.graph.node] == [each.name for each in at_once.graph.node]
    for name in ("input", "initializer", "output"):
        names = [[each.name for each in getattr(found.graph, name)] for found in (in_parts, at_once)]
        assert names[0] == names[1]
    return at_once


@pytest.mark.parametrize("length", [1, 3])
@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_models_have_the_same_shapes(path, length, monkeypatch):
    proto = onnx.load(path)
    del proto.graph.value_info[:]
    found = compared(proto, monkeypatch, length)
    assert found.graph.value_info


def loop(names, tag=""):
    """A Loop that applies a product to the first name, and reads the others from outside."""
    step = [value(tag + "before", ()), value(tag + "a"), value(tag + "after", ())]
    step[0].type.tensor_type.elem_type = step[2].type.tensor_type.elem_type = TensorProto.BOOL
    nodes = [node("Identity", tag + "before", tag + "after"), node("MatMul", f"{tag}a w", tag + "b")]
    nodes.append(helper.make_node("Sum", [tag + "b", *names[1:]], [tag + "c"]))
    turn = helper.make_tensor_value_info(tag + "i", TensorProto.INT64, ())
    return helper.make_graph(nodes, tag + "body", [turn, *step[:2]], [step[2], value(tag + "c")])


def loops(number):
    names = ["x", *(f"v{i}" for i in range(1, number)), "y"]
    nodes = [
        helper.make_node("Loop", ["n", "c", a], [b], name=b, body=loop([a, "x"], b))
        for a, b in itertools.pairwise(names)
    ]
    stored = [
        weight("w", 4, 4),
        helper.make_tensor("n", TensorProto.INT64, [], [2]),
        helper.make_tensor("c", TensorProto.BOOL, [], [1]),
    ]
    return model(nodes, [value("x")], [value("y")], stored)


def test_bodies_have_the_same_shapes(monkeypatch):
    compared(loops(5), monkeypatch, 2)


def test_sizes_are_computed_from_constants_of_earlier_parts(monkeypatch):
    shape = helper.make_tensor("s", TensorProto.INT64, [2], [2, -1])
    nodes = [helper.make_node("Constant", [], ["s"], value=shape), node("Relu", "x", "h"), node("Reshape", "h s", "r")]
    nodes += [node("NonZero", "r", "z"), node("Transpose", "z", "t"), node("Reshape", "x two", "y")]
    two = helper.make_tensor("two", TensorProto.INT64, [2], [-1, 2])
    found = compared(model(nodes, [value("x")], [value("y")], [two]), monkeypatch, 1)
    (reshaped,) = [each for each in found.graph.value_info if each.name == "r"]
    assert reshaped.type.tensor_type.shape.dim[0].dim_value == 2


def test_unknown_sizes_of_two_parts_have_no_name_in_common(monkeypatch):
    nodes = [node("NonZero", "x", "z"), node("Relu", "x", "h"), node("NonZero", "h", "y")]
    proto = model(nodes, [value("x")], [helper.make_tensor_value_info("y", TensorProto.INT64, None)])
    monkeypatch.setattr(inference_parts, "_starts", lambda graph: [0, 2])
    graph = infer_shapes(proto).graph
    found = {each.name: each.type.tensor_type.shape.dim for each in (*graph.value_info, *graph.output)}
    assert [len(found[name]) for name in "zy"] == [2, 2]
    names = [found[name][1].dim_param for name in "zy"]
    assert names == ["", ""], "the number of entries that are not zero is unknown, and not the same"


def test_many_bodies_are_inferred_in_parts(monkeypatch):
    """Each part copies a bounded number of types, whatever the number of bodies."""
    lengths = []
    infer = onnx.shape_inference.infer_shapes
    monkeypatch.setattr(
        onnx.shape_inference, "infer_shapes", lambda m: (lengths.append(len(m.graph.node)), infer(m))[1]
    )
    monkeypatch.setattr(inference_parts, "_MOST_IN_A_PART", 100)
    infer_shapes(loops(40))
    assert sum(lengths) == 40
    assert max(lengths) <= 10
    lengths.clear()
    infer_shapes(onnx.load(MODELS[0]))
    assert len(lengths) == 1


def test_bodies_within_bodies_are_counted_first(monkeypatch):
    inner = loop(["inner"], "inner")
    outer = loop(["x"], "outer")
    outer.node.insert(2, helper.make_node("Loop", ["n", "c", "outera"], ["d"], body=inner))
    nodes = [helper.make_node("Loop", ["n", "c", "x"], ["y"], body=outer)]
    stored = [*loops(1).graph.initializer]
    proto = model(nodes, [value("x")], [value("y")], stored)
    assert "y" in {layer.name for layer in list_layers(proto)}
    # 4 outside, 3 inputs of the body and 2 results before the inner body.
    monkeypatch.setattr(inference_parts, "_MOST_WITHIN_BODIES", 9)
    assert list_layers(proto)
    monkeypatch.setattr(inference_parts, "_MOST_WITHIN_BODIES", 8)
    with pytest.raises(ModelError, match=r"contain others that could use 9 values in all, expected at most 8"):
        list_layers(proto)
