"""Searches along lines, on small tables of steps whose optimum is found by trying all scales."""

import dataclasses
import math
from statistics import NormalDist

import numpy as np
import pytest
import torch

from onnxinfo.metrics.forward import MOST_LINES, ForwardProblem, solve_forward
from onnxinfo.metrics.intervals import Intervals
from onnxinfo.metrics.line_search import LineSearch
from onnxinfo.metrics.noise import generator, make_tie
from onnxinfo.metrics.probe import LayerProbe

UNITS, THRESHOLDS, OUTPUTS, BOXES = 4, 6, 2, 12
SCALES, ZOOMS = 40, 4


class Steps:
    """A sum of boxes in two of four units each: like a few small trees."""

    def __init__(self, seed):
        stream = np.random.default_rng(seed)
        thresholds = [np.sort(stream.normal(size=THRESHOLDS) * 0.8).astype(np.float32) for _ in range(UNITS)]
        values = np.zeros((THRESHOLDS + 1,) * UNITS + (OUTPUTS,))
        for _ in range(BOXES):
            sides = [
                slice(0, at) if stream.random() < 0.5 else slice(at, None)
                for at in stream.integers(1, THRESHOLDS + 1, size=UNITS)
            ]
            used = stream.permutation(UNITS)[:2]
            values[tuple(sides[i] if i in used else slice(None) for i in range(UNITS))] += stream.normal(size=OUTPUTS)
        self.thresholds = [torch.tensor(each) for each in thresholds]
        self.values = torch.tensor(values, dtype=torch.float32)
        center = self(torch.zeros(1, UNITS))[0]
        self.deviations = (self.values - center).square().sum(-1).double()

    def __call__(self, x):
        return self.values[tuple(torch.bucketize(x[:, i].contiguous(), each) for i, each in enumerate(self.thresholds))]

    def chances(self, unit, scales):
        """Probability of each interval of a unit, (scales, intervals)."""
        ends = torch.tensor([math.inf])
        edges = torch.cat([-ends, self.thresholds[unit], ends]).double()
        below = torch.special.ndtr(edges / scales[:, None])
        return below[:, 1:] - below[:, :-1]

    def level(self, scales):
        """The exact deviation for all combinations of scales, one tensor per unit."""
        found = self.deviations
        for unit, each in enumerate(scales):
            found = torch.movedim(torch.tensordot(self.chances(unit, each), found, dims=([1], [unit])), 0, unit)
        return found

    def best(self, budget):
        """Mean log sigma at the optimum, by trying all scales on finer and finer grids."""
        least = [math.log(max(float(each.abs().min()) / 5, 1e-3)) for each in self.thresholds]
        grids = [torch.linspace(each, 0, SCALES, dtype=torch.float64) for each in least]
        found = -math.inf
        for _ in range(ZOOMS):
            total = sum(torch.meshgrid(*grids, indexing="ij"))
            total[self.level([each.exp() for each in grids]) > budget] = -math.inf
            at = np.unravel_index(int(total.argmax()), total.shape)
            found = max(found, float(total[at]))
            grids = [
                torch.linspace(
                    max(float(each[i] - 1.5 * (each[1] - each[0])), low),
                    min(float(each[i] + 1.5 * (each[1] - each[0])), 0),
                    SCALES,
                    dtype=torch.float64,
                )
                for each, i, low in zip(grids, at, least, strict=True)
            ]
        return found / UNITS

    def probe(self, seed=0):
        x = torch.zeros(1, UNITS)
        streams = (generator(x.device, seed, name) for name in ("noise", "probes"))
        return LayerProbe(lambda x, rows: [self(x)], x, torch.tensor(1.0), torch.arange(1), *streams, 4096)

    def intervals(self, feature, tie, counted):
        return Intervals(feature, self.thresholds, counted)


def solved(steps, budget, seed=0):
    """Solution, and its mean log sigma at the constraint that is met exactly."""
    tie = make_tie("unit", (UNITS,), ("time",))
    target = torch.tensor([budget], dtype=torch.float32)
    solution = solve_forward(steps.probe(seed), target, tie, 1.0, (UNITS,), steps.intervals)
    sigma = solution.sigma[0].double()
    ratio = float(steps.level([each[None] for each in sigma])) / budget
    free = float((sigma < 1).double().mean())
    return solution, float(sigma.log().mean()) - free * math.log(ratio) / float(solution.certificate.exponent)


def test_the_best_of_several_optima_is_found():
    """A search that follows the gradient ends 0.07 nats lower, on the near side of a threshold."""
    steps = Steps(0)
    budget = 0.15 * float(steps.deviations.mean())
    solution, found = solved(steps, budget)
    assert solution.certificate.converged.all()
    assert found == pytest.approx(steps.best(budget), abs=0.02)


def step(x):
    """A step of 2 at 0.3 of the first unit; the others are ignored."""
    return 2 * (x[:, :1] > 0.3).float()


def test_the_best_scale_beside_a_step_is_known():
    x, budget = torch.zeros(1, UNITS), 0.02
    streams = (generator(x.device, 0, name) for name in ("noise", "probes"))
    feature = LayerProbe(lambda x, rows: [step(x)], x, torch.tensor(1.0), torch.arange(1), *streams, 4096)
    counted = torch.ones(UNITS, dtype=torch.bool)
    intervals = Intervals(feature, [torch.tensor([0.3]), *[torch.tensor([])] * (UNITS - 1)], counted)
    search = LineSearch(feature, intervals, budget, 1.0, counted)
    expected = -0.3 / NormalDist().inv_cdf(budget / 4)
    for start in (search.alone(), torch.ones(UNITS)):
        scales, _ = search(start, feature.noise)
        assert scales.tolist() == [pytest.approx(expected, rel=0.03), 1, 1, 1]


def test_units_that_do_not_count_stay_at_rest():
    steps, counted = Steps(0), torch.tensor([[True, False, True, True]])
    tie = make_tie("unit", (UNITS,), ("time",))
    solution = solve_forward(steps.probe(), torch.tensor([0.3]), tie, 1.0, (UNITS,), steps.intervals, counted)
    assert solution.sigma[0].isnan().tolist() == [False, True, False, False]
    sigma = solution.sigma[0].nan_to_num(1e-9).double()
    assert float(steps.level([each[None] for each in sigma])) == pytest.approx(0.3, rel=0.05)


def test_an_optimum_found_only_once_widens_the_gap_by_the_distance_to_the_next(monkeypatch):
    along, searches = ForwardProblem._along, []

    def apart(self, *given):
        """Each further search is made to end half a nat lower."""
        searches.append(along(self, *given))
        return dataclasses.replace(searches[-1], entropy=-0.5 * len(searches))

    monkeypatch.setattr(ForwardProblem, "_along", apart)
    solution, _ = solved(Steps(2), 0.3)
    assert len(searches) == MOST_LINES
    assert float(solution.certificate.gap) >= 0.5
    assert not bool(solution.certificate.converged)
