"""Fused float operators of ONNX Runtime (domain ``com.microsoft``), as found in optimized models."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from ..element_types import single
from . import activations
from .conv import Conv
from .linalg import Gemm
from .normalization import LayerNormalization
from .sampling import GridSample
from .table import MICROSOFT, operator
from .tensors import Trilu

operator(domain=MICROSOFT)(GridSample)
operator(domain=MICROSOFT)(Trilu)
operator(domain=MICROSOFT)(activations.Gelu)

# Parameters in the order of FusedConv's activation_params.
_FUSED_ACTIVATIONS: dict[str, tuple[Callable[..., Tensor], tuple[str, ...]]] = {
    "Clip": (torch.clamp, ("min", "max")),
    "Elu": (activations.Elu, ("alpha",)),
    "HardSigmoid": (activations.HardSigmoid, ("alpha", "beta")),
    "LeakyRelu": (activations.LeakyRelu, ("alpha",)),
    "Relu": (torch.relu, ()),
    "Selu": (activations.Selu, ("alpha", "gamma")),
    "Sigmoid": (torch.sigmoid, ()),
    "Softplus": (functional.softplus, ()),
    "Softsign": (functional.softsign, ()),
    "Tanh": (torch.tanh, ()),
    "ThresholdedRelu": (activations.ThresholdedRelu, ("alpha",)),
}


def _fused_activation(name: str | None) -> tuple[Callable[..., Tensor], tuple[str, ...]]:
    if name is None:
        return (lambda x: x), ()
    if name not in _FUSED_ACTIVATIONS:
        raise NotImplementedError(f"activation '{name}'")
    return _FUSED_ACTIVATIONS[name]


@operator(domain=MICROSOFT)
def FusedConv(X, W, B=None, Z=None, *, activation=None, activation_params=(), **attributes):
    Y = Conv(X, W, B, **attributes)
    function, names = _fused_activation(activation)
    return function(Y if Z is None else Y + Z, **dict(zip(names, activation_params, strict=False)))


@operator(domain=MICROSOFT)
def FusedGemm(
    A, B, C=None, *, activation=None, activation_alpha=None, activation_beta=None, activation_gamma=None, **attributes
):
    Y = Gemm(A, B, C, **attributes)
    function, names = _fused_activation(activation)
    given = {"alpha": activation_alpha, "beta": activation_beta, "gamma": activation_gamma}
    return function(Y, **{name: given[name] for name in names if given.get(name) is not None})


@operator(domain=MICROSOFT)
def FusedMatMul(A, B, *, alpha=1.0, transA=0, transB=0, transBatchA=0, transBatchB=0):
    return alpha * (_transposed(A, transA, transBatchA) @ _transposed(B, transB, transBatchB))


@operator(domain=MICROSOFT)
def TransposeMatMul(A, B, *, alpha=1.0, transA=0, transB=0):
    return FusedMatMul(A, B, alpha=alpha, transA=transA, transB=transB)


def _transposed(x: Tensor, matrix: int, batch: int) -> Tensor:
    if x.dim() < 2:
        return x
    # The batch axes, of which the first becomes the rows, are transposed before the matrices.
    x = x.movedim(0, -2) if batch else x
    return x.transpose(-2, -1) if matrix else x


@operator(domain=MICROSOFT)
def BiasGelu(A, B):
    return functional.gelu(A + B)


@operator(domain=MICROSOFT)
def FastGelu(X, bias=None):
    return functional.gelu(X if bias is None else X + bias, approximate="tanh")


@operator(domain=MICROSOFT)
def QuickGelu(X, *, alpha=1.702):
    return X * torch.sigmoid(alpha * X)


@operator(domain=MICROSOFT)
def BiasSoftmax(data, bias, *, axis=1, is_inner_broadcast):
    return (data + bias).flatten(axis).softmax(-1).reshape(data.shape)


@operator()
def SimplifiedLayerNormalization(X, scale, *, axis=-1, epsilon=1e-5, stash_type=1):
    axes = tuple(range(axis % X.dim(), X.dim()))
    inverse = torch.rsqrt(single(X).square().mean(axes, keepdim=True) + epsilon)
    return (single(X) * inverse).to(X.dtype) * scale, inverse


@operator(domain=MICROSOFT)
def SkipLayerNormalization(input, skip, gamma, beta=None, bias=None, *, epsilon=1e-12):
    total = input + skip if bias is None else input + skip + bias
    return *LayerNormalization(total, gamma, beta, epsilon=epsilon, outputs=3), total


@operator(domain=MICROSOFT)
def SkipSimplifiedLayerNormalization(input, skip, gamma, bias=None, *, epsilon=1e-12):
    total = input + skip if bias is None else input + skip + bias
    normalized, inverse = SimplifiedLayerNormalization(total, gamma, epsilon=epsilon)
    return normalized, torch.zeros_like(inverse), inverse, total


@operator(domain=MICROSOFT)
def EmbedLayerNormalization(
    input_ids,
    segment_ids,
    word_embedding,
    position_embedding,
    segment_embedding,
    gamma,
    beta,
    mask=None,
    position_ids=None,
    *,
    epsilon=1e-12,
    mask_index_type=0,
):
    positions = torch.arange(input_ids.shape[1], device=input_ids.device) if position_ids is None else position_ids
    total = word_embedding[input_ids] + position_embedding[positions]
    total = total if segment_ids is None else total + segment_embedding[segment_ids]
    counts = total.new_zeros(total.shape[:1]) if mask is None else mask.sum(1)
    return LayerNormalization(total, gamma, beta, epsilon=epsilon), counts.int(), total


@operator(domain=MICROSOFT)
def Inverse(X):
    return torch.linalg.inv(X)


@operator(domain=MICROSOFT)
def CDist(A, B, *, metric="sqeuclidean"):
    if metric not in ("euclidean", "sqeuclidean"):
        raise NotImplementedError(f"CDist with metric '{metric}'")
    # torch.cdist has no forward mode.
    difference = A.unsqueeze(1) - B
    return torch.linalg.vector_norm(difference, dim=-1) if metric == "euclidean" else difference.square().sum(-1)
