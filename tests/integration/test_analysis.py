"""The whole analysis on bundled and hand-made models."""

from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import onnxinfo
from onnxinfo.metrics.network import Network
from onnxinfo.models import path

MODEL = str(path("digits-cnn.onnx"))
IMAGES = f"{path('digits.npz')}:images"


def model_of(nodes, inputs, outputs, weights):
    """A checked model from nodes, (name, type, shape) of inputs and outputs, and weights by name."""

    def values(infos):
        return [helper.make_tensor_value_info(*info) for info in infos]

    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "model", values(inputs), values(outputs), tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    return model


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def analyze(tmp_path, model=MODEL, inputs=IMAGES, **options):
    options = {"limit": 3, "layers": ["relu_4"]} | options
    result = onnxinfo.analyze(model, inputs, tmp_path / "out.h5", **options)
    return read(result.archive, result.run)


def read(archive, run="digits-cnn"):
    """All parts of a run that the tests inspect, read with the file closed again."""
    with onnxinfo.open(archive) as opened:
        found = opened[run]
        facts = {name: getattr(found, name) for name in ("status", "shape", "axes", "recipe", "labels", "thumbnails")}
        numbers = {
            "values": found.values("sid"),
            "maps": np.stack([found.maps("sid", layer) for layer in range(found.shape[0])]),
            "finished": found.finished("sid"),
        }
        return SimpleNamespace(**facts, **numbers)


def test_a_run_holds_maps_values_recipe_and_pictures(tmp_path):
    run = analyze(tmp_path, labels=f"{path('digits.npz')}:labels", layers=["relu_4", "logits"])
    assert run.status == "complete"
    assert run.shape == (2, 3)
    assert run.axes == ("channel", "y", "x")
    assert run.recipe["alpha"] == 1.5e-4
    assert run.recipe["model_sha256"] == onnxinfo.load(MODEL).sha256
    assert run.labels is not None
    assert run.thumbnails.shape == (3, 8, 8, 3)
    assert run.maps.shape == (2, 3, 1, 8, 8)
    assert np.allclose(run.maps.mean((2, 3, 4)), run.values["value"], atol=1e-3)


def test_an_interrupted_run_goes_on_to_the_same_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr("onnxinfo.workflows.compute.BLOCK", 2)
    onnxinfo.analyze(MODEL, IMAGES, tmp_path / "whole.h5", limit=4, layers=["relu_4"])
    whole = read(tmp_path / "whole.h5")

    def interrupt(progress):
        if progress.layer and not progress.provisional:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        analyze(tmp_path, limit=4, progress=interrupt)
    cut = read(tmp_path / "out.h5")
    assert cut.status == "interrupted"
    assert cut.finished.tolist() == [[True, True, False, False]]
    resumed = analyze(tmp_path, limit=4)
    assert (resumed.values["value"] == whole.values["value"]).all()


def test_a_run_begun_with_less_memory_goes_on_as_it_began(tmp_path):
    onnxinfo.analyze(MODEL, IMAGES, tmp_path / "whole.h5", limit=2, layers=["relu"], memory_limit="1K")
    whole = read(tmp_path / "whole.h5")

    def interrupt(progress):
        if progress.layer and not progress.provisional:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        analyze(tmp_path, limit=2, layers=["relu"], memory_limit="1K", progress=interrupt)
    resumed = analyze(tmp_path, limit=2, layers=["relu"])
    assert resumed.finished.all()
    assert (resumed.maps == whole.maps).all()


@pytest.mark.parametrize("normalize_by", ["dataset", "sample"])
def test_memory_that_runs_out_halves_what_is_evaluated_at_once(tmp_path, monkeypatch, caplog, normalize_by):
    """A device that turns out to have room for five inputs gives the same as that batch size from the start."""
    whole = analyze(tmp_path, limit=6, normalize_by=normalize_by, layers=["relu"])
    call = Network.__call__

    def narrow(network, x, rows):
        if len(x) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return call(network, x, rows)

    monkeypatch.setattr(Network, "__call__", narrow)
    (tmp_path / "narrow").mkdir()
    less = analyze(tmp_path / "narrow", limit=6, normalize_by=normalize_by, layers=["relu"])
    assert less.finished.all()
    assert less.values["converged"].all()
    assert "batch size from here on: 5\n" in caplog.text
    error = np.hypot(whole.values["stderr"], less.values["stderr"])
    assert (abs(less.values["value"] - whole.values["value"]) < 0.02 + 5 * error).all()


def test_runs_share_a_file_and_a_taken_name_is_refused(tmp_path):
    analyze(tmp_path)
    with pytest.raises(onnxinfo.UsageError, match="digits-cnn"):
        analyze(tmp_path, seed=1)
    analyze(tmp_path, seed=1, run="other")
    with onnxinfo.open(tmp_path / "out.h5") as archive:
        assert set(archive.runs) == {"digits-cnn", "other"}


def test_a_batch_size_of_one_baked_in_changes_nothing(tmp_path):
    weight = normal(5, 16)
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weight"], ["hidden"], transB=1),
        helper.make_node("Relu", ["hidden"], ["y"]),
    ]

    def model(batch, rows):
        shapes = [("x", TensorProto.FLOAT, [batch, 4, 4])], [("y", TensorProto.FLOAT, [batch, 5])]
        return model_of(nodes, *shapes, {"weight": weight, "shape": np.array([rows, 16])})

    images = normal(3, 4, 4)
    baked = analyze(tmp_path, model(1, 1), images, layers=["y"], run="baked", std=1.0)
    free = analyze(tmp_path, model("N", -1), images, layers=["y"], run="free", std=1.0)
    assert baked.values["value"] == pytest.approx(free.values["value"], abs=1e-4)


def test_tokens_are_perturbed_at_their_embedding(tmp_path):
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["embedded"]),
        helper.make_node("MatMul", ["embedded", "weight"], ["hidden"]),
        helper.make_node("Tanh", ["hidden"], ["y"]),
    ]
    model = model_of(
        nodes,
        [("ids", TensorProto.INT64, ["N", 6])],
        [("y", TensorProto.FLOAT, ["N", 6, 3])],
        {"table": normal(20, 4), "weight": normal(4, 3, seed=1)},
    )
    ids = np.random.default_rng(0).integers(0, 20, (4, 6))
    run = analyze(tmp_path, model, ids, layers=["y"])
    assert run.axes == ("position", "embedding")
    assert run.recipe["perturbed"] == "embedded"
    assert np.isfinite(run.values["value"]).all()


def test_a_layer_that_ignores_the_input_is_at_the_cap(tmp_path):
    nodes = [helper.make_node("Mul", ["x", "zero"], ["nothing"]), helper.make_node("Add", ["nothing", "one"], ["y"])]
    model = model_of(
        nodes,
        [("x", TensorProto.FLOAT, ["N", 4])],
        [("y", TensorProto.FLOAT, ["N", 4])],
        {"zero": np.zeros(4, np.float32), "one": np.ones(4, np.float32)},
    )
    run = analyze(tmp_path, model, normal(3, 4), layers=["y"], std=1.0)
    assert run.values["value"] == pytest.approx(np.full((1, 3), 1.4189), abs=1e-3)
    assert (run.values["capped"] == 1).all()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"device": "cuda:99"}, onnxinfo.UsageError),
        ({"device": "tpu"}, onnxinfo.UsageError),
        ({"alpha": 0.0}, onnxinfo.UsageError),
        ({"alpha": float("nan")}, onnxinfo.UsageError),
        ({"sigma_max": -1.0}, onnxinfo.UsageError),
        ({"share_sigma": "grid:99"}, onnxinfo.UsageError),
        ({"memory_limit": "lots"}, onnxinfo.UsageError),
        ({"metrics": ["sidd"]}, onnxinfo.UsageError),
        ({"layers": ["relu_44"]}, onnxinfo.UsageError),
        ({"inputs": np.full((3, 1, 8, 8), np.nan, np.float32)}, onnxinfo.InputError),
        ({"inputs": np.ones((3, 1, 8, 8), np.float32)}, onnxinfo.InputError),
        ({"inputs": np.ones((3, 2, 8, 8), np.float32)}, onnxinfo.InputError),
    ],
)
def test_what_cannot_work_is_one_line_and_leaves_nothing(tmp_path, options, error):
    with pytest.raises(error) as raised:
        analyze(tmp_path, **options)
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("weight", [np.nan, np.inf, 3e38])
def test_weights_that_are_not_finite_are_one_line_that_names_the_layer(tmp_path, weight):
    weights = normal(6, 5)
    weights[0, 0] = weight
    nodes = [helper.make_node("MatMul", ["x", "W"], ["h"]), helper.make_node("Relu", ["h"], ["y"])]
    model = model_of(nodes, [("x", TensorProto.FLOAT, ["N", 6])], [("y", TensorProto.FLOAT, ["N", 5])], {"W": weights})
    with pytest.raises((onnxinfo.InputError, onnxinfo.ModelError), match=r"^[^\n]*'[Wy]'[^\n]*$"):
        analyze(tmp_path, model, normal(2, 6), layers=["y"], std=1.0)


def test_noise_in_bfloat16_gives_the_same_values_within_their_errors(tmp_path):
    precisions = "float32", "bfloat16"
    wide, narrow = (analyze(tmp_path, run=each, sid=onnxinfo.SidConfig(noise_precision=each)) for each in precisions)
    assert (wide.recipe["noise_precision"], narrow.recipe["noise_precision"]) == precisions
    apart = np.abs(narrow.values["value"] - wide.values["value"])
    assert (apart > 0).all(), "the network was evaluated in float32"
    assert (apart <= 4 * wide.values["stderr"] + 0.005).all()
    assert narrow.values["converged"].all()


@pytest.mark.parametrize(("begun", "able"), [(True, True), (False, True), (True, False)])
def test_a_run_goes_on_in_the_precision_that_it_was_begun_in(tmp_path, monkeypatch, begun, able):
    """A processor's speed is measured, so a resumed run might judge it differently, or be resumed on another one."""
    fast, ready, used = {"now": begun}, {"now": True}, []
    monkeypatch.setattr("onnxinfo.workflows.analyze.has_instructions", lambda device: ready["now"])
    monkeypatch.setattr("onnxinfo.metrics.noise_precision.is_fast", lambda device: fast["now"])
    monkeypatch.setattr("onnxinfo.metrics.sid.carried", lambda feature, _: used.append(feature.precision))
    analyze(tmp_path, limit=2)
    assert set(used) == {"auto" if begun else "float32"}
    used.clear()
    fast["now"], ready["now"] = not begun, able
    analyze(tmp_path, limit=4)
    assert set(used) == {"auto" if begun and able else "float32"}
    with onnxinfo.open(tmp_path / "out.h5") as archive:
        assert archive["digits-cnn"].provenance["noise_bfloat16"] is begun
