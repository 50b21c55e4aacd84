"""Strict information discarding of layers without gradients: tree ensembles, rounding, custom operators.

The optimum is where the gradient ``sigma_g dL/dsigma_g`` of the deviation is the same for all free units. Stein's
identity gives it without differentiating the layer, as integrals along each group's noise (:mod:`.radial`, or
:mod:`.intervals` where the layer's thresholds are known). Each round allocates the budget as if the layer were linear
with the column norms that these gradients imply, in damped steps; older estimates get exponentially decaying weights.
Scales are averaged over the last rounds and certified with fresh noise, like those of the gradient solver.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from .ascent import MOST_STEP
from .certificate import (
    GAP_STDERR,
    LEAST_CURVATURE,
    MOST_CURVATURE,
    RATIO_STDERR,
    Certificate,
    certify,
    mean_and_stderr,
    missing_entropy,
    relative_stderr,
    rescale_to_constraint,
    take_trial,
    wider,
)
from .constraint import OFF
from .intervals import Intervals
from .line_search import LineSearch
from .measured import Measured
from .misplaced import wake
from .noise import Tie, clip_sigma, waterfill
from .probe import LayerProbe
from .radial import Integrator
from .sid import WORTH, Solution
from .trial import Sampling

#: First search: rounds, backgrounds per round, and minimum weight of the newest estimate.
FIRST = (20, 8, 0.3)
#: Further rounds, each followed by a certificate: as above.
STAGES = ((20, 16, 0.2), (24, 32, 0.1), (24, 32, 0.06))
#: Rounds in which the budget is lowered from the deviation at the cap to the target, and backgrounds per round.
FALLING, FALLING_BACKGROUNDS = 16, 16
#: Difference in nats up to which two first searches count as having found the same optimum.
SAME = 0.01
#: Maximum number of first searches.
MOST_SEARCHES = 6
#: Searches along lines: minimum and maximum number, and how many of them have to end at the best optimum.
LEAST_LINES, MOST_LINES, ALIKE = 5, 12, 3
#: Standard deviation of the log scales of random starts.
SPREAD = 1.0
#: Uncapped scale of units that such a search leaves at the cap, relative to it: a small rescaling does not free them.
BEYOND_CAP = 1.3
#: Minimum gap in nats for piecewise constant layers, and where the first searches disagree: such layers have several
#: optima, and the certificate only measures the distance to the nearest. In 12 cells of a random forest, repeated
#: searches found up to 0.067 nats more.
SEVERAL_OPTIMA = 0.07
#: Excess of the constraint, beyond twice its standard error, up to which it is met: smaller than for a certificate,
#: because a correction takes few evaluations.
NEARLY_OFF = 0.01
#: Minimum number of rounds, and the mean square change of ``log sigma`` at which a stage ends.
LEAST_ROUNDS, STILL = 6, 5e-5
#: Damping relative to the step for a linear layer; undamped steps overshoot if the feature is discontinuous.
DAMPING = 0.7
#: Backgrounds per independent part of a certificate; minimum and maximum number of parts.
PART_BACKGROUNDS, LEAST_PARTS, MOST_PARTS = 8, 8, 32
#: Noise samples for the check at the cap, for the initial scale, and for a trial step.
CAP_NOISES, START_NOISES, TRIAL_NOISES = 1024, 256, 512
#: Initial scale of the search from the cap, relative to the cap: at the cap itself, no unit would be free.
NEAR_CAP = 0.98
#: The initial scale is found by bisection between this share of the cap and the cap.
LEAST_SCALE, HALVINGS = 1e-7, 14
#: Noise so small that a deviation beyond the budget shows the sample to lie on a threshold: share of the cap, and
#: multiples of the spacing of floats at the input's values.
TINY, SPACINGS = 1e-5, 8.0
#: Factor from the deviation under such noise to a sound budget, of which it is at most half.
SOUND = 2.0
#: Maximum number of input values drawn to measure the ratio, and minimum and maximum number of noise samples. Crossing
#: a threshold is a rare event, so many noise samples are needed.
RATIO_NUMBERS, LEAST_RATIO, MOST_RATIO = 2**23, 2048, 2**18
#: Maximum number of noise samples while the scales are still being optimized.
FEW_RATIO = 2**14
#: Target relative standard error of the certified ratio.
CERTIFIED_STDERR = 0.006
#: Relative standard error up to which even more noise samples are drawn, by this factor: a few per thousand cross.
SURE_STDERR, MORE_RATIO = 0.04, 4
#: Maximum number of rescalings to the constraint; then that of halvings of the range that it lies in, and their first
#: step in log sigma.
ADJUSTMENTS, NARROWINGS, WIDE = 4, 16, 0.5
#: Range of the exponent with which the deviation grows: 2 for linear layers, more for rare steps.
LEAST_EXPONENT, MOST_EXPONENT = 0.5, 12.0
#: Growth of the deviation under doubled noise beyond which unseen, rarer steps may matter.
MOST_GROWTH, GROWTH_NOISES = 256.0, 256


@dataclass(frozen=True)
class Integrated(Measured):
    """Estimates from integrals, which also hold for discontinuous features."""

    def exponent(self, free: Tensor) -> Tensor:
        """Growth of the deviation with the scales of the free units, (S,)."""
        return self.growth(free).clamp(LEAST_EXPONENT, MOST_EXPONENT)


def solve_forward(
    feature: LayerProbe,
    target: Tensor,
    tie: Tie,
    cap: float,
    shape: Sequence[int],
    integrate: Callable[[LayerProbe, Tie, Tensor], Integrator],
    units: Tensor | None = None,
) -> Solution:
    """Solve the SID of one layer on a block of samples from evaluations of the layer alone.

    Parameters
    ----------
    feature
        The layer's feature on S samples.
    target
        Budget of each, (S,), positive.
    tie, cap
        Tied groups, and ``sigma_max`` in standardized units.
    shape
        Shape of one sample.
    integrate
        Creates the integrator of one sample from its feature, groups and counted units.
    units
        Counted units, (S, n) bool; None: all.

    Returns
    -------
    Solution
        Scales and certificates of the S samples.
    """
    counted = torch.ones((feature.samples, feature.units), dtype=torch.bool) if units is None else units
    counted = counted.to(feature.x.device)
    found = []
    for position in range(feature.samples):
        sample = torch.tensor([position], device=feature.x.device)
        one, own = feature.at(sample), counted[sample]
        groups = tie.counting(own)
        integrator = integrate(one, groups, own[0])
        found.append(ForwardProblem(one, target[sample], groups, cap, tuple(shape), own, integrator).solve())
    return joined(found)


def joined(parts: Sequence[Solution]) -> Solution:
    """Join the solutions of blocks of samples."""
    certificates = [part.certificate for part in parts]
    names = [each.name for each in dataclasses.fields(Certificate)]
    whole = Certificate(*(torch.cat([getattr(each, name) for each in certificates]) for name in names))
    rest = [each.name for each in dataclasses.fields(Solution) if each.name != "certificate"]
    return Solution(certificate=whole, **{name: torch.cat([getattr(each, name) for each in parts]) for name in rest})


@dataclass
class _Evidence:
    """Running estimates over the rounds.

    Attributes
    ----------
    norms
        Squared column norms of the linear layer with the same gradients, per group, (groups,).
    exponent
        Growth of the deviation with the scales.
    """

    norms: Tensor
    exponent: float = 2.0
    rounds: int = 0

    def learn(self, norms: Tensor, exponent: float, least: float) -> float:
        """Update the running estimates with a round's estimates; return their weight."""
        weight = max(2 / (self.rounds + 2), least)
        self.norms = self.norms + weight * (norms - self.norms)
        self.exponent += weight * (exponent - self.exponent)
        self.rounds += 1
        return weight


@dataclass(frozen=True)
class _Search:
    """Scales (1, groups) that a first search has found, their mean logarithm, and the number of evaluations.

    `alone` is whether the searches from both ends agree, `apart` the difference between the best two searches.
    """

    scales: Tensor
    evidence: _Evidence
    entropy: float
    evaluations: int
    is_from_below: bool = False
    alone: bool = True
    apart: float = 0.0


@dataclass(frozen=True)
class ForwardProblem:
    """One layer's maximization at one sample; scales are uncapped, per group, (1, groups).

    Attributes
    ----------
    feature
        The layer's feature on the sample.
    target
        Budget, (1,).
    tie, cap, shape
        Tied groups, ``sigma_max``, and the shape of the sample.
    counted
        Units that count, (1, n) bool.
    integrate
        Integrates along each group.
    """

    feature: LayerProbe
    target: Tensor
    tie: Tie
    cap: float
    shape: tuple[int, ...]
    counted: Tensor
    integrate: Integrator

    def solve(self) -> Solution:
        """Optimize the scales and certify them."""
        at_cap = self.target.new_full((1, self.tie.groups), self.cap)
        deviations = self.feature.deviations(self.sigma(at_cap), CAP_NOISES)
        mean, error = mean_and_stderr(deviations)
        if float(mean + 2 * error) <= float(self.target):
            return self._solution(at_cap, self._exact(deviations), CAP_NOISES, 0)
        least, least_error = mean_and_stderr(self._least_deviations() / self.target)
        if float(least + 2 * least_error) > 1:
            return self._out_of_reach(least, least_error)
        return self._searched(float(mean / self.target))

    def _least_deviations(self) -> Tensor:
        """Deviations (draws, 1) under tiny noise; the search draws the same noise as without them."""
        state = self.feature.noise.get_state()
        found = self.feature.deviations(self._tiny(), CAP_NOISES)
        self.feature.noise.set_state(state)
        return found

    def _tiny(self) -> Tensor:
        """Noise scale of every unit, (1, n), that crosses no threshold unless the sample lies on it."""
        x = self.feature.x.reshape(1, -1)
        unit = self.feature.unit.expand(self.feature.x.shape).reshape(1, -1)
        spacing = torch.finfo(x.dtype).eps * (x / unit).abs()
        return (SPACINGS * spacing).clamp(TINY * self.cap, self.cap) * self.counted

    def _out_of_reach(self, ratio: Tensor, stderr: Tensor) -> Solution:
        """Solution without scales: the smallest noise takes the whole budget. ``coarse`` says what budget is sound."""
        unknown = torch.full_like(ratio, torch.nan)
        no = torch.zeros_like(ratio, dtype=torch.bool)
        certificate = Certificate(ratio, stderr, unknown, unknown, unknown, unknown, saturated=no, met=no)
        found = self._solution(torch.full_like(self._tiny(), torch.nan), certificate, 2 * CAP_NOISES, 0)
        return dataclasses.replace(found, stderr=unknown, coarse=SOUND * ratio)

    def sigma(self, scales: Tensor) -> Tensor:
        """Noise scale of every unit, (1, n), zero for units that are not counted."""
        return clip_sigma(scales, self.tie, self.cap) * self.counted

    def free(self, scales: Tensor) -> Tensor:
        """Counted units not at the cap, (1, n) bool; units of unknown scale are among them."""
        return ~(self.tie.expand(scales) >= self.cap) & self.counted

    def _share(self, scales: Tensor) -> Tensor:
        """Share of the counted units that are below the cap, (1,): the constraint determines their scales only."""
        return self.free(scales).sum(1) / self.counted.sum(1).clamp(min=1)

    def start(self) -> Tensor:
        """Find one scale for all groups that approximately meets the constraint."""
        low, high = math.log(LEAST_SCALE * self.cap), math.log(self.cap)
        scales = self.target.new_ones((1, self.tie.groups))
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            found = self.feature.deviations(self.sigma(scales * math.exp(middle)), START_NOISES).mean()
            low, high = (low, middle) if float(found) > float(self.target) else (middle, high)
        return scales * math.exp((low + high) / 2)

    def _searched(self, excess: float) -> Solution:
        found = self._first(excess)
        scales, evidence, evaluations = found.scales, found.evidence, found.evaluations
        best: Solution | None = None
        for stage in (None, *STAGES):
            if stage is not None:
                scales, spent = self.ascend(scales, evidence, *stage)
                evaluations += spent
            scales, certificate, shortfall, spent = self.certify(scales, evidence)
            evaluations += spent
            if isinstance(self.integrate, Intervals) or not found.alone:
                gap = certificate.gap.clamp(min=max(SEVERAL_OPTIMA, found.apart))
                certificate = dataclasses.replace(
                    certificate, gap=torch.where(certificate.saturated, certificate.gap, gap)
                )
            now = self._solution(scales, certificate, evaluations, evidence.rounds)
            if best is None or _is_better(now, best):
                best = now
            if bool(certificate.converged) and shortfall <= WORTH / 4:
                break
        assert best is not None
        return dataclasses.replace(best, probes=now.probes, iterations=now.iterations)

    def _first(self, excess: float) -> _Search:
        """Search along lines if the thresholds are known, else from both ends."""
        return self._along_lines() if isinstance(self.integrate, Intervals) else self._from_both_ends(excess)

    def _along_lines(self) -> _Search:
        """Search along lines from several starts, until the best optimum has been found often enough."""
        assert isinstance(self.integrate, Intervals)
        search = LineSearch(self.feature, self.integrate, float(self.target), self.cap, self.counted[0])
        first = [
            search.alone(),
            self.start()[0].double(),
            torch.full_like(self.counted[0], self.cap, dtype=torch.float64),
        ]
        searches: list[_Search] = []
        while len(searches) < LEAST_LINES or (len(searches) < MOST_LINES and _alike(searches) < ALIKE):
            number = len(searches)
            start = first[number] if number < len(first) else self._mixed(first[1], searches, number)
            searches.append(self._along(search, start))
            searches.sort(key=_entropy)
        evaluations = search.evaluations + sum(each.evaluations for each in searches)
        apart = searches[-1].entropy - searches[-2].entropy
        return dataclasses.replace(searches[-1], evaluations=evaluations, alone=False, apart=apart)

    def _mixed(self, uniform: Tensor, searches: Sequence[_Search], number: int) -> Tensor:
        """A random start, (n,), or each unit's scale from one of the two best searches, in turn."""
        stream = self.feature.noise
        if number % 2:
            return uniform * (SPREAD * torch.randn(uniform.shape, generator=stream, device=uniform.device)).exp()
        first = torch.rand(uniform.shape, generator=stream, device=uniform.device) < 0.5
        return torch.where(first, searches[-1].scales[0], searches[-2].scales[0]).double()

    def _along(self, search: LineSearch, start: Tensor) -> _Search:
        """One search along lines, at the met constraint."""
        scales, gradient = search(start, self.feature.noise)
        scales = torch.where(scales < self.cap, scales, BEYOND_CAP * self.cap)
        free = self.free(scales[None])[0]
        exponent = min(max(float(gradient[free].sum() / self.target), LEAST_EXPONENT), MOST_EXPONENT)
        evidence = _Evidence((gradient / (2 * scales.square())).to(self.target), exponent)
        met, spent = self.met(scales[None].to(self.target), exponent)
        return _Search(met, evidence, self._mean_log(met), spent)

    def _mean_log(self, scales: Tensor) -> float:
        """Mean log scale of the units."""
        return float((scales.clamp(max=self.cap).log() * self.tie.size).sum() / self.tie.size.sum())

    def _from_both_ends(self, excess: float) -> _Search:
        """Search from both ends; if the results differ, again until the best one is found twice. Return the best.

        Once noise crosses a threshold half of the time, more noise costs no more budget: the optimum of a unit is
        either well below its nearest threshold or far beyond it.

        Parameters
        ----------
        excess
            Deviation at the cap in units of the budget.
        """
        searches = sorted((self._from_cap(excess), self._from_below()), key=_entropy)
        alone = _are_same(searches)
        again = self._from_below if searches[1].is_from_below else partial(self._from_cap, excess)
        while not _are_same(searches) and len(searches) < MOST_SEARCHES:
            searches = sorted([*searches, again()], key=_entropy)
        evaluations = sum(each.evaluations for each in searches)
        apart = searches[-1].entropy - searches[-2].entropy
        return dataclasses.replace(searches[-1], evaluations=evaluations, alone=alone, apart=apart)

    def _from_below(self) -> _Search:
        """Search from one scale for all groups."""
        scales = self.start()
        evidence = _Evidence(torch.zeros_like(scales[0]))
        found = self._search(scales, evidence, HALVINGS * START_NOISES)
        return dataclasses.replace(found, is_from_below=True)

    def _from_cap(self, excess: float) -> _Search:
        """Search from the cap while the budget is lowered to the target."""
        scales = self.target.new_full((1, self.tie.groups), NEAR_CAP * self.cap)
        evidence, spent = _Evidence(torch.zeros_like(scales[0])), 0
        for step in range(FALLING):
            falling = dataclasses.replace(self, target=self.target * excess ** (1 - (step + 1) / FALLING))
            scales, more, _ = falling.round(scales, evidence, FALLING_BACKGROUNDS, 0.4)
            spent += more
        return self._search(scales, evidence, spent)

    def _search(self, scales: Tensor, evidence: _Evidence, spent: int) -> _Search:
        scales, more = self.ascend(scales, evidence, *FIRST)
        scales, measured = self.met(scales, evidence.exponent)
        return _Search(scales, evidence, self._mean_log(scales), spent + more + measured)

    def ascend(
        self, scales: Tensor, evidence: _Evidence, rounds: int, backgrounds: int, least: float
    ) -> tuple[Tensor, int]:
        """Run rounds; return the mean scales of the later half, and the number of evaluations."""
        passed, spent = [], 0
        for _ in range(rounds):
            scales, more, moved = self.round(scales, evidence, backgrounds, least)
            spent += more
            passed.append(scales.log())
            if len(passed) >= LEAST_ROUNDS and moved < STILL:
                break
        late = torch.stack(passed[len(passed) // 2 :])
        return late.mean(0).exp(), spent

    def round(self, scales: Tensor, evidence: _Evidence, backgrounds: int, least: float) -> tuple[Tensor, int, float]:
        """Take one step; return the scales, the number of evaluations, and the mean square change of log sigma."""
        found = self.integrate(self.sigma(scales)[0], backgrounds, self._gradient(scales, evidence))
        scales, moved = self._step(scales, evidence, found.gradient.mean(0), float(found.level.mean()), least)
        return scales, found.evaluations, moved

    def _gradient(self, scales: Tensor, evidence: _Evidence) -> Tensor:
        """Prediction of ``sigma_g dL/dsigma_g`` from the running estimates, (groups,)."""
        return 2 * scales[0].clamp(max=self.cap).square() * evidence.norms

    def _step(
        self, scales: Tensor, evidence: _Evidence, gradient: Tensor, level: float, least: float
    ) -> tuple[Tensor, float]:
        """Step towards the optimum of the linear layer with these gradients; return the mean square change."""
        groups = Tie(torch.arange(self.tie.groups, device=scales.device), self.tie.size.reshape(-1))
        sigma = scales.clamp(max=self.cap)
        free = (scales < self.cap)[0]
        level = max(level, float(torch.finfo(scales.dtype).tiny))
        exponent = min(max(float(gradient[free].sum()) / level, LEAST_EXPONENT), MOST_EXPONENT)
        weight = evidence.learn(gradient / (2 * sigma[0].square()), exponent, least)
        # A group whose estimated norm is zero or negative grows by at most one step.
        norms = evidence.norms.clamp(min=1e-6 * float(evidence.norms.abs().mean()))[None]
        off = max(-2.0, min(2.0, math.log(level / float(self.target)))) * max(weight, 0.25)
        foretold = (sigma.square() * norms).sum(1) * math.exp(-2 * off / evidence.exponent)
        wanted = waterfill(norms, foretold, groups, self.cap).clamp(max=math.e * self.cap)
        change = DAMPING * (wanted.log() - scales.log())
        change = change.clamp(-MOST_STEP, MOST_STEP) if evidence.rounds > 6 else change.clamp(-1, 1)
        moved = torch.where(sigma * change.exp() < self.cap, change, 0.0)
        return scales * change.exp(), float(moved.square().mean())

    def certify(self, scales: Tensor, evidence: _Evidence) -> tuple[Tensor, Certificate, float, int]:
        """Certify scales with fresh noise, and meet the constraint exactly.

        Returns
        -------
        tuple
            Scales, certificate, estimated shortfall in nats, and number of evaluations.
        """
        scales, spent = self.met(scales, evidence.exponent)
        scales, deviations, more = self._measured(scales, evidence.exponent)
        spent += more
        parts: list[Tensor] = []
        free = self.free(scales)
        while len(parts) < MOST_PARTS:
            found = self.integrate(self.sigma(scales)[0], PART_BACKGROUNDS, self._gradient(scales, evidence))
            spent += found.evaluations
            parts.append(self.tie.expand(found.gradient.mean(0)[None] / self.tie.size) * self.counted)
            measured = Integrated(torch.stack(parts), deviations)
            if len(parts) < LEAST_PARTS:
                continue
            if float(measured.shortfall(free, self.counted)[1]) * wider(len(parts)) <= GAP_STDERR / 4:
                break
        draws = min(TRIAL_NOISES, len(deviations))
        moved = partial(self._moved, scales)
        trial, _ = take_trial(self.feature, measured, free, self.counted, self.shape, moved, Sampling(draws))
        exponent = measured.exponent(free)
        final = rescale_to_constraint(scales, deviations, self.target, exponent) if bool(free.any()) else scales
        step = wake(self.feature, measured, free, self.counted, moved, draws)
        room = (self.cap / self.sigma(final)).log()
        lacking = missing_entropy(measured, free, self.counted, self.shape, step.missing, room)
        certificate = certify(measured, self.target, free, lacking, trial)
        growth = self.feature.deviations(torch.where(free, 2.0, 1.0) * self.sigma(scales), GROWTH_NOISES)
        rare = (growth.mean(0) > MOST_GROWTH * self.target) & ~certificate.saturated
        certificate = dataclasses.replace(certificate, met=certificate.met & ~rare)
        curvature = float(trial.curvature.clamp(LEAST_CURVATURE, MOST_CURVATURE))
        spent += 2 * (draws + step.draws) + GROWTH_NOISES
        # The parts also inform the next stage.
        gradient = self.tie.sum(measured.parts.mean(0))[0]
        evidence.learn(gradient / (2 * scales[0].clamp(max=self.cap).square()), float(exponent), 0.3)
        return final, certificate, float(lacking.estimate) / curvature, spent

    def _measured(self, scales: Tensor, exponent: float) -> tuple[Tensor, Tensor, int]:
        """Measure the ratio well, again if that shows it to be off; return scales, deviations and evaluations."""
        deviations = self._well_sampled(self.sigma(scales))
        if self._off(scales, deviations) <= OFF:
            return scales, deviations, len(deviations)
        scales = self._rescaled(scales, deviations, exponent)
        again = self._well_sampled(self.sigma(scales))
        return scales, again, len(deviations) + len(again)

    def _well_sampled(self, sigma: Tensor) -> Tensor:
        """Sample deviations (draws, 1) for a certificate."""
        found = self.sampled(sigma, CERTIFIED_STDERR, MOST_RATIO)
        most = MORE_RATIO * len(found)
        while len(found) < most and bool(found.any()) and float(relative_stderr(found)) > SURE_STDERR:
            found = torch.cat([found, self.feature.deviations(sigma, min(len(found), most - len(found)))])
        return found

    def met(self, scales: Tensor, exponent: float) -> tuple[Tensor, int]:
        """Rescale until the constraint is met within its error; return the scales and the number of evaluations."""
        spent = 0
        for _ in range(ADJUSTMENTS):
            deviations = self.sampled(self.sigma(scales), RATIO_STDERR, FEW_RATIO)
            spent += len(deviations)
            if self._off(scales, deviations) <= NEARLY_OFF:
                return scales, spent
            scales = self._rescaled(scales, deviations, exponent)
        return self._narrowed(scales, spent)

    def _narrowed(self, scales: Tensor, spent: int) -> tuple[Tensor, int]:
        """Halve the range in which a factor meets the constraint; see :meth:`met`.

        A single tree's deviation grows from nothing to many times the budget within a factor of 2, so that the exponent
        says little.
        """
        low, high, at = -math.inf, math.inf, 0.0
        for _ in range(NARROWINGS):
            moved = scales * math.exp(at)
            deviations = self.sampled(self.sigma(moved), RATIO_STDERR, FEW_RATIO)
            spent += len(deviations)
            if self._off(moved, deviations) <= NEARLY_OFF:
                return moved, spent
            if float(deviations.mean()) > float(self.target):
                high, at = at, at - WIDE if low == -math.inf else (low + at) / 2
            else:
                low, at = at, at + WIDE if high == math.inf else (at + high) / 2
        return scales * math.exp(at), spent

    def _off(self, scales: Tensor, deviations: Tensor) -> float:
        """Excess of the ratio beyond twice its standard error; at the cap the constraint is an inequality."""
        ratio, stderr = (float(each) for each in mean_and_stderr(deviations / self.target))
        off = abs(ratio - 1) if bool(self.free(scales).any()) else ratio - 1
        return off - 2 * stderr

    def _rescaled(self, scales: Tensor, deviations: Tensor, exponent: float) -> Tensor:
        """Rescale to the constraint; scales that are all above the cap start at the cap."""
        start = scales if bool(self.free(scales).any()) else scales.clamp(max=self.cap)
        return rescale_to_constraint(start, deviations, self.target, exponent)

    def sampled(self, sigma: Tensor, stderr: float, most: int) -> Tensor:
        """Sample deviations (draws, 1) until their mean has a relative standard error, or up to a number of draws."""
        most = min(most, max(LEAST_RATIO, RATIO_NUMBERS // self.feature.units))
        found = self.feature.deviations(sigma, START_NOISES)
        # A mean of 0 means that no noise sample has crossed a threshold yet.
        while len(found) < most and (not bool(found.any()) or float(relative_stderr(found)) > stderr):
            found = torch.cat([found, self.feature.deviations(sigma, min(3 * len(found), most - len(found)))])
        return found

    def _moved(self, scales: Tensor, change: Tensor) -> Tensor:
        """Noise scales (1, n) after a change (1, n) of the log scale of all units below the cap."""
        return self.sigma(scales * (self.tie.sum(change) / self.tie.size).exp())

    def _exact(self, deviations: Tensor) -> Certificate:
        """Certificate of scales that are all at the cap, where the constraint is an inequality."""
        ratio, stderr = mean_and_stderr(deviations / self.target)
        none, unknown = torch.zeros_like(ratio), torch.full_like(ratio, torch.nan)
        yes = torch.ones_like(ratio, dtype=torch.bool)
        return Certificate(ratio, stderr, none, unknown, unknown, unknown, saturated=yes, met=yes)

    def _solution(self, scales: Tensor, certificate: Certificate, evaluations: int, rounds: int) -> Solution:
        sigma, counted = self.sigma(scales), self.counted
        return Solution(
            sigma=torch.where(counted, sigma, torch.nan),
            certificate=certificate,
            stderr=torch.where(certificate.saturated, 0.0, self._share(scales) * certificate.scale_stderr),
            capped=((sigma >= self.cap) & counted).sum(1) / counted.sum(1).clamp(min=1),
            dead=torch.zeros_like(certificate.saturated),
            coarse=torch.full_like(certificate.ratio, torch.nan),
            probes=torch.tensor([evaluations]),
            iterations=torch.tensor([rounds]),
        )


def _entropy(search: _Search) -> float:
    return search.entropy


def _are_same(searches: Sequence[_Search]) -> bool:
    """Whether the best two of several searches, in ascending order, have found the same optimum."""
    return searches[-1].entropy - searches[-2].entropy <= SAME


def _alike(searches: Sequence[_Search]) -> int:
    """Number of searches that have found the best optimum."""
    return sum(searches[-1].entropy - each.entropy <= SAME for each in searches)


def _is_better(one: Solution, other: Solution) -> bool:
    """Whether the first solution is better: proven and the other not, or equally proven and of larger entropy."""
    keys = [(bool(each.certificate.met), bool(each.certificate.converged), _mean(each)) for each in (one, other)]
    return keys[0] > keys[1]


def _mean(solution: Solution) -> float:
    return float(solution.sigma.nan_to_num(1.0).log().sum())
