"""Numbers are the same, bit for bit, for every way to configure and execute an analysis."""

import numpy as np
import pytest

import onnxinfo
from onnxinfo.config import Config, configure
from onnxinfo.models import path

MODEL = str(path("digits-cnn.onnx"))
IMAGES = f"{path('digits.npz')}:images"


def numbers(archive):
    with onnxinfo.open(archive) as opened:
        (name,) = opened
        run = opened[name]
        found = {f"{m.name} {key}": each for m in run.metrics for key, each in run.values(m.name).items()}
        maps = {m.name: np.stack([run.maps(m.name, i) for i in range(run.shape[0])]) for m in run.metrics if m.has_map}
        return found | maps, run.recipe


@pytest.mark.usefixtures("quick_workers")
def test_keywords_objects_and_workers_give_the_same_bits(tmp_path):
    """Workers receive decoders, foregrounds and the classifier's scores with the metrics that need them."""
    flat = {
        "limit": 2, "shuffle": True, "shuffle_seed": 2, "foreground": np.tile([2, 2, 6, 7], (50, 1)), "seed": 3,
        "decoders": tmp_path / "decoders", "decoder_inputs": IMAGES, "decoder_limit": 40, "decoder_width": 4,
        "decoder_steps": 4, "threads": 1, "compression": "lossless",
    }  # fmt: skip
    chosen = {"layers": ["relu_4"], "metrics": ["concentration", "ru", "gradient", "gradcam", "sid"]}
    config = configure(Config(), flat)
    objects = {name: getattr(config, name) for name in ("input", "sid", "ru", "execution", "out")}
    onnxinfo.analyze(MODEL, IMAGES, tmp_path / "flat.h5", **chosen, **flat)
    onnxinfo.analyze(MODEL, IMAGES, tmp_path / "objects.h5", **chosen, **objects, workers=2)
    expected, described = numbers(tmp_path / "flat.h5")
    found, same = numbers(tmp_path / "objects.h5")
    assert same == described
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        assert np.array_equal(found[key], values, equal_nan=values.dtype.kind == "f"), key


def test_decoders_are_trained_on_as_many_samples_as_are_named(tmp_path):
    """The two analyzed samples are too few to train on; decoders have their own limit."""
    options = {
        "limit": 2,
        "layers": ["logits"],
        "sigma_max": 0.01,
        "metrics": ["ru"],
        "decoder_width": 4,
        "decoder_steps": 2,
    }
    with pytest.raises(onnxinfo.InputError, match="2 samples are too few"):
        onnxinfo.analyze(MODEL, IMAGES, tmp_path / "few.h5", **options)
    onnxinfo.analyze(MODEL, IMAGES, tmp_path / "more.h5", **options, decoder_limit=8)
