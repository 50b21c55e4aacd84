"""Damage, distillation, epochs and autoencoders (the paper's Figs. 4a, 5a, 5b and 3b), small enough for a CPU.

``python -m onnxinfo.models.studies.training damage cifar10.npz -o study``; the file holds ``x_train``, ``y_train``,
``x_test`` and ``y_test``. ``--full`` trains wider networks on all images, preferably on a GPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

import onnxinfo

from .common import (
    ALEXNET,
    SEED,
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
from .tables import write_layers

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
        torch.manual_seed(SEED)
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
    """Return a VGG before training, and after 1, 2, 4, ... epochs."""
    network = data.network(data.plan(VGG))
    found = {"epoch 0": data.export(network)}
    wanted = {data.epochs} | {2**i for i in range(data.epochs.bit_length())}

    def keep(epoch: int) -> None:
        if epoch in wanted:
            found[f"epoch {epoch}"] = data.export(network)

    fit_classes(network, data.x, data.y, data.epochs, keep)
    return found


def autoencoders(data: Data) -> Models:
    """Return the convolutions of a VGG classifier, and those of an autoencoder."""
    sorter = data.network(data.plan(VGG))
    fit_classes(sorter, data.x, data.y, data.epochs)
    torch.manual_seed(SEED)
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


def main() -> None:
    """Train, measure, and write the models, the archive, the table and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=[*STUDIES])
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--images", type=int, default=5000, help="Number of training images.")
    parser.add_argument("--limit", type=int, default=16, help="Number of held-out images for SID.")
    parser.add_argument("--full", action="store_true", help="Train networks four times as wide, on all images.")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    data = open_data(options.data, epochs=options.epochs, images=options.images, full=options.full)
    archive, scored = options.output / f"{options.study}.h5", {}
    held_out = onnxinfo.open_samples(data.held_out, shape=tuple(data.x.shape[1:]), mean=MEAN, std=STD)
    x = held_out.batch(range(len(held_out)))
    for run, model in STUDIES[options.study](data).items():
        onnx.save(model, options.output / f"{options.study}-{run.replace(' ', '-')}.onnx")
        if model.graph.output[0].name.startswith("linear"):
            scored[run] = accuracy(model, x, data.labels)
        onnxinfo.analyze(
            model, data.held_out, archive, run=run, mean=MEAN, std=STD, seed=SEED, limit=options.limit, overwrite=True,
        )  # fmt: skip
        print(f"measured: {run}", scored.get(run, ""), flush=True)
    facts = {"accuracy": scored, "epochs": options.epochs, "images": len(data.x)}
    write_layers(archive, ["sid"], options.output / options.study, **facts)
    kind = "history" if options.study == "epochs" else "curve"
    onnxinfo.plot(archive, kind, options.output / f"{options.study}.png")


if __name__ == "__main__":
    main()
