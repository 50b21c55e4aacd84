"""Whether a layer is worth a control variate, and the mean Jacobian under noise that makes it."""

from __future__ import annotations

import torch
from torch import Tensor

from .control import Control
from .probe import LayerProbe

#: Features up to this size are modeled as they are; larger ones by the directions in which noise moves them most.
WHOLE_OUTPUTS, DIRECTIONS = 16, 32
#: Noise samples that tell how many directions there are, and which; points at which their gradients are averaged.
FIRST_NOISES, DIRECTION_NOISES, POINTS = 8, 64, 4
#: A feature of more entries, or that noise moves in more directions, effectively, is not worth a model: most of the
#: noise would stay (0.87 of it at the 4,096 entries of a ResNet-20's last block).
MOST_OUTPUTS, MOST_EFFECTIVE_DIRECTIONS = 512, 24
#: Most numbers that a model may hold.
MOST_NUMBERS = 2**26


def control_of(feature: LayerProbe, sigma: Tensor) -> Control | None:
    """Model a layer under noise, or return None where noise moves its feature in too many directions.

    Parameters
    ----------
    feature
        The layer on a block of S samples.
    sigma
        Noise scales, (S, n), standardized.
    """
    outputs = feature.center.shape[1]
    if outputs > MOST_OUTPUTS or min(outputs, DIRECTIONS) * sigma.numel() > MOST_NUMBERS:
        return None
    if outputs <= WHOLE_OUTPUTS:
        directions = torch.eye(outputs, device=sigma.device).expand(len(sigma), -1, -1)
    else:
        changes = feature.changes(sigma, FIRST_NOISES)
        if float(_effective_directions(changes).median()) > MOST_EFFECTIVE_DIRECTIONS:
            return None
        changes = torch.cat([changes, feature.changes(sigma, DIRECTION_NOISES - FIRST_NOISES)])
        directions = torch.linalg.svd(changes.transpose(0, 1), full_matrices=False).Vh[:, :DIRECTIONS]
    return Control(feature.mean_products(sigma, directions, POINTS))


def _effective_directions(changes: Tensor) -> Tensor:
    """``tr(C)^2 / tr(C^2)`` of the second moments C of changes (noises, S, m), (S,), unbiased for few noise samples."""
    gram = torch.einsum("psm,qsm->spq", changes, changes)
    count = len(changes)
    diagonal = gram.diagonal(dim1=1, dim2=2)
    apart = (gram.square().sum((1, 2)) - diagonal.square().sum(1)) / (count * (count - 1))
    tiny = torch.finfo(gram.dtype).tiny
    return diagonal.mean(1).square() / apart.clamp(min=tiny)
