"""Shared parts of the studies: small networks trained on the CPU, their ONNX files, accuracy, and tables."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from onnxinfo.archive import means

Array = npt.NDArray[Any]
SEED, BATCH, HIDDEN = 0, 32, 64
#: A convolution as filters, kernel size and stride; None for pooling by two.
Step = tuple[int, int, int] | None
Padding = Literal["zeros", "circular"]
#: Pairs of 3x3 convolutions between poolings.
VGG: list[Step] = [(16, 3, 1), (16, 3, 1), None, (32, 3, 1), (32, 3, 1), None, (64, 3, 1), None]
#: A wide strided convolution first, then few narrower ones.
ALEXNET: list[Step] = [(24, 7, 2), None, (48, 5, 1), None, (64, 3, 1), (64, 3, 1), None]


def versions_parser(description: str | None) -> argparse.ArgumentParser:
    """Return the argument parser of a study that measures versions of one trained model on labeled samples."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--inputs", required=True)
    parser.add_argument("--labels", required=True)
    parser.add_argument("--preset")
    parser.add_argument("--limit", type=int, default=8, help="Number of samples for SID.")
    parser.add_argument("--scored", type=int, default=1000, help="Number of samples for the accuracy.")
    parser.add_argument("-o", "--output", type=Path, required=True)
    return parser


def convolutions(plan: Sequence[Step], side: int, padding: Padding = "zeros") -> tuple[list[nn.Module], int, int]:
    """Return convolutions with ReLU and poolings, and the channels and side length of their output.

    The padding is ``zeros``, or ``circular``, with which the whole network sees every pixel equally.
    """
    layers: list[nn.Module] = []
    channels = 3
    for step in plan:
        if step is None:
            layers.append(nn.MaxPool2d(2))
            side //= 2
            continue
        width, kernel, stride = step
        layers += [nn.Conv2d(channels, width, kernel, stride, kernel // 2, padding_mode=padding), nn.ReLU()]
        channels, side = width, -(-side // stride)
    return layers, channels, side


def classifier(plan: Sequence[Step], side: int, classes: int, padding: Padding = "zeros") -> nn.Sequential:
    """Return convolutions followed by two linear layers."""
    layers, channels, side = convolutions(plan, side, padding)
    layers += [nn.Flatten(), nn.Linear(channels * side * side, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, classes)]
    return initialized(nn.Sequential(*layers))


def initialized(network: nn.Sequential) -> nn.Sequential:
    """Initialize a network's weights as usual for ReLU."""
    for layer in network:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.constant_(layer.get_parameter("bias"), 0)
    return network


class Residual(nn.Module):
    """The sum of what two chains compute from the same feature.

    Parameters
    ----------
    body
        Two convolutions with batch norm.
    shortcut
        No layers, or a 1 x 1 convolution with batch norm where the shape changes.
    """

    def __init__(self, body: nn.Sequential, shortcut: nn.Sequential) -> None:
        super().__init__()
        self.body, self.shortcut = body, shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum."""
        found: Tensor = self.body(x) + self.shortcut(x)
        return found


def fit_classes(network: nn.Module, x: Tensor, labels: Tensor, epochs: int) -> None:
    """Train a classifier on images x (N, 3, y, x) with classes (N,): Adam, cosine annealing, flips and shifts."""
    optimizer = torch.optim.Adam(network.parameters(), 1e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    reach = x.shape[-1] // 16
    for _ in range(epochs):
        network.train()
        for rows in torch.split(torch.randperm(len(x)), BATCH):
            shown = torch.where(torch.rand(len(rows), 1, 1, 1) < 0.5, x[rows].flip(3), x[rows])
            shown = shown.roll([int(torch.randint(-reach, reach + 1, ())) for _ in range(2)], (2, 3))
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(shown), labels[rows]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        schedule.step()
        network.eval()


def to_onnx(network: nn.Sequential, side: int) -> onnx.ModelProto:
    """Write a chain of convolutions, transposed ones, poolings, linear layers and sums of two chains as an ONNX graph.

    Layers are named by position.
    """
    graph = _Graph()
    name = graph.add_chain(network, "x")
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, side, side])]
    rank = 2 if any(isinstance(layer, nn.Flatten) for layer in network) else 4
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *[None] * (rank - 1)])]
    made = helper.make_graph(graph.nodes, "study", inputs, outputs, graph.weights)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


class _Graph:
    """Nodes and weights of a network that is written."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[TensorProto] = []

    def add_chain(self, chain: nn.Sequential, name: str, path: str = "") -> str:
        """Add the layers of a chain at a path within the network, and return the name of what they compute."""
        for i, layer in enumerate(chain):
            name = self.add(layer, name, f"{path}{i}")
        return name

    def add(self, layer: nn.Module, name: str, place: str) -> str:
        """Add a layer that reads a tensor of a name, and return the name of its output."""
        output, op, operands = f"{type(layer).__name__.lower()}_{place}", type(layer).__name__, [name]
        attributes: dict[str, Any] = {}
        if isinstance(layer, Residual):
            operands = [self.add_chain(getattr(layer, part), name, f"{place}.{part}.") for part in ("body", "shortcut")]
            self.nodes.append(helper.make_node("Add", operands, [output], name=output))
            return output
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            op = op.removesuffix("2d")
            operands, attributes = self._padded(layer, name, place)
        elif isinstance(layer, nn.MaxPool2d):
            op, attributes = "MaxPool", {"kernel_shape": [2, 2], "strides": [2, 2]}
        elif isinstance(layer, nn.AdaptiveAvgPool2d):
            op = "GlobalAveragePool"
        elif isinstance(layer, nn.Linear):
            op, attributes = "Gemm", {"transB": 1}
        elif isinstance(layer, nn.ReLU):
            op = "Relu"
        for key, parameter in layer.named_parameters():
            operands.append(f"{place}.{key}")
            self.weights.append(numpy_helper.from_array(parameter.detach().numpy(), operands[-1]))
        self.nodes.append(helper.make_node(op, operands, [output], name=output, **attributes))
        return output

    def _padded(self, layer: nn.Conv2d | nn.ConvTranspose2d, name: str, place: str) -> tuple[list[str], dict[str, Any]]:
        """Return the operand and attributes of a convolution, whose circular padding is a node of its own."""
        pad, kernel, stride = int(layer.padding[0]), layer.kernel_size[0], layer.stride[0]
        if layer.padding_mode == "circular":
            self.weights.append(numpy_helper.from_array(np.array([0, 0, pad, pad] * 2), f"{place}.pads"))
            padded = f"pad_{place}"
            self.nodes.append(helper.make_node("Pad", [name, f"{place}.pads"], [padded], name=padded, mode="wrap"))
            name, pad = padded, 0
        return [name], {"pads": [pad] * 4, "kernel_shape": [kernel] * 2, "strides": [stride] * 2}


def sample_shape(model: onnx.ModelProto) -> tuple[int, ...]:
    """Shape of one sample of a model's first input."""
    return tuple(each.dim_value for each in model.graph.input[0].type.tensor_type.shape.dim)[1:]


def scores(model: onnx.ModelProto, x: Array) -> Array:
    """Output of a model for preprocessed samples (N, ...), computed by ONNX Runtime in batches of a hundred."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (name,) = [each.name for each in session.get_inputs()]
    return np.concatenate([session.run(None, {name: x[i : i + 100]})[0] for i in range(0, len(x), 100)])


def accuracy(model: onnx.ModelProto, x: Array, labels: Array) -> float:
    """Fraction of samples (N, ...) whose highest score is that of their class."""
    return float((scores(model, x).argmax(1) == labels).mean())


def mean_and_stderr(values: Array) -> tuple[float, float, int]:
    """Mean of the finite values, its standard error (NaN for fewer than two), and their number."""
    mean, stderr, n = means.mean_and_stderr(values)
    return float(mean), float(stderr), int(n)


def add_decoder_options(parser: argparse.ArgumentParser) -> None:
    """Add options for training data, duration and location of the decoders of RU."""
    parser.add_argument("--decoder-inputs", help="Training samples of the decoders; without them, RU is skipped.")
    parser.add_argument("--decoder-limit", type=int, default=1000)
    parser.add_argument("--decoder-steps", type=int, default=400)
    parser.add_argument("--decoders", type=Path, help="Folder of the decoders; default: beside the archive.")


def decoder_options(options: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of an analysis with RU, or none."""
    if not options.decoder_inputs:
        return {}
    names = ("decoder_inputs", "decoder_limit", "decoder_steps", "decoders")
    return {name: getattr(options, name) for name in names}
