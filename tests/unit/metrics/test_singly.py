"""Units in which a feature saturates, among others: each that costs less at the cap than it gains belongs there."""

import dataclasses
import math
from unittest.mock import patch

import pytest
import torch
from scipy.integrate import trapezoid
from scipy.stats import norm
from test_bends import problem_of

from onnxinfo.metrics import singly
from onnxinfo.metrics.leap import LOOK_NOISES
from onnxinfo.metrics.noise import ENTROPY, Tie
from onnxinfo.metrics.sid import solve
from onnxinfo.metrics.singly import MOST_UNITS, raise_singly

UNITS, SATURATED, STEEPNESS = 16, 4, 60.0


class PartlySaturating(torch.nn.Module):
    """Some entries are their unit's tanh, with slope 1 at zero, the others the unit itself."""

    def forward(self, x):
        x = x.flatten(1)
        return (torch.cat([(STEEPNESS * x[:, :SATURATED]).tanh() / STEEPNESS, x[:, SATURATED:]], 1),)


class Linear(torch.nn.Module):
    def forward(self, x):
        return (x + 0.0,)


def saturated_cost():
    """Deviation of a saturating entry with its unit at the cap."""
    z = torch.linspace(-10, 10, 80_001, dtype=torch.float64)
    return trapezoid((STEEPNESS * z).tanh().square() * norm.pdf(z) / STEEPNESS**2, z)


def optimum(target):
    """Mean H with the saturating units at the cap, and the rest of the budget shared equally by the others."""
    others = UNITS - SATURATED
    return others / 2 * math.log((target - SATURATED * saturated_cost()) / others) / UNITS + ENTROPY


@pytest.mark.parametrize("seed", range(3))
def test_units_that_saturate_are_found_among_others(seed):
    given = problem_of(PartlySaturating(), torch.zeros(2, UNITS), seed=seed)
    solution = solve(given)
    best = optimum(float(given.target[0]))
    # At equal scales, which the gradient does not tell from the optimum, more than half a nat is missing.
    assert best - (math.log(float(given.target[0]) / UNITS) / 2 + ENTROPY) > 0.5
    assert (solution.sigma[:, :SATURATED] > 0.5).all()
    short = best - solution.entropy.mean(1)
    assert (short <= solution.certificate.gap + 2 * solution.stderr).all()
    assert (short >= -2 * solution.stderr - 1e-3).all()
    assert solution.certificate.converged.all()


def looked(given, scales):
    return raise_singly(given, scales, torch.full((given.feature.samples,), 2.0))


def test_units_that_cost_too_much_are_left_and_the_noise_too():
    given, draws = problem_of(Linear(), torch.zeros(2, UNITS)), []

    def noted(problem, logs, groups, count, costs=singly._costs):
        draws.append(count)
        return costs(problem, logs, groups, count)

    before = given.feature.noise.get_state()
    with patch.object(singly, "_costs", noted):
        assert not looked(given, given.uniform()).change.any()
    # The first look tells.
    assert draws == [LOOK_NOISES]
    assert torch.equal(given.feature.noise.get_state(), before)


def test_as_many_units_are_raised_as_gain_most():
    """The others share what is left, so that two at the cap gain more than three, which the budget allows."""
    given = problem_of(PartlySaturating(), torch.zeros(2, UNITS))
    given.target.fill_(3.5 * saturated_cost())
    step = looked(given, given.uniform())
    assert ((step.change > 1).sum(1) == 2).all()
    assert (step.sure_gain > 0).all()


def test_excluded_units_are_not_raised():
    given = problem_of(PartlySaturating(), torch.zeros(2, UNITS))
    given.counted[:, 0] = False
    change = looked(given, given.uniform()).change
    assert not change[:, 0].any()
    assert (change[:, 1:SATURATED] > 0).all()


def test_of_many_units_none_is_looked_at():
    given = problem_of(Linear(), torch.zeros(1, MOST_UNITS + 1))
    assert not looked(given, given.uniform()).change.any()


def test_groups_are_raised_as_a_whole():
    """The first group has all units that saturate, each of the others none."""
    given = problem_of(PartlySaturating(), torch.zeros(2, UNITS))
    given = dataclasses.replace(given, tie=Tie(torch.arange(UNITS) // 4, torch.full((4,), 4)).counting(given.counted))
    change = looked(given, given.uniform()).change
    assert (change[:, :SATURATED] > 0).all()
    assert (change[:, SATURATED:] < 0).all()


def test_a_unit_that_saturates_is_not_raised_with_others_of_its_group():
    given = problem_of(PartlySaturating(), torch.zeros(2, UNITS))
    given = dataclasses.replace(given, tie=Tie(torch.arange(UNITS) % 4, torch.full((4,), 4)).counting(given.counted))
    assert not looked(given, given.uniform()).change.any()
