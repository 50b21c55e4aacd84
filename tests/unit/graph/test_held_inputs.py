"""Which float inputs hold data, and which are scalars, masks and states."""

from __future__ import annotations

from typing import Any

import onnx
import pytest
from graphs import constant, model, node, value, weight
from onnx import TensorProto, helper

import onnxinfo
from onnxinfo.errors import UsageError
from onnxinfo.graph.held_inputs import held_inputs


def with_inputs(second: str, output: str = "out", dims: Any = ("N", 4)) -> onnx.ModelProto:
    """A product of `x` plus another input, which is also returned."""
    nodes = [
        node("MatMul", "x w", "product"),
        helper.make_node("Add", ["product", second], ["y"]),
        helper.make_node("Tanh", [second], [output]),
    ]
    outputs = [value("y", ("N", 4)), value(output, dims)]
    return model(nodes, [value("x"), value(second, dims)], outputs, [weight("w", 4, 4)])


@pytest.mark.parametrize(
    ("name", "output", "kind"),
    [
        ("h", "hn", "state"),
        ("h0", "hN", "state"),
        ("state", "stateN", "state"),
        ("hidden_in", "hidden_out", "state"),
        ("past_key_values.0.key", "present.0.key", "state"),
        ("past_key_values.0.value", "out", "state"),
        ("past", "out", ""),
        ("past_values", "out", ""),
        ("key_past_features", "out", ""),
        ("conv_cache", "new_conv_cache", "state"),
        ("x_mask", "out", "mask"),
        ("attentionMask", "out", "mask"),
        ("image", "image_out", ""),
        ("sample", "out_sample", ""),
        ("encoder_hidden_states", "out", ""),
        ("hidden_size_ratio", "out", ""),
    ],
)
def test_names_tell_states_and_masks(name: str, output: str, kind: str) -> None:
    proto = with_inputs(name, output)
    flow = onnxinfo.load(proto).flow
    assert held_inputs(flow, ["x", name]) == ({name: kind} if kind else {})
    assert onnxinfo.perturbed_tensors(proto) == (["x"] if kind else ["x", name])


def test_single_numbers_are_scalars() -> None:
    assert onnxinfo.perturbed_tensors(with_inputs("rate", dims=(1,))) == ["x"]
    assert onnxinfo.perturbed_tensors(with_inputs("rate", dims=("N",))) == ["x", "rate"]


@pytest.mark.parametrize(("op", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_what_a_recurrent_layer_starts_from_is_a_state(op: str, gates: int) -> None:
    states = ["a", "b"][: 2 if op == "LSTM" else 1]
    nodes = [
        *(helper.make_node("Transpose", [name], [f"{name}t"], perm=[1, 0, 2]) for name in states),
        helper.make_node(op, ["x", "W", "R", "", "", *(f"{name}t" for name in states)], ["", "y"], hidden_size=3),
    ]
    inputs = [value("x", (5, "N", 2)), *(value(name, ("N", 1, 3)) for name in states)]
    proto = model(
        nodes, inputs, [value("y", (1, "N", 3))], [weight("W", 1, 3 * gates, 2), weight("R", 1, 3 * gates, 3)]
    )
    assert held_inputs(onnxinfo.load(proto).flow, ["x", *states]) == dict.fromkeys(states, "state")
    assert onnxinfo.perturbed_tensors(proto) == ["x"]


def attention(*, values: bool, layers: int = 2) -> onnx.ModelProto:
    """Attention with an additive term, or a softmax of scores that weighs nothing."""
    nodes = [node("Sub", "one keep", "off"), node("Mul", "off far", "term"), node("Unsqueeze", "term axis", "bias")]
    at = "x"
    for layer in range(layers):
        nodes += [
            node("MatMul", f"{at} wq", f"q{layer}"),
            node("Transpose", at, f"k{layer}", perm=[0, 2, 1]),
            node("MatMul", f"q{layer} k{layer}", f"s{layer}"),
            node("Mul", f"s{layer} half", f"scaled{layer}"),
            node("Add", f"scaled{layer} bias", f"masked{layer}"),
            node("Softmax", f"masked{layer}", f"p{layer}", axis=-1),
        ]
        if values:
            nodes.append(node("MatMul", f"p{layer} {at}", f"out{layer}"))
            at = f"out{layer}"
    outputs = [value(at if values else "p0", None)]
    given = [constant(name, number, "float32") for name, number in (("one", 1), ("far", -1e4), ("half", 0.5))]
    inputs = [value("x", ("N", 6, 4)), value("keep", ("N", 6))]
    return model(nodes, inputs, outputs, [*given, weight("wq", 4, 4), constant("axis", [1])])


def test_what_attention_adds_to_its_scores_is_a_mask() -> None:
    assert held_inputs(onnxinfo.load(attention(values=True)).flow, ["x", "keep"]) == {"keep": "mask"}
    # Without values to weigh, it is the bias of a classifier.
    assert held_inputs(onnxinfo.load(attention(values=False, layers=1)).flow, ["x", "keep"]) == {}


def test_states_are_perturbed_where_nothing_else_can_be() -> None:
    nodes = [node("MatMul", "h w", "hn")]
    proto = model(nodes, [value("h")], [value("hn", ("N", 4))], [weight("w", 4, 4)])
    assert onnxinfo.perturbed_tensors(proto) == ["h"]


def test_an_embedding_goes_before_a_state() -> None:
    nodes = [
        node("Gather", "table ids", "embedded"),
        node("Add", "embedded h", "sum"),
        node("MatMul", "sum w", "h_out"),
    ]
    inputs = [value("ids", ("N",), TensorProto.INT64), value("h")]
    proto = model(nodes, inputs, [value("h_out", ("N", 4))], [weight("table", 9, 4), weight("w", 4, 4)])
    assert onnxinfo.perturbed_tensors(proto) == ["embedded"]
    assert onnxinfo.perturbed_tensors(proto, ["h", "embedded"]) == ["h", "embedded"]


def test_the_former_function_returns_the_first() -> None:
    with pytest.warns(DeprecationWarning, match="'perturbed_tensor' is now 'perturbed_tensors'"):
        assert onnxinfo.perturbed_tensor(with_inputs("b")) == "x"
    with pytest.raises(UsageError, match="given twice"):
        onnxinfo.perturbed_tensors(with_inputs("b"), ["b", "b"])
