"""What SID makes of numbers that are zero, infinite or unknown."""

import dataclasses
import math
from types import SimpleNamespace

import pytest
import torch

from onnxinfo.metrics import certificate as certificates
from onnxinfo.metrics import closed_form, rounding, ru, sid
from onnxinfo.metrics.certificate import Certificate
from onnxinfo.metrics.forward import ForwardProblem
from onnxinfo.metrics.found import Certified, Found
from onnxinfo.metrics.noise import Tie
from onnxinfo.metrics.problem import Problem

NAN, INF = math.nan, math.inf
CAP = 2.0


def numbers(*values):
    return torch.tensor(values)


def problem(*, group=(0, 1), counted=(True, True), without_budget=False):
    """A problem with one sample and without a layer."""
    tie = Tie(torch.tensor(group), torch.bincount(torch.tensor(group))).counting(torch.tensor([counted]))
    without = torch.tensor([without_budget])
    shape = (len(group),)
    return Problem(None, None, torch.ones(1), tie, CAP, shape, torch.tensor([counted]), without, torch.zeros(1))


def certificate(ratio=1.0, ratio_stderr=0.0, *, gap=0.01, saturated=False):
    tensors = [numbers(each) for each in (ratio, ratio_stderr, gap, 0.0, 0.0, 2.0)]
    return Certificate(*tensors, saturated=torch.tensor([saturated]), met=torch.tensor([True]))


@pytest.mark.parametrize(
    ("measured", "changes", "accepted"),
    [
        ({}, {}, True),
        ({"ratio": 1.2}, {}, False),
        ({"ratio": 0.8}, {}, False),
        ({"ratio": 1.2, "ratio_stderr": 0.06}, {}, True),
        ({"ratio": 1.2, "ratio_stderr": 0.04}, {}, False),
        ({"ratio": 0.8, "saturated": True}, {}, True),
        ({"ratio": 1.2, "saturated": True}, {}, False),
        ({"ratio": 1.5}, {"without_budget": True}, True),
        ({"ratio": NAN}, {}, False),
        ({"ratio": NAN, "saturated": True}, {}, False),
        ({"ratio_stderr": NAN, "saturated": True}, {}, True),
    ],
)
def test_the_closed_form_is_accepted_unless_measurements_contradict_it(monkeypatch, measured, changes, accepted):
    scales, measurements = torch.tensor([[0.5, 0.5]]), SimpleNamespace(deviations=None, exponent=lambda free: None)
    monkeypatch.setattr(closed_form, "control_of", lambda *given: None)
    monkeypatch.setattr(closed_form, "sample_until", lambda *given, **options: None)
    monkeypatch.setattr(Problem, "measured", lambda *given: measurements)
    monkeypatch.setattr(closed_form, "doubled_deviation", lambda *given: None)
    monkeypatch.setattr(closed_form, "certify_exact", lambda *given: certificate(**measured))
    stated = dataclasses.replace(problem(**changes), feature=SimpleNamespace(samples=1))
    closed = closed_form.closed_form(stated, scales)
    assert (closed is not None) == accepted
    if closed is not None:
        assert closed.scales is scales


@pytest.mark.parametrize(
    ("deviation", "free", "growth", "met"),
    [
        (1.0, True, 4.0, True),
        (1.04, True, 4.0, True),
        (1.06, True, 4.0, False),
        (0.94, True, 4.0, False),
        (0.5, False, 4.0, True),
        (1.06, False, 4.0, False),
        (1.0, True, 17.0, False),
        (1.0, False, 17.0, True),
        (INF, True, 4.0, False),
    ],
)
def test_an_exact_optimum_still_has_to_meet_its_constraint(deviation, free, growth, met):
    found = certificates.certify_exact(
        numbers(2.0), torch.full((4, 1), deviation), torch.ones(1), torch.tensor([[free]]), numbers(growth)
    )
    assert (found.met.tolist(), found.converged.tolist()) == ([met], [met])
    assert found.gap.tolist() == [0.0]
    assert found.gain.isnan().all()
    assert found.ratio.isnan().tolist() == [math.isinf(deviation)]


@pytest.mark.parametrize(
    ("begun", "closed", "expected"),
    [
        ((0.3, 0.4), (0.5, 0.6), (0.3, 0.4)),
        ((NAN, 0.0), (0.5, 0.6), (0.5, 0.6)),
        ((INF, INF), (0.5, 3.0), (CAP, 3.0)),
    ],
)
def test_a_search_starts_from_the_scales_that_are_known(begun, closed, expected):
    found = sid._resumed(problem(), torch.tensor([closed]), torch.tensor([begun]))
    torch.testing.assert_close(found, torch.tensor([expected]))


@pytest.mark.parametrize(("begun", "expected"), [(None, 0.9), (0.3, 0.3)])
def test_an_earlier_solution_replaces_the_gauss_newton_round(monkeypatch, begun, expected):
    monkeypatch.setattr(sid, "gauss_newton", lambda problem, scales: (torch.full_like(scales, 0.9), None))
    monkeypatch.setattr(sid, "feasible", lambda problem, scales: scales)
    monkeypatch.setattr(rounding, "coarseness", lambda problem, scales: torch.ones(1))
    monkeypatch.setattr(sid, "search", lambda problem, scales, coarse: scales)
    monkeypatch.setattr(Problem, "is_thin", False)
    stated = dataclasses.replace(problem(), begun=None if begun is None else torch.full((1, 2), begun))
    scales, _ = sid._searched(stated, torch.full((1, 2), 0.5))
    torch.testing.assert_close(scales, torch.full((1, 2), expected))


def test_units_that_do_not_count_have_no_say_in_where_a_search_starts():
    stated = problem(group=(0, 0, 0, 1), counted=(True, True, False, False))
    found = sid._resumed(stated, torch.tensor([[0.5, 0.7]]), torch.tensor([[0.1, 0.4, NAN, NAN]]))
    assert found[0, 0] == pytest.approx(0.2)


@pytest.mark.parametrize("dead", [True, False])
def test_there_is_no_gap_without_a_value(monkeypatch, dead):
    monkeypatch.setattr(sid, "_dead", lambda problem: torch.tensor([dead]))
    stated = dataclasses.replace(problem(), feature=SimpleNamespace(n_vjps=0), start=SimpleNamespace(probes=0))
    none, no = torch.zeros(1), torch.zeros(1, dtype=torch.bool)
    found = Found.of(Certified(torch.ones(1, 2), certificate(), none, none, torch.zeros(1, 2), none, no), 0)
    solution = sid._solution(stated, found, torch.ones(1))
    assert solution.sigma.isnan().all() == solution.certificate.gap.isnan().all() == dead


def test_units_of_unknown_scale_are_not_at_the_cap():
    """If they were, a layer without any known scale would count as saturated, and its value as exact."""
    scales, counted = torch.tensor([[NAN, CAP, 1.0]]), torch.ones(1, 3, dtype=torch.bool)
    for kind in (Problem, ForwardProblem, ru.Problem):
        stated = SimpleNamespace(tie=Tie(torch.arange(3), torch.ones(3)), cap=CAP, counted=counted)
        assert kind.free(stated, scales).tolist() == [[True, False, True]]


def test_ratios_and_gains_that_overflow_are_unknown(monkeypatch):
    monkeypatch.setattr(certificates, "mean_and_stderr", lambda values: (numbers(INF), numbers(INF)))
    found = SimpleNamespace(deviations=torch.ones(2, 1), exponent=len)
    missing = certificates.Missing(*torch.zeros(3, 1), torch.full((1,), INF))
    trial = SimpleNamespace(
        curvature=torch.ones(1), curvature_stderr=torch.zeros(1), gain=numbers(INF), gain_stderr=numbers(INF)
    )
    result = certificates.certify(found, torch.ones(1), torch.ones(1, 1, dtype=torch.bool), missing, trial)
    for name in ("ratio", "ratio_stderr", "gain", "gain_stderr"):
        assert getattr(result, name).isnan().all(), name
    assert not result.met
