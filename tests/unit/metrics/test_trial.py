"""The trial step: what it gains against closed forms, and the block averages that its direction is made of."""

import math

import pytest
import torch
from torch import Tensor

from onnxinfo.metrics.halves import Halves
from onnxinfo.metrics.network import Network
from onnxinfo.metrics.probe import LayerProbe
from onnxinfo.metrics.trial import Sampling, Trial, pyramid, try_step

UNITS, SAMPLES = 48, 2


class Linear(torch.nn.Module):
    def __init__(self):
        super().__init__()
        weight = torch.randn(60, UNITS, generator=torch.Generator().manual_seed(0))
        self.weight = torch.nn.Parameter(weight * torch.linspace(0.5, 2, UNITS), requires_grad=False)

    def forward(self, x):
        return (x @ self.weight.T,)


def feature():
    streams = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    x, network = torch.zeros(SAMPLES, UNITS), Network(torch.fx.symbolic_trace(Linear()))
    return LayerProbe(network, x, torch.ones(UNITS), torch.arange(SAMPLES), *streams, 4096)


def power(sigma):
    """Deviation of the linear layer at noise scales (S, n), exactly."""
    return (sigma.square() * Linear().weight.square().sum(0)).sum(1)


@pytest.mark.parametrize("counted", [UNITS, UNITS // 3])
def test_the_gain_is_that_of_a_linear_layer(counted):
    """Units without noise, which are masked, count neither in the entropy nor in the deviation."""
    base = torch.linspace(0.1, 0.3, UNITS).repeat(SAMPLES, 1)
    base[:, counted:] = 0
    step = torch.stack([torch.linspace(-0.3, 0.4, UNITS), torch.linspace(0.2, -0.5, UNITS)])
    step[:, counted:] = 0
    none, half = torch.zeros(SAMPLES), torch.full((SAMPLES,), 0.5)
    trial, deviations = try_step(
        feature(), lambda change: base * change.exp(), step, none, none, Sampling(20_000), half
    )
    exact = step.sum(1) / counted - (power(base * step.exp()) / power(base)).log() / 2
    assert ((trial.gain - exact).abs() < 4 * trial.gain_stderr).all()
    assert (trial.gain_stderr < 0.01).all()
    assert ((deviations.mean(0) / power(base) - 1).abs() < 0.03).all()


@pytest.mark.parametrize(("most", "portions"), [(12, [4, 4, 4]), (64, [22, 22, 20]), (6, [4, 2]), (1, [1])])
def test_noise_is_drawn_until_it_is_enough(most, portions):
    assert [*Sampling(most).portions()] == [most]
    assert [*Sampling(most, bool).portions()] == portions
    base, none = torch.full((SAMPLES, UNITS), 0.2), torch.zeros(SAMPLES)
    for count in range(1, len(portions) + 1):
        left = iter(range(count - 1, -1, -1))
        sampling = Sampling(most, lambda trial, left=left: next(left) == 0)
        trial, deviations = try_step(feature(), lambda change: base + change, 0 * base, none, none, sampling, none)
        assert deviations.shape == (sum(portions[:count]), SAMPLES)
        assert trial.draws == len(deviations)


def test_noise_that_crosses_no_step_promises_little():
    """After the trial step the layer's only threshold is hardly ever crossed: the gain is at most of one crossing."""
    streams = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    step = lambda x, rows: [(x[:, :1] > 2.0).float()]  # noqa: E731
    probe = LayerProbe(step, torch.zeros(1, 1), torch.ones(1), torch.arange(1), *streams, 4096)
    base, none = torch.ones(1, 1), torch.zeros(1)
    trial, deviations = try_step(
        probe, lambda change: base * change.exp(), -torch.ones(1, 1), none, none, Sampling(400), 0.5 + none
    )
    crossings = float(deviations.sum())
    assert crossings > 3
    assert float(trial.gain) <= -1 + math.log(crossings) / 2 + 1e-6


def test_curvature_is_one_where_the_second_order_is_that_of_a_linear_layer():
    trial = Trial(*(torch.tensor([value]) for value in (0.02, 0.003, 0.05, 0.03)))
    torch.testing.assert_close(trial.curvature, Tensor([1.0]))
    torch.testing.assert_close(trial.curvature_stderr, Tensor([0.1]))


@pytest.mark.parametrize(
    ("shape", "axis"), [((64,), 0), ((32, 24), 0), ((32, 24), 1), ((3, 32, 16), 1), ((3, 32, 16), 2), ((3, 32, 16), 0)]
)
def test_smooth_maps_are_found_in_noise_along_every_axis(shape, axis):
    """The error of the mean of two noisy measurements falls to less than a third, whatever axis the map varies on."""
    position = torch.arange(shape[axis]) / (shape[axis] - 1)
    wave = (2 * torch.pi * position).sin().reshape([-1 if i == axis else 1 for i in range(len(shape))])
    truth = wave.expand(shape).reshape(1, -1).repeat(4, 1)
    noise = torch.Generator().manual_seed(3)
    one, other = (truth + torch.randn(truth.shape, generator=noise) for _ in range(2))
    found = pyramid(Halves(one, other), shape)
    assert (found - truth).square().mean() < ((one + other) / 2 - truth).square().mean() / 3


def test_detail_that_both_measurements_share_is_kept():
    """What both agree on is no noise, however fine it is."""
    truth = torch.tensor([1.0, -1.0]).repeat(4, 32)
    torch.testing.assert_close(pyramid(Halves(truth, truth), (64,)), truth)


def test_noise_that_both_measurements_do_not_share_is_dropped():
    noise = torch.Generator().manual_seed(4)
    one, other = (torch.randn(8, 64, generator=noise) for _ in range(2))
    found = pyramid(Halves(one, other), (64,))
    assert found.square().mean() < one.square().mean() / 10


def test_mean_products_are_as_precise_as_the_samples():
    """In a float64 network, a model of the layer in another type would not even multiply the noise."""
    streams = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    weight = torch.arange(6, dtype=torch.float64).reshape(2, 3) / 3
    x = torch.zeros(1, 3, dtype=torch.float64)
    probe = LayerProbe(lambda x, rows: [x @ weight.T], x, torch.ones(3), torch.arange(1), *streams, 4096)
    found = probe.mean_products(torch.ones_like(x), torch.eye(2, dtype=torch.float64)[None], 4)
    torch.testing.assert_close(found, weight[None], rtol=0, atol=1e-15)
