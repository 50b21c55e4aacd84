"""Error of a weighted sum over a map of SID, such as the difference between the means of two regions."""

from __future__ import annotations

import torch
from torch import Tensor

from .measured import Measured
from .noise import Tie
from .probe import LayerProbe

#: Batches of fresh noise, and noise samples of each; each batch gives two independent estimates of the gradient.
BATCHES, DRAWS = 4, 4
#: Factor on the error, since not all products of a search inform its final scales: the spread over seeds is 0.4 to 1.6
#: times the error without it, in nine layers of three convolutional networks and regions of four sizes.
CALIBRATION = 1.2


def sum_stderr(feature: LayerProbe, sigma: Tensor, free: Tensor, tie: Tie, weights: Tensor, products: Tensor) -> Tensor:
    """Standard error of ``sum_i w_i log sigma_i`` due to the noise and probes of the solver, (S,).

    Near the optimum, ``log sigma_i`` is off by half of the relative gradient. One product tells the sum with an error
    that fresh noise measures, whatever the receptive fields and therefore the correlations between units; the solver's
    products tell it as often as there are. The error is estimated from eight parts, so it is itself known to about a
    quarter.

    Parameters
    ----------
    feature
        The layer.
    sigma, free
        Noise scales, (S, n), and counted units below the cap, (S, n) bool: the others have no error.
    tie
        Groups of counted units that share a scale.
    weights
        Weights, (S, n); zero at units that are not counted.
    products
        Number of products that determined each sample's scales, (S,).
    """
    parts: list[Tensor] = []
    deviations: list[Tensor] = []
    for _ in range(BATCHES):
        halves, deviation = feature.gradients(sigma, DRAWS)
        parts += [halves.first, halves.second]
        deviations.append(deviation)
    measured = Measured(torch.stack(parts), torch.cat(deviations))
    # Units that share a scale share its error.
    shared = tie.expand(tie.sum(weights) / tie.size) * free
    off = torch.einsum("psn,sn->ps", measured.relative(free, free), shared) / 2
    of_one_product = off.var(0) * (DRAWS // 2)
    return CALIBRATION * (of_one_product / products.clamp(min=1).to(of_one_product)).sqrt()
