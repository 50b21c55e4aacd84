"""``check``: description of the model, backends of operators, and comparison of the torch graph with ONNX Runtime."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from graphs import constant, model, node, relu_model, residual_net, value, weight
from onnx import TensorProto, helper

from onnxinfo import InputError, UsageError, VerificationError, check_model, convert, load
from onnxinfo.cli import cli
from onnxinfo.inputs.generated import generate
from onnxinfo.models import path
from onnxinfo.torch_graph.compare import Tensors
from onnxinfo.torch_graph.operators import table
from onnxinfo.torch_graph.runtime import Session
from onnxinfo.torch_graph.verify import verify

DIGITS = str(path("digits-cnn.onnx"))
IMAGES = f"{path('digits.npz')}:images"


def test_a_bundled_network() -> None:
    found = check_model(DIGITS)
    assert found.error is None
    assert found.producer.startswith("pytorch")
    assert found.opsets == {"ai.onnx": 20}
    assert {use.operator: use.count for use in found.operators}["ai.onnx.Conv"] == 9
    assert {use.server for use in found.operators} == {"onnxinfo"}
    assert found.parameters == 46_890
    assert found.inputs == {"image": (2, 1, 8, 8)}
    assert found.generated
    assert found.perturbed == "image"
    assert len(found.reached) == 22
    assert found.unreached == {}
    assert found.compared == 22
    assert found.largest is not None
    assert 0 <= found.largest.relative <= found.largest.tolerance


def test_on_given_samples() -> None:
    found = check_model(DIGITS, IMAGES, preset="unit")
    assert found.error is None
    assert not found.generated


def test_perturbed_tensor_is_checked_first() -> None:
    with pytest.raises(UsageError, match="no tensor 'nothing'"):
        check_model(DIGITS, input_tensor="nothing")


@pytest.fixture
def broken_relu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A converter with a relative error of a thousandth."""

    def convert(node: Any, graph: Any) -> Any:
        return table.bind(Relu, node, graph)

    def Relu(X):
        return 1.001 * X.clamp(min=0)

    wrong = table.Entry("", "Relu", table.Versions(1, None), convert)
    monkeypatch.setitem(table.TABLE, ("", "Relu"), [wrong])


@pytest.mark.usefixtures("broken_relu")
def test_the_first_node_that_differs_is_named() -> None:
    found = check_model(residual_net())
    assert found.error is not None
    assert "the first node that differs is node '/stem' (Relu), by 0.001" in found.error
    assert found.largest is None


@pytest.mark.usefixtures("broken_relu")
def test_a_difference_is_exit_code_one(tmp_path: Any) -> None:
    onnx.save(residual_net(), tmp_path / "model.onnx")
    result = CliRunner().invoke(cli, ["check", str(tmp_path / "model.onnx")])
    assert isinstance(result.exception, VerificationError)
    assert result.exception.exit_code == 1
    assert "ai.onnx.Relu" in result.output


def test_table_and_json() -> None:
    result = CliRunner().invoke(cli, ["check", DIGITS, "--inputs", IMAGES, "--preset", "unit"])
    assert result.exit_code == 0, result.output
    assert "ai.onnx.Conv" in result.output
    assert "22 of 22 reached from 'image'" in result.output
    result = CliRunner().invoke(cli, ["check", DIGITS, "--format", "json"])
    found = json.loads(result.output)
    assert found["largest"]["relative"] <= found["largest"]["tolerance"]
    assert found["operators"][0]["operator"] == "ai.onnx.Conv"


def test_from_standard_input() -> None:
    result = CliRunner().invoke(cli, ["check", "-"], input=relu_model().SerializeToString())
    assert result.exit_code == 0, result.output


def test_what_a_fallback_keeps_out_of_reach() -> None:
    nodes = [
        node("Gemm", "x w", "first"),
        node("Binarizer", "first", "binary", domain="ai.onnx.ml", threshold=0.0),
        node("Gemm", "binary w", "behind"),
    ]
    imports = [helper.make_opsetid("ai.onnx.ml", 3)]
    found = check_model(model(nodes, [value("x")], [value("behind")], [weight("w", 4, 4)], imports=imports))
    assert found.error is None
    assert found.reached == ["first"]
    assert set(found.unreached) == {"binary", "behind"}
    assert "ai.onnx.ml.Binarizer" in found.unreached["behind"]
    assert [use.server for use in found.operators if use.operator == "ai.onnx.ml.Binarizer"] == ["fallback"]


def test_operator_nobody_runs() -> None:
    nodes = [node("Relu", "x", "y"), node("RandomNormalLike", "y", "noise"), node("Add", "y noise", "z")]
    found = check_model(model(nodes, [value("x")], [value("z")]))
    assert found.error is not None
    assert "operator ai.onnx.RandomNormalLike (opset 20) cannot be converted: it draws random numbers" in found.error
    assert found.reached == ["y"]


def test_half_precision() -> None:
    w = helper.make_tensor("w", TensorProto.FLOAT16, [4, 4], np.eye(4, dtype=np.float16).ravel())
    half = model(
        [node("MatMul", "x w", "y")],
        [value("x", element=TensorProto.FLOAT16)],
        [value("y", element=TensorProto.FLOAT16)],
        [w],
    )
    in_single, as_it_is = check_model(half), check_model(half, keep_precision=True)
    assert in_single.error is None
    assert as_it_is.error is None
    assert in_single.largest is not None
    assert as_it_is.largest is not None
    assert in_single.largest.tolerance < as_it_is.largest.tolerance


# Made up inputs.


def test_token_ids_are_rows_of_their_table() -> None:
    nodes = [
        node("Cast", "ids", "indices", to=TensorProto.INT64),
        node("Gather", "table indices", "embedded"),
        node("Unsqueeze", "mask last", "weights"),
        node("Cast", "weights", "factor", to=TensorProto.FLOAT),
        node("Mul", "embedded factor", "y"),
    ]
    ids = value("ids", ("N", "T"), TensorProto.INT32)
    mask = value("mask", ("N", "T"), TensorProto.INT64)
    proto = model(nodes, [ids, mask], [value("y", ("N", "T", 3))], [weight("table", 5, 3), constant("last", [-1])])
    feeds = generate(load(proto), batch=4, size=16)
    assert feeds["ids"].shape == (4, 16)
    assert set(np.unique(feeds["ids"])) == set(range(5))
    assert (feeds["mask"] == 1).all()
    found = check_model(proto)
    assert found.error is None
    assert found.perturbed == "embedded"


def test_open_sizes_are_tried() -> None:
    """The network takes images of 32 pixels, but does not declare it."""
    nodes = [node("Flatten", "x", "flat"), node("MatMul", "flat w", "y")]
    proto = model(nodes, [value("x", ("N", 1, "H", "W"))], [value("y", ("N", 2))], [weight("w", 1024, 2)])
    assert check_model(proto).inputs == {"x": (2, 1, 32, 32)}


def test_sizes_that_cannot_be_found() -> None:
    nodes = [node("Reshape", "x rows", "r"), node("MatMul", "r w", "y")]
    constants = [weight("w", 77, 2), constant("rows", [-1, 77])]
    proto = model(nodes, [value("x", ("N", "F"))], [value("y", None)], constants)
    with pytest.raises(InputError, match=r"inputs were generated with shapes .* give inputs="):
        check_model(proto)


def test_optional_inputs_are_absent() -> None:
    optional = helper.make_optional_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, ["N", 4]))
    branches = [
        helper.make_graph([node("OptionalGetElement", "extra", "got")], "then", [], [value("got")]),
        helper.make_graph([node("Identity", "x", "kept")], "else", [], [value("kept")]),
    ]
    nodes = [
        node("OptionalHasElement", "extra", "given"),
        node("If", "given", "term", then_branch=branches[0], else_branch=branches[1]),
        node("Add", "x term", "y"),
    ]
    proto = model(nodes, [value("x"), helper.make_value_info("extra", optional)], [value("y")])
    found = check_model(proto)
    assert found.inputs == {"x": (2, 4)}
    assert found.error is None


def test_a_value_between_two_steps_may_fall_on_either_side() -> None:
    """Each engine has its own order of summation; results may differ by one step at most."""
    rows = np.random.default_rng(0).random((2000, 999), np.float32)
    axes = constant("axes", [1])
    sums = model([node("ReduceSum", "x axes", "y")], [value("x", ("N", 999))], [value("y", ("N", 1))], [axes])
    ours, theirs = convert(sums)(torch.from_numpy(rows))[0].numpy(), Session(sums).run({"x": rows})["y"]
    scale = ours + theirs
    row = int(np.flatnonzero(np.rint(ours / scale) != np.rint(theirs / scale))[0])
    nodes = [
        node("ReduceSum", "x axes", "sum"),
        node("QuantizeLinear", "sum scale zero", "step"),
        node("DequantizeLinear", "step scale zero", "coarse"),
        node("Exp", "coarse", "y"),
    ]
    constants = [axes, constant("scale", scale[row, 0], np.float32), constant("zero", 0, np.uint8)]
    coarse = model(nodes, [value("x", ("N", 999))], [value("y", ("N", 1))], constants)
    found = check_model(coarse, rows[[row]])
    assert found.error is None
    assert found.largest is not None
    assert found.largest.relative > 0.5


def test_a_choice_between_equals_may_fall_on_either_side() -> None:
    """Engines sum in different orders: among scores that are equal up to rounding, any may be the largest."""
    chance = np.random.default_rng(0)
    summands = chance.standard_normal(4096).astype(np.float32)
    proto = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 20]>
        ranking (float[N, 4096] x) => (float[N, 64] values, int64[N, 64] order, float[N, 64] ranks) <int64[1] k = {64}>
        {
            scores = MatMul(x, w)
            values, order = TopK(scores, k)
            real = Cast <to = 1>(order)
            ranks = Relu(real)
        }
    """)
    shuffled = np.stack([chance.permutation(summands) for _ in range(64)], axis=1)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(shuffled, "w"))
    assert Tensors(load(proto).proto).stepped == {"order", "real", "ranks"}
    check = check_model(proto, np.ones((2, 4096), np.float32))
    assert check.error is None
    assert check.largest.tensor in ("order", "real", "ranks")
    assert not check.largest.agrees


# ONNX Runtime rounds here, not the torch graph.


def saturated(*behind: onnx.NodeProto) -> onnx.ModelProto:
    """The tail of a sigmoid, where ONNX Runtime is accurate only to an absolute 1e-8, the size of the values."""
    nodes = [node("MatMul", "x w", "h"), node("Sub", "h c", "a"), node("Sigmoid", "a", "p"), *behind]
    last = behind[-1].output[0] if behind else "p"
    constants = [weight("w", 4, 1), constant("c", 17, np.float32), constant("two", 2, np.float32)]
    return model(nodes, [value("x")], [value(last, ("N", 1))], constants)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("behind", [[], [node("Mul", "p two", "twice")], [node("Log", "p", "logarithm")]])
def test_the_tail_of_a_sigmoid_is_no_fault(seed: int, behind: list[onnx.NodeProto]) -> None:
    x = np.random.default_rng(seed).standard_normal((8, 4)).astype(np.float32)
    assert check_model(saturated(*behind), x).error is None


@pytest.mark.parametrize("wrong", [lambda x: torch.sigmoid(x) * 1.5, lambda x: torch.zeros_like(x), torch.tanh])
def test_a_wrong_operator_is_found_in_the_tail_too(monkeypatch: pytest.MonkeyPatch, wrong: Callable[..., Any]) -> None:
    proto = load(saturated())
    module = convert(proto)
    (name,) = (n.target for n in module.graph.nodes if n.op == "call_module" and "Sigmoid" in n.target)

    class Wrong(torch.nn.Module):
        def forward(self, X: torch.Tensor) -> torch.Tensor:
            return wrong(X)

    def converted(*arguments: Any) -> torch.fx.GraphModule:
        found = convert(*arguments)
        found.set_submodule(name, Wrong())
        return found

    monkeypatch.setattr("onnxinfo.torch_graph.verify.convert", converted)
    x = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)
    with pytest.raises(VerificationError, match="first node that differs is node '/p'"):
        verify(proto, converted(proto), [{"x": x}], ["p"])
