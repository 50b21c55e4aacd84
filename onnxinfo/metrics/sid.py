"""Strict information discarding (SID): the largest input noise that leaves a layer's feature nearly unchanged.

Maximize ``sum_i log sigma_i`` subject to ``E||h(x + sigma*delta) - h(x)||^2 = alpha D`` (the paper's Eq. 2), in three
stages, each of which starts from the result of the one before:

1. the closed form of the linearized layer, from column norms of the Jacobian at x;
2. a Gauss-Newton round: the same with column norms averaged over the noise itself;
3. an ascent along the constraint's true gradient, which, unlike the round, accounts for noise deactivating units.

Norms and gradients are noisy, so their maps are denoised by a Wiener filter before each step. Steps of the ascent are
damped, because the deviation curves more than a linear layer's; old evidence is discounted, because the gradient
changes with the scales. If the feature changes along few directions, a control variate removes most of the noise.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from .certificate import (
    GAP_STDERR,
    LEAST_CURVATURE,
    LEAST_RATIO_NOISES,
    MOST_CURVATURE,
    Certificate,
    Growth,
    certify,
    certify_exact,
    mean_and_stderr,
    missing_entropy,
    relative_stderr,
    rescale_to_constraint,
    sample_until,
    take_trial,
    wider,
)
from .control import Control
from .linearization import Linearization
from .mean_jacobian import control_of
from .measured import Measured, measure, merge, outlier_weights, relative_gradient
from .misplaced import Step, descent_from_cap, leap, wake
from .noise import ENTROPY, Tie, clip_sigma, waterfill
from .noise_precision import DisagreementError, carried, factor_to_float32
from .probe import LINEAR_TOLERANCE, Halves, LayerProbe
from .shrinkage import wiener, wiener_with
from .trial import Sampling

logger = logging.getLogger(__name__)

#: Noise samples of the Gauss-Newton round, and probes per noise sample.
ROUND_NOISES, ROUND_PROBES = 8, 8
#: A feature with at most this many entries and more than this many noise scales per entry tells little about a single
#: scale; unproven samples are solved again by moments of the whole Jacobian, from this many passes of noise samples.
FEW_OUTPUTS, MANY_SCALES, MOMENT_PASSES, MOMENT_NOISES = 4, 1000, 10, 64
#: Noise samples per pass of the ascent, without and with a control variate (which makes each more informative).
PASS_NOISES, CONTROLLED_NOISES = 16, 32
#: Rounds of ascent and certificate: maximum number of steps, and minimum weight of the newest evidence.
ROUNDS = ((24, 0.05), (12, 0.05), (16, 0.05))
#: Maximum number of further rounds, for samples in which the last one found units that were misplaced, and for those
#: that are nearly proven.
EXTRA_ROUNDS = 3
#: Of two unproven results: how much a lower bound is worth, in nats of the value per nat of the bound; and the bound
#: that an unknown one counts as.
GAP_WORTH, UNKNOWN_GAP = 0.1, 5.0
#: Gain in nats, averaged over this many recent passes and the samples, plus its standard error, below which the ascent
#: stops.
PASS_GAIN, RECENT = 0.005, 4
#: Minimum number of steps, unless less is missing; step size, as gain in nats, below which the ascent stops.
LEAST_STEPS, STEP_GAIN = 2, 0.0015
#: Shortfall in nats above which a sample enters another round.
WORTH = 0.02
#: Minimum fraction of the Newton step.
LEAST_DAMPING = 0.06
#: Largest change of log sigma in one step.
MOST_STEP = 0.4
#: Maximum number of noise samples of a trial step, shared by both ends (more with a control variate), and standard
#: error of the curvature at which fewer suffice.
TRIAL_NOISES, CURVATURE_STDERR = 12, 0.07
#: Maximum number of passes of a certificate: for all samples of a block, and for the few that need more; twice as many
#: where passes take half of the noise.
CERTIFICATE_PASSES, MOST_PASSES = 8, 16
#: Noise samples of the linearity test.
LINEAR_NOISES = 8
#: Factor beyond which the constraint is far off, noise samples to detect that, and maximum number of corrections.
FAR, FAR_NOISES, ATTEMPTS = 2.0, 4, 16
#: Range of the exponents of the deviation's growth that these corrections believe.
LEAST_EXPONENT, MOST_EXPONENT = 1.0, 8.0
#: Excess of the constraint that is corrected analytically at the end (above it, its noise is drawn again); attempts.
NEARLY_MET, ADJUSTMENTS = 0.1, 3
#: Excess, beyond twice its standard error, above which the constraint is corrected before the final measurement, and
#: above which it is corrected and measured once more afterwards.
KNOWN_OFF, STILL_OFF = 0.01, 0.03
#: Relative standard error of the deviation at which the constraint is known well enough: by a search, which meets it
#: once more, and by the closed form, which does not.
SCALE_STDERR, CLOSED_STDERR = 0.025, 0.01
#: Noise samples for the deviation's growth under doubled noise: initially, if its error is too large, and that limit.
FEW_NOISES, GROWTH_NOISES, GROWTH_STDERR = 8, 32, 0.1
#: Noise samples for the power of its growth at larger noise.
POWER_NOISES = 64
#: Sizes of the noise that detects rounding; noise samples per size, and in total if the few exceed the linearization by
#: more than a smooth layer would.
SMALL, FEW_SMALL_NOISES, SMALL_NOISES, MOST_SMOOTH = (0.1, 0.3), 4, 24, 2.0
#: Smallest share of the deviation predicted by the gradient at which a feature still follows it, and the result of
#: ``Problem.rounding`` for a feature that does not.
LEAST_SMOOTH, FLAT = 0.25, 2.0
#: Share of the fine noise samples that must not move a feature at all for it to be flat.
MOSTLY = 0.75
#: Sizes of the noise that tells bends from jumps, noise samples per size, initially and in total, and the tolerance. A
#: smooth layer is linear at both sizes; jumps, whose share of the deviation changes with the size, hardly look so.
FINE, FEW_FINE_NOISES, FINE_NOISES, FINE_TOLERANCE = (0.001, 0.01), 32, 256, 0.25
#: Budgets tried if rounding causes more than half of the deviation, in units of the given one.
GROWN_BUDGETS = (2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)
#: Blocks with fewer units than this, over all samples, get up to eight times as many noise samples: they are cheap
#: there, and errors average out less over few units.
MANY_UNITS = 8192
#: Samples with so many units get by with half of the noise per pass, and of the probes: their maps are smooth over more
#: units, so that the filter removes more of the noise.
PLENTY_OF_UNITS = 2**16


@dataclass(frozen=True)
class Solution:
    """Noise scales of a block of cells, with their certificate.

    Attributes
    ----------
    sigma
        Noise scales in standardized units, (S, n).
    certificate
        Certificate, measured with fresh noise.
    stderr
        Monte Carlo standard error of the mean entropy, nats, (S,).
    capped
        Fraction of units at the cap, (S,).
    dead
        Samples without a budget at this layer, (S,) bool.
    coarse
        Factor by which the budget must grow until rounding causes less than half of the feature's deviation, (S,); at
        most 1 if it already does, infinite if no tried budget suffices, NaN without a budget.
    probes, iterations
        Numbers of vector-Jacobian products and of updates of sigma, (S,).
    """

    sigma: Tensor
    certificate: Certificate
    stderr: Tensor
    capped: Tensor
    dead: Tensor
    coarse: Tensor
    probes: Tensor
    iterations: Tensor

    @property
    def entropy(self) -> Tensor:
        """Pixel-level SID ``H_i = log sigma_i + 0.5 log(2 pi e)`` in nats, (S, n)."""
        return self.sigma.log() + ENTROPY


def solve(problem: Problem) -> Solution:
    """Solve the SID of one layer on a block of samples."""
    return _solution(problem, *problem.solved())


def solve_by(problem: Problem, ascend: Callable[[], Tensor], steps: int) -> Solution:
    """Solve the SID of one layer with another ascent, whose scales get the same certificate as the solver's own.

    Parameters
    ----------
    problem
        The layer and its constraint.
    ascend
        Returns uncapped scales per group, (S, groups).
    steps
        Number of updates of sigma that it takes.
    """
    certified, *_ = problem.certify(problem.feasible(ascend()), None, [])
    return _solution(problem, _Found.of(certified, steps), problem.limits(certified.scales)[0])


def _solution(problem: Problem, found: _Found, coarse: Tensor) -> Solution:
    start, counted, dead = problem.start, problem.counted, problem.dead()
    error = problem.target_stderr / 2
    sigma = problem.sigma(found.scales)
    # The constraint determines the scales of the units below the cap only.
    share = problem.free(found.scales).sum(1) / counted.sum(1).clamp(min=1)
    stderr = torch.where(share > 0, share * (error.square() + found.error.square()).sqrt(), 0.0)
    # Without a value, there is nothing that a gap could bound.
    gap = torch.where(dead, torch.nan, found.certificate.gap)
    return Solution(
        sigma=torch.where(dead[:, None] | ~counted, torch.nan, sigma),
        certificate=dataclasses.replace(found.certificate, gap=gap),
        stderr=torch.where(dead, torch.nan, stderr),
        capped=((sigma >= problem.cap) & counted).sum(1) / counted.sum(1).clamp(min=1),
        dead=dead,
        coarse=torch.where(dead, torch.nan, coarse),
        probes=start.probes + problem.feature.n_vjps + found.probes,
        iterations=1 + found.iterations,
    )


@dataclass(frozen=True)
class _Certified:
    """Scales (S, groups) at the met constraint, the error of their logarithm (S,), and the shortfall (S,).

    The scales of another round are those after the change of their logarithm, (S, groups). The entropy, (S,), is the
    mean of ``log sigma`` over the counted units. Samples are torn, (S,) bool, if they are known to have several optima.
    """

    scales: Tensor
    certificate: Certificate
    error: Tensor
    shortfall: Tensor
    change: Tensor
    entropy: Tensor
    torn: Tensor


@dataclass
class _Found:
    """Best certified result per sample, and the work spent on each, (S,)."""

    scales: Tensor
    certificate: Certificate
    error: Tensor
    entropy: Tensor
    probes: Tensor
    iterations: Tensor
    torn: Tensor

    @classmethod
    def nothing(cls, scales: Tensor) -> _Found:
        unknown, none = scales.new_full(scales.shape[:1], torch.nan), torch.zeros(len(scales), dtype=torch.long)
        no = torch.zeros_like(unknown, dtype=torch.bool)
        certificate = Certificate(unknown, unknown, unknown, unknown, unknown, unknown, saturated=no, met=no)
        return cls(scales, certificate, unknown, unknown, none, none, no)

    @classmethod
    def of(cls, certified: _Certified, steps: int) -> _Found:
        """Certified results of all samples at once; the probes are read from the feature."""
        none = torch.zeros(len(certified.scales), dtype=torch.long)
        known = certified.scales, certified.certificate, certified.error, certified.entropy
        return cls(*known, none, none + steps, certified.torn)

    def tear(self, index: Tensor, torn: Tensor) -> None:
        """Note which samples of the index are known to have several optima, (count,) bool: their gaps are unknown."""
        self.torn = self.torn.index_copy(0, index, self.torn[index] | torn)
        open_ = self.torn & ~self.certificate.saturated
        gap = torch.where(open_, torch.nan, self.certificate.gap)
        self.certificate = dataclasses.replace(self.certificate, gap=gap)

    def put(self, index: Tensor, certified: _Certified, probes: int, steps: int) -> None:
        """Keep proven results, and of these the higher one, else what is higher or better known; add the work."""
        self.tear(index, certified.torn)
        before, now = self.certificate.at(index), certified.certificate
        gained = certified.entropy - self.entropy[index]
        known = (before.gap.nan_to_num(UNKNOWN_GAP) - now.gap.nan_to_num(UNKNOWN_GAP)) * GAP_WORTH
        better = torch.where(before.converged & now.converged, gained >= 0, gained + known >= 0)
        better = torch.where(before.converged ^ now.converged, now.converged, better)
        better = torch.where(before.met & now.met, better, ~before.met)
        self.take(index, certified, better, probes, steps)

    def take(self, index: Tensor, certified: _Certified, better: Tensor, probes: int, steps: int) -> None:
        """Keep those results that are better, a mask over the index, and add the work."""
        now, taken = certified.certificate, index[better]
        self.scales = self.scales.index_copy(0, taken, certified.scales[better])
        self.error = self.error.index_copy(0, taken, certified.error[better])
        self.entropy = self.entropy.index_copy(0, taken, certified.entropy[better])
        self.certificate = self.certificate.replaced(taken, now.at(better))
        self.probes, self.iterations = self.probes.clone(), self.iterations.clone()
        self.probes[index.cpu()] += probes
        self.iterations[index.cpu()] += steps


@dataclass
class _Ascent:
    """State of an ascent: scales (S, groups), their change since its start, and evidence (S, n) of the optimum.

    The curvature, (S,), is that of the deviation along a step; 1 for a linear layer. The power of passes, (passes, S),
    is the squared norm of their gradient in units of its mean; NaN at samples that they did not measure. Samples have
    taken different numbers of steps, (S,), since they take none in passes in which their constraint is far off.
    """

    scales: Tensor
    correction: Tensor
    evidence: tuple[Tensor, Tensor]
    curvature: Tensor
    power: Tensor
    steps: Tensor

    @classmethod
    def begin(cls, scales: Tensor, tie: Tie) -> _Ascent:
        none, one = torch.zeros_like(tie.expand(scales)), scales.new_ones(len(scales))
        power, steps = scales.new_empty(0, len(scales)), torch.zeros_like(one, dtype=torch.long)
        return cls(scales, torch.zeros_like(scales), (none, none), one, power, steps)

    def at(self, index: Tensor) -> _Ascent:
        evidence = self.evidence[0][index], self.evidence[1][index]
        scales, correction, curvature = self.scales[index], self.correction[index], self.curvature[index]
        return _Ascent(scales, correction, evidence, curvature, self.power[:, index], self.steps[index])

    def put(self, index: Tensor, part: _Ascent) -> None:
        self.scales = self.scales.index_copy(0, index, part.scales)
        self.correction = self.correction.index_copy(0, index, part.correction)
        first, second = (kept.index_copy(0, index, new) for kept, new in zip(self.evidence, part.evidence, strict=True))
        self.curvature = self.curvature.index_copy(0, index, part.curvature)
        new = self.power.new_full((len(part.power) - len(self.power), len(self.scales)), torch.nan)
        self.power = torch.cat([self.power, new]).index_copy(1, index, part.power)
        self.evidence, self.steps = (first, second), self.steps.index_copy(0, index, part.steps)

    @property
    def damping(self) -> Tensor:
        """Fraction of the Newton step, (S,): a full step overshoots if the layer curves more than a linear one."""
        return (1 / self.curvature).clamp(LEAST_DAMPING, 1.0)

    @property
    def is_stiff(self) -> bool:
        """Whether steps are short because the layer curves much, and not because little is left to gain."""
        return bool((self.curvature > MOST_CURVATURE).any())

    def step(self, problem: Problem, passes: Sequence[Measured], memory: float) -> float:
        """Add passes at the current scales to the evidence of the optimum, relative to the start, and step there.

        Returns
        -------
        float
            Mean square change of ``log sigma``: to second order, an upper bound of the step's gain in nats.
        """
        free = problem.free(self.scales)
        for fresh in passes:
            self._learn(relative_gradient(fresh.halves, free), problem.tie.expand(self.correction), memory)
        change = (problem.denoised(*self.evidence) - self.correction).clamp(-MOST_STEP, MOST_STEP)
        found = merge(passes)
        self.scales = rescale_to_constraint(
            self.scales * change.exp(), found.deviations, problem.target, found.exponent(free)
        )
        self.correction = self.correction + change
        return float(change.square().mean())

    def _learn(self, relative: Halves, correction: Tensor, memory: float) -> None:
        first = torch.where((self.steps == 1)[:, None], correction, 0.0)
        self.curvature = torch.maximum(self.curvature, _overshot(relative.mean, first))
        self.power = torch.cat([self.power, (1 + relative.mean).square().sum(1)[None]])
        weight = (2 / (self.steps + 2)).clamp(min=memory)[:, None] * outlier_weights(self.power)[-1:].T
        damping = self.damping[:, None]
        first, second = (
            kept + weight * (correction - damping * half / 2 - kept)
            for kept, half in zip(self.evidence, (relative.first, relative.second), strict=True)
        )
        self.evidence, self.steps = (first, second), self.steps + 1


@dataclass(frozen=True)
class Problem:
    """SID of one layer as an optimization problem; ``scales`` are uncapped, per group, (S, groups).

    Attributes
    ----------
    feature
        The layer's feature on S samples.
    start
        The layer's linearization at these samples.
    target
        ``alpha D``, (S,); 1 at samples without a budget.
    tie, cap
        Groups of units that share sigma, and ``sigma_max`` in standardized units.
    shape
        Shape of one sample, for the denoising of maps.
    counted
        Counted units, (S, n) bool. The others get no noise, and their entropy is NaN.
    without_budget
        Samples at which small noise does not change the feature, (S,) bool.
    target_stderr
        Relative standard error of the target, (S,).
    passes
        Factor on the noise samples, and number of times that the last round may be repeated.
    begun
        Noise scales of an earlier solution, (S, n), that the search starts from; infinite at the cap, NaN if unknown.
    """

    feature: LayerProbe
    start: Linearization
    target: Tensor
    tie: Tie
    cap: float
    shape: tuple[int, ...]
    counted: Tensor
    without_budget: Tensor
    target_stderr: Tensor
    passes: int = 1
    begun: Tensor | None = None

    @classmethod
    def of(
        cls,
        feature: LayerProbe,
        start: Linearization,
        target: Tensor,
        tie: Tie,
        cap: float,
        shape: Sequence[int],
        units: Tensor | None = None,
        target_stderr: Tensor | None = None,
    ) -> Problem:
        """State the problem.

        ``target`` is the unmodified ``alpha D``, ``units`` the counted units or None for all, and ``target_stderr`` the
        relative error of the target, None for that of each sample's own D.
        """
        if target_stderr is None:
            target_stderr = start.normalizer_stderr / start.normalizer.clamp(min=torch.finfo(target.dtype).tiny)
        counted = torch.ones_like(start.column_norms, dtype=torch.bool) if units is None else units
        none = ~(target > 0)
        target = torch.where(none, 1.0, target)
        return cls(feature, start, target, tie.counting(counted), cap, tuple(shape), counted, none, target_stderr)

    def dead(self) -> Tensor:
        """Samples without a budget that react to larger noise, (S,) bool; for the others all units are at the cap."""
        if not bool(self.without_budget.any()):
            return self.without_budget
        at_cap = self.cap * self.counted.to(self.start.column_norms)
        return self.without_budget & (self.feature.deviations(at_cap, LINEAR_NOISES).sum(0) > 0)

    @property
    def effort(self) -> int:
        """Factor on the number of noise samples, also if there are few units."""
        return self.passes * min(8, max(1, MANY_UNITS // (self.tie.units * self.feature.samples)))

    def thrift(self, control: Control | None = None) -> int:
        """Divisor of the noise of a pass, and of the probes of the Gauss-Newton round: 2 if there are many units.

        1 with a control variate.
        """
        return 2 if self.tie.units >= PLENTY_OF_UNITS and control is None else 1

    @property
    def is_thin(self) -> bool:
        """Whether few outputs depend on so many noise scales that a pass tells little about any of them."""
        outputs = self.feature.center.shape[1]
        return outputs <= FEW_OUTPUTS and self.tie.groups > MANY_SCALES * outputs

    def sigma(self, scales: Tensor) -> Tensor:
        """Noise scale of every unit, (S, n); zero at excluded units."""
        return clip_sigma(scales, self.tie, self.cap) * self.counted

    def free(self, scales: Tensor) -> Tensor:
        """Counted units not at the cap, (S, n) bool; units of unknown scale are among them."""
        return ~(self.tie.expand(scales) >= self.cap) & self.counted

    def solved(self) -> tuple[_Found, Tensor]:
        """The closed form if it holds, else the result of Gauss-Newton round and search; and the coarseness."""
        scales = waterfill(self.start.column_norms * self.counted, self.target, self.tie, self.cap)
        found = self.closed(scales) if self.is_linear(scales) else None
        if found is not None:
            return found, self.coarseness(found.scales)
        scales = self.feasible(scales)
        try:
            self.feature.differences = carried(self.feature, self.sigma(scales))
            return self.searched(scales)
        except DisagreementError as error:
            logger.debug("noise in float32 after all: %s", error)
            self.feature.differences = None
            return self.searched(scales)
        finally:
            self.feature.differences = None

    def searched(self, scales: Tensor) -> tuple[_Found, Tensor]:
        """Result of Gauss-Newton round and search from feasible scales (S, groups); and the coarseness."""
        scales = self.gauss_newton(scales) if self.begun is None else self.feasible(self.resumed(scales, self.begun))
        coarse, bent = self.limits(scales)
        if bool(bent.any()):
            # From equal scales, each unit's grows until the passes see what it wakes up.
            index = bent.nonzero().flatten()
            anew = self.at(index)
            scales = scales.index_copy(0, index, anew.feasible(anew.uniform()))
        found = self.search(scales, coarse > 1)
        if self.is_thin:
            self.improve(found, coarse > 1)
        return found, coarse

    def uniform(self) -> Tensor:
        """One scale for all groups of a sample, with which a linear layer meets the constraint, (S, groups)."""
        norms = (self.start.column_norms * self.counted).sum(1)
        scale = (self.target / norms).sqrt().clamp(max=self.cap)
        return scale[:, None].expand(-1, self.tie.groups)

    def resumed(self, scales: Tensor, begun: Tensor) -> Tensor:
        """Return the scales of an earlier solution, (S, groups); those of the closed form where it has none.

        Parameters
        ----------
        scales
            The closed form's scales, (S, groups).
        begun
            The earlier scales, (S, n), infinite at the cap and NaN where unknown.
        """
        closed = self.tie.expand(scales)
        known = torch.where(begun.isinf(), closed.clamp(min=self.cap), begun)
        found = torch.where(known.isfinite() & (known > 0), known, closed)
        # Only counted units have a say in the scale of their group.
        return (self.tie.sum(torch.where(self.counted, found.log(), 0.0)) / self.tie.size).exp()

    def is_linear(self, scales: Tensor) -> bool:
        """Whether the closed form is the solution: exact norms, and at each sample a feature linear in the noise."""
        exact = not bool(self.start.normalizer_stderr.any())
        return exact and bool(self.feature.is_linear(self.sigma(scales), LINEAR_NOISES).all())

    def closed(self, scales: Tensor) -> _Found | None:
        """The closed form with its certificate, or None if fresh noise contradicts it.

        The constraint is measured at the closed form's own scales: adjusting them to noise would only make them worse.
        """
        sigma, free = self.sigma(scales), self.free(scales)
        # For a linear layer with few outputs or units, the control variate removes all noise from the ratio.
        control = control_of(self.feature, sigma)
        found = self.measured(scales, control)
        deviations = sample_until(
            self.feature, sigma, found.deviations, self.effort, wanted=CLOSED_STDERR, control=control
        )
        certificate = certify_exact(found.exponent(free), deviations, self.target, free, self.growth(scales))
        ratio, stderr, saturated = certificate.ratio, certificate.ratio_stderr, certificate.saturated
        off = torch.where(saturated, (ratio - 1).clamp(min=0), (ratio - 1).abs())
        # Samples without a budget have no constraint to meet.
        off = torch.where(self.without_budget, 0.0, off)
        if not bool((off <= 4 * stderr.nan_to_num(0.0) + 2 * LINEAR_TOLERANCE).all()):
            return None
        none = torch.zeros_like(ratio)
        change, torn = torch.zeros_like(scales), torch.zeros_like(saturated)
        return _Found.of(_Certified(scales, certificate, none, none, change, none, torn), 0)

    def feasible(self, scales: Tensor) -> Tensor:
        """Shrink or grow scales until the constraint is met up to a factor.

        The closed form knows the layer only at the sample itself; it may miss units that noise activates.
        """
        live, exponent = torch.arange(len(scales), device=scales.device), torch.full_like(self.target, 2.0)
        before, moved = torch.zeros_like(exponent), torch.zeros_like(exponent)
        for attempt in range(ATTEMPTS):
            problem, here = self.at(live), scales[live]
            deviations = problem.feature.deviations(problem.sigma(here), problem.effort * FAR_NOISES)
            far, over = problem.far(here, deviations)
            if not bool(far.any()):
                break
            now = deviations.mean(0).clamp(min=torch.finfo(here.dtype).tiny).log()
            if attempt:
                # Where noise shifts a feature, the deviation grows with the fourth power of the noise.
                slope = (now - before) / moved
                exponent = torch.where(slope > LEAST_EXPONENT, slope.clamp(max=MOST_EXPONENT), exponent)
            # Units at the cap are included in the shrinking.
            bounded = torch.where(over[:, None], here.clamp(max=self.cap), here)
            nearer = rescale_to_constraint(bounded, deviations, problem.target, exponent)
            scales = scales.index_copy(0, live[far], nearer[far])
            live, exponent, before = live[far], exponent[far], now[far]
            moved = (nearer / bounded)[far].log().nanmean(1)
        return scales

    def far(self, scales: Tensor, deviations: Tensor) -> tuple[Tensor, Tensor]:
        """Samples whose constraint is off by a large factor, and those that exceed it, (S,) bool."""
        ratio = deviations.mean(0) / self.target
        over, under = ratio > FAR, (ratio < 1 / FAR) & self.free(scales).any(1)
        return over | under, over

    def gauss_newton(self, scales: Tensor) -> Tensor:
        """Gauss-Newton: ``sigma_i^2`` inverse to ``E||J_i(x + sigma*delta)||^2`` at the given, feasible sigma.

        The deviation measured at this sigma, relative to that predicted from the norms, sets the size of the new one.
        """
        halves, deviations = self.column_norms(scales)
        norms = self._smoothed(halves) * self.counted
        foretold = (self.sigma(scales).square() * norms).sum(1)
        return rescale_to_constraint(waterfill(norms, self.target, self.tie, self.cap), deviations, foretold)

    def improve(self, found: _Found, coarse: Tensor) -> None:
        """Solve unproven samples again by moments of the Jacobian; keep what is proven, or higher, and met."""
        live = (~found.certificate.converged & ~coarse & self.free(found.scales).any(1)).nonzero().flatten()
        if not len(live):
            return
        problem = self.at(live)
        scales = problem.moments_round(problem.feasible(found.scales[live]))
        control = control_of(problem.feature, problem.sigma(scales))
        certified, *_ = problem.certify(scales, control, [], MOST_PASSES, found.torn[live])
        found.tear(live, certified.torn)
        before, now = found.certificate.at(live), certified.certificate
        ratio = problem.sigma(certified.scales) / problem.sigma(found.scales[live])
        gained = ratio.log().nan_to_num(0.0).sum(1)
        better = now.met & (~before.met | now.converged | (gained > 0))
        found.take(live, certified, better, problem.feature.n_vjps, MOMENT_PASSES)

    def moments_round(self, scales: Tensor) -> Tensor:
        """Repeat the Gauss-Newton round with column norms from the Jacobian's moments, averaged over all passes.

        Each pass goes half of the way, because the moments change with the scales.
        """
        moments = None
        for step in range(MOMENT_PASSES):
            sigma = self.sigma(scales)
            fresh = self.feature.jacobian_moments(sigma, self.passes * MOMENT_NOISES)
            moments = fresh if moments is None else moments.blended(fresh, 4 / (step + 4))
            norms = moments.column_norms(sigma) * self.counted
            foretold = (sigma.square() * norms).sum(1)
            found = waterfill(norms, self.target, self.tie, self.cap)
            found = rescale_to_constraint(found, fresh.deviation[None], foretold)
            halfway = (scales * found).sqrt()
            scales = self.feasible(torch.where(halfway.isfinite() & (step > 0), halfway, found))
        return scales

    def column_norms(self, scales: Tensor) -> tuple[Halves, Tensor]:
        """Squared column norms under noise, and the deviations (draws, S)."""
        probes = ROUND_PROBES // self.thrift()
        return self.feature.column_norms(self.sigma(scales), self.effort * ROUND_NOISES, probes)

    def _smoothed(self, norms: Halves) -> Tensor:
        """Squared column norms, denoised in the log domain with the help of those at x."""
        first, second, at_rest = map(_logarithms, (norms.first, norms.second, self.start.column_norms))
        level = (first + second).mean(1, keepdim=True) / 2
        at_rest = at_rest - at_rest.mean(1, keepdim=True)
        return (wiener_with(first - level, second - level, at_rest, self.shape) + level).exp()

    def search(self, scales: Tensor, coarse: Tensor) -> _Found:
        """Ascend and certify in rounds; only samples with an insufficient certificate enter the next round.

        Parameters
        ----------
        scales
            Initial scales, (S, groups).
        coarse
            Samples whose budget is below the layer's rounding, (S,) bool: only their constraint is met.
        """
        state = _Ascent.begin(scales, self.tie)
        found = _Found.nothing(scales)
        limited, live = coarse.nonzero().flatten(), (~coarse).nonzero().flatten()
        if len(limited):
            problem = self.at(limited)
            found.put(limited, problem.certify(scales[limited], None, [], 1)[0], problem.feature.n_vjps, 0)
        control = control_of(self.feature, self.sigma(scales)) if len(live) else None
        usual = len(ROUNDS) + self.passes - 1
        for number in range(usual + EXTRA_ROUNDS):
            if not len(live):
                break
            steps, memory = ROUNDS[min(number, len(ROUNDS) - 1)]
            problem = self.at(live)
            part = state.at(live)
            model = None if control is None else control.at(live)
            most = min(MOST_PASSES, CERTIFICATE_PASSES * len(scales) // len(live))
            taken, passes = problem.ascend(part, model, steps, memory)
            certified, curvature, passes = problem.certify(part.scales, model, passes, most, found.torn[live])
            logger.debug(
                "%d ascent steps for %d samples; control variate: %s, curvature %.2f, shortfall %.4f nats",
                *(taken, len(live), control is not None, float(curvature.mean()), float(certified.shortfall.mean())),
            )
            part.curvature = torch.maximum(part.curvature, curvature)
            found.put(live, certified, problem.feature.n_vjps, taken)
            # The passes of the certificate are the first evidence of another round.
            part.scales = certified.scales
            part.step(problem, passes, memory)
            part.scales = part.scales * certified.change.exp()
            state.put(live, part)
            left = ~certified.certificate.converged | (certified.shortfall > WORTH)
            if number + 1 >= usual:
                nearly = certified.certificate.nearly_proven | found.certificate.at(live).nearly_proven
                left &= certified.certificate.met & (certified.change.any(1) | nearly)
            live = live[left & self.free(state.scales)[live].any(1)]
        return found

    def at(self, index: Tensor) -> Problem:
        """The problem for a subset of the samples."""
        start, target, counted = self.start.at(index), self.target[index], self.counted[index]
        feature, tie, none = self.feature.at(index), self.tie.at(index), self.without_budget[index]
        error = self.target_stderr[index]
        return Problem(feature, start, target, tie, self.cap, self.shape, counted, none, error, self.passes)

    def ascend(self, state: _Ascent, control: Control | None, steps: int, memory: float) -> tuple[int, list[Measured]]:
        """Follow the true gradient while it promises a gain.

        Returns
        -------
        tuple
            Number of passes that were followed by a step, and the measurements at the final scales, if any.
        """
        gains: list[Tensor] = []
        for step in range(steps):
            fresh, free = self.measured(state.scales, control), self.free(state.scales)
            far = self.far(state.scales, fresh.deviations)[0]
            gain = torch.stack(fresh.shortfall(free, self.counted))
            gains.append(torch.where(far, torch.nan, gain))
            if not bool(far.any()):
                if _promised(gains[-RECENT:]) < PASS_GAIN:
                    # This noise is independent of the scales.
                    return step, [fresh]
                moved = state.step(self, [fresh], memory)
                if moved < STEP_GAIN and not state.is_stiff and int(state.steps.min()) >= LEAST_STEPS:
                    return step + 1, []
                continue
            self.step_near(state, fresh, far, memory)
        return steps, []

    def step_near(self, state: _Ascent, fresh: Measured, far: Tensor, memory: float) -> None:
        """Step at the samples that nearly meet their constraint; only meet it at the others."""
        near, off = (~far).nonzero().flatten(), far.nonzero().flatten()
        if len(near):
            part = state.at(near)
            part.step(self.at(near), [fresh.at(near)], memory)
            state.put(near, part)
        state.scales = state.scales.index_copy(0, off, self.at(off).feasible(state.scales[off]))

    def measured(self, scales: Tensor, control: Control | None) -> Measured:
        """Measure one pass of fresh noise; units that share a scale share their gradient."""
        draws = self.effort * (PASS_NOISES // self.thrift() if control is None else CONTROLLED_NOISES)
        found = measure(self.feature, self.sigma(scales), draws, control)
        if self.tie.groups == self.tie.units:
            return found
        parts = torch.stack([self.tie.expand(self.tie.sum(part) / self.tie.size) for part in found.parts])
        return Measured(parts, found.deviations)

    def certify(
        self,
        scales: Tensor,
        control: Control | None,
        passes: list[Measured],
        most: int = CERTIFICATE_PASSES,
        torn: Tensor | None = None,
    ) -> tuple[_Certified, Tensor, list[Measured]]:
        """Measure scales with fresh noise until the certificate is precise enough, and meet the constraint exactly.

        Parameters
        ----------
        scales
            Noise scales, (S, groups).
        control
            Linear model of the layer.
        passes
            Earlier measurements of these scales.
        most
            Maximum number of passes, if they have all of their noise.
        torn
            Samples that are known to have several optima, (S,) bool.

        Returns
        -------
        tuple
            The certified result, the curvature of the deviation, (S,), and the passes that it is based on.
        """
        passes, adjusted = passes or [self.measured(scales, control)], 0
        while True:
            found, free = merge(passes), self.free(scales)
            if bool((self.known_off(scales, found.deviations) > NEARLY_MET).any()) and adjusted < ADJUSTMENTS:
                scales = rescale_to_constraint(scales, found.deviations, self.target, found.exponent(free))
                passes, adjusted = [], adjusted + 1
            elif len(passes) >= most * self.thrift(control) or self.known(found, free):
                break
            passes.append(self.measured(scales, control))
        found, free = merge(passes), self.free(scales)
        # All scales of a sample change by a few percent, which leaves the relative gradient unchanged.
        near, deviations = self.met(scales, found, free)
        draws = self.effort * TRIAL_NOISES if control is None else 2 * self.effort * CONTROLLED_NOISES
        moved = partial(self.moved, near)
        bound = free.any(1)
        sampling = Sampling(draws, lambda trial: float(trial.curvature_stderr[bound].nanmean()) <= CURVATURE_STDERR)
        trial, fresh = take_trial(self.feature, found, free, self.counted, self.shape, moved, sampling, control)
        # With a control variate, one pass determines the deviation better than the trial's noise.
        if control is None or not len(deviations):
            deviations = torch.cat([deviations, fresh])
        scales, deviations = self.still_met(near, deviations, found.exponent(free), control)
        deviations = deviations * factor_to_float32(self.feature, self.sigma(scales), self.effort)
        exponent, bound = found.exponent(free), free.any(1)
        final = torch.where(bound[:, None], rescale_to_constraint(scales, deviations, self.target, exponent), scales)
        step = wake(self.feature, found, free, self.counted, partial(self.moved, scales), draws, control)
        to_cap, chosen = leap(self.feature, scales, self.tie, self.cap, self.counted, self.target, exponent)
        step, torn = step.or_else(to_cap), chosen if torn is None else torn | chosen
        room = (self.cap / self.sigma(final)).log()
        lacking = missing_entropy(found, free, self.counted, self.shape, step.missing, room)
        measured = Measured(found.parts, deviations)
        growth = self.explained(Growth(self.growth(scales), measured.growth(free)), scales, deviations.mean(0))
        certificate = certify(measured, self.target, free, lacking, trial, growth, torn)
        error = torch.where(bound, certificate.ratio_stderr / exponent, 0.0)
        curvature = trial.curvature.clamp(min=LEAST_CURVATURE)
        shortfall = torch.maximum(lacking.estimate / curvature.clamp(max=MOST_CURVATURE), lacking.least)
        entropy = torch.where(self.counted, self.sigma(final).log(), 0.0).sum(1) / self.counted.sum(1).clamp(min=1)
        change = self.changed(final, found, step)
        return _Certified(final, certificate, error, shortfall, change, entropy, torn), curvature, passes

    def changed(self, scales: Tensor, found: Measured, step: Step) -> Tensor:
        """Change of the log scales (S, groups) that moves misplaced units to where they belong."""
        found_down = descent_from_cap(found, self.free(scales), self.counted, self.shape)
        down, up = (self.tie.sum(change) / self.tie.size for change in (found_down, step.useful))
        return torch.where(down < 0, down + (self.cap / scales).log(), up)

    def known(self, found: Measured, free: Tensor) -> bool:
        """Whether the gap is precise enough, on average over the samples."""
        return float(found.shortfall(free, self.counted)[1].mean()) * wider(len(found.parts)) <= GAP_STDERR

    def moved(self, scales: Tensor, change: Tensor) -> Tensor:
        """Noise scales (S, n) after changing the logarithm of all units below the cap by (S, n)."""
        return self.sigma(scales * (self.tie.sum(change) / self.tie.size).exp())

    def known_off(self, scales: Tensor, deviations: Tensor) -> Tensor:
        """Excess of the constraint beyond twice its standard error, (S,); negative if no unit is free."""
        ratio, stderr = mean_and_stderr(deviations / self.target)
        return torch.where(self.free(scales).any(1), (ratio - 1).abs() - 2 * stderr, -1.0)

    def met(self, scales: Tensor, found: Measured, free: Tensor) -> tuple[Tensor, Tensor]:
        """Scales that meet the constraint within its known error, and the measurements of their deviations."""
        if not bool((self.known_off(scales, found.deviations) > KNOWN_OFF).any()):
            return scales, found.deviations
        return rescale_to_constraint(scales, found.deviations, self.target, found.exponent(free)), found.deviations[:0]

    def still_met(
        self, scales: Tensor, deviations: Tensor, exponent: Tensor, control: Control | None
    ) -> tuple[Tensor, Tensor]:
        """Add noise until the deviations are precise; meet the constraint once more if it is still off."""
        # The deviation of m outputs varies by a factor of up to sqrt(2 / m).
        effort = self.effort * max(1, FEW_OUTPUTS // self.feature.center.shape[1])
        sigma, more = self.sigma(scales), partial(sample_until, self.feature, effort=effort, control=control)
        deviations = more(sigma, deviations, wanted=SCALE_STDERR)
        if not bool((self.known_off(scales, deviations) > STILL_OFF).any()):
            return scales, deviations
        scales = rescale_to_constraint(scales, deviations, self.target, exponent)
        sigma = self.sigma(scales)
        if control is None:
            fresh = self.feature.deviations(sigma, LEAST_RATIO_NOISES)
        else:
            fresh = self.feature.controlled_deviations(sigma, LEAST_RATIO_NOISES, control)
        return scales, more(sigma, fresh, wanted=SCALE_STDERR)

    def coarseness(self, scales: Tensor) -> Tensor:
        """Factor by which the budget must grow until rounding causes less than half of the deviation, (S,).

        At most 1 if it already does. Larger budgets are tried with the closed form's scales.
        """
        found = self.rounding(self.sigma(scales), 1.0)
        closed = self.sigma(waterfill(self.start.column_norms * self.counted, self.target, self.tie, self.cap))
        for factor in GROWN_BUDGETS:
            open_ = found > 1
            if not bool(open_.any()):
                break
            enough = open_ & (self.rounding((closed * factor**0.5).clamp(max=self.cap), factor) <= 1)
            found = torch.where(enough, -factor, found)
        # Results are stored as negative numbers so that they are not tried again.
        return torch.where(found > 1, torch.inf, found.abs())

    def rounding(self, sigma: Tensor, factor: float) -> Tensor:
        """``2 B^2 / (A f alpha D)`` of noise scales (S, n) for f times the budget, (S,): 1 if rounding causes half.

        A smooth feature's deviation is ``A t^2`` for small noise of size t. Jumps, mostly from rounding, add ``B t``,
        since noise crosses a nearby threshold in proportion to its size. B is measured with smaller noise, A is taken
        from the linearized layer; both terms are equal at ``t = B / A``, where the deviation is ``2 B^2 / A``. Steps so
        wide that smaller noise crosses none count as ``FLAT``.
        """
        smooth = (sigma.square() * self.start.column_norms).sum(1)
        found = torch.zeros_like(smooth)
        for size in SMALL:
            small = self.small(sigma, size, smooth)
            jumps = (small - size**2 * smooth).clamp(min=0) / size
            share = 2 * jumps.square() / (smooth * self.target * factor).clamp(min=torch.finfo(smooth.dtype).tiny)
            # A layer that saturates moves less than its linearization predicts; none of that is rounding.
            found = torch.maximum(found, torch.where(small > MOST_SMOOTH * size**2 * smooth, share, 0.0))
        still = small < LEAST_SMOOTH * size**2 * smooth
        return torch.where(self.is_flat(still, sigma, smooth), FLAT, found)

    def is_flat(self, still: Tensor, sigma: Tensor, smooth: Tensor) -> Tensor:
        """Samples, of those that ``still`` (S,) singles out, whose feature does not follow its gradient, (S,) bool.

        Between two steps, fine noise does not move the feature at all, though the gradient of rounding is that of the
        identity. Features that saturate, or bend sharply at the sample, also move less than predicted, but they move.
        """
        if not bool(still.any()):
            return still
        fine = self.feature.in_float32().deviations(FINE[0] * sigma, FEW_FINE_NOISES)
        return still & ((fine == 0).float().mean(0) >= MOSTLY)

    def limits(self, scales: Tensor) -> tuple[Tensor, Tensor]:
        """Coarseness (S,), at most 1 where the layer only bends, and where it does, (S,) bool."""
        coarse = self.coarseness(scales)
        bent = self.bent(scales, coarse > 1)
        return torch.where(bent, 1.0, coarse), bent

    def bent(self, scales: Tensor, coarse: Tensor) -> Tensor:
        """Samples that seem limited by rounding, (S,) bool, but whose feature moves as predicted under fine noise.

        Units that only larger noise switches on, or gates that it tips over, exceed the linearization like jumps do.
        But under fine noise their part of the deviation vanishes beside the linear one, and that of jumps exceeds it.
        """
        index = coarse.nonzero().flatten()
        for size in FINE:
            if not len(index):
                break
            here = self.at(index)
            index = index[here.is_linear_at(size, here.sigma(scales[index]))]
        return torch.zeros_like(coarse).index_fill(0, index, True)

    def is_linear_at(self, size: float, sigma: Tensor) -> Tensor:
        """Whether noise of a size relative to sigma (S, n) moves the feature as linearized, (S,) bool."""
        linear = size**2 * (sigma.square() * self.start.column_norms).sum(1)
        evaluated = self.feature.in_float32()
        ratios = evaluated.deviations(size * sigma, FEW_FINE_NOISES) / linear
        if bool(_is_one(ratios, 4.0).any()):
            ratios = torch.cat([ratios, evaluated.deviations(size * sigma, FINE_NOISES - FEW_FINE_NOISES) / linear])
        return _is_one(ratios, 2.0)

    def small(self, sigma: Tensor, size: float, smooth: Tensor) -> Tensor:
        """Deviation under small noise, (S,), from more noise samples if the first few do not look smooth."""
        # Only the network itself has its jumps.
        evaluated = self.feature.in_float32()
        deviations = evaluated.deviations(size * sigma, self.effort * FEW_SMALL_NOISES)
        if bool((deviations.mean(0) > MOST_SMOOTH * size**2 * smooth).any()):
            more = self.effort * (SMALL_NOISES - FEW_SMALL_NOISES)
            deviations = torch.cat([deviations, evaluated.deviations(size * sigma, more)])
        return deviations.mean(0)

    def explained(self, growth: Growth, scales: Tensor, deviation: Tensor) -> Growth:
        """Growth whose prediction follows the gradient on the way to doubled noise, where one at its start is off.

        Where noise shifts a feature more than it scatters it, the power of the growth increases from two to four.

        Parameters
        ----------
        growth
            Growth, and its power at the scales.
        scales
            Noise scales, (S, groups).
        deviation
            The deviation at these, (S,).
        """
        index = (~growth.is_explained(deviation / self.target)).nonzero().flatten()
        if not len(index):
            return growth
        part = self.at(index)
        middle, end = (part.power(scales[index], factor) for factor in (2**0.5, 2.0))
        # Simpson's rule over the logarithm of the noise.
        foretold = (growth.foretold[index] + 4 * middle + end) / 6
        return Growth(growth.factor, growth.foretold.index_copy(0, index, foretold))

    def power(self, scales: Tensor, factor: float) -> Tensor:
        """Power of the deviation's growth at a multiple of the noise of all units below the cap, by the gradient."""
        free = self.free(scales)
        found = measure(self.feature, self.widened(scales, factor), self.effort * POWER_NOISES)
        return found.growth(free)

    def widened(self, scales: Tensor, factor: float) -> Tensor:
        """Noise scales (S, n), those of all units below the cap multiplied by a factor, even beyond the cap."""
        sigma = self.sigma(scales)
        return torch.where(self.free(scales), factor * sigma, sigma)

    def growth(self, scales: Tensor) -> Tensor:
        """Deviation with the noise of all units below the cap doubled, in units of ``alpha D``, (S,)."""
        wide = self.widened(scales, 2.0)
        deviations = self.feature.deviations(wide, self.effort * FEW_NOISES)
        if bool((relative_stderr(deviations) > GROWTH_STDERR).any()):
            more = self.effort * (GROWTH_NOISES - FEW_NOISES)
            deviations = torch.cat([deviations, self.feature.deviations(wide, more)])
        return deviations.mean(0) / self.target

    def denoised(self, first: Tensor, second: Tensor) -> Tensor:
        """Denoised mean of two independent maps (S, n), per group, (S, groups)."""
        return (self.tie.sum(wiener(first, second, self.shape)) / self.tie.size).clamp(-2.0, 2.0)


def _promised(recent: Sequence[Tensor]) -> float:
    """Gain in nats that recent passes promise, on average over the samples, plus its standard error.

    Each pass has the gains and their errors, (2, S); NaN where a sample's constraint was far off. Every sample has the
    same weight, also one that was near its constraint in few passes.
    """
    gains, errors = torch.stack(list(recent)).unbind(1)
    passes = gains.isfinite().sum(0)
    seen, count = (passes > 0).sum(), passes.clamp(min=1)
    error = (errors.nan_to_num(0.0) / count).square().sum().sqrt()
    return float((gains.nan_to_num(0.0).sum(0) / count).sum() / seen + error / seen)


def _overshot(relative: Tensor, step: Tensor) -> Tensor:
    """Curvature from the part of the relative gradient that remains along a first full Newton step (S, n), (S,).

    Estimates of single samples are noisy: they count only above the common one. It is 1 at samples that took no step.
    """
    left, size = (relative * step).sum(1), step.square().sum(1)
    own, all_ = left / size.clamp(min=1e-12), left.sum() / size.sum().clamp(min=1e-12)
    found = (1 + torch.maximum(own, all_) / 2).clamp(1.0, MOST_CURVATURE)
    return torch.where(size > 0, found, 1.0)


def _is_one(ratios: Tensor, errors: float) -> Tensor:
    """Whether the mean of ratios (draws, S) is one within the tolerance and so many standard errors, (S,) bool."""
    mean, stderr = mean_and_stderr(ratios)
    return (mean - 1).abs() <= FINE_TOLERANCE + errors * stderr


def _logarithms(norms: Tensor) -> Tensor:
    """Logarithms of squared norms (S, n), floored at a millionth of the mean."""
    least = (norms.mean(1, keepdim=True) * 1e-6).clamp(min=torch.finfo(norms.dtype).tiny)
    return torch.maximum(norms, least).log()
