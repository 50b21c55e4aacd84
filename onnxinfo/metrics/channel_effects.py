"""First-order effects on a target of setting channels of inner tensors to zero."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from .sensitivity import directions_of, gradients_of
from .taps import TappedNetwork


def channel_effects(
    network: TappedNetwork,
    x: Tensor,
    rows: Tensor,
    channels: Sequence[tuple[tuple[int, ...], int] | None],
    probes: int,
    generator: torch.Generator,
) -> tuple[list[Tensor | None], Tensor]:
    """Compute what each channel contributes to the target, to first order.

    Setting channel c of a tensor a to zero moves the target by ``-J_c a_c``, as long as the target is linear in the
    channel. The sum of squares of the entries of several channels' sum is the squared length of their joint move.

    Parameters
    ----------
    network
        The tapped network.
    x, rows
        Samples, (S, *shape), and their rows, (S,).
    channels
        Shape of a sample of each layer, and its axis of channels; None for layers that are left out.
    probes
        Number of random directions, where the target has too many entries for exact Jacobians.
    generator
        Source of the directions.

    Returns
    -------
    effects
        By layer: the products of Jacobian and values, summed over each channel's units, (C, S, m), where m is the
        number of the target's entries, or of directions; then products are scaled to have the same expected squares.
    target
        The target, or its products with these directions, (S, m).
    """
    effects, targets = [], []
    for at, given in network.parts(x, rows):
        count = at.stop - at.start
        out = network.forward(given, count)
        values, target = network.seen(), out.detach()
        directions, exact = directions_of(target, probes, generator)
        scale = 1 if exact else 1 / math.sqrt(probes)
        found: list[list[Tensor]] = [[] for _ in values]
        projected = []
        for direction in directions:
            projected.append((target * direction).sum(1) * scale)
            for i, gradient in enumerate(gradients_of(out, values, direction)):
                if (axes := channels[i]) is not None:
                    moved = torch.zeros_like(values[i]) if gradient is None else gradient * values[i].detach()
                    found[i].append(_by_channel(network.rows(moved, i, count).float(), *axes) * scale)
        effects.append([torch.stack(each, 2) if each else None for each in found])
        targets.append(torch.stack(projected, 1))
    joined = [None if each[0] is None else torch.cat(each, 1) for each in zip(*effects, strict=True)]
    return joined, torch.cat(targets)


@contextmanager
def without_channels(network: TappedNetwork, removed: Mapping[int, tuple[int, Sequence[int]]]) -> Iterator[None]:
    """Set channels to zero within the context.

    Parameters
    ----------
    network
        The tapped network.
    removed
        By position of a layer: the axis of the channels in the graph's tensor, and the channels.
    """
    for place, (axis, channels) in removed.items():
        network.taps[place].noise = partial(_opposite, axis=axis, channels=[*channels])
    try:
        yield
    finally:
        for place in removed:
            network.taps[place].noise = None


def _opposite(value: Tensor, axis: int, channels: list[int]) -> Tensor:
    """Return what has to be added to a tensor for its channels to be zero."""
    mask = torch.zeros(value.shape[axis], dtype=value.dtype, device=value.device)
    mask[channels] = -1
    return value * mask.reshape(-1, *[1] * (value.dim() - axis - 1))


def _by_channel(rows: Tensor, shape: tuple[int, ...], axis: int) -> Tensor:
    """Sum a tensor, (S, n), over the units of each channel: (C, S)."""
    return rows.reshape(len(rows), math.prod(shape[:axis]), shape[axis], -1).sum((1, 3)).T
