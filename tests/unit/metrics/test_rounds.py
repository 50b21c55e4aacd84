"""What the search hands from one round to the next, and what its measurements are used for."""

import dataclasses
import math
from unittest.mock import patch

import pytest
import torch
from test_bends import problem_of

from onnxinfo.metrics import leap, sid, singly
from onnxinfo.metrics.certification import certify_scales
from onnxinfo.metrics.constraint import met
from onnxinfo.metrics.measured import merge
from onnxinfo.metrics.misplaced import Step
from onnxinfo.metrics.noise import Tie
from onnxinfo.metrics.sid import search

UNITS = 8


class Linear(torch.nn.Module):
    def forward(self, x):
        return (x + 0.0,)


class Saturating(torch.nn.Module):
    def forward(self, x):
        return (torch.tanh(40 * x),)


def cell(module, samples=2, units=UNITS):
    return problem_of(module, torch.zeros(samples, units))


@pytest.mark.parametrize(("factor", "is_kept"), [(0.99, True), (0.9, False)])
def test_measurements_are_kept_unless_the_constraint_is_far_off(factor, is_kept):
    given = cell(Linear(), units=256)
    scales = factor * given.uniform()
    found = merge([given.measured(scales, None) for _ in range(4)])
    near, deviations = met(given, scales, found, given.free(scales))
    assert bool(len(deviations)) is is_kept
    assert torch.equal(near, scales) is is_kept


def test_units_that_have_all_just_taken_the_cap_are_certified_there():
    given, certified_at = cell(Linear()), []

    def unproven_at_first(problem, scales, *rest):
        """A certificate that finds, the first time, that all units belong beyond the cap."""
        certified_at.append(scales)
        found, curvature, passes = certify_scales(problem, scales, *rest)
        if len(certified_at) == 1:
            unknown = dataclasses.replace(found.certificate, gap=torch.full_like(found.certificate.gap, math.nan))
            found = dataclasses.replace(found, certificate=unknown, change=torch.full_like(scales, 9.0))
        return found, curvature, passes

    with patch.object(sid, "certify_scales", unproven_at_first):
        search(given, given.uniform(), torch.zeros(2, dtype=torch.bool))
    assert len(certified_at) > 1


def test_a_leap_is_tried_on_other_noise_than_it_was_chosen_by():
    given, states = cell(Saturating()), []
    before = given.feature.noise.get_state()

    def noted(feature, *rest):
        states.append(feature.noise.get_state())
        return Step.none(torch.zeros(2, UNITS))

    with patch.object(leap, "tried", noted):
        leap.leap(given, given.uniform(), torch.full((2,), 2.0))
    given.feature.noise.set_state(before)
    torch.rand((2, UNITS), generator=given.feature.noise)
    after_choice_alone = given.feature.noise.get_state()
    assert len(states) == 1
    assert not torch.equal(states[0], before)
    assert not torch.equal(states[0], after_choice_alone)


@pytest.mark.parametrize(("gain", "several"), [(0.005, False), (0.05, True)])
def test_only_a_leap_that_gains_much_shows_other_optima(gain, several):
    given, full = cell(Saturating(), units=256), torch.full((2,), 2.0)
    step = Step(torch.zeros(2, 256), torch.full((2,), gain), torch.zeros(2))
    with patch.object(leap, "tried", lambda *_: step):
        _, torn = leap.leap(given, given.uniform(), full)
    assert torn.tolist() == [several, several]


@pytest.mark.parametrize("raised", [lambda *given: leap.leap(*given)[0], singly.raise_singly])
def test_excluded_units_do_not_add_to_the_change_of_their_group(raised):
    """The change of a group is the mean over its counted units."""
    given = cell(Saturating())
    given.counted[:, 1::2] = False
    given = dataclasses.replace(given, tie=Tie(torch.arange(UNITS) // 2, torch.full((4,), 2)).counting(given.counted))
    step = raised(given, given.uniform(), torch.full((2,), 2.0))
    assert step.change.any()
    assert not step.change[:, 1::2].any()


def test_a_layer_that_is_not_linear_is_found_out_by_its_first_batch():
    given = cell(Saturating())
    given.feature.batch_size = 4
    assert not given.feature.is_linear(given.sigma(given.uniform()), 64)
    # Two products for each of two noise samples.
    assert given.feature.n_vjps == 4


def test_single_units_are_looked_at_in_batches_that_fit():
    results = []
    for size in (4096, 6):
        given, sizes = cell(Saturating()), []
        given.feature.batch_size = size
        change = given.feature.change

        def noted(x, change=change, sizes=sizes):
            sizes.append(len(x))
            return change(x)

        with patch.object(given.feature, "change", noted):
            logs = given.uniform().log()
            results.append(singly._costs(given, logs, torch.arange(UNITS), 8))
        assert max(sizes) <= size
    torch.testing.assert_close(*results)
