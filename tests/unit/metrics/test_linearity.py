"""The test of linearity sees kinks that the noise itself seldom reaches."""

from __future__ import annotations

import math

import pytest
import torch
from test_bends import ALPHA, problem_of
from torch import Tensor, nn

from onnxinfo.metrics.closed_form import is_linear

UNITS = 16


class Kink(nn.Module):
    """The sum of all units, which rises more steeply from a threshold on, (N, 1, UNITS) to (N, 1)."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold

    def forward(self, x: Tensor) -> tuple[Tensor]:
        total = x.sum(2)
        return (total + 0.3 * torch.relu(total - self.threshold),)


@pytest.mark.parametrize(("far", "expected"), [(2.8, False), (30.0, True)])
def test_a_kink_within_twice_the_noise_makes_no_linear_layer(far: float, expected: bool) -> None:
    """At 2.8 standard deviations of the sum, noise reaches it in 0.3 % of draws, and twice the noise in 8 %."""
    spread = math.sqrt(ALPHA * UNITS)
    problem = problem_of(Kink(far * spread), torch.zeros(1, 1, UNITS))
    scales = torch.full((1, UNITS), math.sqrt(ALPHA))
    assert is_linear(problem, scales) is expected
