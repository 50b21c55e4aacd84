"""Custom operators from a library registered with ONNX Runtime are constants of the graph, without gradient."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from graphs import model, node, value, weight
from onnx import TensorProto, helper

import onnxinfo
from onnxinfo import ConversionError, ModelError, UsageError
from onnxinfo.cli import cli
from onnxinfo.graph import engine

CONTRIB = "ai.onnx.contrib"


@pytest.fixture(autouse=True)
def _unregistered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_libraries", [])


@pytest.fixture
def library() -> Iterator[str]:
    """Custom operators on strings, and a few that split or invert floats."""
    extensions = pytest.importorskip("onnxruntime_extensions")
    return extensions.get_library_path()


def _network(split: str) -> onnx.ModelProto:
    """A perceptron that adds the positive part of a tensor, as a custom operator computes it."""
    nodes = [
        node("Gemm", "x w", "first"),
        node("Relu", "first", "hidden"),
        node("NegPos", split, "neg pos", domain=CONTRIB, name="split"),
        node("Gemm", "hidden v", "second"),
        node("Add", "second pos", "sum"),
        node("Gemm", "sum u", "y"),
    ]
    weights = [weight(name, 4, 4) for name in "wvu"]
    imports = [helper.make_opsetid(CONTRIB, 1)]
    return model(nodes, [value("x"), value("beside")], [value("y")], weights, imports=imports)


def _samples() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal((2, 4), np.float32) for name in ("x", "beside")}


def test_beside_the_way_it_is_a_constant(library: str, tmp_path: Path) -> None:
    onnxinfo.register_ort_library(library)
    network = _network("beside")
    found = onnxinfo.check_model(network, _samples(), input_tensor="x")
    assert found.error is None
    assert {use.operator: use.server for use in found.operators}[f"{CONTRIB}.NegPos"] == "fallback"
    assert found.reached == ["first", "hidden", "second", "sum", "y"]
    result = onnxinfo.analyze(network, _samples(), tmp_path / "a.h5", input_tensor="x", layers=["y"], device="cpu")
    with onnxinfo.open(result.archive) as archive:
        assert np.isfinite(archive[result.run].table("layer")["value"]).all()


def test_on_the_way_it_is_solved_without_a_converter(library: str, tmp_path: Path) -> None:
    """The operator returns its input, so the results are those of the network without it."""
    onnxinfo.register_ort_library(library)
    plain = _network("hidden")
    plain.graph.node[4].input[1] = "hidden"
    del plain.graph.node[2]
    found = []
    for run, network in (("custom", _network("hidden")), ("plain", plain)):
        onnxinfo.analyze(
            network,
            _samples(),
            tmp_path / "a.h5",
            input_tensor="x",
            layers=["y"],
            run=run,
            solver="auto" if run == "custom" else "forward",
        )
        with onnxinfo.open(tmp_path / "a.h5") as archive:
            assert archive[run].recipe["solver"] == "forward"
            found.append(archive[run].values("sid")["value"])
    assert np.array_equal(*found)


def test_on_the_way_it_is_named(library: str, tmp_path: Path) -> None:
    onnxinfo.register_ort_library(library)
    with pytest.raises(ConversionError) as error:
        onnxinfo.analyze(
            _network("hidden"),
            _samples(),
            tmp_path / "a.h5",
            input_tensor="x",
            layers=["y"],
            device="cpu",
            solver="reference",
        )
    said = str(error.value)
    assert "layer 'y': node 'split' (ai.onnx.contrib.NegPos, opset 1) on the way from 'x'" in said
    assert "layers that are reached: 'first', 'hidden', 'second'; choose among them" in said
    assert not (tmp_path / "a.h5").exists()


def test_strings_of_a_custom_operator(library: str) -> None:
    """Text in, numbers out: the lengths of the words scale the network's output."""
    onnxinfo.register_ort_library(library)
    nodes = [
        node("StringLength", "text", "lengths", domain=CONTRIB),
        node("Cast", "lengths", "factor", to=TensorProto.FLOAT),
        node("Gemm", "x w", "first"),
        node("Mul", "first factor", "y"),
    ]
    text = onnx.helper.make_tensor("text", TensorProto.STRING, [4], [b"a", b"bc", b"def", b""])
    imports = [helper.make_opsetid(CONTRIB, 1)]
    network = model(nodes, [value("x")], [value("y")], [weight("w", 4, 4), text], imports=imports)
    found = onnxinfo.check_model(network)
    assert found.error is None
    assert found.reached == ["first", "y"]


def test_the_command_line_takes_libraries(library: str, tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    onnx.save(_network("beside"), file)
    result = CliRunner().invoke(cli, ["--ort-library", library, "check", str(file), "--input-tensor", "x"])
    assert result.exit_code == 0, result.output
    assert f"{CONTRIB}.NegPos" in result.output


def test_without_the_library_the_rest_can_be_analyzed(tmp_path: Path) -> None:
    network = _network("hidden")
    layers = ["first", "second"]
    result = onnxinfo.analyze(network, _samples(), tmp_path / "a.h5", input_tensor="x", layers=layers, device="cpu")
    with onnxinfo.open(result.archive) as archive:
        assert list(archive[result.run].table("layer")["layer"]) == layers
    with pytest.raises(
        ConversionError, match=r"NegPos.*given with onnxinfo.register_ort_library.*reached: 'first', 'hidden', 'second'"
    ):
        onnxinfo.analyze(network, _samples(), tmp_path / "b.h5", input_tensor="x", layers=["y"], solver="reference")
    with pytest.raises(ModelError, match=r"NegPos.*given with onnxinfo.register_ort_library"):
        onnxinfo.check_model(network, input_tensor="x")


def test_what_is_no_library(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nothing\.so' is not a file; expected a shared library"):
        onnxinfo.register_ort_library(tmp_path / "nothing.so")
    (tmp_path / "some.so").write_bytes(b"no library")
    with pytest.raises(UsageError, match=r"takes no custom operators from '.*some\.so'"):
        onnxinfo.register_ort_library(tmp_path / "some.so")
    assert engine._libraries == []
