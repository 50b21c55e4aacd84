"""Sentences about the input: edges of images, columns of tables, and objects against their background."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from ...archive.unit_means import unit_means
from ...text import printable
from ..run_view import RunView
from ..style import evenly
from ..wording import number_with_error
from .facts import Curve, Difference, Facts, mean_over_samples, pairs, star

#: Share of each side that is the edge of an image, and share that is left beside its center.
_EDGE, _BESIDE_CENTER = 1 / 8, 1 / 4
_MOST_SAMPLES, _MOST_LAYERS = 32, 8
#: Limit of the maps read by a rule, in numbers.
_MOST_NUMBERS = 1 << 24
_MOST_COLUMNS = 10_000


def image_edges(facts: Facts) -> Iterator[str]:
    """Tell whether the deepest layer discards the edges of images before their center, and from which layer on."""
    curve = facts.mapped
    if curve is None:
        return
    for view in facts.view.panels():
        if not {"y", "x"} <= set(view.axes) or min(_sides(view)) < 4:
            continue
        numbers = math.prod(view.sample_shape) * min(view.shape[1], _MOST_SAMPLES)
        count = max(1, min(_MOST_LAYERS, _MOST_NUMBERS // max(1, numbers)))
        chosen = [len(curve) - 1 - at for at in evenly(len(curve), count)][::-1]
        found = [(layer, _edge_difference(view, facts, curve, layer, len(chosen))) for layer in chosen]
        yield from _edge_sentence(found, curve.name)


def _edge_sentence(found: list[tuple[int, Difference]], name: Callable[[int], str]) -> Iterator[str]:
    last, difference = found[-1]
    if not difference.is_certain:
        return
    since = last
    for layer, each in reversed(found):
        if not each.is_certain or (each.mean > 0) != (difference.mean > 0):
            break
        since = layer
    alike = f", as in all examined layers from {name(since)} on" if since != last else ""
    where = "The edges of the image are discarded first" if difference.mean > 0 else "The edges of the image are kept"
    side = "above" if difference.mean > 0 else "below"
    size = f"{abs(difference)} nats {side} that of the center"
    yield f"{where}: in {name(last)}, SID of the outer eighth is {size}{alike}."


def _sides(view: RunView) -> tuple[int, int]:
    return view.sample_shape[view.axes.index("y")], view.sample_shape[view.axes.index("x")]


def _edge_difference(view: RunView, facts: Facts, curve: Curve, layer: int, looks: int) -> Difference:
    """Return how much more of the edges than of the center a layer discards."""
    samples = evenly(view.shape[1], _MOST_SAMPLES)
    maps = np.moveaxis(
        view.maps("sid", facts.position(curve.rows[layer]), samples).astype(np.float64),
        [1 + view.axes.index(axis) for axis in "yx"],
        [-2, -1],
    )
    flat = maps.reshape(len(samples), -1, *_sides(view)).mean(axis=1)
    edge, center = regions(*_sides(view))
    values = flat[:, edge].mean(axis=1) - flat[:, center].mean(axis=1)
    is_proven = not curve.found.unproven[layer, samples].any()
    return mean_over_samples(values, np.full(len(values), np.nan), looks, is_proven=is_proven)


def regions(height: int, width: int) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Return masks of the edge and of the center of an image, (height, width)."""
    edge, center = np.ones((height, width), dtype=bool), np.zeros((height, width), dtype=bool)
    thick = [max(1, round(_EDGE * side)) for side in (height, width)]
    edge[thick[0] : height - thick[0], thick[1] : width - thick[1]] = False
    inner = [max(1, round(_BESIDE_CENTER * side)) for side in (height, width)]
    center[inner[0] : height - inner[0], inner[1] : width - inner[1]] = True
    return edge, center


def columns(facts: Facts) -> Iterator[str]:
    """Name the columns of a table that the deepest layer keeps in most and in least detail."""
    curve, view = facts.mapped, facts.view
    names = view.unit_names
    if curve is None or len(view.axes) != 1 or not (names or view.axes == ("feature",)):
        return
    count = view.sample_shape[0]
    if not 2 <= count <= _MOST_COLUMNS or count * view.shape[1] > _MOST_NUMBERS:
        return
    last = len(curve) - 1
    layer = facts.position(curve.rows[last])
    means = unit_means(view, "sid", view.values("sid"), layer)
    if not np.isfinite(means.value).any():
        return
    kept, lost = int(np.nanargmin(means.value)), int(np.nanargmax(means.value))
    maps = view.maps("sid", layer).astype(np.float64)
    apart = mean_over_samples(maps[:, lost] - maps[:, kept], np.full(len(maps), np.nan), looks=pairs(count))
    if not apart.is_certain:
        return

    def shown(unit: int) -> str:
        name = printable(names[unit]) if names else f"column {unit}"
        number = number_with_error(float(means.value[unit]), float(means.stderr[unit]))
        return f"{name} ({number}{star(means.proven == means.samples)} nats)"

    yield f"Of {count} columns, {curve.name(last)} keeps {shown(kept)} in most detail and {shown(lost)} in least."


def objects(facts: Facts) -> Iterator[str]:
    """Tell whether the deepest layer keeps the object rather than the background."""
    curve = facts.curves.get("concentration")
    if curve is None:
        return
    last = len(curve) - 1
    found = mean_over_samples(*curve.cells(last), is_proven=curve.is_proven(last))
    value = f"concentration {found} nats"
    if not found.is_certain:
        yield f"{curve.name(last)} discards object and background alike: {value}, zero within its error."
    elif found.mean > 0:
        yield f"{curve.name(last)} keeps the object rather than the background: {value}."
    else:
        yield f"{curve.name(last)} keeps the background rather than the object: {value}."
