"""Sentences about the layers: where most is discarded, up to where little is, and what is discarded entirely."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...archive.means import mean_and_stderr
from ..floor import linear_floor, relative_alpha
from ..wording import rounded_up
from .facts import Curve, Facts, mean_over_samples, star

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
    if curve.extremes is None:
        highest, lowest = curve.order[0], curve.order[-1]
        n = curve.difference(highest, lowest).n
        return (
            f"With {n} {'sample' if n == 1 else 'samples'}, it is not certain that {curve.label} differs "
            f"between the {len(curve)} layers: it is between {curve.text(lowest)} and {curve.text(highest)} nats per "
            "input unit."
        )
    top, least = curve.extremes
    verb = _HIGHEST.get(curve.found.metric.name, f"{curve.label} is highest in")
    below = curve.clearly_below(top)
    tied = [layer for layer in curve.order if not below[layer]]
    where = ", where it is least" if least == curve.order[-1] else ""
    more = f"{curve.difference(top, least)} more than in {curve.name(least)}{where}."
    if len(tied) == 1:
        return f"{verb} {curve.name(top)}: {curve.label} {curve.text(top)} nats per input unit, {more}"
    if len(tied) <= _MOST_NAMED:
        names = " and ".join(f"{curve.name(layer)} ({curve.text(layer)} nats)" for layer in tied)
        return f"{verb} {names}, which do not differ beyond their errors: {curve.label} of {curve.name(top)} is {more}"
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
    layer, least = first_clear
    start, by = f"{curve.name(0)} ({curve.text(0)} nats)", f"by {curve.difference(layer, 0)} nats"
    if layer == 1:
        yield f"Discarding begins at once: after {start}, {curve.name(1)} is the first to discard clearly more, {by}."
        return
    within = max(curve.difference(other, 0).bound for other in range(1, layer))
    if within < least:
        yield (
            f"Little is discarded up to {curve.name(layer - 1)}: SID stays within {rounded_up(within)} nats of that of "
            f"{curve.name(0)}, {curve.text(0)}; {curve.name(layer)} is the first to discard clearly more, {by}."
        )
    else:
        yield f"{curve.name(layer)} is the first to discard clearly more than {start}, {by}."


def _first_clear(curve: Curve) -> tuple[int, float] | None:
    """Return the shallowest layer that lies clearly above the first one, and the least rise that is clear, or None."""
    above = {layer: curve.difference(layer, 0) for layer in range(1, len(curve))}
    rises = {layer: rise.mean for layer, rise in above.items() if rise.is_certain}
    most = max(rises.values(), default=0.0)
    least = max(_CLEAR_SHARE * most, _CLEAR_NATS)
    return next(((layer, least) for layer, rise in rises.items() if rise >= least), None)


def largest_step(facts: Facts) -> Iterator[str]:
    """Name the two successive layers between which SID rises most, if this is a large part of the whole rise."""
    curve = facts.discarding
    if curve is None or len(curve) < 4:
        return
    steps = {layer: curve.difference(layer, layer - 1) for layer in range(1, len(curve))}
    clear = {layer: step.mean for layer, step in steps.items() if step.is_certain}
    if curve.extremes is None or not clear:
        return
    at = max(clear, key=clear.__getitem__)
    if clear[at] >= _STEEP_SHARE * curve.difference(*curve.extremes).mean:
        yield f"The largest clear step is from {curve.name(at - 1)} to {curve.name(at)}: {steps[at]} nats."


def floor(facts: Facts) -> Iterator[str]:
    """Compare the lowest layer with the floor of a linear layer that uses all units alike."""
    curve = facts.discarding
    alpha = None if curve is None else relative_alpha(curve.found.recipe)
    if curve is None or alpha is None:
        return
    lowest, least = int(np.argmin(curve.value)), linear_floor(alpha)
    values, errors = curve.cells(lowest)
    above = mean_over_samples(values - least, errors, looks=len(curve), is_proven=curve.is_proven(lowest))
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
            f"{curve.name(most)} ignores {mean[most]:.3g}{error}{star(curve.is_proven(most))} % of the input units: "
            "their noise is at sigma_max (mean over samples)."
        )


def _layers(count: int) -> str:
    return "layer" if count == 1 else "layers"
