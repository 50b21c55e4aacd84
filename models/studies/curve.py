"""SID over the epochs of training: a table and a picture, and the checkpoints at which SID is lowest and highest.

The lowest of many checkpoints is lower than the others by chance alone. So a seed's checkpoint is chosen by the other
seeds: the one, between the untrained and the last, whose SID in their high layers is lowest on average. What the
seed's own images then show is unbiased. The same holds for the highest.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas

from onnxinfo.views.style import COLORS

from .cells import cells, layers_of, over_seeds, unproven, with_error
from .common import mean_and_stderr
from .tables import Rows

#: Networks that stand for each seed's chosen checkpoint, and the sign that makes its SID the highest.
LOWEST, HIGHEST = "lowest", "highest"
EXTREMES = {LOWEST: -1, HIGHEST: 1}
PREFIX = "epoch "


def checkpoints(found: pandas.DataFrame) -> list[str]:
    """Return the names of the checkpoints, from the untrained to the last."""
    names = [name for name in found.network.unique() if name.startswith(PREFIX)]
    return sorted(names, key=epoch_of)


def epoch_of(name: str) -> float:
    """Return the number of epochs before a checkpoint."""
    return float(name.removeprefix(PREFIX))


def chosen(found: pandas.DataFrame, layers: Sequence[str], sign: int) -> dict[int, str]:
    """Return for each seed the checkpoint at which SID of the layers, times a sign, is highest in the other seeds."""
    between = found[found.network.isin(checkpoints(found)[1:-1]) & found.layer.isin(layers)]
    means = sign * between.groupby(["network", "seed"]).value.mean().unstack()
    return {seed: str(means.drop(columns=seed).mean(axis=1).idxmax()) for seed in means}


def with_extremes(found: pandas.DataFrame, layers: Sequence[str]) -> pandas.DataFrame:
    """Return the table with the chosen checkpoints of all seeds as two more networks."""
    if found.seed.nunique() < 2:
        return found
    added = [
        found[(found.seed == seed) & (found.network == name)].assign(network=extreme)
        for extreme, sign in EXTREMES.items()
        for seed, name in chosen(found, layers, sign).items()
    ]
    return pandas.concat([found, *added], ignore_index=True)


def curve_rows(found: pandas.DataFrame) -> Rows:
    """Return one row per checkpoint: SID by layer, unproven cells, losses and accuracies, with errors over seeds."""
    names = checkpoints(found)
    layers, rows = layers_of(found, names[0]), []
    for name in names:
        row = {"epoch": f"{epoch_of(name):g}"}
        row |= {f"SID of {layer}": with_error(over_seeds(cells(found, name, (layer,))), ".3f") for layer in layers}
        row["unproven"] = unproven(single_cells(found, name, layers))
        facts = found[found.network == name].drop_duplicates("seed")
        for title, column in (("training loss", "train_loss"), ("loss", "loss"), ("accuracy", "accuracy")):
            mean, stderr, _ = mean_and_stderr(facts[column].to_numpy())
            row[title] = f"{mean:.3f} ± {stderr:.3f}"
        rows.append(row)
    return rows


def single_cells(found: pandas.DataFrame, network: str, layers: Sequence[str]) -> pandas.DataFrame:
    """Return a network's cells in some layers, without a mean over these."""
    there = found[(found.network == network) & found.layer.isin(layers)]
    return pandas.DataFrame({"value": there.value, "proven": there.converged.astype(bool)})


def draw_curve(found: pandas.DataFrame, path: Path) -> None:
    """Draw SID by epoch with two standard errors over seeds, and the losses below."""
    import matplotlib.pyplot as plt

    names = checkpoints(found)
    x = np.arange(len(names))
    figure, (upper, lower) = plt.subplots(2, 1, figsize=(6, 4.6), sharex=True, layout="constrained")
    for layer, color, marker in zip(layers_of(found, names[0]), (COLORS[0], COLORS[5], COLORS[2]), "os^", strict=False):
        estimates = [over_seeds(cells(found, name, (layer,))) for name in names]
        upper.errorbar(
            x, [each.mean for each in estimates], [2 * each.stderr for each in estimates], color=color, marker=marker,
            markersize=3, capsize=2, linewidth=1.2, label=layer,
        )  # fmt: skip
    facts = found[found.network.isin(names)].drop_duplicates(["seed", "network"])
    for column, style, label in (("train_loss", "-", "training images"), ("loss", "--", "held-out images")):
        means = facts.groupby("network")[column].mean()[names]
        lower.plot(x, means, style, color="0.2", linewidth=1.2, label=label)
    for panel, title in ((upper, "SID, nats"), (lower, "loss")):
        panel.set_ylabel(title, fontsize=8)
        panel.tick_params(labelsize=7)
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(fontsize=8, frameon=False)
    lower.set_xticks(x, [f"{epoch_of(name):g}" for name in names])
    lower.set_xlabel("epoch", fontsize=8)
    figure.savefig(path, dpi=150)
    plt.close(figure)
