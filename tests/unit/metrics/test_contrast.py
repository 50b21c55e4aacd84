"""Errors of weighted sums over a map, where the noise of single products is known."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from onnxinfo.metrics.contrast import sum_stderr
from onnxinfo.metrics.halves import Halves
from onnxinfo.metrics.noise import Tie

SAMPLES, UNITS, PRODUCTS, STD = 4000, 12, 100, 0.3
#: Ratio of the stated error to that of independent products; see ``benchmarks/concentration.py``.
WIDER = 1.2
#: The mean of the first half of the units minus that of the second.
CONTRAST = torch.cat([torch.full((6,), 1 / 6), torch.full((6,), -1 / 6)]).expand(SAMPLES, UNITS)


def probe(spread: Any) -> Any:
    """Return a feature whose gradient is one, but for noise of single products that a function draws, (count, S, n)."""
    generator = torch.Generator().manual_seed(0)

    def gradients(sigma: torch.Tensor, draws: int) -> tuple[Halves, torch.Tensor]:
        first, second = (1 + STD * spread(draws // 2, generator).mean(0) for _ in range(2))
        return Halves(first, second), sigma.new_ones(draws, len(sigma))

    return SimpleNamespace(gradients=gradients)


def independent(count: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(count, SAMPLES, UNITS, generator=generator)


def by_region(count: int, generator: torch.Generator) -> torch.Tensor:
    """Noise that all units of a half have in common."""
    return torch.randn(count, SAMPLES, 2, generator=generator).repeat_interleave(UNITS // 2, 2)


def stated(spread: Any, tie: Tie, free: torch.Tensor, weights: torch.Tensor = CONTRAST) -> float:
    """Root mean square of the stated errors."""
    sigma, products = torch.ones(SAMPLES, UNITS), torch.full((SAMPLES,), PRODUCTS)
    return float(sum_stderr(probe(spread), sigma, free, tie, weights, products).square().mean().sqrt())


ALL = torch.ones(SAMPLES, UNITS, dtype=torch.bool)
APART = Tie(torch.arange(UNITS), torch.ones(UNITS))


@pytest.mark.parametrize(("spread", "per_mean"), [(independent, 6), (by_region, 1)])
def test_the_error_of_a_contrast_follows_the_correlations_between_units(spread: Any, per_mean: int) -> None:
    """``log sigma`` is off by half of the gradient's noise, which falls with the root of the products."""
    expected = WIDER * STD / 2 * math.sqrt(2 / per_mean / PRODUCTS)
    assert stated(spread, APART, ALL) == pytest.approx(expected, rel=0.05)


def test_units_that_share_a_scale_share_their_error() -> None:
    """A pair of units, one of each half, has weights that cancel."""
    pairs = Tie(torch.arange(UNITS) % 6, torch.full((6,), 2.0))
    assert stated(independent, pairs, ALL) < 1e-7
    neighbors = Tie(torch.arange(UNITS) // 2, torch.full((6,), 2.0))
    assert stated(independent, neighbors, ALL) == pytest.approx(stated(independent, APART, ALL), rel=0.05)


def test_units_at_the_cap_have_no_error() -> None:
    """With half of the units there, the error is that of the other half's mean, whose scale the constraint measures."""
    free = ALL.clone()
    free[:, :6] = False
    assert stated(by_region, APART, ALL & False) == 0
    assert stated(by_region, APART, free) == pytest.approx(WIDER * STD / 2 / math.sqrt(PRODUCTS), rel=0.05)
