"""The scale of noise that has a wanted mean effect, found from few evaluations with noise.

The effect at a scale is measured on antithetic pairs of noise, on a composition of samples that favors those where much
effect is expected. Its variance is reduced by a control: the effect that the same noise would have if the target were
linear, whose mean is known from the Jacobians. The control's mean as a function of the scale, the curve, also predicts
how the effect changes from one scale to another nearby, so that few scales need measurements.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch

#: Pairs of draws at first, at least before a scale is accepted, and at most. By chance, few draws lie close together.
FIRST_DRAWS, FEWEST_DRAWS, MOST_DRAWS = 8, 24, 512
#: Relative standard error over draws at which a measurement ends.
STDERR = 0.018
#: Logarithm of measured over wanted effect, plus its standard error, that is accepted.
ACCEPTED = math.log(1.05)
#: Logarithm of measured over wanted effect beyond which the scale moves before more draws are made.
ROUGH = 0.1
#: Standard errors, few of whose draws are known, by which an effect is surely too small or too large.
SURE = 4.0
#: Logarithm of the ratio of two scales up to which they count as the same, and up to which effects lie on a line.
NEARBY, STRAIGHT = 0.1, 0.3
#: Range of an effect's slope in logarithms, and standard deviation of the difference from the one that is expected.
SLOPES, SLOPE_SPREAD = (0.25, 12.0), 1.0
#: Number of measurements of a noise scale, and largest logarithm of a correction.
MEASUREMENTS, LARGEST_STEP = 48, 2.0
#: Distance between the scales at which curves are evaluated, in logarithms.
GRID = 0.1


@dataclass(frozen=True)
class Tolerance:
    """Noise scale that has a wanted effect.

    Attributes
    ----------
    scale
        The noise scale; NaN if none was found.
    achieved
        Measured effect over the wanted one, with noise that the search for the scale has not seen.
    stderr
        Its relative standard error, over draws of noise.
    """

    scale: float = math.nan
    achieved: float = math.nan
    stderr: float = math.nan


@dataclass(frozen=True)
class Order:
    """Measurements to make at one layer: its position, a noise scale, and the numbers of draws of noise."""

    layer: int
    scale: float
    draws: range


@dataclass(frozen=True)
class Draws:
    """Mean effects over the samples by draw, and those of the control, 0 without one."""

    effects: Sequence[float]
    controls: Sequence[float]


#: Measures effects of noise by order.
Sweep = Callable[[Sequence[Order]], Sequence[Draws]]


class Curve(Protocol):
    """Predicted mean effect by noise scale."""

    def __call__(self, scale: float) -> float:
        """Return the predicted mean effect over the samples."""

    @property
    def is_control(self) -> bool:
        """Whether it is the mean of the control, and not only a prediction."""

    @property
    def stderr(self) -> float:
        """Largest relative standard error of the values so far."""


@dataclass(frozen=True)
class Quadratic:
    """Effect in proportion to the squared scale.

    Attributes
    ----------
    effect
        Effect per squared scale.
    """

    effect: float
    is_control: bool = False
    stderr: float = 0.0

    def __call__(self, scale: float) -> float:
        """Return the effect."""
        return self.effect * scale**2


class OnGrid:
    """A control's mean, evaluated on a grid of scales and interpolated between them in logarithms.

    Parameters
    ----------
    mean
        Returns the mean at a scale, and its standard error.
    """

    is_control = True

    def __init__(self, mean: Callable[[float], tuple[float, float]]) -> None:
        self._mean = mean
        self._known: dict[int, float] = {}
        self.stderr = 0.0

    def __call__(self, scale: float) -> float:
        """Return the mean effect; NaN where it is not positive and finite."""
        place = math.log(scale) / GRID
        below = math.floor(place)
        low, high = self._at(below), self._at(below + 1)
        return math.exp(low + (place - below) * (high - low))

    def _at(self, place: int) -> float:
        if place not in self._known:
            value, stderr = self._mean(math.exp(place * GRID))
            self._known[place] = math.log(value) if value > 0 else math.nan
            self.stderr = max(self.stderr, stderr / value if value > 0 else 0.0)
        return self._known[place]


def meet(sweep: Sweep, curves: Sequence[Curve | None], start: Sequence[float], wanted: float) -> list[Tolerance]:
    """Correct predicted noise scales until their measured mean effect is the wanted one.

    Every scale is measured with noise of its own. The next scale follows from a line through the measurements nearby;
    what a tolerance has achieved is measured at it alone.

    Parameters
    ----------
    sweep
        Measures effects; noise differs between draws of a layer.
    curves
        Predicted effects by layer; None: there is nothing to find.
    start
        Scales to begin with, by layer.
    wanted
        The wanted mean effect.

    Returns
    -------
    list of Tolerance
        By layer.
    """
    searches = [
        _Search(i, curve, scale, wanted)
        for i, (curve, scale) in enumerate(zip(curves, start, strict=True))
        if curve is not None and math.isfinite(scale)
    ]
    for _ in range(MEASUREMENTS):
        orders = {search: search.order() for search in searches if search.is_open}
        if not orders:
            break
        for search, draws in zip(orders, sweep([*orders.values()]), strict=True):
            search.learn(draws)
    found = [Tolerance() for _ in curves]
    for search in searches:
        found[search.layer] = search.found()
    return found


@dataclass
class _Measured:
    """Draws at one scale, and the mean of the control there with its relative standard error."""

    scale: float
    expected: float
    expected_stderr: float
    is_controlled: bool
    effects: list[float] = field(default_factory=list)
    controls: list[float] = field(default_factory=list)

    def add(self, draws: Draws) -> None:
        self.effects += draws.effects
        self.controls += draws.controls

    def mean(self) -> tuple[float, float]:
        """Mean effect and its relative standard error."""
        effects = torch.tensor(self.effects, dtype=torch.float64)
        count, added = len(effects), 0.0
        if self.is_controlled:
            controls = torch.tensor(self.controls, dtype=torch.float64)
            apart = controls - controls.mean()
            # The factor with the smallest variance, if the control's mean is known up to an error. More draws trust the
            # control less, so that this error does not limit what they can reach.
            uncertain = count * (self.expected * self.expected_stderr) ** 2
            tiny = torch.finfo(torch.float64).tiny
            factor = float((effects * apart).sum() / (apart.square().sum() + (count - 2) * uncertain).clamp(min=tiny))
            effects = effects - factor * (controls - self.expected)
            added = factor * self.expected * self.expected_stderr
        mean = float(effects.mean())
        # One degree of freedom is spent on the mean, and one on the control's factor.
        free = count - 1 - self.is_controlled
        spread = float((effects - mean).square().sum()) / free
        if not (math.isfinite(mean) and mean > 0):
            return math.nan, math.nan
        return mean, math.hypot(math.sqrt(spread / count), added) / mean


class _Search:
    """The noise scale of one layer, on its way to an effect."""

    def __init__(self, layer: int, curve: Curve, scale: float, wanted: float) -> None:
        self.layer, self.is_open = layer, True
        self._curve, self._wanted, self._drawn = curve, wanted, 0
        self._past: list[_Measured] = []
        self._begin(scale)

    def _begin(self, scale: float) -> None:
        expected = self._curve(scale)
        self._now = _Measured(scale, expected, self._curve.stderr, self._curve.is_control)
        self._count = FIRST_DRAWS

    def order(self) -> Order:
        """Return the measurements that are missing, with fresh noise."""
        missing = self._count - len(self._now.effects)
        return Order(self.layer, self._now.scale, range(self._drawn, self._drawn + missing))

    def learn(self, draws: Draws) -> None:
        """Learn from measurements."""
        self._drawn += len(draws.effects)
        self._now.add(draws)
        mean, stderr = self._now.mean()
        if not math.isfinite(mean):
            # Effects vanish in rounding, or overflow.
            self.is_open = False
            return
        missing = math.log(self._wanted / mean)
        if abs(missing) > ROUGH + stderr:
            self._move()
        elif self._count < FEWEST_DRAWS or (stderr > STDERR and self._count < MOST_DRAWS):
            count = math.ceil(self._count * min(8.0, max(1.5, (stderr / STDERR) ** 2)))
            self._count = min(MOST_DRAWS, max(FEWEST_DRAWS, count))
        elif abs(missing) + min(stderr, STDERR) <= ACCEPTED:
            self.is_open = False
        else:
            self._move()

    def found(self) -> Tolerance:
        """Return the scale, if the search has ended at one."""
        mean, stderr = self._now.mean() if self._now.effects else (math.nan, math.nan)
        if self.is_open or not math.isfinite(mean):
            return Tolerance()
        return Tolerance(self._now.scale, mean / self._wanted, stderr)

    def _move(self) -> None:
        """Go to the scale at which the measurements predict the wanted effect."""
        at, count = self._now.scale, self._count
        self._past.append(self._now)
        shift = min(LARGEST_STEP, max(-LARGEST_STEP, self._missing()))
        scale = self._between(at * math.exp(shift))
        self._begin(scale)
        if abs(math.log(scale / at)) <= NEARBY:
            # Fewer draws would only tell what is known.
            self._count = count

    def _missing(self) -> float:
        """Logarithm of the scale with the wanted effect over the present one: a line through what is measured nearby.

        Its slope is that of the line with the least squares, and, where these points say little, :meth:`_slope`.
        """
        at = self._now.scale
        near = [each for each in self._past if abs(math.log(each.scale / at)) <= STRAIGHT]
        # Stated errors of few draws are too uncertain to be weights.
        weights = torch.tensor([len(each.effects) for each in near], dtype=torch.float64)
        means, errors = torch.tensor([each.mean() for each in near], dtype=torch.float64).T
        x = torch.tensor([math.log(each.scale / at) for each in near], dtype=torch.float64)
        y = (means / self._wanted).log()
        share = weights / weights.sum()
        middle, height = (share * x).sum(), (share * y).sum()
        of_draw = (share * errors.square() * weights).sum()
        apart, prior = x - middle, (of_draw / SLOPE_SPREAD**2).clamp(min=1e-12)
        slope = ((weights * apart * y).sum() + prior * self._slope()) / ((weights * apart.square()).sum() + prior)
        return float(middle - height / slope.clamp(*SLOPES))

    def _between(self, scale: float) -> float:
        """Keep a scale between those at which the effect is surely too small and too large."""
        low, high = 0.0, math.inf
        for each in self._past:
            mean, stderr = each.mean()
            missing = math.log(self._wanted / mean)
            if abs(missing) > ROUGH + SURE * stderr:
                low, high = (max(low, each.scale), high) if missing > 0 else (low, min(high, each.scale))
        if low < scale < high or low >= high:
            return scale
        if math.isinf(high):
            return 2 * low
        return math.sqrt(low * high) if low else high / 2

    def _predicted(self, scale: float) -> float:
        value = self._curve(scale)
        return value if math.isfinite(value) and value > 0 else scale**2

    def _slope(self) -> float:
        """Slope of the effect in logarithms: between the last two scales if they are apart, else that of the curve."""
        now = self._past[-1]
        others = [each for each in self._past[:-1] if abs(math.log(each.scale / now.scale)) > NEARBY]
        if others:
            before = min(others, key=lambda each: abs(math.log(each.scale / now.scale)))
            slope = math.log(now.mean()[0] / before.mean()[0]) / math.log(now.scale / before.scale)
        else:
            step = 0.5 * GRID
            ends = [self._predicted(now.scale * math.exp(sign * step)) for sign in (-1, 1)]
            slope = math.log(ends[1] / ends[0]) / (2 * step)
        return min(SLOPES[1], max(SLOPES[0], slope))
