"""Gradients that are far larger than others, and control variates that are far from their layer."""

from types import SimpleNamespace

import pytest
import torch

from onnxinfo.metrics.ascent import Ascent
from onnxinfo.metrics.measured import Measured, noise_free_power, outlier_weights
from onnxinfo.metrics.noise import make_tie
from onnxinfo.metrics.probe import less_control

UNITS, SAMPLES, PARTS = 40, 2, 8
FREE = torch.ones(SAMPLES, UNITS, dtype=torch.bool)


def parts(seed=0):
    """Noisy estimates of a gradient of 1 at every unit, (parts, S, n)."""
    return 1 + 0.1 * torch.randn(PARTS, SAMPLES, UNITS, generator=torch.Generator().manual_seed(seed))


def test_only_outliers_lose_weight():
    power = torch.tensor([[1.0, 2], [2, 2], [1, 2], [50, 10]])
    expected = torch.ones(4, 2)
    expected[3, 0] = 5 / 50
    assert torch.allclose(outlier_weights(power), expected)
    power[1, 0] = torch.nan
    assert torch.allclose(outlier_weights(power), expected)


def test_an_outlier_hardly_changes_the_measurement():
    ordinary = parts()
    wild = ordinary.clone()
    wild[3, 0] += 100 * torch.randn(UNITS, generator=torch.Generator().manual_seed(1))
    found, without = Measured(wild, torch.ones(4, SAMPLES)), Measured(ordinary[[0, 1, 2, 4, 5, 6, 7]], torch.ones(4, 2))
    assert (found.mean() - without.mean()).abs().max() < 0.1
    shortfall, error = found.shortfall(FREE, FREE)
    assert shortfall.abs().max() < 0.01
    assert error.max() < 0.02
    # With equal weights, the outlier is most of the error.
    assert noise_free_power(wild - 1, FREE)[1][0] > 10 * error[0]


def test_weights_count_estimates_in_part():
    """A weight of 0 leaves an estimate out; weights of 1 are the same as none."""
    signal = parts() - 1
    weights = torch.ones(PARTS, SAMPLES)
    for given, expected in zip(noise_free_power(signal, FREE, weights), noise_free_power(signal, FREE), strict=True):
        assert torch.allclose(given, expected)
    weights[-1] = 0
    assert torch.allclose(noise_free_power(signal, FREE, weights)[0], noise_free_power(signal[:-1], FREE)[0], atol=1e-6)


def test_halves_are_weighted_means_of_every_second_part():
    found = Measured(parts(), torch.ones(4, SAMPLES))
    assert torch.allclose(found.halves.first, found.parts[::2].mean(0))
    assert torch.allclose(found.halves.second, found.parts[1::2].mean(0))
    assert torch.allclose(found.mean(2, 4), found.parts[2::4].mean(0))


def test_a_control_serves_the_samples_that_it_fits():
    """The first sample's deviations follow the control; those of the second are far smaller than it says."""
    energies = 10 * torch.rand(32, 2, generator=torch.Generator().manual_seed(0))
    deviations = torch.stack([energies[:, 0], 1 + 0.01 * energies[:, 1].roll(1)], 1)
    found = less_control(deviations, energies, torch.full((2,), 5.0))
    assert found[:, 0].std() < 0.6 * deviations[:, 0].std()
    assert torch.equal(found[:, 1], deviations[:, 1])


@pytest.mark.parametrize(("largest", "share"), [(2.0, 1.0), (30.0, 5 / (1 + 30**2 / 3))])
def test_an_outlying_pass_moves_the_scales_less(largest, share):
    """After three passes of equal gradients, a pass is 2 / 5 of the evidence, less if its gradient is far larger."""
    units, target, free = 1000, torch.ones(2), torch.ones(2, 1000, dtype=torch.bool)
    tie = make_tie("unit", (units,), ("feature",))
    problem = SimpleNamespace(
        tie=tie, target=target, denoised=lambda first, second: (first + second) / 2, free=lambda scales: free
    )
    ascent = Ascent.begin(torch.ones(2, units), tie)
    relative = torch.linspace(-largest, largest, units).expand(2, -1)
    for each in (0, 0, 0, 1):
        gradient = (1 + each * relative) * 2 / units
        ascent.step(problem, [Measured(gradient.expand(4, -1, -1), target.expand(4, -1))], 0.0)
    assert torch.allclose(ascent.scales.log(), -0.4 * share * relative / 2, rtol=0.01, atol=1e-4)
