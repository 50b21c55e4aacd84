"""Damage, distillation, epochs and autoencoders (the paper's Figs. 4a, 5a, 5b and 3b), small enough for a CPU.

``python -m onnxinfo.models.studies.training damage cifar10.npz -o study --seeds 0 1 2``; the file holds ``x_train``,
``y_train``, ``x_test`` and ``y_test``. ``--full`` trains wider networks on all images, preferably on a GPU.

Networks are trained anew for each seed and measured on held-out images drawn for it. What is in the folder already is
not done again: more seeds, images and normalizers add to ``damage.csv``, which ``claims.py`` reads.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas
import torch
from torch import Tensor, nn

import onnxinfo

from .common import (
    ALEXNET,
    VGG,
    Array,
    Step,
    accuracy,
    classifier,
    convolutions,
    fit,
    fit_classes,
    initialized,
    to_onnx,
)

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
#: Temperature that softens the teacher's answers, and their weight relative to the labels.
TEMPERATURE, TEACHING = 4.0, 0.9


@dataclass(frozen=True)
class Data:
    """Training images, (N, 3, y, x), their classes, and unmodified images for the analysis."""

    x: Tensor
    y: Tensor
    held_out: Array
    labels: Array
    epochs: int
    widening: int
    seed: int = 0

    @property
    def classes(self) -> int:
        """Number of classes."""
        return int(self.y.max()) + 1

    @property
    def side(self) -> int:
        """Side length of an image in pixels."""
        return self.x.shape[-1]

    def plan(self, steps: list[Step]) -> list[Step]:
        """Return a plan of convolutions at the width that is trained here."""
        return [None if step is None else (step[0] * self.widening, *step[1:]) for step in steps]

    def network(self, plan: list[Step]) -> nn.Sequential:
        """Return a classifier with new weights, which are the same in every call."""
        torch.manual_seed(self.seed)
        return classifier(plan, self.side, self.classes)

    def export(self, network: nn.Sequential) -> onnx.ModelProto:
        """Return an ONNX model of a network in its current state."""
        return to_onnx(network, self.side)


def open_data(path: Path, *, epochs: int, images: int, full: bool) -> Data:
    """Read uint8 images and standardize those for training."""
    with np.load(path) as file:
        pixels, y, held_out, labels = (file[key] for key in ("x_train", "y_train", "x_test", "y_test"))
    kept = None if full else images
    samples = onnxinfo.open_samples(pixels, shape=(3, *pixels.shape[1:3]), mean=MEAN, std=STD, limit=kept)
    x = torch.from_numpy(samples.batch(range(len(samples))))
    return Data(x, torch.from_numpy(y[: len(x)]).long(), held_out, labels, epochs, 4 if full else 1)


Models = dict[str, onnx.ModelProto]
Rows = list[dict[str, Any]]


def damage(data: Data) -> Models:
    """Return a VGG, and one with a damaged convolution: replaced by four 7 x 7 filters."""
    original = data.plan(VGG)
    damaged: list[Step] = [*original[:4], (4, 7, 1), *original[5:]]
    found = {}
    for name, plan in (("original", original), ("damaged", damaged)):
        network = data.network(plan)
        fit_classes(network, data.x, data.y, data.epochs)
        found[name] = data.export(network)
    return found


def distillation(data: Data) -> Models:
    """Return an AlexNet trained on the labels, and one distilled from a VGG."""
    teacher, alone, taught = (data.network(data.plan(plan)) for plan in (VGG, ALEXNET, ALEXNET))
    fit_classes(teacher, data.x, data.y, data.epochs)
    fit_classes(alone, data.x, data.y, data.epochs)

    def loss(scores: Tensor, shown: Tensor, rows: Tensor) -> Tensor:
        with torch.no_grad():
            answers = (teacher(shown) / TEMPERATURE).softmax(1)
        soft = nn.functional.cross_entropy(scores / TEMPERATURE, answers) * TEMPERATURE**2
        return TEACHING * soft + (1 - TEACHING) * nn.functional.cross_entropy(scores, data.y[rows])

    fit(taught, data.x, data.epochs, loss)
    return {name: data.export(each) for name, each in (("without", alone), ("distilled", taught), ("teacher", teacher))}


def epochs(data: Data) -> Models:
    """Return a VGG before training, after a quarter of the epochs, and after all."""
    network = data.network(data.plan(VGG))
    names = {max(1, data.epochs // 4): "a quarter", data.epochs: "trained"}
    found = {"untrained": data.export(network)}

    def keep(epoch: int) -> None:
        if epoch in names:
            found[names[epoch]] = data.export(network)

    fit_classes(network, data.x, data.y, data.epochs, keep)
    return found


def autoencoders(data: Data) -> Models:
    """Return the convolutions of a VGG classifier, and those of an autoencoder."""
    sorter = data.network(data.plan(VGG))
    fit_classes(sorter, data.x, data.y, data.epochs)
    torch.manual_seed(data.seed)
    layers, channels, side = convolutions(data.plan(VGG), data.side)
    encoder = initialized(nn.Sequential(*layers))
    decoder: list[nn.Module] = []
    while side < data.side:
        decoder += [nn.ConvTranspose2d(channels, max(8, channels // 2), 4, 2, 1), nn.ReLU()]
        channels, side = max(8, channels // 2), 2 * side
    whole = nn.Sequential(encoder, *decoder, nn.Conv2d(channels, 3, 3, padding=1))
    fit(whole, data.x, data.epochs, lambda y, shown, _: nn.functional.mse_loss(y, shown))
    depth = len(layers)
    return {"classifier": data.export(sorter[:depth]), "autoencoder": data.export(encoder)}


STUDIES: dict[str, Callable[[Data], Models]] = {
    "damage": damage,
    "distillation": distillation,
    "epochs": epochs,
    "autoencoders": autoencoders,
}


def train(study: str, data: Data, folder: Path) -> None:
    """Train the networks of a study, and write them to a folder once all are there."""
    unfinished = folder.with_suffix(".unfinished")
    unfinished.mkdir(parents=True, exist_ok=True)
    for place, (name, model) in enumerate(STUDIES[study](data).items()):
        onnx.save(model, unfinished / f"{place}-{name}.onnx")
    unfinished.rename(folder)


def networks(trained: Path) -> dict[str, Path]:
    """Return the files of the networks in a folder by name, in the order in which they were trained."""
    return {path.stem.split("-", 1)[1]: path for path in sorted(trained.glob("*.onnx"))}


def measured(model: onnx.ModelProto, data: Data, archive: Path, run: str, limit: int, normalizer: str) -> Rows:
    """Return SID of each layer and image of a network: held-out images in an order drawn from the seed."""
    order = np.random.default_rng(data.seed).permutation(len(data.held_out))
    onnxinfo.analyze(
        model, data.held_out[order], archive, run=run, mean=MEAN, std=STD, seed=data.seed, limit=limit,
        normalize_by=normalizer,
    )  # fmt: skip
    with onnxinfo.open(archive) as opened:
        layers, cells = opened[run].layers, opened[run].values("sid")
    names = ("value", "stderr", "converged")
    return [
        {"layer": layer.name, "image": int(order[j]), **{name: cells[name][i, j] for name in names}}
        for i, layer in enumerate(layers)
        for j in range(limit)
    ]


def score(model: onnx.ModelProto, data: Data) -> float:
    """Return the accuracy on the held-out images, or NaN if the model is no classifier."""
    if not model.graph.output[0].name.startswith("linear"):
        return float("nan")
    samples = onnxinfo.open_samples(data.held_out, shape=tuple(data.x.shape[1:]), mean=MEAN, std=STD)
    return accuracy(model, samples.batch(range(len(samples))), data.labels)


def piece(study: str, data: Data, folder: Path, limit: int, normalizer: str) -> pandas.DataFrame:
    """Train and measure the networks of one seed: one row per network, layer and image."""
    archive, rows = folder / f"{study}-{data.seed}-{normalizer}.h5", []
    trained = folder / f"{study}-{data.seed}"
    if not trained.exists():
        train(study, data, trained)
    for name, path in networks(trained).items():
        model = onnx.load(path)
        shared = {"seed": data.seed, "normalizer": normalizer, "network": name, "accuracy": score(model, data)}
        rows += [shared | row for row in measured(model, data, archive, name, limit, normalizer)]
        print(f"measured: {study}, seed {data.seed}, {name}, accuracy {shared['accuracy']:.3f}", flush=True)
    return pandas.DataFrame(rows)


def run(study: str, data: Data, folder: Path, seeds: Sequence[int], limit: int, normalizer: str) -> None:
    """Add what is missing to the table of a study, seed by seed."""
    results = folder / f"{study}.csv"
    for seed in seeds:
        found = piece(study, replace(data, seed=seed), folder, limit, normalizer)
        if results.exists():
            others = pandas.read_csv(results)
            found = pandas.concat([others[(others.seed != seed) | (others.normalizer != normalizer)], found])
        found.to_csv(results, index=False, float_format="%.6g")


def main() -> None:
    """Train, measure, and write the models, the archives and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=[*STUDIES])
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--images", type=int, default=5000, help="Number of training images.")
    parser.add_argument("--limit", type=int, default=16, help="Number of held-out images of each seed.")
    parser.add_argument("--normalize-by", choices=["sample", "dataset"], default="sample")
    parser.add_argument("--full", action="store_true", help="Train networks four times as wide, on all images.")
    chosen = parser.parse_args()
    chosen.output.mkdir(parents=True, exist_ok=True)
    data = open_data(chosen.data, epochs=chosen.epochs, images=chosen.images, full=chosen.full)
    run(chosen.study, data, chosen.output, chosen.seeds, chosen.limit, chosen.normalize_by)


if __name__ == "__main__":
    main()
