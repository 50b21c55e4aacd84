"""Units that are far from where they belong: at the cap without need, far below their best scale, or below the cap.

The relative gradient of the units below the cap shows none of this. Those at the cap are not among them. That of a unit
whose scale is far too small is -1, however small the scale: to second order it lacks a quarter nat, in truth several.
And a feature that saturates has two optima, because beyond some scale more noise costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .control import Control
from .measured import Measured, weighted
from .noise import Tie, clip_sigma
from .probe import Halves, LayerProbe
from .trial import pyramid, try_step

#: A unit may be asleep if the mean square of its gradient is below this share of the median. With few parts the share
#: is smaller, so that chance takes one of a thousand units for asleep, this many standard deviations from the mean.
ASLEEP, CHANCE = 0.3, 3.1
#: Largest change of log sigma that wakes a unit, and factor from its gain to what is missing: the mean square falls
#: with the square of the scale where it is due to noise, and with its fourth power else, so that a change by its fourth
#: root goes at least half of the way.
MOST_WAKING, HALFWAY = 3.0, 2.0
#: Standard errors beyond which a gain is no chance.
SURELY = 2.0
#: Share of the units that a first look raises to the cap, and its noise samples; shares whose gain is predicted from
#: it; least predicted gain, in nats, that is worth a step; and the scale, relative to the cap, if all units are raised.
LOOK, LOOK_NOISES = 1 / 8, 2
SHARES, WORTH_A_STEP, NEAR_CAP = (1.0, 1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32), 0.01, 0.98
#: Noise samples of a step to the cap.
LEAP_NOISES = 32


def shortfall_at_cap(found: Measured, free: Tensor, counted: Tensor, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """What units at the cap add to the shortfall, in nats, and its error, (S,).

    A unit belongs at the cap if its gradient is at most the mean over the free units. Half of the parts find those
    whose gradient is larger; what these are worth follows from the other half.

    Parameters
    ----------
    found
        Measurements at the scales.
    free, counted
        Counted units below the cap, and all counted units, (S, n) bool.
    shape
        Shape of one sample.
    """
    capped = counted & ~free
    if not bool(capped.any()):
        none = found.parts.new_zeros(len(free))
        return none, none
    relative = found.relative(free, counted)
    one, two, three, four = (weighted(relative[i::4], found.weights[i::4]) for i in range(4))
    early = torch.where(capped & (pyramid(Halves(one, two), shape) > 0), three * four, 0.0).sum(1)
    late = torch.where(capped & (pyramid(Halves(three, four), shape) > 0), one * two, 0.0).sum(1)
    units = 4 * counted.sum(1).clamp(min=1)
    return (early + late) / 2 / units, (early - late).abs() / 2 / units


def descent_from_cap(found: Measured, free: Tensor, counted: Tensor, shape: Sequence[int]) -> Tensor:
    """Change of log sigma, relative to the cap, of units that do not belong there, (S, n); zero at others.

    As in a linear layer; parameters as for :func:`shortfall_at_cap`.
    """
    capped = counted & ~free
    if not bool(capped.any()):
        return torch.zeros_like(found.parts[0])
    relative = found.relative(free, counted)
    excess = pyramid(Halves(*(weighted(relative[i::2], found.weights[i::2]) for i in range(2))), shape)
    return torch.where(capped, -excess.clamp(min=0).log1p() / 2, 0.0)


@dataclass(frozen=True)
class Waking:
    """A step that raises units.

    Attributes
    ----------
    change
        Of log sigma, (S, n).
    gain, gain_stderr
        Its gain in nats on fresh noise, and its standard error, (S,).
    """

    change: Tensor
    gain: Tensor
    gain_stderr: Tensor

    @property
    def missing(self) -> Tensor:
        """What such units lack at least, in nats, (S,)."""
        return HALFWAY * (self.gain - SURELY * self.gain_stderr).clamp(min=0)

    def or_else(self, other: Waking) -> Waking:
        """At each sample, the step that gains more."""
        better = self.gain - SURELY * self.gain_stderr >= other.gain - SURELY * other.gain_stderr
        return Waking(
            torch.where(better[:, None], self.change, other.change),
            torch.where(better, self.gain, other.gain),
            torch.where(better, self.gain_stderr, other.gain_stderr),
        )

    @property
    def useful(self) -> Tensor:
        """The change where it surely gains; zero elsewhere."""
        return torch.where((self.gain > SURELY * self.gain_stderr)[:, None], self.change, 0.0)


def wake(
    feature: LayerProbe,
    found: Measured,
    free: Tensor,
    counted: Tensor,
    sigma: Callable[[Tensor], Tensor],
    draws: int,
    control: Control | None = None,
) -> Waking:
    """Step up all units that may be asleep, and measure the gain on fresh noise.

    The mean square of a unit's gradient is, up to a common factor, its share of the budget: units in need of waking
    have hardly any, whereas all others have similar shares.

    Parameters
    ----------
    feature, found
        The layer, and measurements at the scales.
    free, counted
        Counted units below the cap, and all counted units, (S, n) bool.
    sigma
        Maps a change of ``log sigma``, (S, n), to noise scales (S, n).
    draws, control
        Number of noise samples of the step, and linear model of the layer.
    """
    change = _change(found, free)
    none = change.new_zeros(len(change))
    if not bool(change.any()):
        return Waking(change, none, none)
    exponent = found.exponent(free) * counted.sum(1) / free.sum(1).clamp(min=1)
    step, _ = try_step(feature, sigma, change, none, none + 1, draws, exponent, control)
    return Waking(change, step.gain, step.gain_stderr)


def _change(found: Measured, free: Tensor) -> Tensor:
    power = weighted(found.parts.square(), found.weights)
    usual = torch.where(free, power, torch.nan).nanmedian(1, keepdim=True).values
    share = power / usual
    asleep = min(ASLEEP, _least_mean_square(len(found.parts)))
    change = -share.clamp(min=torch.finfo(share.dtype).tiny).log() / 4
    return torch.where(free & (share < asleep), change.clamp(max=MOST_WAKING), 0.0)


def _least_mean_square(count: int) -> float:
    """Mean square of so many normal numbers that is hardly ever undercut (Wilson and Hilferty 1931)."""
    spread = 2 / (9 * count)
    return max(0.0, 1 - spread - CHANCE * math.sqrt(spread)) ** 3


def leap(
    feature: LayerProbe, scales: Tensor, tie: Tie, cap: float, counted: Tensor, target: Tensor, exponent: Tensor
) -> Waking:
    """Raise some groups to the cap, at random, and rescale the others to what these leave of the budget.

    A first look measures what groups at the cap cost: for nearly all layers, many times the budget.

    Parameters
    ----------
    feature
        The layer.
    scales, tie, cap
        Scales (S, groups), their groups, and the cap.
    counted, target, exponent
        Counted units, (S, n) bool, ``alpha D``, (S,), and growth of the deviation with the scales, (S,).
    """
    state = feature.noise.get_state()

    def sigma(logs: Tensor) -> Tensor:
        return clip_sigma(logs.exp(), tie, cap) * counted

    logs = scales.clamp(max=cap).log()
    order = torch.rand(logs.shape, generator=feature.noise, device=logs.device)
    looked = torch.where(order < LOOK, math.log(cap), logs)
    cost = (feature.deviations(sigma(looked), LOOK_NOISES).mean(0) / target - (1 - LOOK)) / LOOK
    # Where this is no use, as nearly everywhere, it leaves the noise of the other measurements alone.
    feature.noise.set_state(state)
    room = (math.log(cap) - logs).mean(1)
    gains = torch.stack([_foretold(share, cost, room) for share in SHARES])
    gain, best = gains.max(0)
    none = torch.zeros_like(gain)
    worthwhile = gain > WORTH_A_STEP
    if not bool(worthwhile.any()):
        return Waking(torch.zeros_like(tie.expand(logs)), none, none)
    share = torch.tensor(SHARES, device=logs.device)[best]
    left = ((1 - share * cost) / (1 - share)).nan_to_num(1.0, 1.0, 1.0).clamp(min=0.01, max=100).log() / 2
    order = torch.rand(logs.shape, generator=feature.noise, device=logs.device)
    top = math.log(cap) + torch.where(share == 1, math.log(NEAR_CAP), 0.0)
    raised = torch.where(order < share[:, None], top[:, None], logs + left[:, None])
    change = torch.where(worthwhile[:, None], raised - logs, 0.0)
    below = ((sigma(raised) < cap) & counted).sum(1).clamp(min=1)
    exponent = exponent * counted.sum(1) / below
    step, _ = try_step(feature, lambda by: sigma(logs + by), change, none, none + 1, LEAP_NOISES, exponent)
    return Waking(tie.expand(change), step.gain, step.gain_stderr)


def _foretold(share: float, cost: Tensor, room: Tensor) -> Tensor:
    """Gain in nats, (S,), if a share of the groups, which cost so many budgets in all, takes the cap."""
    if share == 1:
        return torch.where(cost <= 1, room, -math.inf)
    left = (1 - share * cost) / (1 - share)
    return torch.where(left > 0, share * room + (1 - share) / 2 * left.clamp(min=1e-6).log(), -math.inf)
