"""What the networks of ``coherency.py`` say about the paper's claim, over layers, images and training seeds.

``python -m onnxinfo.models.studies.rescaled FOLDER/coherency.csv -o study/coherency`` writes a table and a figure for
each network, and ``power.md``, which judges all claims.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas

import onnxinfo
from onnxinfo.views.power import samples_needed
from onnxinfo.workflows.coherency import ORIGINAL, RESCALED

from .cells import cells, difference, layers_of, over_seeds, rise, unproven, unproven_fraction
from .claims import DOUBTFUL, FRACTION
from .coherency import archive_of
from .script import as_script
from .tables import Rows, markdown, results_options, show
from .two_level import (
    LEAST_IMAGES,
    REFUTED,
    SEEN,
    TOO_FEW,
    UNDECIDED,
    TwoLevel,
    images_needed,
    judge_similarity,
    seeds_needed,
    similarity_margin,
    wanting,
)

#: Metrics in nats, which are claimed to stay the same, with the one whose rise through the network is their measure.
NATS = {"sid": "sid", "ru": "ru", "concentration": "sid"}
#: Magnitudes, which are claimed to change; they are compared by their logarithms.
MAGNITUDES = ("gradient", "gradcam")
#: The verdict on "changes by more than the effect" that follows from the verdict on "changes by less".
NEGATED = {SEEN: REFUTED, REFUTED: SEEN, UNDECIDED: UNDECIDED}


def of_metric(found: pandas.DataFrame, metric: str) -> pandas.DataFrame:
    """Return the cells of a metric; of a magnitude their logarithms, which a map of zeros has not."""
    chosen = found[found.metric == metric]
    if metric not in MAGNITUDES:
        return chosen
    positive = chosen.value.where(chosen.value > 0)
    return chosen.assign(value=np.log(positive), stderr=chosen.stderr / positive)


def changes(found: pandas.DataFrame, metric: str, layers: tuple[str, ...]) -> pandas.DataFrame:
    """Return the change of a metric by the rescaling, image by image, in the mean over some layers."""
    chosen = of_metric(found, metric)
    return difference(*(cells(chosen, name, layers) for name in (ORIGINAL, RESCALED)))


def error_of(found: TwoLevel) -> float:
    """Return the larger of both errors; for a single network that over images, which says nothing about others."""
    return found.over_images if found.seeds == 1 else found.stderr


def effect_of(found: pandas.DataFrame, metric: str) -> float:
    """Return the reference effect: a tenth of the rise from the first layer to the last, or of the magnitude itself."""
    if metric in MAGNITUDES:
        return math.log1p(FRACTION)
    return FRACTION * rise(of_metric(found, NATS[metric]), ORIGINAL)


def power_rows(found: pandas.DataFrame) -> Iterator[dict[str, str]]:
    """Yield a line for each network and metric."""
    for model, its in found.groupby("model", sort=False):
        for metric in (*NATS, *MAGNITUDES):
            if divided := tuple(layers_of(its[its.divided & (its.metric == metric)], ORIGINAL)):
                yield _power_row(its, metric, str(model), divided)


def _power_row(found: pandas.DataFrame, metric: str, model: str, divided: tuple[str, ...]) -> dict[str, str]:
    doubtful = doubtful_layers(found, metric, divided)
    sound = tuple(layer for layer in divided if layer not in doubtful)
    cells_changed = changes(found, metric, sound or divided)
    change, effect = over_seeds(cells_changed), effect_of(found, metric)
    each = round(change.images / change.seeds)
    where = f" in {', '.join(sound)} (elsewhere most are not proven)" if sound and doubtful else ""
    return {
        "network": model,
        "claim": f"{metric} {'changes' if metric in MAGNITUDES else 'stays the same'}{where}",
        "effect": f"{effect:.4f}",
        "measured": with_error(change),
        "error over images": f"{change.over_images:.4f}",
        "sd of seeds": f"{change.sd_seed:.4f}" if change.seeds > 1 else "",
        "sd of images": f"{change.sd_image:.4f}",
        "here": f"{change.seeds} x {each}",
        "unproven": unproven(cells_changed),
        **_needed(change, effect / 2, each),
        "verdict": _verdict(change, effect, metric) if sound else f"not judged: {unproven(cells_changed)} are unproven",
    }


def doubtful_layers(found: pandas.DataFrame, metric: str, layers: tuple[str, ...]) -> list[str]:
    """Return the layers in which a metric has no value, or so many unproven ones that it is not judged there."""
    fractions = {layer: unproven_fraction(changes(found, metric, (layer,))) for layer in layers}
    return [layer for layer, fraction in fractions.items() if not fraction <= DOUBTFUL]


def _verdict(change: TwoLevel, effect: float, metric: str) -> str:
    """Return whether a metric in nats stays the same, or a magnitude changes, and what that lacks if undecided."""
    if change.seeds == 1 and change.images < LEAST_IMAGES:
        return TOO_FEW
    verdict = judge_similarity(change.mean, error_of(change), effect)
    verdict = NEGATED[verdict] if metric in MAGNITUDES else verdict
    return verdict + _wanting(change, effect, round(change.images / change.seeds)) if verdict == UNDECIDED else verdict


def _needed(change: TwoLevel, difference: float, images: int) -> dict[str, str]:
    """Return the numbers of seeds and of images per seed that show a difference; of one network only the latter."""
    if change.seeds == 1:
        return {"seeds needed": "", "images needed": str(_images_alone(change, difference))}
    seeds, low, high = seeds_needed(change, difference, images)
    enough = images_needed(change, difference, change.seeds)
    return {
        "seeds needed": f"{seeds} ({low} to {high})",
        "images needed": f"{max(1, enough):.0f}" if math.isfinite(enough) else "∞",
    }


def _images_alone(change: TwoLevel, difference: float) -> int:
    return samples_needed(change.sd_image, difference)


def _wanting(change: TwoLevel, effect: float, images: int) -> str:
    """Return what an undecided claim lacks, as text."""
    stderr, margin = error_of(change), similarity_margin(change.mean, effect)
    if change.seeds == 1:
        return wanting(_images_alone(change, effect / 2), change.images, stderr, margin, " images")
    seeds, _, _ = seeds_needed(change, effect / 2, images)
    return wanting(seeds, change.seeds, stderr, margin, f" seeds of {images} images")


def with_error(found: TwoLevel) -> str:
    """Return a mean and the error that decides as text."""
    return f"{_signed(found.mean, 4)} ± {error_of(found):.4f}"


def _signed(number: float, digits: int) -> str:
    """Return a number with its sign, plus for zero."""
    return f"{round(number, digits) + 0.0:+.{digits}f}"


def layer_rows(found: pandas.DataFrame) -> Rows:
    """Return the table of one network: each metric before, and its change, layer by layer."""
    rows = []
    for layer in layers_of(found, ORIGINAL):
        of_layer = found[found.layer == layer]
        for metric in (*NATS, *MAGNITUDES):
            if (of_layer.metric == metric).any():
                rows.append(_layer_row(of_layer, metric, layer))
    return rows


def _layer_row(found: pandas.DataFrame, metric: str, layer: str) -> dict[str, str]:
    before = over_seeds(cells(found[found.metric == metric], ORIGINAL, (layer,)))
    table = changes(found, metric, (layer,))
    change = over_seeds(table)
    least, most = table.value.min(), table.value.max()
    row = {
        "layer": layer,
        "metric": metric,
        "divided": "yes" if found.divided.any() else "no",
        "before": f"{before.mean:.4f} ± {error_of(before):.4f}",
        "after - before": with_error(change),
        "of single images": f"{_signed(least, 5)} to {_signed(most, 5)}",
        "unproven": unproven(table),
    }
    if metric in MAGNITUDES:
        row["after - before"] = f"times {math.exp(change.mean):.4f}"
        row["of single images"] = f"times {math.exp(least):.4f} to {math.exp(most):.4f}"
    return row


def study_text(path: Path, model: str) -> str:
    """Return the table and the accuracy of a network from the file of cells."""
    found = pandas.read_csv(path)
    found = found[found.model == model]
    rows = found.drop_duplicates(["seed", "network"]).groupby("network", sort=False).accuracy
    reached = ", ".join(f"{name} {each.mean():.3f}" for name, each in rows)
    return f"{markdown(layer_rows(found))}\nAccuracy: {reached}.\n"


def power_text(path: Path) -> str:
    """Return the table that judges all claims."""
    return markdown([*power_rows(pandas.read_csv(path))])


def main() -> None:
    """Write the tables, and a figure of each network whose archive is beside the file."""
    path, output = results_options(__doc__)
    found = pandas.read_csv(path).drop_duplicates("model")
    for model, seed in zip(found.model, found.seed, strict=True):
        (output / f"{model}.md").write_text(study_text(path, model), encoding="utf-8")
        archive = archive_of(path.parent, model, seed)
        if archive.exists():
            onnxinfo.plot(archive, "coherency", output / f"{model}.png", samples=[0])
    show(power_text(path), output / "power.md")


if __name__ == "__main__":
    as_script(main)
