"""How runs are laid side by side: layers by relative depth, and independent samples by Welch's test."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import ttest_ind

from onnxinfo.views.compare import _unpaired, matched


def run_of(depths):
    return SimpleNamespace(layers=[SimpleNamespace(name=f"d{depth}", depth=depth) for depth in depths])


def test_layers_of_the_nearest_relative_depth_arematched():
    """Depths 2, 5, 10 of 10 lie nearest to 5, 9, 20 of 20."""
    assert matched(run_of([2, 5, 10]), run_of([1, 5, 9, 14, 20]), "depth") == [(0, 1), (1, 2), (2, 4)]
    assert matched(run_of([20, 1]), run_of([1, 5, 10]), "depth") == [(0, 2), (1, 0)]


def test_layers_of_the_same_name_arematched():
    assert matched(run_of([1, 3, 7]), run_of([7, 1]), "layer") == [(0, 1), (2, 0)]


def cells_of(values):
    whole, zeros = np.ones(len(values), dtype=bool), np.zeros(len(values))
    return {"value": np.array(values), "stderr": zeros, "converged": whole, "mark": zeros, "done": whole}


@pytest.mark.parametrize(
    ("one", "two"), [([1.0, 2, 4, 8, 3], [2.0, 2.5, 2.2]), ([1.0, 2, 3], [5.0, 9, 2, 4, 4, 4]), ([1.0, 3], [2.0, 5])]
)
def test_independent_samples_have_welch_s_degrees_of_freedom(one, two):
    pairs, freedom = _unpaired(cells_of(one), cells_of(two))
    expected = ttest_ind(two, one, equal_var=False)
    assert freedom == pytest.approx(expected.df)
    assert pairs.difference / pairs.stderr == pytest.approx(expected.statistic)


def test_equal_samples_have_those_of_the_counts():
    _, freedom = _unpaired(cells_of([1.0, 1, 1, 1]), cells_of([2.0, 2, 2]))
    assert freedom == 5
