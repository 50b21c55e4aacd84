"""Classifiers and autoencoders with batch norm, trained on padded and shifted images, and their chains without it.

Batch norm makes training faster and its result better; after training it is a part of the convolution before it.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from .common import HIDDEN, Residual, Step, convolutions, initialized

#: Images of a step, highest learning rate, momentum, decay of the weights, and epochs until the rate is highest.
BATCH, RATE, MOMENTUM, DECAY, WARMUP = 64, 0.05, 0.9, 5e-4, 2.0
#: Pixels by which a training image is shifted at most, each way.
REACH = 4
#: Least number of channels of a transposed convolution.
NARROWEST = 8
#: Images over which batch norm's means and variances are computed when it is folded.
CALIBRATED = 1000
#: With what the part of a classifier begins that an autoencoder does not have.
HEAD = (nn.Flatten, nn.AdaptiveAvgPool2d)


def normalized_classifier(plan: Sequence[Step], side: int, classes: int) -> nn.Sequential:
    """Return convolutions with batch norm, followed by two linear layers."""
    layers, channels, side = convolutions(plan, side)
    chain: list[nn.Module] = []
    for layer in layers:
        chain += [layer, nn.BatchNorm2d(layer.out_channels)] if isinstance(layer, nn.Conv2d) else [layer]
    chain += [nn.Flatten(), nn.Linear(channels * side * side, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, classes)]
    return initialized(nn.Sequential(*chain)).to(memory_format=torch.channels_last)


def normalized_autoencoder(classifier: nn.Sequential, side: int) -> nn.Sequential:
    """Return the convolutions or blocks of a classifier, followed by transposed ones that compute the image.

    Those of the classifier are not copied.
    """
    chain = [*itertools.takewhile(lambda layer: not isinstance(layer, HEAD), classifier)]
    with torch.no_grad():
        _, channels, reached, _ = nn.Sequential(*copy.deepcopy(chain)).eval()(torch.zeros(1, 3, side, side)).shape
    while reached < side:
        width = max(NARROWEST, channels // 2)
        chain += [nn.ConvTranspose2d(channels, width, 4, 2, 1), nn.BatchNorm2d(width), nn.ReLU()]
        channels, reached = width, 2 * reached
    chain.append(nn.Conv2d(channels, 3, 3, padding=1))
    return nn.Sequential(*chain).to(memory_format=torch.channels_last)


def folded(network: nn.Sequential, x: Tensor) -> nn.Sequential:
    """Return a copy without batch norm, which computes the same.

    Parameters
    ----------
    network
        A chain, or one that contains sums of two chains, in which batch norm follows convolutions and transposed ones
        only. It is not changed.
    x
        Images (N, 3, y, x) that give batch norm its means and variances.
    """
    return _folded(calibrated(network, x)).to(memory_format=torch.contiguous_format).eval()


def _folded(network: nn.Sequential) -> nn.Sequential:
    chain: list[nn.Module] = []
    for layer in network:
        if isinstance(layer, Residual):
            chain.append(Residual(_folded(layer.body), _folded(layer.shortcut)))
            continue
        if not isinstance(layer, nn.BatchNorm2d):
            chain.append(layer)
            continue
        convolution = chain[-1]
        assert isinstance(convolution, nn.Conv2d | nn.ConvTranspose2d)
        transposed = isinstance(convolution, nn.ConvTranspose2d)
        chain[-1] = torch.nn.utils.fusion.fuse_conv_bn_eval(convolution, layer, transpose=transposed)
    return nn.Sequential(*chain)


def unfolded(network: nn.Sequential, x: Tensor) -> nn.Sequential:
    """Return a copy with batch norm after each convolution, which computes the same for images x (N, 3, y, x)."""
    network = copy.deepcopy(network).eval()
    outputs: dict[nn.Module, Tensor] = {}

    def note(layer: nn.Module, _: object, found: Tensor) -> None:
        outputs[layer] = found

    hooks = [each.register_forward_hook(note) for each in network.modules() if isinstance(each, nn.Conv2d)]
    with torch.no_grad():
        network(x)
    for hook in hooks:
        hook.remove()
    return _unfolded(network, outputs).to(memory_format=torch.channels_last)


def _unfolded(network: nn.Sequential, outputs: Mapping[nn.Module, Tensor]) -> nn.Sequential:
    chain: list[nn.Module] = []
    for layer in network:
        if isinstance(layer, Residual):
            chain.append(Residual(_unfolded(layer.body, outputs), _unfolded(layer.shortcut, outputs)))
            continue
        chain.append(layer)
        if isinstance(layer, nn.Conv2d):
            chain.append(_restoring(outputs[layer]))
    return nn.Sequential(*chain)


def _restoring(output: Tensor) -> nn.BatchNorm2d:
    """Return batch norm that leaves an output (N, channels, y, x) as it is."""
    norm = nn.BatchNorm2d(output.shape[1])
    variance, mean = torch.var_mean(output, (0, 2, 3), correction=0)
    with torch.no_grad():
        norm.weight.copy_((variance + norm.eps).sqrt())
        norm.bias.copy_(mean)
        norm.running_mean, norm.running_var = mean, variance
    return norm


def calibrated(network: nn.Sequential, x: Tensor) -> nn.Sequential:
    """Return a copy whose batch norm has the mean and variance of images x, and not those of past steps."""
    network = copy.deepcopy(network).train()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_running_stats()
            layer.momentum = 1.0
    with torch.no_grad():
        network(x)
    return network.eval()


def shifted(x: Tensor, reach: int = REACH) -> Tensor:
    """Return images x (N, 3, y, x), half of them mirrored, each shifted by up to so many pixels and padded by zeros."""
    n, side = len(x), x.shape[-1]
    padded = nn.functional.pad(x, (reach,) * 4).permute(0, 2, 3, 1)
    up, left = torch.randint(0, 2 * reach + 1, (2, n, 1))
    rows, columns = up + torch.arange(side), left + torch.arange(side)
    columns = torch.where(torch.rand(n, 1) < 0.5, columns.flip(1), columns)
    return padded[torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def batches(n: int, size: int = BATCH) -> Iterator[Tensor]:
    """Yield the numbers 0 to n - 1 once, in a random order, in batches."""
    yield from torch.split(torch.randperm(n), size)


def descend(
    network: nn.Module,
    epochs: int,
    steps: int,
    losses: Callable[[int], Iterator[Tensor]],
    each: Callable[[int], None] = lambda step: None,
    rate: float = RATE,
    after: Callable[[], None] = lambda: None,
) -> None:
    """Train by SGD; the rate rises for two epochs, at most a fifth of all, and falls to zero along a cosine.

    Parameters
    ----------
    network
        Network to train.
    epochs, steps
        Number of epochs, and of steps of each.
    losses
        Yields the loss of each batch of an epoch, of which it gets the number, from 0.
    each
        Called after each step with the number of steps so far.
    rate
        The highest learning rate.
    after
        Called after each change of the weights.
    """
    optimizer = torch.optim.SGD(network.parameters(), rate, MOMENTUM, nesterov=True, weight_decay=DECAY)
    rising = min(WARMUP / epochs, 0.2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, total_steps=epochs * steps, pct_start=rising, cycle_momentum=False
    )
    done = 0
    for epoch in range(epochs):
        network.train()
        for loss in losses(epoch):
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            after()
            schedule.step()
            done += 1
            each(done)
    network.eval()
