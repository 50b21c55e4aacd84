"""Layers behind integers and truth values: no gradient reaches them, and `layers` and `check` say so."""

from __future__ import annotations

import json
from typing import Any

import onnx
import pytest
from click.testing import CliRunner
from graphs import constant, model, node, value, weight
from onnx import TensorProto, helper

from onnxinfo import check_model
from onnxinfo.cli import cli
from onnxinfo.torch_graph.reach import reasons_unreached

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
CODES = [node("ArgMax", "h", "i", axis=1, keepdims=0), node("Gather", "codes i", "q")]
BEHIND = {
    "cast and back": [node("Cast", "h", "i", to=INT64), node("Cast", "i", "y", to=FLOAT)],
    "cast to a small integer": [node("Cast", "h", "i", to=TensorProto.INT32), node("Cast", "i", "y", to=FLOAT)],
    "comparison": [node("Greater", "h zero", "b"), node("Cast", "b", "y", to=FLOAT)],
    "code book": [node("ArgMax", "h", "i", axis=1, keepdims=0), node("Gather", "codes i", "y")],
    "sign": [node("Sign", "h", "y")],
    "straight-through": [*CODES, node("Sub", "q h", "d"), node("Add", "h d", "y")],
    "straight-through, swapped": [*CODES, node("Sub", "q h", "d"), node("Add", "d h", "y")],
}
BESIDE = {
    "mask": [node("Greater", "h zero", "b"), node("Cast", "b", "m", to=FLOAT), node("Mul", "h m", "y")],
    "choice": [node("Greater", "h zero", "b"), node("Where", "b h zero", "y")],
    "shape": [node("Shape", "h", "s"), node("Expand", "h s", "y")],
    "rounding": [node("Round", "h", "y")],
    "residual of codes": [*CODES, node("Sub", "q h", "d"), node("Add", "d d", "y")],
    "sum with codes": [*CODES, node("Sub", "h q", "d"), node("Add", "h d", "y")],
}


def network(behind: list[onnx.NodeProto]) -> onnx.ModelProto:
    constants = [weight("w", 4, 4), weight("codes", 4, 4), constant("zero", 0, "float32")]
    return model([node("MatMul", "x w", "h"), *behind], [value("x")], [value("y")], constants)


@pytest.mark.parametrize("name", BEHIND)
def test_layers_behind_integers_are_not_reached(name: str) -> None:
    proto = network(BEHIND[name])
    found = reasons_unreached(proto, "x", ["h", "y"])
    assert list(found) == ["y"]
    assert f"node '{BEHIND[name][0].name}'" in found["y"]
    check = check_model(proto)
    assert "h" in check.reached
    assert "y" in check.unreached


@pytest.mark.parametrize("name", BESIDE)
def test_layers_with_another_way_are_reached(name: str) -> None:
    assert reasons_unreached(network(BESIDE[name]), "x", ["h", "y"]) == {}


@pytest.mark.parametrize("operator", ["Hardmax", "Binarizer"])
def test_layers_behind_floats_without_gradient_are_not_reached(operator: str) -> None:
    """No integer and no sign is on the way: the operator has no differentiable converter."""
    domain = "ai.onnx.ml" if operator == "Binarizer" else ""
    proto = model(
        [node("MatMul", "x w", "h"), node(operator, "h", "y", domain=domain)],
        [value("x")],
        [value("y")],
        [weight("w", 4, 4)],
        imports=[helper.make_opsetid("ai.onnx.ml", 3)],
    )
    assert list(reasons_unreached(proto, "x", ["h", "y"])) == ["y"]


def test_the_command_says_what_reaches_a_layer(tmp_path: Any) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(network(BEHIND["code book"]), path)
    done = CliRunner().invoke(cli, ["layers", str(path), "--all", "--format", "json"])
    rows = {row["name"]: row["solver"] for row in json.loads(done.stdout)}
    assert rows == {"h": "gradient", "y": "forward"}
    assert "no gradient reaches 1 of 2 layers from 'x'" in done.stderr
