"""Fourier transforms, windows, detection and random operators."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from nodes import assert_same, floats, gradcheck, node_model, rng

from onnxinfo import ConversionError, convert


class TestSpectral:
    real, complex = floats(2, 16, 3, 1), floats(2, 16, 3, 2)

    @pytest.mark.parametrize("inverse", [0, 1])
    @pytest.mark.parametrize("length", [None, np.array(10), np.array(20)])
    def test_dft(self, length: np.ndarray | None, inverse: int) -> None:
        settings = {"inverse": inverse, "constants": (1, 2), "atol": 1e-4}
        for signal in (self.real, self.complex):
            assert_same("DFT", [signal, length], opset=17, axis=1, **settings)
            for axis in (1, -2):
                assert_same("DFT", [signal, length, np.array(axis)], opset=20, **settings)

    def test_one_sided(self) -> None:
        assert_same("DFT", [self.real], opset=17, onesided=1)
        (back,) = convert(node_model("DFT", [self.complex, None, np.array(1)], opset=20, inverse=1, onesided=1))(
            torch.from_numpy(self.complex), torch.tensor(1)
        )
        spectrum = self.complex[..., 0] + 1j * self.complex[..., 1]
        np.testing.assert_allclose(back[..., 0], np.fft.irfft(spectrum, axis=1), atol=1e-6)

    def test_stft(self) -> None:
        signal, step, window = floats(2, 50, 1), np.array(7), floats(10, seed=1)
        assert_same("STFT", [signal, step, window, np.array(10)], opset=17, constants=(1, 3))
        assert_same("STFT", [signal, step, window], opset=17, constants=(1,), onesided=0)
        assert_same("STFT", [signal, step, None, np.array(12)], opset=17, constants=(1, 3), atol=1e-4)

    def test_gradients(self) -> None:
        gradcheck("DFT", [self.complex, None, np.array(1)], opset=20, inverse=1, constants=(2,))
        gradcheck("DFT", [self.real, None, np.array(1)], opset=20, onesided=1, constants=(2,))
        gradcheck("STFT", [floats(2, 50, 1), np.array(7), floats(10, seed=1)], opset=17, constants=(1,))

    @pytest.mark.parametrize("periodic", [0, 1])
    @pytest.mark.parametrize("op_type", ["HannWindow", "HammingWindow", "BlackmanWindow"])
    def test_windows(self, op_type: str, periodic: int) -> None:
        assert_same(op_type, [np.array(13)], opset=17, periodic=periodic)

    @pytest.mark.parametrize(("bins", "length", "low", "high"), [(20, 256, 0, 8000), (40, 64, 20, 4000)])
    def test_mel_scale(self, bins: int, length: int, low: float, high: float) -> None:
        edges = [np.array(low, np.float32), np.array(high, np.float32)]
        assert_same("MelWeightMatrix", [np.array(bins), np.array(length), np.array(16000), *edges], opset=17)


def regions(count: int) -> np.ndarray:
    corners = rng().uniform(-5, 40, (2, count, 2))
    return np.concatenate([corners.min(0), corners.max(0)], 1).astype(np.float32)


class TestRegions:
    image = floats(2, 3, 20, 25)
    samples = rng(1).integers(0, 2, 7)

    @pytest.mark.parametrize("ratio", [0, 2])
    @pytest.mark.parametrize("mode", ["avg", "max"])
    @pytest.mark.parametrize("corners", [None, "half_pixel", "output_half_pixel"])
    def test_roi_align(self, corners: str | None, mode: str, ratio: int) -> None:
        settings = {"output_height": 3, "output_width": 4, "spatial_scale": 0.7, "mode": mode, "sampling_ratio": ratio}
        if corners is not None:
            settings["coordinate_transformation_mode"] = corners
        inputs = [self.image, regions(7), self.samples]
        assert_same("RoiAlign", inputs, opset=10 if corners is None else 16, **settings)

    def test_gradient_with_respect_to_image_and_regions(self) -> None:
        inputs = [self.image[:, :, :8, :8], regions(3) / 5 + np.float32(0.1), self.samples[:3]]
        gradcheck("RoiAlign", inputs, output_height=2, output_width=2, sampling_ratio=2)

    def test_no_regions(self) -> None:
        inputs = [self.image, regions(0), self.samples[:0]]
        assert_same("RoiAlign", inputs, opset=16, output_height=3, output_width=4)

    def test_max_roi_pool(self) -> None:
        rois = np.concatenate([self.samples[:, None], regions(7)], 1).astype(np.float32)
        assert_same("MaxRoiPool", [self.image, rois], opset=16, pooled_shape=[3, 4], spatial_scale=0.6)
        gradcheck("MaxRoiPool", [self.image, rois], opset=16, constants=(1,), pooled_shape=[3, 4], spatial_scale=0.6)


@pytest.mark.parametrize("center_point_box", [0, 1])
@pytest.mark.parametrize("options", [(7, 0.3, 0.2), (100, 0.5), (5,), ()])
def test_non_max_suppression(options: tuple, center_point_box: int) -> None:
    centers, sizes = rng().uniform(0, 1, (2, 40, 2)), rng(1).uniform(0.05, 0.5, (2, 40, 2))
    second = sizes if center_point_box else centers - sizes
    first = centers if center_point_box else centers + sizes
    boxes = np.concatenate([first, second], 2).astype(np.float32)
    limits = [np.array(v, np.int64 if i == 0 else np.float32) for i, v in enumerate(options)]
    inputs = [boxes, floats(2, 3, 40), *limits]
    assert_same("NonMaxSuppression", inputs, opset=11, constants=(2, 3, 4), center_point_box=center_point_box)


@pytest.mark.parametrize("op_type", ["Bernoulli", "RandomNormalLike", "RandomUniformLike"])
def test_random_numbers_are_refused(op_type: str) -> None:
    """Every engine draws different numbers, so no result could be verified."""
    with pytest.raises(ConversionError, match=rf"{op_type}.*draws random numbers"):
        convert(node_model(op_type, [np.full((4, 5), 0.3, np.float32)]), fallback=False)
