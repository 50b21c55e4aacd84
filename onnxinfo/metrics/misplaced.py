"""Units that are far from where they belong: at the cap without need, or at a small fraction of their best scale.

The relative gradient of the units below the cap shows neither. Those at the cap are not among them. That of a unit
whose scale is far too small is -1, however small the scale: to second order it lacks a quarter nat, in truth several.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .control import Control
from .measured import Measured, weighted
from .probe import Halves, LayerProbe
from .trial import pyramid, try_step

#: A unit may be asleep if the mean square of its gradient is below this share of the median.
ASLEEP = 0.05
#: Largest change of log sigma that wakes a unit, and factor from its gain to what is missing: the mean square falls
#: with the square of the scale where it is due to noise, and with its fourth power else, so that a change by its fourth
#: root goes at least half of the way.
MOST_WAKING, HALFWAY = 3.0, 2.0


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
    """A step that only wakes units.

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
        return HALFWAY * (self.gain - self.gain_stderr).clamp(min=0)

    @property
    def useful(self) -> Tensor:
        """The change where it gains more than two standard errors; zero elsewhere."""
        return torch.where((self.gain > 2 * self.gain_stderr)[:, None], self.change, 0.0)


def wake(
    feature: LayerProbe,
    found: Measured,
    free: Tensor,
    sigma: Callable[[Tensor], Tensor],
    draws: int,
    control: Control | None = None,
) -> Waking:
    """Step up all units that may be asleep, and measure the gain on fresh noise.

    The mean square of a unit's gradient is, up to a common factor, its share of the budget: units in need of waking
    have hardly any, whereas all others have similar shares.

    Parameters
    ----------
    feature, found, free
        The layer, measurements at the scales, and counted units below the cap, (S, n) bool.
    sigma
        Maps a change of ``log sigma``, (S, n), to noise scales (S, n).
    draws, control
        Number of noise samples of the step, and linear model of the layer.
    """
    change = _change(found, free)
    none = change.new_zeros(len(change))
    if not bool(change.any()):
        return Waking(change, none, none)
    step, _ = try_step(feature, sigma, change, none, none + 1, draws, found.exponent(free), control)
    return Waking(change, step.gain, step.gain_stderr)


def _change(found: Measured, free: Tensor) -> Tensor:
    power = weighted(found.parts.square(), found.weights)
    usual = torch.where(free, power, torch.nan).nanmedian(1, keepdim=True).values
    share = power / usual
    change = -share.clamp(min=torch.finfo(share.dtype).tiny).log() / 4
    return torch.where(free & (share < ASLEEP), change.clamp(max=MOST_WAKING), 0.0)
