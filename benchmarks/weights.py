"""Which score tells how much the loss rises if one weight tensor has few bits? The diagonal does not.

    OMP_NUM_THREADS=1 python benchmarks/weights.py cifar10.npz resnet20.onnx resnet32.onnx resnet44.onnx

Each weight tensor of a convolution or matrix product is rounded alone, per output channel, to a symmetric grid of 2, 3
or 4 bits. The rise of the cross entropy on 1,000 labeled test images is ranked by three scores from 64 other images
without labels:

- ``diagonal``: sum over the weights of the squared Jacobian of the logits times the variance of uniform errors,
  the score that works for activations;
- ``noise``: divergence of the class probabilities under uniform noise of the rounding errors' size, mean of 4 draws;
- ``kl``: divergence of the class probabilities under the rounding itself.

Prints Spearman's rank correlations over the tensors.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from bits import prepared
from scipy.stats import spearmanr
from torch import Tensor, nn

import onnxinfo
from onnxinfo.models.studies.script import as_script

BITS, DRAWS, SAMPLES = (2, 3, 4), 4, 64


def steps(weight: Tensor, bits: int) -> Tensor:
    """Return the step of each output channel's grid, broadcastable to the weight."""
    largest = weight.abs().flatten(1).amax(1).clamp(min=1e-12)
    return (largest / (2 ** (bits - 1) - 1 if bits > 1 else 1)).reshape(-1, *[1] * (weight.dim() - 1))


def rounded(weight: Tensor, bits: int) -> Tensor:
    """Round a weight to its grid."""
    step = steps(weight, bits)
    return torch.round(weight / step) * step


def divergence(clean: Tensor, moved: Tensor) -> float:
    """Return the mean divergence of class probabilities."""
    before, after = clean.double().log_softmax(1), moved.double().log_softmax(1)
    return float((before.exp() * (before - after)).sum(1).mean())


def squared_jacobians(module: nn.Module, weights: list[Tensor], x: Tensor) -> list[Tensor]:
    """Return the squared Jacobian of the logits by each weight, averaged over samples."""
    sums = [torch.zeros_like(weight) for weight in weights]
    for weight in weights:
        weight.requires_grad_(True)
    for i in range(len(x)):
        logits = module(x[i : i + 1])[0][0]
        for k in range(len(logits)):
            gradients = torch.autograd.grad(logits[k], weights, retain_graph=k + 1 < len(logits))
            for total, gradient in zip(sums, gradients, strict=True):
                total += gradient.square()
    for weight in weights:
        weight.requires_grad_(False)
    return [total / len(x) for total in sums]


def scores(path: Path, images: Tensor, test: Tensor, labels: Tensor) -> dict[int, dict[str, float]]:
    """Return rank correlations with the rise of the loss, by number of bits and score."""
    module = onnxinfo.convert(path, ["logits"])
    module.requires_grad_(False)
    tensors = [
        each for each in (*module.parameters(), *module.buffers()) if each.dim() > 1 and each.is_floating_point()
    ]
    squares = squared_jacobians(module, tensors, images)
    found: dict[int, dict[str, float]] = {}
    with torch.no_grad():
        clean, loss = module(images)[0], nn.CrossEntropyLoss()
        base = float(loss(module(test)[0], labels))
        for bits in BITS:
            rows = []
            for weight, square in zip(tensors, squares, strict=True):
                kept, step = weight.clone(), steps(weight, bits)
                rows.append([float((square * step**2 / 12).sum()), 0.0, 0.0, 0.0])
                generator = torch.Generator().manual_seed(0)
                for _ in range(DRAWS):
                    weight.copy_(kept + step * (torch.rand(kept.shape, generator=generator) - 0.5))
                    rows[-1][1] += divergence(clean, module(images)[0]) / DRAWS
                weight.copy_(rounded(kept, bits))
                rows[-1][2] = divergence(clean, module(images)[0])
                rows[-1][3] = float(loss(module(test)[0], labels)) - base
                weight.copy_(kept)
            table = np.array(rows)
            names = ("diagonal", "noise", "kl")
            found[bits] = {name: float(spearmanr(table[:, i], table[:, 3])[0]) for i, name in enumerate(names)}
            print(f"{path.stem} {bits} bits, {len(tensors)} tensors: {found[bits]}", flush=True)
    return found


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help=".npz with x_train, x_test and y_test, 8-bit images of 32 x 32 pixels")
    parser.add_argument("models", nargs="+", type=Path)
    chosen = parser.parse_args()
    with np.load(chosen.data) as data:
        picked = np.sort(np.random.default_rng(0).choice(len(data["x_train"]), SAMPLES, replace=False))
        images, test = (torch.from_numpy(prepared(each)) for each in (data["x_train"][picked], data["x_test"]))
        labels = torch.from_numpy(data["y_test"].astype(np.int64))
    for path in chosen.models:
        scores(path, images, test, labels)


if __name__ == "__main__":
    as_script(main)
