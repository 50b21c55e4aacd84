"""Activation functions."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from .elementwise import aligned
from .table import operator


@operator()
def Relu(X):
    return torch.relu(X) if X.is_floating_point() else X.clamp(min=0)


@operator()
def LeakyRelu(X, *, alpha=0.01):
    return functional.leaky_relu(X, alpha)


@operator(versions=(7, None))
def PRelu(X, slope):
    return torch.where(X < 0, slope * X, X)


@operator("PRelu", versions=(1, 6))
def PRelu_1(X, slope):
    # One slope per channel, broadcast like other operators of those versions with axis 1.
    return PRelu(X, slope if slope.numel() == 1 else aligned(X, slope, 1))


@operator()
def ThresholdedRelu(X, *, alpha=1.0):
    return torch.where(X > alpha, X, 0.0)


@operator()
def Elu(X, *, alpha=1.0):
    return torch.where(X > 0, X, alpha * torch.expm1(X.clamp(max=0)))


@operator()
def Celu(X, *, alpha=1.0):
    return functional.celu(X, alpha)


@operator(versions=(6, None))
def Selu(X, *, alpha=1.67326319217681884765625, gamma=1.05070102214813232421875):
    return gamma * Elu(X, alpha=alpha)


@operator("Selu", versions=(1, 5))
def Selu_1(X, *, alpha=1.6732, gamma=1.0507):
    return Selu(X, alpha=alpha, gamma=gamma)


@operator()
def Sigmoid(X):
    return torch.sigmoid(X)


@operator()
def HardSigmoid(X, *, alpha=0.2, beta=0.5):
    return (alpha * X + beta).clamp(0, 1)


@operator()
def HardSwish(X):
    return functional.hardswish(X)


@operator()
def Swish(X, *, alpha=1.0):
    return functional.silu(X) if alpha == 1 else X * torch.sigmoid(alpha * X)


@operator()
def SwiGLU(A, B, *, alpha=1.0):
    return Swish(A, alpha=alpha) * B


@operator()
def Mish(X):
    return functional.mish(X)


@operator()
def Gelu(X, *, approximate="none"):
    return functional.gelu(X, approximate=approximate)


@operator()
def Softplus(X):
    return torch.logaddexp(X, torch.zeros_like(X))


@operator()
def Softsign(X):
    return functional.softsign(X)


@operator()
def Shrink(input, *, bias=0.0, lambd=0.5):
    shrunk = torch.where(input < -lambd, input + bias, torch.where(input > lambd, input - bias, 0))
    return shrunk.to(input.dtype)


def _flat_from(X: Tensor, axis: int) -> Tensor:
    """Flatten the axes from ``axis`` on: before opset 13, Softmax and similar operators treat them as one."""
    return X.flatten(axis) if X.dim() else X


@operator(versions=(13, None))
def Softmax(input, *, axis=-1):
    if not input.numel():
        return torch.softmax(input, axis)
    # Where everything is masked, the result is NaN; a later operator that replaces it must not get a NaN gradient.
    nothing = input.detach().amax(axis, keepdim=True) == -math.inf
    return torch.softmax(input.masked_fill(nothing, 0.0), axis).masked_fill(nothing, math.nan)


@operator("Softmax", versions=(1, 12))
def Softmax_1(input, *, axis=1):
    return Softmax(_flat_from(input, axis)).reshape(input.shape)


@operator(versions=(13, None))
def LogSoftmax(input, *, axis=-1):
    return torch.log_softmax(input, axis)


@operator("LogSoftmax", versions=(1, 12))
def LogSoftmax_1(input, *, axis=1):
    return torch.log_softmax(_flat_from(input, axis), -1).reshape(input.shape)


@operator(versions=(13, None))
def Hardmax(input, *, axis=-1):
    return torch.zeros_like(input).scatter(axis, input.argmax(axis, keepdim=True), 1.0)


@operator("Hardmax", versions=(1, 12))
def Hardmax_1(input, *, axis=1):
    return Hardmax(_flat_from(input, axis)).reshape(input.shape)
