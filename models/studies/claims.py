"""What the networks of ``training.py`` say about the paper's claims, over training seeds.

``python -m onnxinfo.models.studies.claims FOLDER -o study/training`` reads ``FOLDER/damage.csv`` and the other studies'
files that are there, and writes for each a table and a picture, and ``power.md``, which judges all claims.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas

from onnxinfo.views.style import COLORS

from .common import mean_and_stderr
from .tables import Rows, markdown
from .two_level import (
    UNDECIDED,
    TwoLevel,
    images_needed,
    judge_direction,
    judge_similarity,
    seeds_needed,
    two_level,
)

#: The reference effect as a fraction of the network's own rise of SID from the first layer to the last.
FRACTION = 0.1
#: Least accuracy of a network that has learned: twice the chance level of ten classes.
LEARNED = 0.2


@dataclass(frozen=True)
class Claim:
    """A statement about the change of SID from one network to another.

    Attributes
    ----------
    study, text
        Name of the study, and the statement.
    first, second
        Names of networks.
    layers
        The mean over these layers is meant; none: over all.
    sign
        1 if SID rises, -1 if it falls, 0 if it stays similar.
    """

    study: str
    text: str
    first: str
    second: str
    layers: tuple[str, ...] = ()
    sign: int = 1


HIGH = ("relu_15", "linear_16")
CLAIMS = (
    Claim("damage", "rises at the damaged convolution", "original", "damaged", ("relu_8",)),
    Claim("damage", "rises after it", "original", "damaged", ("relu_11", *HIGH)),
    Claim("distillation", "falls", "without", "distilled", sign=-1),
    Claim("epochs", "falls first in high layers", "untrained", "a quarter", HIGH, -1),
    Claim("epochs", "then rises in high layers", "a quarter", "trained", HIGH),
    Claim("autoencoders", "stays similar", "classifier", "autoencoder", sign=0),
)
#: The network whose rise from the first layer to the last is the measure of the effects.
RISING = {"damage": "original", "distillation": "without", "epochs": "trained", "autoencoders": "classifier"}
#: Networks side by side in the table of a study; the others have the first one's layers.
SHOWN = {
    "damage": ("original", "damaged"),
    "distillation": ("without", "distilled"),
    "epochs": ("untrained", "a quarter", "trained"),
    "autoencoders": ("classifier", "autoencoder"),
}


def read(path: Path, normalizer: str) -> pandas.DataFrame:
    """Return a study's cells under one normalizer, without the seeds whose training failed."""
    found = pandas.read_csv(path)
    found = found[found.normalizer == normalizer].drop(columns="normalizer")
    return found[~found.seed.isin(failed(found, path.stem))]


def failed(found: pandas.DataFrame, study: str) -> list[int]:
    """Return the seeds whose last network did not learn its classes; it would be compared with networks that did."""
    low = (found.network == SHOWN[study][-1]) & (found.accuracy < LEARNED)
    return sorted(found[low].seed.unique().tolist())


def cells(found: pandas.DataFrame, network: str, layers: tuple[str, ...] = ()) -> pandas.DataFrame:
    """Return the mean over layers for each seed and image: value, stderr, and whether all are proven.

    An image without a value in one of the layers has none.
    """
    chosen = found[found.network == network]
    chosen = chosen[chosen.layer.isin(layers)] if layers else chosen
    by_image = chosen.assign(square=chosen.stderr**2).groupby(["seed", "image"])
    table = pandas.DataFrame({"value": by_image.value.mean(), "proven": by_image.converged.all()})
    table["stderr"] = by_image.square.sum() ** 0.5 / by_image.size()
    table.loc[by_image.value.count() < by_image.size(), "value"] = math.nan
    return table


def difference(first: pandas.DataFrame, second: pandas.DataFrame) -> pandas.DataFrame:
    """Return second minus first, image by image; proven if both are."""
    return pandas.DataFrame(
        {
            "value": second.value - first.value,
            "stderr": np.hypot(first.stderr, second.stderr),
            "proven": first.proven & second.proven,
        }
    )


def over_seeds(table: pandas.DataFrame) -> TwoLevel:
    """Return the mean over the seeds of a table of images."""
    by_seed = [each for _, each in table.groupby("seed")]
    return two_level([each.value for each in by_seed], [each.stderr for each in by_seed])


def unproven(table: pandas.DataFrame) -> str:
    """Return how many of the values are unproven."""
    there = table.value.notna()
    return f"{int((there & ~table.proven).sum())} of {int(there.sum())}"


def layers_of(found: pandas.DataFrame, network: str) -> list[str]:
    """Return a network's layers, in order."""
    return [*dict.fromkeys(found[found.network == network].layer)]


def rise(found: pandas.DataFrame, network: str) -> float:
    """Return a network's rise of SID from its first layer to its last."""
    layers = layers_of(found, network)
    return over_seeds(difference(*(cells(found, network, (layers[i],)) for i in (0, -1)))).mean


def accuracies(found: pandas.DataFrame) -> str:
    """Return each classifier's accuracy as text."""
    rows = found.dropna(subset="accuracy").drop_duplicates(["seed", "network"])
    means = {name: mean_and_stderr(each.accuracy) for name, each in rows.groupby("network", sort=False)}
    return ", ".join(f"{name} {mean:.3f} ± {stderr:.3f}" for name, (mean, stderr, _) in means.items())


def layer_rows(found: pandas.DataFrame, study: str) -> Rows:
    """Return the table of a study: SID of the first network by layer, and the differences of the others from it."""
    first, *others = SHOWN[study]
    rows = []
    for layer in layers_of(found, first):
        base = cells(found, first, (layer,))
        row = {"layer": layer, f"SID of {first}": _with_error(over_seeds(base), ".3f")}
        row["unproven"] = unproven(base)
        for other in others:
            paired = difference(base, cells(found, other, (layer,)))
            change = over_seeds(paired)
            row[f"{other}, difference"] = _with_error(change, "+.3f")
            row[f"{other}, error over images"] = f"{change.over_images:.3f}"
            row[f"{other}, unproven"] = unproven(paired)
        rows.append(row)
    return rows


def _with_error(found: TwoLevel, form: str) -> str:
    return f"{found.mean:{form}} ± {found.over_seeds:.3f}"


def changes(found: pandas.DataFrame, claim: Claim) -> pandas.DataFrame:
    """Return the change that a claim is about, image by image."""
    return difference(*(cells(found, name, claim.layers) for name in (claim.first, claim.second)))


def judged(found: pandas.DataFrame, claim: Claim) -> tuple[TwoLevel, float, str]:
    """Return the change that a claim is about, the reference effect, and the verdict."""
    change, effect = over_seeds(changes(found, claim)), FRACTION * rise(found, RISING[claim.study])
    if claim.sign:
        return change, effect, judge_direction(claim.sign * change.mean, change.stderr, effect)
    return change, effect, judge_similarity(change.mean, change.stderr, effect)


def power_rows(folder: Path, normalizer: str) -> Iterator[dict[str, str]]:
    """Yield a line for each claim of the studies in a folder whose networks were trained with several seeds."""
    for claim in CLAIMS:
        path = folder / f"{claim.study}.csv"
        if not path.exists():
            continue
        found = read(path, normalizer)
        if found.seed.nunique() > 1:
            yield _power_row(found, claim, normalizer)


def _power_row(found: pandas.DataFrame, claim: Claim, normalizer: str) -> dict[str, str]:
    change, effect, verdict = judged(found, claim)
    each = round(change.images / change.seeds)
    seeds, low, high = seeds_needed(change, effect / 2, each)
    images = images_needed(change, effect / 2, change.seeds)
    if verdict == UNDECIDED:
        reason = f", would need {seeds} seeds of {each} images" if seeds > change.seeds else ": too close to the border"
        verdict = f"cannot be decided here{reason}"
    return {
        "study": claim.study,
        "SID": claim.text,
        "normalizer": normalizer,
        "effect": f"{effect:.3f}",
        "measured": _with_error(change, "+.3f"),
        "error over images": f"{change.over_images:.3f}",
        "sd of seeds": f"{change.sd_seed:.3f}",
        "sd of images": f"{change.sd_image:.3f}",
        "here": f"{change.seeds} x {each}",
        "unproven": unproven(changes(found, claim)),
        "seeds needed": f"{seeds} ({low} to {high})",
        "images needed": f"{images:.0f}" if math.isfinite(images) else "∞",
        "verdict": verdict,
    }


def draw(found: pandas.DataFrame, study: str, path: Path) -> None:
    """Draw the differences between networks by layer, with two standard errors over seeds, and each seed's mean."""
    import matplotlib.pyplot as plt

    first, *others = SHOWN[study]
    layers = layers_of(found, first)
    figure, panel = plt.subplots(figsize=(6, 3), layout="constrained")
    for place, other in enumerate(others):
        tables = [difference(*(cells(found, name, (layer,)) for name in (first, other))) for layer in layers]
        estimates = [over_seeds(table) for table in tables]
        x = np.arange(len(layers)) + 0.12 * (place - (len(others) - 1) / 2)
        color = COLORS[(0, 5)[place]]
        panel.errorbar(
            x, [each.mean for each in estimates], [2 * each.stderr for each in estimates], color=color,
            marker="os"[place], markersize=4, capsize=2, linewidth=1.2, label=f"{other} - {first}",
        )  # fmt: skip
        seeds = np.array([table.value.groupby("seed").mean() for table in tables])
        panel.plot(np.repeat(x[:, None] + 0.05, seeds.shape[1], 1), seeds, ".", color=color, markersize=3)
    panel.axhline(0, color="0.5", linewidth=0.8)
    panel.set_ylabel("difference of SID, nats", fontsize=8)
    panel.set_xticks(range(len(layers)), layers, fontsize=8)
    panel.tick_params(labelsize=7)
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def study_text(path: Path) -> str:
    """Return a study's table, accuracies, and the seeds that were left out, from its file of cells."""
    found = read(path, "sample")
    text, scored, left_out = markdown(layer_rows(found, path.stem)), accuracies(found), failures(path)
    text += f"\nAccuracy: {scored}.\n" if scored else ""
    return text + (f"\nLeft out because the last network did not learn: {left_out}.\n" if left_out else "")


def failures(path: Path) -> str:
    """Return the seeds whose training failed, with the accuracies, as text."""
    every = pandas.read_csv(path)
    rows = every[(every.network == SHOWN[path.stem][-1]) & every.seed.isin(failed(every, path.stem))]
    found = rows.drop_duplicates("seed").sort_values("seed")
    return ", ".join(f"seed {row.seed} ({row.network}, accuracy {row.accuracy:.3f})" for row in found.itertuples())


def power_text(folder: Path) -> str:
    """Return the table that judges all claims."""
    return "\n".join(
        markdown(rows) for normalizer in ("sample", "dataset") if (rows := [*power_rows(folder, normalizer)])
    )


def main() -> None:
    """Write the tables and pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    chosen = parser.parse_args()
    chosen.output.mkdir(parents=True, exist_ok=True)
    for study in SHOWN:
        path = chosen.folder / f"{study}.csv"
        if path.exists():
            (chosen.output / f"{study}.md").write_text(study_text(path), encoding="utf-8")
            draw(read(path, "sample"), study, chosen.output / f"{study}.png")
    text = power_text(chosen.folder)
    (chosen.output / "power.md").write_text(text, encoding="utf-8")
    print(text, end="")


if __name__ == "__main__":
    main()
