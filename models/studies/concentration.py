"""Concentration by layer (the paper's Fig. 3c): whether a trained network discards the background.

A small VGG or AlexNet is trained to tell the animals of an ``.npz`` file with ``images`` (N, H, W, 3) of uint8,
``labels`` and ``boxes`` (N, 4) apart. Concentration is measured on held-out images, with two controls: boxes that are
shuffled among the images, and the same network with random weights.

``python -m models.studies.concentration animals.npz --network vgg -o study``
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

import onnxinfo

from .common import ALEXNET, SEED, VGG, Array, classifier, fit_classes, to_onnx

HELD_OUT = 64
NETWORKS = {"vgg": VGG, "alexnet": ALEXNET}


def concentrations(maps: Array, masks: Array) -> Array:
    """Background's mean entropy minus the foreground's, of maps (S, 3, y, x) and masks (S, y, x)."""
    inside = masks.astype(bool)
    return np.array([m[:, ~mask].mean() - m[:, mask].mean() for m, mask in zip(maps, inside, strict=True)])


def stderr(values: Array) -> float:
    """Standard error of a mean."""
    return float(values.std(ddof=1) / np.sqrt(len(values)))


def main() -> None:
    """Train, measure, and write the models, the archive and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--network", choices=[*NETWORKS], default="vgg")
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--limit", type=int, default=16, help="Held-out images that concentration is measured on.")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(SEED)
    with np.load(options.data) as data:
        order = np.random.default_rng(SEED).permutation(len(data["images"]))
        pixels, labels, boxes = (data[key][order] for key in ("images", "labels", "boxes"))
    shape = (3, options.side, options.side)
    samples = onnxinfo.open_samples(pixels, shape=shape, mean=[0.5] * 3, std=[0.25] * 3)
    images, answers = torch.from_numpy(samples.batch(range(len(samples)))), torch.from_numpy(labels)
    # Under padding with zeros the border of an image is seen by less of the network, and boxes lie in the middle.
    network = classifier(NETWORKS[options.network], options.side, int(labels.max()) + 1, padding="circular")
    random = copy.deepcopy(network)
    fit_classes(network, images[HELD_OUT:], answers[HELD_OUT:], options.epochs)
    with torch.no_grad():
        accuracy = float((network.eval()(images[:HELD_OUT]).argmax(1) == answers[:HELD_OUT]).double().mean())
        fitted = float((network(images[HELD_OUT:]).argmax(1) == answers[HELD_OUT:]).double().mean())
    print(f"{options.network}: accuracy {accuracy:.3f} held out, {fitted:.3f} in training", flush=True)
    archive = options.output / f"{options.network}.h5"
    for name, module in (("trained", network), ("random", random)):
        model = to_onnx(module, options.side)
        onnx.save(model, options.output / f"{options.network}-{name}.onnx")
        onnxinfo.analyze(
            model, pixels[:HELD_OUT], archive, run=name, limit=options.limit, foreground=boxes[:HELD_OUT],
            metrics=["sid", "concentration"], mean=[0.5] * 3, std=[0.25] * 3, seed=SEED, overwrite=True,
        )  # fmt: skip
        print(f"measured: {name}", flush=True)
    rows = table(archive)
    record = {"accuracy": accuracy, "accuracy_in_training": fitted, "side": options.side, "epochs": options.epochs}
    (options.output / f"{options.network}.json").write_text(json.dumps({**record, "layers": rows}, indent=1))
    for row in rows:
        print(" | ".join(f"{value:.4f}" if isinstance(value, float) else str(value) for value in row.values()))


def table(archive: Path) -> list[dict[str, Any]]:
    """One row per layer: concentration and its standard error over images, the controls, and unconverged cells."""
    rows: list[dict[str, Any]] = []
    with onnxinfo.open(archive) as opened:
        trained, random = opened["trained"], opened["random"]
        masks = trained.foreground
        assert masks is not None
        # Every image gets another one's box.
        shuffled = np.roll(masks, 1, axis=0)
        for layer, described in enumerate(trained.layers):
            good = trained.values("concentration")["converged"][layer]
            values = trained.values("concentration")["value"][layer][good]
            control = concentrations(trained.maps("sid", layer), shuffled)[good]
            kept = random.values("concentration")["converged"][layer]
            rows.append(
                {
                    "layer": described.name,
                    "trained": float(values.mean()),
                    "stderr": stderr(values),
                    "shuffled boxes": float(control.mean()),
                    "above shuffled": float((values - control).mean()),
                    "its stderr": stderr(values - control),
                    "random weights": float(random.values("concentration")["value"][layer][kept].mean()),
                    "unconverged": int((~good).sum() + (~kept).sum()),
                }
            )
    return rows


if __name__ == "__main__":
    main()
