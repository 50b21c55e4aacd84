"""Concentration by layer (the paper's Fig. 3c): whether a trained network discards the background.

A small VGG, AlexNet or ResNet is trained to classify the animals of an ``.npz`` file with ``images`` (N, H, W, 3) of
uint8, ``labels`` and ``boxes`` (N, 4). The images are split into folds; the images of a fold are analyzed with the
network that was trained on the others. There are two controls: the boxes of all other images instead of an image's own,
and a network with random weights.

``python -m onnxinfo.models.studies.concentration animals.npz --network vgg -o study``

What is in the folder already is not done again: an interrupted study resumes, and may get more folds and images. All
networks add to ``concentration.csv``, which ``boxes.py`` reads.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas
import torch
from torch import Tensor

import onnxinfo
from onnxinfo.archive.means import select_cells

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
from .script import RESUMES, as_script
from .training import add

#: With zero padding, less of the network sees the border of an image, and boxes tend to be in the middle.
PADDING: Padding = "circular"
NETWORKS: dict[str, Build] = {
    "vgg": partial(classifier, VGG, padding=PADDING),
    "alexnet": partial(classifier, ALEXNET, padding=PADDING),
    "resnet": partial(residual_classifier, 1, padding=PADDING),
}
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
RANDOM, TRAINED = "random weights", "trained"


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
    """Train, measure, and write the models, the archive, and the file of cells."""
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
    archive, accuracies = options.output / f"{options.network}.h5", {}
    for fold in range(options.measured or options.folds):
        held = np.arange(len(x)) % options.folds == fold
        known = torch.from_numpy(x[~held]), torch.from_numpy(labels[~held]).long()
        for name, path in trained(options.output, options.network, fold, known, options.epochs).items():
            model = onnx.load(path)
            run = f"{name} {fold}"
            accuracies[run] = accuracy(model, x[held], labels[held])
            print(f"fold {fold}, {name}: accuracy {accuracies[run]:.3f}", flush=True)
            onnxinfo.analyze(
                model, pixels[held], archive, run=run, layers=options.layers, limit=options.limit,
                foreground=boxes[held], metrics=["sid", "concentration"], mean=MEAN, std=STD, seed=SEED,
            )  # fmt: skip
    add(measured(archive, options.network, accuracies), options.output / "concentration.csv", ("model",))


def trained(folder: Path, network: str, fold: int, known: tuple[Tensor, Tensor], epochs: int) -> dict[str, Path]:
    """Return the files of a fold's networks, which are trained if they are not there."""
    paths = {name: folder / f"{network}-{name.split()[0]}-{fold}.onnx" for name in (RANDOM, TRAINED)}
    if not all(path.exists() for path in paths.values()):
        for name, model in models(network, *known, epochs=epochs).items():
            onnx.save(model, paths[name])
    return paths


def measured(archive: Path, network: str, accuracies: Mapping[str, float]) -> pandas.DataFrame:
    """Return the cells of an archive: a row for each kind of weights, fold, layer and image.

    Besides SID and concentration with the image's own box, they have the contributions to how far that exceeds
    concentration with others' boxes (see :func:`contrasts`), over all folds of a kind of weights.
    """
    tables = []
    with onnxinfo.open(archive) as opened:
        for kind in (TRAINED, RANDOM):
            runs = {run: int(run.rsplit(" ", 1)[1]) for run in accuracies if run.startswith(kind)}
            for layer in range(len(opened[next(iter(runs))].layers)):
                parts = [_cells(opened[run], layer) for run in runs]
                maps, masks = (np.concatenate([part.pop(name) for part in parts]) for name in ("maps", "masks"))
                found = pandas.concat(
                    [
                        pandas.DataFrame({"accuracy": accuracies[run], "fold": fold, **part})
                        for (run, fold), part in zip(runs.items(), parts, strict=True)
                    ]
                )
                own, excess = contrasts(maps, masks)
                tables.append(found.assign(model=network, weights=kind, own=own, excess=excess))
    columns = ["model", "weights", "accuracy", "fold", "layer", "image", "sid", "own", "excess", "converged"]
    return pandas.concat(tables)[columns]


def _cells(run: onnxinfo.Run, layer: int) -> dict[str, Any]:
    """Return the cells of one layer that have a value, and their maps and masks."""
    found, sid = (select_cells(run.values(metric), layer) for metric in ("concentration", "sid"))
    there = np.isfinite(found["value"])
    return {
        "layer": run.layers[layer].name,
        "image": np.flatnonzero(there),
        "sid": sid["value"][there],
        "converged": found["converged"][there],
        "maps": run.maps("sid", layer)[there],
        "masks": np.asarray(run.foreground)[there],
    }


if __name__ == "__main__":
    as_script(main, RESUMES)
