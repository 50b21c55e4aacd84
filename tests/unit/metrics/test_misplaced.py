"""Units wrongly at the cap, far too small scales, layers that saturate, and cells mostly at the cap."""

import math
from functools import partial
from unittest.mock import patch

import numpy as np
import pytest
import torch
from scipy.integrate import trapezoid
from scipy.optimize import brentq
from scipy.stats import chi2, norm
from test_bends import problem_of

from onnxinfo.metrics import certification, misplaced
from onnxinfo.metrics.certificate import GAP_TOLERANCE, Certificate, Growth, certify, missing_entropy, take_trial
from onnxinfo.metrics.constraint import feasible
from onnxinfo.metrics.found import Certified, Found
from onnxinfo.metrics.leap import _foretold, leap
from onnxinfo.metrics.measured import Measured, measure
from onnxinfo.metrics.misplaced import Step, _change, _least_mean_square, wake
from onnxinfo.metrics.sid import search, solve, solve_by
from onnxinfo.metrics.trial import Sampling, Trial

UNITS, BEST = 256, 0.2


class Bent(torch.nn.Module):
    """The same slightly bent function of every unit: at the optimum, all scales are equal."""

    def forward(self, x):
        return (x + 0.2 * torch.sin(2 * x),)


def used(sigma):
    """Deviation of one unit."""
    z, weight = np.polynomial.hermite_e.hermegauss(60)
    return float(weight / weight.sum() @ (sigma * z + 0.2 * np.sin(2 * sigma * z)) ** 2)


def scale_of(deviation):
    """Scale at which one unit has a deviation."""
    return brentq(lambda sigma: used(sigma) - deviation, 1e-6, 1.0)


def cell(best=BEST):
    """Three samples of zeros with a budget that equal scales use up."""
    given = problem_of(Bent(), torch.zeros(3, UNITS))
    given.target.fill_(UNITS * used(best))
    return given


def wrongly_capped(count, best=BEST):
    """Scales that meet the constraint with some units at the cap and the others equal, and what is missing in nats."""
    scales = torch.full((3, UNITS), scale_of((UNITS * used(best) - count * used(1.0)) / (UNITS - count)))
    scales[:, torch.randperm(UNITS, generator=torch.Generator().manual_seed(count))[:count]] = 1.0
    return scales, math.log(best) - float(scales.log().mean())


@pytest.mark.parametrize("count", [1, 2, 4, 7])
def test_units_that_do_not_belong_at_the_cap_are_found(count):
    """The other units have equal scales, which looks like an optimum."""
    scales, lost = wrongly_capped(count)
    certificate = solve_by(cell(), lambda: scales, 1).certificate
    assert certificate.met.all()
    assert (certificate.gap >= lost).all()
    assert lost < GAP_TOLERANCE or not certificate.converged.any()


def test_a_search_takes_them_from_the_cap():
    """However far beyond it their scales are."""
    scales, lost = wrongly_capped(4)
    assert lost > 0.1
    scales[scales == 1] = 10.0
    given = cell()
    found = search(given, scales, torch.zeros(3, dtype=torch.bool))
    assert found.certificate.converged.all()
    np.testing.assert_allclose(given.sigma(found.scales).log().mean(1), math.log(BEST), atol=0.02)


class Dull(torch.nn.Module):
    """A bent function of the first units; the others have hardly any effect."""

    def forward(self, x):
        count = UNITS // 8
        return (torch.cat([x[:, :count] + 0.2 * torch.sin(2 * x[:, :count]), 1e-4 * x[:, count:]], 1),)


def asleep(share, factor):
    """Scales that meet the constraint, some of which are too small by a factor, and what is missing in nats."""
    count = int(share * UNITS)
    left = UNITS * used(BEST) - count * used(factor * BEST)
    scales = torch.full((3, UNITS), scale_of(left / (UNITS - count)))
    scales[:, torch.randperm(UNITS, generator=torch.Generator().manual_seed(count))[:count]] = factor * BEST
    return scales, math.log(BEST) - float(scales.log().mean())


SLEEPERS = [(0.03, 0.01), (0.05, 0.01), (0.05, 0.1), (0.1, 0.1), (0.02, 0.001), (0.2, 0.3)]


@pytest.mark.parametrize(("share", "factor"), SLEEPERS)
def test_scales_that_are_far_too_small_are_found(share, factor):
    """To second order, a unit lacks a quarter nat at most, however small its scale."""
    scales, lost = asleep(share, factor)
    certificate = solve_by(cell(), lambda: scales, 1).certificate
    assert (certificate.gap >= 0.9 * lost).all()
    assert not certificate.converged.any()


@pytest.mark.parametrize(("share", "factor"), SLEEPERS)
def test_a_search_wakes_them(share, factor):
    given = cell()
    found = search(given, asleep(share, factor)[0], torch.zeros(3, dtype=torch.bool))
    assert found.certificate.converged.all()
    np.testing.assert_allclose(given.sigma(found.scales).log().mean(1), math.log(BEST), atol=0.025)


class Threshold(torch.nn.Module):
    """A bent function of the first units; the others do nothing until they exceed 0.1, and then much."""

    def forward(self, x):
        count = UNITS - UNITS // 16
        rest = 100 * torch.relu(x[:, count:].abs() - 0.1)
        return (torch.cat([x[:, :count] + 0.2 * torch.sin(2 * x[:, :count]), rest], 1),)


def test_few_units_that_seem_to_be_asleep_are_not_worth_a_step():
    """By chance there always are some; the noise of a step is drawn only if it might gain."""
    given = cell()
    free, parts = torch.ones(3, UNITS, dtype=torch.bool), torch.ones(8, 3, UNITS)
    for units, tried in ((0, False), (1, True)):
        parts[:, 0, :units] = 1e-9
        found, before = Measured(parts, torch.ones(16, 3)), given.feature.noise.get_state()
        wake(given.feature, found, free, free, partial(given.moved, torch.full((3, UNITS), BEST)), 12)
        assert torch.equal(before, given.feature.noise.get_state()) is not tried
    wide = torch.ones(3, 2000 * UNITS, dtype=torch.bool)
    found = Measured(torch.ones(8, 3, 2000 * UNITS), torch.ones(16, 3))
    found.parts[:, :, :300] = 1e-9
    assert _change(found, wide).any()
    step = wake(given.feature, found, wide, wide, partial(given.moved, torch.full((3, UNITS), BEST)), 12)
    assert not step.change.any()


@pytest.mark.parametrize(("gain", "stderr", "is_over"), [(-0.7, 0.1, True), (-0.5, 0.1, False), (0.5, 0.1, False)])
def test_a_step_is_given_up_once_it_has_surely_lost(gain, stderr, is_over):
    given, found = cell(), []
    free, parts = torch.ones(3, UNITS, dtype=torch.bool), torch.ones(8, 3, UNITS)
    parts[:, :, 0] = 1e-9
    with patch.object(misplaced, "try_step", lambda *arguments: found.append(arguments[5]) or (trial, None)):
        trial = Trial(*torch.tensor([[gain] * 3, [stderr] * 3, [0.0] * 3, [1.0] * 3]))
        wake(given.feature, Measured(parts, torch.ones(16, 3)), free, free, lambda change: change, 12)
    assert found[0].most == 12
    assert found[0].is_enough(trial) is is_over
    # All samples with such units have to have lost; that of the others is exactly what it was.
    trial.gain[0] = 0.0
    assert not found[0].is_enough(trial)
    parts[:, 0] = 1.0
    with patch.object(misplaced, "try_step", lambda *arguments: found.append(arguments[5]) or (trial, None)):
        wake(given.feature, Measured(parts, torch.ones(16, 3)), free, free, lambda change: change, 12)
    assert found[1].is_enough(trial) is is_over


@pytest.mark.parametrize(("stderr", "is_enough"), [(0.0062, True), (0.0064, False)])
def test_a_trial_ends_once_it_knows_the_curvature(stderr, is_enough):
    given, found = cell(), []

    def tried(*arguments):
        found.append(arguments[6])
        return take_trial(*arguments)

    with patch.object(certification, "take_trial", tried):
        certification.certify_scales(given, torch.full((3, UNITS), BEST), None, [])
    trial = Trial(*torch.tensor([[0.0] * 3, [stderr] * 3, [0.0] * 3, [0.09] * 3], dtype=torch.float64))
    assert found[0].most == given.effort * certification.TRIAL_NOISES
    assert found[0].is_enough(trial) is is_enough


def test_units_that_must_not_wake_stay_asleep():
    """Their gradient is 0, and a larger scale costs more than it gains."""
    given = problem_of(Threshold(), torch.zeros(3, UNITS))
    scales = torch.full((3, UNITS), BEST)
    scales[:, UNITS - UNITS // 16 :] = 0.02
    given.target.fill_((UNITS - UNITS // 16) * used(BEST))
    found, *_ = certification.certify_scales(given, scales, None, [])
    assert not found.change.any()
    assert (found.certificate.gap < 0.03).all()


@pytest.mark.parametrize("count", [4, 8, 16, 32])
def test_chance_takes_one_of_a_thousand_units_for_asleep(count):
    least = float(_least_mean_square(torch.tensor(float(count))))
    assert 1e-4 < chi2.cdf(count * least, count) < 2e-3


def test_units_with_a_small_share_of_the_budget_are_raised():
    """Where the gradient is mostly noise, its mean square tells the share; eight parts tell it badly."""
    shares = torch.cat([torch.full((20,), 0.1), torch.ones(180)])
    parts = torch.randn(32, 1, 200, generator=torch.Generator().manual_seed(0)) * shares.sqrt()
    free = torch.ones(1, 200, dtype=torch.bool)
    found = _change(Measured(parts, torch.ones(8, 1)), free)[0]
    np.testing.assert_allclose(found[:20].mean(), math.log(10) / 4, atol=0.1)
    assert (found[:20] > 0).all()
    assert not found[20:].any()
    assert (_change(Measured(parts[:8], torch.ones(8, 1)), free)[0, :20] == 0).any()


@pytest.mark.parametrize(("noise", "is_raised"), [(0.1, True), (3.0, False)])
def test_few_parts_tell_the_share_if_they_are_precise(noise, is_raised):
    """A unit with a sixth of the others' gradient, as where a control variate removes the noise of a small network."""
    level = torch.ones(40)
    level[7] = 0.16
    parts = level + noise * level * torch.randn(4, 1, 40, generator=torch.Generator().manual_seed(0))
    found = _change(Measured(parts, torch.ones(8, 1)), torch.ones(1, 40, dtype=torch.bool))[0]
    assert bool(found[7] > 0.5) is is_raised
    assert not found[torch.arange(40) != 7].any()


def test_a_gain_within_its_error_changes_nothing():
    step = Step(torch.ones(2, 4), torch.tensor([0.03, 0.1]), torch.tensor([0.02, 0.02]))
    assert step.useful.any(1).tolist() == [False, True]
    np.testing.assert_allclose(step.missing, [0, 0.12], atol=1e-6)


def test_all_units_take_the_cap_if_that_is_within_the_budget():
    found = _foretold(torch.ones(2), torch.tensor([0.9, 1.1]), torch.tensor([2.0, 2.0]))
    assert found.tolist() == [2.0, -math.inf]


class Saturating(torch.nn.Module):
    def __init__(self, width, bump=False):
        super().__init__()
        self.width, self.bump = width, bump

    def forward(self, x):
        z = x / self.width
        return (z * torch.exp(-z.square() / 2) if self.bump else torch.tanh(z),)


def best_of_tanh(width, target):
    """Mean log sigma at the optimum: some units at the cap, the others equal."""

    z = np.linspace(-12, 12, 48_001)

    def deviation(sigma):
        return trapezoid(np.tanh(sigma * z / width) ** 2 * norm.pdf(z), z)

    top, found = deviation(1.0), []
    for sigma in np.geomspace(width / 50, width, 80):
        share = (target / UNITS - deviation(sigma)) / (top - deviation(sigma))
        if 0 <= share < 1:
            found.append((1 - share) * math.log(sigma))
    return max(found)


@pytest.mark.parametrize(("width", "seed"), [(0.015, 0), (0.02, 0), (0.025, 0), (0.025, 1), (0.025, 2), (0.05, 0)])
def test_a_layer_that_saturates_has_another_optimum(width, seed):
    """With equal scales, the gradient shows nothing; where a choice of units gains at the cap, so do others."""
    given = problem_of(Saturating(width), torch.zeros(3, UNITS))
    given.feature.noise.manual_seed(1000 + seed)
    solution = solve(given)
    lost = best_of_tanh(width, float(given.target[0])) - solution.sigma.log().mean(1)
    proven = solution.certificate.converged
    assert (lost < (0.03 if width == 0.05 else 0.6)).all()
    assert (proven == (width == 0.05)).all()


def test_a_sample_that_has_several_optima_is_not_proven_by_an_earlier_round():
    """Of its results the higher one counts, however small the gap of the other seemed."""
    no, one, yes = torch.zeros(1, dtype=torch.bool), torch.ones(1), torch.ones(1, dtype=torch.bool)
    found = Found.nothing(torch.zeros(1, UNITS))
    at = torch.tensor([0])
    for gap, entropy, torn in ((0.01, -2.0, no), (math.nan, -1.8, yes)):
        known = Certificate(one, 0 * one, gap * one, one, one, 2 * one, saturated=no, met=yes)
        scales = torch.full((1, UNITS), math.exp(entropy))
        found.put(at, Certified(scales, known, one, one, 0 * scales, entropy * one, torn), 0, 0)
        assert bool(found.certificate.converged) is (entropy == -2.0)
    assert float(found.entropy) == pytest.approx(-1.8)
    # The value of a sample whose units are all at the cap is exact.
    known = Certificate(one, 0 * one, 0 * one, one, one, 2 * one, saturated=yes, met=yes)
    found.put(at, Certified(scales, known, one, one, 0 * scales, 0 * one, yes), 0, 0)
    found.tear(at, yes)
    assert found.certificate.converged.all()
    assert float(found.certificate.gap) == 0


def test_results_of_other_samples_leave_the_bound_of_several_optima_alone():
    """Near the cap, a later certificate knows the bound in spite of them."""
    no, yes, one = torch.tensor([False]), torch.tensor([True]), torch.ones(1)
    found = Found.nothing(torch.zeros(2, UNITS))
    known = Certificate(one, 0 * one, 0.05 * one, one, one, 2 * one, saturated=no, met=yes)
    for at, torn in ((0, yes), (0, yes), (1, no)):
        found.put(torch.tensor([at]), Certified(torch.ones(1, UNITS), known, one, one, one, one, torn), 0, 0)
    assert found.certificate.gap.tolist() == pytest.approx([0.05, 0.05])
    found.tear(torch.tensor([1]), yes)
    assert found.certificate.gap.isnan().tolist() == [False, True]


def test_a_further_round_starts_at_the_met_constraint():
    """Its first evidence comes from scales that were off, and does not correct the constraint again."""
    given = cell()
    scales = 0.98 * given.uniform()
    certified, _, passes = certification.certify_scales(given, scales, None, [], 1)
    deviations = torch.cat([each.deviations for each in passes]).mean(0)
    torch.testing.assert_close(deviations, given.target, rtol=1e-4, atol=0)
    assert ((certified.scales / scales).log().mean() > 0.01).all()


def test_near_the_cap_the_gap_of_several_optima_is_known():
    parts, one = torch.randn(4, 1, UNITS, generator=torch.Generator().manual_seed(0)), torch.ones(1)
    found, free = Measured(1 + parts / 100, torch.ones(16, 1)), torch.ones(1, UNITS, dtype=torch.bool)
    trial = Trial(-one / 10, 0 * one, 0 * one, one / 10)
    for room, is_known in ((1.0, False), (0.05, True)):
        missing = missing_entropy(found, free, free, (UNITS,), 0 * one, torch.full((1, UNITS), room))
        gap = float(certify(found, one, free, missing, trial, torn=one > 0).gap)
        assert math.isfinite(gap) is is_known
        assert gap == pytest.approx(room) or not is_known


def test_noise_that_a_layer_does_not_see_is_as_large_as_the_cap():
    """Small noise moves the feature, and large noise hardly does."""
    solution = solve(problem_of(Saturating(0.05, bump=True), torch.zeros(3, UNITS)))
    assert solution.certificate.saturated.all()


CHOICES = [(0.025, False, True), (0.05, True, False), (0.5, False, False)]


@pytest.mark.parametrize(("width", "bump", "is_chosen"), CHOICES)
def test_only_a_choice_of_units_makes_several_optima(width, bump, is_chosen):
    """Not where all of them belong at the cap."""
    given = problem_of(Saturating(width, bump), torch.zeros(3, UNITS))
    scales = feasible(given, given.uniform())
    step, chosen = leap(given, scales, torch.full((3,), 2.0))
    assert bool(chosen.all()) is bool(chosen.any()) is is_chosen
    assert bool((step.sure_gain > 0).all()) is (is_chosen or bump)


def test_units_that_have_taken_the_cap_stay_there():
    given = problem_of(Saturating(0.02), torch.zeros(3, UNITS))
    scales = torch.full((3, UNITS), 0.0135)
    scales[:, : UNITS // 8] = 5.0
    found, _ = leap(given, scales, torch.full((3,), 2.0))
    assert found.change[:, UNITS // 8 :].any(1).all()
    assert not found.change[:, : UNITS // 8].any()


def test_a_look_that_shows_nothing_leaves_the_noise_alone():
    given = cell()
    before, scales = given.feature.noise.get_state(), torch.full((3, UNITS), BEST)
    found, _ = leap(given, scales, torch.full((3,), 2.0))
    assert not found.change.any()
    assert torch.equal(given.feature.noise.get_state(), before)


def dull(high, low):
    """A cell of which seven of eight units belong at the cap, and scales: the others have two scales in turn."""
    given, free = problem_of(Dull(), torch.zeros(3, UNITS)), UNITS // 8
    scales = torch.full((3, UNITS), 3.0)
    scales[:, :free:2], scales[:, 1:free:2] = high, low
    given.target.fill_(free * (used(high) + used(low)) / 2)
    return given, scales


def test_the_gap_is_that_of_the_mean_over_all_units():
    given, scales = dull(0.13, 0.08)
    best = scale_of((used(0.13) + used(0.08)) / 2)
    lost = math.log(best / math.sqrt(0.13 * 0.08)) / 8
    solution = solve_by(given, lambda: scales, 1)
    gap, error = solution.certificate.gap, solution.certificate.ratio_stderr / solution.certificate.exponent
    assert (gap >= lost).all()
    assert (gap <= 8 * lost).all()
    np.testing.assert_allclose(solution.stderr, error / 8, rtol=0.2)


def test_a_trial_among_few_free_units_measures_their_curvature():
    given, scales = dull(0.1, 0.1)
    found, free = measure(given.feature, given.sigma(scales), 64), given.free(scales)
    trial, _ = take_trial(
        given.feature, found, free, given.counted, (UNITS,), lambda change: given.moved(scales, change), Sampling(1024)
    )
    np.testing.assert_allclose(trial.curvature, 1, atol=0.3)
    # The gain is that of the mean over all units.
    np.testing.assert_allclose(trial.gain, -(0.3**2) / 8, atol=0.004)


@pytest.mark.parametrize("growth", [4.0, 40.0])
def test_no_more_can_be_missing_than_the_cap_allows(growth):
    """However little the gradient says, also where it does not foretell the deviation's growth."""
    parts = (1 + 3 * torch.randn(4, 1, UNITS, generator=torch.Generator().manual_seed(0))) * 2 / UNITS
    found, free, one = Measured(parts, torch.ones(16, 1)), torch.ones(1, UNITS, dtype=torch.bool), torch.ones(1)
    trial = Trial(-one, 0 * one, 0 * one, one)
    gaps = []
    for room in (1e6, 0.01):
        missing = missing_entropy(found, free, free, (UNITS,), 0 * one, torch.full((1, UNITS), room))
        grown = Growth(growth * one, found.growth(free))
        gaps.append(float(certify(found, one, free, missing, trial, grown).gap))
    assert not gaps[0] < 0.1
    assert gaps[1] == pytest.approx(0.01)
