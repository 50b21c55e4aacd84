"""The solver without gradients on functions whose optimum is known."""

import dataclasses
import math
from functools import partial
from statistics import NormalDist

import numpy as np
import pytest
import torch

from onnxinfo.metrics.forward import MOST_SEARCHES, SEVERAL_OPTIMA, ForwardProblem, solve_forward
from onnxinfo.metrics.intervals import Intervals
from onnxinfo.metrics.noise import generator, make_tie, waterfill
from onnxinfo.metrics.probe import LayerProbe
from onnxinfo.metrics.radial import Radial, draw_lengths

C = 0.5 * math.log(2 * math.pi * math.e)
NORMAL = NormalDist()


def probe(function, x, seed=0, unit=1.0):
    streams = (generator(x.device, seed, name) for name in ("noise", "probes"))
    return LayerProbe(lambda x, rows: [function(x)], x, torch.tensor(unit), torch.arange(len(x)), *streams, 4096)


def solve(function, x, budget, *, seed=0, kind="unit", make=Radial, units=None):
    shape, target = tuple(x.shape[1:]), torch.full((len(x),), budget)
    tie = make_tie(kind, shape, ("time",))
    return solve_forward(probe(function, x, seed), target, tie, 1.0, shape, make, units)


def stumps(x):
    """Two steps, at .3 of the first unit and at -.6 of the second."""
    return torch.stack([3 * (x[:, 0] > 0.3).float(), (x[:, 1] > -0.6).float()], 1)


def best_of_stumps(budget):
    """Mean log sigma of both, by a search along what the budget leaves for the second."""
    found = []
    for second in np.linspace(0.05, 1, 4000):
        rest = budget - NORMAL.cdf(-0.6 / second)
        if 0 < rest < 4.5:
            found.append((math.log(min(-0.3 / NORMAL.inv_cdf(rest / 9), 1)) + math.log(second), second))
    return max(found)


def exact(feature, tie, counted):
    thresholds = [torch.tensor([0.3]), torch.tensor([-0.6]), *[torch.tensor([])] * 3]
    return Intervals(feature, thresholds, counted)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("kind", "groups"), [("unit", 30), ("grid:5", 5)])
def test_a_linear_layer_has_the_closed_form(seed, kind, groups):
    stream = np.random.default_rng(seed)
    weight = torch.tensor(stream.normal(size=(12, 30)) * np.exp(stream.normal(size=(1, 30))), dtype=torch.float32)
    norms = weight.square().sum(0)
    tie, budget = make_tie(kind, (30,), ("time",)), 1e-3 * float(norms.sum())
    expected = tie.expand(waterfill(norms[None], torch.tensor([budget]), tie, 1.0).clamp(max=1.0)).log()
    x = torch.tensor(stream.normal(size=(2, 30)), dtype=torch.float32)
    solution = solve(lambda x: x @ weight.T, x, budget, seed=seed, kind=kind)
    assert tie.groups == groups
    assert solution.certificate.converged.all()
    assert (solution.sigma.log().mean(1) - expected.mean()).abs().max() < 0.01
    # The error of the level is common to all units.
    apart = solution.sigma.log() - expected
    assert (apart - apart.mean(1, keepdim=True)).abs().max() < 0.2


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("distance", [0.3, 0.5])
def test_a_step_has_the_closed_form(seed, distance):
    budget = 0.02
    solution = solve(lambda x: 2 * (x[:, :1] > distance).float(), torch.zeros(1, 5), budget, seed=seed)
    expected = -distance / NORMAL.inv_cdf(budget / 4)
    assert solution.certificate.converged.all()
    assert float(solution.sigma[0, 0]) == pytest.approx(expected, rel=0.03)
    assert (solution.sigma[0, 1:] == 1).all()
    error = float(solution.entropy.mean()) - (math.log(expected) / 5 + C)
    assert abs(error) < 3 * float(solution.stderr) / 5 + 0.002


@pytest.mark.parametrize("make", [Radial, exact])
@pytest.mark.parametrize("seed", range(3))
def test_two_stumps_share_the_budget(make, seed):
    expected, second = best_of_stumps(0.05)
    solution = solve(stumps, torch.zeros(1, 5), 0.05, seed=seed, make=make)
    assert solution.certificate.converged.all()
    assert float(solution.entropy.mean()) == pytest.approx(expected / 5 + C, abs=0.005)
    assert float(solution.sigma[0, 1]) == pytest.approx(second, rel=0.08)
    # A layer that is known to be made of steps has other optima, which the certificate does not see.
    assert make is Radial or float(solution.certificate.gap) >= SEVERAL_OPTIMA


@pytest.mark.parametrize("thresholds", [None, 0.0, 1e-35])
@pytest.mark.parametrize("place", [0.0, 7.0, 3e4])
def test_a_sample_on_a_threshold_is_out_of_reach_unless_the_budget_allows_the_jump(thresholds, place):
    """Noise of any size crosses it half of the time: a deviation of 2, whatever sigma."""
    offset = thresholds or 0.0

    def make(feature, tie, counted):
        known = [torch.tensor([place + offset], dtype=torch.float64), torch.tensor([place + 0.5])]
        return Intervals(feature, known, counted) if thresholds is not None else Radial(feature, tie, counted)

    def steps(x):
        return torch.stack([2 * (x[:, 0].double() > place + offset).float(), (x[:, 1] > place + 0.5).float()], 1)

    x = torch.full((1, 2), place)
    solution = solve(steps, x, 0.5, make=make)
    assert not solution.certificate.met.any()
    assert solution.sigma.isnan().all()
    # Sound from a budget of 4 on, of which 2 is half.
    assert float(solution.coarse) == pytest.approx(4 / 0.5, rel=0.1)
    solution = solve(steps, x, 4.0, make=make)
    assert solution.certificate.met.all()
    assert solution.sigma.isfinite().all()


def test_the_look_for_a_threshold_leaves_the_noise_of_the_search_alone(monkeypatch):
    found = solve(stumps, torch.zeros(1, 5), 0.05)
    monkeypatch.setattr(ForwardProblem, "_least_deviations", lambda self: torch.zeros(8, 1))
    assert torch.equal(found.sigma, solve(stumps, torch.zeros(1, 5), 0.05).sigma)


@pytest.mark.parametrize("budget", [1.94, 1.99])
def test_a_jump_that_takes_nearly_the_whole_budget_leaves_nothing_to_prove(budget):
    """Its deviation is 2. The constraint's tolerance would let a scale near zero pass as converged."""
    solution = solve(lambda x: 2 * (x[:, :1] > 0).float(), torch.zeros(1, 1), budget)
    assert not solution.certificate.converged.any()
    assert float(solution.coarse) == pytest.approx(4 / budget, rel=0.1)


def test_searches_that_end_apart_widen_the_gap(monkeypatch):
    """The smooth layer has one optimum; a search that is made to end lower is taken for another one."""
    weight = torch.linspace(0.5, 2, 5).diag()
    budget = 1e-3 * float(weight.square().sum())
    plain = solve(lambda x: x @ weight, torch.zeros(1, 5), budget)
    assert float(plain.certificate.gap) < SEVERAL_OPTIMA
    below = ForwardProblem._from_below
    lower = lambda self: dataclasses.replace(below(self), entropy=-9.0)  # noqa: E731
    monkeypatch.setattr(ForwardProblem, "_from_below", lower)
    assert float(solve(lambda x: x @ weight, torch.zeros(1, 5), budget).certificate.gap) >= SEVERAL_OPTIMA


def test_an_optimum_found_only_once_widens_the_gap_by_the_distance_to_the_next(monkeypatch):
    weight, search, searches = torch.linspace(0.5, 2, 5).diag(), ForwardProblem._search, []

    def apart(self, *given):
        """Each further search is made to end half a nat lower."""
        searches.append(search(self, *given))
        return dataclasses.replace(searches[-1], entropy=-0.5 * len(searches))

    monkeypatch.setattr(ForwardProblem, "_search", apart)
    solution = solve(lambda x: x @ weight, torch.zeros(1, 5), 1e-3)
    assert len(searches) == MOST_SEARCHES
    assert float(solution.certificate.gap) >= 0.5
    assert not bool(solution.certificate.converged)


def test_scales_that_are_all_above_the_cap_are_brought_back():
    """The search may end there although the budget is exceeded; no unit is free then."""
    feature, tie = probe(lambda x: x, torch.zeros(1, 5)), make_tie("unit", (5,), ("time",))
    counted = torch.ones((1, 5), dtype=torch.bool)
    integrator = Radial(feature, tie, counted[0])
    problem = ForwardProblem(feature, torch.tensor([0.2]), tie, 1.0, (5,), counted, integrator)
    scales, _ = problem.met(torch.full((1, 5), 2.5), 2.0)
    assert scales[0].numpy() == pytest.approx(np.full(5, 0.2), rel=0.05)


def test_a_budget_beyond_the_cap_is_exact():
    solution = solve(stumps, torch.zeros(2, 5), 20.0)
    assert solution.certificate.saturated.all()
    assert solution.certificate.converged.all()
    assert (solution.sigma == 1).all()
    assert (solution.stderr == 0).all()
    assert (solution.certificate.ratio < 1).all()


def test_a_layer_that_ignores_its_input_is_at_the_cap():
    solution = solve(lambda x: torch.ones(len(x), 3), torch.zeros(1, 4), 0.1)
    assert solution.certificate.converged.all()
    assert (solution.sigma == 1).all()


def test_steps_that_are_too_rare_to_be_seen_are_not_proven():
    """One noise sample in ten million crosses it, so that the constraint stays unknown."""
    solution = solve(lambda x: 1e3 * (x[:, :1] > 5.2).float(), torch.zeros(1, 5), 1e-4)
    assert not bool(solution.certificate.converged) or bool(solution.certificate.saturated)


def test_units_that_do_not_count_get_no_noise():
    counted = torch.tensor([[True, True, False, True, False]])
    solution = solve(lambda x: x, torch.zeros(1, 5), 0.03, units=counted)
    assert solution.sigma[0].isnan().tolist() == [False, False, True, False, True]
    assert solution.sigma[0, counted[0]].numpy() == pytest.approx(np.full(3, 0.1), rel=0.03)


@pytest.mark.parametrize("size", [1, 2, 7])
def test_lengths_have_the_moments_of_their_distribution(size):
    lengths, weights = draw_lengths(torch.tensor([size]), 200_000, torch.Generator().manual_seed(0))
    squares = lengths.square()
    assert float(weights.mean()) == pytest.approx(1, abs=0.01)
    assert float((weights * squares).mean()) == pytest.approx(size, rel=0.01)
    assert float((weights * squares.square()).mean()) == pytest.approx(size * (size + 2), rel=0.01)


@pytest.mark.parametrize("guess", [0.0, 0.5])
@pytest.mark.parametrize("make", [Radial, exact])
def test_integrals_are_the_gradient(make, guess):
    """``dL/dlog sigma`` of a step of height a at distance t is ``a^2 (t/s) phi(t/s)``, whatever is guessed of it."""
    sigma = torch.tensor([0.2, 0.7, 0.3, 0.0, 0.1])
    feature, tie = probe(stumps, torch.zeros(1, 5)), make_tie("unit", (5,), ("feature",))
    integrate = make(feature, tie, torch.ones(5, dtype=torch.bool))
    found = integrate(sigma, 20_000, torch.full((5,), guess))
    steps = [(9, 0.3 / 0.2, 1), (1, 0.6 / 0.7, 1)]
    for unit, (height, z, _) in enumerate(steps):
        expected = height * z * NORMAL.pdf(z)
        error = float(found.gradient[:, unit].std()) / math.sqrt(20_000)
        assert float(found.gradient[:, unit].mean()) == pytest.approx(expected, abs=4 * error + 1e-5)
    level = 9 * NORMAL.cdf(-1.5) + NORMAL.cdf(-0.6 / 0.7)
    assert float(found.level.mean()) == pytest.approx(level, abs=4 * float(found.level.std()) / math.sqrt(20_000))
    assert found.gradient[:, 2:].mean(0).abs().max() < 0.05


def test_thresholds_far_from_the_sample_are_never_crossed():
    feature = probe(stumps, torch.tensor([[0.0, 5.0, 0, 0, 0]]))
    integrate = exact(feature, None, torch.ones(5, dtype=torch.bool))
    sigma = torch.full((5,), 0.01)
    found = integrate(sigma, 4, torch.zeros(5))
    assert (found.gradient == 0).all()
    assert (found.level == 0).all()
    assert found.evaluations == 4 * 5


def test_seeds_agree_within_the_stated_errors():
    weight = torch.tensor(np.random.default_rng(0).normal(size=(2, 6, 8)), dtype=torch.float32)

    def network(x):
        return torch.tanh(x @ weight[0].T) @ weight[1, :, :6]

    x = torch.tensor(np.random.default_rng(1).normal(size=(1, 8)), dtype=torch.float32)
    found = [solve(partial(network), x, 0.2, seed=seed) for seed in range(4)]
    values = torch.stack([each.entropy.mean() for each in found])
    allowed = max(float((each.stderr + each.certificate.gap).max()) for each in found)
    assert all(each.certificate.converged.all() for each in found)
    assert float(values.max() - values.min()) <= 2 * allowed + 0.002
