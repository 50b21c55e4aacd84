"""Quantized operators of ONNX Runtime (domain ``com.microsoft``), as found in quantized models.

See :mod:`onnxinfo.torch_graph.operators.quantized` for the representation of quantized values and for gradients.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from . import quantized
from .activations import Softmax, Softmax_1
from .microsoft import EmbedLayerNormalization
from .pool import AveragePool, MaxPool
from .quantized import DynamicQuantizeLinear, whole_matmul
from .recurrent import quantized_lstm
from .rounding import centered, dequantized, requantized, round_to_integer
from .table import MICROSOFT, Unsupported, converter, operator

converter("QuantizeLinear", domain=MICROSOFT)(quantized.quantize_linear)
converter("DequantizeLinear", domain=MICROSOFT)(quantized.dequantize_linear)


@operator(domain=MICROSOFT)
def QLinearAdd(A, A_scale, A_zero_point, B, B_scale, B_zero_point, C_scale, C_zero_point=None):
    total = dequantized(A, A_scale, A_zero_point) + dequantized(B, B_scale, B_zero_point)
    return requantized(total / C_scale, C_zero_point)


@operator(domain=MICROSOFT)
def QLinearMul(A, A_scale, A_zero_point, B, B_scale, B_zero_point, C_scale, C_zero_point=None):
    product = dequantized(A, A_scale, A_zero_point) * dequantized(B, B_scale, B_zero_point)
    return requantized(product / C_scale, C_zero_point)


@operator(domain=MICROSOFT)
def QLinearSigmoid(X, X_scale, X_zero_point, Y_scale, Y_zero_point=None):
    return requantized(torch.sigmoid(dequantized(X, X_scale, X_zero_point)) / Y_scale, Y_zero_point)


@operator(domain=MICROSOFT)
def QLinearLeakyRelu(X, X_scale, X_zero_point, Y_scale, Y_zero_point=None, *, alpha=0.01):
    x = dequantized(X, X_scale, X_zero_point)
    return requantized(functional.leaky_relu(x, alpha) / Y_scale, Y_zero_point)


@operator(domain=MICROSOFT)
def QLinearSoftmax(X, X_scale, x_zero_point, y_scale, y_zero_point, *, axis=-1, opset):
    softmax = Softmax if opset >= 13 else Softmax_1
    return requantized(softmax(dequantized(X, X_scale, x_zero_point), axis=axis) / y_scale, y_zero_point)


@operator(domain=MICROSOFT)
def QLinearWhere(condition, X, x_scale, x_zero_point, Y, y_scale, y_zero_point, z_scale, z_zero_point):
    chosen = torch.where(condition, dequantized(X, x_scale, x_zero_point), dequantized(Y, y_scale, y_zero_point))
    return requantized(chosen / z_scale, z_zero_point)


@operator(domain=MICROSOFT)
def QLinearConcat(Y_scale, Y_zero_point, *inputs, axis):
    triples = zip(inputs[::3], inputs[1::3], inputs[2::3], strict=True)
    return requantized(torch.cat([dequantized(*triple) for triple in triples], axis) / Y_scale, Y_zero_point)


@operator(domain=MICROSOFT)
def QLinearGlobalAveragePool(X, x_scale, x_zero_point, y_scale, y_zero_point, *, channels_last=0):
    axes = tuple(range(1, X.dim() - 1) if channels_last else range(2, X.dim()))
    mean = dequantized(X, x_scale, x_zero_point).mean(axes, keepdim=True)
    return requantized(mean / y_scale, y_zero_point)


@operator(domain=MICROSOFT)
def QLinearAveragePool(X, x_scale, x_zero_point, y_scale, y_zero_point=None, *, channels_last=0, **attributes):
    x = dequantized(X, x_scale, x_zero_point)
    x = x.movedim(-1, 1) if channels_last else x
    y = requantized(AveragePool(x, **attributes) / y_scale, y_zero_point)
    return y.movedim(1, -1) if channels_last else y


@operator(domain=MICROSOFT)
def NhwcMaxPool(x, **attributes):
    return MaxPool(x.movedim(-1, 1), **attributes).movedim(1, -1)


@operator(domain=MICROSOFT)
def QLinearConv(x, x_scale, x_zero_point, w, *parameters, channels_last=0, **attributes):
    x = x.movedim(-1, 1) if channels_last else x
    y = quantized.QLinearConv(x, x_scale, x_zero_point, w, *parameters, **attributes)
    return y.movedim(1, -1) if channels_last else y


@operator(domain=MICROSOFT)
def QGemm(
    A,
    a_scale,
    a_zero_point,
    B,
    b_scale,
    b_zero_point,
    C=None,
    y_scale=None,
    y_zero_point=None,
    *,
    alpha=1.0,
    transA=0,
    transB=0,
):
    a, b = centered(A, a_zero_point), centered(B.t() if transB else B, b_zero_point)
    product = whole_matmul(a.t() if transA else a, b)
    product = product if C is None else product + C
    scale = alpha * a_scale * b_scale
    product = product.to(scale.dtype) * scale
    return product if y_scale is None else requantized(product / y_scale, y_zero_point)


@operator(domain=MICROSOFT)
def MatMulIntegerToFloat(A, B, a_scale, b_scale, a_zero_point=None, b_zero_point=None, bias=None):
    product = whole_matmul(centered(A, a_zero_point), centered(B, b_zero_point)).to(a_scale.dtype)
    product = product * (a_scale * b_scale)
    return product if bias is None else product + bias


@operator(domain=MICROSOFT)
def DynamicQuantizeMatMul(A, B, b_scale, b_zero_point=None, bias=None):
    a, a_scale, a_zero_point = DynamicQuantizeLinear(A)
    return MatMulIntegerToFloat(a, B, a_scale, b_scale, a_zero_point, b_zero_point, bias)


@operator(domain=MICROSOFT)
def QEmbedLayerNormalization(
    input_ids,
    segment_ids,
    word_embedding,
    position_embedding,
    segment_embedding,
    gamma,
    beta,
    mask,
    *quantization,
    epsilon=1e-12,
):
    scales, zero_points = quantization[:5], quantization[5:]
    stored = (word_embedding, position_embedding, segment_embedding, gamma, beta)
    word, position, segment, gamma, beta = (
        None if x is None else dequantized(x, scale, zero)
        for x, scale, zero in zip(stored, scales, zero_points, strict=True)
    )
    return EmbedLayerNormalization(input_ids, segment_ids, word, position, segment, gamma, beta, mask, epsilon=epsilon)


@operator(domain=MICROSOFT)
def DynamicQuantizeLSTM(
    X,
    W,
    R,
    B,
    sequence_lens,
    initial_h,
    initial_c,
    P,
    W_scale,
    W_zero_point,
    R_scale,
    R_zero_point,
    **attributes,
):
    # One scale per direction, or one per direction and column; the matrices are those of LSTM, transposed.
    directions = len(W)
    W, R = (
        dequantized(weights, scale.reshape(directions, 1, -1), zero.reshape(directions, 1, -1)).transpose(1, 2)
        for weights, scale, zero in ((W, W_scale, W_zero_point), (R, R_scale, R_zero_point))
    )
    return quantized_lstm(_dynamically_rounded, X, W, R, B, sequence_lens, initial_h, initial_c, P, **attributes)


def _dynamically_rounded(x: Tensor) -> Tensor:
    return dequantized(*DynamicQuantizeLinear(x))


def unpacked(x: Tensor, bits: int) -> Tensor:
    """Unpack numbers that share a byte, lowest bits first; the last axis grows by a factor 8 / ``bits``."""
    shifts = torch.arange(0, 8, bits, device=x.device, dtype=torch.uint8)
    return (x.unsqueeze(-1).bitwise_right_shift(shifts) & (2**bits - 1)).flatten(-2)


_WITH_INT8 = 4


def _rounded_to_int8(x: Tensor, block_size: int) -> Tensor:
    """Quantize and dequantize blocks of the last axis, each by its largest magnitude."""
    blocks = functional.pad(x, (0, -x.shape[-1] % block_size)).unflatten(-1, (-1, block_size))
    largest = blocks.detach().abs().amax(-1, keepdim=True)
    scale = torch.where(largest == 0, 1.0, largest / 127)
    return (round_to_integer(blocks / scale, 0, -127, 127) * scale).flatten(-2)[..., : x.shape[-1]]


@operator(domain=MICROSOFT)
def MatMulNBits(
    A,
    B,
    scales,
    zero_points=None,
    g_idx: Unsupported = None,
    bias=None,
    *,
    K,
    N,
    accuracy_level=0,
    bits=4,
    block_size,
    weight_prepacked: Unsupported = 0,
):
    scales = scales.reshape(N, -1, 1)
    blocks = scales.shape[1]
    if accuracy_level == _WITH_INT8:
        A = _rounded_to_int8(A, block_size)
    if zero_points is None:
        zero = 2 ** (bits - 1)
    elif zero_points.is_floating_point():
        zero = zero_points.reshape(N, blocks, 1)
    else:
        zero = unpacked(zero_points.reshape(N, -1), bits)[:, :blocks].unsqueeze(-1).to(scales.dtype)
    weights = ((unpacked(B, bits).to(scales.dtype) - zero) * scales).flatten(1)[:, :K]
    return functional.linear(A, weights, bias)
