"""Data of a run for the report, as plain JSON values."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ...archive.means import layer_summary, mark_names
from ...archive.sanity import ATTRIBUTE
from ...archive.table import run_table
from ...config import as_setting
from ...text import minus_signs, printable
from ..floor import linear_floor, relative_alpha
from ..panels import color_limits, flat_map, mean_of_known
from ..reading_runs import metric_label
from ..run_view import RunView
from ..sentences.samples import accuracy
from ..style import evenly, short_names
from ..summary import tell
from ..wording import mean_text, rounding_text, unproven_text
from .headline import key_figures

#: Maps are encoded with one byte per pixel; 255 is a pixel without a value.
LEVELS, MISSING = 254, 255
MOST_SIDE = 64
MOST_CELLS = 40_000
#: Limit for all maps of a report together, before base64.
MAP_BYTES = 3_000_000
MOST_SAMPLES = 64


@dataclass(frozen=True)
class Rows:
    """A list of lists for JSON, kept as an array, which takes a quarter of the memory.

    Parameters
    ----------
    data
        The array.
    encode
        Turns a row into a list.
    """

    data: npt.NDArray[Any]
    encode: Callable[[npt.NDArray[Any]], list[Any]]

    def __iter__(self) -> Iterator[list[Any]]:
        """Yield the rows as lists."""
        return map(self.encode, self.data)


def json_pieces(value: Any) -> Iterator[str]:
    """Yield JSON in pieces: one for each list or mapping that contains no others."""
    if isinstance(value, Rows):
        yield from _listed(value, "[]")
        return
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if not any(isinstance(item, dict | list | Rows) for item in items):
        yield json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return
    yield from _listed(value, "{}" if isinstance(value, dict) else "[]")


def _listed(value: dict[str, Any] | list[Any] | Rows, brackets: str) -> Iterator[str]:
    yield brackets[0]
    for number, item in enumerate(value):
        yield "," if number else ""
        if isinstance(value, dict):
            yield f"{json.dumps(item, ensure_ascii=False)}:"
        yield from json_pieces(value[item] if isinstance(value, dict) else item)
    yield brackets[1]


def run_data(view: RunView, budget: int) -> dict[str, Any]:
    """Return everything that the report shows of a run.

    Parameters
    ----------
    view
        The run, or a part of it.
    budget
        Bytes for maps; if they do not fit, samples are thinned out evenly, and the number left out is reported.
    """
    # Before the numbers are kept, so that they are not in memory twice.
    figures = [dataclasses.asdict(each) for each in key_figures(view)]
    # The accuracy and the number of warnings are said elsewhere on the page.
    said = [minus_signs(printable(text)) for text in tell(view, without=(accuracy,))]
    shorts = short_names([row.name for row in view.layers], 24)
    layers = [
        {
            "name": row.name,
            "index": row.index,
            "short": short,
            "op": row.op,
            "node": row.node,
            "depth": row.depth,
            "parameters": row.parameters,
            "shape": row.shape,
        }
        for row, short in zip(view.layers, shorts, strict=True)
    ]
    return {
        "name": view.name,
        "model": str(view.run.provenance.get("model_name", "")),
        "created": view.run.created,
        "status": view.run.status,
        "recipe": settings_texts(view.run.recipe),
        "provenance": _texts({key: value for key, value in view.run.provenance.items() if key != ATTRIBUTE}),
        "card": _card(view),
        "predictions": _predictions(view),
        "correct": _correct(view),
        "layers": layers,
        "samples": [printable(name) for name in view.sample_names],
        "labels": None if view.labels is None else [printable(label) for label in view.labels],
        "axes": list(view.axes),
        "metrics": [_metric(view, metric.name) for metric in view.metrics],
        "gallery": _gallery(view, budget),
        "inputs": _inputs(view),
        "warnings": warnings(view),
        "figures": figures,
        "sentences": _with_short_names(said, [printable(row.name) for row in view.layers], shorts),
    }


def _with_short_names(sentences: Sequence[str], names: Sequence[str], shorts: Sequence[str]) -> list[str]:
    """Return sentences that name layers as curve and graph do, where their own names are longer."""
    longer = {name: short for name, short in zip(names, shorts, strict=True) if len(short) < len(name)}
    if not longer:
        return list(sentences)
    either = "|".join(re.escape(name) for name in sorted(longer, key=len, reverse=True))
    # A name may be a part of another one.
    whole = re.compile(rf"(?<![\w/.])(?:{either})(?![\w/])")
    return [whole.sub(lambda found: longer[found[0]], text) for text in sentences]


def _card(view: RunView) -> list[str]:
    """Return the sanity card without its warnings, which are listed with the others."""
    card = view.run.sanity
    return [] if card is None else [minus_signs(line) for line in dataclasses.replace(card, warnings=()).lines()]


def _predictions(view: RunView) -> list[str] | None:
    """Return the predicted class of each sample and its probability, in words; None if not recorded."""
    predicted, probability = view.run.predicted, view.run.probability
    if predicted is None or probability is None:
        return None
    names, at = class_names(view), view.sample_positions
    pairs = zip(predicted[at].tolist(), probability[at].tolist(), strict=True)
    return [
        f"{names[number] if number < len(names) else f'class {number}'} ({share:.2f})"
        if number >= 0
        else "scores not finite"
        for number, share in pairs
    ]


def class_names(view: RunView) -> list[str]:
    """Return the names of the classes, if the samples' labels are words and every class has one; else none.

    Words stand for classes in alphabetical order, as they do for the accuracy.
    """
    labels, card = view.run.labels, view.run.sanity
    if labels is None or card is None or view.run.correct is None:
        return []
    names = sorted({str(label) for label in labels})
    words = not np.issubdtype(np.asarray(labels).dtype, np.integer)
    return [printable(name) for name in names] if words and len(names) == card.classes else []


def _correct(view: RunView) -> list[bool | None] | None:
    """Return whether each sample is classified as labeled; None where, or if, unknown."""
    found = view.run.correct
    if found is None:
        return None
    return [bool(value) if math.isfinite(value) else None for value in found[view.sample_positions]]


def warnings(view: RunView) -> list[str]:
    """Return warnings that a reader must see before trusting the numbers."""
    card = view.run.sanity
    found = [] if card is None else [f"{printable(text)}." for text in card.warnings]
    if view.run.status != "complete":
        found.append(f"The run is {view.run.status}: cells are missing.")
    unreadable = view.run.provenance.get("unreadable_samples")
    if isinstance(unreadable, list) and unreadable:
        found.append(f"{len(unreadable)} samples could not be read and were left out.")
    for metric in view.metrics:
        values = view.values(metric.name)
        if text := rounding_text(values):
            found.append(f"{metric.name}: {text}.")
        for layer, row in enumerate(view.layers):
            text = unproven_text([{name: data[[layer]] for name, data in values.items()}])
            if text:
                found.append(f"{metric.name} of {printable(row.name)}: {text}.")
    return found


def numbers(values: npt.NDArray[Any]) -> list[float | None]:
    """Return numbers for JSON, which has no NaN."""
    return [round(float(value), 6) if math.isfinite(value) else None for value in values]


def _texts(mapping: Any) -> list[list[str]]:
    return [
        [printable(key), printable(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))]
        for key, value in mapping.items()
    ]


#: Titles of entries of the recipe that are not settings.
_TITLES = {
    "model_sha256": "SHA-256 of the model",
    "samples_sha256": "SHA-256 of the samples",
    "perturbed": "noise added to",
    "unit_axis": "axis of the input's units",
}


def settings_texts(recipe: Mapping[str, Any]) -> list[list[str]]:
    """Return the recipe as pairs of words: settings under their names, those with parts in one line each.

    Hashes come last; settings without a value are left out.
    """
    rows = []
    for key in sorted(recipe, key=lambda each: each.endswith("sha256")):
        name, value = as_setting(key, recipe[key])
        parts = value.items() if isinstance(value, Mapping) else [("", value)]
        words = [f"{part} {_words(each)}".strip() for part, each in parts if each is not None]
        if words:
            rows.append([printable(_TITLES.get(key, name)), printable("; ".join(words))])
    return rows


def _words(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple) and not any(isinstance(each, list | tuple | Mapping) for each in value):
        return ", ".join(map(_words, value))
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


#: Quantiles that the spread over samples lies between.
SPREAD = (0.1, 0.9)


def _spread(values: Mapping[str, npt.NDArray[Any]]) -> tuple[list[float | None], list[float | None]]:
    """Return the limits of the middle 80 % of each layer's samples."""
    found = np.where(values["done"], values["value"], np.nan)
    limits = np.full((2, len(found)), np.nan)
    for layer, row in enumerate(found):
        there = row[np.isfinite(row)]
        if there.size:
            limits[:, layer] = np.quantile(there, SPREAD)
    return numbers(limits[0]), numbers(limits[1])


def floor_of(view: RunView, metric: str) -> float | None:
    """Return the value below which a metric does not fall: that of a linear layer for SID, 0 for concentration."""
    if metric == "concentration":
        return 0.0
    alpha = relative_alpha(view.run.recipe)
    return round(linear_floor(alpha), 6) if metric == "sid" and alpha is not None else None


def _metric(view: RunView, name: str) -> dict[str, Any]:
    values = view.values(name)
    summary = layer_summary(values)
    described = view.run.metric(name)
    low, high = _spread(values)
    return {
        "name": name,
        "label": metric_label(described),
        "long_name": described.long_name,
        "mean": numbers(summary["value"]),
        "stderr": numbers(summary["stderr"]),
        "low": low,
        "high": high,
        "floor": floor_of(view, name),
        "n": summary["n"].tolist(),
        "n_converged": summary["n_converged"].tolist(),
        "n_missing": summary["n_missing"].tolist(),
        "gap": numbers(summary["gap"]),
        "mark": summary["mark"].tolist(),
        "words": _in_words(summary),
        "values": Rows(values["value"], numbers),
        "errors": Rows(values["stderr"], numbers),
        "converged": Rows(values["converged"], lambda row: row.astype(int).tolist()),
        "gaps": Rows(values["gap"], numbers) if "gap" in values else None,
        "marks": Rows(values["mark"], lambda row: mark_names({"mark": row}).tolist()) if "mark" in values else None,
    }


def _inputs(view: RunView) -> list[dict[str, Any]]:
    """Return the means of every input by metric and layer, if noise was added to several."""
    if len(view.parts) < 2:
        return []
    table = run_table(view, "input")
    keys = ("input", "metric", "layer", "value", "stderr", "n", "n_converged", "n_missing")
    positions = {row.name: position for position, row in enumerate(view.layers)}
    rows = [dict(zip(keys, row, strict=True)) for row in zip(*(table[key] for key in keys), strict=True)]
    return [
        row
        | {"input": printable(row["input"]), "layer": positions[row["layer"]]}
        | dict(zip(("value", "stderr"), numbers(np.array([row["value"], row["stderr"]])), strict=True))
        for row in rows
    ]


def _in_words(summary: Mapping[str, npt.NDArray[Any]]) -> list[str]:
    """Return each layer's mean in words; empty if no cell is finished."""
    rows = [{key: column[i] for key, column in summary.items()} for i in range(len(summary["n"]))]
    return [minus_signs(mean_text(row)) if row["n"] else "" for row in rows]


def _gallery(view: RunView, budget: int) -> dict[str, Any] | None:
    """Return maps encoded as bytes, and the samples' pictures.

    If noise was added to several inputs, each with several axes has maps of its own, and all others together.
    """
    mapped = [metric.name for metric in view.metrics if metric.has_map]
    if not mapped:
        return None
    layers, panels = [*range(view.shape[0])], view.panels()
    each = max(1, sum(rows * columns for _, (rows, columns) in map(_reduction, panels)) * len(layers) * len(mapped))
    samples = evenly(view.shape[1], max(1, min(MOST_SAMPLES, MOST_CELLS // max(1, len(layers)), budget // each)))
    thumbnails = view.thumbnails
    return {
        "samples": samples,
        "units": _unit_names(view),
        "grid": any(_reduction(panel)[1][0] > 1 for panel in panels),
        "averaged": [axis for axis in ("channel", "embedding") if axis in view.axes],
        "pictures": None if thumbnails is None else [_png(thumbnails[sample]) for sample in samples],
        "maps": {_title(name, panel, panels): _coded(panel, name, samples) for name in mapped for panel in panels},
    }


def _unit_names(view: RunView) -> list[str] | None:
    """Return names of the pixels of a map of one row; None if it has several, or its units have no names."""
    names = view.unit_names if len(view.axes) < 2 else None
    return None if names is None else [printable(name) for name in names]


def _title(metric: str, panel: RunView, panels: Sequence[RunView]) -> str:
    if len(panels) == 1:
        return metric
    names = [printable(part.name) for part in panel.parts]
    return f"{metric} of {names[0]}" + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def _reduction(view: RunView) -> tuple[int, tuple[int, int]]:
    rows, columns = flat_map(np.zeros(view.sample_shape, np.float32), view.axes).shape
    step = max(1, math.ceil(max(rows, columns if rows > 1 else 0) / MOST_SIDE))
    return step, (max(1, rows // step), max(1, columns // step))


def _coded(view: RunView, metric: str, samples: list[int]) -> dict[str, Any]:
    """Encode maps with one byte per pixel, each layer between its own extremes, and choose limits of color scales."""
    step, shape = _reduction(view)
    codes = np.full((view.shape[0], len(samples), *shape), MISSING, dtype=np.uint8)
    layers, known = [], []
    for layer in range(view.shape[0]):
        found = _reduced(view.maps(metric, layer, samples), view.axes, step, shape)
        finite = found[np.isfinite(found)]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
        scaled = (found - low) / max(high - low, 1e-9) * LEVELS
        codes[layer] = np.where(np.isfinite(found), np.nan_to_num(scaled).round(), MISSING).astype(np.uint8)
        layers.append({"low": low, "high": high, "limits": [*color_limits([finite])]})
        known.append(finite)
    return {
        "metric": metric,
        "shape": list(shape),
        "step": step,
        "missing": bool((codes == MISSING).any()),
        "values": [numbers(row) for row in view.values(metric)["value"]],
        "layers": layers,
        "limits": [*color_limits(known)],
        "codes": base64.b64encode(codes.tobytes()).decode(),
    }


def _reduced(
    maps: npt.NDArray[np.float32], axes: Sequence[str], step: int, shape: tuple[int, int]
) -> npt.NDArray[np.float32]:
    """Average whole blocks of maps, so that small and large ones share a scale; (sample, *shape)."""
    found = np.full((len(maps), *shape), np.nan, dtype=np.float32)
    for place, values in enumerate(maps):
        flat = flat_map(values, axes)[: shape[0] * step, : shape[1] * step]
        found[place] = mean_of_known(flat.reshape(shape[0], step, shape[1], step), (1, 3))
    return found


def _png(pixels: npt.NDArray[np.uint8]) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
