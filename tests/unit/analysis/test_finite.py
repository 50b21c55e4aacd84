"""Unusable numbers are reported in one line, and nothing is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from graphs import constant, model, node, value
from onnx import numpy_helper

import onnxinfo
from onnxinfo import ModelError
from onnxinfo.cli import cli

X = np.random.default_rng(0).standard_normal((3, 6)).astype(np.float32)
W = np.random.default_rng(1).standard_normal((6, 5)).astype(np.float32)


def dense(*weights: tuple[int, int, float], behind: str = "Relu") -> onnx.ModelProto:
    changed = W.copy()
    for row, column, number in weights:
        changed[row, column] = number
    nodes = [node("MatMul", "x w", "h"), node(behind, "h", "y")]
    return model(nodes, [value("x", ("N", 6))], [value("y", ("N", 5))], [numpy_helper.from_array(changed, "w")])


def refusal(folder: Path, proto: onnx.ModelProto, samples: Any = X, **options: Any) -> str:
    """The error message of an analysis, which leaves no archive."""
    options = {"layers": ["y"], "normalize_by": "sample", "std": 1.0} | options
    with pytest.raises(onnxinfo.OnnxinfoError) as caught:
        onnxinfo.analyze(proto, samples, folder / "run.h5", **options)
    assert list(folder.iterdir()) == []
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


@pytest.mark.parametrize(
    ("number", "what"),
    [(np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "infinity"), (3e38, "square"), (-1e19, "square")],
)
def test_a_weight_is_named(tmp_path: Path, number: float, what: str) -> None:
    message = refusal(tmp_path, dense((0, 0, number)))
    assert "initializer 'w' of node '/h' (MatMul) holds" in message
    assert what in message


def test_a_weight_that_is_computed_is_named(tmp_path: Path) -> None:
    proto = dense((2, 1, np.nan))
    proto.graph.initializer[0].CopyFrom(
        numpy_helper.from_array(numpy_helper.to_array(proto.graph.initializer[0]).T, "v")
    )
    proto.graph.node.insert(0, node("Transpose", "v", "w"))
    assert "initializer 'v'" in refusal(tmp_path, proto)


def test_the_command_ends_in_one_line(tmp_path: Path) -> None:
    onnx.save(dense((0, 0, np.nan)), tmp_path / "net.onnx")
    np.save(tmp_path / "x.npy", X)
    arguments = [
        "analyze",
        str(tmp_path / "net.onnx"),
        "--inputs",
        str(tmp_path / "x.npy"),
        "-o",
        str(tmp_path / "run.h5"),
    ]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 1
    assert isinstance(result.exception, ModelError)
    assert not (tmp_path / "run.h5").exists()


def test_infinite_bounds_and_masks_are_no_fault(tmp_path: Path) -> None:
    """Scores at masked positions are minus infinity, their softmax is 0."""
    nodes = [
        node("MatMul", "x w", "h"),
        node("Add", "h mask", "scores"),
        node("Softmax", "scores", "p"),
        node("Clip", "p low high", "y"),
    ]
    constants = [
        numpy_helper.from_array(W, "w"),
        constant("mask", [0, 0, 0, -np.inf, 0], np.float32),
        constant("low", -np.inf, np.float32),
        constant("high", np.inf, np.float32),
    ]
    proto = model(nodes, [value("x", ("N", 6))], [value("y", ("N", 5))], constants)
    result = onnxinfo.analyze(proto, X, tmp_path / "run.h5", layers=["y"], normalize_by="sample", std=1.0)
    with onnxinfo.open(result.archive) as archive:
        assert np.isfinite(archive[result.run].table("sample")["value"]).all()


def test_a_layer_that_overflows_is_named_with_the_tensor_it_begins_in(tmp_path: Path) -> None:
    nodes = [node("MatMul", "x w", "h"), node("Exp", "h", "e"), node("Mul", "e e", "y")]
    proto = model(nodes, [value("x", ("N", 6))], [value("y", ("N", 5))], [numpy_helper.from_array(W, "w")])
    samples = X.copy()
    samples[2] = 100 * np.sign(W[:, 0])
    message = refusal(tmp_path, proto, samples)
    assert "layer 'y' is not finite at sample input[2]: infinity first in tensor 'e' (Exp)" in message


def test_a_layer_that_is_no_number_is_named(tmp_path: Path) -> None:
    message = refusal(tmp_path, dense(behind="Sqrt"))
    assert "layer 'y' is not finite at sample input[" in message
    assert "NaN first in tensor 'y' (Sqrt)" in message


def test_a_gradient_that_overflows_is_named(tmp_path: Path) -> None:
    """Values below 1e19, slopes of 2e37."""
    nodes = [node("Mul", "x large", "h"), node("Mul", "h large", "g"), node("Sin", "g", "y")]
    proto = model(nodes, [value("x", ("N", 6))], [value("y", ("N", 6))], [constant("large", 5e18, np.float32)])
    message = refusal(tmp_path, proto)
    assert "the squared gradient of layer 'y' is not finite at sample input[0]" in message


def test_a_gradient_that_is_no_number_is_solved_without(tmp_path: Path) -> None:
    """As after power transforms of scikit-learn: of the roots of negative numbers, none is used."""
    nodes = [node("Greater", "x zero", "b"), node("Sqrt", "x", "r"), node("Where", "b r x", "y")]
    proto = model(nodes, [value("x", ("N", 6))], [value("y", ("N", 6))], [constant("zero", 0, np.float32)])
    message = refusal(tmp_path, proto)
    assert "the gradient of layer 'y' is not a number at sample input[0]" in message
    assert "solver='forward'" in message
    result = onnxinfo.analyze(proto, X, tmp_path / "a.h5", solver="forward")
    with onnxinfo.open(result.archive) as archive:
        assert archive[result.run].values("sid")["converged"].all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_sample_that_is_no_number_is_named(tmp_path: Path, bad: float) -> None:
    samples = X.copy()
    samples[1, 3] = bad
    assert "sample input[1] has NaN or infinite values" in refusal(tmp_path, dense(), samples)


@pytest.mark.parametrize("std", [None, 1.0])
@pytest.mark.parametrize("number", [1e30, -1e20])
def test_a_sample_of_absurd_size_is_named(tmp_path: Path, number: float, std: float | None) -> None:
    samples = X.copy()
    samples[1, 3] = number
    assert "sample input[1] has values up to 1e+" in refusal(tmp_path, dense(), samples, std=std)


def test_a_large_offset_is_no_fault_where_noise_is_larger_still(tmp_path: Path) -> None:
    result = onnxinfo.analyze(dense(), X + 100, tmp_path / "run.h5", layers=["h"], normalize_by="sample", std=1.0)
    with onnxinfo.open(result.archive) as archive:
        assert np.isfinite(archive[result.run].table("sample")["value"]).all()


def test_an_infinity_that_float16_makes_of_a_sample_is_named(tmp_path: Path) -> None:
    half = model(
        [node("Relu", "x", "y")],
        [value("x", ("N", 6), onnx.TensorProto.FLOAT16)],
        [value("y", ("N", 6), onnx.TensorProto.FLOAT16)],
    )
    samples = X.copy()
    samples[1, 3] = 1e6
    message = refusal(tmp_path, half, samples, keep_precision=True, std=None)
    assert "input[1]" in message
