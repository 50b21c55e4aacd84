"""Models of every float type: inputs in their own type, solver in 32 bits at least."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from graphs import model, node, value
from onnx import TensorProto, numpy_helper

import onnxinfo

TYPES = {
    "float16": (TensorProto.FLOAT16, np.float16),
    "bfloat16": (TensorProto.BFLOAT16, ml_dtypes.bfloat16),
    "float32": (TensorProto.FLOAT, np.float32),
    "float64": (TensorProto.DOUBLE, np.float64),
}
X = np.random.default_rng(1).standard_normal((3, 6))
W = np.random.default_rng(0).standard_normal((6, 9))
ALPHA, ENTROPY = 1.5e-4, 0.5 * np.log(2 * np.pi * np.e)
#: Mean H of the linear layer: equal shares of alpha D, no unit at the cap.
LINEAR = np.log(np.sqrt(ALPHA * np.square(W).sum() / 6 / np.square(W).sum(1))).mean() + ENTROPY


def dense(element: int, dtype: Any, output: int | None = None) -> onnx.ModelProto:
    """A matrix product in one type, with the output optionally converted to another."""
    nodes = [node("MatMul", "x w", "h" if output else "y")]
    nodes += [node("Cast", "h", "y", to=output)] if output else []
    weights = [numpy_helper.from_array(W.astype(dtype), "w")]
    return model(nodes, [value("x", ("N", 6), element)], [value("y", ("N", 9), output or element)], weights)


def analyzed(proto: onnx.ModelProto, folder: Path, **options: Any) -> Any:
    samples = options.pop("samples", X)
    options = {"layers": ["y"], "normalize_by": "sample", "std": 1.0} | options
    result = onnxinfo.analyze(proto, samples, folder / "run.h5", **options)
    with onnxinfo.open(result.archive) as archive:
        run = archive[result.run]
        return run.recipe, run.table("sample")["value"]


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("name", TYPES)
def test_a_linear_layer_of_any_type_has_the_closed_form(tmp_path: Path, name: str, keep: bool) -> None:
    if name == "bfloat16" and keep:
        pytest.skip("ONNX Runtime has no product of bfloat16 on a processor")
    _, found = analyzed(dense(*TYPES[name]), tmp_path, keep_precision=keep)
    coarse = 0.01 if name.endswith("16") else 1e-3
    assert np.allclose(found, LINEAR, atol=coarse)


@pytest.mark.parametrize("output", ["float16", "float32", "float64"])
@pytest.mark.parametrize("name", ["float16", "float32", "float64"])
def test_a_layer_may_have_another_float_type_than_the_input(tmp_path: Path, name: str, output: str) -> None:
    _, found = analyzed(dense(*TYPES[name], TYPES[output][0]), tmp_path, keep_precision=True)
    assert np.allclose(found, LINEAR, atol=0.01 if "float16" in (name, output) else 1e-3)


@pytest.mark.parametrize("keep", [False, True])
def test_a_bfloat16_input_is_fed_in_its_type(tmp_path: Path, keep: bool) -> None:
    nodes = [node("Cast", "x", "h", to=TensorProto.FLOAT), node("MatMul", "h w", "y")]
    weights = [numpy_helper.from_array(W.astype(np.float32), "w")]
    proto = model(nodes, [value("x", ("N", 6), TensorProto.BFLOAT16)], [value("y", ("N", 9))], weights)
    _, found = analyzed(proto, tmp_path, keep_precision=keep)
    assert np.allclose(found, LINEAR, atol=0.03 if keep else 1e-3)


def test_double_precision_is_kept(tmp_path: Path) -> None:
    """Noise of a hundredth of a second is lost in a 32-bit float that counts seconds since 1970."""
    time = 1.7e9 + X
    assert analyzed(dense(*TYPES["float64"]), tmp_path, samples=time)[1] == pytest.approx([LINEAR] * 3, abs=1e-3)


def test_further_inputs_have_their_own_types(tmp_path: Path) -> None:
    nodes = [node("Cast", "scale", "s", to=TensorProto.FLOAT), node("MatMul", "x w", "h"), node("Mul", "h s", "y")]
    inputs = [value("x", ("N", 6)), value("scale", ("N", 1), TensorProto.DOUBLE)]
    weights = [numpy_helper.from_array(W.astype(np.float32), "w")]
    proto = model(nodes, inputs, [value("y", ("N", 9))], weights)
    samples = {"x": X.astype(np.float32), "scale": np.full((3, 1), 2.0)}
    assert analyzed(proto, tmp_path, samples=samples, input_tensor="x")[1] == pytest.approx([LINEAR] * 3, abs=0.03)


def test_the_unit_of_a_double_tensor_inside_is_its_own(tmp_path: Path) -> None:
    nodes = [node("Cast", "ids", "h", to=TensorProto.DOUBLE), node("MatMul", "h w", "y")]
    weights = [numpy_helper.from_array(W, "w")]
    inputs = [value("ids", ("N", 6), TensorProto.INT64)]
    proto = model(nodes, inputs, [value("y", ("N", 9), TensorProto.DOUBLE)], weights)
    ids = np.random.default_rng(2).integers(0, 50, (40, 6))
    recipe, found = analyzed(proto, tmp_path, samples=ids, std=None)
    spread = ids.std(0)[:, None] * W
    expected = np.log(np.sqrt(ALPHA * np.square(spread).sum() / 6 / np.square(spread).sum(1))).mean() + ENTROPY
    assert recipe["perturbed"] == "h"
    assert np.allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize("metric", ["ru", "gradient"])
def test_other_metrics_take_double_precision_too(tmp_path: Path, metric: str) -> None:
    training = np.random.default_rng(3).standard_normal((20, 6))
    options = {"decoder_inputs": training, "decoder_steps": 2, "decoder_width": 2} if metric == "ru" else {}
    _, found = analyzed(dense(*TYPES["float64"]), tmp_path, metrics=[metric], **options)
    assert np.isfinite(found).all()
