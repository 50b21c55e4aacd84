"""Sentences about the samples: how many are classified correctly, and how much they differ."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from ...archive.means import mean_and_stderr
from ...text import printable
from ..wording import number_with_error
from .facts import Facts, Numbers, star

#: Least number of samples among which extremes are named, and of each kind that means are compared of.
_LEAST_SAMPLES, _LEAST_OF_KIND = 4, 3
_CONFIDENCE = 0.95


def accuracy(facts: Facts) -> Iterator[str]:
    """Tell how many of the labeled samples the model classifies correctly, and what is suspicious about the inputs."""
    card, correct = facts.view.run.sanity, facts.view.run.correct
    if correct is not None:
        known = correct[facts.view.sample_positions]
        known = known[np.isfinite(known)]
        if len(known):
            yield (
                f"The model classifies {int(known.sum())} of {len(known)} labeled samples correctly "
                f"({known.mean():.1%})."
            )
    elif card is not None and math.isfinite(card.accuracy):
        yield f"The model classifies {card.accuracy:.1%} of {card.labeled} labeled samples correctly."
    if card is not None and card.warnings:
        count = len(card.warnings)
        yield f"{count} warning{'s' if count > 1 else ''} about the model's input: {printable(card.warnings[0])}."


def misclassified(facts: Facts) -> Iterator[str]:
    """Tell whether the deepest layer discards more of misclassified samples than of others."""
    curve, correct = facts.discarding, facts.view.run.correct
    if curve is None or correct is None:
        return
    from scipy.special import stdtrit

    right = correct[facts.view.sample_positions]
    last = len(curve) - 1
    values, errors = curve.cells(last)
    groups = [np.isfinite(values) & (right == kind) for kind in (0, 1)]
    if min(int(group.sum()) for group in groups) < _LEAST_OF_KIND:
        return
    wrong, good = ([float(each) for each in mean_and_stderr(values[group], errors[group])] for group in groups)
    squares = [wrong[1] ** 2, good[1] ** 2]
    if not sum(squares):
        return
    # Welch's test: the two groups may spread differently.
    freedom = sum(squares) ** 2 / sum(s**2 / (n - 1) for s, n in zip(squares, (wrong[2], good[2]), strict=True))
    apart, stderr = wrong[0] - good[0], math.sqrt(sum(squares))
    if abs(apart) > float(stdtrit(freedom, (1 + _CONFIDENCE) / 2)) * stderr:
        yield (
            f"{curve.name(last)} discards {'more' if apart > 0 else 'less'} of misclassified samples, by "
            f"{number_with_error(abs(apart), stderr)}{star(curve.is_proven(last))} nats: {int(wrong[2])} against "
            f"{int(good[2])} samples."
        )


def extremes(facts: Facts) -> Iterator[str]:
    """Name the samples of which the deepest layer discards least and most, among those whose values are proven."""
    curve = facts.discarding
    if curve is None:
        return
    last = len(curve) - 1
    values, errors = curve.cells(last)
    there = np.nonzero(np.isfinite(values) & ~curve.found.failed[last])[0]
    if len(there) < _LEAST_SAMPLES:
        return
    least, most = int(there[np.argmin(values[there])]), int(there[np.argmax(values[there])])
    # A quantile for all pairs of samples would hardly differ from four standard errors.
    if not values[most] - values[least] > 4 * np.hypot(*np.nan_to_num(errors[[least, most]])):
        return

    def shown(sample: int) -> str:
        name = printable(facts.view.sample_names[sample])
        return f"{name} ({number_with_error(float(values[sample]), float(errors[sample]))} nats)"

    count, whole = len(there), int(curve.found.values["done"][last].sum())
    among = f"Of {count} samples" if count == whole else f"Of the {count} of {whole} samples whose values are proven"
    yield f"{among}, {curve.name(last)} discards least of {shown(least)} and most of {shown(most)}."


def agreement(facts: Facts) -> Iterator[str]:
    """Tell whether two entropies order the layers alike."""
    curves = facts.entropies
    for at, one in enumerate(curves):
        for two in curves[at + 1 :]:
            shared = [row for row in one.rows if row in two.rows]
            if len(shared) < 5:
                continue
            ranks = [
                np.argsort(np.argsort([each.value[each.rows.index(row)] for row in shared])) for each in (one, two)
            ]
            rho, p = _rank_correlation(ranks[0].astype(float), ranks[1].astype(float))
            is_proven = all(each.is_proven(*map(each.rows.index, shared)) for each in (one, two))
            if p < 1 - _CONFIDENCE:
                how = f"order the {len(shared)} layers {'alike' if rho > 0 else 'the other way round'}"
                yield f"{one.label} and {two.label} {how}: rank correlation {rho:+.2f}{star(is_proven)} (p = {p:.2g})."


def _rank_correlation(one: Numbers, two: Numbers) -> tuple[float, float]:
    """Return Spearman's correlation of ranks without ties, and its two-sided p-value by Student's t."""
    from scipy.special import stdtr

    rho = float(np.corrcoef(one, two)[0, 1])
    freedom = len(one) - 2
    t = abs(rho) * math.sqrt(freedom / max(1e-12, 1 - rho**2))
    return rho, float(2 * stdtr(freedom, -t))
