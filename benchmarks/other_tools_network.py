"""A ResNet for CIFAR as a plain torch module, with the weights of an ONNX file, and IBA's bottleneck.

Tools that replace the gradient of a layer, as zennit does, look for ``nn.Conv2d``, ``nn.Linear`` and ``nn.ReLU``. The
graph that ``onnxinfo.convert`` returns has a module per ONNX operator instead, so that the network is built again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import onnx
import torch
from torch import Tensor, nn

#: Defaults of the authors' implementation of IBA.
STEPS, COPIES, BETA, ALPHA, RATE, SMOOTHING, LEAST_STD, ACTIVE = 10, 10, 10.0, 5.0, 1.0, 1.0, 0.01, 0.01


class Addition(nn.Module):
    """Sum over the last axis, as a module that rules of propagation can be attached to."""

    def forward(self, parts: Tensor) -> Tensor:
        return parts.sum(-1)


class Block(nn.Module):
    """A residual block whose shortcut has no weights: every second pixel, and channels of zeros."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.stride, self.padding = (1, 0) if before == after else (2, (after - before) // 2)
        # In the order of execution.
        self.conv1 = nn.Conv2d(before, after, 3, self.stride, 1)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1)
        self.addition = Addition()
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x[:, :, :: self.stride, :: self.stride]
        shortcut = nn.functional.pad(shortcut, (0, 0, 0, 0, self.padding, self.padding))
        branch = self.conv2(self.relu1(self.conv1(x)))
        out: Tensor = self.relu2(self.addition(torch.stack([branch, shortcut], -1)))
        return out


class ResNet(nn.Module):
    """A ResNet for CIFAR without batch normalization, which is part of the convolutions."""

    def __init__(self, widths: list[tuple[int, int]], colors: int = 3, classes: int = 10) -> None:
        super().__init__()
        self.conv = nn.Conv2d(colors, widths[0][0], 3, 1, 1)
        self.relu = nn.ReLU()
        self.blocks = nn.Sequential(*(Block(*each) for each in widths))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(widths[-1][1], classes)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.linear(self.flatten(self.pool(self.blocks(self.relu(self.conv(x))))))
        return scores

    @property
    def last(self) -> nn.Module:
        """The activations before the pooling."""
        return self.blocks[-1].relu2

    @property
    def middle(self) -> nn.Module:
        """The activations at the end of the second of three stages."""
        return self.blocks[2 * len(self.blocks) // 3 - 1].relu2

    def layers(self) -> list[str]:
        """Return the names of all activations and of the class scores, in the order of execution."""
        return [name for name, module in self.named_modules() if isinstance(module, nn.ReLU | nn.Linear)]


def from_onnx(model: onnx.ModelProto) -> ResNet:
    """Return the network of an ONNX file; its convolutions are taken in the order of the graph."""
    arrays = {each.name: torch.tensor(onnx.numpy_helper.to_array(each)) for each in model.graph.initializer}
    nodes = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    weights = [[arrays[name] for name in node.input[1:]] for node in nodes]
    shapes = [weight.shape for weight, *_ in weights[1:-1:2]]
    network = ResNet([(before, after) for after, before, *_ in shapes], weights[0][0].shape[1], len(weights[-1][0]))
    modules = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    for module, (weight, bias) in zip(modules, weights, strict=True):
        module.weight.data, module.bias.data = weight, bias
    return network.eval().requires_grad_(False)


@dataclass(frozen=True)
class Statistics:
    """Mean and standard deviation of each unit of a layer, and whether it is ever active."""

    mean: Tensor
    std: Tensor
    active: Tensor


def statistics(network: nn.Module, layer: nn.Module, batches: Iterable[Tensor]) -> Statistics:
    """Return the statistics of a layer over images."""
    features: list[Tensor] = []
    handle = layer.register_forward_hook(lambda module, given, output: features.append(output))
    try:
        with torch.no_grad():
            for batch in batches:
                network(batch)
    finally:
        handle.remove()
    found = torch.cat(features)
    active = (found != 0).float().mean(0) > ACTIVE
    return Statistics(found.mean(0), found.std(0).clamp_min(LEAST_STD), active.float())


class Bottleneck:
    """Noise that replaces part of a layer, and the bits that still pass (Schulz et al. 2020, per-sample bottleneck)."""

    def __init__(self, seen: Statistics) -> None:
        self.seen = seen
        self.alpha = torch.full_like(seen.mean, ALPHA).requires_grad_(True)
        self.nats = torch.zeros_like(seen.mean)
        reach = 2 * round(SMOOTHING)
        line = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / SMOOTHING).square())
        self.kernel = torch.outer(line, line) / line.sum() ** 2

    def __call__(self, module: nn.Module, given: Any, output: Tensor) -> Tensor:
        kept, seen = self.kept(), self.seen
        signal = kept * (output - seen.mean) / seen.std
        lost = 1 - kept
        self.nats = -0.5 * (1 + 2 * lost.log() - signal.square() - lost.square()) * seen.active
        noisy = signal + lost * torch.randn_like(signal)
        return (noisy * seen.std + seen.mean) * seen.active

    def kept(self) -> Tensor:
        """Return the share of each unit that is kept, smoothed over neighbors."""
        reach = len(self.kernel) // 2
        padded = nn.functional.pad(self.alpha.sigmoid()[None], (reach,) * 4, mode="reflect")[0]
        return nn.functional.conv2d(padded[:, None], self.kernel[None, None])[:, 0]


def bits(network: nn.Module, layer: nn.Module, seen: Statistics, image: Tensor, label: int) -> Tensor:
    """Return the bits per pixel that must pass a layer for the class of an image to be kept, (height, width)."""
    bottleneck = Bottleneck(seen)
    optimizer = torch.optim.Adam([bottleneck.alpha], lr=RATE)
    handle = layer.register_forward_hook(bottleneck)
    try:
        for _ in range(STEPS):
            optimizer.zero_grad()
            lost = -network(image.expand(COPIES, -1, -1, -1)).log_softmax(1)[:, label].mean()
            (lost + BETA * bottleneck.nats.mean()).backward()
            optimizer.step()
    finally:
        handle.remove()
    found = bottleneck.nats[0].detach().nansum(0) / math.log(2)
    size = image.shape[-2:]
    wide = nn.functional.interpolate(found[None, None], size, mode="bilinear", align_corners=False)[0, 0]
    return wide * found.numel() / (size[0] * size[1])
