"""Analysis input and its precision: several inputs, optional ones, inputs with initializers, half precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from graphs import constant, model, node, value, weight
from onnx import TensorProto, helper

import onnxinfo
from onnxinfo.cli import cli


def normal(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def masked_tokens() -> onnx.ModelProto:
    """Embeddings weighted by a mask, then a dense layer; a second float input is added."""
    nodes = [
        node("Gather", "table ids", "embedded"),
        node("Unsqueeze", "mask last", "column"),
        node("Cast", "column", "weights", to=TensorProto.FLOAT),
        node("Mul", "embedded weights", "kept"),
        node("MatMul", "kept w", "dense"),
        node("Add", "dense extra", "sum"),
        node("Tanh", "sum", "y"),
    ]
    inputs = [
        value("ids", ("N", 6), TensorProto.INT64),
        value("mask", ("N", 6), TensorProto.INT64),
        value("extra", ("N", 6, 3)),
    ]
    initializers = [weight("table", 20, 4), weight("w", 4, 3), constant("last", [-1])]
    return model(nodes, inputs, [value("y", ("N", 6, 3))], initializers)


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    mask = np.ones((4, 6), np.int64)
    mask[:, 4:] = 0
    np.savez(tmp_path / "tokens.npz", ids=rng.integers(0, 20, (4, 6)), mask=mask, extra=normal(4, 6, 3))
    onnx.save(masked_tokens(), tmp_path / "tokens.onnx")
    return tmp_path


def analyzed(folder: Path, *options: str) -> Any:
    spec = ",".join(f"{name}={folder / 'tokens.npz'}:{name}" for name in ("ids", "mask", "extra"))
    arguments = ["-q", "analyze", str(folder / "tokens.onnx"), "--inputs", spec, "--layers", "y", *options]
    result = CliRunner().invoke(cli, [*arguments, "-o", str(folder / "run.h5")], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return onnxinfo.open(folder / "run.h5")


def test_several_inputs_and_a_chosen_tensor(tokens: Path) -> None:
    with analyzed(tokens, "--input-tensor", "embedded", "--alpha", "1.5e-4") as archive:
        run = archive["tokens"]
        assert run.recipe["perturbed"] == "embedded"
        maps = run.maps("sid", 0, [0])[0]
    # Masked units do not count and have no value.
    assert maps.shape == (6, 4)
    assert np.isnan(maps[4:]).all()
    assert maps[:4].max() < 1.0


def test_the_float_input_is_the_default(tokens: Path) -> None:
    with analyzed(tokens) as archive:
        assert archive["tokens"].recipe["perturbed"] == "extra"


def test_an_input_that_is_an_initializer_needs_no_samples(tmp_path: Path) -> None:
    """Older exporters list the weights among the graph inputs."""
    proto = model(
        [node("MatMul", "x w", "h"), node("Relu", "h", "y")],
        [value("x"), value("w", (4, 3))],
        [value("y", ("N", 3))],
        [weight("w", 4, 3)],
    )
    result = onnxinfo.analyze(proto, normal(3, 4), tmp_path / "run.h5", layers=["h"], std=1.0)
    with onnxinfo.open(result.archive) as archive:
        assert np.isfinite(archive[result.run].table("layer")["value"]).all()


def optional_bias() -> onnx.ModelProto:
    optional = helper.make_optional_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, ["N", 4]))
    given = helper.make_graph([node("OptionalGetElement", "bias", "got")], "then", [], [value("got")])
    absent = helper.make_graph([node("Sub", "x x", "none")], "else", [], [value("none")])
    nodes = [
        node("OptionalHasElement", "bias", "has"),
        node("If", "has", "term", then_branch=given, else_branch=absent),
        node("Add", "x term", "sum"),
        node("Tanh", "sum", "y"),
    ]
    return model(nodes, [value("x"), helper.make_value_info("bias", optional)], [value("y")])


def test_an_optional_input_is_absent(tmp_path: Path) -> None:
    result = onnxinfo.analyze(optional_bias(), normal(3, 4), tmp_path / "run.h5", layers=["y"], std=1.0)
    with onnxinfo.open(result.archive) as archive:
        assert np.isfinite(archive[result.run].table("layer")["value"]).all()


@pytest.mark.parametrize("keep", [False, True])
def test_half_precision(tmp_path: Path, keep: bool) -> None:
    half = helper.make_tensor("w", TensorProto.FLOAT16, [4, 3], normal(4, 3).astype(np.float16).ravel())
    nodes = [
        node("Cast", "x", "h", to=TensorProto.FLOAT16),
        node("MatMul", "h w", "p"),
        node("Tanh", "p", "t"),
        node("Cast", "t", "y", to=TensorProto.FLOAT),
    ]
    proto = model(nodes, [value("x")], [value("y", ("N", 3))], [half])
    result = onnxinfo.analyze(
        proto, normal(3, 4), tmp_path / "run.h5", layers=["y"], std=1.0, keep_precision=keep, normalize_by="sample"
    )
    with onnxinfo.open(result.archive) as archive:
        run = archive[result.run]
        assert run.recipe.get("keep_precision", False) == keep
        (found,) = run.table("layer")["value"]
    assert found > -2.99
