"""Classification losses."""

from __future__ import annotations

import torch
from torch.nn import functional

from .table import operator


@operator()
def NegativeLogLikelihoodLoss(input, target, weight=None, *, ignore_index=None, reduction="mean"):
    counted = torch.ones_like(target, dtype=torch.bool) if ignore_index is None else target != ignore_index
    target = torch.where(counted, target, 0).to(torch.int64)
    weights = torch.where(counted, 1.0 if weight is None else weight[target], 0.0).to(input.dtype)
    loss = -input.gather(1, target.unsqueeze(1)).squeeze(1) * weights
    if reduction == "none":
        return loss
    return loss.sum() / weights.sum() if reduction == "mean" else loss.sum()


@operator()
def SoftmaxCrossEntropyLoss(scores, labels, weights=None, *, ignore_index=None, reduction="mean"):
    log_prob = functional.log_softmax(scores, 1)
    loss = NegativeLogLikelihoodLoss(log_prob, labels, weights, ignore_index=ignore_index, reduction=reduction)
    return loss, log_prob
