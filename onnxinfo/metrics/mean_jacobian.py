"""Decide whether a layer is worth a control variate, and estimate its mean Jacobian under noise."""

from __future__ import annotations

import torch
from torch import Tensor

from .control import Control
from .probe import LayerProbe

#: Features up to this size are modeled entry by entry; larger ones along the directions in which noise moves them most.
WHOLE_OUTPUTS, DIRECTIONS = 16, 32
#: Noise samples to count the directions and to find them; least number of pairs of points at which their gradients are
#: averaged, and number of gradients for which there may be more.
FIRST_NOISES, DIRECTION_NOISES, POINTS, PRODUCTS = 8, 64, 4, 32
#: Larger features, and those that noise moves in more effective directions, are not worth a model: most of the noise
#: would remain (0.87 of it at the 4,096 entries of a ResNet-20's last block). With no more units than directions, a
#: model is complete, and a linear layer's deviation is known exactly.
MOST_OUTPUTS, MOST_EFFECTIVE_DIRECTIONS = 512, 24
#: Maximum number of entries of a model, and of the changes that its directions are found in.
MOST_NUMBERS = 2**26


def control_of(feature: LayerProbe, sigma: Tensor) -> Control | None:
    """Model a layer under noise; return None if noise moves its feature in too many directions, or memory is short.

    Parameters
    ----------
    feature
        The layer on a block of S samples.
    sigma
        Noise scales, (S, n), standardized.
    """
    outputs, complete = feature.center.shape[1], feature.units <= DIRECTIONS
    numbers = max(min(outputs, DIRECTIONS) * sigma.numel(), DIRECTION_NOISES * feature.center.numel())
    if (outputs > MOST_OUTPUTS and not complete) or numbers > MOST_NUMBERS:
        return None
    if outputs <= WHOLE_OUTPUTS:
        directions = torch.eye(outputs, device=sigma.device).expand(len(sigma), -1, -1)
    else:
        changes = feature.changes(sigma, FIRST_NOISES)
        if not complete and float(_effective_directions(changes).median()) > MOST_EFFECTIVE_DIRECTIONS:
            return None
        changes = torch.cat([changes, feature.changes(sigma, DIRECTION_NOISES - FIRST_NOISES)])
        directions = torch.linalg.svd(changes.transpose(0, 1), full_matrices=False).Vh[:, :DIRECTIONS]
    points = max(POINTS, PRODUCTS // directions.shape[1])
    return Control(feature.mean_products(sigma, directions, points))


def _effective_directions(changes: Tensor) -> Tensor:
    """``tr(C)^2 / tr(C^2)`` of the second moments C of changes (draws, S, m), (S,), unbiased for few noise samples."""
    gram = torch.einsum("psm,qsm->spq", changes, changes)
    count = len(changes)
    diagonal = gram.diagonal(dim1=1, dim2=2)
    apart = (gram.square().sum((1, 2)) - diagonal.square().sum(1)) / (count * (count - 1))
    tiny = torch.finfo(gram.dtype).tiny
    return diagonal.mean(1).square() / apart.clamp(min=tiny)
