"""Surgery: original outputs keep every bit, parts compose to the whole, and results are valid models."""

from __future__ import annotations

import graphs
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from onnxinfo import ModelError, UsageError, expose, extract, load
from onnxinfo.graph.surgery import expose_only
from onnxinfo.torch_graph.runtime import Session

UNARY = ("Relu", "Tanh", "Sigmoid", "Abs", "Neg", "Softplus", "Identity", "Transpose2")
BINARY = ("Add", "Mul", "Sub", "Max", "MatMul")


def names(values):
    return [value.name for value in values]


def valid(model):
    onnx.checker.check_model(model.proto, full_check=True)
    return model


def assert_same(actual, expected):
    for name, array in expected.items():
        np.testing.assert_array_equal(actual[name], array, err_msg=name)


@st.composite
def random_models(draw):
    """Graphs of square matrices: every operator takes any values, so every graph is valid."""
    known = ["x", "z", "w"]
    nodes = []
    for i in range(draw(st.integers(1, 12))):
        op = draw(st.sampled_from(UNARY + BINARY))
        operands = [draw(st.sampled_from(known)) for _ in range(1 if op in UNARY else 2)]
        attributes = {"perm": [1, 0]} if op == "Transpose2" else {}
        nodes.append(helper.make_node(op.removesuffix("2"), operands, [f"t{i}"], **attributes))
        known.append(f"t{i}")
    computed = known[3:]
    outputs = draw(st.lists(st.sampled_from(computed), min_size=1, max_size=3, unique=True))
    return graphs.model(
        nodes,
        [graphs.value("x", (4, 4)), graphs.value("z", (4, 4))],
        [graphs.value(name, (4, 4)) for name in outputs],
        [graphs.weight("w", 4, 4)],
    )


@settings(max_examples=60, deadline=None)
@given(random_models(), st.data())
def test_random_graphs(proto, data):
    """Outputs are bitwise identical with anything exposed; the parts before and after a cut compose to the whole."""
    values = graphs.feeds(proto)
    before = Session(proto).run(values)
    computed = [name for node in proto.graph.node for name in node.output]
    chosen = data.draw(st.lists(st.sampled_from([*computed, "x", "w"]), max_size=6))
    exposed = valid(expose(proto, chosen))
    everything = Session(exposed).run(values)
    assert_same(everything, before)
    assert names(exposed.proto.graph.output) == list(dict.fromkeys([*before, *chosen]))
    wanted = list(before)
    cut = []
    for name in dict.fromkeys(chosen):
        if name not in wanted and depends(proto, wanted, *cut, name):
            cut.append(name)
    if cut:
        head, tail = valid(expose_only(proto, cut)), valid(extract(proto, cut, wanted))
        middle = Session(head).run(values)
        after = {name: array for name, array in (values | middle).items() if name in names(tail.proto.graph.input)}
        assert_same(Session(tail).run(after), before)


def depends(proto, outputs, *cut):
    """Whether the outputs need each of the tensors, given the others."""
    try:
        extract(proto, [*cut], outputs)
    except UsageError:
        return False
    return True


def test_expose_adds_outputs_with_types_and_shapes():
    proto = graphs.residual_net()
    exposed = valid(expose(proto, ["block", "a", "block", "logits"]))
    assert names(exposed.proto.graph.output) == ["logits", "block", "a"]
    dims = exposed.proto.graph.output[1].type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in dims] == ["N", 8, 6, 6]
    assert exposed.proto.graph.node == load(proto).proto.graph.node
    assert exposed.sha256 == load(proto).sha256


def test_expose_leaves_its_argument_alone():
    model = load(graphs.residual_net())
    before = model.proto.SerializeToString()
    expose(model, ["block"])
    expose_only(model, ["a"])
    extract(model, ["a"], ["logits"])
    assert model.proto.SerializeToString() == before


def test_inputs_and_initializers_as_outputs():
    exposed = valid(expose(graphs.residual_net(), ["x", "fc.w"]))
    values = graphs.feeds(graphs.residual_net())
    found = Session(exposed).run(values)
    np.testing.assert_array_equal(found["x"], values["x"])
    assert found["fc.w"].shape == (8, 5)


def test_expose_only_keeps_what_is_needed():
    proto = graphs.residual_net()
    part = valid(expose_only(proto, ["sum", "stem"]))
    graph = part.proto.graph
    assert names(graph.output) == ["sum", "stem"]
    assert names(graph.input) == ["x"]
    assert [node.output[0] for node in graph.node] == [n.output[0] for n in proto.graph.node[:7]]
    assert {t.name for t in graph.initializer} == {
        n for n in names(proto.graph.initializer) if n[:2] in ("st", "bn", "a.", "b.")
    }
    assert not {"pool", "flat", "sum", "x"} & set(names(graph.value_info))
    values = graphs.feeds(proto)
    whole = Session(expose(proto, ["sum", "stem"])).run(values)
    assert_same(Session(part).run(values), {name: whole[name] for name in ("sum", "stem")})


def test_expose_only_keeps_unused_graph_inputs_in_order():
    nodes = [graphs.node("Relu", "b", "y"), graphs.node("Add", "a c", "z")]
    proto = graphs.model(nodes, [graphs.value(n) for n in "abc"], [graphs.value("y"), graphs.value("z")])
    assert names(valid(expose_only(proto, ["y"])).proto.graph.input) == ["a", "b", "c"]
    assert names(valid(extract(proto, [], ["y"])).proto.graph.input) == ["b"]


def test_graph_inputs_that_are_initializers_too():
    nodes = [graphs.node("Add", "x w", "h"), graphs.node("Mul", "h v", "y")]
    inputs = [graphs.value("x"), graphs.value("w", (4,)), graphs.value("v", (4,))]
    weights = [graphs.weight("w", 4), graphs.weight("v", 4)]
    proto = graphs.model(nodes, inputs, [graphs.value("y")], weights)
    part = valid(expose_only(proto, ["h"])).proto.graph
    assert (names(part.input), names(part.initializer)) == (["x", "w"], ["w"])
    tail = valid(extract(proto, ["w"], ["y"])).proto.graph
    assert (names(tail.input), names(tail.initializer)) == (["w", "x", "v"], ["v"])


def test_extract():
    proto = graphs.residual_net()
    values = graphs.feeds(proto)
    middle = Session(expose(proto, ["a", "stem"])).run(values)
    part = valid(extract(proto, ["stem", "a"], ["block"]))
    assert names(part.proto.graph.input) == ["stem", "a"]
    found = Session(part).run({name: middle[name] for name in ("stem", "a")})
    np.testing.assert_array_equal(found["block"], Session(expose(proto, ["block"])).run(values)["block"])


def test_extract_keeps_graph_inputs_that_are_needed_besides():
    nodes = [graphs.node("Relu", "x", "h"), graphs.node("Add", "h z", "y"), graphs.node("Abs", "u", "v")]
    inputs = [graphs.value(name) for name in "uzx"]
    proto = graphs.model(nodes, inputs, [graphs.value("y"), graphs.value("v")])
    assert names(extract(proto, ["h"], ["y"]).proto.graph.input) == ["h", "z"]
    assert names(extract(proto, ["h"], ["y", "h"]).proto.graph.output) == ["y", "h"]


SEVERAL_OUTPUTS = {
    "Split": ([helper.make_node("Split", ["x"], ["a", "b"], axis=1, num_outputs=2)], [], 4),
    "LSTM": (
        [
            helper.make_node("Unsqueeze", ["x", "zero"], ["steps"]),
            helper.make_node("LSTM", ["steps", "w", "r"], ["h", "last", "b3"], hidden_size=2),
            helper.make_node("Squeeze", ["last", "zero"], ["a"]),
            helper.make_node("Squeeze", ["b3", "zero"], ["b"]),
        ],
        [graphs.weight("w", 1, 8, 4), graphs.weight("r", 1, 8, 2), graphs.constant("zero", [0])],
        4,
    ),
    "LayerNormalization": (
        [helper.make_node("LayerNormalization", ["x", "scale"], ["a", "b"], axis=1)],
        [graphs.weight("scale", 4)],
        4,
    ),
    "TopK": ([helper.make_node("TopK", ["x", "two"], ["a", "i"], axis=1), helper.make_node("Cast", ["i"], ["b"], to=1)],
             [graphs.constant("two", [2])], 4),
}  # fmt: skip


@pytest.mark.parametrize(
    ("operator", "cut"),
    [("Split", "a"), ("Split", "b"), ("LSTM", "last"), ("LayerNormalization", "a"), ("TopK", "a"), ("TopK", "i")],
)
def test_one_output_of_a_node_becomes_an_input(operator, cut):
    nodes, constants, size = SEVERAL_OUTPUTS[operator]
    nodes = [*nodes, helper.make_node("Mul", ["a", "b"], ["y"])]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    proto = graphs.model(nodes, [graphs.value("x", ("N", size))], [output], constants)
    values = graphs.feeds(proto)
    whole = Session(expose(proto, [cut])).run(values)
    part = valid(extract(proto, [cut], ["y"]))
    assert names(part.proto.graph.input) == [cut, "x"]
    np.testing.assert_array_equal(Session(part).run({cut: whole[cut], "x": values["x"]})["y"], whole["y"])
    other = Session(part).run({cut: whole[cut] + 1, "x": values["x"]})["y"]
    assert not np.array_equal(other, whole["y"])


def test_values_captured_by_branches():
    proto = graphs.branch_model()
    values = graphs.feeds(proto)
    whole = Session(expose(proto, ["hidden"])).run(values)
    part = expose_only(proto, ["y"])
    assert [node.output[0] for node in part.proto.graph.node] == ["hidden", "half", "total", "positive", "y"]
    np.testing.assert_array_equal(Session(part).run(values)["y"], whole["y"])
    tail = extract(proto, ["hidden"], ["y"])
    assert names(tail.proto.graph.input) == ["hidden", "x"]
    found = Session(tail).run({"hidden": whole["hidden"], "x": values["x"]})
    np.testing.assert_array_equal(found["y"], whole["y"])


def test_names_that_a_body_defines_itself_are_not_captured():
    body = helper.make_graph(
        [graphs.node("Add", "state unneeded", "next"), graphs.node("Identity", "condition", "again")],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("condition", TensorProto.BOOL, []),
            graphs.value("state"),
        ],
        [helper.make_tensor_value_info("again", TensorProto.BOOL, []), graphs.value("next")],
        [graphs.constant("unneeded", [1, 1, 1, 1], np.float32)],
    )
    nodes = [graphs.node("Abs", "x", "other"), graphs.node("Loop", "three on x", "y", body=body)]
    weights = [graphs.constant("three", 3), graphs.constant("on", True, bool)]
    proto = graphs.model(nodes, [graphs.value("x")], [graphs.value("y"), graphs.value("other")], weights)
    assert [node.op_type for node in expose_only(proto, ["y"]).proto.graph.node] == ["Loop"]


def test_functions_are_kept_where_they_are_called():
    proto = graphs.function_model()
    values = graphs.feeds(proto)
    exposed = valid(expose(proto, ["h"]))
    assert len(exposed.proto.functions) == 2
    assert_same(Session(exposed).run(values), Session(proto).run(values))
    assert len(valid(extract(proto, ["h"], ["y"])).proto.functions) == 2
    assert not expose_only(proto, ["x"]).proto.functions


def test_sparse_initializers_are_kept():
    sparse = helper.make_sparse_tensor(
        helper.make_tensor("s", TensorProto.FLOAT, [1], [2.0]),
        helper.make_tensor("s_indices", TensorProto.INT64, [1], [3]),
        [4],
    )
    proto = graphs.model(
        [graphs.node("Add", "x s", "h"), graphs.node("Relu", "h", "y")], [graphs.value("x")], [graphs.value("y")]
    )
    proto.graph.sparse_initializer.append(sparse)
    values = graphs.feeds(proto)
    found = Session(expose_only(proto, ["h"])).run(values)["h"]
    np.testing.assert_array_equal(found, values["x"] + np.array([0, 0, 0, 2], np.float32))
    assert not extract(proto, ["h"], ["y"]).proto.graph.sparse_initializer


@pytest.mark.parametrize(
    ("name", "hint"),
    [("blok", "'block'"), ("", "list the layers"), ("then", "inside the body"), ("no\nsuch", "list the layers")],
)
def test_tensors_that_are_not_there(name, hint):
    proto = graphs.branch_model() if name == "then" else graphs.residual_net()
    for act in (expose, expose_only, lambda p, n: extract(p, n, ["y" if name == "then" else "logits"])):
        with pytest.raises(UsageError, match=r"no tensor") as caught:
            act(proto, [name])
        assert hint in str(caught.value)
        assert "\n" not in str(caught.value)


def test_an_output_that_does_not_depend_on_the_input():
    with pytest.raises(UsageError, match="depends on input 'block'"):
        extract(graphs.residual_net(), ["block"], ["a"])


def test_a_tensor_of_unknown_type():
    imports = [helper.make_opsetid("mine", 1)]
    nodes = [graphs.node("Mystery", "x", "h", domain="mine"), graphs.node("Relu", "h", "y")]
    proto = graphs.model(nodes, [graphs.value("x")], [graphs.value("y")], imports=imports)
    with pytest.raises(ModelError, match="type of tensor 'h' is not known"):
        expose(proto, ["h"])


def test_a_tensor_that_is_no_tensor():
    nodes = [graphs.node("SequenceConstruct", "x x", "s"), graphs.node("ConcatFromSequence", "s", "y", axis=0)]
    proto = graphs.model(nodes, [graphs.value("x")], [graphs.value("y")])
    exposed = valid(expose(proto, ["s"]))
    assert exposed.proto.graph.output[1].type.HasField("sequence_type")
    assert len(Session(exposed).run(graphs.feeds(proto))["s"]) == 2
