"""What the rules of a summary see: a run's numbers by metric and layer, and tested differences between them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from ...archive.format import LayerRow
from ...archive.means import mean_and_stderr
from ...text import printable
from ..comparable import split_apart
from ..reading_runs import is_per_unit, run_values
from ..run_values import RunValues
from ..run_view import RunView
from ..wording import number_with_error

Numbers = npt.NDArray[np.float64]
#: Mark of numbers that include unproven values, as in tables.
STAR = "*"
#: Probability that a claimed difference is none, over all layers among which it was looked for.
_ERROR_RATE = 0.05
#: Number of highest layers that are compared with all others, each of which takes a pass over the numbers.
_MOST_TOPS = 100
#: Differences up to this are rounding.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Difference:
    """A mean over samples, with the half width of its confidence interval.

    Attributes
    ----------
    mean, stderr
        The mean and its standard error.
    half
        Half width of the interval; infinite if it is unknown.
    n
        Number of samples.
    is_proven
        Whether all values in it are proven; if not, its text has a star.
    """

    mean: float
    stderr: float
    half: float
    n: int
    is_proven: bool = True

    @property
    def is_certain(self) -> bool:
        """Whether the interval excludes zero. The margin keeps rounding from being taken for a difference."""
        return abs(self.mean) > max(self.half, _ROUNDING)

    @property
    def bound(self) -> float:
        """Largest size of the difference within its interval; infinite if unknown."""
        return abs(self.mean) + self.half

    def __abs__(self) -> Difference:
        return replace(self, mean=abs(self.mean))

    def __str__(self) -> str:
        return number_with_error(self.mean, self.stderr) + star(self.is_proven)


def star(is_proven: bool) -> str:
    """Return the mark of a number that includes unproven values."""
    return "" if is_proven else STAR


def mean_over_samples(values: Numbers, errors: Numbers, looks: int = 1, *, is_proven: bool = True) -> Difference:
    """Return the mean of one value per sample with its interval.

    Parameters
    ----------
    values, errors
        One per sample, and their Monte Carlo errors; NaN where unknown.
    looks
        Number of places among which the difference was looked for; the interval widens with it (Bonferroni).
    is_proven
        Whether all values are proven.
    """
    mean, stderr, n = mean_and_stderr(values, errors)
    return Difference(float(mean), float(stderr), float(_half_widths(stderr, n, looks)), int(n), is_proven)


def _half_widths(stderr: Numbers, n: Numbers, looks: int) -> Numbers:
    """Return the half widths of the confidence intervals of means of n samples; infinite where unknown."""
    from scipy.special import stdtrit

    # A single sample has no spread: its error is the Monte Carlo error, and the claim is about this sample.
    quantiles = stdtrit(np.where(n > 1, n - 1, math.inf), 1 - _ERROR_RATE / (2 * max(1, looks)))
    return np.where(np.isfinite(stderr), quantiles * stderr, math.inf)


def pairs(count: int) -> int:
    """Return the number of pairs among which a difference is looked for."""
    return max(1, count * (count - 1) // 2)


@dataclass(frozen=True)
class Curve:
    """Means of a metric by layer, sorted by depth.

    Only layers whose budgets are comparable and whose means can be relied on: fewer than half of the finished cells are
    unproven or without a value.

    Attributes
    ----------
    found
        The numbers.
    rows
        The layers.
    value, stderr
        Mean of each layer and its standard error.
    left_out
        Number of layers whose budget is relative to something else.
    unreliable
        Names of the layers whose means cannot be relied on, with the number of cells that say so.
    """

    found: RunValues
    rows: tuple[LayerRow, ...]
    value: Numbers
    stderr: Numbers
    left_out: int
    unreliable: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """Name of the metric in a sentence."""
        name = self.found.metric.name
        return name.upper() if len(name) <= 3 else name

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, layer: int) -> str:
        """Return the name of a layer, as tables show it."""
        return printable(self.rows[layer].name)

    def text(self, layer: int) -> str:
        """Return a layer's mean with its error, and a star if it includes unproven values."""
        return number_with_error(float(self.value[layer]), float(self.stderr[layer])) + star(self.is_proven(layer))

    def is_proven(self, *layers: int) -> bool:
        """Whether all values of some layers are proven."""
        return not self.found.unproven[list(layers)].any()

    def cells(self, layer: int | slice) -> tuple[Numbers, Numbers]:
        """Return the value of each sample in a layer and its Monte Carlo error; NaN where there is none."""
        done = self.found.values["done"][layer]
        values, errors = (np.where(done, self.found.values[key][layer], np.nan) for key in ("value", "stderr"))
        return values, errors

    def difference(self, layer: int, other: int) -> Difference:
        """Return how much a layer exceeds another one, sample by sample."""
        is_proven = self.is_proven(layer, other)
        return mean_over_samples(*self._apart(layer, other), looks=pairs(len(self)), is_proven=is_proven)

    def clearly_below(self, layer: int) -> npt.NDArray[np.bool_]:
        """Tell which layers a layer exceeds beyond the errors."""
        mean, stderr, n = mean_and_stderr(*self._apart(layer, slice(None)))
        return mean > np.maximum(_half_widths(stderr, n, pairs(len(self))), _ROUNDING)

    def _apart(self, layer: int, other: int | slice) -> tuple[Numbers, Numbers]:
        (one, e), (two, f) = self.cells(layer), self.cells(other)
        return one - two, np.hypot(np.nan_to_num(e), np.nan_to_num(f))

    @cached_property
    def order(self) -> list[int]:
        """The layers from the highest mean to the lowest."""
        found: list[int] = np.argsort(-self.value, kind="stable").tolist()
        return found

    @cached_property
    def extremes(self) -> tuple[int, int] | None:
        """The highest layer that exceeds another one beyond the errors, and the lowest of those; None without any.

        Only the highest 100 layers are tried, so that a run of thousands of layers that do not differ takes seconds.
        """
        for top in self.order[:_MOST_TOPS]:
            below = self.clearly_below(top)
            if below.any():
                return top, next(layer for layer in reversed(self.order) if below[layer])
        return None


#: Metrics that are no entropies of input units, and that sentences about layers are about.
_OTHERS = ("concentration",)


@dataclass(frozen=True)
class Facts:
    """The numbers of a run, or of a part of it.

    Attributes
    ----------
    view
        The run.
    """

    view: RunView

    @cached_property
    def whole(self) -> Mapping[str, RunValues]:
        """All numbers by metric; metrics without a finished cell are left out."""
        found = {metric.name: run_values(self.view, metric.name) for metric in self.view.metrics}
        return {name: each for name, each in found.items() if each.layers}

    @cached_property
    def told(self) -> Mapping[str, Curve]:
        """Means by metric and layer of the metrics that sentences about layers are about, also if no layer is left."""
        return {name: _curve(each) for name, each in self.whole.items() if is_per_unit(each.metric) or name in _OTHERS}

    @cached_property
    def curves(self) -> Mapping[str, Curve]:
        """Those that have a layer."""
        return {name: curve for name, curve in self.told.items() if len(curve)}

    @property
    def entropies(self) -> list[Curve]:
        """Curves of the metrics that are entropies of input units: SID, RU and the like."""
        return [each for name, each in self.curves.items() if name not in _OTHERS]

    @property
    def discarding(self) -> Curve | None:
        """The curve of SID; None without a value."""
        return self.curves.get("sid")

    @property
    def mapped(self) -> Curve | None:
        """The curve of SID; None without a value, or if the run holds no maps of it."""
        curve = self.discarding
        return curve if curve is not None and curve.found.metric.has_map else None

    def position(self, layer: LayerRow) -> int:
        """Return the position of a layer in the view, at which its maps are read."""
        return self.view.layers.index(layer)


def _curve(whole: RunValues) -> Curve:
    found = max(split_apart(whole), key=lambda part: (int(part.reliable.sum()), len(part.layers)))
    use = found.reliable
    kept = found
    if not use.all():
        rows = tuple(row for row, there in zip(found.layers, use, strict=True) if there)
        kept = replace(found, layers=rows, values={name: data[use] for name, data in found.values.items()})
    cells: dict[str, npt.NDArray[Any]] = kept.values
    mean, stderr, _ = mean_and_stderr(np.where(cells["done"], cells["value"], np.nan), cells["stderr"])
    unreliable = tuple(
        f"{printable(row.name)} ({int(failed.sum())} of {int(done.sum())})"
        for row, failed, done, there in zip(found.layers, found.failed, found.values["done"], use, strict=True)
        if not there
    )
    return Curve(kept, kept.layers, mean, stderr, len(whole.layers) - len(found.layers), unreliable)
