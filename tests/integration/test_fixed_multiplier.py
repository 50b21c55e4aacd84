"""The procedure of the code of 2022, on a layer whose optimum is known."""

from __future__ import annotations

import fixed_multiplier
import numpy as np
import onnx
import pytest
from common import prepared
from graphs import model, node, value


def test_a_linear_layer_is_reported_at_one_and_a_half_and_ends_at_the_multiplier(tmp_path):
    """The optimum is every image's: the relative deviation of the identity is the mean of ``sigma^2 / .01^2``."""
    network = model([node("Identity", "x", "y")], [value("x", ["N", 3, 16, 16])], [value("y", ["N", 3, 16, 16])])
    onnx.save(network, tmp_path / "identity.onnx")
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8))
    job = prepared(
        str(tmp_path / "identity.onnx"), f"{tmp_path / 'x.npz'}:x", ["y"], preset="imagenet", samples=2, device="cpu"
    )  # fmt: skip
    found = fixed_multiplier.descend(job, 0, {100, 1000}, seed=0)

    def entropy(relative):
        return 0.5 * np.log(relative * 0.01**2) + fixed_multiplier.CONSTANT

    assert found.reported.tolist() == pytest.approx([entropy(1.5)] * 2, abs=0.03)
    square, updates = 0.01**2, 0
    while square < 1.5 * 0.01**2:
        square += 1e-4 * (2 * 2 * 5 / 256 - 4 * square / (256 * 0.01**2))
        updates += 1
    assert found.step.tolist() == pytest.approx([updates] * 2, abs=1)
    ended, share = found.after[1000]
    assert ended == pytest.approx(entropy(5), abs=0.03)
    assert share == pytest.approx(1, abs=0.03)
    assert found.after[100][0] < ended
