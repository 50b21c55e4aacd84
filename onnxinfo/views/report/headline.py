"""Key figures of a run, for the headline of its report."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..run_view import RunView


@dataclass(frozen=True)
class Figure:
    """A key figure: its label, its value, and a note below."""

    label: str
    value: str
    note: str = ""


def key_figures(view: RunView) -> list[Figure]:
    """Return accuracy, share of proven values, and the numbers of layers and samples."""
    layers, samples = view.shape
    found = []
    correct = view.run.correct
    card = view.run.sanity
    if correct is None and card is not None and math.isfinite(card.accuracy):
        found.append(Figure("accuracy", f"{card.accuracy:.0%}", f"of {card.labeled} labeled samples"))
    elif correct is not None:
        known = correct[view.sample_positions]
        known = known[np.isfinite(known)]
        if known.size:
            right = int(known.sum())
            found.append(Figure("accuracy", f"{right / known.size:.0%}", f"{right} of {known.size} labeled samples"))
    finished, proven = _proven(view)
    if finished:
        share = math.floor(100 * proven / finished)
        found.append(Figure("proven", f"{share}%", f"{proven} of {finished} values"))
    names = sorted({row.op for row in view.layers})
    found.append(Figure("layers", str(layers), ", ".join(names[:3]) + (", …" if len(names) > 3 else "")))
    found.append(Figure("samples", str(samples), " by ".join(map(str, view.sample_shape))))
    return found


def _proven(view: RunView) -> tuple[int, int]:
    """Return the numbers of values that are finished, and of proven ones among them."""
    finished = proven = 0
    for metric in view.metrics:
        values: dict[str, Any] = view.values(metric.name)
        there = values["done"] & np.isfinite(values["value"])
        finished += int(there.sum())
        proven += int((there & values["converged"].astype(bool)).sum())
    return finished, proven
