"""Decide whether a run may grow by samples, layers or metrics, and which of its cells stay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ..config import as_setting, unrecorded
from .copying import Placement, schema_of
from .format import CHANNELS, PARTS, RETRY, Json, LayerRow, RunSchema, encode_attribute, mark_code, plain_text
from .reading import Run
from .sanity import ATTRIBUTE

#: Recipe fields that belong to a metric, by their beginning.
_OF_METRIC = {"ru_": "ru", "attack": "robustness", "sensitivity_": "sensitivity", "cka_": "cka", "vinfo_": "vinfo"}
#: Recipe fields that come with a metric but describe samples.
_OF_FOREGROUND = ("foreground_sha256", "without_foreground")
#: Digests of all samples, which change when samples are added.
_SAMPLES, _DECODER_SAMPLES = "samples_sha256", "ru_decoder_samples_sha256"
_FORWARD = "forward_layers"
#: Normalizers that do not depend on the other samples.
_OF_ITS_OWN = ("image", "absolute")
#: Metrics whose cells contain numbers of all samples.
_OF_ALL = ("sensitivity", "cka", "vinfo", "probe")
#: Metrics that depend neither on a budget nor on the unit of sigma.
_FREE = ("gradient", "gradcam", "cam")
#: Provenance that describes all samples, and is that of the newest analysis.
_OF_SAMPLES = (ATTRIBUTE, "unreadable_samples", "tags", CHANNELS, PARTS)
#: Solvers that begin at scales of their own.
BEGINNING_ANEW = ("forward", "reference")
#: Marks of cells that more passes may prove.
_RETRYABLE = ("ratio", "gap")

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Growth:
    """The requested run as a larger version of the existing one.

    Attributes
    ----------
    schema
        Its description.
    layers, samples
        Positions of the existing layers and samples in it.
    kept
        Cells of each metric that stay, of the existing run's shape.
    retried
        Cells of each metric that get more passes, or got them.
    added
        What is new, in words; empty if the existing run has all that is requested.
    why_lost
        Why finished cells are computed again; empty if none are.
    begins_retry
        Whether the unfinished run has to remember that unproven cells were asked to be tried again.
    """

    schema: RunSchema
    layers: tuple[int, ...]
    samples: tuple[int, ...]
    kept: Mapping[str, Bools]
    retried: Mapping[str, Bools]
    added: tuple[str, ...]
    why_lost: str
    begins_retry: bool

    @property
    def changes_nothing(self) -> bool:
        """Whether the existing run can be resumed as it is."""
        return not (self.added or self.why_lost or self.begins_retry)

    @property
    def starts_from_maps(self) -> bool:
        """Whether cells that are computed again for another budget start from the maps that they have."""
        is_wider = len(self.schema.sample_names) > len(self.samples)
        return is_wider and bool(self.why_lost) and "sid" in self.kept and can_start_from_maps(self.schema.recipe)

    def placement(self) -> Placement:
        """Return where the existing cells go."""
        return Placement(self.layers, self.samples, self.kept, self.retried)


def grown(existing: Run, wanted: RunSchema, compression: str) -> Growth | str:
    """Return how the existing run grows into the requested one, or how they differ.

    Parameters
    ----------
    existing
        The run in the archive.
    wanted
        The requested run, which must have all layers, samples and metrics of the existing one. If its provenance says
        ``retry_unproven``, cells that are unproven, but may be proven by more passes, are computed again, once.
    compression
        Storage of maps that is requested.
    """
    stored = schema_of(existing)
    samples = _places(stored.sample_names, wanted.sample_names)
    is_wider = samples is None or len(wanted.sample_names) > len(stored.sample_names)
    names = {metric.name for metric in stored.metrics}, {metric.name for metric in wanted.metrics}
    difference = _recipe_difference(stored.recipe, wanted.recipe, names, is_wider=is_wider)
    if samples is None:
        # Names of samples differ under another setting, too.
        return difference or _other_samples(stored, wanted)
    difference = difference or _facet_difference(stored, wanted, samples, existing.compression, compression)
    if difference is None and is_wider:
        difference = _content_difference(stored, wanted, samples)
    if difference is not None:
        return difference
    merged = _merged(stored, wanted, is_closed=existing.is_closed)
    rows = {row.name: position for position, row in enumerate(map(LayerRow.of, wanted.layers))}
    kept = {metric.name: existing.finished(metric.name) for metric in stored.metrics}
    retried = {metric.name: existing.retried(metric.name) for metric in stored.metrics}
    lost: list[str] = []
    if is_wider:
        lost += _drop_by_samples(kept, retried, stored, wanted)
    # An unfinished run that remembers the request has dropped what was unproven then.
    retries = RETRY in wanted.provenance and (existing.is_closed or RETRY not in stored.provenance)
    if retries:
        lost += _drop_unproven(kept, retried, existing)
    layers = tuple(rows[row.name] for row in map(LayerRow.of, stored.layers))
    added = tuple(_added(stored, merged))
    begins = retries and not existing.is_closed
    return Growth(merged, layers, tuple(samples), kept, retried, added, "; ".join(lost), begins)


def can_start_from_maps(recipe: Mapping[str, Json]) -> bool:
    """Whether more samples change the budgets of a run's cells, and its solver can start from their maps."""
    return recipe.get("solver") not in BEGINNING_ANEW and recipe.get("normalizer") not in _OF_ITS_OWN


def is_part_of(existing: Run, wanted: RunSchema) -> list[int] | None:
    """Return where the samples of a run are among those of a larger one; None if it did not grow to the larger one."""
    stored = schema_of(existing)
    samples = _places(stored.sample_names, wanted.sample_names)
    names = {metric.name for metric in stored.metrics}, {metric.name for metric in wanted.metrics}
    if samples is None or _recipe_difference(stored.recipe, wanted.recipe, names, is_wider=True) is not None:
        return None
    return None if _content_difference(stored, wanted, samples) is not None else samples


def _places(stored: Sequence[str], wanted: Sequence[str]) -> list[int] | None:
    """Positions of the stored samples among the wanted ones, in order; None if some are not there."""
    found, names = list[int](), [plain_text(name) for name in wanted]
    start = 0
    for name in map(plain_text, stored):
        try:
            start = names.index(name, start) + 1
        except ValueError:
            return None
        found.append(start - 1)
    return found


def _other_samples(stored: RunSchema, wanted: RunSchema) -> str:
    there, now = len(stored.sample_names), len(wanted.sample_names)
    if now < there and _places(wanted.sample_names, stored.sample_names) is not None:
        return f"it has {there} samples, and {now} of them are asked for now; runs grow, but do not shrink"
    return f"it has other samples: {there} there, of which some are not among the {now} now"


def _recipe_difference(
    there: Mapping[str, Json],
    now: Mapping[str, Json],
    metrics: tuple[set[str], set[str]],
    *,
    is_wider: bool,
) -> str | None:
    """Describe the first setting that differs; None if there is none."""
    # Settings that change the samples are named rather than the samples.
    keys = sorted(dict.fromkeys([*now, *there]), key=lambda key: key in (_SAMPLES, *_OF_FOREGROUND))
    for key in keys:
        if key == _FORWARD or (is_wider and key in (_SAMPLES, _DECODER_SAMPLES, *_OF_FOREGROUND)):
            continue
        owner = next((metric for start, metric in _OF_METRIC.items() if key.startswith(start)), None)
        if (key not in there or key not in now) and (
            key in _OF_FOREGROUND or (owner is not None and owner not in metrics[0] & metrics[1])
        ):
            continue
        first, second = (recipe[key] if key in recipe else unrecorded(key) for recipe in (there, now))
        if encode_attribute(first) != encode_attribute(second):
            return "it has other samples" if key == _SAMPLES else _in_words(key, first, second)
    return None


def _in_words(key: str, there: Json, now: Json) -> str:
    """Say what a setting is there and now; of one with several entries, the first that differs."""
    if isinstance(there, Mapping) and isinstance(now, Mapping):
        key = next(name for name in [*there, *now] if there.get(name) != now.get(name))
        there, now = there.get(key), now.get(key)
    (name, before), (_, after) = (as_setting(key, encode_attribute(each)) for each in (there, now))
    return f"{name} is {before} there, {after} now"


def _facet_difference(stored: RunSchema, wanted: RunSchema, samples: Sequence[int], there: str, now: str) -> str | None:
    """Describe what else differs: descriptions of shared layers and metrics, labels, axes and storage."""
    before = _rows(stored)
    names = {row.name for row in before}
    shared = [row for row in _rows(wanted) if row.name in names]
    metrics = {metric.name: metric.datasets() for metric in wanted.metrics}
    forward = [set(_listed(each.recipe.get(_FORWARD))) & names for each in (stored, wanted)]
    axes = [[*zip(each.axes, each.sample_shape, strict=True)] for each in (stored, wanted)]
    facets: dict[str, tuple[Any, Any]] = {
        "layers": (before, shared),
        "layers without gradients": (forward[0], forward[1]),
        "labels": (_labels(stored), _labels(wanted, samples)),
        "axes": (axes[0], axes[1]),
        "metrics": ([m.datasets() for m in stored.metrics], [metrics.get(m.name) for m in stored.metrics]),
        "compression": (there, now),
    }
    if len(stored.sample_names) == len(wanted.sample_names):
        units = [np.broadcast_to(each.unit, each.sample_shape).tolist() for each in (stored, wanted)]
        facets["input unit"] = units[0], units[1]
    return next((f"other {name}" for name, (before, after) in facets.items() if before != after), None)


def _rows(schema: RunSchema) -> list[LayerRow]:
    """Return the rows of layers, without the indices of parts of layers, which depend on what other parts there are."""
    parts = schema.provenance.get(PARTS)
    known = parts if isinstance(parts, Mapping) else {}
    rows = map(LayerRow.of, schema.layers)
    return [replace(row, index=0) if row.name in known else row for row in rows]


def _content_difference(stored: RunSchema, wanted: RunSchema, samples: Sequence[int]) -> str | None:
    """Describe how the stored samples differ from those of the same names; None if they do not."""
    if wanted.digest_of is None or wanted.digest_of(samples) != stored.recipe.get(_SAMPLES):
        return "it has other samples of the same names"
    for name, there, now in (("thumbnails", stored.thumbnails, wanted.thumbnails),):
        if (there is None) != (now is None):
            return f"other {name}"
    if stored.foreground is not None and (
        wanted.foreground is None or not np.array_equal(stored.foreground, wanted.foreground[[*samples]])
    ):
        return "other foreground"
    return None


def _merged(stored: RunSchema, wanted: RunSchema, *, is_closed: bool) -> RunSchema:
    """Return the description of the larger run, which keeps the provenance of the first cells."""
    newest = {key: wanted.provenance[key] for key in _OF_SAMPLES if key in wanted.provenance}
    # A closed run has done what it was asked to try again.
    before = {key: value for key, value in stored.provenance.items() if not (key == RETRY and is_closed)}
    return replace(wanted, provenance={**wanted.provenance, **before, **newest})


def _drop_by_samples(
    kept: dict[str, Bools], retried: dict[str, Bools], stored: RunSchema, wanted: RunSchema
) -> list[str]:
    """Drop the cells that depend on the set of samples; say why."""
    units = [np.broadcast_to(each.unit, each.sample_shape) for each in (stored, wanted)]
    if not np.array_equal(units[0], units[1]):
        reason = "the input's standard deviation, the unit of sigma, changes with the samples"
    elif stored.recipe.get("normalizer") not in _OF_ITS_OWN or stored.recipe.get(_FORWARD):
        reason = "the budget of every layer changes with the samples"
    else:
        reason = ""
    dropped = [
        name
        for name in kept
        if (reason and name not in _FREE)
        or name in _OF_ALL
        or (name == "ru" and stored.recipe.get(_DECODER_SAMPLES) != wanted.recipe.get(_DECODER_SAMPLES))
    ]
    found = [name for name in dropped if kept[name].any()]
    for name in dropped:
        kept[name], retried[name] = np.zeros_like(kept[name]), np.zeros_like(retried[name])
    fallback = "the decoders' training samples change" if "ru" in found else "some numbers are of all samples"
    return [reason or fallback] if found else []


def _drop_unproven(kept: dict[str, Bools], retried: dict[str, Bools], existing: Run) -> list[str]:
    """Drop unproven cells that more passes may prove, and that have not had them."""
    count = 0
    for metric in kept:
        again = kept[metric] & ~retried[metric] & unproven(existing, metric)
        kept[metric], retried[metric] = kept[metric] & ~again, retried[metric] | again
        count += int(again.sum())
    return [f"{count} unproven cells get more passes"] if count else []


def unproven(run: Run, metric: str) -> Bools:
    """Tell which finished cells, (layer, sample), are unproven in a way that more passes may mend."""
    values = run.values(metric)
    found: Bools = values["done"] & ~values["converged"]
    if "mark" in values:
        found &= np.isin(values["mark"], [mark_code(name) for name in _RETRYABLE])
    return found


def _added(stored: RunSchema, merged: RunSchema) -> list[str]:
    counts = {
        "sample": len(merged.sample_names) - len(stored.sample_names),
        "layer": len(merged.layers) - len(stored.layers),
    }
    found = [f"{count} {name}{'s'[: count != 1]}" for name, count in counts.items() if count]
    names = {metric.name for metric in stored.metrics}
    return found + [f"metric {metric.name}" for metric in merged.metrics if metric.name not in names]


def _labels(schema: RunSchema, samples: Sequence[int] | None = None) -> list[str] | None:
    if schema.labels is None:
        return None
    labels = np.asarray(schema.labels, dtype=object)
    return [str(label) for label in (labels if samples is None else labels[[*samples]]).tolist()]


def _listed(value: Json) -> list[str]:
    return [str(each) for each in value] if isinstance(value, list) else []
