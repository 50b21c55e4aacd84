"""Losses of classifiers."""

from __future__ import annotations

from torch.nn import functional

from .table import operator

# Where the attribute is absent, no class is ignored; torch wants a number that is no class.
_NO_CLASS = -(2**31)


@operator()
def NegativeLogLikelihoodLoss(input, target, weight=None, *, ignore_index=_NO_CLASS, reduction="mean"):
    return functional.nll_loss(input, target.long(), weight, ignore_index=ignore_index, reduction=reduction)


@operator()
def SoftmaxCrossEntropyLoss(scores, labels, weights=None, *, ignore_index=_NO_CLASS, reduction="mean"):
    log_prob = functional.log_softmax(scores, 1)
    loss = NegativeLogLikelihoodLoss(log_prob, labels, weights, ignore_index=ignore_index, reduction=reduction)
    return loss, log_prob
