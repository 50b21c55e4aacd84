"""Decoders folded for evaluation reconstruct as they do with their batch norms."""

import numpy as np
import pytest
import torch

from onnxinfo.metrics.decoder import Decoder, Plan
from onnxinfo.metrics.decoder_folding import folded
from onnxinfo.metrics.decoder_store import DecoderKey, load_decoder, save_decoder
from onnxinfo.metrics.decoder_training import DecoderSettings, Trained

IMAGES = Plan((4, 4, 4), (1, 8, 8), ("channel", "y", "x"), 4)


def trained(plan):
    """A decoder with random weights and statistics of its norms."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        decoder = Decoder(plan)
        for name, values in decoder.state_dict().items():
            if values.is_floating_point():
                values.copy_(torch.rand_like(values) + 0.5 if "running_var" in name else torch.randn_like(values) / 4)
    return decoder


def norms(decoder):
    return [module for module in decoder.modules() if "BatchNorm" in type(module).__name__]


@pytest.mark.parametrize(
    "plan",
    [
        IMAGES,
        Plan((10,), (3, 16, 16), ("channel", "y", "x"), 4),
        Plan((6, 25), (2, 50), ("channel", "time"), 4),
        Plan((9,), (13,), ("feature",), 4),
        Plan((4, 2, 2, 2), (1, 4, 4, 4), ("channel", "z", "y", "x"), 4),
    ],
    ids=["grid", "vector", "series", "tabular", "volume"],
)
def test_a_folded_decoder_reconstructs_the_same(plan):
    decoder = trained(plan)
    found = folded(decoder)
    feature = torch.randn(3, int(np.prod(plan.feature)), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(found(feature), decoder.eval()(feature), rtol=1e-4, atol=1e-4)
    assert norms(decoder)
    assert not norms(found)
    assert not any(weight.requires_grad for weight in found.parameters())


def test_a_decoder_is_folded_when_it_is_read(tmp_path):
    key = DecoderKey("ab" * 32, "relu", "x", "cd" * 32, DecoderSettings(4, 400, 32, 3e-3, False, 0), IMAGES)
    save_decoder(tmp_path, key, Trained(trained(IMAGES), 0.5, 10))
    assert not norms(load_decoder(tmp_path, key).decoder)
