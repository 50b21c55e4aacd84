"""What the networks of ``concentration.py`` say about the paper's claims, over folds and images.

``python -m onnxinfo.models.studies.boxes FOLDER/concentration.csv -o study/concentration`` writes a table and a figure
for each network, and ``power.md``, which judges all claims.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas

from onnxinfo.views.style import COLORS

from .cells import cells, difference, layers_of, over_seeds, rise, unproven, unproven_fraction
from .claims import DOUBTFUL, FRACTION
from .concentration import RANDOM, TRAINED
from .script import as_script
from .tables import Rows, markdown, results_options, show
from .two_level import UNDECIDED, TwoLevel, direction_margin, judge_direction, seeds_needed, wanting, with_strength

#: The columns of the table that are drawn, with their places among the colors.
DRAWN = {"trained": 5, "own minus other boxes": 0, "random weights": 2}


def read(path: Path) -> dict[str, pandas.DataFrame]:
    """Return the cells of each network, a row for each kind of weights, fold, layer and image.

    Folds take the place of training seeds: each has networks and images of its own.
    """
    found = pandas.read_csv(path).rename(columns={"weights": "network", "fold": "seed"})
    return {str(name): its.drop(columns="model") for name, its in found.groupby("model", sort=False)}


def of(found: pandas.DataFrame, column: str) -> pandas.DataFrame:
    """Return cells with one of their columns as the value: ``own``, ``excess`` or ``sid``."""
    # Monte Carlo errors of concentration are part of the spread of images.
    return found.assign(value=found[column], stderr=0.0)


def columns(found: pandas.DataFrame, layer: str) -> dict[str, TwoLevel]:
    """Return the means of a layer: concentration, and by how much it exceeds that with others' boxes."""
    at = {
        (column, name): cells(of(found, column), name, (layer,))
        for column in ("own", "excess")
        for name in (TRAINED, RANDOM)
    }
    return {
        "trained": over_seeds(at["own", TRAINED]),
        "own minus other boxes": over_seeds(at["excess", TRAINED]),
        "random weights": over_seeds(at["own", RANDOM]),
        "random weights, own minus other boxes": over_seeds(at["excess", RANDOM]),
        "learned": over_seeds(difference(at["excess", RANDOM], at["excess", TRAINED])),
    }


def layer_rows(found: pandas.DataFrame) -> Rows:
    """Return the table of one network."""
    rows = []
    for layer in layers_of(found, TRAINED):
        here = found[found.layer == layer]
        row = {"layer": layer, "images": f"{int((here.network == TRAINED).sum())}"}
        row["unproven"] = f"{int((~here.converged).sum())} of {len(here)}"
        means = columns(here, layer)
        rows.append(row | {name: f"{each.mean:.4f} ± {each.stderr:.4f}" for name, each in means.items()})
    return rows


def power_rows(networks: dict[str, pandas.DataFrame]) -> Iterator[dict[str, str]]:
    """Yield a line for each claim on concentration above that with others' boxes.

    The effect is a tenth of the change of the network's SID from its first layer to its last: an effect taken from
    concentration itself would be as uncertain as the claim. A single fold says nothing about other networks.
    """
    last, effects = {}, {}
    for network, found in networks.items():
        if found.seed.nunique() < 2:
            continue
        layers, excess = layers_of(found, TRAINED), of(found, "excess")
        shallow, last[network] = (cells(excess, TRAINED, (layers[i],)) for i in (0, -1))
        untrained = cells(excess, RANDOM, (layers[-1],))
        effects[network] = FRACTION * abs(rise(of(found, "sid"), TRAINED))
        for text, change, sign in (
            ("rises with depth", difference(shallow, last[network]), 1),
            ("is above that with random weights in the last layer", difference(untrained, last[network]), 1),
            ("is negative in the first layer", shallow, -1),
        ):
            yield _power_row(f"concentration of the {network} {text}", effects[network], change, sign)
    if {"vgg", "alexnet"} <= last.keys():
        claim = "concentration of the vgg is higher than of the alexnet in the last layer"
        yield _power_row(claim, effects["vgg"], difference(last["alexnet"], last["vgg"]), 1)


def _power_row(claim: str, effect: float, table: pandas.DataFrame, sign: int) -> dict[str, str]:
    """Return a line that judges whether a change has the claimed sign, as ``claims.py`` does for training seeds."""
    found = over_seeds(table)
    each = round(found.images / found.seeds)
    needed, low, high = seeds_needed(found, effect / 2, each)
    verdict = judge_direction(sign * found.mean, found.stderr, effect)
    if unproven_fraction(table) > DOUBTFUL:
        verdict = f"not judged: {unproven(table)} are unproven"
    elif verdict == UNDECIDED:
        margin = direction_margin(sign * found.mean, effect)
        verdict += wanting(needed, found.seeds, found.stderr, margin, f" folds of {each} images")
    return {
        "claim": claim,
        "effect": f"{effect:.4f}",
        "measured": f"{found.mean:+.4f} ± {found.stderr:.4f}",
        "error over images": f"{found.over_images:.4f}",
        "sd of folds": f"{found.sd_seed:.4f}",
        "sd of images": f"{found.sd_image:.4f}",
        "here": f"{found.seeds} x {each}",
        "unproven": unproven(table),
        "folds needed": f"{needed} ({low} to {high})",
        "verdict": with_strength(verdict, found),
    }


def study_text(path: Path, model: str) -> str:
    """Return the table and the accuracy of a network from the file of cells."""
    found = read(path)[model]
    reached = found[found.network == TRAINED].drop_duplicates("seed").accuracy
    return f"{markdown(layer_rows(found))}\nAccuracy: {reached.mean():.2f}, mean of {len(reached)} folds.\n"


def power_text(path: Path) -> str:
    """Return the table that judges all claims."""
    return markdown([*power_rows(read(path))])


def draw(found: pandas.DataFrame, path: Path) -> None:
    """Plot concentration of the trained network and its controls, with two standard errors, layer by layer."""
    layers = layers_of(found, TRAINED)
    means = [columns(found, layer) for layer in layers]
    figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    for shift, (name, color) in enumerate(DRAWN.items(), -1):
        values, errors = ([getattr(each[name], part) for each in means] for part in ("mean", "stderr"))
        axes.errorbar(
            np.arange(len(layers)) + 0.06 * shift, values, 2 * np.array(errors),
            marker="os^"[shift + 1], color=COLORS[color], capsize=3, label=name,
        )  # fmt: skip
    axes.axhline(0, color="0.5", linewidth=0.8)
    axes.set_xticks(range(len(layers)), layers)
    axes.set_ylabel("concentration, nats")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main() -> None:
    """Write the tables and the figures."""
    path, output = results_options(__doc__)
    for model, found in read(path).items():
        (output / f"{model}.md").write_text(study_text(path, model), encoding="utf-8")
        draw(found, output / f"{model}.png")
    show(power_text(path), output / "power.md")


if __name__ == "__main__":
    as_script(main)
