"""The Wiener filter keeps what both measurements agree on."""

import pytest
import torch

from onnxinfo.metrics.shrinkage import wiener, wiener_with

SHAPE = (3, 32, 32)


def draws(scale, seed=0, samples=8):
    stream = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(samples, 3 * 32 * 32, generator=stream) for _ in range(2)]


def smooth_map():
    y, x = torch.meshgrid(torch.linspace(0, 3, 32), torch.linspace(0, 3, 32), indexing="ij")
    return (torch.sin(y) * torch.cos(x)).expand(8, 3, 32, 32).reshape(8, -1)


def test_noise_alone_is_removed():
    first, second = draws(1.0)
    assert wiener(first, second, SHAPE).square().mean() < 0.02


def test_a_map_without_noise_passes():
    stream = torch.Generator().manual_seed(1)
    signal = torch.randn(8, 3 * 32 * 32, generator=stream)
    assert torch.allclose(wiener(signal, signal, SHAPE), signal, atol=1e-4)


def test_a_smooth_map_is_found_in_strong_noise():
    signal = smooth_map()
    first, second = (signal + noise for noise in draws(2.0))
    error = (wiener(first, second, SHAPE) - signal).square().mean()
    unfiltered = ((first + second) / 2 - signal).square().mean()
    assert error < unfiltered / 20


def test_a_map_akin_adds_what_it_shares():
    stream = torch.Generator().manual_seed(2)
    rough = torch.randn(8, 3 * 32 * 32, generator=stream)
    first, second = (rough + noise for noise in draws(1.0))
    other, unrelated = draws(0.5, seed=3)
    alone = (wiener(first, second, SHAPE) - rough).square().mean()
    # Precisions add: 1 of the map itself, 1 / 0.5 of the mean of the two, and 1 / 0.25 of the biased third.
    with_it = (wiener_with(first, second, 2 * (rough + other), SHAPE) - rough).square().mean()
    assert alone == pytest.approx(1 / (1 + 2), rel=0.05)
    assert with_it == pytest.approx(1 / (1 + 2 + 4), rel=0.05)
    without = (wiener_with(first, second, unrelated, SHAPE) - rough).square().mean()
    assert without == pytest.approx(float(alone), rel=0.02)


def test_a_map_akin_that_is_constant_changes_nothing():
    first, second = (smooth_map() + noise for noise in draws(1.0))
    estimate = wiener_with(first, second, torch.zeros_like(first), SHAPE)
    assert torch.allclose(estimate, wiener(first, second, SHAPE), atol=1e-5)


@pytest.mark.parametrize("shape", [(13,), (1,), (2, 3), (5, 16)])
def test_any_shape_will_do(shape):
    count = 1
    for size in shape:
        count *= size
    stream = torch.Generator().manual_seed(0)
    first, second = (torch.randn(2, count, generator=stream) for _ in range(2))
    for estimate in (wiener(first, second, shape), wiener_with(first, second, first + 1, shape)):
        assert estimate.shape == (2, count)
        assert estimate.isfinite().all()
