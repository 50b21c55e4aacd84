"""Inputs that are not just samples along a first axis: states, scalars, sequences with the steps first."""

import itertools
import json
import re

import graphs
import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

import onnxinfo
from onnxinfo.cli import cli, main
from onnxinfo.errors import InputError, ModelError, UsageError
from onnxinfo.graph.engine import Engine
from onnxinfo.torch_graph.precision import widened

STEPS, FEATURES, HIDDEN = 7, 3, 5
RUNS = itertools.count()


def values(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


X = values(3, STEPS, FEATURES)
IDS = np.random.default_rng(1).integers(0, 11, (3, STEPS))


def tensor(name, shape, element=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, element, shape)


def recurrent(x, *, op="LSTM", steps_first=True, states=(), scalar=None, ids=False, before=()):
    """A recurrent layer and a head; `x` names the axes of the input, `states` those of the layer's states."""
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[op]
    weights = {
        "W": values(1, gates * HIDDEN, FEATURES, seed=1),
        "R": values(1, gates * HIDDEN, HIDDEN, seed=2),
        "head": values(HIDDEN, 4, seed=3),
        "table": values(11, FEATURES, seed=4),
        "one": np.array([1]),
    }
    inputs = [tensor("x", x, TensorProto.INT64 if ids else TensorProto.FLOAT)]
    inputs += [tensor(name, shape) for name, shape in zip("hc", states, strict=False)]
    make, nodes, at = helper.make_node, [], "x"
    if before:
        nodes, at = [make("Transpose", ["x"], ["turned"], perm=list(before))], "turned"
    if ids:
        nodes.append(make("Gather", ["table", at], ["embedded"]))
        at = "embedded"
    if not steps_first:
        nodes.append(make("Transpose", [at], ["steps"], perm=[1, 0, 2]))
        at = "steps"
    operands = [at, "W", "R", "", "", *"hc"[: len(states)]]
    nodes += [make(op, operands, ["Y"], "layer", hidden_size=HIDDEN), make("Squeeze", ["Y", "one"], ["squeezed"])]
    at = "squeezed"
    if scalar is not None:
        inputs.append(tensor("rate", scalar, TensorProto.INT64))
        nodes += [make("Cast", ["rate"], ["rate_f"], to=TensorProto.FLOAT), make("Mul", [at, "rate_f"], ["scaled"])]
        at = "scaled"
    nodes += [make("Tanh", [at], ["state"]), make("MatMul", ["state", "head"], ["scores"])]
    graph = helper.make_graph(
        nodes, "g", inputs, [tensor("scores", None)], [numpy_helper.from_array(a, n) for n, a in weights.items()]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def sid(tmp_path, proto, inputs, **options):
    result = onnxinfo.analyze(
        proto, inputs, tmp_path / "a.h5", layers=["state", "scores"], run=f"run {next(RUNS)}", std=1.0, **options
    )
    with onnxinfo.open(result.archive) as archive:
        run = archive[result.run]
        return run.values("sid")["value"], run


@pytest.fixture(scope="module")
def batch_first(tmp_path_factory):
    """What the same network gives whose samples come first."""
    return sid(tmp_path_factory.mktemp("batch_first"), recurrent(["batch", "time", FEATURES], steps_first=False), X)[0]


@pytest.mark.parametrize(
    ("axes", "options"),
    [
        (["time", "batch", FEATURES], {}),
        (["T", "N", FEATURES], {}),
        (["sequence_length", "batch_size", FEATURES], {}),
        (["encoder.time", "other", FEATURES], {}),
        ([None, None, FEATURES], {}),
        ([STEPS, 1, FEATURES], {}),
        ([STEPS, 3, FEATURES], {}),
        ([STEPS, "batch", FEATURES], {}),
        (["a", "b", FEATURES], {"batch_axis": {"x": 1}}),
        ([None, None, FEATURES], {"batch_axis": "x=1"}),
    ],
)
def test_an_utterance_with_the_steps_first_is_one_sample(axes, options, tmp_path, batch_first):
    found, run = sid(tmp_path, recurrent(axes), X, **options)
    assert run.shape[1] == len(X)
    assert np.allclose(found, batch_first, atol=0.02)
    assert run.axes == ("time", "channel")


@pytest.mark.parametrize("op", ["GRU", "RNN"])
def test_other_recurrences_with_the_steps_first(op, tmp_path):
    expected, _ = sid(tmp_path, recurrent(["batch", "time", FEATURES], op=op, steps_first=False), X)
    found, _ = sid(tmp_path, recurrent([None, None, FEATURES], op=op), X)
    assert np.allclose(found, expected, atol=0.02)


def test_a_network_whose_samples_come_first_stays_as_it_is(tmp_path, batch_first):
    found, run = sid(tmp_path, recurrent([None, None, FEATURES], steps_first=False), X)
    assert run.shape[1] == len(X)
    assert np.array_equal(found, batch_first)


def test_ids_whose_embedding_has_the_steps_first(tmp_path):
    first = recurrent(["batch", "time"], ids=True, steps_first=False)
    options = {"input_tensor": "embedded"}
    run = onnxinfo.analyze(first, IDS, tmp_path / "a.h5", layers=["scores"], run="first", **options)
    turned = recurrent(["batch", "time"], ids=True, before=(1, 0))
    other = onnxinfo.analyze(turned, IDS, tmp_path / "a.h5", layers=["scores"], run="turned")
    raw = onnxinfo.analyze(
        recurrent(["time", "batch"], ids=True), IDS, tmp_path / "a.h5", layers=["scores"], run="steps first"
    )
    with onnxinfo.open(run.archive) as archive:
        expected, *found = [archive[each.run].values("sid")["value"] for each in (run, other, raw)]
        assert archive["turned"].axes == archive["first"].axes == ("position", "embedding")
    assert expected.shape == (1, 3)
    assert np.allclose(found, expected, atol=0.02)


STATES = [(1, "batch", HIDDEN), (1, "batch", HIDDEN)]


@pytest.mark.parametrize("axes", [(["time", "batch", FEATURES], STATES), ([STEPS, 1, FEATURES], [(1, 1, HIDDEN)] * 2)])
def test_states_and_scalars_are_set(axes, tmp_path, batch_first):
    proto = recurrent(axes[0], states=axes[1], scalar=[])
    found, run = sid(tmp_path, proto, X, set={"h": 0, "c": 0, "rate": 1})
    assert np.allclose(found, batch_first, atol=0.02)
    assert run.recipe["set"] == {"h": "0", "c": "0", "rate": "1"}


def test_what_is_set_counts(tmp_path, batch_first):
    proto = recurrent(["time", "batch", FEATURES], states=STATES, scalar=[])
    state = values(HIDDEN, seed=9)
    set_, _ = sid(tmp_path, proto, X, set={"h": state, "c": 0, "rate": 3})
    rows = np.broadcast_to(state, (3, 1, HIDDEN))
    given, _ = sid(tmp_path, proto, {"x": X, "h": rows, "c": 0 * rows}, set={"rate": 3})
    assert np.allclose(set_, given, atol=1e-4)
    assert not np.allclose(set_, batch_first, atol=0.02)


def test_a_state_has_its_samples_on_the_axis_that_the_batch_is_named_by(tmp_path, batch_first):
    proto = recurrent(["batch", "time", FEATURES], steps_first=False, states=STATES)
    zeros = np.zeros((3, 1, HIDDEN), np.float32)
    assert np.allclose(sid(tmp_path, proto, {"x": X, "h": zeros, "c": zeros})[0], batch_first, atol=0.02)


def test_the_samples_of_an_unnamed_state_are_on_its_open_axis(tmp_path, batch_first):
    proto = recurrent([None, None, FEATURES], steps_first=False, states=[(1, None, HIDDEN)] * 2)
    zeros = np.zeros((3, 1, HIDDEN), np.float32)
    assert np.allclose(sid(tmp_path, proto, {"x": X, "h": zeros, "c": zeros})[0], batch_first, atol=0.02)


def test_the_inputs_of_a_state_come_from_the_command_line(tmp_path):
    onnx.save(recurrent(["time", "batch", FEATURES], states=STATES, scalar=[1]), tmp_path / "m.onnx")
    np.savez(tmp_path / "f.npz", x=X, h=values(3, 1, HIDDEN, seed=5), state=values(HIDDEN, seed=6))
    line = ["analyze", str(tmp_path / "m.onnx"), "-o", str(tmp_path / "a.h5"), "--layers", "scores"]
    line += ["--inputs", f"x={tmp_path}/f.npz:x,h={tmp_path}/f.npz:h", "--batch-axis", "h=1"]
    line += ["--set", f"c={tmp_path}/f.npz:state", "--set", "rate=2"]
    found = CliRunner().invoke(cli, line)
    assert found.exit_code == 0, found.output
    with onnxinfo.open(tmp_path / "a.h5") as archive:
        run = archive["m"]
        assert run.shape[:2] == (1, 3)
        assert run.recipe["batch_axis"] == {"h": 1}


def test_listing_and_exposing_take_the_settings_of_an_analysis(tmp_path):
    """The layers that depend on the input alone, its axes, and a file with the constants in place of the inputs."""
    onnx.save(recurrent(["a", "b", FEATURES], states=[(1, None, HIDDEN)] * 2, scalar=[]), tmp_path / "m.onnx")
    settings = [*("--set", "h=0", "--set", "c=0.5", "--set", "rate=2"), "--batch-axis", "x=1"]
    listed = CliRunner().invoke(cli, ["layers", str(tmp_path / "m.onnx"), *settings, "--format", "jsonl"])
    assert [json.loads(line)["name"] for line in listed.stdout.splitlines()] == ["state", "scores"]
    assert "analysis input: 'x' (time, channel)" in listed.stderr
    line = ["expose", str(tmp_path / "m.onnx"), "-o", str(tmp_path / "e.onnx"), "--layers", "state", *settings]
    assert CliRunner().invoke(cli, line).exit_code == 0
    x = np.moveaxis(X, 0, 1)
    given = {"x": x, "h": np.zeros((1, 3, HIDDEN), np.float32), "c": np.full((1, 3, HIDDEN), 0.5, np.float32)}
    expected = Engine(onnxinfo.load(tmp_path / "m.onnx").proto).run({**given, "rate": np.array(2)})
    exposed = onnxinfo.load(tmp_path / "e.onnx").proto
    assert [value.name for value in exposed.graph.input] == ["x"]
    np.testing.assert_array_equal(Engine(exposed).run({"x": x})[0], expected[0])


def test_exposing_keeps_the_precision(tmp_path):
    half = widened(onnxinfo.load(graphs.quantized(0.5)), [TensorProto.FLOAT], TensorProto.FLOAT16)
    onnxinfo.save(half, tmp_path / "m.onnx")
    line = ["expose", str(tmp_path / "m.onnx"), "-o", str(tmp_path / "e.onnx"), "--dequantize"]
    assert CliRunner().invoke(cli, line).exit_code == 0
    exposed = onnxinfo.load(tmp_path / "e.onnx")
    assert [node.op_type for node in exposed.proto.graph.node] == ["MatMul", "Clip"]
    assert exposed.flow.element_type("y") == TensorProto.FLOAT16


@pytest.mark.parametrize("command", ["layers", "expose"])
@pytest.mark.parametrize("option", [["--set", "rates=1"], ["--batch-axis", "x=3"]])
def test_wrong_settings_of_a_listing_are_refused_in_one_line(command, option, tmp_path, monkeypatch, capsys):
    onnx.save(recurrent([STEPS, "b", FEATURES], scalar=[]), tmp_path / "m.onnx")
    output = ["-o", str(tmp_path / "e.onnx")]
    monkeypatch.setattr("sys.argv", ["onnxinfo", command, str(tmp_path / "m.onnx"), *output, *option])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert re.fullmatch(
        r"onnxinfo: error: (set: .* did you mean 'rate'|.* has 3 axes, 0 to 2).*\n", capsys.readouterr().err
    )
    assert not (tmp_path / "e.onnx").exists()


@pytest.mark.usefixtures("quick_workers")
def test_workers_get_the_axes(tmp_path, batch_first):
    proto = recurrent(["time", "batch", FEATURES])
    found, _ = sid(tmp_path, proto, X, workers=2)
    assert np.allclose(found, batch_first, atol=0.02)


def test_the_check_takes_set_inputs_and_axes():
    proto = recurrent(["time", "batch", FEATURES], states=STATES, scalar=[])
    found = onnxinfo.check_model(proto, {"x": X}, set={"h": 0, "c": 0, "rate": 1})
    assert found.error is None
    assert found.inputs == {"x": (STEPS, 2, FEATURES)}


def mixing(x):
    """Every output depends on every entry."""
    make = helper.make_node
    nodes = [
        make("ReduceSum", ["x", "axes"], ["total"], keepdims=1),
        make("Add", ["x", "total"], ["added"]),
        make("Tanh", ["added"], ["state"]),
    ]
    graph = helper.make_graph(
        nodes, "g", [tensor("x", x)], [tensor("state", None)], [numpy_helper.from_array(np.array([0, 1]), "axes")]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def refusal(tmp_path, proto, inputs=X, **options):
    with pytest.raises((UsageError, InputError)) as raised:
        onnxinfo.analyze(proto, inputs, tmp_path / "a.h5", **options)
    message = str(raised.value)
    assert "\n" not in message
    assert not (tmp_path / "a.h5").exists()
    return message


def test_what_cannot_be_told_is_refused_by_the_name_of_the_option(tmp_path, capsys, monkeypatch):
    message = refusal(tmp_path, mixing(["time", "other", FEATURES]))
    assert message == (
        "the axis of 'x', [time, other, 3], that holds the samples is not clear; name it by batch_axis='x=AXIS', the "
        "first being 0"
    )
    onnx.save(mixing(["time", "other", FEATURES]), tmp_path / "m.onnx")
    np.save(tmp_path / "x.npy", X)
    line = ["analyze", str(tmp_path / "m.onnx"), "--inputs", str(tmp_path / "x.npy"), "-o", str(tmp_path / "a.h5")]
    monkeypatch.setattr("sys.argv", ["onnxinfo", *line])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "--batch-axis x=AXIS" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"set": {"sr": 1}}, "set: no input 'sr' in the model; there is 'x', 'h', 'c', 'rate'"),
        ({"set": {"rates": 1}}, "did you mean 'rate'?"),
        ({"set": {"rate": 1.5}}, "set: 'rate' holds int64, which cannot hold '1.5'; give integers"),
        ({"set": {"rate": "fast"}}, "set: 'rate' holds int64, and 'fast' is no such value; give integers"),
        ({"set": {"h": [1, 2]}}, "set: 'h' has shape 1x1x5, the value 2; give one number, or an array of that shape"),
        ({"set": "rate"}, "set 'rate' is not usable: give NAME=VALUE, such as 'sr=16000'"),
        ({"set": ["rate=1", "rate=2"]}, "give each name once; 'rate' is given twice"),
        ({"set": dict.fromkeys(["x", "h", "c", "rate"], 0)}, "set fixes every input of the model"),
        ({"batch_axis": {"y": 1}}, "batch_axis: no input 'y' in the model"),
        ({"batch_axis": {"x": 3}}, "batch_axis of 'x' is 3, and the input has 3 axes, 0 to 2"),
        (
            {"batch_axis": {"rate": 0}},
            "batch_axis of 'rate' is 0, and the input is a scalar; give its value by set=...",
        ),
        ({"batch_axis": {"x": -1}}, "give NAME=AXIS with an axis of at least 0, such as 'h=1'"),
        ({"batch_axis": {"x": 0, "h": 1}}, "axis 0 of 'x' has size 7, axis 1 of 'h' has size 1"),
        ({}, "graph input 'rate' is not a tensor with a batch axis; it cannot be given samples: give its value by"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(options, expected, tmp_path):
    proto = recurrent([STEPS, 1, FEATURES], states=[(1, 1, HIDDEN)] * 2, scalar=[])
    assert re.search(re.escape(expected), refusal(tmp_path, proto, **options))


def graph_network():
    """Two rounds of messages along the edges of a graph; neither nodes nor edges are samples."""
    make = helper.make_node
    nodes = [
        make("Gather", ["edges", "zero"], ["sources"], axis=0),
        make("Gather", ["edges", "one"], ["targets"], axis=0),
        make("Unsqueeze", ["targets", "last"], ["column"]),
        make("Expand", ["column", "wide"], ["places"]),
        make("Gather", ["nodes", "sources"], ["messages"]),
        make("Mul", ["nodes", "none"], ["nothing"]),
        make("ScatterElements", ["nothing", "places", "messages"], ["sums"], axis=0, reduction="add"),
        make("MatMul", ["sums", "weights"], ["moved"]),
        make("Tanh", ["moved"], ["state"]),
        make("ReduceSum", ["state", "zeros"], ["scores"], keepdims=0),
    ]
    constants = {
        "zero": np.array(0), "one": np.array(1), "last": np.array([1]), "wide": np.array([1, FEATURES]),
        "none": np.zeros((), np.float32), "weights": values(FEATURES, HIDDEN), "zeros": np.array([0]),
    }  # fmt: skip
    graph = helper.make_graph(
        nodes, "g", [tensor("nodes", ["n", FEATURES]), tensor("edges", [2, "e"], TensorProto.INT64)],
        [tensor("scores", None)], [numpy_helper.from_array(a, n) for n, a in constants.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


FEEDS = [
    {"nodes": values(10, FEATURES, seed=i), "edges": np.random.default_rng(i).integers(0, 10, (2, 18))}
    for i in range(2)
]


def test_each_feed_of_a_graph_network_is_a_sample(tmp_path):
    result = onnxinfo.analyze(graph_network(), FEEDS, tmp_path / "a.h5", layers=["state", "scores"])
    with onnxinfo.open(result.archive) as archive:
        run = archive[result.run]
        assert run.shape[:2] == (2, 2)
        assert run.map("sid", 0, 0).shape == (10, FEATURES)
        assert run.values("sid")["converged"].all()
        # A node without an outgoing edge tells the layer nothing.
        unheard = np.setdiff1d(np.arange(10), FEEDS[0]["edges"][0])
        assert np.allclose(run.map("sid", 0, 0)[unheard], np.log(2 * np.pi * np.e) / 2, atol=1e-3)


def test_a_folder_of_npz_files_holds_feeds(tmp_path):
    onnx.save(graph_network(), tmp_path / "m.onnx")
    (tmp_path / "feeds").mkdir()
    for name, feed in zip("ab", FEEDS, strict=True):
        np.savez(tmp_path / "feeds" / f"{name}.npz", **feed)
    line = ["analyze", str(tmp_path / "m.onnx"), "--inputs", str(tmp_path / "feeds"), "-o", str(tmp_path / "a.h5")]
    found = CliRunner().invoke(cli, [*line, "--layers", "scores"])
    assert found.exit_code == 0, found.output
    with onnxinfo.open(tmp_path / "a.h5") as archive:
        assert list(archive["m"].sample_names) == ["a.npz", "b.npz"]


def test_an_image_without_a_batch_axis(tmp_path):
    make = helper.make_node
    nodes = [
        make("Unsqueeze", ["x", "zero"], ["one"]),
        make("Conv", ["one", "w"], ["conv"]),
        make("Relu", ["conv"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "g", [tensor("x", [3, 6, 6])], [tensor("y", None)],
        [numpy_helper.from_array(values(4, 3, 3, 3), "w"), numpy_helper.from_array(np.array([0]), "zero")],
    )  # fmt: skip
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    feeds = [{"x": values(3, 6, 6, seed=i)} for i in range(2)]
    result = onnxinfo.analyze(proto, feeds, tmp_path / "a.h5", layers=["y"])
    with onnxinfo.open(result.archive) as archive:
        assert archive[result.run].axes == ("channel", "y", "x")


@pytest.mark.parametrize(
    ("feeds", "expected"),
    [
        ([{"nodes": FEEDS[0]["nodes"]}], "input[0] has no array 'edges'; expected one for each of nodes, edges"),
        ([FEEDS[0] | {"mask": X}], "input[0] has an array 'mask', and the model takes nodes, edges"),
        ([FEEDS[0], FEEDS[1] | {"nodes": values(9, FEATURES)}], "of shape (9, 3) in input[1]; give feeds of one shape"),
    ],
)
def test_feeds_that_do_not_fit_are_refused(feeds, expected, tmp_path):
    assert expected in refusal(tmp_path, graph_network(), feeds)


def test_graphs_given_as_arrays_are_told_from_samples(tmp_path):
    ends = [tensor("a", ["nodes", 3]), tensor("b", ["edges", 3]), tensor("y", None)]
    nodes = [helper.make_node("Concat", ["a", "b"], ["c"], axis=0), helper.make_node("Relu", ["c"], ["y"])]
    graph = helper.make_graph(nodes, "g", ends[:2], ends[2:])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    message = refusal(tmp_path, proto, {"a": values(10, 3), "b": values(18, 3)})
    assert "expected the same of each, or, if the model takes one sample at a time, a folder of NPZ files" in message


def test_a_forgotten_state_may_be_a_constant(tmp_path):
    proto = recurrent(["batch", STEPS, FEATURES], states=[(1, "batch", HIDDEN)] * 2)
    assert "or, for a state or a setting, a constant value: set='h=0'" in refusal(tmp_path, proto, {"x": X})


def test_a_batch_axis_that_contradicts_a_name_and_a_trial_is_refused(tmp_path):
    proto = recurrent(["time", "batch", FEATURES], steps_first=True)
    message = refusal(tmp_path, proto, X, batch_axis={"x": 0})
    assert "axis 0 of 'x', [time, batch, 3], does not hold the samples, but axis 1 does" in message
    # A name alone decides nothing: here, the samples do lie along the axis that is called time.
    other = recurrent(["time", "batch", FEATURES], steps_first=False)
    assert np.isfinite(sid(tmp_path, other, X, batch_axis={"x": 0})[0]).all()


def of_seven_steps(axes):
    ends = [tensor("x", axes), tensor("y", None)]
    nodes = [helper.make_node("Split", ["x", "sizes"], ["before", "after"]), helper.make_node("Relu", ["after"], ["y"])]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [numpy_helper.from_array(np.array([3, 4]), "sizes")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def test_a_failure_names_the_way_out_where_the_axis_of_the_samples_is_in_doubt(tmp_path):
    with pytest.raises((ModelError, InputError), match=r"an axis of 'x' other than axis 0 .* batch_axis='x=AXIS'"):
        onnxinfo.analyze(of_seven_steps([None, None, 3]), X, tmp_path / "a.h5")
    onnxinfo.analyze(of_seven_steps([None, None, 3]), X, tmp_path / "a.h5", batch_axis={"x": 1})
    with pytest.raises((ModelError, InputError)) as raised:
        onnxinfo.analyze(of_seven_steps(["batch", None, 3]), X, tmp_path / "b.h5")
    assert "batch_axis" not in str(raised.value)


def test_the_batch_axes_of_an_unnamed_sequence_and_its_states_are_tried_together(tmp_path, batch_first):
    proto = recurrent([None, None, FEATURES], states=[(1, None, HIDDEN)] * 2)
    zeros = np.zeros((3, 1, HIDDEN), np.float32)
    assert np.allclose(sid(tmp_path, proto, {"x": X, "h": zeros, "c": zeros})[0], batch_first, atol=0.02)


def windows(shape, kernel, element=TensorProto.FLOAT):
    """Windows of a sound, the first of which has to be full."""
    make = helper.make_node
    nodes = [make("Conv", ["x", "w"], ["frames"], strides=[kernel // 2]), make("Relu", ["frames"], ["y"])]
    graph = helper.make_graph(
        nodes, "g", [tensor("x", shape, element)], [tensor("y", None)],
        [numpy_helper.from_array(values(2, 1, kernel), "w")],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.mark.parametrize("kernel", [300, 512, 1500, 12_000])
def test_lengths_of_sound_are_tried(kernel):
    found = onnxinfo.check_model(windows(["batch", 1, "samples"], kernel))
    assert found.error is None
    assert found.inputs["x"][-1] >= kernel


@pytest.mark.parametrize("free", [-1, 0])
def test_sizes_below_one_are_free(free, tmp_path):
    proto = windows([1, 1, 1], 3)
    for axis in (0, 2):
        proto.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = free
    assert onnxinfo.check_model(proto).inputs == {"x": (2, 1, 64)}
    result = onnxinfo.analyze(proto, values(2, 1, 9), tmp_path / "a.h5")
    with onnxinfo.open(result.archive) as archive:
        assert archive[result.run].shape[1] == 2


def test_generated_states_have_the_batch_of_their_input():
    for axes, states in (
        (["batch", "time", FEATURES], [(1, "batch", HIDDEN)] * 2),
        ([None, None, FEATURES], [(1, None, HIDDEN)] * 2),
    ):
        found = onnxinfo.check_model(recurrent(axes, steps_first=False, states=states))
        assert (found.error, found.inputs["h"]) == (None, (1, 2, HIDDEN))


def demanding(shape, element=TensorProto.FLOAT, *more):
    """A model that runs on one size only, which nobody guesses."""
    make = helper.make_node
    nodes = [
        make("Cast", ["x"], ["float"], to=TensorProto.FLOAT),
        make("Reshape", ["float", "odd"], ["rows"]),
        make("Relu", ["rows"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "g", [tensor("x", shape, element), *more], [tensor("y", None)],
        [numpy_helper.from_array(np.array([7919, -1]), "odd")],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.mark.parametrize(
    ("proto", "advice"),
    [
        (demanding(["N", 3, "h", "w"]), "give inputs=... with images, such as a folder)"),
        (demanding(["N", 1, "time"]), "give inputs=... with an array of Nx1xtime numbers, such as FILE.npy)"),
        (demanding(["N", "len"], TensorProto.INT64), "an array of Nxlen ids or other integers, such as FILE.npy)"),
        (
            demanding(["N", 5], TensorProto.FLOAT, tensor("rate", [], TensorProto.INT64)),
            "such as FILE.npy, and give the value of the scalar 'rate' by set='rate=VALUE')",
        ),
    ],
)
def test_advice_fits_the_kind_of_model(proto, advice):
    with pytest.raises(InputError) as raised:
        onnxinfo.check_model(proto)
    assert str(raised.value).endswith(advice)


@pytest.mark.parametrize("second", [False, True], ids=["one input", "two inputs"])
def test_a_model_that_runs_only_single_samples_although_it_leaves_their_number_open(second, tmp_path):
    """Exporters write the batch size of their example into reshapes."""
    nodes = [
        *([helper.make_node("Add", ["x", "other"], ["s"])] if second else []),
        helper.make_node("Reshape", ["s" if second else "x", "sizes"], ["r"]),
        helper.make_node("Tanh", ["r"], ["t"]),
        helper.make_node("Reshape", ["t", "row"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["y"]),
    ]
    constants = [
        numpy_helper.from_array(np.array(sizes), name) for name, sizes in (("sizes", [1, 2, 2]), ("row", [1, 4]))
    ]
    names = ["x", "other"] if second else ["x"]
    graph = helper.make_graph(
        nodes, "single", [tensor(name, ("batch", 4)) for name in names], [tensor("y", None)],
        [*constants, numpy_helper.from_array(values(4, 3), "w")],
    )  # fmt: skip
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    inputs = {name: values(3, 4, seed=i) for i, name in enumerate(names)}
    assert onnxinfo.check_model(proto, inputs).error is None
    together = onnxinfo.analyze(proto, inputs, tmp_path / "r.h5", layers=["y"], input_tensor="x", device="cpu")
    with onnxinfo.open(together.archive) as archive:
        assert np.isfinite(archive[together.run].table("sample")["value"]).all()


def attention(cached):
    """Keys and values of one head, with those of a cache before them; without one, the same network."""
    make = helper.make_node
    inputs, keys, nodes = [tensor("x", ["batch", "time", FEATURES])], "k", []
    if cached:
        inputs.append(tensor("cache", ["batch", "past", FEATURES]))
        nodes, keys = [make("Concat", ["cache", "k"], ["keys"], axis=1)], "keys"
    nodes = [
        make("MatMul", ["x", "w"], ["k"]),
        *nodes,
        make("Transpose", [keys], ["turned"], perm=[0, 2, 1]),
        make("MatMul", ["x", "turned"], ["raw"]),
        make("Softmax", ["raw"], ["weights"]),
        make("MatMul", ["weights", keys], ["state"]),
        make("Tanh", ["state"], ["scores"]),
    ]
    weights = [numpy_helper.from_array(values(FEATURES, FEATURES, seed=3), "w")]
    graph = helper.make_graph(nodes, "g", inputs, [tensor("scores", None)], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def test_a_cache_without_entries_is_set(tmp_path):
    empty = values(1, 0, FEATURES)
    found, _ = sid(tmp_path, attention(True), X, set={"cache": empty})
    assert np.array_equal(found, sid(tmp_path, attention(False), X)[0])
    assert not np.allclose(
        found, sid(tmp_path, attention(True), X, set={"cache": values(1, 2, FEATURES)})[0], atol=0.02
    )
    with pytest.raises(InputError, match="give an empty state, such as a cache without entries, as a value of set"):
        sid(tmp_path, attention(True), {"x": X, "cache": values(3, 0, FEATURES)})


OPEN = {
    "MatMul": (helper.make_node("MatMul", ["x", "p"], ["y"]), (37, 5), [None, None], (1, 37)),
    "Gemm": (helper.make_node("Gemm", ["x", "p"], ["y"], transB=1), (5, 37), [None, None], (1, 37)),
    "Conv": (helper.make_node("Conv", ["x", "p"], ["y"], group=2), (4, 3, 3, 3), [None] * 4, (1, 6)),
    "bias": (helper.make_node("Add", ["x", "p"], ["y"]), (1, 37), [None, "T"], (1, 37)),
    "LSTM": (helper.make_node("LSTM", ["x", "p", "r"], ["y"], hidden_size=2), (1, 8, 7), [9, None, None], (2, 7)),
}


@pytest.mark.parametrize("kind", OPEN)
def test_open_sizes_that_parameters_state_are_read(kind):
    used, sizes, axes, (axis, expected) = OPEN[kind]
    given = [numpy_helper.from_array(values(*sizes), "p"), numpy_helper.from_array(values(1, 8, 2), "r")]
    graph = helper.make_graph([used], "g", [tensor("x", axes)], [tensor("y", None)], given[: len(used.input) - 1])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    assert onnxinfo.check_model(proto).inputs["x"][axis] == expected
