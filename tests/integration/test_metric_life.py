"""Life cycle of a metric: constructed and validated, archive opened, prepared, computed."""

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import onnxinfo
from onnxinfo.analysis import decoders
from onnxinfo.analysis.robustness import Robustness
from onnxinfo.metrics.network import Network
from onnxinfo.models import path

MODEL = str(path("digits-cnn.onnx"))
IMAGES = f"{path('digits.npz')}:images"
OPTIONS = {
    "metrics": ["ru"], "layers": ["logits"], "limit": 1, "sigma_max": 0.01,
    "decoder_inputs": IMAGES, "decoder_limit": 8, "decoder_width": 4, "decoder_steps": 2,
}  # fmt: skip


def test_decoders_are_trained_once_the_archive_is_open(tmp_path, monkeypatch):
    archive, trained = tmp_path / "o.h5", []
    train = decoders.train_decoders

    def noted(*arguments):
        with onnxinfo.open(archive) as opened:
            trained.append(opened["digits-cnn"].finished("ru").any())
        return train(*arguments)

    monkeypatch.setattr(decoders, "train_decoders", noted)
    onnxinfo.analyze(MODEL, IMAGES, archive, **OPTIONS)
    assert trained == [False]


def test_a_conflict_with_the_archive_trains_nothing(tmp_path, monkeypatch):
    archive = tmp_path / "o.h5"
    onnxinfo.analyze(MODEL, IMAGES, archive, metrics=["gradient"], layers=["logits"], limit=1)
    monkeypatch.setattr(decoders, "train_decoders", lambda *_: pytest.fail("trained"))
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(onnxinfo.UsageError, match="run 'digits-cnn' exists"):
        onnxinfo.analyze(MODEL, IMAGES, archive, **OPTIONS)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_too_few_training_samples_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(onnxinfo.InputError, match=r"3 samples are too few .* decoder_inputs=\.\.\. or"):
        onnxinfo.analyze(MODEL, IMAGES, tmp_path / "o.h5", **OPTIONS | {"decoder_limit": 3})
    assert not list(tmp_path.iterdir())


def test_the_attack_takes_as_few_samples_at_once_as_memory_has_room_for(tmp_path, monkeypatch, caplog):
    """A device with room for one input gives the same robustness as one with room for all."""
    pytest.importorskip("art")
    generator = np.random.default_rng(0)
    x, weight = (generator.normal(size=shape).astype(np.float32) for shape in ((5, 4), (4, 3)))
    shown = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", n]) for name, n in (("x", 4), ("y", 3))]
    product = helper.make_node("MatMul", ["x", "weight"], ["y"])
    tensors = [numpy_helper.from_array(weight, "weight")]
    graph = helper.make_graph([product], "linear", *([each] for each in shown), tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    options = {"labels": (x @ weight).argmax(1), "std": [1.0]}
    whole = onnxinfo.robustness(model, x, tmp_path / "whole.h5", **options)
    call, cells, begun = Network.__call__, Robustness.cells, []

    def begin(robustness, block):
        begun.append(block)
        return cells(robustness, block)

    def narrow(network, inputs, rows):
        if begun and len(inputs) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return call(network, inputs, rows)

    # Memory is short from the first attack on; everything prepared before assumes more.
    monkeypatch.setattr(Robustness, "cells", begin)
    monkeypatch.setattr(Network, "__call__", narrow)
    less = onnxinfo.robustness(model, x, tmp_path / "less.h5", **options)
    assert "batch size from here on: 1\n" in caplog.text
    assert less.value == pytest.approx(whole.value, rel=0.05)
