"""CKA, V-information and linear probes as metrics of an archive."""

from __future__ import annotations

import graphs
import numpy as np
import pytest

import onnxinfo
from onnxinfo import UsageError
from onnxinfo.models import path

CNN, DIGITS = path("digits-cnn.onnx"), path("digits.npz")
IMAGES, LABELS = f"{DIGITS}:images", f"{DIGITS}:labels"
CHOSEN = {"layers": ["relu", "relu_6", "logits"], "metrics": ["cka", "vinfo", "probe"], "labels": LABELS}


def numbers(result, metric):
    with onnxinfo.open(result.archive) as archive:
        run = archive[result.run]
        return dict(zip([layer.name for layer in run.layers], run.values(metric)["value"], strict=True))


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    return onnxinfo.analyze(CNN, IMAGES, tmp_path_factory.mktemp("labels") / "a.h5", **CHOSEN)


def test_a_deeper_layer_is_more_like_the_scores_and_tells_more(result):
    for metric in ("cka", "vinfo", "probe"):
        means = {layer: each.mean() for layer, each in numbers(result, metric).items()}
        assert means["relu"] < means["relu_6"] <= means["logits"] + 1e-9
    np.testing.assert_allclose(numbers(result, "cka")["logits"], 1.0, atol=1e-6)
    assert numbers(result, "vinfo")["logits"].mean() < np.log(10)
    with onnxinfo.open(result.archive) as archive:
        run = archive[result.run]
        assert run.recipe["cka_reference"] == "logits"
        assert (run.values("vinfo")["control"].mean(1) < 0.2).all()
        assert (run.values("probe")["correct_control"].mean(1) < 0.35).all()
    assert onnxinfo.validate(result.archive).violations == ()


def test_views_treat_them_like_other_metrics(result, tmp_path):
    for metric in CHOSEN["metrics"]:
        onnxinfo.plot(result, "curve", tmp_path / f"{metric}.svg", metric=metric)
    rows = onnxinfo.query(result.archive, metrics=["vinfo"], fields=["control"])
    assert {"value", "stderr", "control"} <= {*rows[0]}
    assert len(onnxinfo.power(result, 0.1, metrics=["cka"])) == 2


def test_a_rotated_layer_has_the_same_cka(tmp_path):
    generator = np.random.default_rng(0)
    x = generator.standard_normal((12, 4)).astype(np.float32)
    rotation, _ = np.linalg.qr(generator.standard_normal((4, 4)))
    constants = [graphs.constant("q", rotation, np.float32), graphs.weight("v", 4, 3)]
    found = []
    for name, first in (("a", graphs.node("MatMul", "x q", "y")), ("b", graphs.node("Identity", "x", "y"))):
        nodes = [first, graphs.node("MatMul", "x v", "z")]
        model = graphs.model(nodes, [graphs.value("x")], [graphs.value("z", ("N", 3))], constants)
        result = onnxinfo.analyze(model, x, tmp_path / f"{name}.h5", metrics=["cka"], layers=["y", "z"])
        found.append(numbers(result, "cka")["y"])
    np.testing.assert_allclose(*found, rtol=1e-4)


def test_a_run_that_grows_computes_all_samples_again(tmp_path):
    labels = np.arange(20) % 3
    x = np.random.default_rng(0).standard_normal((20, 4), dtype=np.float32) + 3 * np.eye(4, dtype=np.float32)[labels]
    nodes = [graphs.node("MatMul", "x w", "h"), graphs.node("Relu", "h", "y"), graphs.node("MatMul", "y v", "z")]
    weights = [graphs.weight("w", 4, 6), graphs.weight("v", 6, 3)]
    model = graphs.model(nodes, [graphs.value("x")], [graphs.value("z", ("N", 3))], weights)
    chosen = CHOSEN | {"layers": ["y", "z"], "labels": labels}
    onnxinfo.analyze(model, x, tmp_path / "a.h5", limit=15, **chosen)
    grown = onnxinfo.analyze(model, x, tmp_path / "a.h5", limit=20, **chosen)
    whole = onnxinfo.analyze(model, x, tmp_path / "b.h5", limit=20, **chosen)
    assert numbers(grown, "probe")["y"].shape == (20,)
    for metric in chosen["metrics"]:
        first, second = numbers(grown, metric), numbers(whole, metric)
        for layer in first:
            np.testing.assert_array_equal(first[layer], second[layer])


def test_workers_look_up_the_same_values(quick_workers, result, tmp_path):
    found = onnxinfo.analyze(CNN, IMAGES, tmp_path / "a.h5", workers=2, **CHOSEN)
    for layer, each in numbers(found, "probe").items():
        np.testing.assert_array_equal(each, numbers(result, "probe")[layer])


def test_a_part_of_a_layer(tmp_path):
    """One score tells one class from the others."""
    chosen = CHOSEN | {"layers": ["logits", "logits[3]"]}
    found = numbers(onnxinfo.analyze(CNN, IMAGES, tmp_path / "a.h5", **chosen), "vinfo")
    assert 0.05 < found["logits[3]"].mean() < found["logits"].mean() - 1


def test_a_layer_that_two_samples_activate_has_no_cka(tmp_path):
    """Without one of them nothing varies, so that the jackknife is 0/0."""
    x = np.full((20, 2), -1, dtype=np.float32)
    x[4, 0] = x[9, 1] = 1.0
    x -= np.random.default_rng(0).random((20, 2), dtype=np.float32) / 2
    nodes = [graphs.node("Relu", "x", "y"), graphs.node("Add", "x y", "s"), graphs.node("MatMul", "s v", "z")]
    shapes = [graphs.value("z", ("N", 3))]
    model = graphs.model(nodes, [graphs.value("x", ("N", 2))], shapes, [graphs.weight("v", 2, 3)])
    result = onnxinfo.analyze(model, x, tmp_path / "a.h5", metrics=["cka"], layers=["y", "s", "z"])
    with onnxinfo.open(result.archive) as archive:
        run = archive[result.run]
        cells = run.values("cka")
        assert [layer.name for layer in run.layers] == ["y", "s", "z"]
    assert np.isnan(cells["value"][0]).all()
    assert not cells["converged"][0].any()
    assert np.isfinite(cells["value"][1:]).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": None, "metrics": ["vinfo"]}, "vinfo needs to know the classes; give labels"),
        ({"labels": None, "metrics": ["probe"]}, "needs to know the classes; give labels"),
        ({"labels": np.zeros(50, int)}, "all 50 samples have the same"),
        ({"labels": np.arange(50)}, "at least 3 samples of each class, and '0' has 1"),
        ({"labels": np.arange(50) // 2}, "at least 3 samples of each class, and '0' has 2"),
        ({"metrics": ["cka"], "limit": 4}, "at least 5 expected, 4 given"),
    ],
)
def test_bad_requests_are_refused_in_a_line(changes, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        onnxinfo.analyze(CNN, IMAGES, tmp_path / "a.h5", **(CHOSEN | changes))
    assert not (tmp_path / "a.h5").exists()
