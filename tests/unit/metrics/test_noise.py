"""Allocation of the noise budget, shared scales, random streams."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from onnxinfo import UsageError
from onnxinfo.metrics.noise import clip_sigma, generator, make_tie, waterfill

costs = st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=12)


def unit_tie(count):
    return make_tie("unit", (count,), ("feature",))


@given(costs, st.floats(1e-6, 10), st.floats(1e-3, 2))
@settings(deadline=None)
def test_the_budget_is_spent_unless_all_are_at_the_cap(cost, target, cap):
    norms = torch.tensor([cost], dtype=torch.float64)
    tie = unit_tie(len(cost))
    sigma = clip_sigma(waterfill(norms, torch.tensor([target], dtype=torch.float64), tie, cap), tie, cap)
    spent = float((sigma.square() * norms).sum())
    at_cap = bool((sigma >= cap).all())
    assert spent <= target * (1 + 1e-9) or at_cap
    assert at_cap or spent == pytest.approx(target, rel=1e-9)


def test_water_filling_is_what_a_general_solver_finds():
    rng = np.random.default_rng(0)
    cost = rng.uniform(0.01, 3, 8) ** 2
    target, cap = 0.5, 0.6
    tie = unit_tie(8)
    sigma = clip_sigma(waterfill(torch.tensor(cost[None]), torch.tensor([target]), tie, cap), tie, cap).numpy()[0]
    found = minimize(
        lambda s: -np.log(s).sum(),
        np.full(8, 0.05),
        bounds=[(1e-6, cap)] * 8,
        constraints={"type": "ineq", "fun": lambda s: target - (s**2 * cost).sum()},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert np.log(sigma).sum() == pytest.approx(-found.fun, abs=1e-6)


def test_units_the_feature_does_not_see_go_to_the_cap():
    tie = unit_tie(3)
    scales = waterfill(torch.tensor([[0.0, 1.0, 1.0]]), torch.tensor([0.02]), tie, 0.5)
    assert clip_sigma(scales, tie, 0.5)[0].tolist() == pytest.approx([0.5, 0.1, 0.1])


def test_ties_group_units():
    pixel = make_tie("pixel", (3, 4, 5), ("channel", "y", "x"))
    assert pixel.groups == 20
    assert pixel.size.tolist() == [3] * 20
    channels_last = make_tie("pixel", (4, 5, 3), ("y", "x", "channel"))
    assert channels_last.group[:6].tolist() == [0, 0, 0, 1, 1, 1]
    grid = make_tie("grid:2", (1, 5, 4), ("channel", "y", "x"))
    assert grid.group.reshape(5, 4).tolist() == [[0, 0, 1, 1]] * 3 + [[2, 2, 3, 3]] * 2
    values = torch.arange(60.0).reshape(1, 60)
    assert torch.equal(pixel.sum(values), values.reshape(3, 20).sum(0, keepdim=True))
    assert pixel.expand(pixel.sum(values)).shape == (1, 60)


@pytest.mark.parametrize("kind", ["pixels", "grid:0", "grid:", "grid:9"])
def test_impossible_ties_are_refused(kind):
    with pytest.raises(UsageError):
        make_tie(kind, (1, 4, 4), ("channel", "y", "x"))


def test_streams_depend_on_their_key_alone():
    device = torch.device("cpu")
    draws = [torch.randn(4, generator=generator(device, *key)) for key in [(0, "a"), (0, "a"), (0, "b"), (1, "a")]]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert not torch.equal(draws[0], draws[3])
