"""Concentration by layer (the paper's Fig. 3c): whether a trained network discards the background.

A small VGG or AlexNet is trained to classify the animals of an ``.npz`` file with ``images`` (N, H, W, 3) of uint8,
``labels`` and ``boxes`` (N, 4). The images are split into folds; the images of a fold are analyzed with the network
that was trained on the others. There are two controls: the boxes of all other images instead of an image's own, and a
network with random weights.

``python -m onnxinfo.models.studies.concentration animals.npz --network vgg -o study``
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
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
    Step,
    accuracy,
    classifier,
    fit_classes,
    mean_and_stderr,
    to_onnx,
)
from .tables import write_table

NETWORKS: dict[str, list[Step]] = {"vgg": VGG, "alexnet": ALEXNET}
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
RANDOM = "random weights"
#: Distinguishable for color-blind readers, too.
COLORS = ("#0072B2", "#E69F00", "#009E73")


def contrasts(maps: Array, masks: Array) -> tuple[Array, Array]:
    """Mean entropy of the background minus that of the foreground, for maps (S, 3, y, x) and masks (S, y, x).

    Returns, in nats, the contrast with each image's own mask, and its mean over the masks of all others, (S,) each.
    """
    entropy = maps.mean(1).reshape(len(maps), -1)
    inside = masks.reshape(len(masks), -1).astype(bool)
    share = inside.mean(1)
    # All pairs of maps and masks.
    within = entropy @ inside.T / inside.shape[1]
    found = (entropy.mean(1)[:, None] - within) / (1 - share) - within / share
    own = np.diag(found)
    return own, (found.sum(1) - own) / (len(found) - 1)


def models(network: str, images: Tensor, answers: Tensor, *, epochs: int) -> dict[str, onnx.ModelProto]:
    """Return a network before and after training on images (N, 3, y, x) of classes (N,), from the same weights."""
    torch.manual_seed(SEED)
    side = images.shape[-1]
    # With zero padding, less of the network sees the border of an image, and boxes tend to be in the middle.
    module = classifier(NETWORKS[network], side, int(answers.max()) + 1, padding="circular")
    before = to_onnx(module, side)
    fit_classes(module, images, answers, epochs)
    return {RANDOM: before, "trained": to_onnx(module, side)}


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
        for name, model in models(options.network, *known, epochs=options.epochs).items():
            share = accuracy(model, x[held], labels[held])
            print(f"fold {fold}, {name}: accuracy {share:.3f}", flush=True)
            onnx.save(model, options.output / f"{options.network}-{name.split()[0]}-{fold}.onnx")
            onnxinfo.analyze(
                model, pixels[held], archive, run=f"{name} {fold}", layers=options.layers, limit=options.limit,
                foreground=boxes[held], metrics=["sid", "concentration"], mean=MEAN, std=STD, seed=SEED, overwrite=True,
            )  # fmt: skip
        right.append(share)
    facts = {"accuracy": float(np.mean(right)), "side": options.side, "epochs": options.epochs}
    rows = table(archive, folds)
    write(rows, options.output / options.network, **facts, folds=options.folds, measured=folds)
    draw(rows, options.output / f"{options.network}.png")


#: Means in the table, with their standard errors.
COLUMNS = {
    "trained": "stderr",
    "above others' boxes": "its stderr",
    RANDOM: "their stderr",
    "theirs above others' boxes": "stderr of that",
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


def table(archive: Path, folds: int) -> list[dict[str, Any]]:
    """Return one row per layer: concentration and its standard error over images, and the controls."""
    rows: list[dict[str, Any]] = []
    with onnxinfo.open(archive) as opened:
        for layer, described in enumerate(opened["trained 0"].layers):
            masks = np.concatenate([opened[f"trained {fold}"].foreground for fold in range(folds)])
            found, failed = {}, {}
            for kind in ("trained", RANDOM):
                runs = [opened[f"{kind} {fold}"] for fold in range(folds)]
                cells = [select_cells(run.values("concentration"), layer) for run in runs]
                there = np.concatenate([np.isfinite(each["value"]) for each in cells])
                own, others = contrasts(np.concatenate([run.maps("sid", layer) for run in runs]), masks)
                found[kind] = own[there], others[there]
                failed[kind] = sum(int(unproven(each).sum()) for each in cells)
            own, others = found["trained"]
            row: dict[str, Any] = {"layer": described.name, "images": len(own), "unproven": failed["trained"]}
            row["trained"], row["stderr"], _ = mean_and_stderr(own)
            row["others' boxes"] = float(others.mean())
            row["above others' boxes"], row["its stderr"], _ = mean_and_stderr(own - others)
            untrained, elsewhere = found[RANDOM]
            row[RANDOM], row["their stderr"], _ = mean_and_stderr(untrained)
            row["theirs above others' boxes"], row["stderr of that"], _ = mean_and_stderr(untrained - elsewhere)
            rows.append(row)
    return rows


if __name__ == "__main__":
    main()
