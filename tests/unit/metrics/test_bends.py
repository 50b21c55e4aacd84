"""Layers that are linear under small noise and bend under larger noise are no layers of steps."""

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm

from onnxinfo.metrics.linearization import linearize
from onnxinfo.metrics.network import Network
from onnxinfo.metrics.noise import make_tie
from onnxinfo.metrics.probe import LayerProbe
from onnxinfo.metrics.problem import Problem
from onnxinfo.metrics.rounding import coarseness
from onnxinfo.metrics.sid import solve, solve_by

HALF, DISTANCE = 32, 0.5
ALPHA = 1.5e-4


class Waking(torch.nn.Module):
    """Linear in half of its units; the others are off until they exceed a distance, and then count a lot."""

    def __init__(self, slope):
        super().__init__()
        self.slope = slope

    def forward(self, x):
        return (torch.cat([x[:, :HALF], self.slope * torch.relu(x[:, HALF:] - DISTANCE)], 1),)


def problem(slope):
    return problem_of(Waking(slope), torch.zeros(3, 2 * HALF))


def problem_of(module, x, seed=0):
    network, rows = Network(torch.fx.symbolic_trace(module)), torch.arange(len(x))
    streams = [torch.Generator().manual_seed(3 * seed + i) for i in range(3)]
    feature = LayerProbe(network, x, torch.tensor(1.0), rows, *streams[:2], 4096)
    (start,) = linearize(network, x, torch.tensor(1.0), rows, streams[2])
    tie = make_tie("unit", tuple(x.shape[1:]), ("time",))
    return Problem.of(feature, start, ALPHA * start.normalizer, tie, 1.0, tuple(x.shape[1:]))


def best(slope):
    """Mean log sigma at the optimum: all units of a kind have the same scale."""
    found = []
    for sigma in np.geomspace(0.05, 1, 600):
        spent = slope**2 * quad(lambda z, s=sigma: (s * z - DISTANCE) ** 2 * norm.pdf(z), DISTANCE / sigma, 12)[0]
        if spent < ALPHA:
            found.append((np.log(sigma) + 0.5 * np.log(ALPHA - spent)) / 2)
    return max(found)


@pytest.mark.parametrize(("slope", "proven", "tolerance"), [(0.2, True, 0.02), (1.0, False, 0.06)])
def test_units_that_wake_up_are_not_taken_for_steps(slope, proven, tolerance):
    """What few noise samples wake up is found, though not always proven."""
    solution = solve(problem(slope))
    assert (solution.coarse <= 1).all()
    assert bool(solution.certificate.converged.all()) == proven
    np.testing.assert_allclose(solution.sigma.log().mean(1), best(slope), atol=tolerance)


def test_the_papers_optimizer_does_not_take_them_for_steps_either():
    given, scales = problem(1.0), torch.cat([torch.full((3, HALF), 0.001), torch.full((3, HALF), 0.99)], 1)
    assert (coarseness(given, scales) > 1).all()
    assert (solve_by(given, lambda: scales, 1).coarse <= 1).all()


class Stepped(torch.nn.Module):
    """A smooth layer, and steps that noise within the budget crosses often, or seldom."""

    def __init__(self, size):
        super().__init__()
        self.size = size

    def forward(self, x):
        return (x + self.size * torch.floor(x / self.size),)


@pytest.mark.parametrize(("size", "units"), [(0.02, 4096), (0.02, 64), (0.3, 64)])
def test_steps_are_steps_under_fine_noise_too(size, units):
    """Of few units, none may be close to a step; that there are some shows in the certificate then."""
    x = torch.rand(3, units, generator=torch.Generator().manual_seed(0))
    solution = solve(problem_of(Stepped(size), x))
    assert (solution.coarse > 1).all() or units < 4096
    assert not solution.certificate.converged.any()


class Rounded(torch.nn.Module):
    """Rounding with the gradient of the identity, as the converted graph has it, to multiples of a step."""

    def __init__(self, step):
        super().__init__()
        self.step = step

    def forward(self, x):
        return (x + (self.step * torch.round(x / self.step) - x).detach(),)


@pytest.mark.parametrize("step", [10.0, 1.0, 0.1])
def test_steps_too_wide_to_be_crossed_are_steps(step):
    """Between two steps the layer is flat; its gradient says otherwise."""
    x = torch.linspace(0.3, 0.7, 192).reshape(3, 64) * step * torch.tensor([[0.5], [0.6], [0.7]])
    solution = solve(problem_of(Rounded(step), x))
    assert (solution.coarse > 1).all()


@pytest.mark.parametrize("slope", [20.0, 60.0])
def test_saturation_is_no_step(slope):
    """A layer that saturates within the noise moves far less than its gradient predicts."""

    class Saturating(torch.nn.Module):
        def forward(self, x):
            return (torch.tanh(slope * x) / slope,)

    given = problem_of(Saturating(), torch.zeros(3, 64))
    assert (coarseness(given, torch.full((3, 64), 0.5)) <= 1).all()


STEEP = {
    "tanh": lambda v: torch.tanh(1e4 * v),
    "normalized": lambda v: torch.nn.functional.normalize(v, eps=1e-12),
    "sine": lambda v: torch.sin(1e4 * v),
    "hard": lambda v: (1e4 * v).clamp(-1, 1),
}


@pytest.mark.parametrize("name", STEEP)
def test_a_gradient_too_steep_for_fine_noise_is_no_step(name):
    """Such as the normalization of an empty border: noise moves the feature, though less than the gradient predicts."""

    class Steep(torch.nn.Module):
        def forward(self, x):
            return (STEEP[name](x),)

    given = problem_of(Steep(), torch.full((3, 64), 1e-7))
    assert (coarseness(given, torch.full((3, 64), 0.01)) <= 1).all()
