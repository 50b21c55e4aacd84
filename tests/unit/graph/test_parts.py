"""Parts of layers: entries as numpy indexes them, and a graph that computes the same as before."""

from __future__ import annotations

import dataclasses

import graphs
import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

import onnxinfo
from onnxinfo import UsageError, list_layers, load
from onnxinfo.graph.layers import choose_layers
from onnxinfo.graph.parts import existing_parts, parse_part, through_parts, whole_layers, with_parts
from onnxinfo.metrics.batch_axes import sample_axes
from onnxinfo.models import path
from onnxinfo.torch_graph.runtime import Session

SIZES = (5, 4, 3)


def small(opset: int = 20, dims: tuple[object, ...] = ("N", *SIZES)) -> onnx.ModelProto:
    """``y`` is Relu of ``x``, and ``z`` reads it; ``logits`` is an output."""
    nodes = [graphs.node("Relu", "x", "y"), graphs.node("Neg", "y", "z"), graphs.node("Exp", "z", "logits")]
    return graphs.model(nodes, [graphs.value("x", dims)], [graphs.value("logits", dims)], opset=opset)


def computed(model, names, x):
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    onnx.checker.check_model(proto, full_check=True)
    outputs = [output.name for output in proto.graph.output]
    added = [name for name in names if name not in outputs]
    proto.graph.output.extend(value for value in proto.graph.value_info if value.name in added)
    proto.graph.output.extend(graphs.value(name, None) for name in added if name not in _declared(proto))
    return Session(dataclasses.replace(model, proto=proto)).run({"x": x})


def _declared(proto):
    return {value.name for value in proto.graph.value_info}


@st.composite
def indices(draw, steps: bool = True):
    """Texts of indices that take at least one entry of each axis."""
    found = []
    for size in SIZES[: draw(st.integers(1, len(SIZES)))]:
        if draw(st.booleans()):
            found.append(str(draw(st.integers(-size, size - 1))))
            continue
        start = draw(st.integers(0, size - 1))
        stop = draw(st.integers(start + 1, size + 2))
        texts = [draw(st.sampled_from([str(start), str(start - size)])), draw(st.sampled_from([str(stop), ""]))]
        texts[0] = "" if start == 0 else texts[0]
        found.append(":".join([*texts, str(draw(st.integers(1, 3)))] if steps and draw(st.booleans()) else texts))
    return ",".join(found)


def expected(array, text):
    """Entries along all axes, of which numpy would drop those with one integer."""
    for axis, each in enumerate(text.split(","), 1):
        chosen = eval(f"np.arange({array.shape[axis]})[{each}]")
        array = np.take(array, np.atleast_1d(chosen), axis)
    return array


X = np.random.default_rng(0).standard_normal((2, *SIZES)).astype(np.float32)


@settings(max_examples=40, deadline=None)
@given(st.lists(indices(), min_size=1, max_size=3, unique=True))
def test_a_part_has_the_entries_of_numpy(texts):
    names = [f"y[{text}]" for text in texts]
    found = computed(with_parts(load(small()), names), ["y", *names], X)
    for name, text in zip(names, texts, strict=True):
        np.testing.assert_array_equal(found[name], expected(found["y"], text))
    np.testing.assert_array_equal(found["logits"], computed(load(small()), [], X)["logits"])


@settings(max_examples=40, deadline=None)
@given(st.lists(indices(steps=False), min_size=1, max_size=3, unique=True))
def test_a_layer_put_together_again_is_the_same(texts):
    names = [f"y[{text}]" for text in texts]
    model = through_parts(load(small()), names)
    before, found = computed(load(small()), ["y"], X), computed(model, ["y", *names], X)
    np.testing.assert_array_equal(found["y"], before["y"])
    np.testing.assert_array_equal(found["logits"], before["logits"])
    for name, text in zip(names, texts, strict=True):
        np.testing.assert_array_equal(found[name], expected(before["y"], text))
        assert "logits" in model.flow.influenced(name)


@pytest.mark.parametrize("make", [with_parts, through_parts])
@pytest.mark.parametrize("patterns", [["logits[3]"], ["relu_1[5]", "relu_1[0:2,2:6,2:6]", "relu_3[-1]", "logits[3]"]])
def test_other_layers_stay_as_they_are(make, patterns):
    model = load(path("digits-cnn.onnx"))
    changed = make(model, patterns)
    listed, before = list_layers(changed), list_layers(model)
    assert listed[: len(before)] == before
    assert sorted(layer.name for layer in listed[len(before) :]) == sorted(patterns)
    assert not any(layer.default for layer in listed[len(before) :])
    again = whole_layers(changed)
    assert again.parts == {}
    assert again.proto.graph == model.proto.graph


def test_a_part_is_at_the_depth_of_its_layer():
    *_, part = list_layers(with_parts(load(path("digits-cnn.onnx")), "relu_1[5, 2:6]"))
    assert (part.name, part.depth, part.parameters, part.shape) == ("relu_1[5,2:6]", 2, 0, ("batch", 1, 4, 8))


def test_indices_of_layers_are_those_without_parts():
    model = with_parts(load(path("digits-cnn.onnx")), ["logits[3]"])
    _, chosen = choose_layers(model, ["image"], ["-1", "logits[ 3 ]"])
    assert [layer.name for layer in chosen] == ["logits", "logits[3]"]


def test_the_oldest_form_of_slice():
    found = computed(with_parts(load(small(opset=9)), "y[1,:2]"), ["y", "y[1,:2]"], X)
    np.testing.assert_array_equal(found["y[1,:2]"], found["y"][:, 1:2, :2])
    with pytest.raises(UsageError, match="opset 10 or newer expected for a step, the model has 9"):
        with_parts(load(small(opset=9)), "y[::2]")


def test_samples_along_another_axis():
    dims = ("time", "batch", 3)
    model = dataclasses.replace(load(small(dims=dims)), batch_axes={"x": 1})
    x = X[0, :, :, :3]
    found = computed(with_parts(model, ["y[2,1]"]), ["y", "y[2,1]"], x)
    np.testing.assert_array_equal(found["y[2,1]"], found["y"][2:3, :, 1:2])


def test_a_model_without_samples_along_an_axis():
    model = dataclasses.replace(load(small(dims=SIZES)), batch_axes={"x": -1})
    found = computed(with_parts(model, ["y[4,1]"]), ["y", "y[4,1]"], X[0])
    np.testing.assert_array_equal(found["y[4,1]"], found["y"][4:5, 1:2])


@pytest.mark.parametrize("make", [with_parts, through_parts])
@pytest.mark.parametrize(("text", "place"), [("0", np.s_[:, :1]), ("-1", np.s_[:, -1:]), ("1:-1", np.s_[:, 1:-1])])
def test_an_axis_of_open_size(make, text, place):
    model = make(load(small(dims=("N", "steps", 3))), f"y[{text}]")
    for steps in (3, 4):
        found = computed(model, ["y", f"y[{text}]"], X[:, :steps, 0])
        np.testing.assert_array_equal(found[f"y[{text}]"], found["y"][place])


def test_a_tensor_of_that_name_is_no_part():
    nodes = [graphs.node("Relu", "x", "y"), helper.make_node("Neg", ["y"], ["y[0]"])]
    model = load(graphs.model(nodes, [graphs.value("x")], [graphs.value("y[0]")]))
    assert with_parts(model, ["y[0]"]) is model
    _, chosen = choose_layers(model, ["x"], ["y[0]"])
    assert [layer.op for layer in chosen] == ["Neg"]


def test_globs_and_expressions_are_no_parts():
    model = load(path("digits-cnn.onnx"))
    for pattern in ("relu_[12]", "re:relu_1[5]", "op:Relu[5]", "add_[!1]", "getitem[_3]*", "unknown[3]"):
        assert with_parts(model, [pattern]) is model


def test_a_part_is_added_once():
    model = with_parts(load(small()), ["y[0]", "y[ 0 ]"])
    assert [*model.parts] == ["y[0]"]
    assert with_parts(model, ["y[0]"]) is model
    assert {**with_parts(model, ["y[0]", "z[0]"]).parts} == {"y[0]": "y", "z[0]": "z"}


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("y[5]", r"index 5 is out of range along axis 1 of 'y', which has 5 entries; give -5 to 4"),
        ("y[-6]", r"index -6 is out of range"),
        ("y[0,0,0,0]", r"has 4 indices, and 'y' has 3 axes besides that of the samples \(5x4x3\); give fewer"),
        ("y[3:3]", r"a slice is empty along axis 1 of 'y', which has 5 entries"),
        ("y[7:]", r"a slice is empty"),
        ("y[::0]", r"a step of at least 1 expected"),
        ("y[::-1]", r"a step of at least 1 expected"),
        ("y[cat]", r"consists of integers and slices, as in 'y\[3\]'"),
        ("y[]", r"consists of integers and slices"),
        ("y[1,,2]", r"consists of integers and slices"),
        ("y[1.5]", r"consists of integers and slices"),
        ("y[:::]", r"consists of integers and slices"),
    ],
)
def test_what_does_not_exist_is_refused_in_a_line(pattern, message):
    with pytest.raises(UsageError, match=message) as caught:
        with_parts(load(small()), [pattern])
    assert "\n" not in str(caught.value)


def test_nothing_follows_from_every_other_entry():
    with pytest.raises(UsageError, match="only if it has no step"):
        through_parts(load(small()), "y[::2]")


def test_a_tensor_of_unknown_rank():
    model = graphs.model(
        [graphs.node("Reshape", "x shape", "y"), graphs.node("Relu", "y", "z")],
        [graphs.value("x"), graphs.value("shape", ("k",), TensorProto.INT64)],
        [graphs.value("z", None)],
    )
    with pytest.raises(UsageError, match="the number of axes of 'y' is not known"):
        with_parts(load(model), "y[0]")


def test_names_of_a_run_that_are_no_parts_of_the_model():
    model = load(small())
    assert existing_parts(model, ["y[0]", "y[9]", "w[0]", "y", "y[a]", "y[ 1 ]", "y[::0]"]) == ["y[0]"]


def test_spaces():
    part = parse_part("relu [ 5, 2 : 6 ]")
    assert part is not None
    assert (part.name, part.tensor) == ("relu[5,2:6]", "relu")


def test_the_samples_axis_of_a_tensor_without_names_is_found_by_trial():
    """Time comes first inside, and no axis has a name."""
    nodes = [graphs.node("Transpose", "x", "y", perm=[1, 0, 2]), graphs.node("Relu", "y", "z")]
    proto = graphs.model(nodes, [graphs.value("x", (None, None, 3))], [graphs.value("z", (None, None, 3))])
    model = load(proto)
    assert sample_axes(model, ["y"]) == {"y": 1}
    found = computed(with_parts(model, ["y[-1]"], sample_axes(model, ["y"])), ["y", "y[-1]"], X[:, :, 0])
    np.testing.assert_array_equal(found["y[-1]"], found["y"][-1:])


def test_parts_are_exposed_extracted_and_converted_as_they_are_analyzed():
    """Time comes first inside, and no axis has a name: only a trial tells that the part is of the time axis."""
    nodes = [graphs.node("Transpose", "x", "y", perm=[1, 0, 2]), graphs.node("Relu", "y", "z")]
    proto = graphs.model(nodes, [graphs.value("x", (None, None, 3))], [graphs.value("z", (None, None, 3))])
    x, wanted = X[:, :, 0], X[:, :, 0].transpose(1, 0, 2)[-1:, :, :2]
    names = ["z", "y[ -1, :2]", "y[-1,:2]"]
    exposed, extracted = onnxinfo.expose(proto, names), onnxinfo.extract(proto, "y", names[:2])
    assert not exposed.parts
    for model, feeds in ((exposed, {"x": x}), (extracted, {"y": x.transpose(1, 0, 2)})):
        onnx.checker.check_model(model.proto, full_check=True)
        found = Session(model).run(feeds)
        assert [*found] == ["z", "y[-1,:2]"]
        np.testing.assert_array_equal(found["y[-1,:2]"], wanted)
    for converted in onnxinfo.convert(proto, names)(torch.from_numpy(x))[1:]:
        np.testing.assert_array_equal(converted.numpy(), wanted)
    (alone,) = onnxinfo.convert(exposed, "y[-1,:2]")(torch.from_numpy(x))
    np.testing.assert_array_equal(alone.numpy(), wanted)


@pytest.mark.parametrize(
    "do", [onnxinfo.expose, onnxinfo.convert, lambda model, name: onnxinfo.extract(model, [], name)]
)
def test_parts_that_do_not_exist_are_refused(do):
    with pytest.raises(UsageError, match=r"index 5 is out of range along axis 1 of 'y', which has 5 entries"):
        do(small(), "y[5]")
    with pytest.raises(UsageError, match=r"the index of a part consists of integers and slices"):
        do(small(), "y[cat]")
    with pytest.raises(UsageError, match=r"the graph has no tensor 'other\[5\]'"):
        do(small(), "other[5]")


def test_inputs_of_what_is_extracted_are_whole_tensors():
    with pytest.raises(UsageError, match=r"^'y\[0\]' is a part of 'y'; whole tensors expected as inputs$"):
        onnxinfo.extract(small(), ["y[0]"], ["z"])


def test_no_trial_where_names_tell_the_axis_or_none_is_possible():
    assert sample_axes(load(small()), ["y"]) == {}
    assert sample_axes(load(small(dims=(2, *SIZES))), ["y"]) == {}


def test_a_model_without_onnx_s_own_operators_has_no_parts():
    scaler = helper.make_node("Scaler", ["x"], ["y"], domain="ai.onnx.ml", offset=[0.0], scale=[1.0])
    graph = helper.make_graph([scaler], "g", [graphs.value("x", ("N", 3))], [graphs.value("y", ("N", 3))])
    model = load(helper.make_model(graph, opset_imports=[helper.make_opsetid("ai.onnx.ml", 3)], ir_version=10))
    with pytest.raises(UsageError, match=r"'y\[1\]': the model imports none of ONNX's own operators"):
        with_parts(model, ["y[1]"])


def test_brackets_without_an_index_are_a_glob_if_that_matches():
    nodes = [graphs.node("Relu", "x", "y"), graphs.node("Neg", "y", "ya")]
    model = load(graphs.model(nodes, [graphs.value("x", ("N", 3))], [graphs.value("ya", ("N", 3))]))
    assert not with_parts(model, ["y[ab]"]).parts
    with pytest.raises(UsageError, match="the index of a part consists of integers and slices"):
        with_parts(model, ["y[cd]"])
