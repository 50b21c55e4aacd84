"""Similarity of the layers of two networks."""

from __future__ import annotations

import json

import graphs
import numpy as np
import pytest
from click.testing import CliRunner

import onnxinfo
from onnxinfo import UsageError
from onnxinfo.cli import cli
from onnxinfo.models import path

CNN, IMAGES = path("digits-cnn.onnx"), f"{path('digits.npz')}:images"
SAMPLES = np.random.default_rng(0).standard_normal((30, 4)).astype(np.float32)


def network(weights):
    constants = [graphs.constant("w", weights, np.float32), graphs.weight("v", 4, 3)]
    nodes = [graphs.node("MatMul", "x w", "y"), graphs.node("MatMul", "y v", "z")]
    return graphs.model(nodes, [graphs.value("x")], [graphs.value("z", ("N", 3))], constants)


def test_a_network_is_like_itself():
    rows = onnxinfo.similarity(CNN, CNN, IMAGES, layers=["relu", "logits"], limit=20)
    found = {(row["layer"], row["other_layer"]): row["cka"] for row in rows}
    assert found["relu", "relu"] == pytest.approx(1, abs=1e-9)
    assert found["relu", "logits"] == pytest.approx(found["logits", "relu"], abs=1e-9)
    assert 0.2 < found["relu", "logits"] < 0.9


def test_an_unusable_network_is_refused_before_any_work():
    told = []
    with pytest.raises(onnxinfo.OnnxinfoError, match="the model takes 16"):
        onnxinfo.similarity(CNN, path("torch-text-transformer.onnx"), IMAGES, limit=8, progress=told.append)
    assert told == []


def test_it_is_the_metric_of_an_archive(tmp_path):
    result = onnxinfo.analyze(CNN, IMAGES, tmp_path / "a.h5", layers=["relu", "logits"], metrics=["cka"], limit=20)
    rows = onnxinfo.similarity(CNN, CNN, IMAGES, layers=["relu"], other_layers="logits", limit=20)
    (cell,) = onnxinfo.query(result.archive, layers=["relu"])
    assert (rows[0]["cka"], rows[0]["stderr"]) == pytest.approx((cell["value"], cell["stderr"]))


def test_a_rotated_network_is_the_same_and_one_that_drops_inputs_is_not():
    rotation, _ = np.linalg.qr(np.random.default_rng(1).standard_normal((4, 4)))
    same = onnxinfo.similarity(network(np.eye(4)), network(rotation), SAMPLES, layers=["y"])
    assert same[0]["cka"] == pytest.approx(1, abs=1e-5)
    half = onnxinfo.similarity(network(np.eye(4)), network(np.diag([1, 1, 0, 0])), SAMPLES, layers=["y"])
    # Half of the variance, of standard normal inputs.
    assert half[0]["cka"] == pytest.approx(np.sqrt(1 / 2), abs=4 * half[0]["stderr"])
    assert half[0]["stderr"] > 0


def test_too_few_samples():
    with pytest.raises(UsageError, match="at least 5 expected, 4 given"):
        onnxinfo.similarity(network(np.eye(4)), network(np.eye(4)), SAMPLES[:4])


def test_the_command(tmp_path):
    command = ["similarity", str(CNN), str(CNN), "--inputs", IMAGES, "--limit", "10", "--layers", "logits"]
    result = CliRunner().invoke(cli, [*command, "--format", "json", "-o", str(tmp_path / "a.json")], obj={})
    assert result.exit_code == 0, result.output
    (row,) = json.loads((tmp_path / "a.json").read_text())
    assert row["cka"] == pytest.approx(1)
