"""Concentration by layer (the paper's Fig. 3c): whether a trained network discards the background.

A small VGG, AlexNet or ResNet is trained to classify the animals of an ``.npz`` file with ``images`` (N, H, W, 3) of
uint8, ``labels`` and ``boxes`` (N, 4). The images are split into folds; the images of a fold are analyzed with the
network that was trained on the others. There are two controls: the boxes of all other images instead of an image's own,
and a network with random weights.

``python -m onnxinfo.models.studies.concentration animals.npz --network vgg -o study``

What is in the folder already is not done again: an interrupted study resumes, and may get more folds and images.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import onnx
import torch
from torch import Tensor

import onnxinfo
from onnxinfo.archive.means import select_cells, unproven

from .common import (
    ALEXNET,
    SEED,
    VGG,
    Array,
    Padding,
    accuracy,
    classifier,
    fit_classes,
    to_onnx,
)
from .families import Build
from .normalized import folded
from .residual import residual_classifier
from .tables import Rows, markdown, write_table
from .two_level import UNDECIDED, TwoLevel, direction_margin, judge_direction, seeds_needed, two_level, wanting
from .verdicts import FRACTION

#: With zero padding, less of the network sees the border of an image, and boxes tend to be in the middle.
PADDING: Padding = "circular"
NETWORKS: dict[str, Build] = {
    "vgg": partial(classifier, VGG, padding=PADDING),
    "alexnet": partial(classifier, ALEXNET, padding=PADDING),
    "resnet": partial(residual_classifier, 1, padding=PADDING),
}
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
RANDOM, TRAINED = "random weights", "trained"
#: Distinguishable for color-blind readers, too.
COLORS = ("#0072B2", "#E69F00", "#009E73")


def contrasts(maps: Array, masks: Array) -> tuple[Array, Array]:
    """Concentration with each image's own mask, and how far it exceeds that with others' masks.

    The excess is the mean contrast of maps with their own masks minus that of maps with all others' masks. Each image
    is in many of these pairs, with its map and with its mask, so the images' contributions are the jackknife's: n
    times the excess minus n - 1 times the excess without the image. Their mean is the excess, and their spread gives
    its error. What depends on the map alone or on the mask alone, such as its size, contributes nothing.

    Parameters
    ----------
    maps, masks
        SID of each pixel (S, 3, y, x), and the foreground (S, y, x), of at least three images.

    Returns
    -------
    tuple of ndarray
        Background minus foreground with each image's own mask, in nats, and the images' contributions to the excess,
        (S,) each.
    """
    entropy = maps.mean(1).reshape(len(maps), -1)
    inside = masks.reshape(len(masks), -1).astype(bool)
    share = inside.mean(1)
    # All pairs of maps and masks.
    within = entropy @ inside.T / inside.shape[1]
    found = (entropy.mean(1)[:, None] - within) / (1 - share) - within / share
    own, n = np.diag(found), len(found)
    elsewhere = found.sum() - own.sum()
    with_others = found.sum(0) + found.sum(1) - 2 * own
    return own, own - with_others / (n - 2) + elsewhere / ((n - 1) * (n - 2))


def models(network: str, images: Tensor, answers: Tensor, *, epochs: int) -> dict[str, onnx.ModelProto]:
    """Return a network before and after training on images (N, 3, y, x) of classes (N,), from the same weights."""
    torch.manual_seed(SEED)
    side = images.shape[-1]
    module = NETWORKS[network](side, int(answers.max()) + 1)
    before = to_onnx(folded(module, images), side)
    fit_classes(module, images, answers, epochs)
    return {RANDOM: before, TRAINED: to_onnx(folded(module, images), side)}


def main() -> None:
    """Train, measure, and write the models, the archive, the table and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--network", choices=[*NETWORKS], default="vgg")
    parser.add_argument("--layers", nargs="*", default=["relu_*"])
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--measured", type=int, help="Number of folds to train networks for; default: all")
    parser.add_argument("--limit", type=int, help="Number of images per fold for concentration; default: all")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    with np.load(options.data) as data:
        order = np.random.default_rng(SEED).permutation(len(data["images"]))
        pixels, labels, boxes = (data[key][order] for key in ("images", "labels", "boxes"))
    samples = onnxinfo.open_samples(pixels, shape=(3, options.side, options.side), mean=MEAN, std=STD)
    x = samples.batch(range(len(samples)))
    archive, right = options.output / f"{options.network}.h5", []
    folds = options.measured or options.folds
    for fold in range(folds):
        held = np.arange(len(x)) % options.folds == fold
        known = torch.from_numpy(x[~held]), torch.from_numpy(labels[~held]).long()
        for name, path in trained(options.output, options.network, fold, known, options.epochs).items():
            model = onnx.load(path)
            share = accuracy(model, x[held], labels[held])
            print(f"fold {fold}, {name}: accuracy {share:.3f}", flush=True)
            onnxinfo.analyze(
                model, pixels[held], archive, run=f"{name} {fold}", layers=options.layers, limit=options.limit,
                foreground=boxes[held], metrics=["sid", "concentration"], mean=MEAN, std=STD, seed=SEED,
            )  # fmt: skip
        right.append(share)
    facts = {"accuracy": float(np.mean(right)), "side": options.side, "epochs": options.epochs}
    rows = table(archive)
    write(rows, options.output / options.network, **facts, folds=options.folds, measured=folds)
    draw(rows, options.output / f"{options.network}.png")
    archives = {name: path for name in NETWORKS if (path := options.output / f"{name}.h5").exists()}
    (options.output / "power.md").write_text(markdown(power_rows(archives)), encoding="utf-8")


def trained(folder: Path, network: str, fold: int, known: tuple[Tensor, Tensor], epochs: int) -> dict[str, Path]:
    """Return the files of a fold's networks, which are trained if they are not there."""
    paths = {name: folder / f"{network}-{name.split()[0]}-{fold}.onnx" for name in (RANDOM, TRAINED)}
    if not all(path.exists() for path in paths.values()):
        for name, model in models(network, *known, epochs=epochs).items():
            onnx.save(model, paths[name])
    return paths


#: Means in the table, with their standard errors.
COLUMNS = {
    TRAINED: "stderr",
    "above others' boxes": "its stderr",
    RANDOM: "their stderr",
    "theirs above others' boxes": "stderr of that",
    "learned": "stderr of the difference",
}


def write(rows: Sequence[Mapping[str, Any]], path: Path, **facts: Any) -> None:
    """Write the table, with the standard error of each mean."""
    shown = [
        {
            "layer": row["layer"],
            "images": row["images"],
            "unproven": row["unproven"],
            **{mean: f"{row[mean]:.4f} ± {row[stderr]:.4f}" for mean, stderr in COLUMNS.items()},
        }
        for row in rows
    ]
    write_table(rows, path, shown=shown, **facts)


def draw(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Plot concentration of the trained network and its controls, with two standard errors, layer by layer."""
    figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    for shift, (name, stderr) in enumerate(list(COLUMNS.items())[:3], -1):
        position = np.arange(len(rows)) + 0.06 * shift
        bars = [2 * row[stderr] for row in rows]
        marker, color = "os^"[shift + 1], COLORS[shift + 1]
        axes.errorbar(position, [row[name] for row in rows], bars, marker=marker, color=color, capsize=3, label=name)
    axes.axhline(0, color="gray", linewidth=0.8)
    axes.set_xticks(range(len(rows)), [row["layer"] for row in rows])
    axes.set_ylabel("concentration (nats)")
    axes.legend()
    figure.savefig(path, dpi=100)


@dataclass(frozen=True)
class Measured:
    """Images of all folds in one layer.

    Attributes
    ----------
    images
        Fold of each image, and its place there.
    own, excess
        See :func:`contrasts`.
    unproven
        Number of unproven values.
    """

    images: tuple[tuple[int, int], ...]
    own: Array
    excess: Array
    unproven: int

    def over_folds(self, values: Array) -> TwoLevel:
        """Return the mean over folds of values of the images: each fold has a network of its own."""
        folds = np.array([fold for fold, _ in self.images])
        parts = [values[folds == fold] for fold in dict.fromkeys(folds.tolist())]
        return two_level(parts, [np.full(len(part), np.nan) for part in parts])

    def above(self, other: Measured) -> TwoLevel:
        """How far the excess is above another one, image by image."""
        excess = dict(zip(other.images, other.excess, strict=True))
        found = [value - excess.get(image, math.nan) for image, value in zip(self.images, self.excess, strict=True)]
        return self.over_folds(np.array(found))


def measured(opened: onnxinfo.Archive, kind: str, layer: int) -> Measured:
    """Return the concentration of all images in a layer, with trained or random weights."""
    runs = {int(run.rsplit(" ", 1)[1]): opened[run] for run in opened if run.startswith(kind)}
    cells = [select_cells(run.values("concentration"), layer) for run in runs.values()]
    there = [np.isfinite(each["value"]) for each in cells]
    maps, masks = (
        np.concatenate([each[use] for each, use in zip(found, there, strict=True)])
        for found in (
            [run.maps("sid", layer) for run in runs.values()],
            [np.asarray(run.foreground) for run in runs.values()],
        )
    )
    images = tuple((fold, int(i)) for fold, use in zip(runs, there, strict=True) for i in np.flatnonzero(use))
    return Measured(images, *contrasts(maps, masks), sum(int(unproven(each).sum()) for each in cells))


def table(archive: Path) -> list[dict[str, Any]]:
    """Return one row per layer: concentration, the controls, and their standard errors, over images or over folds."""
    rows: list[dict[str, Any]] = []
    with onnxinfo.open(archive) as opened:
        for layer, described in enumerate(opened[f"{TRAINED} 0"].layers):
            learned, random = (measured(opened, kind, layer) for kind in (TRAINED, RANDOM))
            row: dict[str, Any] = {"layer": described.name, "images": len(learned.own)}
            row["unproven"] = learned.unproven + random.unproven
            columns = (learned.own, learned.excess, random.own, random.excess)
            estimates = [*map(learned.over_folds, columns[:2]), *map(random.over_folds, columns[2:])]
            for (name, stderr), estimate in zip(COLUMNS.items(), [*estimates, learned.above(random)], strict=True):
                row[name], row[stderr] = estimate.mean, estimate.stderr
            rows.append(row)
    return rows


def power_rows(archives: Mapping[str, Path]) -> Rows:
    """Return a line for each claim about the concentration above others' boxes: effects are a tenth of the rise."""
    lines, last = [], {}
    for network, archive in archives.items():
        with onnxinfo.open(archive) as opened:
            depth = len(opened[f"{TRAINED} 0"].layers)
            first, last[network] = (measured(opened, TRAINED, layer) for layer in (0, depth - 1))
            untrained = measured(opened, RANDOM, depth - 1)
        rise = last[network].above(first)
        claims = (
            ("rises with depth", rise, 1),
            ("is above that with random weights in the last layer", last[network].above(untrained), 1),
            ("is negative in the first layer", first.over_folds(first.excess), -1),
        )
        lines += [
            folds_row(f"concentration of the {network} {text}", FRACTION * abs(rise.mean), found, sign)
            for text, found, sign in claims
        ]
    if {"vgg", "alexnet"} <= last.keys():
        deep, shallow = last["vgg"], last["alexnet"]
        claim = "concentration of the vgg is higher than of the alexnet in the last layer"
        lines.append(folds_row(claim, FRACTION * abs(deep.excess.mean()), deep.above(shallow)))
    return lines


def folds_row(claim: str, effect: float, found: TwoLevel, sign: int = 1) -> dict[str, Any]:
    """Return a line that judges whether a difference has the claimed sign, as ``claims.py`` does for training seeds."""
    each = round(found.images / found.seeds)
    needed, low, high = seeds_needed(found, effect / 2, each)
    verdict = judge_direction(sign * found.mean, found.stderr, effect)
    if verdict == UNDECIDED:
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
        "folds needed": f"{needed} ({low} to {high})",
        "verdict": verdict,
    }


if __name__ == "__main__":
    main()
