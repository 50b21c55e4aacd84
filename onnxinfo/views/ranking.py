"""Order of the layers in several runs: rank correlations, and layers that change places beyond their errors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt

from ..archive.means import layer_summary, pair_up, select_cells
from ..errors import UsageError
from .comparable import is_apart
from .compare import Row
from .reading_runs import natural, run_values
from .run_values import RunValues
from .selection import Paths, Selected, Selection

Orders = npt.NDArray[np.int64]


def ranking(path: Paths, *, confidence: float = 0.95, **selected: Unpack[Selected]) -> list[Row]:
    """Compare the order of the layers by a metric between runs, such as those of :func:`onnxinfo.sweep`.

    Only the order of a run's own layers counts, not the values: the runs may have different settings, such as alpha,
    different samples, or be of different networks with layers of the same names.

    Parameters
    ----------
    path
        An archive, or several, with at least two runs.
    confidence
        Confidence level at which the order of two layers of a run counts as decided: the interval of their paired
        difference over the samples excludes 0 by more than the gap, which bounds how far the lower mean may lie below
        its optimum.
    **selected
        What is compared, see :func:`onnxinfo.query`.

    Returns
    -------
    list of dict
        One per metric and pair of runs, sorted by alpha, or else by name: metric, run, other, layers (the number that
        both have), tau (Kendall's rank correlation of the layers' means), pairs (of layers), same, swapped and open
        (numbers of pairs that are decided in both runs, in the same or the opposite order, or not decided in one), and
        swaps, the swapped pairs of layers, each in the order of the first run, lower first.

    Raises
    ------
    UsageError
        There are fewer than two runs, or no two of them share two layers.
    ArchiveError
        An archive cannot be read.

    Examples
    --------
    >>> rows = onnxinfo.ranking(["result.h5", "pruned.h5"], metrics=["sid"])
    >>> [(row["run"], row["other"], row["layers"], row["tau"]) for row in rows]
    [('digits-cnn', 'pruned', 2, 1.0)]
    """
    if not 0 < confidence < 1:
        raise UsageError(f"confidence={confidence}: a number between 0 and 1 expected, such as 0.95")
    return [
        _row(one, two) for runs in _runs(Selection.of(path, **selected), confidence) for one, two in _shared_pairs(runs)
    ]


@dataclass(frozen=True)
class Ordered:
    """Order of a run's layers.

    Attributes
    ----------
    title
        Title of the run.
    values
        Its numbers.
    means
        Mean of each layer.
    orders
        (layer, layer): 1 where the second layer's mean is higher beyond errors, -1 where it is lower, 0 if undecided.
    """

    title: str
    values: RunValues
    means: npt.NDArray[np.float64]
    orders: Orders

    @property
    def names(self) -> list[str]:
        """Names of the layers."""
        return [row.name for row in self.values.layers]


def order_of(values: RunValues, title: str, confidence: float = 0.95) -> Ordered:
    """Determine the order of a run's layers.

    Layers whose budget is relative to something else than that of the others are left out.
    """
    kept = [i for i, row in enumerate(values.layers) if not is_apart(values, row.name)] or [*range(len(values.layers))]
    values = RunValues(
        **{**vars(values), "layers": tuple(values.layers[i] for i in kept)}
        | {"values": {name: data[kept] for name, data in values.values.items()}}
    )
    means = layer_summary(values.values)
    count = len(values.layers)
    orders = np.zeros((count, count), dtype=np.int64)
    for i, j in combinations(range(count), 2):
        orders[i, j] = _order(values, means, i, j, confidence)
        orders[j, i] = -orders[i, j]
    return Ordered(title, values, means["value"], orders)


def sort_key(values: RunValues) -> tuple[float, list[tuple[int, int | str]]]:
    """Return a key that sorts runs by their alpha, then by name."""
    alpha = values.recipe.get("alpha")
    return (float(alpha) if isinstance(alpha, int | float) else math.inf), natural(values.name)


def _order(values: RunValues, means: dict[str, Any], i: int, j: int, confidence: float) -> int:
    # Imported here because most code that reads archives does not need it.
    from scipy.special import stdtrit

    pairs = pair_up(select_cells(values.values, i), select_cells(values.values, j))
    if pairs.n < 2 or not math.isfinite(pairs.stderr):
        return 0
    lower = i if pairs.difference > 0 else j
    gap = float(means["gap"][lower]) if "gap" in values.values else 0.0
    margin = float(stdtrit(pairs.n - 1, (1 + confidence) / 2)) * pairs.stderr + gap
    if not abs(pairs.difference) > margin:
        return 0
    return 1 if pairs.difference > 0 else -1


def _runs(selection: Selection, confidence: float) -> list[list[Ordered]]:
    """Return the runs by metric."""
    titles, found = selection.titles(), dict[str, list[Ordered]]()
    count = 0
    for view, source in selection.views(least=2):
        count += 1
        for metric in view.metrics:
            values = run_values(view, metric.name)
            if len(values.layers) > 1:
                found.setdefault(metric.name, []).append(order_of(values, titles[source, view.name], confidence))
    if count < 2:
        raise UsageError("an order is compared between runs, and there is one; give more archives or runs")
    shared = [sorted(runs, key=lambda each: sort_key(each.values)) for runs in found.values()]
    if not any(True for runs in shared for _ in _shared_pairs(runs)):
        raise UsageError("no two runs share two finished layers, so that there is no order to compare")
    return shared


def _shared_pairs(runs: list[Ordered]) -> list[tuple[Ordered, Ordered]]:
    return [pair for pair in combinations(runs, 2) if len({*pair[0].names} & {*pair[1].names}) > 1]


def _row(one: Ordered, two: Ordered) -> Row:
    names = [name for name in one.names if name in two.names]
    at = [[each.names.index(name) for name in names] for each in (one, two)]
    first, second = (each.orders[np.ix_(places, places)] for each, places in zip((one, two), at, strict=True))
    means = [each.means[places] for each, places in zip((one, two), at, strict=True)]
    upper = np.triu_indices(len(names), 1)
    both = (first * second)[upper]
    swaps = [
        (names[i], names[j]) if first[i, j] > 0 else (names[j], names[i])
        for i, j in zip(*upper, strict=True)
        if first[i, j] * second[i, j] < 0
    ]
    return {
        "metric": one.values.metric.name,
        "run": one.title,
        "other": two.title,
        "layers": len(names),
        "tau": kendall(means[0], means[1]),
        "pairs": len(both),
        "same": int((both > 0).sum()),
        "swapped": len(swaps),
        "open": int((both == 0).sum()),
        "swaps": swaps,
    }


def kendall(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> float:
    """Return Kendall's tau-b of two lists; NaN if one of them is constant or has a value that is not finite."""
    upper = np.triu_indices(len(first), 1)
    one, two = (np.sign(each[:, None] - each[None, :])[upper] for each in (first, second))
    norm = math.sqrt(float((one**2).sum() * (two**2).sum()))
    return float((one * two).sum() / norm) if norm > 0 else math.nan
