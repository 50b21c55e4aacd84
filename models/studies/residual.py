"""Residual networks for CIFAR (He et al. 2016) with batch norm."""

from __future__ import annotations

from torch import nn

from .common import Padding, Residual, initialized

#: Filters of the three stages, the first of which has the images' resolution, and each other half of that before it.
WIDTHS = (16, 32, 64)


def residual_classifier(
    blocks: int, side: int, classes: int, *, damaged: bool = False, padding: Padding = "zeros"
) -> nn.Sequential:
    """Return a network of three stages with so many blocks each, global average pooling and a linear layer.

    If damaged, the first convolution of the second stage has four 7 x 7 filters.
    """
    channels = WIDTHS[0]
    chain: list[nn.Module] = [convolution(3, channels, padding=padding), nn.BatchNorm2d(channels), nn.ReLU()]
    for stage, width in enumerate(WIDTHS):
        for number in range(blocks):
            stride = 2 if stage and not number else 1
            hit = damaged and stage == 1 and not number
            chain += [block(channels, width, stride, *((4, 7) if hit else (width, 3)), padding), nn.ReLU()]
            channels = width
    chain += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)]
    network = nn.Sequential(*chain)
    for part in (network, *(each for layer in network for each in layer.children())):
        if isinstance(part, nn.Sequential):
            initialized(part)
    return network


def block(channels: int, width: int, stride: int, inner: int, kernel: int, padding: Padding) -> Residual:
    """Return a block of two convolutions, the first of which has ``inner`` filters of a kernel size."""
    body = nn.Sequential(
        convolution(channels, inner, kernel, stride, padding=padding), nn.BatchNorm2d(inner), nn.ReLU(),
        convolution(inner, width, padding=padding), nn.BatchNorm2d(width),
    )  # fmt: skip
    changed = [convolution(channels, width, 1, stride), nn.BatchNorm2d(width)]
    return Residual(body, nn.Sequential(*(changed if stride > 1 or channels != width else [])))


def convolution(
    channels: int, width: int, kernel: int = 3, stride: int = 1, *, padding: Padding = "zeros"
) -> nn.Conv2d:
    """Return a convolution whose output is smaller than its input by the stride alone."""
    return nn.Conv2d(channels, width, kernel, stride, kernel // 2, padding_mode=padding)
