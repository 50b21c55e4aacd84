"""Networks for ``gpu.py`` with random weights, exported to ONNX with a free batch size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

#: Channels of VGG-16's convolutions by block; each block ends with a pooling.
_VGG = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class Residual(nn.Module):
    """A residual block: convolutions with kernels of given sizes, and a projection where the shape changes."""

    def __init__(self, sizes: Sequence[int], channels: Sequence[int], stride: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i, size in enumerate(sizes):
            # The stride is that of the last convolution wider than one pixel, as in torchvision.
            step = stride if size > 1 and all(other == 1 for other in sizes[:i]) else 1
            layers += [nn.Conv2d(channels[i], channels[i + 1], size, step, size // 2, bias=False)]
            layers += [nn.BatchNorm2d(channels[i + 1]), nn.ReLU()]
        self.body = nn.Sequential(*layers[:-1])
        same = channels[0] == channels[-1] and stride == 1
        projection = nn.Conv2d(channels[0], channels[-1], 1, stride, bias=False)
        self.shortcut = nn.Identity() if same else nn.Sequential(projection, nn.BatchNorm2d(channels[-1]))

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of the body and the shortcut, rectified."""
        return torch.relu(self.body(x) + self.shortcut(x))


def resnet20(width: float) -> nn.Module:
    """ResNet-20 for images of 32 pixels (He et al., 2016)."""
    first = _scaled(16, width)
    layers: list[nn.Module] = [nn.Conv2d(3, first, 3, 1, 1, bias=False), nn.BatchNorm2d(first), nn.ReLU()]
    before = first
    for stage in range(3):
        now = _scaled(16 * 2**stage, width)
        for block in range(3):
            layers.append(Residual((3, 3), (before, now, now), 2 if stage and not block else 1))
            before = now
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 10))


def resnet50(width: float) -> nn.Module:
    """ResNet-50 (He et al., 2016)."""
    first = _scaled(64, width)
    layers: list[nn.Module] = [nn.Conv2d(3, first, 7, 2, 3, bias=False), nn.BatchNorm2d(first), nn.ReLU()]
    layers.append(nn.MaxPool2d(3, 2, 1))
    before = first
    for stage, blocks in enumerate((3, 4, 6, 3)):
        narrow, wide = _scaled(64 * 2**stage, width), _scaled(256 * 2**stage, width)
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            layers.append(Residual((1, 3, 1), (before, narrow, narrow, wide), stride))
            before = wide
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 1000))


def vgg16(width: float) -> nn.Module:
    """VGG-16 (Simonyan and Zisserman, 2015): 13 convolutions and 3 products with matrices."""
    layers: list[nn.Module] = []
    before = 3
    for block in _VGG:
        for channels in block:
            now = _scaled(channels, width)
            layers += [nn.Conv2d(before, now, 3, 1, 1), nn.ReLU()]
            before = now
        layers.append(nn.MaxPool2d(2))
    hidden = _scaled(4096, width)
    layers += [nn.Flatten(), nn.LazyLinear(hidden), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 1000))


#: Networks by name; a function of their width relative to the original.
NETWORKS: dict[str, Callable[[float], nn.Module]] = {"ResNet-20": resnet20, "ResNet-50": resnet50, "VGG-16": vgg16}


def _scaled(channels: int, width: float) -> int:
    return max(1, round(channels * width))


def exported(name: str, width: float, size: int, folder: Path) -> Path:
    """Write a network to an ONNX file; its weights keep the scale of activations (He et al., 2015)."""
    torch.manual_seed(0)
    network, x = NETWORKS[name](width).eval(), torch.zeros(1, 3, size, size)
    with torch.no_grad():
        network(x)
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight)
    file = folder / f"{name}.onnx"
    ends = {"input_names": ["image"], "output_names": ["logits"]}
    with torch.no_grad():
        torch.onnx.export(network, (x,), str(file), dynamo=False, dynamic_axes={"image": {0: "N"}}, **ends)
    return file
