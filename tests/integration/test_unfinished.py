"""An analysis that is interrupted within a cell continues from there, to the last bit."""

import numpy as np
import pytest

import onnxinfo
from onnxinfo.archive.unfinished import Unfinished
from onnxinfo.metrics.ru import ASCENTS
from onnxinfo.models import path as bundled

MODEL, IMAGES = str(bundled("digits-cnn.onnx")), f"{bundled('digits.npz')}:images"
#: Every kind of loop (ascent, control variate, several batches, decoders, integrals without gradients), and the number
#: of saves after which it is interrupted.
CASES = {
    "ascent": (3, {"layers": ["relu"], "limit": 3}),
    "control variate": (8, {"layers": ["logits"], "limit": 2}),
    "small batches": (70, {"layers": ["relu_4"], "limit": 1, "batch_size": 3}),
    "reconstruction": (16, {"layers": ["relu_4"], "limit": 4, "metrics": ["ru"], "decoder_steps": 5}),
    "without gradients": (70, {"layers": ["logits"], "limit": 2, "solver": "forward"}),
}
SLOW = "reconstruction", "without gradients"
#: Short searches, whose results do not matter here.
BRIEF = {
    "ru": {
        "ASCENTS": {name: each._replace(steps=20) for name, each in ASCENTS.items()},
        "VALUE_NOISES": 64, "MANY_UNITS": 1,
    },
    "forward": {
        "FIRST": (3, 2, 0.3), "STAGES": (), "FALLING": 3, "FALLING_BACKGROUNDS": 1, "MOST_PARTS": 4, "LEAST_PARTS": 4,
        "PART_BACKGROUNDS": 1, "CAP_NOISES": 64, "START_NOISES": 32, "HALVINGS": 4, "TRIAL_NOISES": 64,
        "FEW_RATIO": 256, "RATIO_NUMBERS": 1, "LEAST_RATIO": 256, "GROWTH_NOISES": 64,
    },
}  # fmt: skip


@pytest.fixture(autouse=True)
def brief(monkeypatch):
    for module, constants in BRIEF.items():
        for name, value in constants.items():
            monkeypatch.setattr(f"onnxinfo.metrics.{module}.{name}", value)


def numbers(path):
    with onnxinfo.open(path) as archive:
        (run,) = archive.values()
        assert run.status == "complete"
        (metric,) = run.metrics
        return [*run.values(metric.name).values(), run.maps(metric.name, 0)]


def analyze(path, options, saves, patch):
    """Analyze; return whether it was interrupted after a number of saves."""
    options = dict(options)
    batch_size, left, save = options.pop("batch_size", None), [saves], Unfinished.save

    def stopping(self, name, items):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return save(self, name, items)

    if batch_size:
        patch.setattr("onnxinfo.workflows.analyze.fit", lambda *args, **kwargs: batch_size)
    patch.setattr(Unfinished, "save", stopping)
    try:
        onnxinfo.analyze(MODEL, IMAGES, path, **options)
    except KeyboardInterrupt:
        return True
    return False


@pytest.mark.parametrize("name", [pytest.param(each, marks=pytest.mark.slow if each in SLOW else ()) for each in CASES])
def test_it_continues_within_a_cell_to_the_last_bit(tmp_path, monkeypatch, name):
    saves, options = CASES[name]
    with monkeypatch.context() as patch:
        assert not analyze(tmp_path / "whole.h5", options, 1000, patch)
    monkeypatch.setattr("onnxinfo.metrics.journal.SAVE_SECONDS", 0)
    # What an attempt with other settings left is removed, too.
    Unfinished.beside(tmp_path / "cut.h5", "digits-cnn", "0" * 64).save("measuring-0", [])
    interruptions = 0
    while interruptions < 40:
        with monkeypatch.context() as patch:
            if not analyze(tmp_path / "cut.h5", options, saves, patch):
                break
        interruptions += 1
    assert 1 < interruptions < 40, "it starts anew each time"
    for found, expected in zip(numbers(tmp_path / "cut.h5"), numbers(tmp_path / "whole.h5"), strict=True):
        assert np.array_equal(found, expected, equal_nan=True)
    assert {each.name for each in tmp_path.iterdir()} <= {"cut.h5", "whole.h5", "cut.decoders", "whole.decoders"}
