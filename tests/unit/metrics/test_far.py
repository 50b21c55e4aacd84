"""Samples whose constraint is far off: they are brought near it, and do not hold up the others of their block."""

import math
from unittest.mock import patch

import pytest
import torch
from probed import probed

from onnxinfo.metrics import ascent, constraint
from onnxinfo.metrics.constraint import feasible
from onnxinfo.metrics.halves import Halves
from onnxinfo.metrics.measured import Measured
from onnxinfo.metrics.noise import make_tie
from onnxinfo.metrics.problem import Problem

UNITS, TARGET = 256, 0.5


class Bowl(torch.nn.Module):
    """``f = (x, c sum_i x_i^2)`` at x = 0: noise shifts the last entry, so the deviation is about a fourth power."""

    def __init__(self, size):
        super().__init__()
        self.size = size

    def forward(self, x):
        return (torch.cat([x, self.size * x.square().sum(1, keepdim=True)], 1),)

    def ratio(self, sigma):
        squares = sigma.square()
        shift = (self.size * squares).sum(1)
        return (squares.sum(1) + shift.square() + 2 * (self.size * squares).square().sum(1)) / TARGET


class Cliff(torch.nn.Module):
    """``f = x``, and above a threshold of a few units a slope of 1,000: rare noise samples exceed everything else."""

    def forward(self, x):
        return (torch.cat([x, 1000 * torch.relu(x[:, :8] - 1)], 1),)


def problem_of(layer, x):
    feature, start = probed(layer, x)
    tie = make_tie("unit", (UNITS,), ("feature",))
    return Problem.of(feature, start, torch.full((len(x),), TARGET), tie, 10.0, (UNITS,))


@pytest.mark.parametrize("factor", [0.1, 0.3, 3.0, 10.0])
@pytest.mark.parametrize("size", [1.0, 10.0, 1000.0])
def test_a_fourth_power_is_brought_near_its_constraint(size, factor):
    """With the exponent of a linear layer, the ratio to the budget turns into its inverse again and again."""
    layer = Bowl(size)
    problem = problem_of(layer, torch.zeros(2, UNITS))
    scales = feasible(problem, feasible(problem, problem.uniform()) * factor)
    assert (layer.ratio(scales).log().abs() < math.log(1.3 * constraint.FAR)).all()


def test_a_sample_with_rare_jumps_does_not_hold_up_the_others():
    calm, rough = torch.full((UNITS,), -100.0), torch.full((UNITS,), 0.88)
    layer = Cliff()
    problem = problem_of(layer, torch.stack([calm, calm, rough]))
    start = feasible(problem, problem.uniform())
    worse = start * torch.randn(start.shape, generator=torch.Generator().manual_seed(0)).mul(0.4).exp()
    state = ascent.Ascent.begin(worse, problem.tie)
    ascent.ascend(problem, state, None, 24, 0.05)
    apart = state.scales.log() - state.scales.log().mean(1, keepdim=True)
    assert (apart[:2].square().mean(1) < 0.02).all()
    assert (state.steps[:2] > 1).all()


def test_a_pass_far_from_the_constraint_promises_nothing():
    """Its gradient is that of another problem, and must not end the ascent."""
    problem = problem_of(Bowl(1.0), torch.zeros(2, UNITS))
    state, no = ascent.Ascent.begin(feasible(problem, problem.uniform()), problem.tie), torch.zeros(2, dtype=torch.bool)
    far = [torch.tensor([False, True])] + [no] * 4
    gains = [torch.tensor([0.1, -9.0])] + [torch.full((2,), 0.1)] * 4
    with (
        patch.object(ascent, "is_far", side_effect=[(each, no) for each in far]),
        patch.object(ascent, "feasible", lambda problem, scales: scales),
        patch.object(Measured, "shortfall", side_effect=[(each, torch.zeros(2)) for each in gains]),
        patch.object(ascent, "STEP_GAIN", 0.0),
    ):
        taken, _ = ascent.ascend(problem, state, None, 5, 0.05)
    assert taken == 5
    assert state.steps.tolist() == [5, 4]


def test_a_sample_promises_the_mean_of_its_own_passes():
    """One that was far in most passes, and has much left to gain, must not be outvoted by the others' passes."""
    gains = torch.full((4, 8), 0.001)
    gains[:3, 0], gains[3, 0] = torch.nan, 0.1
    passes = [torch.stack([each, torch.zeros(8)]) for each in gains]
    assert ascent._promised(passes) == pytest.approx((0.1 + 7 * 0.001) / 8)
    errors = [torch.stack([torch.zeros(8), torch.full((8,), 0.4)]) for _ in range(4)]
    assert ascent._promised(errors) == pytest.approx(0.4 / 32**0.5)


def test_only_the_first_step_of_a_sample_tells_its_curvature():
    relative, step = torch.full((3, UNITS), 0.5), torch.full((3, UNITS), 0.5)
    step[2] = 0.0
    assert ascent._overshot(relative, step).tolist() == [1.5, 1.5, 1.0]


def total_change(ratios, scales=None):
    """Change of log sigma by a search for the constraint that finds these ratios to the budget in turn, then 1."""
    problem = problem_of(Bowl(1.0), torch.zeros(1, UNITS))
    start = torch.full((1, UNITS), 0.1) if scales is None else scales
    found = [torch.full((4, 1), each * TARGET) for each in (*ratios, 1.0)]
    with patch.object(type(problem.feature), "deviations", side_effect=found):
        return float((feasible(problem, start) / start)[0, -1].log())


def test_the_power_of_the_growth_is_found_by_a_secant():
    assert total_change([math.e**3]) == pytest.approx(-1)
    assert total_change([math.e**3, math.e**-1]) == pytest.approx(-1 + 1 / 4)


def test_a_deviation_that_grows_while_noise_shrinks_is_no_power():
    """It was measured by few noise samples, and must not turn the search around."""
    assert total_change([8.0, 9.0]) == pytest.approx(-2)


def test_a_jump_is_no_power_either():
    assert total_change([8.0, 0.001]) == pytest.approx(-1 + math.log(1000) / constraint.MOST_EXPONENT)


def test_units_without_a_scale_do_not_hide_how_far_the_others_moved():
    scales = torch.full((1, UNITS), 0.1)
    scales[:, 0] = torch.inf
    assert total_change([0.01, 0.3], scales) == pytest.approx(1 - math.log(0.3) / math.log(30))


def test_the_curvature_is_that_of_a_first_step_and_never_falls():
    tie = make_tie("unit", (UNITS,), ("feature",))
    state = ascent.Ascent.begin(torch.ones(3, UNITS), tie)
    state.steps, state.curvature = torch.tensor([1, 3, 1]), torch.tensor([1.0, 1.0, 5.0])
    relative, step = torch.full((3, UNITS), 0.5), torch.full((3, UNITS), 0.5)
    state._learn(Halves(relative, relative), step, 0.0)
    assert state.curvature.tolist() == [1.5, 1.0, 5.0]
