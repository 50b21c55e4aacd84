"""Models that mix samples of a batch: an analysis gives each sample's own result, or refuses."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from graphs import model, node, value
from onnx import TensorProto, numpy_helper
from test_units import ENTROPY, equal_shares, feeds

import onnxinfo
from onnxinfo import ConversionError, ModelError, VerificationError


def centered(batch: int | str, seed: int) -> tuple[onnx.ModelProto, float]:
    """``x W + tanh((x - mean of the batch) U)``: W uses one half of the units, U the other; and W's own result."""
    rng = np.random.default_rng(seed)
    w, u = (rng.standard_normal((8, 8)).astype(np.float32) for _ in range(2))
    w[:4] = 0
    u[4:] = 0
    nodes = [
        node("MatMul", "x w", "h"),
        node("ReduceMean", "x", "mean", axes=[0], keepdims=1),
        node("Sub", "x mean", "c"),
        node("MatMul", "c u", "cu"),
        node("Tanh", "cu", "t"),
        node("Add", "h t", "y"),
    ]
    weights = [numpy_helper.from_array(w, "w"), numpy_helper.from_array(u, "u")]
    proto = model(nodes, [value("x", (batch, 8))], [value("y", (batch, 8))], weights, opset=17)
    norms = np.square(w[4:].astype(float)).sum(1)
    # Equal shares of alpha D for the four units in use; the others are at the cap of 1.
    unseen = ENTROPY
    return proto, (equal_shares(norms) + unseen) / 2


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("batch", "count"), [("N", 3), ("N", 1), (1, 1), (1, 3)])
def test_a_sample_has_its_value_alone(
    tmp_path: Path, batch: int | str, count: int, seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    proto, expected = centered(batch, seed)
    samples = np.repeat(np.random.default_rng(seed).standard_normal((1, 8)), count, 0).astype(np.float32)
    options: dict[str, Any] = {"normalize_by": "sample", "std": 1.0, "seed": seed}
    result = onnxinfo.analyze(proto, samples, tmp_path / "run.h5", layers=["y"], **options)
    assert "influence each other" in caplog.text
    with onnxinfo.open(result.archive) as archive:
        run = archive[result.run]
        assert run.provenance["batching"] == "vmap"
        assert run.table("sample")["value"] == pytest.approx([expected] * count, abs=0.03)


def test_a_batch_that_has_to_be_whole_is_refused(tmp_path: Path) -> None:
    proto, _ = centered(4, 0)
    samples = np.random.default_rng(0).standard_normal((5, 8)).astype(np.float32)
    with pytest.raises(ConversionError, match="made for 4 at once; export it for one sample"):
        onnxinfo.analyze(proto, samples, tmp_path / "run.h5", layers=["y"], std=1.0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("n = RandomNormalLike(x) y = Add(x, n)", "RandomNormalLike"),
        ("n = RandomNormal <shape = [4]>() y = Add(x, n)", "RandomNormal"),
        ("r = Constant <value_float = 0.5>() t = Cast <to = 9>(one) y = Dropout(x, r, t)", "Dropout"),
    ],
)
def test_random_numbers_are_refused_by_name(tmp_path: Path, text: str, named: str) -> None:
    head = '<ir_version: 8, opset_import: ["" : 17]> agraph (float[N, 4] x) => (float[N, 4] y) <int64 one = {1}>'
    proto = onnx.parser.parse_model(f"{head} {{ {text} }}")
    with pytest.raises((ConversionError, VerificationError), match=rf"ai.onnx.{named}\b.*inference"):
        onnxinfo.analyze(proto, np.eye(4, dtype=np.float32), tmp_path / "run.h5", layers=["y"], std=1.0)


def embedding_across_the_batch(batch: int | str) -> onnx.ModelProto:
    """Integers from which the batch mean is subtracted before the analysis input."""
    nodes = [
        node("Cast", "ids", "f", to=TensorProto.FLOAT),
        node("ReduceMean", "f", "mean", axes=[0], keepdims=1),
        node("Sub", "f mean", "c"),
        node("Add", "c f", "h"),
        node("Tanh", "h", "y"),
    ]
    inputs = [value("ids", (batch, 5), TensorProto.INT64)]
    return model(nodes, inputs, [value("y", (batch, 5))], opset=17)


def test_a_tensor_inside_is_that_of_the_sample_alone(caplog: pytest.LogCaptureFixture) -> None:
    ids = np.random.default_rng(0).integers(0, 9, (7, 5))
    with caplog.at_level(logging.INFO, "onnxinfo"):
        found = feeds(embedding_across_the_batch("N"), ids, "h").perturbed([6, 2, 3])
    assert (found == ids[[6, 2, 3]]).all()
    assert "'h' depends on the batch: samples are computed one by one" in caplog.text


def test_a_tensor_inside_that_depends_on_a_whole_batch_is_refused() -> None:
    ids = np.random.default_rng(0).integers(0, 9, (7, 5))
    with pytest.raises(ModelError, match=r"influence each other in tensor 'h', and the model is made for 3 at once"):
        feeds(embedding_across_the_batch(3), ids, "h").perturbed([0])
