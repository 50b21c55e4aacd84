"""Default layers of quantized networks: the rescaled and activated tensors, not accumulators, casts or scales."""

import numpy as np
import pytest
from graphs import MICROSOFT, constant, model, node, value, weight
from onnx import TensorProto

from onnxinfo import list_layers

CONSTANTS = [
    *(weight("w", 4, 4), weight("b", 4), constant("wq", np.ones((4, 4)), np.uint8), constant("zero", 0, np.uint8)),
    *(constant("s", 0.1, np.float32), constant("s2", 0.2, np.float32), constant("levels", 127, np.float32)),
]
DYNAMIC = [
    node("DynamicQuantizeLinear", "x", "xq xs xz"),
    node("MatMulInteger", "xq wq xz zero", "sums"),
    node("Mul", "xs s", "both"),
    node("Cast", "sums", "cast", to=TensorProto.FLOAT),
    node("Mul", "cast both", "scaled"),
    node("Add", "scaled b", "biased"),
]
ROUNDED = [node("QuantizeLinear", "z s zero", "q"), node("DequantizeLinear", "q s zero", "d")]


def defaults(*nodes, outputs=("y",)):
    types = {"label": TensorProto.INT64}
    graph = [value(name, None, types.get(name, TensorProto.FLOAT)) for name in outputs]
    proto = model(nodes, [value("x")], graph, CONSTANTS, imports=[MICROSOFT])
    return [layer.name for layer in list_layers(proto) if layer.default]


def test_dynamic_products_end_after_scale_bias_and_activation():
    assert defaults(*DYNAMIC, node("Relu", "biased", "act"), node("MatMul", "act w", "y")) == ["act", "y"]


def test_dynamic_products_belong_to_the_sum_that_alone_uses_them():
    assert defaults(*DYNAMIC, node("Add", "biased x", "sum"), node("MatMul", "sum w", "y")) == ["sum", "y"]


def test_scores_of_a_dynamic_classifier():
    assert defaults(*DYNAMIC, node("Softmax", "biased", "y")) == ["biased"]


def test_scales_derived_from_values_by_other_operators():
    nodes = [
        node("Relu", "x", "r"),
        node("MatMul", "r w", "z"),
        node("Abs", "z", "size"),
        node("ReduceMax", "size", "largest", keepdims=0),
        node("Div", "largest levels", "scale"),
        node("QuantizeLinear", "z scale zero", "q"),
        node("MatMulInteger", "q wq zero zero", "sums"),
        node("Cast", "sums", "cast", to=TensorProto.FLOAT),
        node("Mul", "cast scale", "scaled"),
        node("Relu", "scaled", "y"),
    ]
    assert defaults(*nodes) == ["z", "y"]


def test_rounded_layers_end_where_their_readers_read():
    """A ReLU may be part of the rounding, so that the tensor before it is not activated."""
    assert defaults(node("MatMul", "x w", "z"), *ROUNDED, node("MatMul", "d w", "y")) == ["d", "y"]


def test_activations_after_rounding_belong_to_the_layer():
    nodes = [
        *(node("MatMul", "x w", "z"), *ROUNDED, node("Relu", "d", "r")),
        *(node("QuantizeLinear", "r s2 zero", "rq"), node("DequantizeLinear", "rq s2 zero", "rd")),
        node("MatMul", "rd w", "y"),
    ]
    assert defaults(*nodes) == ["rd", "y"]


@pytest.mark.parametrize("shared", [True, False], ids=["one quantizer", "a quantizer each"])
def test_readers_with_a_rounding_of_their_own(shared):
    source = "q" if shared else "q2"
    nodes = [
        *(node("MatMul", "x w", "z"), *ROUNDED),
        *([] if shared else [node("QuantizeLinear", "z s zero", "q2")]),
        node("DequantizeLinear", f"{source} s zero", "d2"),
        *(node("MatMul", "d w", "branch"), node("Add", "branch d2", "y")),
    ]
    assert defaults(*nodes) == ["d", "y"]


def test_the_same_value_rounded_twice_is_one_value_of_a_sum():
    nodes = [
        *(node("MatMul", "x w", "z"), *ROUNDED, node("DequantizeLinear", "q s zero", "d2")),
        *(node("Add", "d d2", "twice"), node("MatMul", "twice w", "y")),
    ]
    assert defaults(*nodes) == ["twice", "y"]


def test_rounding_in_elementary_operators():
    nodes = [
        *(node("MatMul", "x w", "z"), node("Relu", "z", "r"), node("Div", "r s", "scaled")),
        *(node("Round", "scaled", "whole"), node("Mul", "whole s", "rounded"), node("MatMul", "rounded w", "y")),
    ]
    assert defaults(*nodes) == ["rounded", "y"]


def test_a_rounded_prediction_is_a_layer_beside_what_it_rounds():
    assert defaults(node("MatMul", "x w", "z"), node("Round", "z", "y")) == ["z", "y"]


@pytest.mark.parametrize(
    ("operator", "attributes"), [("QLinearSigmoid", {}), ("QLinearSoftmax", {"opset": 20})], ids=lambda each: each
)
def test_scores_before_quantized_probabilities(operator, attributes):
    nodes = [
        node("QuantizeLinear", "x s zero", "xq"),
        node("QLinearMatMul", "xq s zero wq s zero s2 zero", "scores"),
        node(operator, "scores s2 zero s zero", "p", domain="com.microsoft", **attributes),
        node("DequantizeLinear", "p s zero", "y"),
    ]
    assert defaults(*nodes) == ["scores"]


def test_scores_that_are_laid_out_between_rounding_and_probabilities():
    nodes = [
        *(node("MatMul", "x w", "z"), *ROUNDED, node("Flatten", "d", "flat")),
        *(node("Softmax", "flat", "p"), node("QuantizeLinear", "p s zero", "pq")),
        node("DequantizeLinear", "pq s zero", "y"),
    ]
    assert defaults(*nodes) == ["d"]


BIAS = constant("whole", np.ones(4), np.int32)
SCALES = [constant("c", np.full(4, 0.1), np.float32), constant("zc", np.zeros(4), np.int32)]
WEIGHTS_DEQUANTIZED = [
    node("DequantizeLinear", "wq c", "wd", axis=1),
    node("DequantizeLinear", "whole c zc", "bd", axis=0),
]
#: One layer with 16 weights and 4 biases in each format.
COUNTED = {
    "float": [node("Gemm", "x w b", "y")],
    "QDQ": [*WEIGHTS_DEQUANTIZED, node("Gemm", "x wd bd", "z"), *ROUNDED, node("Identity", "d", "y")],
    "QOperator": [
        node("QuantizeLinear", "x s zero", "xq"),
        node("QGemm", "xq s zero wq s zero whole s2 zero", "yq", domain="com.microsoft"),
        node("DequantizeLinear", "yq s2 zero", "y"),
    ],
    "dynamic": [*DYNAMIC, node("Relu", "biased", "y")],
    "dynamic in one node": [node("DynamicQuantizeMatMul", "x wq c zero b", "y", domain="com.microsoft")],
}


@pytest.mark.parametrize("format", COUNTED)
def test_parameters_and_depth_are_those_of_the_float_network(format):
    """Scales and zero points are no parameters, and a bias stored as 32-bit integers is one."""
    constants = [*CONSTANTS, BIAS, *SCALES]
    proto = model(COUNTED[format], [value("x")], [value("y", None)], constants, opset=21, imports=[MICROSOFT])
    (layer,) = [layer for layer in list_layers(proto) if layer.default]
    assert (layer.parameters, layer.depth) == (20, 1)
