"""Cells of a saturated layer say so by name, in the archive, in tables and when they are computed."""

import logging

import graphs
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from graphs import constant, model, node, value, weight
from onnx import TensorProto, helper

import onnxinfo
from onnxinfo import load
from onnxinfo.analysis.saturation import saturated_samples
from onnxinfo.cli import cli
from onnxinfo.graph.saturation import Saturating, saturating
from onnxinfo.models import path as bundled

X = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)


def head(operator, factor):
    nodes = [
        *(node("MatMul", "x w", "h"), node("Mul", "h factor", "scores"), node(operator, "scores", "p")),
        node("Flatten", "p", "y"),
    ]
    constants = [weight("w", 4, 4), constant("factor", factor, np.float32)]
    return model(nodes, [value("x")], [value("y", None)], constants)


def test_saturated_probabilities_are_named(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        onnxinfo.analyze(head("Softmax", 1e4), X, tmp_path / "a.h5", layers=["scores", "y"], std=1.0)
    message = "'y' is saturated at 3 of 3 samples, whose values are unproven; analyze the scores before it, 'scores'"
    assert [record.getMessage() for record in caplog.records] == [message]
    marks = [row["mark"] for row in onnxinfo.query(tmp_path / "a.h5", per="sample")]
    assert marks == ["converged"] * 3 + ["saturated_output"] * 3
    assert "3 saturated_output" in CliRunner().invoke(cli, ["query", str(tmp_path / "a.h5"), "--format", "csv"]).output


def test_gates_that_inputs_in_other_units_saturate_are_not_called_steps(tmp_path, caplog):
    """The network was trained on numbers in [0, 1] and is given pixels: the gates tip over, but smoothly."""
    pixels = np.load(bundled("digits.npz"))["images"].astype(np.float32)
    with caplog.at_level(logging.WARNING):
        onnxinfo.analyze(bundled("keras-digits-gru.onnx"), pixels, tmp_path / "a.h5", layers=[-2], limit=2, seed=1)
    assert "limited by" not in caplog.text
    rows = onnxinfo.query(tmp_path / "a.h5", per="sample")
    assert all(row["converged"] for row in rows)
    # Taken for steps, the samples ended near -4.5.
    assert [row["value"] for row in rows] == pytest.approx([-1.47, -1.74], abs=0.1)


@pytest.mark.parametrize(
    ("kind", "rows", "expected"),
    [
        ("shares", [[0.999, 0.001, 0], [0.9, 0.1, 0], [1, 0, 0]], [True, False, True]),
        ("shares", [[1e-3] * 1000], [False]),
        ("shares", [[0.999], [0.5]], [True, False]),
        ("each", [[0.999, 0.001], [0.999, 0.5], [0, 0]], [True, False, True]),
        ("signs", [[-0.999, 1], [0, 1]], [True, False]),
        ("each", [[]], [False]),
    ],
)
def test_what_counts_as_saturated(kind, rows, expected):
    assert saturated_samples(Saturating(kind, "z"), torch.tensor(rows)).tolist() == expected
    assert saturated_samples(None, torch.tensor(rows)) is None


def of(nodes, name, *, imports=(), outputs=None):
    proto = model(nodes, [value("x")], outputs or [value("y", None)], [weight("w", 4, 4)], imports=imports)
    return saturating(load(proto).flow, name)


@pytest.mark.parametrize("operator", ["Softmax", "Sigmoid", "HardSigmoid", "Tanh"])
def test_saturating_operators_and_their_scores(operator):
    nodes = [node("MatMul", "x w", "z"), node(operator, "z", "p"), node("Flatten", "p", "y")]
    found = of(nodes, "y")
    assert found is not None
    assert found.scores == "z"
    assert of(nodes, "z") is None


@pytest.mark.parametrize(
    "after",
    [
        [node("LogSoftmax", "z", "l"), node("Exp", "l", "y")],
        [node("LogSoftmax", "z", "l"), node("Identity", "l", "k"), node("Exp", "k", "y")],
    ],
)
def test_probabilities_in_two_steps(after):
    proto = model([node("MatMul", "x w", "z"), *after], [value("x")], [value("y", None)], [weight("w", 4, 4)])
    assert saturating(load(proto).flow, "y") == Saturating("shares", "z")
    assert [layer.name for layer in onnxinfo.list_layers(proto) if layer.default] == ["z"]


@pytest.mark.parametrize("after", [[node("Exp", "z", "y")], [node("Clip", "z low high", "y")]])
def test_other_exponentials_and_limits_do_not_saturate(after):
    constants = [weight("w", 4, 4), constant("low", 0, np.float32), constant("high", 6, np.float32)]
    proto = model([node("MatMul", "x w", "z"), *after], [value("x")], [value("y", None)], constants)
    assert saturating(load(proto).flow, "y") is None


@pytest.mark.parametrize(("transform", "saturates"), [("SOFTMAX", True), ("LOGISTIC", True), ("NONE", False)])
def test_classifiers_with_a_transformation_at_the_end(transform, saturates):
    classifier = helper.make_node(
        "LinearClassifier", ["x"], ["label", "y"], domain="ai.onnx.ml", post_transform=transform,
        coefficients=[1.0] * 8, intercepts=[0.0, 0.0], classlabels_ints=[0, 1],
    )  # fmt: skip
    outputs = [value("label", None, TensorProto.INT64), value("y", None)]
    found = of([classifier], "y", imports=[helper.make_opsetid("ai.onnx.ml", 3)], outputs=outputs)
    assert (found is not None) is saturates


def test_integers_that_stand_for_probabilities_are_left_alone():
    proto = graphs.quantized(0.1)
    assert saturating(load(proto).flow, "q") is None
