"""Classifiers of digits that keep all 64 dimensions of the image up to the last layer, and their inverses.

All are a chain of blocks on (N, 4, 4, 4), the image of 8 x 8 pixels rearranged, followed by one linear layer. They
differ in the blocks only:

- ``coupling``: two affine couplings (Dinh et al., RealNVP, 2017), inverted by a formula;
- ``RevNet``: two additive couplings (Gomez et al., 2017), inverted by a formula;
- ``i-ResNet``: ``x + g(x)``, where g is a contraction (Behrmann et al., 2019), inverted by iteration;
- ``ResNet``: ``relu(x + g(x))`` without a bound on g, which has no inverse.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, cross_entropy, relu
from torch.nn.utils.parametrize import register_parametrization, remove_parametrizations

BLOCKS, CHANNELS, SIDE, HIDDEN = 6, 4, 4, 32
UNITS, CLASSES = CHANNELS * SIDE * SIDE, 10
#: Bounds of the logarithm of a coupling's factor, and of the Lipschitz constant of an i-ResNet's g.
MOST_LOG, CONTRACTION = 1.0, 0.9
#: Largest change of an entry at which the iteration that inverts a block ends, and most iterations.
SOLVED, ITERATIONS = 1e-7, 400
EPOCHS, BATCH, RATE, DECAY = 30, 64, 3e-3, 1e-3
OPSET = 17


def squeeze(x: Tensor) -> Tensor:
    """Rearrange images (N, 1, 8, 8) to (N, 4, 4, 4)."""
    return nn.functional.pixel_unshuffle(x, 2)


def flat(x: Tensor) -> Tensor:
    """Return one row per sample."""
    return x.flatten(1)


def body(inputs: int, outputs: int) -> nn.Sequential:
    """Return two convolutions, the last of which is 0 at first: each block starts as the identity."""
    last = nn.Conv2d(HIDDEN, outputs, 3, padding=1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.get_parameter("bias"))
    return nn.Sequential(nn.Conv2d(inputs, HIDDEN, 3, padding=1), nn.ReLU(), last)


class RevBlock(nn.Module):
    """Two additive couplings: each half of the channels is shifted by a function of the other half."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = body(CHANNELS // 2, CHANNELS // 2), body(CHANNELS // 2, CHANNELS // 2)

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, 1)
        a = a + self.first(b)
        return torch.cat([a, b + self.second(a)], 1)

    def inverse(self, y: Tensor) -> Tensor:
        a, b = y.chunk(2, 1)
        b = b - self.second(a)
        return torch.cat([a - self.first(b), b], 1)


class CouplingBlock(nn.Module):
    """Two affine couplings: each half of the channels is scaled and shifted by functions of the other half."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = body(CHANNELS // 2, CHANNELS), body(CHANNELS // 2, CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, 1)
        log, shift = self.first(b).chunk(2, 1)
        a = a * (MOST_LOG * log.tanh()).exp() + shift
        log, shift = self.second(a).chunk(2, 1)
        return torch.cat([a, b * (MOST_LOG * log.tanh()).exp() + shift], 1)

    def inverse(self, y: Tensor) -> Tensor:
        a, b = y.chunk(2, 1)
        log, shift = self.second(a).chunk(2, 1)
        b = (b - shift) * (-MOST_LOG * log.tanh()).exp()
        log, shift = self.first(b).chunk(2, 1)
        return torch.cat([(a - shift) * (-MOST_LOG * log.tanh()).exp(), b], 1)


class Contracted(nn.Module):
    """The weight of a convolution on the grid, scaled down where its spectral norm exceeds the bound."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight * (CONTRACTION**0.5 / spectral_norm(weight)).clamp(max=1)


def spectral_norm(weight: Tensor) -> Tensor:
    """Return the largest singular value of a convolution on the grid, exactly."""
    narrow = weight if weight.shape[1] < weight.shape[0] else weight.transpose(0, 1).flip(2, 3)  # or its transpose
    basis = torch.eye(narrow.shape[1] * SIDE * SIDE, dtype=weight.dtype).unflatten(1, (-1, SIDE, SIDE))
    matrix = conv2d(basis, narrow, padding=1).flatten(1)
    return torch.linalg.eigvalsh(matrix @ matrix.T)[-1].sqrt()


class ContractiveBlock(nn.Module):
    """``x + g(x)`` with a Lipschitz constant of g of at most :data:`CONTRACTION`."""

    def __init__(self) -> None:
        super().__init__()
        up, down = nn.Conv2d(CHANNELS, HIDDEN, 3, padding=1), nn.Conv2d(HIDDEN, CHANNELS, 3, padding=1)
        for convolution in (up, down):
            register_parametrization(convolution, "weight", Contracted())
        self.branch = nn.Sequential(up, nn.ELU(), down)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)

    def inverse(self, y: Tensor) -> Tensor:
        x = y
        for _ in range(ITERATIONS):
            x, before = y - self.branch(x), x
            if float((x - before).detach().abs().max()) < SOLVED:
                break
        return x


class ResidualBlock(nn.Module):
    """``relu(x + g(x))``: half of the entries or so become 0, and what they were is lost."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = body(CHANNELS, CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        return relu(x + self.branch(x))


class Rotation(nn.Module):
    """A permutation of all units after a reflection: an orthogonal block, which only an oracle needs."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("order", torch.randperm(UNITS))
        direction = torch.randn(UNITS)
        self.register_buffer(
            "reflection", torch.eye(UNITS) - 2 * torch.outer(direction, direction) / direction.dot(direction)
        )

    def forward(self, x: Tensor) -> Tensor:
        return (flat(x) @ self.reflection)[:, self.order].reshape(x.shape)

    def inverse(self, y: Tensor) -> Tensor:
        return (flat(y)[:, self.order.argsort()] @ self.reflection.T).reshape(y.shape)


KINDS: dict[str, Callable[[], nn.Module]] = {
    "coupling": CouplingBlock,
    "RevNet": RevBlock,
    "i-ResNet": ContractiveBlock,
    "ResNet": ResidualBlock,
}
BY_FORMULA = ("coupling", "RevNet")
INVERTIBLE = (*BY_FORMULA, "i-ResNet")


class Classifier(nn.Module):
    """Blocks and a linear layer: images (N, 1, 8, 8) to the class scores, followed by the output of each block."""

    def __init__(self, block: Callable[[], nn.Module], blocks: int = BLOCKS) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(block() for _ in range(blocks))
        self.head = nn.Linear(UNITS, CLASSES)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        features, x = [], squeeze(x)
        for block in self.blocks:
            x = block(x)
            features.append(x)
        return self.head(flat(x)), *features

    def feature(self, x: Tensor, depth: int) -> Tensor:
        """Return the output of the block at this depth, from 1, as rows."""
        return flat(self(x)[depth])


class Inverse(nn.Module):
    """The image (N, 1, 8, 8) from the output of the block at this depth, given as rows: a perfect decoder."""

    def __init__(self, network: Classifier, depth: int) -> None:
        super().__init__()
        self.network, self.depth = network, depth

    def forward(self, feature: Tensor) -> Tensor:
        x = feature.reshape(-1, CHANNELS, SIDE, SIDE)
        for block in reversed(self.network.blocks[: self.depth]):
            x = block.inverse(x)
        return nn.functional.pixel_shuffle(x, 2)


def train(network: Classifier, x: Tensor, y: Tensor, epochs: int = EPOCHS) -> None:
    """Train with AdamW and a one-cycle learning rate; the weights are fixed afterwards."""
    optimizer = torch.optim.AdamW(network.parameters(), RATE, weight_decay=DECAY)
    steps = len(x) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, epochs=epochs, steps_per_epoch=steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(x))[: steps * BATCH].reshape(steps, BATCH):
            optimizer.zero_grad()
            torch.autograd.backward(cross_entropy(network(x[rows])[0], y[rows]))
            optimizer.step()
            schedule.step()
    for block in network.blocks:
        if isinstance(block, ContractiveBlock):
            for each in (block.branch[0], block.branch[2]):
                remove_parametrizations(each, "weight")
    network.eval().requires_grad_(False)


def export(network: Classifier) -> onnx.ModelProto:
    """Export with a free batch size; the outputs are ``logits``, ``block_1``, ``block_2``, ..."""
    names = ["logits", *(f"block_{depth}" for depth in range(1, len(network.blocks) + 1))]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = Path(folder) / "network.onnx"
        torch.onnx.export(
            network, (torch.zeros(2, 1, 8, 8),), file, dynamo=False, opset_version=OPSET, input_names=["image"],
            output_names=names, dynamic_axes={name: {0: "batch"} for name in ["image", *names]},
        )  # fmt: skip
        return onnx.load(file)
