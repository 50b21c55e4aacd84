"""The estimated shortfall of a reconstruction uncertainty, against its formula, and where it is unknown."""

import pytest
import torch

from onnxinfo.metrics.ru_certificate import LEAST_SHARE, Slopes

GAIN = torch.tensor([[0.3, 0.1, 0.25, 0.05, 0.2], [3.0, 1.0, 2.5, 4.0, 1.5]])
COST = torch.tensor([[1.0, 0.2, 0.3, 0.1, 0.4], [2.0, 1.0, 3.0, 5.0, 1.0]])
SPENT = torch.tensor([[2.0, 0.5, 1.0, 0.2, 0.8], [1.0, 1.0, 4.0, 5.0, 2.0]])
UNITS = torch.tensor([20, 5])


def slopes(gain=GAIN, cost=COST):
    """Slopes without noise: four parts that agree."""
    return Slopes(cost.repeat(4, 1, 1), gain.repeat(4, 1, 1), torch.ones(8, len(gain)))


@pytest.mark.parametrize("off", [None, 3])
def test_the_shortfall_is_that_of_the_formula(off):
    free = torch.ones_like(GAIN, dtype=torch.bool)
    if off is not None:
        free[:, off] = False
    found, error = slopes().shortfall(free, SPENT, UNITS)
    for sample in range(2):
        kept = free[sample]
        gain, cost, spent = (each[sample][kept] for each in (GAIN, COST, SPENT))
        share = (1 - LEAST_SHARE) * spent / spent.sum() + LEAST_SHARE / len(spent)
        left = gain - gain.sum() / cost.sum() * cost
        expected = (left.square() / (4 * gain.sum() * share * UNITS[sample])).sum()
        torch.testing.assert_close(found[sample], expected)
    torch.testing.assert_close(error, torch.zeros(2), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("gain", "cost"), [(-1.0, 1.0), (1.0, -1.0), (0.0, 1.0), (1.0, 0.0)])
def test_the_shortfall_is_unknown_where_growing_noise_does_not_help(gain, cost):
    free = torch.ones_like(GAIN, dtype=torch.bool)
    found, error = slopes(gain * GAIN, cost * COST).shortfall(free, SPENT, UNITS)
    assert found.isnan().all()
    assert error.isnan().all()


def test_growth_and_exponent_are_of_the_free_groups():
    free = torch.tensor([[True, True, False, False, False], [True] * 5])
    torch.testing.assert_close(slopes().growth(free, UNITS), torch.tensor([0.4 / 20, 12.0 / 5]))
    torch.testing.assert_close(slopes().exponent(free), torch.tensor([1.2, 3.0]))
