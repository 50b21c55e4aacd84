"""Bits by tensor, against exhaustive search, and models that ONNX Runtime's quantizer makes from them."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from graphs import constant, model, node, quantized, value, weight

import onnxinfo
from onnxinfo import UsageError
from onnxinfo.analysis.bits import Grid, allocate, uniform_noise
from onnxinfo.models import path

CNN, IMAGES, LABELS = path("digits-cnn.onnx"), f"{path('digits.npz')}:images", f"{path('digits.npz')}:labels"
CHOICES = range(2, 9)


@pytest.mark.parametrize("mean", [2, 2.75, 3, 4.25, 8])
def test_no_other_bits_have_a_smaller_loss_at_the_same_mean(mean: float) -> None:
    losses = np.random.default_rng(0).lognormal(sigma=3, size=4)[:, None] * uniform_noise(0, 1, CHOICES)

    def total(bits: tuple[int, ...]) -> float:
        return sum(losses[i, each - 2] for i, each in enumerate(bits))

    chosen = allocate(losses, CHOICES, mean)
    best = min((bits for bits in itertools.product(CHOICES, repeat=4) if sum(bits) <= 4 * mean), key=total)
    assert total((*chosen,)) == pytest.approx(total(best))
    assert sum(chosen) == 4 * mean


def test_steps_over_bits_that_gain_nothing() -> None:
    assert allocate(np.array([[1.0, 1.0, 0.0], [0.3, 0.3, 0.3]]), [2, 3, 4], 3) == [4, 2]


@pytest.mark.parametrize(("low", "high"), [(0, 3), (-1, 2)])
def test_a_grid_has_its_number_of_values_in_the_range(low: float, high: float) -> None:
    grid = Grid(low, high, 3)
    rounded = grid.rounded(torch.linspace(low, high, 1001))
    assert len(rounded.unique()) == 8
    assert (rounded - torch.linspace(low, high, 1001)).abs().max() <= grid.step / 2 + 1e-6
    assert uniform_noise(low, high, [3])[0] == grid.step**2 / 12


def documented(block: int) -> str:
    """A block of Python in docs/bits.md."""
    text = (Path(__file__).parents[3] / "docs/bits.md").read_text(encoding="utf-8")
    return text.split("```python\n")[block + 1].split("```")[0]


def quantized_by_the_runtime(
    source: str, plan: onnxinfo.BitPlan, feeds: dict[str, np.ndarray], folder: Path
) -> onnx.ModelProto:
    """What ``quantize_static`` makes of a recommendation, as docs/bits.md describes."""
    quantization = pytest.importorskip("onnxruntime.quantization")
    plan.save(folder / "bits.json", force=True)
    names: dict[str, Any] = {}
    exec(documented(0), names)

    class Reader(quantization.CalibrationDataReader):
        given = iter([feeds])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.given, None)

    quantization.quantize_static(
        source,
        folder / "q.onnx",
        Reader(),
        nodes_to_exclude=json.loads((folder / "bits.json").read_text())["nodes_to_exclude"],
        activation_type=quantization.QuantType.QUInt8,
        extra_options={"TensorQuantOverrides": names["overrides"](folder / "bits.json")},
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(folder / "q.onnx", options, providers=["CPUExecutionProvider"])
    assert np.isfinite(session.run(None, feeds)[0]).all()
    return onnx.load(folder / "q.onnx")


def check_that_it_has_effect(plan: onnxinfo.BitPlan, made: onnx.ModelProto) -> None:
    """Check that tensors with bits have their grids, and that the others are not rounded."""
    stored = {each.name: onnx.numpy_helper.to_array(each) for each in made.graph.initializer}
    steps = {
        node.input[0].removesuffix("_QuantizeLinear_Input"): stored[node.input[1]]
        for node in made.graph.node
        if node.op_type == "QuantizeLinear"
    }
    for each in plan.tensors:
        if each.bits == 32:
            assert each.tensor not in steps
        else:
            grid = Grid(each.low, each.high, each.bits)
            assert steps[each.tensor].dtype == each.element_type
            assert steps[each.tensor] == np.array(grid.step, each.element_type)


@pytest.mark.parametrize("keep_float", [0, 1])
@pytest.mark.parametrize("name", ["digits-cnn", "keras-digits-cnn", "jax-digits-cnn", "paddle-digits-cnn"])
def test_the_quantizer_does_all_that_is_recommended(name: str, keep_float: int, tmp_path: Path) -> None:
    proto = onnx.load(path(f"{name}.onnx"))
    for number, each in enumerate(proto.graph.node):
        each.name = each.name or f"node_{number}"
    (given,) = proto.graph.input
    dims = [dim.dim_value for dim in given.type.tensor_type.shape.dim][1:]
    with np.load(path("digits.npz")) as digits:
        images = digits["images"][:8].astype(np.float32).reshape(-1, *dims)
    if name == "jax-digits-cnn" and keep_float:
        with pytest.raises(UsageError, match="keep_float=1 leaves none of 2 tensors"):
            onnxinfo.recommend_bits(proto, images, mean_bits=4, keep_float=1)
        return
    plan = onnxinfo.recommend_bits(proto, images, mean_bits=4, keep_float=keep_float)
    bits = [each.bits for each in plan.tensors if each.bits < 32]
    assert sum(bits) == 4 * len(bits) > 0
    assert (len(bits) < len(plan.tensors)) == bool(keep_float) == bool(plan.nodes_to_exclude)
    onnx.save(proto, tmp_path / "given.onnx")
    made = quantized_by_the_runtime(str(tmp_path / "given.onnx"), plan, {given.name: images[:1]}, tmp_path)
    check_that_it_has_effect(plan, made)


def test_layers_that_the_quantizer_leaves_alone_get_no_bits(caplog: pytest.LogCaptureFixture) -> None:
    with np.load(path("digits.npz")) as digits:
        images = digits["images"][:4].astype(np.float32)
    model, images = path("jax-digits-cnn.onnx"), images.reshape(-1, 8, 8, 1)
    plan = onnxinfo.recommend_bits(model, images, mean_bits=4)
    assert "gelu_out_0" not in plan.to_dict()["bits"]
    (line,) = [each for each in caplog.messages if "left out" in each]
    assert line.endswith("'gelu_out_0'")
    with pytest.raises(UsageError, match="leaves 'gelu_out_0' in float"):
        onnxinfo.recommend_bits(model, images, mean_bits=4, layers=["gelu_out_0", "gelu_out_*"])
    matched = onnxinfo.recommend_bits(model, images, mean_bits=4, layers=["gelu_out_*"])
    assert "gelu_out_0" not in matched.to_dict()["bits"] != {}
    with pytest.raises(UsageError, match="leaves all chosen tensors in float"):
        onnxinfo.recommend_bits(path("torch-digits-lstm.onnx"), images.reshape(-1, 8, 8), mean_bits=4)


def test_nodes_need_names_to_stay_in_float(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    proto = onnx.load(CNN)
    for each in proto.graph.node:
        each.name = ""
    onnx.save(proto, tmp_path / "model.onnx")
    with monkeypatch.context() as patched:
        patched.setattr("onnxinfo.workflows.recommend.measure_sensitivity", None)
        with pytest.raises(UsageError, match=r"have none, such as \w+ '.*'; name them first, as docs/bits.md shows"):
            onnxinfo.recommend_bits(proto, IMAGES, mean_bits=4, keep_float=1, limit=8)
    monkeypatch.chdir(tmp_path)
    exec(documented(2), {})
    plan = onnxinfo.recommend_bits("named.onnx", IMAGES, mean_bits=4, keep_float=1, limit=8)
    made = quantized_by_the_runtime("named.onnx", plan, {"image": np.zeros((1, 1, 8, 8), np.float32)}, tmp_path)
    check_that_it_has_effect(plan, made)


def test_the_documented_script_quantizes_the_bundled_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime.quantization")
    monkeypatch.chdir(tmp_path)
    for name in ("digits-cnn.onnx", "digits.npz"):
        (tmp_path / name).write_bytes(Path(path(name)).read_bytes())
    plan = onnxinfo.recommend_bits("digits-cnn.onnx", "digits.npz:images", mean_bits=4, limit=8)
    plan.save("bits.json")
    exec(documented(0) + documented(1), {})
    check_that_it_has_effect(plan, onnx.load("quantized.onnx"))


def half_precision(opset: int) -> onnx.ModelProto:
    """A convolutional network in float16."""
    shapes = {"v": (4, 1, 3, 3), "w": (4, 4, 3, 3), "u": (4, 3)}
    weights = [weight(name, *shape) for name, shape in shapes.items()]
    halves = [onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(w).astype(np.float16), w.name) for w in weights]
    nodes = [
        *(node("Conv", "x v", "c", pads=[1, 1, 1, 1]), node("Relu", "c", "r"), node("Conv", "r w", "d")),
        *(node("Relu", "d", "s"), node("GlobalAveragePool", "s", "p"), node("Flatten", "p", "f")),
        node("Gemm", "f u", "y"),
    ]
    element = onnx.TensorProto.FLOAT16
    ends = [value("x", ("N", 1, 8, 8), element)], [value("y", ("N", 3), element)]
    return model(nodes, *ends, halves, opset=opset)


def test_scales_have_the_type_of_the_values(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images = np.random.default_rng(0).normal(size=(4, 1, 8, 8)).astype(np.float16)
    plan = onnxinfo.recommend_bits(half_precision(21), images, mean_bits=4)
    assert {each.element_type for each in plan.tensors} == {"float16"}
    onnx.save(half_precision(21), tmp_path / "half.onnx")
    check_that_it_has_effect(
        plan, quantized_by_the_runtime(str(tmp_path / "half.onnx"), plan, {"x": images[:1]}, tmp_path)
    )
    assert not any("float16" in each for each in caplog.messages)
    onnxinfo.recommend_bits(half_precision(17), images, mean_bits=4)
    assert any("float16 models of opset 17" in each for each in caplog.messages)


def test_half_precision_probabilities_have_scales_of_their_type(tmp_path: Path) -> None:
    shapes = {"q": (5, 4), "k": (5, 4), "u": (5, 3)}
    weights = [onnx.numpy_helper.to_array(weight(name, *shape)).astype(np.float16) for name, shape in shapes.items()]
    nodes = [
        *(node("MatMul", "x q", "a"), node("MatMul", "x k", "b"), node("Transpose", "b", "t", perm=[0, 2, 1])),
        *(node("MatMul", "a t", "scores"), node("Softmax", "scores", "attention"), node("MatMul", "attention x", "c")),
        *(node("Relu", "c", "r"), node("MatMul", "r u", "y")),
    ]
    ends = [value(name, ("N", 6, size), onnx.TensorProto.FLOAT16) for name, size in (("x", 5), ("y", 3))]
    halves = [onnx.numpy_helper.from_array(each, name) for each, name in zip(weights, shapes, strict=True)]
    proto = model(nodes, ends[:1], ends[1:], halves, opset=21)
    rows = np.random.default_rng(0).normal(size=(4, 6, 5)).astype(np.float16)
    onnx.save(proto, tmp_path / "half.onnx")
    plan = onnxinfo.recommend_bits(proto, rows, mean_bits=4, layers=["r"])
    assert [*plan.to_dict()["bits"]] == ["r"]
    assert {*plan.to_dict()["TensorQuantOverrides"]} == {"r", "attention"}
    made = quantized_by_the_runtime(str(tmp_path / "half.onnx"), plan, {"x": rows[:1]}, tmp_path)
    check_that_it_has_effect(plan, made)


def attention(mask: float, where: bool = False) -> onnx.ModelProto:
    """An attention block with a causal mask, added or chosen by Where, and named nodes."""
    length, width = 8, 16
    upper = np.triu(np.ones((length, length), bool), 1)
    masked = "allowed scores minus" if where else "scores mask"
    nodes = [
        *(node("MatMul", f"x w{each}", each) for each in "qkv"),
        node("Transpose", "k", "kt", perm=[0, 2, 1]),
        node("MatMul", "q kt", "product"),
        node("Mul", "product scale", "scores"),
        node("Where" if where else "Add", masked, "masked"),
        node("Softmax", "masked", "attention", axis=-1),
        node("MatMul", "attention v", "mixed"),
        node("Add", "mixed x", "sum"),
        node("ReduceMean", "sum", "pooled", axes=[1], keepdims=0),
        node("MatMul", "pooled wc", "logits"),
    ]
    for each in nodes:
        each.name = f"node_{each.output[0]}"
    constants = [weight(f"w{each}", width, width, seed=i) for i, each in enumerate("qkv")] + [weight("wc", width, 5)]
    constants += [constant("scale", width**-0.5, np.float32), constant("minus", mask, np.float32)]
    constants += [constant("mask", np.where(upper, mask, 0), np.float32), constant("allowed", ~upper, bool)]
    inputs, outputs = [value("x", ("N", length, width))], [value("logits", ("N", 5))]
    used = {name for each in nodes for name in each.input}
    return model(nodes, inputs, outputs, [each for each in constants if each.name in used], opset=17)


@pytest.mark.parametrize(("mask", "where"), [(-1e9, False), (-1e4, False), (-1e9, True)])
def test_tensors_that_eight_bits_destroy_stay_in_float(
    mask: float, where: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Masked scores are no default layer; the quantizer rounds them by steps of about 4e6, so that all others are 0."""
    proto = attention(mask, where)
    onnx.save(proto, tmp_path / "given.onnx")
    samples = np.random.default_rng(1).standard_normal((32, 8, 16)).astype(np.float32)

    clean = scores_of(proto, samples)
    plan = onnxinfo.recommend_bits(proto, samples, mean_bits=8)
    assert plan.unusable == ("masked",)
    assert {"node_masked", "node_attention"} <= {*plan.nodes_to_exclude}
    assert "kept in float, because ONNX Runtime's 8 bits" in caplog.text
    made = quantized_by_the_runtime(str(tmp_path / "given.onnx"), plan, {"x": samples}, tmp_path)
    change = ((scores_of(made, samples) - clean) ** 2).sum(1).mean() / clean.var(0).sum()
    assert change < 0.01
    assert plan.expected < 0.01
    # What is said to have an accuracy has it.
    labels = clean.argmax(1)
    plan = onnxinfo.recommend_bits(proto, samples, accuracy=0.9, labels=labels, layers=["q", "k", "v", "mixed"])
    made = quantized_by_the_runtime(str(tmp_path / "given.onnx"), plan, {"x": samples}, tmp_path)
    assert plan.accuracy is not None
    assert (scores_of(made, samples).argmax(1) == labels).mean() == pytest.approx(plan.accuracy, abs=0.1)
    # Chosen, they take no bits from others.
    chosen = onnxinfo.recommend_bits(proto, samples, mean_bits=6, layers=["masked", "v", "mixed"])
    assert {each.tensor for each in chosen.tensors} == {"v", "mixed"}
    assert chosen.expected < 0.1
    with pytest.raises(UsageError, match="all chosen tensors must stay in float: 'masked'"):
        onnxinfo.recommend_bits(proto, samples, mean_bits=6, layers=["masked"])


def scores_of(proto: onnx.ModelProto, samples: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Its optimized kernels of 8 bits overflow on processors without VNNI.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: samples})[0], np.float64)


def check_that_little_changes(proto: onnx.ModelProto, plan: onnxinfo.BitPlan, samples: np.ndarray, at: Path) -> None:
    """Check that the model that the quantizer makes of a recommendation has about the same scores."""
    onnx.save(proto, at / "given.onnx")
    made = quantized_by_the_runtime(str(at / "given.onnx"), plan, {"x": samples}, at)
    clean = scores_of(proto, samples)
    assert ((scores_of(made, samples) - clean) ** 2).sum(1).mean() < 0.01 * clean.var(0).sum()


def test_inputs_that_eight_bits_destroy_stay_in_float(tmp_path: Path) -> None:
    """A column of a table is a thousand times as wide as the others, which 8 bits for all of them make 0."""
    wide = np.array([1, 3000, 1, 1], np.float32)
    narrow = onnx.numpy_helper.to_array(weight("w", 4, 8)) / wide[:, None]
    proto = model(
        [node("Gemm", "x w", "h"), node("Relu", "h", "r"), node("Gemm", "r v", "logits")],
        [value("x")],
        [value("logits", ("N", 3))],
        [constant("w", narrow, np.float32), weight("v", 8, 3)],
    )
    samples = np.random.default_rng(1).standard_normal((64, 4)).astype(np.float32) * wide
    labels = scores_of(proto, samples).argmax(1)
    plan = onnxinfo.recommend_bits(proto, samples, accuracy=0.9, labels=labels)
    assert plan.unusable == ("x",)
    assert plan.nodes_to_exclude == ("/h",)
    onnx.save(proto, tmp_path / "given.onnx")
    made = quantized_by_the_runtime(str(tmp_path / "given.onnx"), plan, {"x": samples}, tmp_path)
    assert (scores_of(made, samples).argmax(1) == labels).mean() == pytest.approx(plan.accuracy, abs=0.1)


@pytest.mark.parametrize("operator", ["AveragePool", "Resize"])
def test_averages_that_the_quantizer_rounds_to_the_scale_of_what_they_average_count(
    operator: str, tmp_path: Path
) -> None:
    """Averages of rare large values lie below the first step of a grid for these, if that has few values."""
    average = {
        "AveragePool": node("AveragePool", "r", "a", kernel_shape=[4, 4], strides=[4, 4]),
        "Resize": node("Resize", "r  scales", "a", mode="linear"),
    }[operator]
    if operator == "Resize":
        average.input[:] = ["r", "", "scales"]
    proto = model(
        [
            node("Conv", "x k", "h"),
            node("Relu", "h", "r"),
            average,
            node("Flatten", "a", "f"),
            node("Gemm", "f v", "y"),
        ],
        [value("x", ("N", 4, 8, 8))],
        [value("y", ("N", 3))],
        [weight("k", 6, 4, 1, 1), constant("scales", [1, 1, 0.25, 0.25], np.float32), weight("v", 24, 3)],
    )
    stream = np.random.default_rng(1)
    samples = (stream.standard_normal((64, 4, 8, 8)) ** 3).astype(np.float32)
    labels = scores_of(proto, samples).argmax(1)
    plan = onnxinfo.recommend_bits(proto, samples, accuracy=0.85, labels=labels)
    onnx.save(proto, tmp_path / "given.onnx")
    made = quantized_by_the_runtime(str(tmp_path / "given.onnx"), plan, {"x": samples}, tmp_path)
    assert (scores_of(made, samples).argmax(1) == labels).mean() == pytest.approx(plan.accuracy, abs=0.1)
    plan = onnxinfo.recommend_bits(proto, samples, mean_bits=8)
    made = quantized_by_the_runtime(str(tmp_path / "given.onnx"), plan, {"x": samples}, tmp_path)
    clean = scores_of(proto, samples)
    change = ((scores_of(made, samples) - clean) ** 2).sum(1).mean() / clean.var(0).sum()
    assert plan.expected == pytest.approx(change, rel=0.5)


@pytest.mark.parametrize("layers", [[], ["relu_6"]])
def test_the_expected_change_is_that_by_all_rounded_activations(layers: list[str], tmp_path: Path) -> None:
    with np.load(path("digits.npz")) as digits:
        images = digits["images"][:, None].astype(np.float32) / 255
    plan = onnxinfo.recommend_bits(CNN, images, mean_bits=8, layers=layers)
    made = quantized_by_the_runtime(CNN, plan, {"image": images}, tmp_path)
    clean = scores_of(onnx.load(CNN), images)
    change = ((scores_of(made, images) - clean) ** 2).sum(1).mean() / clean.var(0).sum()
    # The rest is the rounding of weights.
    assert 0.4 * change < plan.expected < change


def test_what_the_quantizer_rounds_instead_of_a_tensor_in_float_is_examined_too(tmp_path: Path) -> None:
    """A Reshape has the scale of its operand, or one of its own if the operand stays in float."""
    proto = attention(-1e9)
    (softmax,) = [each for each in proto.graph.node if each.op_type == "Softmax"]
    softmax.input[0] = "reshaped"
    proto.graph.initializer.append(constant("shape", [-1, 8, 8]))
    place = [*proto.graph.node].index(softmax)
    proto.graph.node.insert(place, node("Reshape", "masked shape", "reshaped"))
    samples = np.random.default_rng(1).standard_normal((32, 8, 16)).astype(np.float32)
    plan = onnxinfo.recommend_bits(proto, samples, mean_bits=8)
    assert plan.unusable == ("masked", "reshaped")
    check_that_little_changes(proto, plan, samples, tmp_path)


# The quantizer's, about the scale of the mask, which it does not use.
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
@pytest.mark.parametrize("mask", [-np.inf, float(np.finfo(np.float32).min)])
def test_infinite_masks_stay_in_float(mask: float, tmp_path: Path) -> None:
    samples = np.random.default_rng(1).standard_normal((32, 8, 16)).astype(np.float32)
    plan = onnxinfo.recommend_bits(attention(mask), samples, mean_bits=8)
    assert plan.unusable == ("masked",)
    check_that_little_changes(attention(mask), plan, samples, tmp_path)


@pytest.mark.parametrize("name", ["torch-text-transformer", "keras-text-transformer"])
def test_tensors_that_are_only_rounded_cause_no_warnings(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """The samples of a batch stay apart, although attention lays out tensors in which they are not the first axis."""
    onnxinfo.recommend_bits(path(f"{name}.onnx"), f"{path('text.npz')}:tokens", mean_bits=4, limit=4)
    assert caplog.messages == []


def test_accuracy_needs_class_scores() -> None:
    with pytest.raises(UsageError, match=r"accuracy is of class scores, and 'relu_3' has shape \(\d+, \d+, \d+\)"):
        onnxinfo.recommend_bits(CNN, IMAGES, accuracy=0.9, labels=LABELS, limit=8, target="relu_3")


def test_nodes_of_tensors_that_eight_bits_destroy_need_names() -> None:
    proto = attention(-1e9)
    for each in proto.graph.node:
        each.name = ""
    samples = np.random.default_rng(1).standard_normal((8, 8, 16)).astype(np.float32)
    with pytest.raises(UsageError, match=r"an unusable tensor excludes nodes .* name them first"):
        onnxinfo.recommend_bits(proto, samples, mean_bits=8)


def test_a_plan_is_drawn_by_depth(tmp_path: Path) -> None:
    drawn = tmp_path / "bits.png"
    plan = onnxinfo.recommend_bits(CNN, IMAGES, mean_bits=3, keep_float=1, limit=16)
    bits, changes = plan.plot(drawn).axes
    assert drawn.read_bytes()[:4] == b"\x89PNG"
    table = plan.to_dataframe().sort_values("depth", kind="stable")
    assert [each.get_text() for each in bits.get_yticklabels()] == table.tensor.tolist()
    assert [each.get_width() for each in bits.patches] == table.bits[table.bits <= 8].tolist()
    assert bits.lines[0].get_ydata().tolist() == np.flatnonzero(table.bits > 8).tolist()
    scores = np.load(IMAGES.rsplit(":", 1)[0])["images"][:16, None].astype(np.float32) / 255
    (logits,) = onnxruntime.InferenceSession(CNN).run(["logits"], {"image": scores})
    expected = table.loss[table.loss > 0] / logits.astype(float).var(0).sum()
    assert changes.lines[0].get_xdata() == pytest.approx(expected.to_numpy(), rel=1e-4)


def test_an_accuracy_is_reached_with_few_bits() -> None:
    plan = onnxinfo.recommend_bits(CNN, IMAGES, accuracy=0.8, labels=LABELS, limit=64)
    assert (plan.accuracy or 0) >= 0.8
    assert plan.to_dataframe().bits.mean() < 6
    more = onnxinfo.recommend_bits(CNN, IMAGES, mean_bits=6, limit=64)
    assert more.expected < plan.expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give one of mean_bits=... and accuracy=..."),
        ({"mean_bits": 4, "accuracy": 0.5}, "give one of mean_bits=... and accuracy=..."),
        ({"mean_bits": 1}, "from 2 to 8 expected"),
        ({"mean_bits": float("nan")}, "from 2 to 8 expected"),
        ({"accuracy": 0.5}, "labels"),
        ({"accuracy": 2.0, "labels": LABELS}, "at most 1"),
        ({"mean_bits": 4, "keep_float": 99}, "leaves none"),
        ({"mean_bits": 4, "layers": ["logits"]}, "choose more layers"),
    ],
)
def test_requests_that_cannot_be_met_are_refused_before_the_work(
    options: dict[str, object], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxinfo.workflows.recommend.measure_sensitivity", None)
    with pytest.raises(UsageError, match=message) as error:
        onnxinfo.recommend_bits(CNN, IMAGES, limit=4, **options)
    assert "\n" not in str(error.value)


def test_wrong_labels_leave_no_accuracy() -> None:
    with np.load(path("digits.npz")) as digits:
        images, labels = digits["images"][:16], digits["labels"][:16]
    with pytest.raises(UsageError, match=r"cannot be met: the float network has 0\.000"):
        onnxinfo.recommend_bits(CNN, images, accuracy=0.5, labels=(labels + 1) % 10)


def test_quantized_models_are_refused() -> None:
    rows = np.random.default_rng(0).normal(size=(8, 32)).astype(np.float32)
    with pytest.raises(UsageError, match="quantized already"):
        onnxinfo.recommend_bits(quantized(0.1), rows, layers=["h", "y"], mean_bits=4)
    proto = quantized(0.1)
    proto.graph.node.append(node("MatMul", "y W", "z"))
    proto.graph.output[0].name = "z"
    plan = onnxinfo.recommend_bits(proto, rows, layers=["h", "z"], mean_bits=4, dequantize=True)
    assert [each.bits for each in plan.tensors] == [4]
