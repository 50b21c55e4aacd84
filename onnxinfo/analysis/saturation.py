"""Samples at which a layer is saturated, so that noise hardly changes it."""

from __future__ import annotations

import torch
from torch import Tensor

from ..graph.saturation import Saturating

#: Variance of a share or a number in [0, 1] up to which it is saturated: about that of 0.95.
SATURATED = 0.05


def saturated_samples(saturating: Saturating | None, feature: Tensor) -> Tensor | None:
    """Tell at which samples a layer is saturated.

    Parameters
    ----------
    saturating
        How the layer saturates; None: not at all.
    feature
        The layer at the samples without noise, (S, m).

    Returns
    -------
    Tensor or None
        (S,) bool; None for a layer that does not saturate.
    """
    if saturating is None:
        return None
    values = (feature.double() + 1) / 2 if saturating.kind == "signs" else feature.double()
    spread = values * (1 - values)
    if saturating.kind == "shares":
        # Many small shares are not saturated: what counts is the spread of a row, whose shares sum to 1.
        return spread.sum(1) <= 2 * SATURATED * values.sum(1)
    return (spread <= SATURATED).all(1) if spread.shape[1] else torch.zeros(len(spread), dtype=torch.bool)
