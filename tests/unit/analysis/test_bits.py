"""Bits by tensor, against exhaustive search, and models that ONNX Runtime's quantizer makes from them."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from graphs import quantized

import onnxinfo
from onnxinfo import UsageError
from onnxinfo.analysis.bits import Grid, allocate, uniform_noise
from onnxinfo.models import path

CNN, IMAGES, LABELS = path("digits-cnn.onnx"), f"{path('digits.npz')}:images", f"{path('digits.npz')}:labels"
CHOICES = range(2, 9)


@pytest.mark.parametrize("mean", [2, 2.75, 3, 4.25, 8])
def test_no_other_bits_have_a_smaller_loss_at_the_same_mean(mean: float) -> None:
    losses = np.random.default_rng(0).lognormal(sigma=3, size=4)[:, None] * uniform_noise(0, 1, CHOICES)

    def total(bits: tuple[int, ...]) -> float:
        return sum(losses[i, each - 2] for i, each in enumerate(bits))

    chosen = allocate(losses, CHOICES, mean)
    best = min((bits for bits in itertools.product(CHOICES, repeat=4) if sum(bits) <= 4 * mean), key=total)
    assert total((*chosen,)) == pytest.approx(total(best))
    assert sum(chosen) == 4 * mean


def test_steps_over_bits_that_gain_nothing() -> None:
    assert allocate(np.array([[1.0, 1.0, 0.0], [0.3, 0.3, 0.3]]), [2, 3, 4], 3) == [4, 2]


@pytest.mark.parametrize(("low", "high"), [(0, 3), (-1, 2)])
def test_a_grid_has_its_number_of_values_in_the_range(low: float, high: float) -> None:
    grid = Grid(low, high, 3)
    rounded = grid.rounded(torch.linspace(low, high, 1001))
    assert len(rounded.unique()) == 8
    assert (rounded - torch.linspace(low, high, 1001)).abs().max() <= grid.step / 2 + 1e-6
    assert uniform_noise(low, high, [3])[0] == grid.step**2 / 12


def test_the_quantizer_takes_the_recommendation(tmp_path: Path) -> None:
    quantization = pytest.importorskip("onnxruntime.quantization")
    plan = onnxinfo.recommend_bits(CNN, IMAGES, mean_bits=4, keep_float=1, limit=16)
    plan.save(tmp_path / "bits.json")
    stored = json.loads((tmp_path / "bits.json").read_text())
    assert stored["nodes_to_exclude"] == [*plan.nodes_to_exclude] != []
    overrides = {
        name: [
            {
                "quant_type": quantization.QuantType.from_string(each["quant_type"]),
                "scale": np.array(each["scale"], np.float32),
                "zero_point": np.array(each["zero_point"], np.uint8),
            }
            for each in given
        ]
        for name, given in stored["TensorQuantOverrides"].items()
    }

    class Reader(quantization.CalibrationDataReader):
        feeds = iter([{"image": np.zeros((1, 1, 8, 8), np.float32)}])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.feeds, None)

    quantization.quantize_static(
        CNN, tmp_path / "q.onnx", Reader(), nodes_to_exclude=stored["nodes_to_exclude"],
        activation_type=quantization.QuantType.QUInt8, extra_options={"TensorQuantOverrides": overrides},
    )  # fmt: skip
    scales = {
        each.name.removesuffix("_scale"): float(onnx.numpy_helper.to_array(each))
        for each in onnx.load(tmp_path / "q.onnx").graph.initializer
        if each.name.endswith("_scale") and not each.dims
    }
    table = plan.to_dataframe().set_index("tensor")
    (kept,) = table.index[table.bits == 32]
    assert kept not in scales
    rounded = [name for name in overrides if name in scales]
    assert len(rounded) >= 4
    for name in rounded:
        row = table.loc[name]
        assert scales[name] == pytest.approx(row.high / (2**row.bits - 1))
    session = onnxruntime.InferenceSession(tmp_path / "q.onnx", providers=["CPUExecutionProvider"])
    assert session.run(None, {"image": np.zeros((1, 1, 8, 8), np.float32)})[0].shape == (1, 10)


def test_an_accuracy_is_reached_with_few_bits() -> None:
    plan = onnxinfo.recommend_bits(CNN, IMAGES, accuracy=0.8, labels=LABELS, limit=64)
    assert (plan.accuracy or 0) >= 0.8
    assert plan.to_dataframe().bits.mean() < 6
    more = onnxinfo.recommend_bits(CNN, IMAGES, mean_bits=6, limit=64)
    assert more.expected < plan.expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give one of mean_bits=... and accuracy=..."),
        ({"mean_bits": 4, "accuracy": 0.5}, "give one of mean_bits=... and accuracy=..."),
        ({"mean_bits": 1}, "from 2 to 8 expected"),
        ({"mean_bits": float("nan")}, "from 2 to 8 expected"),
        ({"accuracy": 0.5}, "labels"),
        ({"accuracy": 2.0, "labels": LABELS}, "at most 1"),
        ({"mean_bits": 4, "keep_float": 99}, "leaves none"),
        ({"mean_bits": 4, "layers": ["logits"]}, "choose more layers"),
    ],
)
def test_requests_that_cannot_be_met_are_refused_before_the_work(
    options: dict[str, object], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxinfo.workflows.recommend.measure_sensitivity", None)
    with pytest.raises(UsageError, match=message) as error:
        onnxinfo.recommend_bits(CNN, IMAGES, limit=4, **options)
    assert "\n" not in str(error.value)


def test_wrong_labels_leave_no_accuracy() -> None:
    with np.load(path("digits.npz")) as digits:
        images, labels = digits["images"][:16], digits["labels"][:16]
    with pytest.raises(UsageError, match=r"cannot be met: the float network has 0\.000"):
        onnxinfo.recommend_bits(CNN, images, accuracy=0.5, labels=(labels + 1) % 10)


def test_quantized_models_are_refused() -> None:
    rows = np.random.default_rng(0).normal(size=(8, 32)).astype(np.float32)
    with pytest.raises(UsageError, match="quantized already"):
        onnxinfo.recommend_bits(quantized(0.1), rows, layers=["h", "y"], mean_bits=4)
    plan = onnxinfo.recommend_bits(quantized(0.1), rows, layers=["h", "y"], mean_bits=4, dequantize=True)
    assert [each.bits for each in plan.tensors] == [4]
