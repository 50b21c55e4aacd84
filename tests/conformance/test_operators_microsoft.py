"""Operators of the domain com.microsoft against ONNX Runtime, which defines them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from nodes import assert_same, floats, gradcheck, node_model, output_info, rng

from onnxinfo import convert
from onnxinfo.errors import ConversionError

MICROSOFT = "com.microsoft"


def check(op_type: str, inputs: list, outputs: int = 1, **settings: Any) -> None:
    assert_same(op_type, inputs, outputs, domain=MICROSOFT, **settings)


def scalar(value: float, dtype: type = np.float32) -> np.ndarray:
    return np.array(value, dtype)


def bytes_(dtype: type, *shape: int, seed: int = 0) -> np.ndarray:
    """Random bytes; signed ones have seven bits, lest ONNX Runtime's products saturate on CPUs without VNNI."""
    low, high = (0, 256) if dtype is np.uint8 else (-64, 64)
    return rng(seed).integers(low, high, shape).astype(dtype)


def scales(*shape: int, seed: int = 0) -> np.ndarray:
    return rng(seed).uniform(0.005, 0.03, shape).astype(np.float32)


class TestFused:
    image, kernel = floats(2, 4, 7, 7), floats(6, 2, 3, 3, seed=1)
    hidden = floats(2, 5, 8)
    ids = rng().integers(0, 9, (2, 5)).astype(np.int32)

    @pytest.mark.parametrize(
        ("activation", "parameters"),
        [("Relu", []), ("Tanh", []), ("LeakyRelu", [0.3]), ("Clip", [-0.2, 0.4]), ("HardSigmoid", [0.3, 0.4])],
    )
    def test_convolution(self, activation: str, parameters: list[float]) -> None:
        settings = {"activation": activation, **({"activation_params": parameters} if parameters else {})}
        check("FusedConv", [self.image, self.kernel, floats(6)], group=2, pads=[1, 1, 1, 1], **settings)

    def test_convolution_with_a_sum(self) -> None:
        inputs = [self.image, self.kernel, floats(6), floats(2, 6, 5, 5, seed=2)]
        check("FusedConv", inputs, group=2, activation="Relu")

    def test_an_unknown_activation_is_named(self) -> None:
        model = node_model("FusedConv", [self.image, self.kernel], domain=MICROSOFT, group=2, activation="Relu")
        next(a for a in model.graph.node[0].attribute if a.name == "activation").s = b"Wiggle"
        with pytest.raises(ConversionError, match=r"FusedConv.*activation 'Wiggle'"):
            convert(model, fallback=False)(torch.from_numpy(self.image), torch.from_numpy(self.kernel))

    @pytest.mark.parametrize("activation", ["Relu", "LeakyRelu"])
    def test_matrix_product_with_activation(self, activation: str) -> None:
        slope = {"activation_alpha": 0.3} if activation == "LeakyRelu" else {}
        check("FusedGemm", [floats(3, 4), floats(4, 5), floats(5)], activation=activation, alpha=0.5, beta=0.3, **slope)

    @pytest.mark.parametrize(
        ("a", "b", "attributes"),
        [
            ((2, 3, 4, 5), (2, 3, 5, 6), {"alpha": 0.3}),
            ((2, 3, 5, 4), (2, 3, 6, 5), {"transA": 1, "transB": 1}),
            ((4, 2, 3, 5), (2, 3, 5, 6), {"transBatchA": 1}),
            ((5, 2, 3, 4), (2, 3, 5, 6), {"transBatchA": 1, "transA": 1}),
            ((2, 3, 4, 5), (6, 2, 3, 5), {"transBatchB": 1, "transB": 1}),
        ],
    )
    def test_matrix_product(self, a: tuple, b: tuple, attributes: dict) -> None:
        check("FusedMatMul", [floats(*a), floats(*b, seed=1)], **attributes)

    def test_activations(self) -> None:
        check("Gelu", [self.hidden])
        check("BiasGelu", [self.hidden, floats(8)])
        check("FastGelu", [self.hidden])
        check("FastGelu", [self.hidden, floats(8)])
        check("QuickGelu", [self.hidden], alpha=0.7)

    def test_skip_layer_normalization(self) -> None:
        skip, gamma, beta, bias = floats(2, 5, 8, seed=1), floats(8, seed=2), floats(8, seed=3), floats(8, seed=4)
        check("SkipLayerNormalization", [self.hidden, skip, gamma, beta, bias], 4, epsilon=0.1)
        check("SkipLayerNormalization", [self.hidden, skip[0], gamma])
        check("SkipSimplifiedLayerNormalization", [self.hidden, skip, gamma, bias], epsilon=0.1)

    def test_embedding(self) -> None:
        tables = [floats(9, 8), floats(7, 8, seed=1), floats(2, 8, seed=2), floats(8, seed=3), floats(8, seed=4)]
        mask = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], np.int32)
        check("EmbedLayerNormalization", [self.ids, self.ids % 2, *tables, mask], 3)
        check("EmbedLayerNormalization", [self.ids, None, *tables[:2], None, *tables[3:]], 2)
        check("EmbedLayerNormalization", [self.ids, self.ids % 2, *tables, None, self.ids % 7], 2)

    def test_others(self) -> None:
        check("Inverse", [floats(2, 3, 3)])
        check("CDist", [floats(3, 4), floats(5, 4, seed=1)], metric="euclidean")
        check("CDist", [floats(3, 4), floats(5, 4, seed=1)])

    def test_softmax_with_bias(self) -> None:
        """ONNX Runtime implements it on GPUs only."""
        x, bias = floats(2, 3, 4, 4), floats(2, 1, 1, 4, seed=1)
        declared = [output_info("output_0", "tensor(float)", x.shape)]
        settings = {"axis": 3, "is_inner_broadcast": 1, "declared": declared}
        model = node_model("BiasSoftmax", [x, bias], domain=MICROSOFT, **settings)
        (y,) = convert(model, fallback=False)(torch.from_numpy(x), torch.from_numpy(bias))
        torch.testing.assert_close(y, torch.from_numpy(x + bias).softmax(-1))


BATCH, NEW, PAST, HEADS, SIZE = 2, 4, 3, 3, 8
HIDDEN = HEADS * SIZE
LENGTHS = np.array([2, 4], np.int32)
RANGES = np.array([3, 4, 1, 0], np.int32)
MASK = np.array([[1, 1, 0, 0], [1, 1, 1, 1]], np.int32)
MASKS = {
    "none": None,
    "lengths": LENGTHS,
    "ranges": RANGES,
    "keys": MASK,
    "pairs": np.tril(np.ones((2, 4, 4), np.int32)),
}


class TestAttention:
    inputs = (floats(BATCH, NEW, 10), floats(10, 3 * HIDDEN, seed=1), floats(3 * HIDDEN, seed=2))
    past = floats(2, BATCH, HEADS, PAST, SIZE, seed=3)

    @pytest.mark.parametrize("unidirectional", [0, 1])
    @pytest.mark.parametrize("mask", MASKS)
    def test_masks(self, mask: str, unidirectional: int) -> None:
        bias = floats(1, HEADS, NEW, NEW, seed=4)
        settings = {"num_heads": HEADS, "unidirectional": unidirectional}
        check("Attention", [*self.inputs, MASKS[mask]], **settings)
        check("Attention", [*self.inputs, MASKS[mask], None, bias], scale=0.3, mask_filter_value=-9.0, **settings)

    @pytest.mark.parametrize("unidirectional", [0, 1])
    def test_past(self, unidirectional: int) -> None:
        mask = np.array([[1, 1, 0, 0, 1, 1, 1], [1] * 7], np.int32)
        settings = {"num_heads": HEADS, "unidirectional": unidirectional}
        check("Attention", [*self.inputs, None, self.past], 2, **settings)
        check("Attention", [*self.inputs, mask, self.past], 2, **settings)

    def test_values_of_another_size(self) -> None:
        width = 2 * HIDDEN + HEADS * 5
        inputs = [self.inputs[0], floats(10, width), floats(width)]
        check("Attention", inputs, num_heads=HEADS, qkv_hidden_sizes=[HIDDEN, HIDDEN, HEADS * 5])

    def test_quantized(self) -> None:
        x, weight = bytes_(np.uint8, BATCH, NEW, 10), bytes_(np.int8, 10, 3 * HIDDEN)
        quantization = [scalar(0.02), scalar(0.01), LENGTHS, scalar(120, np.uint8), scalar(0, np.int8)]
        check("QAttention", [x, weight, self.inputs[2], *quantization], num_heads=HEADS, atol=1e-4)

    def test_rotation_inside_is_refused(self) -> None:
        model = node_model("Attention", list(self.inputs), domain=MICROSOFT, num_heads=HEADS, do_rotary=1)
        with pytest.raises(ConversionError, match=r"com\.microsoft\.Attention .*'do_rotary' is not supported"):
            convert(model, fallback=False)

    def test_gradients(self) -> None:
        gradcheck("Attention", [*self.inputs, MASK], domain=MICROSOFT, num_heads=HEADS, unidirectional=1)


class TestMultiHeadAttention:
    query, keys, values = (floats(BATCH, n, HIDDEN, seed=i) for i, n in enumerate((NEW, 6, 6)))
    bias = floats(3 * HIDDEN, seed=4)
    mask = np.array([[1, 1, 0, 0, 1, 0], [1] * 6], np.int32)

    @pytest.mark.parametrize("mask", [None, np.array([3, 6], np.int32), mask, np.stack([mask] * NEW, 1)])
    def test_masks(self, mask: np.ndarray | None) -> None:
        inputs = [self.query, self.keys, self.values, self.bias, mask]
        check("MultiHeadAttention", inputs, num_heads=HEADS)
        check("MultiHeadAttention", [*inputs, floats(BATCH, HEADS, NEW, 6)], num_heads=HEADS, scale=0.4)

    @pytest.mark.parametrize("unidirectional", [0, 1])
    def test_past(self, unidirectional: int) -> None:
        past = [floats(BATCH, HEADS, PAST, SIZE, seed=5), floats(BATCH, HEADS, PAST, SIZE, seed=6)]
        inputs = [self.query, self.keys[:, :NEW], self.values[:, :NEW], self.bias, None, None, *past]
        check("MultiHeadAttention", inputs, 3, num_heads=HEADS, unidirectional=unidirectional)

    def test_keys_of_an_encoder(self) -> None:
        encoded = [floats(BATCH, HEADS, 6, SIZE, seed=5), floats(BATCH, HEADS, 6, SIZE, seed=6)]
        check("MultiHeadAttention", [self.query, *encoded], num_heads=HEADS)
        check("MultiHeadAttention", [self.query, *encoded, self.bias], num_heads=HEADS)

    def test_packed_operands_are_those_they_pack(self) -> None:
        """ONNX Runtime implements them on GPUs only."""
        q, k, v = (torch.from_numpy(floats(BATCH, NEW, HEADS, SIZE, seed=i)) for i in range(3))

        def run(*inputs: torch.Tensor) -> torch.Tensor:
            settings = {
                "declared": [output_info("output_0", "tensor(float)", (BATCH, NEW, HIDDEN))],
                "num_heads": HEADS,
            }
            model = node_model("MultiHeadAttention", [x.numpy() for x in inputs], domain=MICROSOFT, **settings)
            return convert(model)(*inputs)[0]

        expected = run(*(x.flatten(2) for x in (q, k, v)))
        torch.testing.assert_close(run(torch.stack([q, k, v], 3)), expected)
        torch.testing.assert_close(run(q.flatten(2), torch.stack([k, v], 3)), expected)


POSITIONS, KEY_HEADS, WIDE = 20, 2, 16


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("positions", [np.array([3]), rng().integers(0, POSITIONS, (BATCH, NEW))])
def test_rotary_embedding(positions: np.ndarray, interleaved: int) -> None:
    caches = [floats(POSITIONS, SIZE // 2, seed=1), floats(POSITIONS, SIZE // 2, seed=2)]
    partial = {"num_heads": HEADS, "rotary_embedding_dim": 4}
    check("RotaryEmbedding", [floats(BATCH, NEW, HIDDEN), positions, *caches], interleaved=interleaved)
    check("RotaryEmbedding", [floats(BATCH, HEADS, NEW, SIZE), positions, *caches], interleaved=interleaved)
    narrow = [cache[:, :2] for cache in caches]
    check("RotaryEmbedding", [floats(BATCH, NEW, HIDDEN), positions, *narrow], interleaved=interleaved, **partial)


@pytest.mark.parametrize("extra", [{}, {"softcap": 5.0}, {"smooth_softmax": 1}, {"scale": 0.2}], ids=str)
@pytest.mark.parametrize("window", [-1, 2])
@pytest.mark.parametrize("rotary", [0, 1])
class TestGroupQueryAttention:
    def check(self, batch: int, new: int, past: int, settings: dict, packed: bool = False) -> None:
        query, key, value = (
            floats(batch, new, heads * WIDE, seed=i) for i, heads in enumerate((4, KEY_HEADS, KEY_HEADS))
        )
        caches = [floats(batch, KEY_HEADS, past, WIDE, seed=3), floats(batch, KEY_HEADS, past, WIDE, seed=4)]
        lengths = np.full(batch, past + new - 1, np.int32)
        rotations = [floats(POSITIONS, WIDE // 2, seed=5), floats(POSITIONS, WIDE // 2, seed=6)]
        projected = [np.concatenate([query, key, value], -1), None, None] if packed else [query, key, value]
        inputs = [*projected, *caches, lengths, np.array(past + new, np.int32)]
        inputs += rotations if settings["do_rotary"] else []
        check("GroupQueryAttention", inputs, 3, num_heads=4, kv_num_heads=KEY_HEADS, constants=(6,), **settings)

    def test_prompt_and_next_token(self, rotary: int, window: int, extra: dict) -> None:
        settings = {"do_rotary": rotary, "local_window_size": window, **extra}
        self.check(2, NEW, 0, settings)
        self.check(2, NEW, 0, settings, packed=True)
        self.check(2, 1, 5, settings)
        self.check(1, 3, 5, settings)


def test_group_query_attention_of_a_padded_prompt() -> None:
    query, key, value = (floats(2, NEW, heads * WIDE, seed=i) for i, heads in enumerate((4, KEY_HEADS, KEY_HEADS)))
    lengths, total = np.array([NEW - 2, NEW - 1], np.int32), np.array(NEW, np.int32)
    sinks = [None, None, None, floats(1, 4, NEW, NEW, seed=3), floats(4, seed=4)]
    settings = {"num_heads": 4, "kv_num_heads": KEY_HEADS, "constants": (6,)}
    check("GroupQueryAttention", [query, key, value, None, None, lengths, total], 3, **settings)
    check("GroupQueryAttention", [query, key, value, None, None, lengths, total, *sinks], **settings)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8], ids=str)
class TestQuantized:
    def zero(self, dtype: type) -> np.ndarray:
        return scalar(120 if dtype is np.uint8 else -7, dtype)

    def test_elementwise(self, dtype: type) -> None:
        zero = self.zero(dtype)
        a, b = bytes_(dtype, 2, 3, 8), bytes_(dtype, 2, 3, 8, seed=1)
        out = [scalar(0.0419), zero]
        first, second = [a, scalar(0.0213), zero], [b, scalar(0.0307), zero]
        check("QLinearAdd", [*first, *second, *out])
        check("QLinearMul", [*first, *second, *out])
        check("QLinearSigmoid", [*first, scalar(1 / 256), scalar(0, dtype)], constants=range(1, 5))
        check("QLinearLeakyRelu", [*first, *out], alpha=0.2, constants=range(1, 5))
        check("QLinearConcat", [*out, *first, *second], axis=1, constants=(0, 1, 3, 4, 6, 7))
        condition = rng().uniform(size=(2, 3, 8)) > 0.5
        check("QLinearWhere", [condition, *first, *second, *out], constants=(2, 3, 5, 6, 7, 8))

    def test_pooling(self, dtype: type) -> None:
        x, zero = bytes_(dtype, 2, 4, 5, 6), self.zero(dtype)
        inputs = [x, scalar(0.0213), zero, scalar(0.0107), zero]
        windows = {"kernel_shape": [2, 3], "pads": [1, 1, 0, 1], "strides": [1, 2]}
        for channels_last in (0, 1):
            check("QLinearGlobalAveragePool", inputs, channels_last=channels_last)
            for padding in (0, 1):
                settings = {"channels_last": channels_last, "count_include_pad": padding, **windows}
                check("QLinearAveragePool", inputs, **settings)
        check("NhwcMaxPool", [x], kernel_shape=[2, 2], strides=[2, 1], pads=[0, 1, 0, 1])

    def test_convolution_with_channels_last(self, dtype: type) -> None:
        zero, bias = self.zero(dtype), rng().integers(-900, 900, 6).astype(np.int32)
        parameters = [bytes_(np.int8, 6, 4, 3, 3), scalar(0.01), scalar(0, np.int8), scalar(0.513), zero, bias]
        inputs = [bytes_(dtype, 2, 7, 7, 4), scalar(0.0213), zero, *parameters]
        check("QLinearConv", inputs, channels_last=1, pads=[1] * 4, constants=range(1, 9))

    @pytest.mark.parametrize("axis", [1, -1])
    @pytest.mark.parametrize("opset", [12, 13])
    def test_softmax(self, dtype: type, opset: int, axis: int) -> None:
        lowest = scalar(np.iinfo(dtype).min, dtype)
        inputs = [bytes_(dtype, 2, 3, 8), scalar(0.0213), self.zero(dtype), scalar(1 / 256), lowest]
        check("QLinearSoftmax", inputs, axis=axis, attributes={"opset": opset})

    def test_matrix_products(self, dtype: type) -> None:
        zero, bias = self.zero(dtype), rng().integers(-900, 900, 5).astype(np.int32)
        a, b = bytes_(dtype, 3, 20), bytes_(np.int8, 20, 5)
        first = [a, scalar(0.0213), zero]
        inputs = [*first, b, scalar(0.0107), scalar(0, np.int8), bias, scalar(0.3), zero]
        check("QGemm", inputs, constants=range(1, 9))
        transposed = [*first, np.ascontiguousarray(b.T), scales(5), np.zeros(5, np.int8), bias]
        check("QGemm", transposed, alpha=0.5, transB=1, constants=range(1, 7))


def test_float_results_of_quantized_products() -> None:
    a, b, zero = bytes_(np.uint8, 2, 3, 20), bytes_(np.int8, 20, 5), scalar(120, np.uint8)
    for b_zero in (None, scalar(3, np.int8)):
        inputs = [a, b, scalar(0.0213), scalar(0.0107), zero, b_zero, floats(5)]
        check("MatMulIntegerToFloat", inputs)
        check("DynamicQuantizeMatMul", [floats(2, 3, 20), b, scalar(0.0107), b_zero, floats(5)])
    columns = [bytes_(np.uint8, 20, 5), scales(5), bytes_(np.uint8, 5, seed=1)]
    check("DynamicQuantizeMatMul", [floats(2, 3, 20), *columns])


def test_quantized_embedding() -> None:
    ids = rng().integers(0, 9, (2, 5)).astype(np.int32)
    tables = [bytes_(np.uint8, 9, 8), bytes_(np.uint8, 7, 8, seed=1), bytes_(np.uint8, 2, 8, seed=2)]
    tables += [bytes_(np.uint8, 8, seed=3), bytes_(np.uint8, 8, seed=4)]
    parameters = [*(scalar(0.01 * i) for i in range(1, 6)), *(scalar(20 * i, np.uint8) for i in range(5))]
    check("QEmbedLayerNormalization", [ids, ids % 2, *tables, None, *parameters], 2)


@pytest.mark.parametrize("accuracy_level", [0, 4])
@pytest.mark.parametrize("inner", [64, 40])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_weights_of_few_bits(bits: int, inner: int, accuracy_level: int) -> None:
    rows, size = 6, 32
    blocks = -(-inner // size)
    weights = [bytes_(np.uint8, rows, blocks, size * bits // 8), scales(rows, blocks)]
    packed = bytes_(np.uint8, rows, -(-blocks * bits // 8), seed=1)
    settings = {"K": inner, "N": rows, "bits": bits, "block_size": size, "accuracy_level": accuracy_level}
    x = floats(2, 3, inner)
    check("MatMulNBits", [x, *weights], constants=(1, 2), **settings)
    check("MatMulNBits", [x, *weights, packed, None, floats(rows)], constants=(1, 2, 3, 5), **settings)
    if accuracy_level == 0 and bits < 8:
        check("MatMulNBits", [x, *weights, floats(rows, blocks, seed=1)], constants=(1, 2, 3), **settings)


@pytest.mark.parametrize("per_column", [False, True])
@pytest.mark.parametrize(("direction", "directions"), [("forward", 1), ("reverse", 1), ("bidirectional", 2)])
def test_dynamically_quantized_lstm(direction: str, directions: int, per_column: bool) -> None:
    steps, batch, size, hidden = 5, 2, 4, 6
    shape = (directions, 4 * hidden) if per_column else (directions,)
    matrices = [bytes_(np.int8, directions, n, 4 * hidden, seed=n) for n in (size, hidden)]
    states = [floats(directions, batch, hidden, seed=1), floats(directions, batch, hidden, seed=2)]
    quantization = [scales(*shape), np.zeros(shape, np.int8), scales(*shape, seed=1), np.zeros(shape, np.int8)]
    bias, peepholes = floats(directions, 8 * hidden, seed=3), floats(directions, 3 * hidden, seed=4)
    inputs = [floats(steps, batch, size), *matrices, bias, None, *states, peepholes, *quantization]
    settings = {"hidden_size": hidden, "direction": direction, "constants": (1, 2, 3, 8, 9, 10, 11)}
    check("DynamicQuantizeLSTM", inputs, 3, **settings)


def test_normalizations_that_onnx_runtime_adds_to_the_standard_domain() -> None:
    """Neither is in the standard at that opset, but ONNX Runtime's optimizers write both."""
    inputs = [floats(2, 5, 8), floats(8, seed=1), floats(8, seed=2)]
    for op_type, operands in (("SimplifiedLayerNormalization", inputs[:2]), ("LayerNormalization", inputs)):
        assert_same(op_type, operands, opset=13, epsilon=0.1)
        gradcheck(op_type, operands, opset=13)


@pytest.mark.parametrize(
    ("op_type", "inputs", "attributes"),
    [
        ("BiasGelu", [(2, 5, 8), (8,)], {}),
        ("FastGelu", [(2, 5, 8), (8,)], {}),
        ("QuickGelu", [(2, 5, 8)], {}),
        ("FusedMatMul", [(2, 4, 3), (2, 4, 5)], {"transA": 1, "alpha": 0.3}),
        ("SkipLayerNormalization", [(2, 5, 8), (2, 5, 8), (8,), (8,)], {}),
        ("SkipSimplifiedLayerNormalization", [(2, 5, 8), (2, 5, 8), (8,)], {}),
        ("MultiHeadAttention", [(2, 4, 6), (2, 5, 6), (2, 5, 6), (18,)], {"num_heads": 3}),
        ("FusedConv", [(1, 2, 5, 5), (3, 2, 3, 3), (3,)], {"activation": "Tanh"}),
        ("FusedGemm", [(3, 4), (4, 5), (5,)], {"activation": "Sigmoid"}),
    ],
)
def test_gradients(op_type: str, inputs: list[tuple], attributes: dict) -> None:
    gradcheck(op_type, [floats(*shape, seed=i) for i, shape in enumerate(inputs)], domain=MICROSOFT, **attributes)
