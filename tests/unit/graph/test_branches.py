"""Branches that a constant decides become part of the main graph, so that their layers have names."""

import numpy as np
import onnx
import pytest
from graphs import constant, model, node, value, weight
from onnx import TensorProto, helper

from onnxinfo import InputConfig, list_layers, load
from onnxinfo.errors import UnknownLayerError
from onnxinfo.graph.branches import layers_inside
from onnxinfo.graph.engine import Engine
from onnxinfo.graph.layers import choose_layers
from onnxinfo.workflows.open_model import open_model

WEIGHTS = [weight("w", 4, 4), weight("v", 4, 4)]
YES = node("Constant", "", "yes", value=constant("", True, bool))
RATES = [constant("low", 8000), constant("high", 16000)]


def body(name, *nodes, outputs, constants=()):
    return helper.make_graph(nodes, name, [], [value(each, None) for each in outputs], constants)


def branch(condition, then, other, outputs="y"):
    return node("If", condition, outputs, then_branch=then, else_branch=other)


def layer(matrix, result, source="x"):
    """A layer whose inner tensors have the same names in every branch."""
    return body(
        f"with {matrix}", *(node("MatMul", f"{source} {matrix}", "h"), node("Relu", "h", result)), outputs=[result]
    )


def by_rate(*, nested=False):
    other = layer("v", "b")
    if nested:
        inner = branch("is_low", layer("v", "deep"), layer("w", "deeper"), "c")
        other = body("others", node("Equal", "rate low", "is_low"), inner, node("MatMul", "c w", "b"), outputs=["b"])
    nodes = [node("Equal", "rate high", "is_high"), branch("is_high", layer("w", "a"), other)]
    inputs = [value("x"), value("rate", (), TensorProto.INT64)]
    return model(nodes, inputs, [value("y")], [*WEIGHTS, *RATES])


def listed(loaded):
    return {each.name: each.op for each in list_layers(loaded)}


def check_values(proto, loaded, **more):
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    (expected,), (found,) = Engine(proto).run({"x": x, **more}), Engine(loaded.proto).run({"x": x})
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("rate", "weights"), [(16000, "w"), (8000, "v")])
def test_a_set_scalar_decides(rate, weights):
    loaded = open_model(by_rate(), InputConfig(set={"rate": rate}))
    assert listed(loaded) == {"h": "MatMul", "y": "Relu"}
    assert loaded.proto.graph.node[-2].input[1] == weights
    check_values(by_rate(), loaded, rate=np.array(rate))


@pytest.mark.parametrize(("rate", "names"), [(8000, {"h", "c", "y"}), (4000, {"h", "c", "y"}), (16000, {"h", "y"})])
def test_branches_within_branches(rate, names):
    loaded = open_model(by_rate(nested=True), InputConfig(set={"rate": rate}))
    assert {name.removesuffix("_1") for name in listed(loaded)} == names
    check_values(by_rate(nested=True), loaded, rate=np.array(rate))


def test_an_open_choice_stays_and_says_what_decides_it():
    loaded = load(by_rate())
    assert listed(loaded) == {"y": "If"}
    assert layers_inside(loaded.flow, "x") == [
        "2 layers, 'h' to 'h', inside '/y' (If) not listed: which branch runs depends on set='rate=VALUE'; give it"
    ]


@pytest.mark.parametrize("pattern", ["h", "[gh]", "re:^h$", "op:MatMul"])
def test_a_layer_inside_an_open_choice_is_refused_with_the_reason(pattern):
    why = "^'h' is inside '/y' .If., whose layers are not listed: which branch runs depends on set='rate=VALUE'; give"
    with pytest.raises(UnknownLayerError, match=why):
        choose_layers(load(by_rate()), ["x"], [pattern])


@pytest.mark.parametrize("pattern", ["1", "4-5", "hh", "re:q"])
def test_other_unknown_layers_are_refused_as_before(pattern):
    with pytest.raises(UnknownLayerError, match=r"^no layer matches"):
        choose_layers(load(by_rate()), ["x"], [pattern])


def test_why_layers_inside_bodies_are_not_listed():
    nodes = [
        *(node("ReduceSum", "x", "total", keepdims=0), node("Greater", "total zero", "maybe")),
        branch("maybe", layer("w", "a"), body("else", node("Neg", "x", "n"), outputs=["n"]), "z"),
        *(node("Shape", "x", "sizes"), node("Gather", "sizes index", "size"), node("Equal", "size index", "none")),
        branch("none", layer("w", "c", "z"), layer("v", "d", "z")),
    ]
    loop = helper.make_graph(
        [node("MatMul", "state w", "next"), node("Identity", "going", "goes")], "loop",
        [value("i", (), TensorProto.INT64), value("going", (), TensorProto.BOOL), value("state", None)],
        [value("goes", (), TensorProto.BOOL), value("next", None)],
    )  # fmt: skip
    nodes += [node("Loop", "three always y", "last", body=loop)]
    constants = [*WEIGHTS, constant("zero", 0, np.float32), constant("index", 0), constant("three", 3)]
    proto = model(nodes, [value("x")], [value("last", None)], [*constants, constant("always", True, bool)])
    expected = ["'x', so that they exist for some samples", "sizes that the model leaves open", "each repetition"]
    found = layers_inside(load(proto).flow, "x")
    assert [number.split()[0] for number in found] == ["1", "2", "1"]
    assert all(words in line for words, line in zip(expected, found, strict=True))


def test_a_constant_decides():
    nodes = [
        YES,
        branch("yes", layer("w", "a"), layer("v", "b")),
    ]
    assert listed(load(model(nodes, [value("x")], [value("y")], WEIGHTS))) == {"h": "MatMul", "y": "Relu"}


def test_known_sizes_decide():
    """As written for ``squeeze`` by torch.onnx: a branch for axes of size 1, another for all others."""
    nodes = [
        *(node("Shape", "x", "sizes"), node("Gather", "sizes last", "size"), node("Equal", "size one", "single")),
        *(branch("single", body("then", node("Squeeze", "x axis", "s"), outputs=["s"]), layer("w", "b")),),
    ]
    constants = [*WEIGHTS, constant("last", -1), constant("one", 1), constant("axis", [1])]
    assert listed(load(model(nodes, [value("x")], [value("y", None)], constants))) == {"h": "MatMul", "y": "Relu"}
    open_sizes = model(nodes, [value("x", ("N", "M"))], [value("y", None)], constants)
    assert listed(load(open_sizes)) == {"y": "If"}


def test_sizes_of_inlined_tensors_decide_further_branches():
    first = body("first", node("MatMul", "x w", "h"), outputs=["h"])
    nodes = [
        YES,
        branch("yes", first, layer("v", "b"), "z"),
        *(node("Shape", "z", "sizes"), node("Gather", "sizes last", "size"), node("Equal", "size four", "fits")),
        branch("fits", layer("w", "c", "z"), layer("v", "d", "z")),
    ]
    constants = [*WEIGHTS, constant("last", [1]), constant("four", [4])]
    found = load(model(nodes, [value("x")], [value("y", None)], constants))
    assert sorted(node.op_type for node in found.proto.graph.node if node.op_type in ("If", "MatMul")) == ["MatMul"] * 2


def test_outputs_that_a_branch_does_not_compute_itself():
    """An outer value, and a constant of the branch."""
    nodes = [node("MatMul", "x w", "h"), node("Identity", "x", "same")]
    then = body("then", *nodes, outputs=["h", "same", "k"], constants=[constant("k", [2], np.float32)])
    copies = [node("Identity", "g", "g2"), node("Identity", "g", "g3")]
    other = body("else", node("MatMul", "x v", "g"), *copies, outputs=["g", "g2", "g3"])
    nodes = [
        *(YES, branch("yes", then, other, "a b c")),
        *(node("Add", "a b", "ab"), node("Mul", "ab c", "y")),
    ]
    proto = model(nodes, [value("x")], [value("y")], WEIGHTS)
    loaded = load(proto)
    assert not any(node.op_type == "If" for node in loaded.proto.graph.node)
    check_values(proto, loaded)


def test_a_name_that_another_branch_uses_is_changed():
    """Also where a body inside the branch reads the value."""
    inner = body("inner", node("Add", "h x", "r"), outputs=["r"])
    then = body("then", node("MatMul", "x w", "h"), branch("maybe", inner, inner, "q"), outputs=["q"])
    nodes = [
        *(node("ReduceSum", "x", "total", keepdims=0), node("Greater", "total zero", "maybe")),
        *(YES, branch("yes", then, layer("v", "b"), "a")),
        branch("yes", layer("v", "c", "a"), layer("w", "d")),
    ]
    proto = model(nodes, [value("x")], [value("y")], [*WEIGHTS, constant("zero", 0, np.float32)])
    loaded = load(proto)
    names = [name for each in loaded.proto.graph.node for name in each.output]
    assert len(set(names)) == len(names)
    check_values(proto, loaded)
    onnx.checker.check_model(loaded.proto)
