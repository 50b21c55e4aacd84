"""Layers that no gradient reaches are reported before any work, in one line that names the node."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from graphs import constant, model, node, value, weight
from onnx import TensorProto, helper
from onnx.backend.test.loader import load_model_tests

import onnxinfo
from onnxinfo import ConversionError
from onnxinfo.torch_graph import kinds, lookup
from onnxinfo.torch_graph.operators.table import Unsupported, _signature
from onnxinfo.torch_graph.reach import reasons_unreached

X = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)


SPARSE = helper.make_sparse_tensor(
    helper.make_tensor("values", TensorProto.FLOAT, [1], [1.0]),
    helper.make_tensor("indices", TensorProto.INT64, [1], [0]),
    [4],
)


def behind(*nodes: onnx.NodeProto) -> onnx.ModelProto:
    """A dense layer ``h``, some nodes that compute ``s`` from it, and a dense layer ``y`` of that."""
    chain = [node("MatMul", "x w", "h"), *nodes, node("MatMul", "s v", "y")]
    constants = [weight("w", 4, 4), weight("v", 4, 3), constant("zero", 0, np.float32), constant("k", [2])]
    imports = [helper.make_opsetid("ai.onnx.ml", 3)]
    return model(chain, [value("x")], [value("y", ("N", 3))], constants, imports=imports)


CASES = {
    "Cast": [node("Cast", "h", "i", to=TensorProto.INT32), node("Cast", "i", "s", to=TensorProto.FLOAT)],
    "Greater": [node("Greater", "h zero", "b"), node("Cast", "b", "s", to=TensorProto.FLOAT)],
    "Sign": [node("Sign", "h", "s")],
    "ArgMax": [
        node("ArgMax", "h", "i", axis=1),
        node("Cast", "i", "f", to=TensorProto.FLOAT),
        node("Expand", "f four", "s"),
    ],
    "Hardmax": [node("Hardmax", "h", "s")],
    "Binarizer": [node("Binarizer", "h", "s", domain="ai.onnx.ml", threshold=0.0)],
}


def case(operator: str) -> onnx.ModelProto:
    proto = behind(*CASES[operator])
    if operator == "ArgMax":
        proto.graph.initializer.append(constant("four", [1, 4]))
    return proto


def analyzed(proto: onnx.ModelProto, folder: Path, **options: Any) -> Any:
    # A solver that only takes gradients: others solve such layers without.
    result = onnxinfo.analyze(
        proto, X, folder / "run.h5", normalize_by="sample", std=1.0, solver="reference", limit=1, **options
    )
    with onnxinfo.open(result.archive) as archive:
        return [layer.name for layer in archive[result.run].layers]


@pytest.mark.parametrize("operator", CASES)
def test_a_layer_that_is_named_is_refused(tmp_path: Path, operator: str) -> None:
    with pytest.raises(ConversionError) as caught:
        analyzed(case(operator), tmp_path, layers=["h", "y"])
    message = str(caught.value)
    first = CASES[operator][0]
    assert (
        f"no gradient reaches layer 'y': node '{first.name}' ({first.domain or 'ai.onnx'}.{operator}, opset" in message
    )
    assert "layers that are reached: 'h'" in message
    assert len(message.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("operator", CASES)
def test_a_default_layer_is_left_out(tmp_path: Path, operator: str, caplog: pytest.LogCaptureFixture) -> None:
    assert analyzed(case(operator), tmp_path) == ["h"]
    assert f"left out: no gradient reaches layer 'y': node '{CASES[operator][0].name}'" in caplog.text


def test_gradients_of_a_straight_through_estimator_cancel(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    code = [node("Greater", "h zero", "b"), node("Cast", "b", "q", to=TensorProto.FLOAT)]
    assert analyzed(behind(*code, node("Sub", "q h", "d"), node("Add", "h d", "s")), tmp_path) == ["h"]
    assert "left out: no gradient reaches layer 's': node '/b'" in caplog.text


def test_gradients_of_other_residuals_do_not_cancel(tmp_path: Path) -> None:
    code = [node("Greater", "h zero", "b"), node("Cast", "b", "q", to=TensorProto.FLOAT), node("Sub", "q h", "d")]
    assert analyzed(behind(*code, node("Mul", "h d", "s")), tmp_path) == ["h", "y"]


def test_no_default_layer_is_reached(tmp_path: Path) -> None:
    nodes = [node("Sign", "x", "s"), node("MatMul", "s w", "y")]
    proto = model(nodes, [value("x")], [value("y", ("N", 3))], [weight("w", 4, 3)])
    with pytest.raises(
        ConversionError, match=r"no gradient reaches layer 'y': node '/s'.*, nor does one reach any other chosen layer"
    ):
        analyzed(proto, tmp_path)


def test_a_second_way_around_the_node_is_enough(tmp_path: Path) -> None:
    nodes = [node("Greater", "h zero", "b"), node("Cast", "b", "f", to=TensorProto.FLOAT), node("Mul", "f h", "s")]
    assert analyzed(behind(*nodes), tmp_path, layers=["y"]) == ["y"]


def test_rounding_that_passes_the_gradient_on_is_no_obstacle(tmp_path: Path) -> None:
    assert analyzed(behind(node("Floor", "h", "s")), tmp_path, layers=["y"]) == ["y"]


def test_maps_of_gradients_behind_a_cast_are_unproven(tmp_path: Path) -> None:
    """The highest score has no gradient by the layer before the cast, which is not an error of the whole run."""
    result = onnxinfo.analyze(case("Cast"), X, tmp_path / "run.h5", metrics=["gradient"], layers=["h"])
    with onnxinfo.open(result.archive) as archive:
        found = archive[result.run].values("gradient")
    assert not found["converged"].any()
    assert np.isnan(found["value"]).all()


def schemas(operator: str) -> list[onnx.defs.OpSchema]:
    return [each for each in onnx.defs.get_all_schemas_with_history() if (each.name, each.domain) == (operator, "")]


@pytest.mark.parametrize("operator", sorted(kinds.CONVERTED - {"Cast", "ConstantOfShape"}))
def test_operators_of_known_kinds_are_converted_in_every_version_with_every_attribute(operator: str) -> None:
    for schema in schemas(operator):
        found = lookup.own(operator, "", schema.since_version)
        assert found is not None
        parameters = _signature(inspect.getclosurevars(found).nonlocals["function"]).parameters
        assert set(schema.attributes) - {"consumed_inputs"} <= set(parameters)
        assert Unsupported not in {each.annotation for each in parameters.values()}


@pytest.mark.slow
def test_operators_of_known_kinds_are_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    """On ONNX's own cases, the judgement by operators is that of the conversion."""
    judged = 0
    for case in (each for kind in ("node", "simple") for each in load_model_tests(kind=kind)):
        proto = case.model or onnx.load(Path(case.model_dir) / "model.onnx")
        try:
            loaded = onnxinfo.load(proto)
            sources = onnxinfo.perturbed_tensors(loaded)
            names = [layer.name for layer in onnxinfo.list_layers(loaded)]
        except onnxinfo.OnnxinfoError:
            continue
        monkeypatch.delitem(sys.modules, "onnx2torch", raising=False)
        judgement = kinds.is_differentiable(loaded, sources)
        monkeypatch.undo()
        if names and judgement:
            judged += 1
            assert reasons_unreached(loaded, sources, names) == {}, case.name
    assert judged > 300


@pytest.fixture
def without_onnx2torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the package if an earlier test imported it: with it, no graph is judged."""
    monkeypatch.delitem(sys.modules, "onnx2torch", raising=False)


@pytest.mark.usefixtures("without_onnx2torch")
@pytest.mark.parametrize("operator", CASES)
def test_operators_of_other_kinds_are_not_judged(operator: str) -> None:
    assert not kinds.is_differentiable(onnxinfo.load(case(operator)), ["x"])


@pytest.mark.usefixtures("without_onnx2torch")
@pytest.mark.parametrize(
    "nodes",
    [
        [node("Gelu", "h", "s", domain="com.microsoft")],
        [node("Relu", "h", "s", domain="com.microsoft")],
        [
            node("Unsqueeze", "h k", "narrow"),
            node("MaxPool", "narrow", "pooled places", kernel_shape=[1]),
            node("Squeeze", "places k", "i"),
            node("Constant", "", "table", value_floats=[0.0, 1.0, 2.0, 3.0]),
            node("Gather", "table i", "s"),
        ],
        [node("Dropout", "h", "s mask")],
        [node("Cast", "x", "i", to=TensorProto.INT64), node("Gather", "h i", "s")],
        [node("Constant", "", "c", value_string="a"), node("Relu", "h", "s")],
        [node("Constant", "", "c", sparse_value=SPARSE), node("Relu", "h", "s")],
    ],
)
def test_nodes_that_could_block_a_gradient_are_not_judged(nodes: list[onnx.NodeProto]) -> None:
    proto = behind(*nodes)
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    assert not kinds.is_differentiable(onnxinfo.load(proto), ["x"])


@pytest.mark.usefixtures("without_onnx2torch")
def test_a_node_off_the_way_whose_type_is_stated_is_not_judged_by_its_name() -> None:
    proto = behind(node("Relu", "w", "other", domain="com.microsoft"), node("MatMul", "h other", "s"))
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    proto.graph.value_info.append(value("other", (4, 4)))
    assert not kinds.is_differentiable(onnxinfo.load(proto), ["x"])


def test_a_chain_of_known_operators_needs_no_conversion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "onnx2torch", raising=False)
    loaded = onnxinfo.load(behind(node("Relu", "h", "s")))
    assert kinds.is_differentiable(loaded, ["x"])
    # A program may have registered converters there, which decide.
    monkeypatch.setitem(sys.modules, "onnx2torch", sys)
    assert not kinds.is_differentiable(loaded, ["x"])
    # So may an installed package.
    monkeypatch.delitem(sys.modules, "onnx2torch")
    monkeypatch.setattr(kinds.OPERATORS, "names", lambda: ["theirs"])
    assert not kinds.is_differentiable(loaded, ["x"])


def test_functions_and_sparse_weights_are_not_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "onnx2torch", raising=False)
    # A function may have the name of an operator.
    proto, imports = behind(node("Relu", "h", "s")), [helper.make_opsetid("", 20)]
    proto.functions.append(helper.make_function("", "Relu", ["a"], ["b"], [node("Sign", "a", "b")], imports))
    assert not kinds.is_differentiable(onnxinfo.load(proto), ["x"])
    proto = behind(node("Relu", "h", "s"))
    dense = proto.graph.initializer.pop(0)
    values = helper.make_tensor(dense.name, TensorProto.FLOAT, [1], [1.0])
    indices = helper.make_tensor("", TensorProto.INT64, [1], [0])
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4, 4]))
    assert not kinds.is_differentiable(onnxinfo.load(proto), ["x"])


def test_parts_off_the_way_are_judged_by_their_types(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "onnx2torch", raising=False)
    sizes = [node("Shape", "h", "n"), node("Cast", "n", "f", to=TensorProto.FLOAT), node("ReduceMax", "f", "m")]
    assert kinds.is_differentiable(onnxinfo.load(behind(*sizes, node("Div", "h m", "s"))), ["x"])
    sizes[1] = node("Cast", "n", "t", to=TensorProto.STRING)
    strings = [*sizes[:2], node("Cast", "t", "f", to=TensorProto.FLOAT), node("Div", "h zero", "s")]
    assert not kinds.is_differentiable(onnxinfo.load(behind(*strings)), ["x"])
