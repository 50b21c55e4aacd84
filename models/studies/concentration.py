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
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import onnxinfo

Array = npt.NDArray[Any]
SEED = 0
BATCH = 32
HELD_OUT = 64


def vgg(side: int, classes: int) -> nn.Sequential:
    """Pairs of 3x3 convolutions between poolings, then two linear layers."""
    return _network(side, classes, [(16, 3, 1), (16, 3, 1), None, (32, 3, 1), (32, 3, 1), None, (64, 3, 1), None])


def alexnet(side: int, classes: int) -> nn.Sequential:
    """A wide strided convolution first, then few narrower ones, then two linear layers."""
    return _network(side, classes, [(24, 7, 2), None, (48, 5, 1), None, (64, 3, 1), (64, 3, 1), None])


def _network(side: int, classes: int, plan: list[tuple[int, int, int] | None]) -> nn.Sequential:
    layers: list[nn.Module] = []
    channels = 3
    for step in plan:
        if step is None:
            layers.append(nn.MaxPool2d(2))
            side //= 2
            continue
        width, kernel, stride = step
        layers += [nn.Conv2d(channels, width, kernel, stride, padding=kernel // 2), nn.ReLU()]
        channels, side = width, -(-side // stride)
    layers += [nn.Flatten(), nn.Linear(channels * side * side, 64), nn.ReLU(), nn.Linear(64, classes)]
    for layer in layers:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.constant_(layer.get_parameter("bias"), 0)
    return nn.Sequential(*layers)


NETWORKS = {"vgg": vgg, "alexnet": alexnet}


def train(network: nn.Sequential, images: torch.Tensor, labels: torch.Tensor, epochs: int) -> None:
    """Train with Adam, cosine annealing, flips and shifts."""
    optimizer = torch.optim.Adam(network.parameters(), 1e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        for rows in torch.split(torch.randperm(len(images)), BATCH):
            x = images[rows]
            x = torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(3), x)
            x = x.roll((int(torch.randint(-4, 5, ())), int(torch.randint(-4, 5, ()))), (2, 3))
            loss = nn.functional.cross_entropy(network(x), labels[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        schedule.step()


def to_onnx(network: nn.Sequential, side: int) -> onnx.ModelProto:
    """Write a chain of convolutions, poolings and linear layers as an ONNX graph; layers are named by position."""
    nodes, weights, name = [], [], "x"
    for i, layer in enumerate(network):
        output, op, operands = f"{type(layer).__name__.lower()}_{i}", type(layer).__name__, [name]
        attributes: dict[str, Any] = {}
        if isinstance(layer, nn.Conv2d):
            pad, kernel, stride = int(layer.padding[0]), layer.kernel_size[0], layer.stride[0]
            op, attributes = "Conv", {"pads": [pad] * 4, "kernel_shape": [kernel] * 2, "strides": [stride] * 2}
        elif isinstance(layer, nn.MaxPool2d):
            op, attributes = "MaxPool", {"kernel_shape": [2, 2], "strides": [2, 2]}
        elif isinstance(layer, nn.Linear):
            op, attributes = "Gemm", {"transB": 1}
        elif isinstance(layer, nn.ReLU):
            op = "Relu"
        for key, parameter in layer.named_parameters():
            operands.append(f"{i}.{key}")
            weights.append(numpy_helper.from_array(parameter.detach().numpy(), operands[-1]))
        nodes.append(helper.make_node(op, operands, [output], name=output, **attributes))
        name = output
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, side, side])]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", None])]
    graph = helper.make_graph(nodes, "study", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def concentrations(maps: Array, masks: Array) -> Array:
    """Background's mean entropy minus the foreground's, of maps (S, 3, y, x) and masks (S, y, x)."""
    inside = masks.astype(bool)
    return np.array([m[:, ~mask].mean() - m[:, mask].mean() for m, mask in zip(maps, inside, strict=True)])


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
    network = NETWORKS[options.network](options.side, int(labels.max()) + 1)
    random = copy.deepcopy(network)
    train(network, images[HELD_OUT:], answers[HELD_OUT:], options.epochs)
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
                    "stderr": float(values.std(ddof=1) / np.sqrt(len(values))),
                    "shuffled boxes": float(control.mean()),
                    "random weights": float(random.values("concentration")["value"][layer][kept].mean()),
                    "unconverged": int((~good).sum() + (~kept).sum()),
                }
            )
    return rows


if __name__ == "__main__":
    main()
