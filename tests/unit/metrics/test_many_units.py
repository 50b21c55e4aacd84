"""Samples of many units, which get by with less noise."""

import dataclasses
from unittest.mock import patch

import pytest
import torch
from test_bends import problem_of

from onnxinfo.metrics import certification
from onnxinfo.metrics.constraint import feasible
from onnxinfo.metrics.problem import CONTROLLED_NOISES, COUPLED_NOISES, PASS_NOISES
from onnxinfo.metrics.sid import solve


class Bent(torch.nn.Module):
    """The same slightly bent function of every unit, whose scale varies smoothly over the sample."""

    def __init__(self, units):
        super().__init__()
        wave = (torch.linspace(0, 12, units).sin() / 2).exp()
        self.scale = torch.nn.Parameter(wave, requires_grad=False)

    def forward(self, x):
        z = self.scale * x
        return (z + 0.2 * torch.sin(2 * z),)


def problem(units):
    given = problem_of(Bent(units), torch.zeros(1, units))
    # A budget for which equal noise in units of the scales is optimal.
    given.target.mul_(1000)
    return given


@pytest.mark.parametrize(("units", "divisor"), [(2**16 - 1, 1), (2**16, 2), (2**19, 2)])
def test_many_units_take_less_noise(units, divisor):
    given = problem(2**8)
    given = dataclasses.replace(given, tie=type("Tie", (), {"units": units})())
    assert given.thrift == divisor
    assert given.draws(None) == PASS_NOISES // divisor
    assert dataclasses.replace(given, couplings=object()).draws(None) == COUPLED_NOISES
    few = dataclasses.replace(given, couplings=object(), tie=type("Tie", (), {"units": 2**12})())
    assert few.draws(None) == PASS_NOISES
    assert given.draws(object()) == CONTROLLED_NOISES


def test_they_are_solved_as_well():
    lost, gaps, products = [], [], []
    for units in (2**15, 2**16):
        given = problem(units)
        solution = solve(given)
        scale = solution.sigma[0] * Bent(units).scale
        # At the optimum, all units use the same share of the budget.
        best = scale.square().mean().sqrt().log()
        lost.append(float(best - scale.log().mean()))
        gaps.append(float(solution.certificate.gap))
        products.append(int(solution.probes))
        assert solution.certificate.converged.all()
    assert lost[1] <= lost[0] + 0.002
    assert lost[1] <= gaps[1] <= 0.05
    assert products[1] < 0.7 * products[0]


@pytest.mark.parametrize(("units", "passes"), [(2**15, 3), (2**16, 6)])
def test_a_certificate_gets_as_much_noise_in_all(units, passes):
    given = problem(units)
    with patch.object(certification, "is_known", lambda *_: False):
        *_, taken = certification.certify_scales(given, feasible(given, given.uniform()), None, [], 3)
    assert len(taken) == passes
    assert sum(len(each.deviations) for each in taken) == 3 * PASS_NOISES
