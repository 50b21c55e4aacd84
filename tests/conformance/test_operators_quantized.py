"""Quantized operators: ONNX Runtime's values, straight-through gradients."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from nodes import assert_same, floats, node_model, rng

import onnxinfo
from onnxinfo import convert
from onnxinfo.errors import ConversionError


def scalar(value: float, dtype: type = np.float32) -> np.ndarray:
    return np.array(value, dtype)


def bytes_(dtype: type, *shape: int, seed: int = 0) -> np.ndarray:
    limits = np.iinfo(dtype)
    return rng(seed).integers(limits.min, limits.max, shape, endpoint=True).astype(dtype)


def weights(dtype: type, *shape: int, seed: int = 1) -> np.ndarray:
    """Random bytes; signed ones have seven bits, lest ONNX Runtime's products saturate on CPUs without VNNI."""
    return bytes_(dtype, *shape, seed=seed) // (2 if dtype is np.int8 else 1)


def scales(*shape: int, seed: int = 0) -> np.ndarray:
    return rng(seed).uniform(0.005, 0.03, shape).astype(np.float32)


@pytest.mark.parametrize(
    ("dtype", "zero_point"), [(np.uint8, 3), (np.int8, -3), (np.uint16, 300), (np.int16, -7)], ids=str
)
class TestLinear:
    x = floats(3, 8, 5) * 50

    def test_quantize_per_tensor(self, dtype: type, zero_point: int) -> None:
        assert_same("QuantizeLinear", [self.x, scalar(0.317), scalar(zero_point, dtype)], constants=(1, 2))

    def test_quantize_per_axis(self, dtype: type, zero_point: int) -> None:
        scale = rng().uniform(0.1, 1, 8).astype(np.float32)
        assert_same("QuantizeLinear", [self.x, scale, np.arange(8).astype(dtype)], axis=-2, constants=(1, 2))

    def test_quantize_in_blocks(self, dtype: type, zero_point: int) -> None:
        scale, zero = scales(3, 2, 5) * 20, np.full((3, 2, 5), zero_point, dtype)
        assert_same("QuantizeLinear", [self.x, scale, zero], axis=1, block_size=4, constants=(1, 2))

    def test_dequantize(self, dtype: type, zero_point: int) -> None:
        x = bytes_(dtype, 3, 8, 5)
        assert_same("DequantizeLinear", [x, scalar(0.3), scalar(zero_point, dtype)], constants=(1, 2))
        assert_same("DequantizeLinear", [x, scales(8), np.arange(8).astype(dtype)], axis=1, constants=(1, 2))
        blocks = [x, scales(3, 2, 5), bytes_(dtype, 3, 2, 5, seed=1)]
        assert_same("DequantizeLinear", blocks, axis=1, block_size=4, constants=(1, 2))


def test_infinite_values_saturate() -> None:
    x = np.array([np.inf, -np.inf, 3e38, -3e38, 0], np.float32)
    assert_same("QuantizeLinear", [x, scalar(0.3), scalar(4, np.uint8)])


@pytest.mark.parametrize("x", [floats(3, 8), np.abs(floats(3, 8)), np.zeros((3, 8), np.float32)])
def test_dynamic_quantization(x: np.ndarray) -> None:
    assert_same("DynamicQuantizeLinear", [x], 3)


CONVOLUTIONS = [{"pads": [1, 2, 0, 1], "strides": [2, 1]}, {"auto_pad": "SAME_UPPER"}, {"dilations": [2, 1]}]


@pytest.mark.parametrize("attributes", CONVOLUTIONS)
@pytest.mark.parametrize(("x_type", "w_type"), [(np.uint8, np.uint8), (np.uint8, np.int8), (np.int8, np.int8)])
def test_convolutions_of_bytes(x_type: type, w_type: type, attributes: dict) -> None:
    x, w = bytes_(x_type, 2, 4, 9, 8), weights(w_type, 6, 2, 3, 3)
    x_zero, w_zero = bytes_(x_type, seed=2), np.zeros((), w_type)
    bias = rng().integers(-20000, 20000, 6).astype(np.int32)
    y = (scalar(0.513), bytes_(x_type, seed=3))
    for w_scale, zero in ((scalar(0.0107), w_zero), (scales(6), np.zeros(6, w_type))):
        inputs = [x, scalar(0.0213), x_zero, w, w_scale, zero, *y, bias]
        assert_same("QLinearConv", inputs, group=2, constants=range(1, 9), **attributes)
    if x_type is np.uint8:
        assert_same("ConvInteger", [x, w, x_zero, w_zero], group=2, constants=(1, 2, 3), **attributes)


@pytest.mark.parametrize(("a_type", "b_type"), [(np.uint8, np.uint8), (np.uint8, np.int8), (np.int8, np.int8)])
def test_products_of_bytes_are_exact(a_type: type, b_type: type) -> None:
    # Sums of 600 products of bytes exceed what float32 represents exactly.
    a, b = bytes_(a_type, 2, 5, 600), weights(b_type, 600, 7)
    a_zero, b_zero = bytes_(a_type, seed=2), np.full(7, 3, b_type)
    assert_same("MatMulInteger", [a, b, a_zero, b_zero[0]], constants=(1, 2, 3), rtol=0)
    scale = (scalar(0.0213), a_zero)
    inputs = [a, *scale, b, scales(7), np.zeros(7, b_type), scalar(0.913), bytes_(a_type, seed=3)]
    assert_same("QLinearMatMul", inputs, constants=range(1, 8))


def test_a_row_of_zero_points() -> None:
    a, b = bytes_(np.uint8, 5, 20), bytes_(np.int8, 20, 7)
    rows = bytes_(np.uint8, 5, seed=2)
    model = node_model("MatMulInteger", [a, b, rows], constants=(1, 2))
    (product,) = convert(model)(torch.from_numpy(a))
    np.testing.assert_array_equal(product.numpy(), (a.astype(int) - rows[:, None]) @ b.astype(int))


@pytest.mark.parametrize("type_", [onnx.TensorProto.INT4, onnx.TensorProto.UINT4, onnx.TensorProto.FLOAT8E4M3FN])
def test_small_types_hold_what_their_bits_allow(type_: int) -> None:
    x = floats(64) * 6
    module = convert(node_model("QuantizeLinear", [x, scalar(0.5)], output_dtype=type_, constants=(1,)))
    (y,) = module(torch.from_numpy(x))
    exact = (x / np.float32(0.5)).astype(np.float32)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(type_)
    if type_ == onnx.TensorProto.FLOAT8E4M3FN:
        np.testing.assert_array_equal(y.numpy(), exact.astype(dtype).astype(np.float32))
    else:
        limits = (-8, 7) if type_ == onnx.TensorProto.INT4 else (0, 15)
        np.testing.assert_array_equal(y.numpy(), np.clip(np.round(exact), *limits))


def test_straight_through_gradient() -> None:
    """Inside the range, the gradient of quantization is that of the division; outside, it is zero."""
    x = torch.tensor([-3.0, -0.4, 0.26, 1.1, 60.0], requires_grad=True)
    model = node_model("QuantizeLinear", [x.detach().numpy(), scalar(0.25), scalar(5, np.uint8)], constants=(1, 2))
    (y,) = convert(model)(x)
    assert y.tolist() == [0, 3, 6, 9, 245]
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert gradient.tolist() == [0, 4, 4, 4, 4]


def test_gradient_of_a_quantized_layer_is_that_of_the_layer() -> None:
    """Quantize, convolve bytes, dequantize: between the roundings, the gradient is the float convolution's."""
    weight = bytes_(np.int8, 6, 4, 3, 3)
    model = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 21]>
        layer (float[N, 4, H, W] x) => (float[N, 6, P, Q] y)
        <float x_scale = {0.04}, uint8 x_zero = {128}, float w_scale = {0.01}, int8 w_zero = {0}, float y_scale = {0.5},
         uint8 y_zero = {128}>
        {
            q = QuantizeLinear(x, x_scale, x_zero)
            c = QLinearConv(q, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero)
            y = DequantizeLinear(c, y_scale, y_zero)
        }
    """)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    x = torch.from_numpy(floats(2, 4, 6, 6)).requires_grad_()
    (y,) = convert(model)(x)
    expected = torch.nn.functional.conv2d(x, 0.01 * torch.from_numpy(weight).float())
    cotangent = torch.from_numpy(floats(*y.shape, seed=1))
    gradient, without = (torch.autograd.grad(value, x, cotangent)[0] for value in (y, expected))
    torch.testing.assert_close(gradient, without, rtol=1e-4, atol=1e-4)
    # Half a step of the output, and at most half a step of every input times its weight.
    assert (y - expected).abs().max() < 0.5 / 2 + 0.04 / 2 * 0.01 * np.abs(weight.astype(int)).sum((1, 2, 3)).max()


def test_gradient_passes_dynamic_quantization() -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 21]>
        layer (float[N, 20] x) => (float[N, 7] y) <float w_scale = {0.01}>
        {
            q, scale, zero = DynamicQuantizeLinear(x)
            product = MatMulInteger(q, w, zero)
            real = Cast<to = 1>(product)
            factor = Mul(scale, w_scale)
            y = Mul(real, factor)
        }
    """)
    weight = bytes_(np.int8, 20, 7)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    x = torch.from_numpy(floats(5, 20)).requires_grad_()
    (y,) = convert(model)(x)
    (gradient,) = torch.autograd.grad(y[0, 0], x)
    # The smallest and the largest value, which set the scale, are no exception: the scale cancels.
    expected = torch.zeros_like(x)
    expected[0] = 0.01 * torch.from_numpy(weight[:, 0]).float()
    torch.testing.assert_close(gradient, expected)


def test_weights_stay_bytes() -> None:
    model = node_model("MatMulInteger", [bytes_(np.uint8, 2, 3), bytes_(np.int8, 3, 4)], constants=(1,))
    assert [buffer.dtype for buffer in convert(model).buffers()] == [torch.int8]


def test_scales_of_the_wrong_rank_are_refused() -> None:
    x = floats(3, 8)
    model = node_model("DequantizeLinear", [bytes_(np.int8, 3, 8), scales(3, 8)], constants=(1,))
    with pytest.raises(ConversionError, match=r"DequantizeLinear.*block size"):
        convert(model)(torch.from_numpy(bytes_(np.int8, *x.shape)))


def test_layers_of_a_quantized_network_are_its_bytes_but_no_mere_rounding() -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 21]>
        network (float[N, 4, 6, 6] x) => (float[N, 24] y, int64[N, 1] best)
        <float x_scale = {0.04}, uint8 x_zero = {128}, float w_scale = {0.01}, int8 w_zero = {0}, float y_scale = {0.5},
         uint8 y_zero = {128}, int64[2] flat = {0, -1}>
        {
            q = QuantizeLinear(x, x_scale, x_zero)
            moved = Transpose <perm = [0, 1, 3, 2]>(q)
            c = QLinearConv(moved, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero)
            pooled = MaxPool <kernel_shape = [2, 2], strides = [2, 2]>(c)
            rows = Reshape(pooled, flat)
            y = DequantizeLinear(rows, y_scale, y_zero)
            best = ArgMax <axis = 1>(y)
        }
    """)
    model.graph.initializer.append(onnx.numpy_helper.from_array(bytes_(np.int8, 6, 4, 3, 3), "w"))
    found = {layer.name: layer for layer in onnxinfo.list_layers(model)}
    assert [*found] == ["moved", "c", "pooled", "rows", "y"]
    assert [name for name, layer in found.items() if layer.default] == ["c", "y"]
    assert found["c"].parameters == 6 * 4 * 3 * 3
    check = onnxinfo.check_model(model, np.random.default_rng(0).standard_normal((2, 4, 6, 6)).astype(np.float32))
    assert check.error is None
    assert check.compared >= len(found)
