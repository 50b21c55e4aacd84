"""Linearizations stored between the two phases of an analysis, in memory and on disk."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from onnxinfo.analysis import linearization_store as module
from onnxinfo.analysis.blocks import SampleBatch
from onnxinfo.analysis.linearization_store import linearization_store
from onnxinfo.config import SidConfig
from onnxinfo.metrics.linearization import Linearization

UNITS = 6


def linearization(samples, layer, probes):
    norms = torch.stack([torch.arange(UNITS) + 10.0 * sample + 100 * layer for sample in samples])
    return Linearization(norms, norms.sum(1), norms.sum(1) / 50, probes)


@pytest.mark.parametrize("memory", [module.MEMORY_BYTES, 0], ids=["memory", "disk"])
def test_every_layer_has_its_own_back(monkeypatch, memory):
    monkeypatch.setattr(module, "MEMORY_BYTES", memory)
    with linearization_store(2, 4, UNITS) as kept:
        for samples in ([2, 3], [0, 1]):
            kept.put(samples, [linearization(samples, layer, 16) for layer in (0, 1)])
        for layer in (0, 1):
            for samples in ([0, 1, 2, 3], [1, 2], [3]):
                found, expected = kept.of(layer, samples), linearization(samples, layer, 16)
                assert torch.equal(found.column_norms, expected.column_norms)
                assert torch.equal(found.normalizer, expected.normalizer)
                assert torch.equal(found.normalizer_stderr, expected.normalizer_stderr)
        whole = [linearization(range(4), layer, 16).normalizer.double().mean() for layer in (0, 1)]
        assert kept.normalizers() == pytest.approx([float(mean) for mean in whole])


def test_samples_linearized_apart_report_the_most_probes():
    """No cell may seem cheaper than it was."""
    with linearization_store(1, 3, UNITS) as kept:
        for sample, probes in ((0, 32), (1, 128), (2, 16)):
            kept.put([sample], [linearization([sample], 0, probes)])
        assert kept.of(0, [0, 1, 2]).probes == 128
        assert kept.of(0, [2]).probes == 16


def test_what_was_never_put_is_unknown():
    with linearization_store(1, 2, UNITS) as kept:
        kept.put([0], [linearization([0], 0, 16)])
        assert np.isnan(kept.normalizers()).all()


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [(torch.float64, torch.float64), (torch.float32, torch.float32), (torch.float16, torch.float32)],
)
def test_a_stored_start_is_as_precise_as_the_samples(dtype, expected):
    """In a float64 network, the solver multiplies tensors that come from it by tensors that come from the features."""
    x = torch.zeros(2, UNITS, dtype=dtype)
    job = SimpleNamespace(inputs=lambda indices: (x, torch.arange(2)), settings_of=lambda layer: SidConfig())
    batch = SampleBatch(job, 0, [0, 1], linearization([0, 1], 0, 16), 1.0, {})
    assert {batch.linearization.column_norms.dtype, batch.target.dtype, batch.target_stderr.dtype} == {expected}
