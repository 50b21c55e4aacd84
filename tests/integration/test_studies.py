"""The studies run end to end at the smallest size, and their contrasts equal the archive's concentration."""

import json

import numpy as np
import pandas
import pytest

import onnxinfo
from onnxinfo.models import path

pytest.importorskip("torch")
pytest.importorskip("matplotlib")
from onnxinfo.models.studies import claims, compression, concentration, quantisation, training


def run(monkeypatch, study, *arguments):
    monkeypatch.setattr("sys.argv", ["study", *map(str, arguments)])
    study.main()


def test_compression(tmp_path, monkeypatch):
    pytest.importorskip("art")
    digits = path("digits.npz")
    run(
        monkeypatch, compression, path("digits-cnn.onnx"), "--inputs", f"{digits}:images", "--labels",
        f"{digits}:labels", "--keep", 1, 0.1, "--layers", "relu_6", "logits", "--limit", 1, "--attacked", 1,
        "-o", tmp_path,
    )  # fmt: skip
    first, second = json.loads((tmp_path / "compression.json").read_text())["rows"]
    assert first["last, change"] == 0
    assert first["accuracy"] > second["accuracy"]
    assert first["mean L2 norm"] > 0
    assert 0 < first["reached"] <= 1
    assert (tmp_path / "compression.png").exists()


def test_quantization(tmp_path, monkeypatch):
    digits = path("digits.npz")
    run(
        monkeypatch, quantisation, path("digits-cnn.onnx"), "--inputs", f"{digits}:images", "--labels",
        f"{digits}:labels", "--calibration", f"{digits}:images", "--layers", "relu", "--alphas", 0.01, 0.1,
        "--limit", 1, "--calibrated", 4, "-o", tmp_path,
    )  # fmt: skip
    rows = json.loads((tmp_path / "quantisation.json").read_text())["rows"]
    versions = ["float", "float, input clipped", "int8 QDQ", "int8 QOperator", "int8 dynamic", "int4 weights"]
    assert [(row["layer"], row["version"]) for row in rows] == [("relu", version) for version in versions]
    with onnxinfo.open(tmp_path / "quantisation-0.1.h5") as archive:
        formats = [archive[version].provenance.get("quantisation", "") for version in versions]
    assert formats == ["", "", "QDQ", "QOperator", "dynamic", "weights"]
    assert (tmp_path / "quantisation.png").exists()


def test_concentration(tmp_path, monkeypatch):
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (6, 24, 24, 3), dtype=np.uint8)
    boxes = np.array([[2, 3, 12, 14]] * 3 + [[8, 8, 20, 18]] * 3)
    np.savez(tmp_path / "data.npz", images=images, labels=np.arange(6) % 2, boxes=boxes)
    run(
        monkeypatch, concentration, tmp_path / "data.npz", "--network", "alexnet", "--layers", "relu_1",
        "--side", 32, "--epochs", 1, "--folds", 2, "--limit", 2, "-o", tmp_path,
    )  # fmt: skip
    (row,) = json.loads((tmp_path / "alexnet.json").read_text())["rows"]
    with onnxinfo.open(tmp_path / "alexnet.h5") as archive:
        values = np.concatenate([archive[f"trained {fold}"].values("concentration")["value"][0] for fold in (0, 1)])
    assert row["images"] == 4
    assert row["trained"] == pytest.approx(values.mean(), abs=1e-3)


def test_own_and_others_masks():
    generator = np.random.default_rng(0)
    maps, masks = generator.normal(size=(4, 3, 5, 6)), generator.random((4, 5, 6)) < 0.4
    own, others = concentration.contrasts(maps, masks)
    contrast = [[m[:, ~mask].mean() - m[:, mask].mean() for mask in masks] for m in maps]
    np.testing.assert_allclose(own, np.diag(contrast))
    np.testing.assert_allclose(others, [np.delete(row, i).mean() for i, row in enumerate(contrast)])


def small_study(folder, monkeypatch):
    """Write random images, and let networks be measured in two layers; return the arguments of a study."""
    generator = np.random.default_rng(0)
    pixels = {key: generator.integers(0, 256, (32, 16, 16, 3), dtype=np.uint8) for key in ("x_train", "x_test")}
    np.savez(folder / "data.npz", **pixels, y_train=np.arange(32) % 3, y_test=np.arange(32) % 3)
    analyze = onnxinfo.analyze

    def analyze_two_layers(model, *arguments, **options):
        layers = [layer.name for layer in onnxinfo.list_layers(model) if layer.default][:2]
        return analyze(model, *arguments, layers=layers, **options)

    monkeypatch.setattr(onnxinfo, "analyze", analyze_two_layers)
    return folder / "data.npz", "--epochs", 1, "-o", folder


@pytest.mark.parametrize("study", [*training.STUDIES])
def test_training(study, tmp_path, monkeypatch):
    arguments = small_study(tmp_path, monkeypatch)
    run(monkeypatch, training, study, *arguments, "--seeds", 0, "--limit", 1)
    found = pandas.read_csv(tmp_path / f"{study}.csv")
    assert [*dict.fromkeys(found.network)] == [*training.networks(tmp_path / f"{study}-0")]
    assert len(found) == 2 * found.network.nunique()
    assert np.isfinite(found.value[found.converged]).all()
    assert {*claims.SHOWN[study]} - {"a quarter"} <= {*found.network}


def test_a_study_resumes_with_new_seeds_and_images_and_trains_each_network_once(tmp_path, monkeypatch):
    arguments = small_study(tmp_path, monkeypatch)
    trained = []

    def train(data):
        trained.append(data.seed)
        return {"original": data.export(data.network(data.plan(training.VGG)))}

    monkeypatch.setitem(training.STUDIES, "damage", train)
    run(monkeypatch, training, "damage", *arguments, "--seeds", 0, 1, "--limit", 1)
    first = pandas.read_csv(tmp_path / "damage.csv")
    run(monkeypatch, training, "damage", *arguments, "--seeds", 1, 2, "--limit", 2)
    run(monkeypatch, training, "damage", *arguments, "--seeds", 2, "--limit", 2, "--normalize-by", "dataset")
    found = pandas.read_csv(tmp_path / "damage.csv")
    assert trained == [0, 1, 2]
    counts = found.groupby(["seed", "normalizer"]).image.nunique().to_dict()
    assert counts == {(0, "sample"): 1, (1, "sample"): 2, (2, "sample"): 2, (2, "dataset"): 2}
    again = found.merge(first, on=["seed", "normalizer", "layer", "image"], suffixes=("", "_before"))
    assert len(again) == len(first)
    assert (again.value == again.value_before).all()
    assert found[found.layer == "relu_1"].groupby("seed").value.first().nunique() == 3
