"""Coherency (the paper's Fig. 1): effect of rescaling neighboring layers on each metric.

``python -m onnxinfo.models.studies.coherency cifar10.npz -o study/longer --seeds 0 1 2`` takes for each seed the VGG
that ``longer.py`` trained in the same folder, or trains it; ``--family alexnet`` takes AlexNets, and
``--model resnet20.onnx`` a given network instead.
Images, noise and decoders are drawn for each seed, too. RU has decoders of its own in both networks.

What is in the folder already is not done again: more seeds, images and networks add to ``coherency.csv``, which
``rescaled.py`` reads.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas

import onnxinfo
from onnxinfo.config import COHERENCY_METRICS
from onnxinfo.workflows.coherency import ORIGINAL, RESCALED

from .common import SEED, Array
from .families import FAMILIES
from .longer import Source, facts, trained
from .script import RESUMES, as_script
from .training import MEAN, STD, Data, add, open_data

#: What identifies the part of the table that is measured at once.
PIECE = ("model", "seed")
#: The layers of each family that are measured: most convolutions, and the hidden linear layer.
LAYERS = {"vgg": ("relu_1", "relu_6", "relu_11", "relu_15"), "alexnet": ("relu_1", "relu_4", "relu_7", "relu_13")}


@dataclass(frozen=True)
class Measured:
    """What is measured of a network.

    Attributes
    ----------
    name, layers, limit
        Name of the network, its layers, and number of images.
    ru_layers, ru_limit
        Layers and number of images of RU, 0 for none.
    decoders
        Settings of the decoders of RU.
    """

    name: str
    layers: tuple[str, ...]
    limit: int
    ru_layers: tuple[str, ...] = ()
    ru_limit: int = 0
    decoders: dict[str, Any] = field(default_factory=dict)

    def metrics(self) -> dict[tuple[str, ...], dict[str, Any]]:
        """Return the settings of each group of metrics that is measured together."""
        groups: dict[tuple[str, ...], dict[str, Any]] = {}
        groups[*COHERENCY_METRICS, "concentration"] = {"layers": self.layers, "limit": self.limit}
        if self.ru_limit:
            groups["ru",] = {"layers": self.ru_layers, "limit": self.ru_limit, **self.decoders}
        return groups


def central_boxes(images: Array) -> Array:
    """Return a box around the central half of each image's rows and columns: the images have no boxes of objects."""
    height, width = images.shape[1:3]
    box = np.array([width // 4, height // 4, width - width // 4, height - height // 4], np.float32)
    return np.tile(box, (len(images), 1))


def archive_of(folder: Path, name: str, seed: int, metric: str = COHERENCY_METRICS[0]) -> Path:
    """Return the archive of a network's metrics, which are measured together, by the first of them."""
    return folder / f"coherency-{name}-{seed}-{metric}.h5"


def piece(model: onnx.ModelProto, data: Data, wanted: Measured, folder: Path) -> pandas.DataFrame:
    """Rescale a network and measure both: one row per network, metric, layer and image."""
    order = np.random.default_rng(data.seed).permutation(len(data.held_out))
    networks = {ORIGINAL: model, RESCALED: onnxinfo.rescale(model).proto}
    reached = {name: facts(each, data) for name, each in networks.items()}
    rows = []
    for metrics, settings in wanted.metrics().items():
        archive = archive_of(folder, wanted.name, data.seed, metrics[0])
        found = onnxinfo.coherency(
            model, data.held_out[order], archive, metrics=metrics, mean=MEAN, std=STD, seed=data.seed,
            normalize_by="sample", foreground=central_boxes(data.held_out), **settings,
        )  # fmt: skip
        divided = {change.layer for change in found.changes if change.rescaled}
        shared = {"model": wanted.name, "seed": data.seed, "normalizer": "sample"}
        with onnxinfo.open(archive) as opened:
            rows += [
                shared | {"network": name, **reached[name]} | row | {"divided": row["layer"] in divided}
                for name in networks
                for row in _cells(opened[name], metrics, order)
            ]
    return pandas.DataFrame(rows)


def _cells(run: onnxinfo.Run, metrics: tuple[str, ...], order: Array) -> Iterator[dict[str, Any]]:
    """Yield a row for each metric, layer and image of a run."""
    for metric in metrics:
        cells = run.values(metric)
        for i, layer in enumerate(run.layers):
            for j in np.flatnonzero(cells["done"][i]):
                numbers = {name: cells[name][i, j] for name in ("value", "stderr", "converged")}
                yield {"metric": metric, "layer": layer.name, "image": int(order[j]), **numbers}


def main() -> None:
    """Measure the networks of all seeds, and write the archives and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    given = parser.add_mutually_exclusive_group()
    given.add_argument("--family", choices=[*LAYERS], default="vgg")
    given.add_argument("--model", type=Path, help="Network to measure instead of those of a family; needs --layers.")
    parser.add_argument("--layers", nargs="+")
    parser.add_argument("--seeds", type=int, nargs="+", default=[SEED])
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--images", type=int, default=10000, help="Number of training images.")
    parser.add_argument("--limit", type=int, default=8, help="Number of held-out images of each seed.")
    parser.add_argument("--ru-layers", nargs="+", help="The same as --layers for RU; default: the first and the last.")
    parser.add_argument("--ru-limit", type=int, default=2, help="The same as --limit for RU; 0: RU is not measured.")
    parser.add_argument("--decoder-limit", type=int, default=1000, help="Number of training images of the decoders.")
    parser.add_argument("--decoder-steps", type=int, default=20)
    chosen = parser.parse_args()
    if chosen.model and not chosen.layers:
        parser.error("a given network needs the layers to measure: --layers relu_1 relu_9")
    family, layers = FAMILIES[chosen.family], tuple(chosen.layers or LAYERS[chosen.family])
    (chosen.output / family.name).mkdir(parents=True, exist_ok=True)
    decoders = {
        "decoder_inputs": f"{chosen.data}:x_train",
        "decoder_limit": chosen.decoder_limit,
        "decoder_steps": chosen.decoder_steps,
    }
    name = chosen.model.stem if chosen.model else family.name
    ru_layers = tuple(chosen.ru_layers or (layers[0], layers[-1]))
    wanted = Measured(name, layers, chosen.limit, ru_layers, chosen.ru_limit, decoders)
    data = open_data(chosen.data, epochs=chosen.epochs, images=chosen.images)
    for seed in chosen.seeds:
        source = Source(family, replace(data, seed=seed), chosen.output / family.name, None, 1)
        model = onnx.load(chosen.model) if chosen.model else trained(source)
        add(piece(model, source.data, wanted, chosen.output), chosen.output / "coherency.csv", PIECE)
        print(f"measured: {name}, seed {seed}", flush=True)


if __name__ == "__main__":
    as_script(main, RESUMES)
