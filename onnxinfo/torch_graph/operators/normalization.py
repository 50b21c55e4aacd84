"""Normalization layers and dropout."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ..element_types import torch_type
from .bounds import is_transformed
from .table import Floats, Ints, operator


@operator(versions=(14, None))
def BatchNormalization(X, scale, B, input_mean, input_var, *, epsilon=1e-5, momentum=0.9, training_mode=0):
    if not training_mode:
        return _normalized(X, scale, B, input_mean, input_var, epsilon)
    axes = (0, *range(2, X.dim()))
    mean, var = X.mean(axes), X.var(axes, correction=0)
    Y = functional.batch_norm(X, None, None, scale, B, training=True, eps=epsilon)
    return Y, input_mean * momentum + mean * (1 - momentum), input_var * momentum + var * (1 - momentum)


@operator("BatchNormalization", versions=(1, 13))
def BatchNormalization_1(X, scale, B, mean, var, *, epsilon=1e-5, is_test=1, momentum=0.9, spatial=1, outputs=1):
    if outputs > 1:
        raise NotImplementedError("BatchNormalization before opset 14 in training mode; write the model for inference")
    if spatial:
        return _normalized(X, scale, B, mean, var, epsilon)
    return (X - mean) * torch.rsqrt(var + epsilon) * scale + B


def _normalized(X: Tensor, scale: Tensor, B: Tensor, mean: Tensor, var: Tensor, epsilon: float) -> Tensor:
    if mean.requires_grad or var.requires_grad or is_transformed(mean, var):
        # torch's kernel treats statistics as constants.
        mean, factor = _per_channel(mean, X), _per_channel(scale * torch.rsqrt(var + epsilon), X)
        return (X - mean) * factor + _per_channel(B, X)
    return functional.batch_norm(X, mean, var, scale, B, eps=epsilon)


@operator()
def InstanceNormalization(input, scale, B, *, epsilon=1e-5):
    axes = tuple(range(2, input.dim()))
    var, mean = torch.var_mean(input, axes, correction=0, keepdim=True)
    return _per_channel(scale, input) * (input - mean) * torch.rsqrt(var + epsilon) + _per_channel(B, input)


def _per_channel(parameter: Tensor, x: Tensor) -> Tensor:
    return parameter.reshape(-1, *[1] * (x.dim() - 2))


@operator(versions=(21, None))
def GroupNormalization(X, scale, bias, *, epsilon=1e-5, num_groups, stash_type=1):
    x = _stashed(X, stash_type)
    y = functional.group_norm(x, num_groups, eps=epsilon).to(X.dtype)
    return y * _per_channel(scale, X) + _per_channel(bias, X)


@operator("GroupNormalization", versions=(18, 20))
def GroupNormalization_18(X, scale, bias, *, epsilon=1e-5, num_groups):
    size = X.shape[1] // num_groups
    scale, bias = scale.repeat_interleave(size), bias.repeat_interleave(size)
    return functional.group_norm(X, num_groups, scale, bias, epsilon)


def _stashed(X: Tensor, stash_type: int) -> Tensor:
    """Convert to the type in which a normalization is computed; types of higher precision are kept."""
    return X.to(torch.promote_types(X.dtype, torch_type(stash_type)))


@operator()
def LayerNormalization(X, Scale, B=None, *, axis=-1, epsilon=1e-5, stash_type=1, outputs=1):
    axis = axis % X.dim()
    shape = X.shape[axis:]
    if outputs == 1 and Scale.shape == shape and X.dtype == _stashed(X, stash_type).dtype:
        return functional.layer_norm(X, shape, Scale, B, epsilon)
    x = _stashed(X, stash_type)
    var, mean = torch.var_mean(x, tuple(range(axis, X.dim())), correction=0, keepdim=True)
    inverse = torch.rsqrt(var + epsilon)
    Y = ((x - mean) * inverse).to(X.dtype) * Scale
    return Y if B is None else Y + B, mean, inverse


@operator()
def RMSNormalization(X, scale, *, axis=-1, epsilon=1e-5, stash_type=1):
    x = _stashed(X, stash_type)
    square = x.square().mean(tuple(range(axis % X.dim(), X.dim())), keepdim=True)
    return (x * torch.rsqrt(square + epsilon)).to(scale.dtype) * scale


@operator()
def LRN(X, *, alpha=0.0001, beta=0.75, bias=1.0, size):
    before = (size - 1) // 2
    flat = X.square().reshape(X.shape[0], 1, X.shape[1], -1)
    padded = functional.pad(flat, (0, 0, before, size - 1 - before))
    mean = functional.avg_pool2d(padded, (size, 1), 1).reshape(X.shape)
    return X / (bias + alpha * mean).pow(beta)


@operator()
def LpNormalization(input, *, axis=-1, p=2):
    norm = torch.linalg.vector_norm(input, p, axis, keepdim=True)
    return input / torch.where(norm == 0, 1, norm)


@operator()
def MeanVarianceNormalization(X, *, axes=(0, 2, 3)):
    centered = X - X.mean(tuple(axes), keepdim=True)
    return centered / (centered.square().mean(tuple(axes), keepdim=True).sqrt() + 1e-9)


@operator("Dropout", versions=(1, 11))
def Dropout_1(data, *, ratio=0.5, is_test=1, outputs=1):
    return (data, torch.ones_like(data, dtype=torch.bool)) if outputs > 1 else data


@operator(versions=(12, None))
def Dropout(data, ratio: Floats = None, training_mode: Ints = None, *, seed=None):
    if training_mode and training_mode[0] and (ratio is None or ratio[0] > 0):
        raise ValueError("training mode draws random numbers; export the model for inference")
    return data, torch.ones_like(data, dtype=torch.bool)
