"""Units that are far from where they belong: at the cap without need, far below their best scale, or below the cap.

The relative gradient of the units below the cap shows none of this. Those at the cap are not among them. That of a unit
whose scale is far too small is -1, however small the scale: to second order it lacks a quarter nat, in truth several.
And a feature that saturates has two optima, because beyond some scale more noise costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .control import Control
from .halves import Halves
from .measured import Measured, weighted
from .probe import LayerProbe
from .trial import Sampling, Trial, price_of, pyramid, try_step

#: A unit may be asleep if the mean square of its gradient is below this share of the median. With few noisy parts, the
#: share is smaller, so that chance takes one of a thousand units for asleep, which are this many standard deviations
#: from the mean.
ASLEEP, CHANCE = 0.3, 3.1
#: Mean change of log sigma over the counted units, in nats, up to which no step is tried.
NEGLIGIBLE = 0.002
#: Largest change of log sigma that wakes a unit, and factor from its gain to what is missing: the mean square falls
#: with the square of the scale where it is due to noise, and with its fourth power else, so that a change by its fourth
#: root goes at least half of the way.
MOST_WAKING, HALFWAY = 3.0, 2.0
#: Standard errors beyond which a gain is no chance, and beyond which as few as four noise samples show that there is
#: none (Student's distribution: 0.5 %).
SURELY, SURELY_NONE = 2.0, 6.0


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
class Step:
    """A step that raises units.

    Attributes
    ----------
    change
        Of log sigma, (S, n).
    gain, gain_stderr
        Its gain in nats on fresh noise, and its standard error, (S,).
    draws
        Number of noise samples that were drawn.
    """

    change: Tensor
    gain: Tensor
    gain_stderr: Tensor
    draws: int = 0

    @classmethod
    def none(cls, change: Tensor) -> Step:
        """No step at all, for a change of this shape."""
        zero = change.new_zeros(len(change))
        return cls(torch.zeros_like(change), zero, zero)

    @property
    def sure_gain(self) -> Tensor:
        """The gain less what may be chance, in nats, (S,)."""
        return self.gain - SURELY * self.gain_stderr

    @property
    def missing(self) -> Tensor:
        """What the raised units lack at least, in nats, (S,)."""
        return HALFWAY * self.sure_gain.clamp(min=0)

    @property
    def useful(self) -> Tensor:
        """The change where it surely gains, (S, n); zero elsewhere."""
        return torch.where((self.sure_gain > 0)[:, None], self.change, 0.0)

    def or_else(self, other: Step) -> Step:
        """At each sample, the step that surely gains more."""
        better = self.sure_gain >= other.sure_gain
        return Step(
            torch.where(better[:, None], self.change, other.change),
            torch.where(better, self.gain, other.gain),
            torch.where(better, self.gain_stderr, other.gain_stderr),
        )


def wake(
    feature: LayerProbe,
    found: Measured,
    free: Tensor,
    counted: Tensor,
    sigma: Callable[[Tensor], Tensor],
    draws: int,
    control: Control | None = None,
) -> Step:
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
        Maximum number of noise samples of the step, and linear model of the layer.
    """
    change = _change(found, free)
    # By chance, a few units always seem to be asleep. A step gains at most the mean change, unless the deviation falls.
    if float((change.sum(1) / counted.sum(1).clamp(min=1)).amax()) <= NEGLIGIBLE:
        return Step.none(change)
    stepping = change.any(1)

    def is_lost(trial: Trial) -> bool:
        return bool((trial.gain + SURELY_NONE * trial.gain_stderr < 0)[stepping].all())

    sampling = Sampling(draws, is_lost)
    return tried(feature, sigma, change, sampling, price_of(found.exponent(free), free, counted), control)


def tried(
    feature: LayerProbe,
    sigma: Callable[[Tensor], Tensor],
    change: Tensor,
    draws: Sampling,
    price: Tensor,
    control: Control | None = None,
) -> Step:
    """Take a step (S, n), and measure its gain; see :func:`onnxinfo.metrics.trial.try_step`."""
    none = change.new_zeros(len(change))
    trial, _ = try_step(feature, sigma, change, none, none + 1, draws, price, control)
    return Step(change, trial.gain, trial.gain_stderr, trial.draws)


def _change(found: Measured, free: Tensor) -> Tensor:
    power = weighted(found.parts.square(), found.weights)
    usual = torch.where(free, power, torch.nan).nanmedian(1, keepdim=True).values
    share = power / usual
    asleep = _least_mean_square(_parts_of_noise(found, power, free)).clamp(max=ASLEEP)[:, None]
    change = -share.clamp(min=torch.finfo(share.dtype).tiny).log() / 4
    return torch.where(free & (share < asleep), change.clamp(max=MOST_WAKING), 0.0)


def _parts_of_noise(found: Measured, power: Tensor, free: Tensor) -> Tensor:
    """Number of parts that, if they were noise alone, would determine the mean square as well as these do, (S,).

    With a share q of noise, the mean square of k parts has the relative variance ``2 q (2 - q) / k``.
    """
    noise = torch.where(free, found.parts.var(0), 0.0).sum(1)
    tiny = torch.finfo(power.dtype).tiny
    share = (noise / torch.where(free, power, 0.0).sum(1).clamp(min=tiny)).clamp(tiny, 1.0)
    return len(found.parts) / (share * (2 - share))


def _least_mean_square(count: Tensor) -> Tensor:
    """Mean square of so many normal numbers that is hardly ever undercut (Wilson and Hilferty 1931)."""
    spread = 2 / (9 * count)
    return (1 - spread - CHANCE * spread.sqrt()).clamp(min=0) ** 3
