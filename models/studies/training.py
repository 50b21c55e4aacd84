"""Images and networks of the studies that train several networks: their files, their cells, and the tables of these.

Networks are trained anew for each seed and measured on held-out images drawn for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas
import torch
from torch import Tensor

import onnxinfo

from .attack import Known, distances
from .common import Array, scores

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Data:
    """Training images, (N, 3, y, x), their classes, and unmodified images for the analysis."""

    x: Tensor
    y: Tensor
    held_out: Array
    labels: Array
    epochs: int
    seed: int = 0

    @property
    def classes(self) -> int:
        """Number of classes."""
        return int(self.y.max()) + 1

    @property
    def side(self) -> int:
        """Side length of an image in pixels."""
        return self.x.shape[-1]

    @property
    def order(self) -> Array:
        """Numbers of the held-out images in an order drawn from the seed."""
        return np.random.default_rng(self.seed).permutation(len(self.held_out))


def open_data(path: Path, *, epochs: int, images: int) -> Data:
    """Read uint8 images and standardize the first ones of those for training."""
    keys = ("x_train", "y_train", "x_test", "y_test")
    with np.load(path) as file:
        if missing := [key for key in keys if key not in file]:
            raise onnxinfo.UsageError(
                f"{path} has {', '.join(file)}, and no {', '.join(missing)}, which studies train on"
            )
        pixels, y, held_out, labels = (file[key] for key in keys)
    samples = onnxinfo.open_samples(pixels, shape=(3, *pixels.shape[1:3]), mean=MEAN, std=STD, limit=images)
    x = torch.from_numpy(samples.batch(range(len(samples))))
    return Data(x, torch.from_numpy(y[: len(x)]).long(), held_out, labels, epochs)


Models = dict[str, onnx.ModelProto]
Rows = list[dict[str, Any]]


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


@dataclass(frozen=True)
class Wanted:
    """What is measured of a network.

    Attributes
    ----------
    archive, run
        Where cells of SID are kept, and the name of the network's run.
    limit
        Number of images.
    normalizer
        To what the budget of SID is related.
    layers
        The layers that are measured (none: all).
    """

    archive: Path
    run: str
    limit: int
    normalizer: str
    layers: tuple[str, ...]


def measured(model: onnx.ModelProto, data: Data, wanted: Wanted) -> Rows:
    """Return SID of each layer, or of some, and image of a network: held-out images in an order drawn from the seed."""
    order = data.order
    onnxinfo.analyze(
        model, data.held_out[order], wanted.archive, run=wanted.run, mean=MEAN, std=STD, seed=data.seed,
        limit=wanted.limit, normalize_by=wanted.normalizer, layers=list(wanted.layers),
    )  # fmt: skip
    with onnxinfo.open(wanted.archive) as opened:
        found, cells = opened[wanted.run].layers, opened[wanted.run].values("sid")
    names = ("value", "stderr", "converged")
    return [
        {"layer": layer.name, "image": int(order[j]), **{name: cells[name][i, j] for name in names}}
        for i, layer in enumerate(found)
        for j in range(wanted.limit)
    ]


def attacked(model: onnx.ModelProto, data: Data, wanted: Wanted) -> Rows:
    """Return the logarithms of the norms of the smallest perturbations of the same images to the other classes.

    One row for the mean over these classes, in standard deviations of the input, and one for the nearest of them,
    unless the image is in one already.
    """
    x = standardized(data.held_out)
    known = Known(x, scores(model, x).argmax(1))
    network = onnxinfo.convert(model, [model.graph.output[0].name])
    rows = []
    for image in data.order[: wanted.limit]:
        targets = [each for each in range(data.classes) if each != data.labels[image]]
        norms = distances(lambda y: network(y)[0], x[image], known, targets)
        for layer, norm in (("mean norm", norms.mean()), ("nearest norm", norms.min())):
            value = float(np.log(norm)) if 0 < norm < np.inf else np.nan
            rows.append({"layer": layer, "image": int(image), "value": value, "stderr": 0.0, "converged": True})
    return rows


def standardized(pixels: Array) -> Array:
    """Return uint8 images (N, y, x, 3) as a network reads them."""
    samples = onnxinfo.open_samples(pixels, shape=(3, *pixels.shape[1:3]), mean=MEAN, std=STD)
    batch: Array = samples.batch(range(len(samples)))
    return batch


def add(found: pandas.DataFrame, results: Path, piece: Sequence[str] = ("seed", "normalizer")) -> None:
    """Replace the rows of a seed and normalizer in a study's table, or those that agree in other columns."""
    if results.exists():
        others = pandas.read_csv(results)
        kept = (others[[*piece]] != found[[*piece]].iloc[0]).any(axis=1)
        found = pandas.concat([others[kept], found])
    found.to_csv(results, index=False, float_format="%.6g")
