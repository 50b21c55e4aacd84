"""Verdict and value of a cell do not depend on other layers and samples, on memory or on workers."""

import numpy as np
import pytest

import onnxinfo
from onnxinfo.models import path

LAYERS, SAMPLES = ("relu_4", "logits"), 4
UNIT = {"mean": [8.0], "std": [6.0], "scale": 1.0}


def cells(folder, name, samples=slice(0, SAMPLES), layers=LAYERS, **options):
    """SID values, (layer, sample), under each sample's own constraint."""
    images = np.load(path("digits.npz"))["images"][:SAMPLES][samples]
    model, output = str(path("digits-cnn.onnx")), folder / f"{name}.h5"
    done = onnxinfo.analyze(model, images, output, layers=layers, normalize_by="sample", threads=1, **UNIT, **options)
    with onnxinfo.open(output) as archive:
        return archive[done.run].values("sid")


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    return cells(tmp_path_factory.mktemp("company"), "together")


def joined(parts, axis):
    return {name: np.concatenate([part[name] for part in parts], axis) for name in parts[0]}


def demand_same(found, expected):
    """Verdicts agree in 95 % of cells, and values within three standard errors of their difference."""
    apart = np.abs(found["value"] - expected["value"]) / np.hypot(found["stderr"], expected["stderr"])
    assert (found["converged"] == expected["converged"]).mean() >= 0.95
    assert (apart <= 3).mean() >= 0.95, apart


def test_layers_alone(tmp_path, together):
    parts = [cells(tmp_path, f"layer{i}", layers=[layer]) for i, layer in enumerate(LAYERS)]
    demand_same(joined(parts, 0), together)


def test_samples_alone(tmp_path, together):
    parts = [cells(tmp_path, f"sample{i}", samples=slice(i, i + 1)) for i in range(SAMPLES)]
    demand_same(joined(parts, 1), together)


def test_samples_in_another_order(tmp_path, together):
    found = cells(tmp_path, "backwards", samples=slice(None, None, -1))
    demand_same({name: numbers[:, ::-1] for name, numbers in found.items()}, together)


def test_little_memory(tmp_path, together):
    """Smaller batches and smaller blocks of samples."""
    alone = {name: numbers[-1:] for name, numbers in together.items()}
    demand_same(cells(tmp_path, "little", layers=LAYERS[-1:], memory_limit="1M"), alone)
    with onnxinfo.open(tmp_path / "little.h5") as archive:
        (run,) = (archive[name] for name in archive)
        assert run.provenance["inputs_at_once"] < 32


@pytest.mark.usefixtures("quick_workers")
def test_workers(tmp_path, together):
    found = cells(tmp_path, "workers", workers=2)
    assert (found["value"] == together["value"]).all()
    assert (found["converged"] == together["converged"]).all()
