"""Models whose nodes amplify rounding: `check` accepts what is as near to double precision as ONNX Runtime is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from graphs import MICROSOFT, constant, model, node, value
from onnx import helper, numpy_helper

from onnxinfo import VerificationError, check_model, convert
from onnxinfo.graph.model import load
from onnxinfo.torch_graph.exact import Evidence, explanation
from onnxinfo.torch_graph.verify import verify

Array = np.ndarray[Any, Any]
LOCAL = helper.make_opsetid("local", 1)
NEARLY_CONSTANT = 100 + 1e-3 * np.random.default_rng(0).standard_normal((2, 3, 64)).astype(np.float32)
TAIL = np.linspace(-30, -16, 192, dtype=np.float32).reshape(1, 3, 64)
ONES = constant("ones", np.ones(3), np.float32)
ZEROS = constant("zeros", np.zeros(3), np.float32)
AXES = constant("axes", [-1])


def graph(nodes: Sequence[onnx.NodeProto], *constants: onnx.TensorProto, **options: Any) -> onnx.ModelProto:
    """A model of (N, 3, 64) inputs."""
    shape = ("N", 3, 64)
    return model(nodes, [value("x", shape)], [value("y", shape)], constants, imports=[MICROSOFT, LOCAL], **options)


def in_a_function() -> onnx.ModelProto:
    opset = helper.make_opsetid("", 20)
    body = [node("Identity", "a", "c"), node("Sigmoid", "c", "b")]
    function = helper.make_function("local", "Gate", ["a"], ["b"], body, [opset])
    return graph([node("Gate", "x", "y", domain="local")], functions=[function])


def in_a_branch() -> onnx.ModelProto:
    then, other = (helper.make_graph([node(op, "x", op)], op, [], [value(op, None)]) for op in ("Sigmoid", "Relu"))
    nodes = [
        node("ReduceSum", "x", "sum", keepdims=0),
        node("Less", "sum zero", "below"),
        node("If", "below", "y", then_branch=then, else_branch=other),
    ]
    return graph(nodes, constant("zero", 0, np.float32))


def composite_normalization() -> onnx.ModelProto:
    """A layer normalisation in elementary operators, of rows that are constant but for rounding."""
    nodes = [
        node("Mul", "x third", "t"),
        node("Add", "t third", "u"),
        node("ReduceMean", "u axes", "mean"),
        node("Sub", "u mean", "centred"),
        node("Mul", "centred centred", "square"),
        node("ReduceMean", "square axes", "variance"),
        node("Add", "variance epsilon", "v"),
        node("Sqrt", "v", "deviation"),
        node("Div", "centred deviation", "y"),
    ]
    return graph(nodes, AXES, constant("third", 1 / 3, np.float32), constant("epsilon", 1e-14, np.float32))


CASES: dict[str, tuple[onnx.ModelProto, Array]] = {
    "instance normalization": (
        graph([node("InstanceNormalization", "x ones zeros", "y")], ONES, ZEROS),
        NEARLY_CONSTANT,
    ),
    "layer normalization": (
        graph([node("LayerNormalization", "x scale", "y", epsilon=1e-12)], constant("scale", np.ones(64), np.float32)),
        NEARLY_CONSTANT,
    ),
    "tail of a sigmoid in a function": (in_a_function(), TAIL),
    "tail of a sigmoid in a branch": (in_a_branch(), TAIL),
    "tail of a GELU": (graph([node("Gelu", "x", "y")]), TAIL / 4),
    "tail of ONNX Runtime's GELU": (graph([node("Gelu", "x", "y", domain="com.microsoft")]), TAIL / 4),
    "elementary operators": (composite_normalization(), np.full((2, 3, 64), 0.7, np.float32)),
}


@pytest.mark.parametrize("name", CASES)
def test_amplified_rounding_is_no_fault(name: str) -> None:
    proto, x = CASES[name]
    assert check_model(proto, x).error is None


@pytest.mark.parametrize("name", CASES)
def test_a_fault_is_found_beside_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the node that computes y, half of the values come out 10 % wrong."""
    proto, x = CASES[name]

    class Wrong(torch.nn.Module):
        def __init__(self, right: torch.nn.Module) -> None:
            super().__init__()
            self.right = right

        def forward(self, *operands: torch.Tensor) -> torch.Tensor:
            y = self.right(*operands)
            return torch.where(torch.arange(64) < 32, y, y * 1.1 + 0.1)

    def converted(*arguments: Any) -> torch.fx.GraphModule:
        module = convert(*arguments)
        last = [n.target for n in module.graph.nodes if n.op == "call_module"][-1]
        module.set_submodule(last, Wrong(module.get_submodule(last)))
        return module

    monkeypatch.setattr("onnxinfo.torch_graph.verify.convert", converted)
    with pytest.raises(VerificationError, match="first node that differs"):
        verify(load(proto), converted(proto), [{"x": x}], ["y"])


def quantised_lstm(
    chance: np.random.Generator, inputs: int = 8, hidden: int = 16, most: int = 63, scale: float = 0.02
) -> onnx.ModelProto:
    nodes = [
        node("Identity", "x", "steps"),
        helper.make_node(
            "DynamicQuantizeLSTM",
            ["steps", "W", "R", *[""] * 5, "scale", "zero", "scale", "zero"],
            ["y"],
            domain="com.microsoft",
            hidden_size=hidden,
        ),
    ]
    weights = {name: chance.integers(-most, most + 1, (1, n, 4 * hidden)) for name, n in (("W", inputs), ("R", hidden))}
    constants = [constant(name, array, np.int8) for name, array in weights.items()]
    constants += [constant("scale", [scale], np.float32), constant("zero", [0], np.int8)]
    given = [value("x", ("T", "N", inputs))]
    return model(nodes, given, [value("y", ("T", 1, "N", hidden))], constants, imports=[MICROSOFT])


@pytest.mark.parametrize("seed", range(3))
def test_roundings_within_a_quantised_lstm_are_no_fault(seed: int) -> None:
    """ONNX Runtime gives each thread samples of its own, which it rounds by their own scale."""
    chance = np.random.default_rng(seed)
    proto = load(quantised_lstm(chance))
    x = chance.standard_normal((60, 2, 8)).astype(np.float32)
    verify(proto, convert(proto), [{"x": x}], ["y"])


def integer_product(op: str, operands: str, domain: str = "") -> onnx.ModelProto:
    """A product of dynamically quantized activations and of weights that use all eight bits."""
    nodes = [
        node("DynamicQuantizeLinear", "x", "q qscale qzero"),
        helper.make_node(op, operands.split(), ["p"], domain=domain),
        node("Cast", "p", "y", to=onnx.TensorProto.FLOAT),
    ]
    constants = [
        constant("w", np.random.default_rng(1).integers(-128, 128, (64, 16)), np.int8),
        constant("wzero", 0, np.int8),
        constant("wscale", 0.02, np.float32),
        constant("pscale", 0.5, np.float32),
        constant("pzero", 128, np.uint8),
    ]
    return model(nodes, [value("x", ("N", 64))], [value("y", ("N", 16))], constants, imports=[MICROSOFT])


PRODUCTS = {
    "MatMulInteger": integer_product("MatMulInteger", "q w qzero wzero"),
    "QLinearMatMul": integer_product("QLinearMatMul", "q qscale qzero w wscale wzero pscale pzero"),
    "MatMulIntegerToFloat": integer_product(
        "MatMulIntegerToFloat", "q w qscale wscale qzero wzero", domain="com.microsoft"
    ),
    "DynamicQuantizeMatMul": integer_product("DynamicQuantizeMatMul", "x w wscale wzero", domain="com.microsoft"),
}


def computed_weights() -> onnx.ModelProto:
    """Weights that are rounded while the model runs."""
    proto = integer_product("MatMulIntegerToFloat", "q r qscale wscale qzero wzero", domain="com.microsoft")
    weights = constant("f", 2.5 * np.random.default_rng(1).uniform(-1, 1, (64, 16)), np.float32)
    proto.graph.initializer.append(weights)
    proto.graph.node.insert(0, node("QuantizeLinear", "f wscale wzero", "r"))
    return proto


PRODUCTS["weights that are computed"] = computed_weights()


@pytest.mark.parametrize("op", PRODUCTS)
def test_products_that_saturate_in_onnx_runtime_are_no_fault(op: str) -> None:
    x = np.random.default_rng(0).standard_normal((20, 64)).astype(np.float32)
    assert check_model(PRODUCTS[op], x).error is None


def product_in_a_branch() -> onnx.ModelProto:
    branches = [
        helper.make_graph([node("MatMulInteger", f"q {weights} qzero", weights + "p")], weights, [],
                          [value(weights + "p", None, onnx.TensorProto.INT32)])
        for weights in ("v", "w")
    ]  # fmt: skip
    nodes = [
        node("DynamicQuantizeLinear", "x", "q qscale qzero"),
        node("ReduceSum", "x", "sum", keepdims=0),
        node("Less", "sum zero", "below"),
        node("If", "below", "p", then_branch=branches[0], else_branch=branches[1]),
        node("Cast", "p", "c", to=onnx.TensorProto.FLOAT),
        node("Tanh", "c", "y"),
    ]
    constants = [
        constant(name, np.random.default_rng(i).integers(-128, 128, (64, 16)), np.int8) for i, name in enumerate("vw")
    ]
    given = [*constants, constant("zero", 0, np.float32)]
    return model(nodes, [value("x", ("N", 64))], [value("y", ("N", 16))], given, imports=[MICROSOFT])


def test_what_saturates_in_a_branch_is_passed_on() -> None:
    """The nodes behind an If are given what ONNX Runtime computes, too."""
    x = np.random.default_rng(0).standard_normal((20, 64)).astype(np.float32)
    assert check_model(product_in_a_branch(), x).error is None


@pytest.mark.parametrize(("fault", "is_explained"), [(0, True), (1, False)])
def test_products_are_exact(fault: int, is_explained: bool) -> None:
    proto = load(PRODUCTS["MatMulInteger"]).proto
    weights = next(numpy_helper.to_array(t) for t in proto.graph.initializer if t.name == "w").astype(np.int32)
    q = np.random.default_rng(0).integers(0, 256, (20, 64)).astype(np.uint8)
    exact = (q.astype(np.int32) - 128) @ weights
    values = {"q": q, "qzero": np.array(128, np.uint8)}
    found = explanation(Evidence(proto, "p", values, exact.clip(-30000, 30000), exact + fault, 0.04))
    assert (found is not None) == is_explained


def test_an_lstm_whose_products_saturate_in_onnx_runtime_is_no_fault() -> None:
    chance = np.random.default_rng(0)
    proto = load(quantised_lstm(chance, inputs=8, most=127))
    x = chance.standard_normal((5, 2, 8)).astype(np.float32)
    verify(proto, convert(proto), [{"x": x}], ["y"])


LONG = {"inputs": 64, "hidden": 128, "most": 127, "scale": 0.001}


def test_a_rounding_that_turns_over_in_a_long_sequence_is_no_fault() -> None:
    """Without saturation, one of thousands of roundings differs, and no small perturbation turns over the same one."""
    chance = np.random.default_rng(2)
    proto = load(quantised_lstm(chance, **LONG))
    x = chance.standard_normal((64, 2, 64)).astype(np.float32)
    verify(proto, convert(proto), [{"x": x}], ["y"])


@pytest.mark.parametrize(("fault", "is_explained"), [(0.0, True), (0.02, False)])
def test_a_fault_is_larger_than_what_roundings_explain(fault: float, is_explained: bool) -> None:
    chance = np.random.default_rng(2)
    proto = load(quantised_lstm(chance, **LONG))
    x = chance.standard_normal((64, 2, 64)).astype(np.float32)
    ours = convert(proto)(torch.from_numpy(x))[0].detach().numpy()
    found = explanation(Evidence(proto.proto, "y", {"steps": x}, ours + 0.1, ours * (1 + fault), 2e-5))
    assert (found is not None) == is_explained


def test_the_evidence_is_reported() -> None:
    proto, x = CASES["instance normalization"]
    check = check_model(proto, x)
    assert list(check.rounding) == ["y"]
    assert "rounding the operands" in check.rounding["y"]
