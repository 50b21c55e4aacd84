"""The paper's optimizer meets the requirements of the default solver: counted units, constraint, rounding and jumps."""

from functools import partial

import pytest
import torch
from probed import probed
from test_sabotage import ALPHA, CAP, CELLS, TIE, UNITS, Cubic, Truth, layer_around_zero

from onnxinfo.metrics.noise import make_tie
from onnxinfo.metrics.problem import Problem
from onnxinfo.metrics.reference import solve_by_gradient
from onnxinfo.metrics.sid import solve


@pytest.fixture(scope="module")
def cubic():
    feature, start = layer_around_zero(Cubic(), CELLS)
    return solve_by_gradient(Problem.of(feature, start, ALPHA * start.normalizer, TIE, CAP, (UNITS,)), steps=300)


def test_it_reaches_the_optimum_and_knows_it(cubic):
    lost = Truth(Cubic()).lost(cubic.sigma)
    assert lost.max() < 0.03
    assert cubic.certificate.converged.all()
    assert (lost <= cubic.certificate.gap).double().mean() >= 0.95


def test_its_scales_are_at_the_met_constraint(cubic):
    """Values agree within their own error."""
    off = Truth(Cubic()).ratio(cubic.sigma).log() / cubic.certificate.exponent / cubic.stderr
    assert off.square().mean().sqrt() < 1.5


class Linear(torch.nn.Module):
    """Units of different weight, without shared outputs."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.linspace(0.5, 2, UNITS), requires_grad=False)

    def forward(self, x):
        return (self.weight * x,)


@pytest.mark.parametrize("kind", ["unit", "grid:16"])
@pytest.mark.parametrize("solver", [solve, partial(solve_by_gradient, steps=300)], ids=["solver", "reference"])
def test_units_that_do_not_count_get_no_noise(solver, kind):
    feature, start = layer_around_zero(Linear(), 4)
    counted = torch.rand(4, UNITS, generator=torch.Generator().manual_seed(0)) < torch.tensor(
        [[1], [0.8], [0.5], [0.1]]
    )
    target, tie = ALPHA * start.normalizer, make_tie(kind, (UNITS,), ("time",))
    found = solver(Problem.of(feature, start, target, tie, 5.0, (UNITS,), counted))
    assert torch.equal(found.sigma.isnan(), ~counted)
    # Groups share the budget in proportion to their counted units.
    cost, size = tie.sum(start.column_norms * counted), tie.sum(counted.float())
    expected = tie.expand((target[:, None] * size / counted.sum(1, keepdim=True) / cost).sqrt())
    assert (found.sigma / expected)[counted].log().abs().mean() < 0.03
    assert found.certificate.converged.all()
    assert (found.probes == start.probes + feature.n_vjps).all()


class Stepped(torch.nn.Module):
    """Half a smooth layer, half its rounding, which no gradient sees."""

    def forward(self, x):
        return (x + 0.1 * torch.floor(x / 0.1),)


def test_rounding_and_jumps_are_found_out():
    units = 4096
    x, tie = torch.rand(4, units, generator=torch.Generator().manual_seed(0)), make_tie("unit", (units,), ("time",))
    feature, start = probed(Stepped(), x)
    found = solve_by_gradient(Problem.of(feature, start, 1.5e-4 * start.normalizer, tie, CAP, (units,)), steps=50)
    assert (found.coarse > 1).all()
    assert found.certificate.gap.isnan().all()
    assert not found.certificate.converged.any()
