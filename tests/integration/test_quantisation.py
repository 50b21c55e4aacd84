"""Quantization in runs: what is recorded, and that runs of different precision are kept apart below the rounding."""

from __future__ import annotations

import contextlib
import math

import archive_fakes as fakes
import numpy as np
import onnx
import pytest
from graphs import model, node, quantized, value
from onnx import TensorProto, numpy_helper

import onnxinfo
from onnxinfo import UsageError
from onnxinfo.archive.format import mark_code
from onnxinfo.archive.means import limited_by_rounding, sound_alpha
from onnxinfo.config import InputConfig
from onnxinfo.graph.quantization import quantization
from onnxinfo.views.wording import rounding_text
from onnxinfo.workflows.open_model import open_model

ALPHA = 0.00432


def of_weights(*nodes: onnx.NodeProto) -> onnx.ModelProto:
    """Return a model of some nodes with a float weight, a quantized one, and scales."""
    weights = {
        "w": np.ones((4, 4), np.float32),
        "wq": np.ones((4, 4), np.int8),
        "s": np.float32(0.1),
        "z": np.int8(0),
    }
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    return model([*nodes], [value("x")], [value("y")], tensors, opset=21)


QUANTISE, DEQUANTISE = node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q s z", "d")


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ([node("MatMul", "x w", "y")], ""),
        ([QUANTISE, DEQUANTISE, node("MatMul", "d w", "y")], "QDQ"),
        ([node("DequantizeLinear", "wq s z", "d"), node("MatMul", "x d", "y")], "weights"),
        (
            [node("QuantizeLinear", "w s z", "q"), node("DequantizeLinear", "q s z", "d"), node("MatMul", "x d", "y")],
            "weights",
        ),
        (
            [QUANTISE, node("QLinearMatMul", "q s z wq s z s z", "r"), node("DequantizeLinear", "r s z", "y")],
            "QOperator",
        ),
        (
            [
                node("DynamicQuantizeLinear", "x", "q qs qz"),
                node("MatMulInteger", "q wq qz", "i"),
                node("Cast", "i", "y", to=TensorProto.FLOAT),
            ],
            "dynamic",
        ),
        ([node("MatMulNBits", "x wq s", "y", domain="com.microsoft", bits=4)], "weights"),
        ([node("MatMulNBits", "x wq s", "y", domain="com.microsoft", bits=4, accuracy_level=4)], "dynamic"),
    ],
)
def test_the_format_is_told_by_the_graph(nodes: list[onnx.NodeProto], expected: str) -> None:
    assert quantization(of_weights(*nodes)) == expected


def test_dequantized_runs_equal_those_of_the_float_network(tmp_path) -> None:
    """The rounding of the model limits a run, and the network that its integers stand for has none."""
    x = np.random.default_rng(1).normal(size=(3, 32)).astype(np.float32)
    options = {"layers": ["y"], "normalize_by": "sample", "std": 1.0, "mean": 0.0}
    plain = quantized(0.1)
    plain.graph.node[0].output[0] = "y"
    del plain.graph.node[1:]
    runs = {}
    for run, proto, dequantize in (("int", quantized(0.1), True), ("float", plain, False)):
        onnxinfo.analyze(proto, x, tmp_path / "a.h5", run=run, dequantize=dequantize, **options)
    with onnxinfo.open(tmp_path / "a.h5") as archive:
        for run in ("int", "float"):
            runs[run] = archive[run].values("sid")["value"]
        assert archive["int"].recipe["dequantize"] is True
        assert archive["int"].provenance["precision"] == "float"
        assert "dequantize" not in archive["float"].recipe
    np.testing.assert_allclose(runs["int"], runs["float"], atol=1e-3)


def test_another_network_of_the_same_file_has_decoders_of_its_own() -> None:
    opened = [open_model(quantized(0.1), InputConfig(dequantize=each)) for each in (False, True)]
    assert opened[0].sha256 == opened[1].sha256 == opened[0].identity != opened[1].identity


def test_bodies_count() -> None:
    """Quantized nodes in control flow count as nodes of the model."""
    inner = onnx.helper.make_graph([QUANTISE, node("DequantizeLinear", "q s z", "d")], "body", [], [value("d")])
    branch = onnx.helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    assert quantization(of_weights(branch)) == "QDQ"


@pytest.mark.parametrize(("step", "limited"), [(0.1, True), (0.001, False)])
def test_a_run_records_precision_and_the_least_sound_alpha(tmp_path, step, limited) -> None:
    x = np.random.default_rng(1).normal(size=(4, 32)).astype(np.float32)
    options = {"layers": ["y"], "normalize_by": "sample", "std": 1.0, "mean": 0.0}
    result = onnxinfo.analyze(quantized(step), x, tmp_path / "a.h5", **options)
    with onnxinfo.open(result.archive) as archive:
        run = archive[result.run]
        values = run.values("sid")
        assert (run.provenance["precision"], run.provenance["quantisation"]) == ("quantised", "QDQ")
    assert math.isnan(sound_alpha(values)) != limited
    if not limited:
        assert (values["resolution_alpha"] <= 1.5e-4).all()
        return
    alpha = sound_alpha(values)
    assert f"sound from alpha {alpha:.2g}" in rounding_text(values)
    sound = onnxinfo.analyze(quantized(step), x, tmp_path / "a.h5", run="sound", alpha=alpha, **options)
    with onnxinfo.open(sound.archive) as archive:
        assert not limited_by_rounding(archive["sound"].values("sid")).any()


def test_a_float_run_says_so(tmp_path) -> None:
    x = np.random.default_rng(1).normal(size=(2, 4)).astype(np.float32)
    result = onnxinfo.analyze(of_weights(node("MatMul", "x w", "y")), x, tmp_path / "a.h5", std=1.0)
    with onnxinfo.open(result.archive) as archive:
        provenance = archive[result.run].provenance
    assert provenance["precision"] == "float"
    assert provenance["quantisation"] == ""


@contextlib.contextmanager
def rounded():
    """Mark the unproven cell as limited by rounding."""
    original = fakes.cell

    def limited(metric, layer, sample, shape):
        map_, values = original(metric, layer, sample, shape)
        if "mark" in values:
            values["resolution_alpha"] = ALPHA / 100 if values["converged"] else ALPHA
            values["mark"] = values["mark"] if values["converged"] else mark_code("resolution")
        return map_, values

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fakes, "cell", limited)
        yield


def schema(quantization: str = "") -> object:
    described = fakes.schema(metrics=(fakes.PROVEN_SID,))
    precision = {"precision": "quantised" if quantization else "float", "quantisation": quantization}
    return fakes.schema(metrics=(fakes.PROVEN_SID,), provenance={**described.provenance, **precision})


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Return an archive with float and int8 runs above the rounding, and two int8 runs with one cell below it."""
    path = tmp_path_factory.mktemp("precision") / "a.h5"
    fakes.make(path, "float", schema())
    fakes.make(path, "int8 above", schema("QDQ"))
    with rounded():
        fakes.make(path, "int8 below", schema("QDQ"))
        fakes.make(path, "int8 twin", schema("QDQ"))
        fakes.make(path, "dynamic below", schema("dynamic"))
    return path


def compare(path, runs, output) -> None:
    onnxinfo.compare(path, run=runs)


def report(path, runs, output) -> None:
    onnxinfo.report(path, output / "r.html", run=runs)


def plot(kind):
    def draw(path, runs, output) -> None:
        onnxinfo.plot(path, kind, output / "p.png", run=runs)

    return draw


VIEWS = [compare, report, *(plot(kind) for kind in ("curve", "difference", "distribution", "history", "compare"))]


@pytest.mark.parametrize("view", VIEWS)
def test_runs_of_different_precision_are_refused_below_the_rounding(view, archive, tmp_path) -> None:
    for runs in (["float", "int8 below"], ["int8 below", "dynamic below"]):
        with pytest.raises(UsageError, match=r"below the network's own rounding.*an alpha of at least 0\.0044"):
            view(archive, runs, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("view", VIEWS)
def test_they_are_accepted_above_it_and_alike_below(view, archive, tmp_path) -> None:
    for runs in (["float", "int8 above"], ["int8 below", "int8 twin"]):
        view(archive, runs, tmp_path)
