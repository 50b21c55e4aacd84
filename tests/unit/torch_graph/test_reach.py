"""Layers that no gradient reaches are reported before any work, in one line that names the node."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from graphs import constant, model, node, value, weight
from onnx import TensorProto, helper

import onnxinfo
from onnxinfo import ConversionError

X = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)


def behind(*nodes: onnx.NodeProto) -> onnx.ModelProto:
    """A dense layer ``h``, some nodes that compute ``s`` from it, and a dense layer ``y`` of that."""
    chain = [node("MatMul", "x w", "h"), *nodes, node("MatMul", "s v", "y")]
    constants = [weight("w", 4, 4), weight("v", 4, 3), constant("zero", 0, np.float32), constant("k", [2])]
    imports = [helper.make_opsetid("ai.onnx.ml", 3)]
    return model(chain, [value("x")], [value("y", ("N", 3))], constants, imports=imports)


CASES = {
    "Cast": [node("Cast", "h", "i", to=TensorProto.INT32), node("Cast", "i", "s", to=TensorProto.FLOAT)],
    "Greater": [node("Greater", "h zero", "b"), node("Cast", "b", "s", to=TensorProto.FLOAT)],
    "Sign": [node("Sign", "h", "s")],
    "ArgMax": [
        node("ArgMax", "h", "i", axis=1),
        node("Cast", "i", "f", to=TensorProto.FLOAT),
        node("Expand", "f four", "s"),
    ],
    "Hardmax": [node("Hardmax", "h", "s")],
    "Binarizer": [node("Binarizer", "h", "s", domain="ai.onnx.ml", threshold=0.0)],
}


def case(operator: str) -> onnx.ModelProto:
    proto = behind(*CASES[operator])
    if operator == "ArgMax":
        proto.graph.initializer.append(constant("four", [1, 4]))
    return proto


def analyzed(proto: onnx.ModelProto, folder: Path, **options: Any) -> Any:
    # A solver that only takes gradients: others solve such layers without.
    result = onnxinfo.analyze(
        proto, X, folder / "run.h5", normalize_by="sample", std=1.0, solver="reference", limit=1, **options
    )
    with onnxinfo.open(result.archive) as archive:
        return [layer.name for layer in archive[result.run].layers]


@pytest.mark.parametrize("operator", CASES)
def test_a_layer_that_is_named_is_refused(tmp_path: Path, operator: str) -> None:
    with pytest.raises(ConversionError) as caught:
        analyzed(case(operator), tmp_path, layers=["h", "y"])
    message = str(caught.value)
    first = CASES[operator][0]
    assert (
        f"no gradient reaches layer 'y': node '{first.name}' ({first.domain or 'ai.onnx'}.{operator}, opset" in message
    )
    assert "layers that are reached: 'h'" in message
    assert len(message.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("operator", CASES)
def test_a_default_layer_is_left_out(tmp_path: Path, operator: str, caplog: pytest.LogCaptureFixture) -> None:
    assert analyzed(case(operator), tmp_path) == ["h"]
    assert f"left out: no gradient reaches layer 'y': node '{CASES[operator][0].name}'" in caplog.text


def test_gradients_of_a_straight_through_estimator_cancel(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    code = [node("Greater", "h zero", "b"), node("Cast", "b", "q", to=TensorProto.FLOAT)]
    assert analyzed(behind(*code, node("Sub", "q h", "d"), node("Add", "h d", "s")), tmp_path) == ["h"]
    assert "left out: no gradient reaches layer 's': node '/b'" in caplog.text


def test_gradients_of_other_residuals_do_not_cancel(tmp_path: Path) -> None:
    code = [node("Greater", "h zero", "b"), node("Cast", "b", "q", to=TensorProto.FLOAT), node("Sub", "q h", "d")]
    assert analyzed(behind(*code, node("Mul", "h d", "s")), tmp_path) == ["h", "y"]


def test_no_default_layer_is_reached(tmp_path: Path) -> None:
    nodes = [node("Sign", "x", "s"), node("MatMul", "s w", "y")]
    proto = model(nodes, [value("x")], [value("y", ("N", 3))], [weight("w", 4, 3)])
    with pytest.raises(
        ConversionError, match=r"no gradient reaches layer 'y': node '/s'.*, nor does one reach any other default layer"
    ):
        analyzed(proto, tmp_path)


def test_a_second_way_around_the_node_is_enough(tmp_path: Path) -> None:
    nodes = [node("Greater", "h zero", "b"), node("Cast", "b", "f", to=TensorProto.FLOAT), node("Mul", "f h", "s")]
    assert analyzed(behind(*nodes), tmp_path, layers=["y"]) == ["y"]


def test_rounding_that_passes_the_gradient_on_is_no_obstacle(tmp_path: Path) -> None:
    assert analyzed(behind(node("Floor", "h", "s")), tmp_path, layers=["y"]) == ["y"]


def test_maps_of_gradients_behind_a_cast_are_unproven(tmp_path: Path) -> None:
    """The highest score has no gradient by the layer before the cast, which is not an error of the whole run."""
    result = onnxinfo.analyze(case("Cast"), X, tmp_path / "run.h5", metrics=["gradient"], layers=["h"])
    with onnxinfo.open(result.archive) as archive:
        found = archive[result.run].values("gradient")
    assert not found["converged"].any()
    assert np.isnan(found["value"]).all()
