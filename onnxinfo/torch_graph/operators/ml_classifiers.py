"""Linear models and support vector machines of ``ai.onnx.ml``. Scores are differentiable, labels are not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..host import like
from .table import operator

_ML = "ai.onnx.ml"
Labels = Tensor | np.ndarray[Any, Any]


def as_float(X: Tensor) -> Tensor:
    """Convert integers to float32; floats are returned unchanged."""
    return X if X.is_floating_point() else X.float()


def post_transformed(scores: Tensor, transform: str) -> Tensor:
    """Apply the ``post_transform`` of a classifier or regressor to its scores, (samples, classes).

    Raises
    ------
    NotImplementedError
        The transform is not supported.
    """
    match transform:
        case "NONE":
            return scores
        case "LOGISTIC":
            return torch.sigmoid(scores)
        case "SOFTMAX":
            return torch.softmax(scores, -1)
        case "SOFTMAX_ZERO":
            # Scores of zero do not enter the sum and get no probability.
            zero = scores.abs() <= _ZERO
            weights = torch.where(zero, scores, torch.exp(scores - scores.amax(-1, keepdim=True)))
            total = weights.masked_fill(zero, 0.0).sum(-1, keepdim=True)
            return torch.where(total > 0, weights / total, weights)
    raise NotImplementedError(f"post_transform {transform} is not supported")


_ZERO = 1e-7


@operator(domain=_ML)
def LinearClassifier(
    X,
    *,
    coefficients,
    intercepts=(),
    classlabels_ints=(),
    classlabels_strings=(),
    multi_class=0,
    post_transform="NONE",
):
    X = as_float(X)
    labels = _labels(classlabels_ints, classlabels_strings)
    weights = like(X, coefficients).reshape(-1, X.shape[-1])
    scores = X @ weights.T
    scores = scores + like(X, intercepts) if intercepts else scores
    if scores.shape[-1] > 1 or len(labels) != 2:
        return _chosen(labels, scores.argmax(-1)), post_transformed(scores, post_transform)
    return _chosen(labels, (scores[:, 0] > 0).long()), _of_two_classes(scores, post_transform)


def _of_two_classes(scores: Tensor, transform: str) -> Tensor:
    """Scores of both classes, (samples, 2), from that of the second; like ONNX Runtime, applies only LOGISTIC."""
    second = torch.sigmoid(scores) if transform == "LOGISTIC" else scores
    return torch.cat([1 - second, second], -1)


def _labels(integers: Sequence[int], strings: Sequence[str]) -> Labels:
    if strings:
        return np.array(strings, dtype=object)
    return torch.tensor(list(integers), dtype=torch.int64)


def _chosen(labels: Labels, index: Tensor) -> Labels:
    if isinstance(labels, Tensor):
        return labels.to(index.device)[index] if len(labels) else index
    return labels[index.cpu().numpy()]


@operator(domain=_ML)
def SVMRegressor(
    X,
    *,
    coefficients,
    kernel_params=(),
    kernel_type="LINEAR",
    n_supports=0,
    one_class=0,
    post_transform="NONE",
    rho=(0.0,),
    support_vectors=(),
):
    X = as_float(X)
    weights = like(X, coefficients)
    if n_supports:
        vectors = like(X, support_vectors).reshape(n_supports, -1)
        Y = _kernel(X, vectors, kernel_type, kernel_params) @ weights[:, None]
    else:
        Y = X @ weights[:, None]
    Y = Y + rho[0]
    return torch.where(Y > 0, 1.0, -1.0) if one_class else post_transformed(Y, post_transform)


def _kernel(X: Tensor, vectors: Tensor, kind: str, parameters: Sequence[float]) -> Tensor:
    """Kernel matrix of samples and support vectors, (samples, vectors)."""
    gamma, offset, degree = parameters or (0.0, 0.0, 0.0)
    if kind == "RBF":
        squares = (X.unsqueeze(1) - vectors).square().sum(-1)
        return torch.exp(-gamma * squares)
    products = X @ vectors.T
    match kind:
        case "LINEAR":
            return products
        case "POLY":
            return (gamma * products + offset) ** degree
        case "SIGMOID":
            return torch.tanh(gamma * products + offset)
    raise NotImplementedError(f"kernel {kind} is not supported")


@operator(domain=_ML)
def SVMClassifier(
    X,
    *,
    coefficients,
    classlabels_ints=(),
    classlabels_strings=(),
    kernel_params=(),
    kernel_type="LINEAR",
    post_transform="NONE",
    prob_a=(),
    prob_b=(),
    rho=(0.0,),
    support_vectors=(),
    vectors_per_class=(),
):
    X = as_float(X)
    labels = _labels(classlabels_ints, classlabels_strings)
    if not vectors_per_class:
        raise NotImplementedError("an SVMClassifier without support vectors is not supported")
    count = sum(vectors_per_class)
    kernels = _kernel(X, like(X, support_vectors).reshape(count, -1), kernel_type, kernel_params)
    weights = like(X, coefficients).reshape(-1, count)
    scores, votes = _duels(kernels, weights, vectors_per_class, rho)
    label = _chosen(labels, votes.argmax(-1))
    if prob_a:
        return label, post_transformed(_coupled(scores, prob_a, prob_b, len(vectors_per_class)), post_transform)
    if scores.shape[-1] > 1 or len(labels) != 2:
        return label, post_transformed(scores, post_transform)
    return label, post_transformed(torch.cat([-scores, scores], -1), post_transform)


def _duels(kernels: Tensor, weights: Tensor, sizes: Sequence[int], rho: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Scores of all pairs of classes, (samples, pairs), positive for the first, and votes, (samples, classes)."""
    parts = kernels.split(list(sizes), -1)
    blocks = weights.split(list(sizes), -1)
    votes = kernels.new_zeros(len(kernels), len(sizes))
    scores: list[Tensor] = []
    for i in range(len(sizes)):
        for j in range(i + 1, len(sizes)):
            score = rho[len(scores)] + parts[i] @ blocks[i][j - 1] + parts[j] @ blocks[j][i]
            winner = torch.where(score > 0, i, j).unsqueeze(-1)
            votes = votes.scatter_add(-1, winner, torch.ones_like(votes[:, :1]))
            scores.append(score)
    return torch.stack(scores, -1), votes


def _coupled(scores: Tensor, a: Sequence[float], b: Sequence[float], classes: int) -> Tensor:
    """Class probabilities, (samples, classes), from pairwise scores, by the iteration of libsvm."""
    first = torch.sigmoid(-(scores * like(scores, a) + like(scores, b))).clamp(1e-7, 1 - 1e-7)
    rows, columns = torch.triu_indices(classes, classes, 1, device=scores.device)
    R = scores.new_zeros(scores.shape[0], classes, classes)
    R = R.index_put((torch.arange(R.shape[0], device=R.device).unsqueeze(-1), rows, columns), first)
    R = R + (1 - R.transpose(1, 2)).tril(-1)
    Q = -R.transpose(1, 2) * R
    Q = Q + torch.diag_embed(R.square().sum(1))
    P = scores.new_full((scores.shape[0], classes), 1 / classes)
    for _ in range(max(100, classes)):
        Qp = (Q @ P.unsqueeze(-1)).squeeze(-1)
        pQp = (P * Qp).sum(-1, keepdim=True)
        going = (Qp - pQp).abs().amax(-1, keepdim=True) >= 0.005 / classes
        if not going.any():
            break
        P = torch.where(going, _swept(P, Q, Qp, pQp), P)
    return P


def _swept(P: Tensor, Q: Tensor, Qp: Tensor, pQp: Tensor) -> Tensor:
    """Update the probability of every class once."""
    for t in range(P.shape[-1]):
        diagonal = Q[:, t, t, None]
        step = (pQp - Qp[:, t, None]) / diagonal
        pQp = (pQp + step * (step * diagonal + 2 * Qp[:, t, None])) / (1 + step) ** 2
        P = (P + step * torch.nn.functional.one_hot(torch.tensor(t), P.shape[-1]).to(P)) / (1 + step)
        Qp = (Qp + step * Q[:, t]) / (1 + step)
    return P
