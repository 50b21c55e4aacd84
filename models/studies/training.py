"""Autoencoders (the paper's Fig. 3b), small enough for a CPU.

``python -m onnxinfo.models.studies.training autoencoders cifar10.npz -o study --seeds 0 1 2``; the file holds
``x_train``, ``y_train``, ``x_test`` and ``y_test``. ``--full`` trains wider networks on all images, preferably on a
GPU.

Networks are trained anew for each seed and measured on held-out images drawn for it. What is in the folder already is
not done again: more seeds, images and normalizers add to ``autoencoders.csv``, which ``claims.py`` reads.
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


STUDIES: dict[str, Callable[[Data], Models]] = {"autoencoders": autoencoders}


def keep(models: Models, folder: Path) -> None:
    """Write networks to a new folder, which is there only once all are."""
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    unfinished.mkdir(parents=True, exist_ok=True)
    digits = len(str(len(models) - 1))
    for place, (name, model) in enumerate(models.items()):
        onnx.save(model, unfinished / f"{place:0{digits}}-{name}.onnx")
    unfinished.rename(folder)


def networks(trained: Path) -> dict[str, Path]:
    """Return the files of the networks in a folder by name, in the order in which they were trained."""
    return {path.stem.split("-", 1)[1]: path for path in sorted(trained.glob("*.onnx"))}


def measured(
    model: onnx.ModelProto, data: Data, archive: Path, run: str, limit: int, normalizer: str, layers: Sequence[str] = ()
) -> Rows:
    """Return SID of each layer, or of some, and image of a network: held-out images in an order drawn from the seed."""
    order = np.random.default_rng(data.seed).permutation(len(data.held_out))
    onnxinfo.analyze(
        model, data.held_out[order], archive, run=run, mean=MEAN, std=STD, seed=data.seed, limit=limit,
        normalize_by=normalizer, layers=list(layers),
    )  # fmt: skip
    with onnxinfo.open(archive) as opened:
        found, cells = opened[run].layers, opened[run].values("sid")
    names = ("value", "stderr", "converged")
    return [
        {"layer": layer.name, "image": int(order[j]), **{name: cells[name][i, j] for name in names}}
        for i, layer in enumerate(found)
        for j in range(limit)
    ]


def score(model: onnx.ModelProto, data: Data) -> float:
    """Return the accuracy on the held-out images, or NaN if the model is no classifier."""
    if not model.graph.output[0].name.startswith("linear"):
        return float("nan")
    return accuracy(model, standardized(data.held_out), data.labels)


def standardized(pixels: Array) -> Array:
    """Return uint8 images (N, y, x, 3) as a network reads them."""
    samples = onnxinfo.open_samples(pixels, shape=(3, *pixels.shape[1:3]), mean=MEAN, std=STD)
    batch: Array = samples.batch(range(len(samples)))
    return batch


def piece(study: str, data: Data, folder: Path, limit: int, normalizer: str) -> pandas.DataFrame:
    """Train and measure the networks of one seed: one row per network, layer and image."""
    archive, rows = folder / f"{study}-{data.seed}-{normalizer}.h5", []
    trained = folder / f"{study}-{data.seed}"
    if not trained.exists():
        keep(STUDIES[study](data), trained)
    for name, path in networks(trained).items():
        model = onnx.load(path)
        shared = {"seed": data.seed, "normalizer": normalizer, "network": name, "accuracy": score(model, data)}
        rows += [shared | row for row in measured(model, data, archive, name, limit, normalizer)]
        print(f"measured: {study}, seed {data.seed}, {name}, accuracy {shared['accuracy']:.3f}", flush=True)
    return pandas.DataFrame(rows)


def run(study: str, data: Data, folder: Path, seeds: Sequence[int], limit: int, normalizer: str) -> None:
    """Add what is missing to the table of a study, seed by seed."""
    for seed in seeds:
        add(piece(study, replace(data, seed=seed), folder, limit, normalizer), folder / f"{study}.csv")


def add(found: pandas.DataFrame, results: Path) -> None:
    """Replace the rows of a seed and normalizer in a study's table."""
    if results.exists():
        others = pandas.read_csv(results)
        kept = (others.seed != found.seed.iloc[0]) | (others.normalizer != found.normalizer.iloc[0])
        found = pandas.concat([others[kept], found])
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
