"""Sentences about the layers: where most is discarded, up to where little is, and what is discarded entirely."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...archive.means import mean_and_stderr
from ..floor import linear_floor, relative_alpha
from .facts import Curve, Facts, mean_over_samples

#: Share of the curve's whole rise, and a number of nats, that a layer must exceed to stand out from the first.
_CLEAR_SHARE, _CLEAR_NATS = 0.25, 0.05
#: Share of the whole rise that a single step must make to be told.
_STEEP_SHARE = 0.4
_MOST_NAMED = 3
_LEAST_IGNORED = 0.01
_HIGHEST = {"sid": "Most is discarded in", "ru": "The input can be reconstructed least from"}


def where_most(facts: Facts) -> Iterator[str]:
    """Name the layer with the highest mean of each entropy, or those that cannot be told apart from it."""
    for curve in facts.entropies:
        yield _where_most(curve)
        if curve.left_out:
            yield (
                f"{curve.left_out} further {_layers(curve.left_out)} of {curve.label} "
                f"{'has' if curve.left_out == 1 else 'have'} a budget relative to another quantity, not compared here."
            )


def _where_most(curve: Curve) -> str:
    if len(curve) == 1:
        return f"{curve.label} of {curve.name(0)} is {curve.text(0)} nats per input unit."
    order = np.argsort(-curve.value, kind="stable").tolist()
    top, lowest = order[0], order[-1]
    rise = curve.difference(top, lowest)
    if not rise.is_certain:
        return (
            f"With {rise.n} {'sample' if rise.n == 1 else 'samples'}, it is not certain that {curve.label} differs "
            f"between the {len(curve)} layers: it is between {curve.text(lowest)} and {curve.text(top)} nats per "
            "input unit."
        )
    verb = _HIGHEST.get(curve.found.metric.name, f"{curve.label} is highest in")
    tied = [layer for layer in order if layer == top or not curve.difference(top, layer).is_certain]
    more = f"{rise} more than in {curve.name(lowest)}, where it is least."
    if len(tied) == 1:
        return f"{verb} {curve.name(top)}: {curve.label} {curve.text(top)} nats per input unit, {more}"
    if len(tied) <= _MOST_NAMED:
        names = " and ".join(f"{curve.name(layer)} ({curve.text(layer)} nats)" for layer in tied)
        return f"{verb} {names}, which do not differ beyond their errors: {curve.label} up to {more}"
    return (
        f"{verb} {curve.name(top)} ({curve.label} {curve.text(top)} nats per input unit), but {len(tied) - 1} other "
        f"layers do not differ from it beyond their errors; it is {more}"
    )


def until_where(facts: Facts) -> Iterator[str]:
    """Name the layer up to which little is discarded, and the first that discards clearly more than the first one."""
    curve = facts.discarding
    if curve is None or len(curve) < 3:
        return
    first_clear = _first_clear(curve)
    if first_clear is None:
        return
    more = f"{curve.name(first_clear)} is the first to discard clearly more, by {curve.difference(first_clear, 0)} nats"
    if first_clear == 1:
        yield f"Discarding begins at once: after {curve.name(0)} ({curve.text(0)} nats), {more}."
        return
    away = max(abs(curve.difference(layer, 0).mean) for layer in range(1, first_clear))
    yield (
        f"Little is discarded up to {curve.name(first_clear - 1)}: SID stays within {away:.2f} nats of that of "
        f"{curve.name(0)}, {curve.text(0)}; {more}."
    )


def _first_clear(curve: Curve) -> int | None:
    """Return the shallowest layer that lies clearly above the first one; None if there is none."""
    rise = curve.difference(int(np.argmax(curve.value)), 0)
    if not rise.is_certain or rise.mean < _CLEAR_NATS:
        return None
    least = max(_CLEAR_SHARE * rise.mean, _CLEAR_NATS)
    for layer in range(1, len(curve)):
        own = curve.difference(layer, 0)
        if own.is_certain and own.mean >= least:
            return layer
    return None


def largest_step(facts: Facts) -> Iterator[str]:
    """Name the two successive layers between which SID rises most, if this is a large part of the whole rise."""
    curve = facts.discarding
    if curve is None or len(curve) < 4:
        return
    rise = curve.difference(int(np.argmax(curve.value)), int(np.argmin(curve.value)))
    steps = [curve.difference(layer, layer - 1) for layer in range(1, len(curve))]
    at = int(np.argmax([step.mean for step in steps]))
    if rise.is_certain and steps[at].is_certain and steps[at].mean >= _STEEP_SHARE * rise.mean:
        yield f"The largest step is from {curve.name(at)} to {curve.name(at + 1)}: {steps[at]} nats."


def floor(facts: Facts) -> Iterator[str]:
    """Compare the lowest layer with the floor of a linear layer that uses all units alike."""
    curve = facts.discarding
    alpha = None if curve is None else relative_alpha(curve.found.recipe)
    if curve is None or alpha is None:
        return
    lowest, least = int(np.argmin(curve.value)), linear_floor(alpha)
    values, errors = curve.cells(lowest)
    above = mean_over_samples(values - least, errors, looks=len(curve))
    what = f"{least:.4f} nats, that of a linear layer that uses all input units alike (alpha {alpha:g})"
    if not above.is_certain:
        yield f"{curve.name(lowest)} is not certainly above the floor of {what}: {curve.text(lowest)} nats."
    elif above.mean > 0:
        yield f"{curve.name(lowest)} is closest to the floor of {what}: {above} above it."


def ignored_units(facts: Facts) -> Iterator[str]:
    """Name the layer that ignores the largest share of input units, whose noise is at its limit."""
    curve = facts.discarding
    if curve is None or "capped" not in curve.found.values:
        return
    shares = np.where(curve.found.values["done"], curve.found.values["capped"], np.nan)
    mean, stderr, _ = mean_and_stderr(100 * shares)
    if not np.isfinite(mean).any():
        return
    most = int(np.nanargmax(mean))
    if mean[most] >= 100 * _LEAST_IGNORED:
        error = f" ± {stderr[most]:.2g}" if np.isfinite(stderr[most]) and stderr[most] > 0 else ""
        yield (
            f"{curve.name(most)} ignores {mean[most]:.3g}{error} % of the input units: their noise is at sigma_max "
            "(mean over samples)."
        )


def _layers(count: int) -> str:
    return "layer" if count == 1 else "layers"
