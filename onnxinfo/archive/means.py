"""The rule for means over samples.

A mean is over all cells with a finite value, proven or not: which cells end up proven depends on the seed and on the
value, so a mean over these alone would be biased. Each mean comes with its standard error and the numbers of cells that
are unproven or have no value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .format import mark_code, mark_name

Numbers = npt.NDArray[np.float64]
Cells = Mapping[str, npt.NDArray[Any]]


def mean_and_stderr(values: npt.ArrayLike, errors: npt.ArrayLike = np.nan) -> tuple[Numbers, Numbers, Numbers]:
    """Return the mean over samples, its standard error, and the number of values.

    The standard error is s / sqrt(n), where s is the standard deviation between samples. This includes the samples'
    Monte Carlo errors e, but with few samples it may come out below the error that these alone imply,
    sqrt(sum e^2) / n, which is therefore the lower limit. For a single sample, only that limit is known; if it is 0,
    because the sample's value is exact, nothing is known of the error.

    Parameters
    ----------
    values
        Shape (..., sample). Samples without a finite value are left out.
    errors
        Monte Carlo standard errors of the values, broadcastable to them; NaN where unknown.

    Returns
    -------
    tuple of ndarray
        Mean, standard error and number of values, each of shape (...). The mean is NaN without values; the standard
        error is NaN with fewer than two values and no Monte Carlo error above 0.
    """
    values = np.asarray(values, dtype=np.float64)
    errors = np.broadcast_to(np.asarray(errors, dtype=np.float64), values.shape)
    there = np.isfinite(values)
    n = there.sum(axis=-1)
    count = np.maximum(n, 1)
    mean = np.where(there, values, 0.0).sum(axis=-1) / count
    off = np.where(there, values, mean[..., None]) - mean[..., None]
    between = (off**2).sum(axis=-1) / np.maximum(n - 1, 1) / count
    measured = there & np.isfinite(errors)
    within = (np.where(measured, errors, 0.0) ** 2).sum(axis=-1) / count**2
    known = (n > 1) | (within > 0)
    stderr = np.sqrt(np.maximum(between, within))
    return np.where(n > 0, mean, np.nan), np.where(known, stderr, np.nan), n


def one_per_sample(values: npt.ArrayLike, errors: npt.ArrayLike, samples: Sequence[Any]) -> tuple[Numbers, Numbers]:
    """Return one value and error per sample, with the same mean and standard error as all values.

    Several values of one sample, such as those of its layers, are one draw: their deviations from the mean add up.

    Parameters
    ----------
    values, errors
        Shape (value,): finite values and their Monte Carlo standard errors, NaN where unknown.
    samples
        Sample that each value belongs to.
    """
    values, errors = np.asarray(values, dtype=np.float64), np.asarray(errors, dtype=np.float64)
    places = {sample: i for i, sample in enumerate(dict.fromkeys(samples))}
    at = np.array([places[sample] for sample in samples], dtype=np.intp)
    if not len(values):
        return values, errors
    mean, share = values.mean(), len(places) / len(values)
    sums, squares = np.zeros(len(places)), np.zeros(len(places))
    np.add.at(sums, at, values - mean)
    np.add.at(squares, at, np.nan_to_num(errors) ** 2)
    known = np.zeros(len(places), dtype=bool)
    np.logical_or.at(known, at, np.isfinite(errors))
    return mean + share * sums, np.where(known, share * np.sqrt(squares), np.nan)


def layer_summary(cells: Cells) -> dict[str, npt.NDArray[Any]]:
    """Return each layer's mean over the samples, with its error and the state of its cells.

    Parameters
    ----------
    cells
        As returned by :meth:`onnxinfo.archive.Run.values`: ``value``, ``stderr``, ``converged`` and ``done``, and if
        the metric has them ``gap`` and ``mark``, each of shape (layer, sample).

    Returns
    -------
    dict
        Arrays of shape (layer,): ``value`` and ``stderr``, see :func:`mean_and_stderr`; ``gap``, an upper limit of how
        far the mean may lie below the optimum, NaN unless known for all values; ``mark``, the number of unproven cells
        by reason, such as ``"2 gap, 1 dead"``, None if not recorded; ``converged``, whether all finished cells are;
        ``n`` (finished cells), ``n_converged`` and ``n_missing`` (finished cells without a value).
    """
    done, converged = cells["done"], cells["done"] & cells["converged"]
    values = np.where(done, cells["value"], np.nan)
    mean, stderr, present = mean_and_stderr(values, cells["stderr"])
    n, proven = done.sum(axis=1), converged.sum(axis=1)
    return {
        "value": mean,
        "stderr": stderr,
        "gap": _mean_gap(values, cells),
        "mark": np.array([marks_text(counts) for counts in mark_counts(cells)], dtype=object),
        "converged": (proven == n) & (n > 0),
        "n": n,
        "n_converged": proven,
        "n_missing": n - present,
    }


def _mean_gap(values: Numbers, cells: Cells) -> Numbers:
    if "gap" not in cells:
        return np.full(len(values), np.nan)
    there = np.isfinite(values)
    gaps = np.where(there, cells["gap"], 0.0)
    found: Numbers = np.where(there.any(axis=1), gaps.sum(axis=1) / np.maximum(there.sum(axis=1), 1), np.nan)
    return found


def unproven(cells: Cells) -> npt.NDArray[np.bool_]:
    """Tell which cells have an unproven value: finished and finite, but not converged."""
    found: npt.NDArray[np.bool_] = cells["done"] & np.isfinite(cells["value"]) & ~cells["converged"]
    return found


def limited_by_rounding(cells: Cells) -> npt.NDArray[np.bool_]:
    """Tell which cells are below the network's own rounding: finished and marked ``resolution``."""
    if "mark" not in cells:
        return np.zeros_like(cells["done"])
    found: npt.NDArray[np.bool_] = cells["done"] & (cells["mark"] == mark_code("resolution"))
    return found


def sound_alpha(cells: Cells) -> float:
    """Return the smallest alpha at which rounding limits none of the currently limited cells.

    Returns
    -------
    float
        Infinite if no tried alpha suffices; NaN if rounding limits no cell, or for a limited cell no alpha is
        recorded.
    """
    if "resolution_alpha" not in cells:
        return float("nan")
    found = cells["resolution_alpha"][limited_by_rounding(cells)]
    return float(found.max()) if found.size else float("nan")


def mark_names(cells: Cells) -> npt.NDArray[np.object_]:
    """Return the name of each cell's mark, in the cells' shape; None if the metric has no marks."""
    if "mark" not in cells:
        return np.full(cells["value"].shape, None, dtype=object)
    names = np.array([mark_name(code) for code in range(256)], dtype=object)
    found: npt.NDArray[np.object_] = names[cells["mark"]]
    return found


def mark_counts(cells: Cells) -> list[dict[str, int] | None]:
    """Return the number of unconverged cells by reason for each layer; None if not recorded."""
    if "mark" not in cells:
        return [None] * len(cells["done"])
    failed = cells["done"] & ~cells["converged"]
    counts: list[dict[str, int] | None] = []
    for marks, use in zip(cells["mark"], failed, strict=True):
        codes, numbers = np.unique(marks[use], return_counts=True)
        counts.append({mark_name(int(code)): int(number) for code, number in zip(codes, numbers, strict=True)})
    return counts


def marks_text(counts: Mapping[str, int] | None) -> str | None:
    """Return counts by mark as text, such as ``"2 gap, 1 dead"``; empty if there are none."""
    return None if counts is None else ", ".join(f"{number} {name}" for name, number in counts.items())


def read_marks(text: str) -> dict[str, int]:
    """Parse the text of :func:`marks_text` into counts by mark; a name without a number counts as one."""
    counts: dict[str, int] = {}
    for part in filter(None, text.split(", ")):
        number, _, name = part.rpartition(" ")
        counts[name] = counts.get(name, 0) + (int(number) if number else 1)
    return counts


@dataclass(frozen=True)
class Pairs:
    """Comparison of a layer in two runs, sample by sample.

    Attributes
    ----------
    first, second
        Means over the samples that have a value in both runs.
    difference, stderr
        Mean of ``second - first`` over these samples, and its standard error; see :func:`mean_and_stderr`.
    n
        Number of these samples.
    n_unproven
        Number of these samples for which at least one value is unproven.
    n_missing
        Number of samples that are finished in both runs and have no value in at least one.
    n_lost
        Number of those that have a value in one run only.
    """

    first: float
    second: float
    difference: float
    stderr: float
    n: int
    n_unproven: int
    n_missing: int
    n_lost: int = 0


def pair_up(first: Cells, second: Cells) -> Pairs:
    """Compare the cells of a layer in two runs over the same samples.

    Parameters
    ----------
    first, second
        ``value``, ``stderr``, ``converged`` and ``done``, each of shape (sample,).
    """
    done = first["done"] & second["done"]
    there = [np.isfinite(each["value"]) for each in (first, second)]
    both = done & there[0] & there[1]
    one, two = (np.where(both, each["value"], np.nan) for each in (first, second))
    difference, stderr, n = mean_and_stderr(two - one, _joint_error(first["stderr"], second["stderr"]))
    return Pairs(
        first=float(mean_and_stderr(one)[0]),
        second=float(mean_and_stderr(two)[0]),
        difference=float(difference),
        stderr=float(stderr),
        n=int(n),
        n_unproven=int((both & ~(first["converged"] & second["converged"])).sum()),
        n_missing=int((done & ~both).sum()),
        n_lost=int((done & (there[0] ^ there[1])).sum()),
    )


def _joint_error(first: Numbers, second: Numbers) -> Numbers:
    """Return the errors of differences; an unknown error counts as zero if the other one is known."""
    known = np.isfinite(first) | np.isfinite(second)
    found: Numbers = np.where(known, np.hypot(np.nan_to_num(first), np.nan_to_num(second)), np.nan)
    return found


def select_part(cells: Cells, layers: Sequence[int], samples: Sequence[int]) -> dict[str, npt.NDArray[Any]]:
    """Return the cells of some layers and samples, each of shape (layer, sample)."""
    return {name: data[np.ix_(layers, samples)] for name, data in cells.items()}


def select_cells(cells: Cells, layer: int) -> dict[str, npt.NDArray[Any]]:
    """Return the cells of one layer, each of shape (sample,)."""
    return {name: data[layer] for name, data in cells.items()}
