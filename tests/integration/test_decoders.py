"""Decoders in analyses: trained, stored, reused, and marked if they are useless."""

import json

import numpy as np
import pytest

import onnxinfo
from onnxinfo.errors import UsageError
from onnxinfo.models import path

MODEL, IMAGES = path("digits-cnn.onnx"), f"{path('digits.npz')}:images"


def test_analysis_trains_keeps_and_reuses_decoders(tmp_path):
    options = {"limit": 1, "layers": ["relu", "logits"], "metrics": ["ru"], "decoder_inputs": IMAGES}
    options |= {"decoder_width": 4, "decoder_steps": 20, "decoders": tmp_path / "kept"}
    stages = []
    onnxinfo.analyze(MODEL, IMAGES, tmp_path / "a.h5", progress=lambda p: stages.append(p.stage), **options)
    assert "decoder" in stages
    stored = onnxinfo.list_decoders(tmp_path / "kept")
    assert {each.tensor for each in stored} == {"relu", "logits"}
    again = []
    onnxinfo.analyze(MODEL, IMAGES, tmp_path / "b.h5", progress=lambda p: again.append(p.stage), **options)
    assert "decoder" not in again
    with onnxinfo.open(tmp_path / "a.h5") as a, onnxinfo.open(tmp_path / "b.h5") as b:
        first, second = a["digits-cnn"], b["digits-cnn"]
        numbers = first.values("ru")
        assert (numbers["value"] == second.values("ru")["value"]).all()
        assert (np.abs(numbers["ratio"] - 1) < 0.1 + 3 * numbers["ratio_stderr"]).all()
        error = {each.tensor: each.error for each in stored}
        assert numbers["decoder_error"][:, 0].tolist() == [error["relu"], error["logits"]]
        assert first.maps("ru", 0).shape == (1, 1, 8, 8)
        assert first.recipe["ru_center"] == "input"
    described = json.loads(onnxinfo.describe_decoder(tmp_path / "kept", "relu"))
    assert described[0]["plan"]["width"] == 4
    with pytest.raises(UsageError, match=r"no decoder of layer 'rely'.*relu"):
        onnxinfo.describe_decoder(tmp_path / "kept", "rely")


def test_decoders_trained_beforehand_are_used(tmp_path):
    settings = {"width": 4, "steps": 3, "batch": 8, "learning_rate": 0.01, "flips": True}
    stored = onnxinfo.train_decoder(MODEL, IMAGES, tmp_path / "kept", layers=["relu"], **settings)
    options = {f"decoder_{name}": value for name, value in settings.items()} | {"decoder_inputs": IMAGES}
    options |= {"decoders": tmp_path / "kept", "layers": ["relu"], "metrics": ["ru"], "limit": 1}
    onnxinfo.analyze(MODEL, IMAGES, tmp_path / "a.h5", **options)
    assert onnxinfo.list_decoders(tmp_path / "kept") == stored


def test_a_decoder_no_better_than_the_mean_is_marked(tmp_path):
    random = np.random.default_rng(0)
    options = {"layers": ["logits"], "metrics": ["ru"], "decoder_width": 2, "decoder_steps": 2, "std": 1.0}
    options |= {"limit": 2, "decoder_limit": 8}
    onnxinfo.analyze(MODEL, random.normal(size=(8, 1, 8, 8)).astype(np.float32), tmp_path / "a.h5", **options)
    with onnxinfo.open(tmp_path / "a.h5") as archive:
        numbers = archive["digits-cnn"].values("ru")
    assert (numbers["decoder_error"] >= 1).all()
    assert not numbers["converged"].any()
