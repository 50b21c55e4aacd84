"""A sabotaged solver is detected: cells with exactly known optimum, and the solver's parts broken in turn."""

import contextlib
import math
from functools import partial
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
from probed import probed
from solver_parts import replaced

from onnxinfo.metrics import growth, rounding, sid
from onnxinfo.metrics.ascent import Ascent
from onnxinfo.metrics.certificate import (
    Certificate,
    Growth,
    certify,
    gap_bound,
    missing_entropy,
    rescale_to_constraint,
    wider,
)
from onnxinfo.metrics.certification import certify_scales
from onnxinfo.metrics.closed_form import closed_form
from onnxinfo.metrics.found import Certified, Found
from onnxinfo.metrics.mean_jacobian import control_of
from onnxinfo.metrics.measured import Measured, noise_free_power
from onnxinfo.metrics.noise import ENTROPY, make_tie, waterfill
from onnxinfo.metrics.problem import Problem
from onnxinfo.metrics.sid import solve
from onnxinfo.metrics.trial import Trial

UNITS, CELLS, ALPHA, CAP = 128, 24, 0.01, 1.0
TIE = make_tie("unit", (UNITS,), ("feature",))


class Cubic(torch.nn.Module):
    """``f_i = c_i (x_i - b_i x_i^3)`` at x = 0: ``E|f|^2`` is a polynomial in sigma."""

    def __init__(self):
        super().__init__()
        order = torch.randperm(UNITS, generator=torch.Generator().manual_seed(0))
        slope = torch.linspace(-1, 1, UNITS).exp()[order]
        bend = 0.03 * torch.linspace(-1, 0.3, UNITS) * slope.square() / (ALPHA * slope.square().mean())
        self.slope = torch.nn.Parameter(slope, requires_grad=False)
        self.bend = torch.nn.Parameter(bend, requires_grad=False)

    def forward(self, x):
        return (self.slope * (x - self.bend * x * x * x),)


class Truth:
    """Optimum of a cubic layer, and the loss of given scales against it."""

    def __init__(self, layer):
        self.bend, self.power = layer.bend.double(), layer.slope.double().square()
        self.target = ALPHA * self.power.sum()
        level = root(lambda level: self.deviation(self.balanced(level)), self.target, torch.zeros(1), torch.ones(1))
        self.entropy = float(self.balanced(level).log().mean() / 2 + ENTROPY)

    def deviation(self, squares):
        """``E|f|^2`` for sigma^2, (S, n) -> (S,)."""
        u = self.bend * squares
        return (self.power * squares * (1 - 6 * u + 15 * u.square())).sum(-1)

    def balanced(self, level):
        """sigma^2 at which every unit's ``sigma dL/dsigma`` is twice the level, (1,) -> (1, n)."""
        balance = lambda s: self.power * s * (1 - 12 * self.bend * s + 45 * (self.bend * s).square())  # noqa: E731
        return root(balance, level[:, None], torch.zeros(1, UNITS), torch.ones(1, UNITS))

    def ratio(self, sigma):
        return self.deviation(sigma.double().square()) / self.target

    def lost(self, sigma):
        """Distance of scales (S, n) from the optimum in nats, after each sample is rescaled to meet the constraint."""
        squares = sigma.double().square()
        zero = torch.zeros(len(sigma))
        factor = root(lambda t: self.deviation(squares * t[:, None]), self.target, zero, zero + 9)
        return self.entropy - (squares * factor[:, None]).log().mean(1) / 2 - ENTROPY


def root(function, value, low, high):
    low, high = low.double(), high.double()
    for _ in range(80):
        middle = (low + high) / 2
        below = function(middle) < value
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return low


def layer_around_zero(module, cells, seed=0):
    """Feature and linearization of a layer for a number of cells that differ only in their noise."""
    return probed(module, torch.zeros(cells, UNITS), 10 * seed)


def solved(seed=0):
    feature, start = layer_around_zero(Cubic(), CELLS, seed)
    return solve(Problem.of(feature, start, ALPHA * start.normalizer, TIE, CAP, (UNITS,)))


def covered(solution, lost):
    """Fraction of cells that are unproven, or lose no more than their gap."""
    certificate = solution.certificate
    return float((~certificate.converged | (lost <= certificate.gap)).double().mean())


@pytest.fixture(scope="module")
def truth():
    return Truth(Cubic())


def test_the_sound_solver_reaches_the_optimum(truth):
    """The value is that of the scales, their constraint is met within its error, and the gap covers their loss."""
    for seed in range(3):
        found = solved(seed)
        lost = truth.lost(found.sigma)
        assert found.certificate.converged.all()
        assert lost.min() > -1e-6
        assert lost.max() < 0.01
        # Where the first passes promise no gain, no step is taken.
        assert found.iterations.max() == 1
        assert covered(found, lost) >= 0.95
        off = truth.ratio(found.sigma).log() / found.certificate.exponent / found.stderr
        assert off.square().mean().sqrt() < 1.5


def uniform(norms, target, tie, cap):
    return (target / norms.sum(1)).sqrt()[:, None].repeat(1, norms.shape[1])


def backwards(first, second, *_):
    return ((first + second) / 2).flip(1)


def nothing(first, *_):
    return torch.zeros_like(first)


def stepping(change):
    """Steps of the ascent, modified."""
    step = Ascent.step
    return patch.object(Ascent, "step", lambda self, *given: change(self, step, *given))


def still(ascent, step, *given):
    ascent.steps += 1
    return 1.0


def damping(factor):
    """Steps longer than the measured curvature allows, by a factor."""
    share = Ascent.damping.fget
    return patch.object(Ascent, "damping", property(lambda self: factor * share(self)))


def stubborn(ascent, step, problem, passes, memory):
    """Evidence is never discounted."""
    ascent.steps += 10**6
    moved = step(ascent, problem, passes, 0.0)
    ascent.steps -= 10**6
    return moved


def rescaling(factor):
    return replaced(rescale_to_constraint=lambda *given: factor * rescale_to_constraint(*given))


BAD_START = partial(replaced, waterfill=uniform)
SABOTAGE = {
    "filter mirrored": [partial(replaced, wiener=backwards, wiener_with=backwards)],
    "filter returns nothing": [BAD_START, partial(replaced, wiener=nothing)],
    "bad start, no rounds": [BAD_START, partial(replaced, ROUNDS=((0, 0.2),), EXTRA_ROUNDS=0)],
    "no steps": [BAD_START, partial(stepping, still)],
    "steps reversed": [BAD_START, partial(damping, -1)],
    "steps too short": [BAD_START, partial(damping, 0.1)],
    "nothing forgotten": [BAD_START, partial(stepping, stubborn)],
    "scaled too far": [partial(rescaling, 1.1)],
    "not scaled enough": [partial(rescaling, 0.9)],
}


@pytest.mark.parametrize("broken", SABOTAGE.values(), ids=SABOTAGE.keys())
def test_a_sabotaged_solver_is_found_out(truth, broken):
    """No proven cell loses more than it states, or violates its constraint."""
    with contextlib.ExitStack() as stack:
        for part in broken:
            stack.enter_context(part())
        found = solved()
    lost, off = truth.lost(found.sigma), (truth.ratio(found.sigma).log() / 2).abs()
    assert torch.maximum(lost, off).mean() > 0.02
    assert covered(found, lost) >= 0.95
    assert not found.certificate.converged[(lost > 0.08) | (off > 0.08)].any()


def test_the_ascent_makes_up_for_a_bad_start(truth):
    with BAD_START():
        found = solved()
    assert truth.lost(found.sigma).max() < 0.03
    assert found.iterations.min() > 5


@pytest.mark.parametrize("exponent", [2.0, 0.5, torch.tensor([3.0, 1.0])])
@pytest.mark.parametrize("ratio", [0.7, 1.0, 1.4])
def test_rescaled_scales_meet_a_power_law_s_constraint(ratio, exponent):
    scales, target = torch.tensor([[0.1, 0.2], [1.0, 3.0]]), torch.tensor([2.0, 5.0])
    found = rescale_to_constraint(scales, ratio * target.expand(4, 2), target, exponent)
    assert torch.allclose(ratio * (found / scales)[:, 0] ** exponent, torch.ones(2))
    assert torch.allclose(found[:, 1] / found[:, 0], scales[:, 1] / scales[:, 0])


def test_rescaling_goes_no_further_than_a_factor_e():
    for ratio, limit in ((1e-9, 1.0), (1e9, -1.0)):
        found = rescale_to_constraint(torch.ones(1, 1), torch.full((2, 1), ratio), torch.ones(1))
        assert float(found.log()) == pytest.approx(limit)


class Narrow(torch.nn.Module):
    """A linear layer of few outputs: with a control variate its deviation is known exactly."""

    def __init__(self):
        super().__init__()
        weight = torch.randn(8, UNITS, generator=torch.Generator().manual_seed(2))
        self.weight = torch.nn.Parameter(weight, requires_grad=False)

    def forward(self, x):
        return (x @ self.weight.T,)


def test_the_last_correction_meets_the_constraint():
    """A small excess of the constraint is corrected analytically."""
    feature, start = layer_around_zero(Narrow(), 3)
    target = ALPHA * start.normalizer
    problem = Problem.of(feature, start, target, TIE, CAP, (UNITS,))
    closed = (target[:, None] / (UNITS * start.column_norms)).sqrt()
    found, *_ = certify_scales(problem, 1.004 * closed, control_of(feature, closed), [])
    assert found.certificate.ratio == pytest.approx([1.004**2] * 3, abs=1e-4)
    assert torch.allclose(found.scales, closed, rtol=1e-3)


def given_pass(relative, target):
    """A noise-free pass with the relative gradient (S, n), at the met constraint."""
    gradient = (1 + relative) * target[:, None] / relative.shape[1] * 2
    return Measured(gradient.expand(4, -1, -1), target.expand(4, -1))


@pytest.mark.parametrize(
    ("steps", "memory", "weight"), [(1, 0.2, 2 / 3), (4, 0.2, 1 / 3), (40, 0.2, 0.2), (40, 0, 1 / 21)]
)
def test_the_newest_pass_weighs_what_is_said(steps, memory, weight):
    """After passes without a gradient, the next one moves the scales by its weight's share of the damped step."""
    ascent, problem, relative, still = ascent_of()
    for _ in range(steps):
        ascent.step(problem, [still], memory)
    assert torch.equal(ascent.scales, torch.ones(2, UNITS))
    ascent.step(problem, [given_pass(relative, problem.target)], memory)
    assert torch.allclose(ascent.scales.log(), -weight * relative / 2, atol=1e-6)


def ascent_of():
    """An ascent, its problem without a filter, a relative gradient, and a pass without one."""
    target, free = torch.ones(2), torch.ones(2, UNITS, dtype=torch.bool)
    problem = SimpleNamespace(
        tie=TIE, target=target, denoised=lambda first, second: (first + second) / 2, free=lambda scales: free
    )
    relative = torch.linspace(-0.2, 0.2, UNITS).expand(2, -1)
    still = given_pass(torch.zeros_like(relative), target)
    return Ascent.begin(torch.ones(2, UNITS), TIE), problem, relative, still


@pytest.mark.parametrize(("left", "curvature"), [(0.5, 1.0), (0.0, 1.0), (-0.6, 1.6), (-9.0, 3.0)])
def test_the_first_step_tells_the_curvature(left, curvature):
    """If a step leaves a fraction of the gradient, or reverses it, the curvature is one minus that fraction."""
    ascent, problem, relative, _ = ascent_of()
    ascent.step(problem, [given_pass(relative, problem.target)], 0.1)
    ascent.step(problem, [given_pass(left * relative, problem.target)], 0.1)
    assert ascent.curvature == pytest.approx(curvature, abs=1e-4)


def test_a_sample_that_curves_more_than_the_others_steps_less():
    ascent, problem, relative, _ = ascent_of()
    ascent.step(problem, [given_pass(relative, problem.target)], 0.1)
    left = torch.tensor([[-1.0], [0.2]])
    ascent.step(problem, [given_pass(left * relative, problem.target)], 0.1)
    assert ascent.curvature == pytest.approx([2.0, 1.4], abs=1e-4)


def test_passes_of_one_point_count_as_many():
    """Three passes at once have the same weight as three in sequence that do not move the scales."""
    ascent, problem, relative, still = ascent_of()
    ascent.step(problem, [still, still], 0.0)
    ascent.step(problem, [given_pass(relative, problem.target)] * 3, 0.0)
    assert (ascent.steps == 5).all()
    share = 1 - (1 - 1 / 2) * (1 - 2 / 5) * (1 - 1 / 3)
    assert torch.allclose(ascent.scales.log(), -share * relative / 2, atol=1e-6)


class Noisy(torch.nn.Module):
    """A single output, which noise moves at random: a few noise samples are not enough."""

    def forward(self, x):
        return (x.sum(1, keepdim=True),)


def drawn(problem, ask):
    """Number of noise samples drawn by a method of the problem, in units of its effort."""
    with patch.object(problem.feature, "deviations", wraps=problem.feature.deviations) as deviations:
        ask(problem)
    return sum(call.args[1] for call in deviations.call_args_list) // problem.effort


@pytest.mark.parametrize(("module", "draws"), [(Cubic, growth.FEW_NOISES), (Noisy, growth.GROWTH_NOISES)])
def test_growth_that_few_noise_samples_do_not_tell_gets_more(module, draws):
    feature, start = layer_around_zero(module(), 1)
    problem = Problem.of(feature, start, ALPHA * start.normalizer, TIE, CAP, (UNITS,))
    scales = torch.full((1, UNITS), 1e-3)
    with patch.object(Problem, "effort", 1):
        assert drawn(problem, lambda problem: growth.doubled_deviation(problem, scales)) == draws


@pytest.mark.parametrize(("expected", "draws"), [(1.0, rounding.FEW_SMALL_NOISES), (0.1, rounding.SMALL_NOISES)])
def test_small_noise_that_moves_more_than_foretold_is_drawn_again(expected, draws):
    feature, start = layer_around_zero(Cubic(), 1)
    problem = Problem.of(feature, start, ALPHA * start.normalizer, TIE, CAP, (UNITS,))
    sigma = torch.full((1, UNITS), 1e-3)
    smooth = expected * (sigma.square() * start.column_norms).sum(1)
    with patch.object(Problem, "effort", 1):
        assert drawn(problem, lambda problem: rounding.small_deviation(problem, sigma, 0.1, smooth)) == draws


@pytest.mark.parametrize(("module", "linear"), [(Cubic, False), (Noisy, True)])
def test_fresh_noise_contradicts_a_layer_that_only_looks_linear(module, linear):
    feature, start = layer_around_zero(module(), CELLS)
    problem = Problem.of(feature, start, ALPHA * start.normalizer, TIE, CAP, (UNITS,))
    closed = closed_form(problem, waterfill(start.column_norms, problem.target, TIE, CAP))
    assert (closed is not None) == linear


def certificate_of(gap, met=True):
    one = torch.ones(1)
    flag = torch.tensor([True])
    return Certificate(one, one, one * gap, one, one, one, saturated=~flag, met=flag if met else ~flag)


@pytest.mark.parametrize(
    ("first", "second", "gained", "taken"),
    [((0.1, True), (0.05, True), -0.02, 2), ((0.05, True), (0.1, True), 0.02, 1), ((0.05, True), (0.01, False), 1, 1),
     ((0.01, False), (0.2, True), -1, 2), ((math.nan, True), (0.2, True), -0.02, 2),
     ((0.2, True), (math.nan, True), 0.02, 1), ((0.05, True), (0.01, True), -0.02, 1),
     ((0.8, True), (2.0, True), 0.5, 2), ((0.1, True), (1.4, True), 0.003, 1), ((0.8, True), (math.nan, True), 0.5, 2)],
)  # fmt: skip
def test_of_two_rounds_the_better_certificate_counts(first, second, gained, taken):
    """Of two that are proven, the higher one; of two that are not, a much higher one, or the one with the lower gap."""
    found = Found.nothing(torch.zeros(2, UNITS))
    for scale, (gap, met) in ((1.0, first), (2.0, second)):
        certified = Certified(
            torch.full((1, UNITS), scale),
            certificate_of(gap, met),
            *torch.ones(2, 1),
            torch.zeros(1, UNITS),
            torch.tensor([scale * gained]),
            torch.zeros(1, dtype=torch.bool),
        )
        found.put(torch.tensor([1]), certified, 5, 3)
    assert found.scales[:, 0].tolist() == [0, taken]
    assert found.probes.tolist() == [0, 10]
    assert found.iterations.tolist() == [0, 6]


@pytest.mark.parametrize(
    ("misplaced", "gap", "met", "extra"),
    [(False, 0.8, True, 0), (True, 0.8, True, 3), (False, 0.3, True, 3), (False, 0.3, False, 0), (True, 0.8, False, 0)],
)
def test_misplaced_units_and_nearly_proven_cells_are_worth_more_rounds(misplaced, gap, met, extra):
    """Of cells that stay unproven, but meet their constraint."""
    feature, start = layer_around_zero(Cubic(), 1)
    problem = Problem.of(feature, start, ALPHA * start.normalizer, TIE, CAP, (UNITS,))
    calls, one = [], torch.ones(1)

    def certified(problem, scales, control, *_):
        calls.append(scales)
        change = torch.full_like(scales, 1e-3) if misplaced else torch.zeros_like(scales)
        found = Certified(scales, certificate_of(gap, met), one, one, change, one, one > 1)
        return found, one, [problem.measured(scales, control)]

    with patch.object(sid, "certify_scales", certified):
        sid.search(problem, torch.full((1, UNITS), 1e-3), torch.zeros(1, dtype=torch.bool))
    assert len(calls) == len(sid.ROUNDS) + extra


def trial_of(count=1, curvature=1.0, gain=-1.0, gain_stderr=0.0):
    one = torch.ones(count)
    return Trial(gain * one, gain_stderr * one, (gain + curvature) * one, one)


def missing_of(measured, free):
    """With all units counted, and so far from the cap that it bounds nothing."""
    everything = torch.ones_like(free)
    return missing_entropy(
        measured, free, everything, (UNITS,), torch.zeros(len(free)), torch.full(free.shape, torch.inf)
    )


@pytest.mark.parametrize(
    ("exponent", "growth", "known", "met"),
    [(2.0, 4.0, True, True), (2.0, 2.1, True, True), (2.0, 1.9, False, True), (2.0, 7.9, True, True),
     (2.0, 8.1, False, True), (0.2, 1.5, False, True), (0.2, 1.4, True, True), (3.5, 15.0, True, True),
     (3.5, 17.0, True, True), (3.0, 15.9, True, True), (3.0, 17.0, False, False), (4.5, 31.0, True, True),
     (4.5, 33.0, True, False), (0.0, 2.0, False, True)],
)  # fmt: skip
def test_growth_that_the_gradient_does_not_foretell(exponent, growth, known, met):
    """The power of the growth must be within one of the gradient's; beyond 16, or 32, there may be jumps."""
    target, free = torch.ones(1), torch.ones(1, UNITS, dtype=torch.bool)
    measured = Measured(torch.full((4, 1, UNITS), exponent / UNITS), torch.ones(8, 1))
    grown = Growth(torch.tensor([growth]), measured.growth(free))
    found = certify(measured, target, free, missing_of(measured, free), trial_of(), grown)
    assert bool(found.met) is met
    assert bool(found.gap.isfinite()) is known
    assert bool(found.converged) is (known and met)


def test_without_free_units_growth_says_nothing():
    measured = Measured(torch.zeros(4, 1, UNITS), torch.full((8, 1), 0.5))
    free = torch.zeros(1, UNITS, dtype=torch.bool)
    grown = Growth(torch.tensor([100.0]), measured.growth(free))
    found = certify(measured, torch.ones(1), free, missing_of(measured, free), trial_of(), grown)
    assert found.converged
    assert found.gap == 0


@pytest.mark.parametrize("missing", [0.0, 0.02, 0.1])
def test_the_bound_covers_an_estimate_s_error(missing):
    stream = torch.Generator().manual_seed(0)
    estimate = missing + 0.01 * torch.randn(4000, generator=stream)
    bound = gap_bound(estimate, torch.full_like(estimate, 0.01), trial_of(len(estimate)))
    assert (bound >= missing).double().mean() > 0.94
    assert bound.mean() < 1.5 * missing + 0.03


def test_the_bound_covers_an_estimate_that_falls_short_by_a_third():
    """As for the cubic layer from a bad start: to second order, part of the shortfall is invisible."""
    missing = torch.tensor([0.01, 0.03])
    bound = gap_bound(0.67 * missing, torch.zeros(2), trial_of(2))
    assert (bound >= missing).all()
    assert (bound <= 1.2 * missing).all()


@pytest.mark.parametrize(("curvature", "least", "most"), [(0.1, 0.19, 0.21), (1.0, 0.09, 0.11), (2.0, 0.045, 0.06)])
def test_a_flat_optimum_is_further_away(curvature, least, most):
    bound = gap_bound(torch.tensor([0.1 / 1.5 / 50]), torch.zeros(1), trial_of(curvature=curvature))
    assert least < 50 * float(bound) < most


def test_a_curvature_s_error_widens_the_bound():
    """Weighted by the fraction of the shortfall that 1.645 of its errors make up."""
    estimate, nothing = torch.tensor([0.01]), torch.zeros(1)
    known, vague = (
        float(gap_bound(estimate, nothing, trial_of(curvature=2.0, gain_stderr=error))) for error in (0.0, 1.2)
    )
    missing = 0.005
    assert known == pytest.approx(1.5 * missing, rel=0.01)
    assert vague == pytest.approx(missing * (1 + math.hypot(0.5, 1.645 * 0.6)), rel=0.01)


@pytest.mark.parametrize(("parts", "quantile"), [(4, 2.353), (8, 1.895), (32, 1.696)])
def test_few_parts_tell_their_error_badly(parts, quantile):
    """Student's one-sided 95 % quantile, on which a verdict rests."""
    assert 1.645 * wider(parts) == pytest.approx(quantile, rel=0.02)
    stream = torch.Generator().manual_seed(0)
    gradient = (1 + 0.1 * torch.randn(parts, 1, UNITS, generator=stream)) / UNITS
    measured, free = Measured(gradient, torch.ones(8, 1)), torch.ones(1, UNITS, dtype=torch.bool)
    estimate, error = measured.shortfall(free, free)
    found = certify(measured, torch.ones(1), free, missing_of(measured, free), trial_of())
    assert float(found.gap) == pytest.approx(float(gap_bound(estimate, error * wider(parts), trial_of())))


def test_a_curvature_nearby_says_little_of_what_is_far():
    near, far = (float(gap_bound(torch.tensor([e]), torch.zeros(1), trial_of(curvature=2.4))) / e for e in (1e-3, 2.0))
    assert far > 2.2 * near


def test_the_bound_is_at_least_what_the_trial_gains():
    trial = trial_of(gain=0.2, gain_stderr=0.05)
    assert float(gap_bound(torch.zeros(1), torch.zeros(1), trial)) == pytest.approx(0.15)


def test_the_power_of_a_map_is_free_of_its_noise():
    """Mean square of a signal of power 0.04 under noise of power 1, without bias and with an honest error."""
    stream = torch.Generator().manual_seed(0)
    cells, parts, free = 2000, 8, torch.ones(2000, UNITS, dtype=torch.bool)
    signal = 0.2 * torch.randn(cells, UNITS, generator=stream).sign()
    power, error = noise_free_power(signal + torch.randn(parts, cells, UNITS, generator=stream), free)
    spread = float(power.std())
    assert float(power.mean()) == pytest.approx(0.04, abs=4 * spread / cells**0.5)
    assert 0.8 * spread < float(error.mean()) < 1.3 * spread


@pytest.mark.parametrize(("estimate", "error"), [(math.inf, 0.0), (0.01, math.inf), (math.nan, 0.1)])
def test_no_bound_is_unknown_and_not_infinite(estimate, error):
    """Where the gradient vanishes, estimates of the shortfall relative to it overflow."""
    assert gap_bound(torch.tensor([estimate]), torch.tensor([error]), trial_of()).isnan().all()
