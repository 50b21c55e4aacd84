"""What the networks of ``longer.py`` say about the paper's claims, over training seeds.

``python -m onnxinfo.models.studies.claims FOLDER -o study/training`` reads ``FOLDER/vgg/damage.csv`` and the files of
the other families and studies that are there. It writes a table and a picture for each; ``power-vgg.md``, which judges
all claims about VGGs; and ``families.md``, the verdicts on all families side by side.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas

from onnxinfo.errors import UsageError
from onnxinfo.views.style import COLORS

from .cells import cells, difference, layers_of, over_seeds, rise, unproven, unproven_fraction, with_error
from .common import mean_and_stderr
from .curve import EXTREMES, HIGHEST, LOWEST, chosen, curve_rows, draw_curve, with_extremes
from .families import FAMILIES, Family
from .script import as_script
from .tables import Rows, markdown, results_options, show
from .two_level import (
    UNDECIDED,
    TwoLevel,
    direction_margin,
    images_needed,
    judge_direction,
    judge_similarity,
    seeds_needed,
    similarity_margin,
    wanting,
    with_strength,
)

#: The reference effect as a fraction of the network's own rise of SID from the first layer to the last.
FRACTION = 0.1
#: Fraction of unproven values beyond which a claim is not judged.
DOUBTFUL = 0.5
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
    effect
        The effect in nats; none: a fraction of a network's own rise.
    """

    study: str
    text: str
    first: str
    second: str
    layers: tuple[str, ...] = ()
    sign: int = 1
    effect: float | None = None

    @property
    def sentence(self) -> str:
        """The whole statement."""
        return self.text if self.study == "robustness" else f"SID {self.text}"


def claims_of(family: Family) -> tuple[Claim, ...]:
    """Return the paper's claims, and some that were stated after a study, with a family's layers and networks."""
    last, scores = family.last, family.last[-1:]
    return (
        Claim("damage", "rises at the damaged convolution", "original", "damaged", (family.at,)),
        Claim("damage", "rises after it", "original", "damaged", family.after),
        Claim("distillation", "falls", "without", "distilled", sign=-1),
        Claim("epochs", "falls initially in high layers", "epoch 0", LOWEST, last, -1),
        Claim("epochs", "later rises in high layers", LOWEST, LAST, last),
        Claim("epochs", "rises initially in high layers (the opposite)", "epoch 0", HIGHEST, last),
        Claim("epochs", "later falls in high layers (the opposite)", HIGHEST, LAST, last, -1),
        *(
            Claim("depth", f"rises in {stage}, from {first.split()[0]} to {second}", first, second, (stage,))
            for first, second in itertools.combinations(family.sizes, 2)
            for stage in family.stages
        ),
        Claim("autoencoders", "stays similar", "classifier", "autoencoder", sign=0),
        *(
            Claim("pruning", f"falls in the scores, {name}, {text}", first, name, scores, -1, effect)
            for first, text in REFERENCES.items()
            for name, effect in (("0.38 kept", 0.003), ("0.128 kept", 0.005), ("0.08 kept", 0.033))
        ),
        *(
            Claim("robustness", f"the norm {verb}, {name}, {text}", first, name, NORM, sign, abs(math.log(ratio)))
            for first, text in REFERENCES.items()
            for name, verb, sign, ratio in NORM_CHANGES
        ),
    )


#: The networks that pruned ones are compared with.
REFERENCES = {"trained": "relative to the unpruned network", "1 kept": "relative to one retrained with all weights"}
#: The logarithm of the norm of the perturbations to all other classes, and by which factors the paper's norms change.
NORM = ("mean norm",)
NORM_CHANGES = (("0.38 kept", "rises", 1, 1.02), ("0.128 kept", "falls", -1, 0.92), ("0.08 kept", "falls", -1, 0.39))
#: The networks that are compared with the one retrained with all its weights, and that one first.
PRUNED = ("1 kept", "trained", "0.38 kept", "0.128 kept", "0.08 kept")
#: The last checkpoint.
LAST = "epoch 24"
RISING = {"damage": "original", "distillation": "without", "epochs": LAST, "autoencoders": "classifier"}
SHOWN = {
    "damage": ("original", "damaged"),
    "distillation": ("without", "distilled"),
    "epochs": ("epoch 0", LOWEST, HIGHEST, LAST),
    "autoencoders": ("classifier", "autoencoder"),
    "pruning": PRUNED,
    "robustness": PRUNED,
}
#: The studies, in the order of the page.
STUDIES = ("damage", "distillation", "epochs", "depth", "autoencoders", "pruning", "robustness")


@dataclass(frozen=True)
class Results:
    """The file of a study's cells, in a folder named after the family."""

    path: Path

    @property
    def study(self) -> str:
        """Name of the study."""
        return self.path.stem

    @property
    def family(self) -> Family:
        """The networks that were trained."""
        return FAMILIES[self.path.parent.name]

    @property
    def networks(self) -> tuple[str, ...]:
        """The networks side by side in the table of the study; the others have the first one's layers."""
        return tuple(self.family.sizes) if self.study == "depth" else SHOWN[self.study]

    @property
    def rising(self) -> str:
        """The network whose rise from the first layer to the last is the measure of the effects."""
        return self.family.size if self.study == "depth" else RISING.get(self.study, "")

    @property
    def quantity(self) -> str:
        """What the values are."""
        return "log of the norm" if self.study == "robustness" else "SID"

    @property
    def claims(self) -> list[Claim]:
        """What is claimed about this study."""
        return [claim for claim in claims_of(self.family) if claim.study == self.study]

    def read(self, normalizer: str) -> pandas.DataFrame:
        """Return the cells under one normalizer, without the seeds whose training failed."""
        found = pandas.read_csv(self.path)
        found = found[found.normalizer == normalizer].drop(columns="normalizer")
        found = found[~found.seed.isin(failed(found, self.networks[-1]))]
        return with_extremes(found, self.family.last) if self.study == "epochs" else found


def results(folder: Path) -> list[Results]:
    """Return the files of cells that are in the families' folders."""
    paths = [folder / family / f"{study}.csv" for family in FAMILIES for study in STUDIES]
    return [Results(path) for path in paths if path.exists()]


def failed(found: pandas.DataFrame, network: str) -> list[int]:
    """Return the seeds whose network did not learn its classes; it would be compared with networks that did."""
    low = (found.network == network) & (found.accuracy < LEARNED)
    return sorted(found[low].seed.unique().tolist())


def reached(found: pandas.DataFrame, networks: Sequence[str], column: str) -> str:
    """Return the accuracy of each network side by side as text, or another of its facts that has a column."""
    if column not in found:
        return ""
    rows = found.dropna(subset=column).drop_duplicates(["seed", "network"])
    by_name = {name: mean_and_stderr(each[column]) for name, each in rows.groupby("network", sort=False)}
    shown = [name for name in networks if name in by_name]
    return ", ".join(f"{name} {by_name[name][0]:.3f} ± {by_name[name][1]:.3f}" for name in shown)


def layer_rows(found: pandas.DataFrame, networks: Sequence[str], quantity: str = "SID") -> Rows:
    """Return the table of a study: values of the first network by layer, and the differences of the others from it."""
    first, *others = networks
    rows = []
    for layer in layers_of(found, first):
        base = cells(found, first, (layer,))
        row = {"layer": layer, f"{quantity} of {first}": with_error(over_seeds(base), ".3f")}
        row["unproven"] = unproven(base)
        for other in others:
            paired = difference(base, cells(found, other, (layer,)))
            change = over_seeds(paired)
            row[f"{other}, difference"] = with_error(change, "+.3f")
            row[f"{other}, error over images"] = f"{change.over_images:.3f}"
            row[f"{other}, unproven"] = unproven(paired)
        rows.append(row)
    return rows


def changes(found: pandas.DataFrame, claim: Claim) -> pandas.DataFrame:
    """Return the change that a claim is about, image by image."""
    return difference(*(cells(found, name, claim.layers) for name in (claim.first, claim.second)))


def judged(found: pandas.DataFrame, claim: Claim, rising: str) -> tuple[TwoLevel, float, str]:
    """Return the change that a claim is about, the reference effect (of the rising network), and the verdict."""
    paired, effect = changes(found, claim), claim.effect
    change = over_seeds(paired)
    if effect is None:
        effect = FRACTION * rise(found, rising)
    if unproven_fraction(paired) > DOUBTFUL:
        return change, effect, f"not judged: {unproven(paired)} are unproven"
    if claim.sign:
        return change, effect, judge_direction(claim.sign * change.mean, change.stderr, effect)
    return change, effect, judge_similarity(change.mean, change.stderr, effect)


def power_rows(files: Sequence[Results], normalizer: str) -> Iterator[dict[str, str]]:
    """Yield a line for each claim of the studies whose networks were trained with several seeds."""
    for each in files:
        found = each.read(normalizer)
        if found.seed.nunique() > 1:
            for claim in each.claims:
                yield _power_row(found, claim, each.rising, normalizer)


def _power_row(found: pandas.DataFrame, claim: Claim, rising: str, normalizer: str) -> dict[str, str]:
    change, effect, _ = judged(found, claim, rising)
    each = round(change.images / change.seeds)
    seeds, low, high = seeds_needed(change, effect / 2, each)
    images = images_needed(change, effect / 2, change.seeds)
    return {
        "study": claim.study,
        "claim": claim.sentence,
        "normalizer": normalizer,
        "effect": f"{effect:.3f}",
        "measured": with_error(change, "+.3f"),
        "error over images": f"{change.over_images:.3f}",
        "sd of seeds": f"{change.sd_seed:.3f}",
        "sd of images": f"{change.sd_image:.3f}",
        "here": f"{change.seeds} x {each}",
        "unproven": unproven(changes(found, claim)),
        "seeds needed": f"{seeds} ({low} to {high})",
        "images needed": f"{images:.0f}" if math.isfinite(images) else "∞",
        "verdict": verdict_text(found, claim, rising),
    }


def verdict_text(found: pandas.DataFrame, claim: Claim, rising: str) -> str:
    """Return the verdict, with what it lacks if undecided, and whether a direction that is seen is seen weakly."""
    change, effect, verdict = judged(found, claim, rising)
    if verdict == UNDECIDED:
        each = round(change.images / change.seeds)
        needed, _, _ = seeds_needed(change, effect / 2, each)
        margin = (direction_margin if claim.sign else similarity_margin)((claim.sign or 1) * change.mean, effect)
        return verdict + wanting(needed, change.seeds, change.stderr, margin, f" seeds of {each} images")
    return with_strength(verdict, change) if claim.sign else verdict


def family_rows(files: Sequence[Results]) -> Rows:
    """Return the change and the verdict on each claim, with a column for each family."""
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for each in files:
        if (found := each.read("sample")).seed.nunique() < 2:
            continue
        for claim in each.claims:
            paired = changes(found, claim)
            change, doubt = (
                over_seeds(paired),
                f" ({unproven(paired)} unproven)" if unproven_fraction(paired) > 0 else "",
            )
            row = rows.setdefault((claim.study, claim.sentence), {})
            verdict = verdict_text(found, claim, each.rising)
            row[each.family.title] = f"{change.mean:+.3f} ± {change.stderr:.3f}{doubt}: {verdict}"
    titles = [family.title for family in FAMILIES.values()]
    return [
        {"study": study, "claim": text} | {title: row.get(title, "") for title in titles}
        for (study, text), row in sorted(rows.items(), key=lambda item: STUDIES.index(item[0][0]))
    ]


def draw(found: pandas.DataFrame, networks: Sequence[str], quantity: str, path: Path) -> None:
    """Draw the differences between networks by layer, with two standard errors over seeds, and each seed's mean."""
    import matplotlib.pyplot as plt

    first, *others = networks
    layers = layers_of(found, first)
    figure, panel = plt.subplots(figsize=(6, 3), layout="constrained")
    for place, other in enumerate(others):
        tables = [difference(*(cells(found, name, (layer,)) for name in (first, other))) for layer in layers]
        estimates = [over_seeds(table) for table in tables]
        x = np.arange(len(layers)) + 0.12 * (place - (len(others) - 1) / 2)
        color = COLORS[(0, 5, 2, 3)[place]]
        panel.errorbar(
            x, [each.mean for each in estimates], [2 * each.stderr for each in estimates], color=color,
            marker="os^d"[place], markersize=4, capsize=2, linewidth=1.2, label=f"{other} - {first}",
        )  # fmt: skip
        seeds = np.array([table.value.groupby("seed").mean() for table in tables])
        panel.plot(np.repeat(x[:, None] + 0.05, seeds.shape[1], 1), seeds, ".", color=color, markersize=3)
    panel.axhline(0, color="0.5", linewidth=0.8)
    panel.set_ylabel(f"difference of {quantity}" + ", nats" * (quantity == "SID"), fontsize=8)
    panel.set_xticks(range(len(layers)), layers, fontsize=8)
    panel.tick_params(labelsize=7)
    panel.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=len(others), fontsize=8, frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def study_text(file: Results) -> str:
    """Return a study's table, accuracies, and the seeds that were left out, from its file of cells."""
    found = file.read("sample")
    text, left_out = markdown(layer_rows(found, file.networks, file.quantity)), failures(file)
    for title, column in (("Accuracy", "accuracy"), ("Squared error relative to the images' variance", "error")):
        numbers = reached(found, file.networks, column)
        text += f"\n{title}: {numbers}.\n" if numbers else ""
    text += extremes_text(found, file.family.last) if file.study == "epochs" else ""
    return text + (f"\nLeft out because the last network did not learn: {left_out}.\n" if left_out else "")


def failures(file: Results) -> str:
    """Return the seeds whose training failed, with the accuracies, as text."""
    every, last = pandas.read_csv(file.path), file.networks[-1]
    rows = every[(every.network == last) & every.seed.isin(failed(every, last))]
    found = rows.drop_duplicates("seed").sort_values("seed")
    return ", ".join(f"seed {row.seed} ({row.network}, accuracy {row.accuracy:.3f})" for row in found.itertuples())


def extremes_text(found: pandas.DataFrame, layers: Sequence[str]) -> str:
    """Return the checkpoints that stand for each seed's lowest and highest as text."""
    lines = []
    for extreme, sign in EXTREMES.items():
        names = [f"{name} for seed {seed}" for seed, name in chosen(found, layers, sign).items()]
        lines.append(f"\n{extreme.capitalize()}: {', '.join(names)}.\n")
    return "".join(lines)


def curve_text(file: Results) -> str:
    """Return the table of all checkpoints of the epochs, from their file of cells."""
    return markdown(curve_rows(file.read("sample")))


def power_text(files: Sequence[Results]) -> str:
    """Return the table that judges all claims about one family."""
    return "\n".join(
        markdown(rows) for normalizer in ("sample", "dataset") if (rows := [*power_rows(files, normalizer)])
    )


def write(file: Results, output: Path) -> None:
    """Write the tables and the picture of a study from its file of cells."""
    found, name = file.read("sample"), f"{file.study}-{file.family.name}"
    (output / f"{name}.md").write_text(study_text(file), encoding="utf-8")
    if found.empty:
        return
    if file.study == "epochs":
        (output / f"curve-{file.family.name}.md").write_text(curve_text(file), encoding="utf-8")
        draw_curve(found, output / f"{name}.png")
    else:
        draw(found, file.networks, file.quantity, output / f"{name}.png")


def main() -> None:
    """Write the tables and pictures."""
    folder, output = results_options(__doc__)
    files = results(folder)
    if not files:
        raise UsageError(f"{folder}: no results of studies there, such as vgg/damage.csv of longer.py")
    for file in files:
        write(file, output)
    for family in FAMILIES.values():
        if text := power_text([each for each in files if each.family is family]):
            (output / f"power-{family.name}.md").write_text(text, encoding="utf-8")
    show(markdown(family_rows(files)), output / "families.md")


if __name__ == "__main__":
    as_script(main)
