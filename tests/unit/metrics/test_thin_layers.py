"""A single output of many units with a rough gradient: the optimum is known, and a pass tells little about a unit."""

import dataclasses
import math
from types import SimpleNamespace
from unittest.mock import PropertyMock, patch

import pytest
import torch
from probed import probed

from onnxinfo.metrics import rounding, sid
from onnxinfo.metrics.certificate import Certificate
from onnxinfo.metrics.jacobian_moments import LEAST_FACTOR, JacobianMoments
from onnxinfo.metrics.noise import ENTROPY, make_tie
from onnxinfo.metrics.problem import Problem
from onnxinfo.metrics.sid import solve

UNITS, SAMPLES, TARGET, ROUGH = 1200, 4, 0.5, 0.2


class Rough(torch.nn.Module):
    """``f = sum_i c_i (x_i + b_i sin(w_i x_i))`` at x = 0, with large ``w_i``, and ``b_i`` is 0 for every other unit.

    ``E f^2 = sum_i c_i^2 (sigma_i^2 + b_i^2 / 2)``: the waves move the feature by a constant, and the Jacobian a lot.
    """

    def __init__(self):
        super().__init__()
        order = torch.randperm(UNITS, generator=torch.Generator().manual_seed(0))
        slope = torch.linspace(-1, 1, UNITS).exp()[order]
        self.optimum = math.sqrt((1 - ROUGH) * TARGET / UNITS) / slope
        wave = 2 * math.sqrt(ROUGH / (1 - ROUGH)) * self.optimum
        wave[::2] = 0
        for name, value in {"slope": slope, "wave": wave, "pitch": 5 / self.optimum}.items():
            setattr(self, name, torch.nn.Parameter(value, requires_grad=False))

    def forward(self, x):
        return ((self.slope * (x + self.wave * (self.pitch * x).sin())).sum(1, keepdim=True),)

    def entropy(self, sigma):
        """Mean entropy of scales (S, n) after they are rescaled to meet the constraint, (S,)."""
        waves = (self.slope * self.wave).square().sum() / 2
        linear = (self.slope * sigma).square().sum(1)
        return (sigma.log() + ENTROPY).mean(1) + ((TARGET - waves) / linear).log() / 2


def lost(seed):
    """Distance of solved cells from the optimum in nats, (S,)."""
    layer = Rough()
    feature, start = probed(layer, torch.zeros(SAMPLES, UNITS), 3 * seed, batch_size=256)
    tie = make_tie("unit", (UNITS,), ("feature",))
    found = solve(Problem.of(feature, start, torch.full((SAMPLES,), TARGET), tie, 10.0, (UNITS,)))
    return layer.entropy(layer.optimum[None]) - layer.entropy(found.sigma)


def test_moments_of_the_jacobian_bring_a_rough_layer_near_its_optimum():
    assert lost(seed=0).mean() < 0.1
    with patch.object(Problem, "is_thin", PropertyMock(return_value=False)):
        assert lost(seed=0).mean() > 0.15


def test_what_is_proven_is_not_solved_again(monkeypatch):
    solved = []
    monkeypatch.setattr(sid, "moments_round", lambda problem, scales: solved.append(len(scales)) or scales)
    lost(seed=0)
    assert solved == [SAMPLES]
    monkeypatch.setattr(Certificate, "converged", property(lambda self: torch.ones_like(self.met)))
    lost(seed=0)
    assert solved == [SAMPLES]


@pytest.mark.parametrize("met", [True, False])
def test_scales_that_are_lower_or_do_not_meet_the_constraint_replace_none(met, monkeypatch):
    certify, before = sid.certify_scales, []

    def certified(problem, scales, *given):
        found, *rest = certify(problem, scales, *given)
        certificate = dataclasses.replace(found.certificate, met=torch.full((len(scales),), met))
        return dataclasses.replace(found, certificate=certificate), *rest

    def worse(problem, scales):
        before.append(scales)
        return scales.flip(1)

    monkeypatch.setattr(sid, "certify_scales", certified)
    monkeypatch.setattr(sid, "moments_round", worse)
    monkeypatch.setattr(sid, "feasible", lambda problem, scales: scales)
    layer = Rough()
    loss = lost(seed=0)
    (scales,) = before
    assert (layer.entropy(scales) > layer.entropy(scales.flip(1)) + 0.1).all()
    torch.testing.assert_close(loss, layer.entropy(layer.optimum[None]) - layer.entropy(scales), atol=1e-4, rtol=0)


def test_what_is_limited_by_rounding_is_not_solved_again(monkeypatch):
    monkeypatch.setattr(rounding, "coarseness", lambda problem, scales: torch.full((len(scales),), 2.0))
    monkeypatch.setattr(rounding, "bends", lambda problem, scales, coarse: torch.zeros_like(coarse))
    monkeypatch.setattr(sid, "moments_round", lambda problem, scales: pytest.fail("solved again"))
    lost(seed=0)


def moments(**changed):
    """Moments of one sample of two units: the first has a mean Jacobian of 2, that of the second only varies."""
    given = {
        "rows": torch.tensor([[[2.0, 0.0]]]),
        "energy": torch.tensor([[4.0, 8.0]]),
        "deviation": torch.tensor([6.0]),
        "growth": torch.tensor([6.0]),
        "draws": 10**9,
    }
    return JacobianMoments(**(given | changed))


def test_column_norms_account_for_the_growth():
    """A linear part of 4 leaves 2 of the growth to a variation of 8."""
    assert moments().column_norms(torch.ones(1, 2)).tolist() == [[4.0, pytest.approx(2.0)]]


def test_twice_the_noise_changes_the_shares():
    sigma = torch.tensor([[1.0, 0.5]])
    assert moments().column_norms(sigma).mul(sigma.square()).sum() == pytest.approx(6.0)


@pytest.mark.parametrize(("growth", "factor"), [(1.0, LEAST_FACTOR), (100.0, 1.0)])
def test_the_factor_is_bounded(growth, factor):
    found = moments(growth=torch.tensor([growth])).column_norms(torch.ones(1, 2))
    assert found.tolist() == [[4.0, pytest.approx(8.0 * factor)]]


def test_of_few_noise_samples_a_mean_of_zero_is_not_zero():
    """The square of a mean of n values contains 1/n of their variance: here, that is all there is."""
    rows, energy = torch.tensor([[[2.0, 1.0, 0.0]]]), torch.tensor([[4.0, 8.0, 8.0]])
    found = moments(rows=rows, energy=energy, draws=8).column_norms(torch.ones(1, 3))
    assert found[0].tolist() == [4.0, pytest.approx(1.0), pytest.approx(1.0)]


def test_blended_moments_count_as_many_noise_samples():
    one, other = moments(draws=64), moments(draws=64, energy=torch.tensor([[8.0, 8.0]]))
    blended = one.blended(other, 0.5)
    assert blended.energy.tolist() == [[6.0, 8.0]]
    assert blended.draws == 128


def test_only_many_scales_per_output_are_thin():
    shape = (UNITS,)
    feature = SimpleNamespace(center=torch.zeros(1, 1))
    problem = Problem(feature, None, None, make_tie("unit", shape, ("feature",)), 1.0, shape, None, None, None)
    assert problem.is_thin
    feature.center = torch.zeros(1, 2)
    assert not problem.is_thin
