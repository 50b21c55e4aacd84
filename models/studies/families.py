"""The families of networks that the studies train: their architectures, and the names of their layers.

Layers are named by their position in the chain without batch norm, as ``common.to_onnx`` names them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import nn

from .common import ALEXNET, VGG, Step
from .normalized import normalized_classifier
from .residual import residual_classifier

#: Makes a classifier with batch norm of images of a side length in pixels, and of a number of classes.
Build = Callable[[int, int], nn.Sequential]


@dataclass(frozen=True)
class Family:
    """Networks of one kind.

    Attributes
    ----------
    name, title
        The name in commands and files, and in tables.
    sizes, size
        Networks by name, from the shallowest to the deepest, and the name of the one that all studies but depth use.
    damaged
        That network with four 7 x 7 filters instead of one of its convolutions.
    layers
        All layers that are measured, in order: ends of convolutions or blocks, hidden linear layers, and the scores.
    convolutions
        The layers that an autoencoder has, too.
    at
        The layer that the damaged convolution computes.
    stages
        The stages whose number of convolutions differs between the sizes.
    """

    name: str
    title: str
    sizes: dict[str, Build]
    size: str
    damaged: Build
    layers: tuple[str, ...]
    convolutions: tuple[str, ...]
    at: str
    stages: tuple[str, ...] = ("stage 1", "stage 2", "stage 3")

    @property
    def build(self) -> Build:
        """The network that all studies but depth use."""
        return self.sizes[self.size]

    @property
    def high(self) -> tuple[str, ...]:
        """The last three layers, which are followed through training and pruning."""
        return self.layers[-3:]

    @property
    def last(self) -> tuple[str, ...]:
        """The last two layers, of which the paper's claims on high layers are tested."""
        return self.layers[-2:]

    @property
    def after(self) -> tuple[str, ...]:
        """The layers behind the damaged convolution."""
        return self.layers[self.layers.index(self.at) + 1 :]


def chain(*plan: Step) -> Build:
    """Return what makes a network of convolutions, poolings and two linear layers."""
    return partial(normalized_classifier, plan)


VGGS = Family(
    name="vgg",
    title="VGG",
    sizes={
        "3 convolutions": chain((16, 3, 1), None, (32, 3, 1), None, (64, 3, 1), None),
        "5 convolutions": chain(*VGG),
        "8 convolutions": chain(*[(16, 3, 1)] * 3, None, *[(32, 3, 1)] * 3, None, *[(64, 3, 1)] * 2, None),
    },
    size="5 convolutions",
    damaged=chain(*VGG[:4], (4, 7, 1), *VGG[5:]),
    layers=("relu_1", "relu_3", "relu_6", "relu_8", "relu_11", "relu_15", "linear_16"),
    convolutions=("relu_1", "relu_3", "relu_6", "relu_8", "relu_11", "maxpool2d_12"),
    at="relu_8",
)
ALEXNETS = Family(
    name="alexnet",
    title="AlexNet",
    sizes={
        "3 convolutions": chain((24, 7, 2), None, (48, 5, 1), None, (64, 3, 1), None),
        "4 convolutions": chain(*ALEXNET),
        "6 convolutions": chain((24, 7, 2), None, *[(48, 5, 1)] * 2, None, *[(64, 3, 1)] * 3, None),
    },
    size="4 convolutions",
    damaged=chain(*ALEXNET[:4], (4, 7, 1), *ALEXNET[5:]),
    layers=("relu_1", "relu_4", "relu_7", "relu_9", "relu_13", "linear_14"),
    convolutions=("relu_1", "relu_4", "relu_7", "relu_9", "maxpool2d_10"),
    at="relu_7",
    stages=("stage 2", "stage 3"),
)
RESNETS = Family(
    name="resnet",
    title="ResNet",
    sizes={
        "ResNet-8": partial(residual_classifier, 1),
        "ResNet-14": partial(residual_classifier, 2),
        "ResNet-20": partial(residual_classifier, 3),
    },
    size="ResNet-8",
    damaged=partial(residual_classifier, 1, damaged=True),
    layers=("relu_1", "relu_3", "relu_4.body.1", "relu_5", "relu_7", "linear_10"),
    convolutions=("relu_1", "relu_3", "relu_5", "relu_7"),
    at="relu_4.body.1",
)
FAMILIES = {family.name: family for family in (VGGS, ALEXNETS, RESNETS)}
