"""Sentences about how far the numbers can be trusted: unfinished, unproven and proven cells."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from ...archive.means import mark_counts, sound_alpha
from ...text import printable
from ..run_values import RunValues
from ..wording import rounded_up
from .facts import STAR, Curve, Facts

_RETRY = "run the same analysis again with onnxinfo.analyze(retry_unproven=True)"
_MOST_NAMED = 3
#: What to do about unproven cells, by the name of their mark; see docs/unproven.md.
_REMEDIES = {
    "gap": _RETRY,
    "ratio": _RETRY,
    "saturated_output": "analyze the scores before the probabilities",
    "dead": "the layer does not react to small noise there, which normalize_by='feature' measures with larger noise",
    "constant": "the layer does not depend on the input there",
    "not_finite": "look for infinities with onnxinfo.doctor(...)",
    "decoder": "train the decoder longer and on more samples",
}


def unfinished(facts: Facts) -> Iterator[str]:
    """Tell how many cells are missing."""
    done = [facts.view.values(metric.name)["done"] for metric in facts.view.metrics]
    total, finished = sum(each.size for each in done), sum(int(each.sum()) for each in done)
    if finished < total:
        yield (
            f"{finished} of {total} cells are finished, the run is {facts.view.run.status}; "
            "the same analysis, started again, computes the rest."
        )


def unreliable(facts: Facts) -> Iterator[str]:
    """Name the layers that the sentences about layers leave out because of their unproven cells."""
    for curve in facts.told.values():
        if not curve.unreliable:
            continue
        named, more = curve.unreliable[:_MOST_NAMED], len(curve.unreliable) - _MOST_NAMED
        names = ", ".join([*named, *([f"{more} more"] if more > 0 else [])])
        left = "leave out those" if len(curve) else "are left out, as there are only those"
        yield (
            f"Sentences about layers {left} in which at least half of the cells of {curve.found.metric.name} are "
            f"unproven or without a value: {names}."
        )


def certificates(facts: Facts) -> Iterator[str]:
    """Tell how many cells of each metric are unproven, where most are and what to do; or that all are proven."""
    for name, found in facts.whole.items():
        failed = found.failed
        if failed.any():
            yield f"{_unproven(found, failed)}{_legend(facts.curves.get(name))}."
        elif "gap" in found.values:
            yield _proven(found)


def _legend(curve: Curve | None) -> str:
    is_proven = curve is None or curve.is_proven(*range(len(curve)))
    return "" if is_proven else f"; numbers with {STAR} include unproven values"


def _unproven(found: RunValues, failed: npt.NDArray[np.bool_]) -> str:
    by_layer = failed.sum(axis=1)
    worst = int(np.argmax(by_layer))
    done = found.values["done"]
    counts: Counter[str] = Counter()
    for each in mark_counts(found.values):
        counts.update(each or {})
    reasons = ", ".join(f"{number} {printable(name)}" for name, number in counts.most_common())
    where = printable(found.layers[worst].name)
    if by_layer[worst] == failed.sum():
        start = (
            f"{int(failed.sum())} of {int(done[worst].sum())} cells of {found.metric.name} in {where} are unproven or "
            "without a value"
        )
    else:
        start = (
            f"{int(failed.sum())} of {int(done.sum())} cells of {found.metric.name} are unproven or without a value, "
            f"most of them in {where} ({int(by_layer[worst])} of {int(done[worst].sum())})"
        )
    remedy = _remedy(found, counts.most_common(1)[0][0]) if counts else ""
    return f"{start}{f' ({reasons})' if reasons else ''}{f': {remedy}' if remedy else ''}"


def _remedy(found: RunValues, mark: str) -> str:
    if mark == "resolution":
        alpha = sound_alpha(found.values)
        sound = f", sound from {rounded_up(alpha)} on" if math.isfinite(alpha) else ""
        return f"the noise is below the layer's own rounding, use a larger alpha{sound}"
    return _REMEDIES.get(mark, "")


def _proven(found: RunValues) -> str:
    count = int(found.values["done"].sum())
    gaps = np.where(found.values["done"], found.values["gap"], np.nan)
    known = np.isfinite(gaps).any(axis=1)
    means = np.nanmean(gaps[known], axis=1) if known.any() else np.zeros(0)
    bound = f"; means of layers are at most {rounded_up(float(means.max()))} nats too low" if len(means) else ""
    all_of_them = (
        f"All {count} cells of {found.metric.name} are" if count > 1 else f"The only cell of {found.metric.name} is"
    )
    return f"{all_of_them} proven{bound}."


def one_sample(facts: Facts) -> Iterator[str]:
    """Warn that errors of a single sample say nothing about other samples."""
    if facts.view.shape[1] == 1:
        yield "The run has 1 sample: all errors are those of the measurement, and other samples may differ."
