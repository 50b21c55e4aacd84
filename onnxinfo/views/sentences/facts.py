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
#: Probability that a claimed difference is none, over all layers among which it was looked for.
_ERROR_RATE = 0.05


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
    """

    mean: float
    stderr: float
    half: float
    n: int

    @property
    def is_certain(self) -> bool:
        """Whether the interval excludes zero. The margin keeps rounding from being taken for a difference."""
        return abs(self.mean) > max(self.half, 1e-9)

    def __str__(self) -> str:
        return number_with_error(self.mean, self.stderr)


def mean_over_samples(values: Numbers, errors: Numbers, looks: int = 1) -> Difference:
    """Return the mean of one value per sample with its interval.

    Parameters
    ----------
    values, errors
        One per sample, and their Monte Carlo errors; NaN where unknown.
    looks
        Number of places among which the difference was looked for; the interval widens with it (Bonferroni).
    """
    from scipy.special import stdtrit

    mean, stderr, n = (float(each) for each in mean_and_stderr(values, errors))
    # A single sample has no spread: its error is the Monte Carlo error, and the claim is about this sample.
    quantile = float(stdtrit(n - 1 if n > 1 else math.inf, 1 - _ERROR_RATE / (2 * max(1, looks))))
    half = quantile * stderr if math.isfinite(stderr) else math.inf
    return Difference(mean, stderr, half, int(n))


def pairs(count: int) -> int:
    """Return the number of pairs among which a difference is looked for."""
    return max(1, count * (count - 1) // 2)


@dataclass(frozen=True)
class Curve:
    """Means of a metric by layer, sorted by depth; only layers that have a value and whose budgets are comparable.

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
    """

    found: RunValues
    rows: tuple[LayerRow, ...]
    value: Numbers
    stderr: Numbers
    left_out: int

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
        """Return a layer's mean with its error."""
        return number_with_error(float(self.value[layer]), float(self.stderr[layer]))

    def cells(self, layer: int) -> tuple[Numbers, Numbers]:
        """Return the value of each sample in a layer and its Monte Carlo error; NaN where there is none."""
        done = self.found.values["done"][layer]
        values, errors = (np.where(done, self.found.values[key][layer], np.nan) for key in ("value", "stderr"))
        return values, errors

    def difference(self, layer: int, other: int) -> Difference:
        """Return how much a layer exceeds another one, sample by sample."""
        (one, e), (two, f) = self.cells(layer), self.cells(other)
        return mean_over_samples(one - two, np.hypot(np.nan_to_num(e), np.nan_to_num(f)), looks=pairs(len(self)))


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
    def curves(self) -> Mapping[str, Curve]:
        """Means by metric and layer."""
        found = {name: _curve(each) for name, each in self.whole.items()}
        return {name: curve for name, curve in found.items() if len(curve)}

    @property
    def entropies(self) -> list[Curve]:
        """Curves of the metrics that are entropies of input units: SID, RU and the like."""
        return [each for each in self.curves.values() if is_per_unit(each.found.metric)]

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
    found = max(split_apart(whole), key=lambda part: len(part.layers))
    cells: dict[str, npt.NDArray[Any]] = found.values
    mean, stderr, n = mean_and_stderr(np.where(cells["done"], cells["value"], np.nan), cells["stderr"])
    there = n > 0
    kept = found
    if not there.all():
        rows = tuple(row for row, use in zip(found.layers, there, strict=True) if use)
        kept = replace(found, layers=rows, values={name: data[there] for name, data in cells.items()})
    return Curve(kept, kept.layers, mean[there], stderr[there], len(whole.layers) - len(found.layers))
