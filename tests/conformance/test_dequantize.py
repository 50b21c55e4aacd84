"""The float network that a quantized one stands for: equal to the original, where its weights can be stored exactly."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from graphs import MICROSOFT, constant, model, node, value
from nodes import floats, rng
from onnx import TensorProto, helper

import onnxinfo
from onnxinfo.errors import ModelError
from onnxinfo.graph.engine import Engine
from onnxinfo.graph.quantization import quantization
from onnxinfo.torch_graph.dequantize import dequantize

STEP = 1 / 16


def whole(name: str, *shape: int, dtype: type = np.int8, reach: int = 20) -> onnx.TensorProto:
    return constant(name, rng(len(name)).integers(0 if dtype is np.uint8 else -reach, reach, shape), dtype)


#: Scales and zero points: s of weights, f (fine) and z of activations, c of channels.
PARAMETERS = [
    *(constant("s", 1 / 8, np.float32), constant("f", STEP, np.float32), constant("z", 120, np.uint8)),
    *(constant("zw", 0, np.int8), constant("c", np.array([1, 2, 4, 8, 16, 32]) / 64, np.float32)),
    *(constant("zc", np.zeros(6), np.int8), constant("fine", 1 / 4096, np.float32)),
    *(constant("zero", 0, np.uint8), constant("wide", 0.5, np.float32), constant("zw3", 3, np.int8)),
]


def evaluated(proto: onnx.ModelProto, *x: np.ndarray) -> list[np.ndarray]:
    return Engine(proto, threads=1).run(dict(zip((v.name for v in proto.graph.input), x, strict=True)))


def network(nodes, constants=(), *, shape=(2, 4), output=TensorProto.FLOAT, opset=20) -> onnx.ModelProto:
    inputs, outputs = [value("x", shape)], [value("y", None, output)]
    return model(nodes, inputs, outputs, [*PARAMETERS, *constants], opset=opset, imports=[MICROSOFT])


def rounded(source: str, target: str, scale: str = "f", zero: str = "z") -> onnx.NodeProto:
    return node("QuantizeLinear", f"{source} {scale} {zero}", target)


def on_grid(*shape: int) -> np.ndarray:
    return (rng().integers(-60, 60, shape) * STEP).astype(np.float32)


IMAGE, W = (2, 4, 6, 5), "w s zw"
MS = {"domain": "com.microsoft"}
#: Nodes between integers ``q`` and ``r`` (both with scale f and zero point z), and the shape of the input.
STORED = {
    "conv": ([node("QLinearConv", "q f z k c zc f z kb", "r", pads=[1, 1, 0, 0])], IMAGE),
    "conv channels last": (
        [node("QLinearConv", "q f z k c zc f z kb", "r", channels_last=1, **MS)],
        (2, 6, 5, 4),
    ),
    "matmul": ([node("QLinearMatMul", f"q f z {W} f z", "r")], (2, 4)),
    "gemm": ([node("QGemm", f"q f z {W} b f z", "r", alpha=0.5, transB=1, **MS)], (2, 4)),
    "add": ([node("QLinearAdd", "q f z q f z f z", "r", **MS)], (2, 4)),
    "mul": ([node("QLinearMul", "q f z q f z f z", "r", **MS)], (2, 4)),
    "sigmoid": ([node("QLinearSigmoid", "q f z f z", "r", **MS)], (2, 4)),
    "leaky relu": ([node("QLinearLeakyRelu", "q f z f z", "r", alpha=0.2, **MS)], (2, 4)),
    "softmax": ([node("QLinearSoftmax", "q f z f z", "r", axis=-1, opset=20, **MS)], (2, 4)),
    "global pool": ([node("QLinearGlobalAveragePool", "q f z f z", "r", **MS)], IMAGE),
    "pool": ([node("QLinearAveragePool", "q f z f z", "r", kernel_shape=[2, 2], **MS)], IMAGE),
    "concat": ([node("QLinearConcat", "f z q f z q f z", "r", axis=1, **MS)], (2, 4)),
    "where": ([node("QLinearWhere", "mask q f z w8 f z f z", "r", **MS)], (2, 4)),
    "largest, channels last": ([node("NhwcMaxPool", "q", "r", kernel_shape=[2, 2], **MS)], IMAGE),
    "joined": ([node("Concat", "q w8", "r", axis=0)], (2, 4)),
    "moved": ([node("Transpose", "q", "t", perm=[1, 0]), node("Reshape", "t eight", "r")], (2, 4)),
    "largest": ([node("MaxPool", "q", "r", kernel_shape=[2, 2])], IMAGE),
}


@pytest.mark.parametrize("kind", STORED)
def test_integers_stand_for_floats(kind: str) -> None:
    """Inputs on the grid are not rounded, so that only the rounding of the result remains: half a step."""
    nodes, shape = STORED[kind]
    constants = [
        *(whole("w", 4, 4), whole("k", 6, 4, 3, 3), whole("kb", 6, dtype=np.int32, reach=99)),
        *(whole("b", 4, dtype=np.int32, reach=99), constant("mask", [[True], [False]], bool)),
        *(whole("w8", 2, 4, dtype=np.uint8, reach=200), constant("eight", [8])),
    ]
    proto = network([rounded("x", "q"), *nodes, node("DequantizeLinear", "r f z", "y")], constants, shape=shape)
    found = dequantize(proto)
    assert quantization(found.proto) == ""
    x = on_grid(*shape)
    (exact,), (coarse,) = evaluated(found.proto, x), evaluated(proto, x)
    # Tables of ONNX Runtime, of the sigmoid for instance, are off by up to half a step more.
    slack = 2 if kind in ("sigmoid", "softmax") else 1.01
    assert np.abs(exact - coarse).max() <= slack * STEP / 2
    assert np.abs(exact).max() > STEP


#: Models whose activations are only rounded, and the same computation in floats.
DYNAMIC = [node("DynamicQuantizeLinear", "x", "q qs qz")]
SCALED = [node("Cast", "sums", "cast", to=TensorProto.FLOAT), node("Mul", "qs s", "both")]
RESCALED = [*SCALED, node("Mul", "cast both", "y")]


def values(tensor: onnx.TensorProto, zero: int = 0) -> np.ndarray:
    return (onnx.numpy_helper.to_array(tensor).astype(np.float32) - zero) / 8


MATRIX, KERNEL = whole("w", 4, 4), whole("k", 6, 4, 1, 1)
EXACT = {
    "dynamic product": ([*DYNAMIC, node("MatMulInteger", "q w qz zw3", "sums"), *RESCALED], 3),
    "dynamic product with a whole bias": (
        [*DYNAMIC, node("MatMulInteger", "q w qz zw3", "p"), node("Add", "p none", "sums"), *RESCALED],
        3,
    ),
    "dynamic product in one node": ([node("DynamicQuantizeMatMul", "x w s zw3", "y", **MS)], 3),
    "product with float result": ([*DYNAMIC, node("MatMulIntegerToFloat", "q w qs s qz zw3", "y", **MS)], 3),
    "static product of integers": (
        [
            *(rounded("x", "q"), node("MatMulInteger", "q w z", "sums"), node("Mul", "f s", "both")),
            *(node("Cast", "sums", "cast", to=TensorProto.FLOAT), node("Mul", "cast both", "y")),
        ],
        0,
    ),
    "sums of integers are dequantized": (
        [rounded("x", "q"), node("MatMulInteger", "q w z", "sums"), node("DequantizeLinear", "sums product", "y")],
        0,
    ),
    "pairs around everything": (
        [
            *(rounded("x", "q"), node("DequantizeLinear", "q f z", "d")),
            *(node("DequantizeLinear", "w s zw", "dw"), node("MatMul", "d dw", "y")),
        ],
        0,
    ),
    "weights rounded in the graph": (
        [
            *(rounded("x", "q"), node("DequantizeLinear", "q f z", "d"), node("QuantizeLinear", "wf s zw", "wq")),
            *(node("DequantizeLinear", "wq s zw", "dw"), node("MatMul", "d dw", "y")),
        ],
        0,
    ),
    "scale of its own": (
        [
            *(node("Abs", "x", "size"), node("ReduceMax", "size", "top", keepdims=0), node("Div", "top levels", "qs")),
            *(node("QuantizeLinear", "x qs zw", "q"), node("MatMulInteger", "q w zw zw3", "sums"), *RESCALED),
        ],
        3,
    ),
}


@pytest.mark.parametrize("kind", EXACT)
def test_products_are_those_of_the_float_network(kind: str) -> None:
    nodes, zero = EXACT[kind]
    constants = [
        *(MATRIX, constant("none", np.zeros(4), np.int32), constant("product", STEP / 8, np.float32)),
        *(constant("wf", values(MATRIX), np.float32), constant("levels", 127, np.float32)),
    ]
    found = dequantize(network(nodes, constants))
    assert quantization(found.proto) == ""
    x = floats(2, 4)
    np.testing.assert_allclose(evaluated(found.proto, x)[0], x @ values(MATRIX, zero), rtol=1e-5, atol=1e-5)


def test_convolutions_of_integers() -> None:
    nodes = [*DYNAMIC, node("ConvInteger", "q k qz zw3", "sums"), *RESCALED]
    found = dequantize(network(nodes, [KERNEL], shape=IMAGE))
    x = floats(*IMAGE)
    expected = np.einsum("nchw,kc->nkhw", x, values(KERNEL, 3)[:, :, 0, 0])
    np.testing.assert_allclose(evaluated(found.proto, x)[0], expected, rtol=1e-5, atol=1e-5)


def test_recurrence_and_attention_of_integers() -> None:
    """ONNX Runtime's operators on rounded and on plain values agree up to the rounding."""
    lstm = node("DynamicQuantizeLSTM", "x W R none none none none none ws wz ws wz", "y", hidden_size=3, **MS)
    lstm.input[3:8] = [""] * 5
    constants = [
        *(whole("W", 1, 4, 12), whole("R", 1, 3, 12), constant("ws", [1 / 64], np.float32)),
        *(constant("wz", [0], np.int8), whole("A", 4, 12), constant("ab", np.ones(12), np.float32)),
    ]
    attention = node("QAttention", "q ab0 bias f sA mask z zw", "y", num_heads=2, **MS)
    attention.input[:] = ["q", "A", "ab", "f", "fine", "", "z", "zw"]
    for nodes in ([lstm], [rounded("x", "q"), attention]):
        proto = network(nodes, constants, shape=(2, 3, 4))
        found, x = dequantize(proto), on_grid(2, 3, 4)
        assert quantization(found.proto) == ""
        assert np.abs(evaluated(found.proto, x)[0] - evaluated(proto, x)[0]).max() < 0.02


def test_weights_of_few_bits_no_longer_round_activations() -> None:
    packed = constant("packed", rng().integers(0, 255, (4, 1, 8)), np.uint8)
    nodes = [node("MatMulNBits", "x packed steps", "y", K=16, N=4, bits=4, block_size=16, accuracy_level=4, **MS)]
    proto = network(nodes, [packed, constant("steps", np.full(4, 0.1), np.float32)], shape=(2, 16))
    assert (quantization(proto), quantization(dequantize(proto).proto)) == ("dynamic", "weights")


@pytest.mark.parametrize("zero", ["zero", ""])
def test_a_fused_activation_stays(zero: str) -> None:
    """The range of the integers begins at zero: a ReLU was fused into the rounding."""
    nodes = [
        *(rounded("x", "q"), node("DequantizeLinear", "q f z", "d"), node("DequantizeLinear", "w s zw", "dw")),
        *(node("MatMul", "d dw", "act"), rounded("act", "act_q", "wide", zero)),
        *(node("DequantizeLinear", f"act_q wide {zero}", "act_d"), node("MatMul", "act_d dw", "y")),
    ]
    found = dequantize(network(nodes, [MATRIX]))
    assert [layer.name for layer in onnxinfo.list_layers(found) if layer.default] == ["act", "y"]
    x, w = floats(2, 4), values(MATRIX)
    np.testing.assert_allclose(evaluated(found.proto, x)[0], np.maximum(x @ w, 0) @ w, rtol=1e-5, atol=1e-5)


def test_old_opset() -> None:
    nodes = [
        *(rounded("x", "q"), node("DequantizeLinear", "q f z", "d"), node("MatMul", "d wf", "act")),
        *(rounded("act", "act_q", "wide", "zero"), node("DequantizeLinear", "act_q wide zero", "y")),
    ]
    found = dequantize(network(nodes, [constant("wf", values(MATRIX), np.float32)], opset=10))
    x = floats(2, 4)
    np.testing.assert_allclose(evaluated(found.proto, x)[0], np.maximum(x @ values(MATRIX), 0), rtol=1e-5, atol=1e-5)


def test_bodies_and_functions() -> None:
    pair = [rounded("h", "hq"), node("DequantizeLinear", "hq f z", "hd"), node("DequantizeLinear", "w s zw", "dw")]
    body = helper.make_graph([*pair, node("MatMul", "hd dw", "inner")], "then", [], [value("inner", (2, 4))])
    other = helper.make_graph([node("Identity", "h", "kept")], "else", [], [value("kept", (2, 4))])
    choice = helper.make_node("If", ["yes"], ["chosen"], then_branch=body, else_branch=other)
    local = helper.make_opsetid("local", 1)
    function = helper.make_function(
        "local", "Fake", ["a", "s", "z"], ["b"],
        [node("QuantizeLinear", "a s z", "i"), node("DequantizeLinear", "i s z", "b")], [helper.make_opsetid("", 20)],
    )  # fmt: skip
    proto = model(
        [node("Fake", "x f z", "h", domain="local"), node("ReduceSum", "x", "t"), node("Equal", "t t", "same"),
         node("Squeeze", "same", "yes"), choice, node("Relu", "chosen", "y")],
        [value("x", (2, 4))], [value("y", None)], [*PARAMETERS, MATRIX], imports=[local], functions=[function],
    )  # fmt: skip
    found = dequantize(proto)
    assert quantization(found.proto) == ""
    x = floats(2, 4)
    np.testing.assert_allclose(evaluated(found.proto, x)[0], np.maximum(x @ values(MATRIX), 0), rtol=1e-5, atol=1e-5)


def test_half_precision() -> None:
    nodes = [*DYNAMIC, node("MatMulInteger", "q w qz zw3", "sums"), node("Cast", "sums", "y", to=TensorProto.FLOAT16)]
    found = dequantize(network(nodes, [MATRIX], output=TensorProto.FLOAT16))
    x = floats(2, 4)
    exact = (8 * (x @ values(MATRIX, 3))).astype(np.float16)
    np.testing.assert_allclose(evaluated(found.proto, x)[0], exact, rtol=2e-3)


def test_parameters_that_do_not_fit_are_refused_in_one_line() -> None:
    kernel, scales = whole("k", 6, 4, 1, 1), constant("five", np.ones(5), np.float32)
    nodes = [rounded("x", "q"), node("QLinearConv", "q f z k five zc f z", "r"), node("DequantizeLinear", "r f z", "y")]
    with pytest.raises(ModelError, match=r"cannot be dequantized: .*; export it again$"):
        dequantize(network(nodes, [kernel, scales], shape=IMAGE))


def test_whole_outputs_become_floats() -> None:
    found = dequantize(network([rounded("x", "y")], output=TensorProto.UINT8))
    x = floats(2, 4)
    np.testing.assert_array_equal(evaluated(found.proto, x)[0], x)


def test_a_float_model_stays_as_it_is() -> None:
    proto = onnxinfo.load(network([node("Relu", "x", "y")]))
    assert dequantize(proto) is proto


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        (
            [rounded("x", "q"), node("BitShift", "q two", "y", direction="LEFT")],
            r"node '/y' \(BitShift\) computes with",
        ),
        ([rounded("x", "q"), node("DequantizeLinear", "q f zero", "y")], "another zero point"),
        (
            [rounded("x", "q"), rounded("x", "p", "wide"), node("Concat", "q p", "y", axis=0)],
            "joins integers of different scales",
        ),
    ],
)
def test_integers_that_stand_for_no_floats_are_refused(nodes: list[onnx.NodeProto], reason: str) -> None:
    output = TensorProto.FLOAT if nodes[-1].op_type == "DequantizeLinear" else TensorProto.UINT8
    with pytest.raises(ModelError, match=reason):
        dequantize(network(nodes, [constant("two", 2, np.uint8)], output=output))
