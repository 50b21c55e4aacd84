"""Conversion: inputs and outputs of the module, the backend of each node, and refusals."""

from __future__ import annotations

import copy
import sys
import types
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx2torch.node_converters import registry
from onnx2torch.onnx_graph import OnnxGraph, ValueType
from onnx2torch.onnx_node import OnnxNode
from onnx2torch.utils.common import OnnxMapping, OperationConverterResult, get_const_value, onnx_mapping_from_node
from torch import nn

from onnxinfo.errors import ConversionError, UsageError
from onnxinfo.torch_graph.conversions import conversion_report
from onnxinfo.torch_graph.convert import convert
from onnxinfo.torch_graph.lookup import own
from onnxinfo.torch_graph.precision import to_float32
from onnxinfo.torch_graph.reach import check_reach, convert_reached, obstacles


def model_of(
    nodes: Sequence[onnx.NodeProto],
    inputs: dict[str, tuple[int, Sequence[Any]]],
    outputs: dict[str, tuple[int, Sequence[Any]]],
    constants: dict[str, np.ndarray[Any, Any]] | None = None,
    opset: int = 20,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(name, *declared) for name, declared in inputs.items()],
        [helper.make_tensor_value_info(name, *declared) for name, declared in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", 3), helper.make_opsetid("custom", 1)]
    return onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=opsets, ir_version=10))


def residual_network(opset: int = 20) -> onnx.ModelProto:
    """Convolution, batch normalization, a padded and strided shortcut, shape arithmetic, a dense layer."""
    rng = np.random.default_rng(0)
    f32 = np.float32
    pads = {"pads": np.array([0, 2, 0, 0, 0, 2, 0, 0])}
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("BatchNormalization", ["c1", "scale", "bias", "mean", "var"], ["n1"]),
        helper.make_node("Relu", ["n1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], auto_pad="SAME_UPPER"),
        helper.make_node("Slice", ["x", "starts", "ends", "axes", "steps"], ["s"]),
        helper.make_node("Pad", ["s", "pads"], ["shortcut"]),
        helper.make_node("Add", ["c2", "shortcut"], ["sum"]),
        helper.make_node("GlobalAveragePool", ["sum"], ["pooled"]),
        helper.make_node("Shape", ["pooled"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["batch"]),
        helper.make_node("Unsqueeze", ["batch", "zero_axis"], ["batch_1d"]),
        helper.make_node("Concat", ["batch_1d", "rest"], ["flat_shape"], axis=0),
        helper.make_node("Reshape", ["pooled", "flat_shape"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w3", "b3"], ["logits"], transB=1),
    ]
    constants = {
        "w1": rng.normal(size=(6, 2, 3, 3)).astype(f32),
        "b1": rng.normal(size=6).astype(f32),
        "scale": rng.uniform(0.5, 1, 6).astype(f32),
        "bias": rng.normal(size=6).astype(f32),
        "mean": rng.normal(size=6).astype(f32),
        "var": rng.uniform(0.5, 1, 6).astype(f32),
        "w2": rng.normal(size=(6, 6, 2, 2)).astype(f32),
        "w3": rng.normal(size=(3, 6)).astype(f32),
        "b3": rng.normal(size=3).astype(f32),
        "starts": np.array([0, 0]),
        "ends": np.array([8, 8]),
        "axes": np.array([2, 3]),
        "steps": np.array([2, 2]),
        "zero": np.array(0),
        "zero_axis": np.array([0]),
        "rest": np.array([-1]),
        **pads,
    }
    shape = ["N", 2, 8, 8]
    return model_of(
        nodes, {"x": (TensorProto.FLOAT, shape)}, {"logits": (TensorProto.FLOAT, ["N", 3])}, constants, opset
    )


def images(count: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(1).normal(size=(count, 2, 8, 8)).astype(np.float32)


@pytest.mark.parametrize("opset", [13, 15, 20, 22])
@pytest.mark.parametrize("count", [1, 5])
def test_graph_outputs_for_any_batch_size(opset: int, count: int) -> None:
    model = residual_network(opset)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"x": images(count)})
    (logits,) = convert(model)(torch.from_numpy(images(count)))
    np.testing.assert_allclose(logits.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_chosen_outputs_in_the_order_asked_for() -> None:
    model = residual_network()
    module = convert(model, outputs=["sum", "c1", "sum"])
    total, c1, again = module(torch.from_numpy(images(2)))
    assert c1.shape == (2, 6, 4, 4)
    assert total is again
    assert not any("Gemm" in name for name, _ in module.named_modules())


def test_unknown_output_is_refused() -> None:
    with pytest.raises(UsageError, match="nowhere"):
        convert(residual_network(), outputs=["nowhere"])


def test_module_moves_copies_and_vectorizes() -> None:
    module = convert(residual_network()).double()
    x = torch.from_numpy(images(4)).double()
    (expected,) = module(x)
    assert expected.dtype == torch.float64
    assert torch.equal(copy.deepcopy(module)(x)[0], expected)
    mapped = torch.vmap(lambda one: module(one.unsqueeze(0))[0].squeeze(0))(x)
    torch.testing.assert_close(mapped, expected)


def test_gradient_reaches_the_input() -> None:
    module = convert(residual_network()).double()
    x = torch.from_numpy(images(1)).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: module(x)[0], x, fast_mode=True)


@pytest.mark.gpu
def test_module_runs_on_cuda() -> None:
    module = convert(residual_network())
    x = torch.from_numpy(images(3))
    (expected,) = module(x)
    (logits,) = module.cuda()(x.cuda())
    torch.testing.assert_close(logits.cpu(), expected, rtol=1e-3, atol=1e-4)


def test_input_that_is_an_initializer_is_no_input() -> None:
    model = residual_network()
    model.graph.input.append(helper.make_tensor_value_info("b3", TensorProto.FLOAT, [3]))
    assert convert(model)(torch.from_numpy(images(1)))[0].shape == (1, 3)


# What serves a node.


def word_counts() -> onnx.ModelProto:
    """Token counts, through which no gradient passes, scale the rows of x."""
    counts = helper.make_node(
        "TfIdfVectorizer",
        ["tokens"],
        ["counts"],
        mode="TF",
        min_gram_length=1,
        max_gram_length=1,
        max_skip_count=0,
        ngram_counts=[0],
        ngram_indexes=[0, 1],
        pool_int64s=[7, 9],
    )
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        counts,
        helper.make_node("Mul", ["r", "counts"], ["scaled"]),
        helper.make_node("Scaler", ["scaled"], ["shifted"], domain="ai.onnx.ml", offset=[1.0, 1.0], scale=[2.0, 2.0]),
        helper.make_node("Sigmoid", ["shifted"], ["y"]),
    ]
    return model_of(
        nodes,
        {"x": (TensorProto.FLOAT, ["N", 2]), "tokens": (TensorProto.INT64, [4])},
        {"y": (TensorProto.FLOAT, ["N", 2])},
    )


TOKENS = torch.tensor([7, 9, 9, 1])


def test_fallback_is_a_constant_of_the_graph() -> None:
    module = convert(word_counts(), outputs=["scaled"])
    x = torch.tensor([[1.0, -1.0], [2.0, 3.0]], requires_grad=True)
    (scaled,) = copy.deepcopy(module)(x, TOKENS)
    assert scaled.tolist() == [[1, 0], [2, 6]]
    (gradient,) = torch.autograd.grad(scaled.sum(), x)
    assert gradient.tolist() == [[1, 0], [1, 2]]


def test_report_names_what_serves_each_node() -> None:
    report = conversion_report(word_counts())
    assert [(c.operator, c.server) for c in report[:3]] == [
        ("ai.onnx.Relu", "onnxinfo"),
        ("ai.onnx.TfIdfVectorizer", "fallback"),
        ("ai.onnx.Mul", "onnxinfo"),
    ]
    assert report[1].outputs == ("counts",)
    assert report[1].version == 20
    assert report[1].reason == "there is no converter"
    assert convert(word_counts()).meta["conversions"] == report


def test_refused_without_fallback() -> None:
    with pytest.raises(ConversionError, match=r"operator ai\.onnx\.TfIdfVectorizer \(opset 20\) cannot be converted"):
        convert(word_counts(), fallback=False)


def custom_model() -> onnx.ModelProto:
    return model_of(
        [
            helper.make_node("Relu", ["x"], ["r"]),
            helper.make_node("Mystery", ["r"], ["y"], name="box", domain="custom"),
        ],
        {"x": (TensorProto.FLOAT, [2])},
        {"y": (TensorProto.FLOAT, [2])},
    )


def test_operator_nobody_knows() -> None:
    with pytest.raises(ConversionError, match=r"node 'box': operator custom\.Mystery \(opset 1\)") as caught:
        convert(custom_model())
    assert "\n" not in str(caught.value)
    assert [c.server for c in conversion_report(custom_model())] == ["onnxinfo", "none"]


def test_what_an_output_does_not_need_is_not_converted() -> None:
    (r,) = convert(custom_model(), outputs=["r"])(torch.tensor([-1.0, 1.0]))
    assert r.tolist() == [0, 1]


def test_registered_converter_comes_first() -> None:
    before = dict(registry._CONVERTER_REGISTRY)

    def convert_relu(node: Any, graph: Any) -> OperationConverterResult:
        return OperationConverterResult(nn.Softplus(), onnx_mapping_from_node(node))

    keys = [registry.OperationDescription("", "Relu", 14), registry.OperationDescription("custom", "Mystery", 1)]
    try:
        registry._CONVERTER_REGISTRY[keys[0]] = convert_relu
        registry._CONVERTER_REGISTRY[keys[1]] = convert_relu
        (y,) = convert(custom_model())(torch.zeros(2))
        assert [c.server for c in conversion_report(custom_model())] == ["registered", "registered"]
    finally:
        registry._CONVERTER_REGISTRY.clear()
        registry._CONVERTER_REGISTRY.update(before)
    softplus = nn.functional.softplus
    torch.testing.assert_close(y, softplus(softplus(torch.zeros(2))))
    assert convert(custom_model(), outputs=["r"])(torch.zeros(2))[0].tolist() == [0, 0]


@pytest.fixture
def foreign(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Registers converters with onnx2torch for one test."""
    monkeypatch.setattr(registry, "_CONVERTER_REGISTRY", dict(registry._CONVERTER_REGISTRY))
    return lambda name: registry.add_converter(name, 1, "custom")


def test_registered_converter_gets_what_onnx2torch_would_give(foreign: Any) -> None:
    """onnx2torch's own kinds of node and graph, and the values of weights, including those of an enclosing graph."""
    seen: list[tuple[OnnxNode, OnnxGraph]] = []

    @foreign("Mystery")
    def convert_scaled(node: OnnxNode, graph: OnnxGraph) -> OperationConverterResult:
        seen.append((node, graph))
        module = nn.Linear(1, 1, bias=False)
        module.weight = nn.Parameter(get_const_value(node.input_values[1], graph))
        return OperationConverterResult(module, OnnxMapping(node.input_values[:1], node.output_values))

    scaled = [helper.make_node("Mystery", ["x", "w"], ["y"], name="a.b", domain="custom", factor=2.0)]
    branch = helper.make_graph(
        [helper.make_node("Mystery", ["y", "w"], ["inner"], domain="custom")],
        "branch",
        [],
        [helper.make_tensor_value_info("inner", TensorProto.FLOAT, ["N", 64])],
    )
    nodes = [*scaled, helper.make_node("If", ["choice"], ["z"], then_branch=branch, else_branch=branch)]
    large = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    inputs = {"x": (TensorProto.FLOAT, ["N", 64]), "choice": (TensorProto.BOOL, [])}
    module = convert(model_of(nodes, inputs, {"z": (TensorProto.FLOAT, ["N", 64])}, {"w": large}))
    x, w = torch.ones(2, 64), torch.from_numpy(large)
    torch.testing.assert_close(module(x, torch.tensor(True))[0], x @ w.T @ w.T)
    assert [each.server for each in module.meta["conversions"]] == ["registered"] * 3 + ["onnxinfo"]
    (node, graph), (_, body), _ = seen
    assert isinstance(node, OnnxNode)
    assert isinstance(graph, OnnxGraph)
    assert (node.name, node.domain, node.operation_type, dict(node.attributes)) == (
        "a.b",
        "custom",
        "Mystery",
        {"factor": 2.0},
    )
    assert graph.nodes[node.unique_name] is node
    assert graph.value_as_node_output("y") == (node, 0)
    assert [graph.value_type(name) for name in ("x", "y", "w", "")] == [
        ValueType.GRAPH_INPUT,
        ValueType.NODE_OUTPUT,
        ValueType.GRAPH_INITIALIZER,
        ValueType.EMPTY,
    ]
    assert body.value_type("w") == ValueType.GRAPH_INITIALIZER


def test_registered_converter_that_fails_is_named(foreign: Any) -> None:
    @foreign("Mystery")
    def convert_nothing(node: OnnxNode, graph: OnnxGraph) -> OperationConverterResult:
        raise KeyError("no such weight")

    with pytest.raises(ConversionError, match=r"node 'box': .* cannot be converted: 'no such weight'"):
        convert(custom_model())


def test_converter_of_onnx2torch_itself_comes_last(foreign: Any) -> None:
    """It is used for operators that onnxinfo lacks, and only for those."""

    def convert_double(node: OnnxNode, graph: OnnxGraph) -> OperationConverterResult:
        return OperationConverterResult(nn.Softplus(), onnx_mapping_from_node(node))

    convert_double.__module__ = "onnx2torch.node_converters.mystery"
    foreign("Mystery")(convert_double)
    del registry._CONVERTER_REGISTRY["", "Relu", 14]
    registry.add_converter("Relu", 14)(convert_double)
    report = conversion_report(custom_model())
    assert [(each.operator, each.server) for each in report] == [
        ("ai.onnx.Relu", "onnxinfo"),
        ("custom.Mystery", "onnx2torch"),
    ]


def test_onnx2torch_may_be_half_imported_by_another_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, registry.__name__, types.ModuleType(registry.__name__))
    assert [each.server for each in conversion_report(custom_model(), outputs=["r"])] == ["onnxinfo"]


def test_no_operator_needs_a_converter_of_onnx2torch_itself() -> None:
    known = [each for each, found in registry._CONVERTER_REGISTRY.items() if found.__module__.startswith("onnx2torch.")]
    assert len(known) > 100
    assert [(name, version) for domain, name, version in known if own(name, domain, version) is None] == []


def test_operator_younger_than_the_opset_has_no_converter() -> None:
    assert own("Gelu", "", 20) is not None
    assert own("Gelu", "", 19) is None


def test_failing_operator_is_named() -> None:
    nodes = [helper.make_node("Dropout", ["x", "", "training"], ["y"], name="drop")]
    inputs = {"x": (TensorProto.FLOAT, [2]), "training": (TensorProto.BOOL, [])}
    module = convert(model_of(nodes, inputs, {"y": (TensorProto.FLOAT, [2])}))
    assert module(torch.ones(2), torch.tensor(False))[0].tolist() == [1, 1]
    with pytest.raises(
        ConversionError, match=r"node 'drop': operator ai\.onnx\.Dropout \(opset 20\) cannot run: train"
    ):
        module(torch.ones(2), torch.tensor(True))


# Reach of the gradient.


def two_branches() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["first"]),
        helper.make_node("Binarizer", ["first"], ["binary"], name="cut", domain="ai.onnx.ml", threshold=0.0),
        helper.make_node("Gemm", ["binary", "w"], ["behind"]),
        helper.make_node("Gemm", ["first", "w"], ["beside"]),
    ]
    outputs = {"behind": (TensorProto.FLOAT, ["N", 2]), "beside": (TensorProto.FLOAT, ["N", 2])}
    return model_of(nodes, {"x": (TensorProto.FLOAT, ["N", 2])}, outputs, {"w": np.eye(2, dtype=np.float32)})


def test_constant_on_the_way_stops_the_gradient() -> None:
    found = obstacles(two_branches(), "x", ["first", "behind", "beside"])
    assert {name: conversion.node for name, conversion in found.items()} == {"behind": "cut"}
    check_reach(two_branches(), "x", ["first", "beside"])
    with pytest.raises(ConversionError) as caught:
        check_reach(two_branches(), "x", ["first", "behind"])
    message = str(caught.value)
    assert "no gradient reaches layer 'behind': node 'cut' (ai.onnx.ml.Binarizer, opset 3)" in message
    assert "'beside'" in message
    assert "\n" not in message


def test_constant_beside_the_way_does_not() -> None:
    check_reach(word_counts(), "x", ["scaled", "y"])
    scaled, _ = convert_reached(word_counts(), "r", ["scaled", "y"])(torch.ones(1, 2), TOKENS)
    assert scaled.tolist() == [[1, 2]]


def test_operator_nobody_knows_on_the_way() -> None:
    with pytest.raises(ConversionError, match=r"layer 'y': node 'box' .* are reached: 'r'; choose"):
        convert_reached(custom_model(), "x", ["y"])


def test_constant_in_a_body_stops_the_gradient() -> None:
    binarized = helper.make_graph(
        [helper.make_node("Binarizer", ["x"], ["b"], domain="ai.onnx.ml", threshold=0.0)],
        "then",
        [],
        [helper.make_tensor_value_info("b", TensorProto.FLOAT, ["N", 2])],
    )
    kept = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["i"])],
        "else",
        [],
        [helper.make_tensor_value_info("i", TensorProto.FLOAT, ["N", 2])],
    )
    node = helper.make_node("If", ["choice"], ["y"], then_branch=binarized, else_branch=kept)
    inputs = {"x": (TensorProto.FLOAT, ["N", 2]), "choice": (TensorProto.BOOL, [])}
    assert list(obstacles(model_of([node], inputs, {"y": (TensorProto.FLOAT, ["N", 2])}), "x", ["y"])) == ["y"]


# Half precision.


@pytest.mark.parametrize("half", [TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_half_precision_computes_in_float32(half: int) -> None:
    weights = np.array([[1.0, 0.5], [-2.0, 0.25]], np.float32).astype(helper.tensor_dtype_to_np_dtype(half))
    branch = helper.make_graph(
        [helper.make_node("Constant", [], ["one"], value=numpy_helper.from_array(weights[0, 0].reshape(1), "one"))],
        "branch",
        [],
        [helper.make_tensor_value_info("one", half, [1])],
    )
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], to=half),
        helper.make_node("MatMul", ["h", "w"], ["product"]),
        helper.make_node("If", ["choice"], ["one"], then_branch=branch, else_branch=branch),
        helper.make_node("Add", ["product", "one"], ["y"]),
    ]
    inputs = {"x": (TensorProto.FLOAT, ["N", 2]), "choice": (TensorProto.BOOL, [])}
    model = model_of(nodes, inputs, {"y": (half, ["N", 2])}, {"w": weights}, opset=21)
    x = torch.tensor([[1.0009765625 / 3, 2.0]])
    (y,) = convert(to_float32(model))(x, torch.tensor(True))
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, x @ torch.from_numpy(weights.astype(np.float32)) + 1, rtol=0, atol=0)


def test_model_in_float32_stays_as_it_is() -> None:
    from onnxinfo.graph.model import load

    loaded = load(residual_network())
    assert to_float32(loaded) is loaded


def test_bits_of_half_precision_are_refused() -> None:
    from onnxinfo.errors import ModelError

    nodes = [helper.make_node("BitCast", ["x"], ["y"], to=TensorProto.INT16)]
    model = model_of(nodes, {"x": (TensorProto.FLOAT16, [2])}, {"y": (TensorProto.INT16, [2])}, opset=26)
    with pytest.raises(ModelError, match="16 bit"):
        to_float32(model)
