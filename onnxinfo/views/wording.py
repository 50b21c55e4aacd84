"""Wording of means and certificates, shared by tables, figures, reports and annotated models."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ..archive.format import MARKS
from ..archive.means import Cells, limited_by_rounding, sound_alpha, unproven

_MEANINGS = {mark.name: mark.meaning for mark in MARKS.values()}


def mean_text(row: Mapping[str, Any]) -> str:
    """Return a layer's mean in words, such as ``-2.660 ± 0.013, at most 0.010 too low, 3/16 unproven``.

    Parameters
    ----------
    row
        A row per layer of :func:`onnxinfo.query`: ``value``, ``stderr``, ``gap``, ``n``, ``n_converged`` and
        ``n_missing``.
    """
    present = row["n"] - row["n_missing"]
    if not present:
        return f"no value, {row['n']} missing"
    parts = [number_with_error(row["value"], row["stderr"])]
    if math.isfinite(row["gap"]):
        parts.append(f"at most {rounded_up(row['gap'])} too low")
    if row["n_converged"] < present:
        parts.append(f"{present - row['n_converged']}/{present} unproven")
    if row["n_missing"]:
        parts.append(f"{row['n_missing']} without a value")
    return ", ".join(parts)


def number_with_error(value: float, stderr: float) -> str:
    """Return a number to two digits of its standard error, such as ``-2.660 ± 0.013``; or to four decimals."""
    if not (math.isfinite(stderr) and stderr > 0):
        return f"{value:.4f}"
    decimals = min(max(1 - math.floor(math.log10(stderr)), 0), 6)
    return f"{value:.{decimals}f} ± {stderr:.{decimals}f}"


def point_text(number: str, layer: str, is_proven: bool) -> str:
    """Return a point of a curve for its alternative text, such as ``-2.66 at logits (some samples unproven)``."""
    return f"{number} at {layer}{'' if is_proven else ' (some samples unproven)'}"


def rounded_up(bound: float) -> str:
    """Round a bound up to two digits."""
    if bound <= 0:
        return "0"
    unit = 10.0 ** (math.floor(math.log10(bound)) - 1)
    # Tolerance for the error of the division, so that .01 stays .01.
    return f"{math.ceil(bound / unit - 1e-9) * unit:.{max(1 - math.floor(math.log10(bound)), 0)}f}"


def unproven_text(runs: Iterable[Cells]) -> str:
    """Return the number of cells of some runs that are unproven or have no value, such as ``3 of 96 cells unproven``.

    Parameters
    ----------
    runs
        ``value``, ``converged`` and ``done`` of each, of shape (layer, sample).

    Returns
    -------
    str
        Empty if all finished cells are proven.
    """
    values = failed = missing = 0
    for cells in runs:
        there = cells["done"] & np.isfinite(cells["value"])
        values += int(there.sum())
        failed += int(unproven(cells).sum())
        missing += int((cells["done"] & ~there).sum())
    parts = [f"{failed} of {values} cells unproven"] if failed else []
    return ", ".join(parts + ([f"{missing} without a value"] if missing else []))


def rounding_text(cells: Cells) -> str:
    """Return the number of cells of a run below the network's own rounding, and the remedy.

    Such as ``5 of 32 cells lie below the network's own rounding; sound from alpha 0.0075 on``; empty if there are none.
    """
    count = int(limited_by_rounding(cells).sum())
    if not count:
        return ""
    text = f"{count} of {int(cells['done'].sum())} cells lie below the network's own rounding"
    alpha = sound_alpha(cells)
    if math.isfinite(alpha):
        return f"{text}; sound from alpha {rounded_up(alpha)} on"
    return f"{text}; no alpha that was tried is sound" if math.isinf(alpha) else f"{text}; choose a larger alpha"


def marks_remark(counts: Mapping[str, int]) -> str:
    """Explain some marks, with the number of cells that have each, such as ``2 gap (the optimum may be ...)``."""
    return "; ".join(
        f"{number} {name} ({_MEANINGS[name]})" if name in _MEANINGS else f"{number} {name}"
        for name, number in counts.items()
    )
