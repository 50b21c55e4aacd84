"""Cells of RU whose stated error, gap or verdict would be wrong if only the usual cell were considered."""

import pytest
import torch
from test_bends import problem_of

from onnxinfo.metrics.noise import ENTROPY
from onnxinfo.metrics.reconstruction import Reconstruction
from onnxinfo.metrics.ru import Problem, solve_ru

UNITS, CELLS = 8, 192


class Same(torch.nn.Module):
    def forward(self, x):
        return x


class Linear(torch.nn.Module):
    def forward(self, x):
        return (x + 0.0,)


class Shrinking(torch.nn.Module):
    """Noise beyond one standard deviation moves the entries the less, the larger it is."""

    def forward(self, x):
        return (4 * x * torch.exp(-8 * x.square()),)


class Kinked(torch.nn.Module):
    """The units themselves, and a kink of their sum that much noise of small probability reaches."""

    def forward(self, x):
        return (torch.cat([x, 60 * torch.relu(x.sum(1, keepdim=True) - REACHED)], 1),)


#: Distance of the kink: 3.5 standard deviations of the sum at the scales of the budget without it.
REACHED = 3.5 * 1.5e-4**0.5 * UNITS**0.5


class First(torch.nn.Module):
    def forward(self, x):
        return x[:, :UNITS]


def solved(module, decoder, target, samples=4, seed=0):
    given = problem_of(module, torch.zeros(samples, UNITS), seed=seed)
    reconstruction = Reconstruction(given.feature, decoder, "input")
    return solve_ru(Problem.of(reconstruction, given.start, torch.full((samples,), target), given.tie, 1.0))


def test_the_error_of_an_exact_cell_is_that_of_its_noise():
    """With all units at the cap and an exact inverse, the value is the entropy of the unit normal distribution."""
    found = solved(Linear(), Same(), 100.0 * UNITS, samples=CELLS)
    assert found.certificate.saturated.all()
    apart = (found.entropy.mean(1) - ENTROPY).abs() / found.stderr
    # Two standard errors; of errors from four parts of the noise, 14 % are beyond.
    assert float((apart > 2).float().mean()) < 0.09
    assert float(found.stderr.max() / found.stderr.min()) < 4


def test_units_at_the_cap_of_a_feature_that_shrinks_there_are_not_proven():
    """The decoder shows the feature, so that less noise than the cap's gives larger errors."""
    found = solved(Shrinking(), Same(), 100.0 * UNITS)
    assert found.certificate.saturated.all()
    assert (found.certificate.gap > 0.1).all()
    assert not found.certificate.converged.any()


@pytest.mark.parametrize("seed", range(3))
def test_a_kink_that_noise_reaches_rarely_is_not_proven_to_be_absent(seed):
    found = solved(Kinked(), First(), 1.5e-4 * UNITS, seed=seed)
    assert not found.certificate.met.any()
