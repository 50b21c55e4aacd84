"""Valid but unusual models: a value, or a one-line reason why there is none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import onnxinfo
from onnxinfo import ModelError, OnnxinfoError, analyze

ROWS = np.random.default_rng(0).random((5, 4), dtype=np.float32)


def model(
    nodes: Sequence[onnx.NodeProto], constants: Sequence[onnx.TensorProto] = (), shape: Sequence[Any] = ("N", 4)
) -> onnx.ModelProto:
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    return graphs.model(nodes, [graphs.value("x", shape)], [output], constants)


def empty(name: str, *shape: int) -> onnx.TensorProto:
    return helper.make_tensor(name, TensorProto.FLOAT, shape, [])


def test_a_layer_without_elements(tmp_path: Path) -> None:
    proto = model([helper.make_node("MatMul", ["x", "w"], ["y"])], [empty("w", 4, 0)])
    with pytest.raises(ModelError, match="layer 'y' has no elements"):
        analyze(proto, ROWS, tmp_path / "a.h5")
    assert not any(tmp_path.iterdir())


def test_a_layer_after_one_without_elements(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "v"], ["a"]), helper.make_node("MatMul", ["a", "w"], ["y"])]
    with pytest.raises(ModelError, match="layer 'a' has no elements"):
        analyze(model(nodes, [empty("v", 4, 0), empty("w", 0, 3)]), ROWS, tmp_path / "a.h5")


def test_samples_of_one_number_each(tmp_path: Path) -> None:
    proto = model([helper.make_node("Mul", ["x", "w"], ["y"])], [graphs.constant("w", 3.0, np.float32)], ["N"])
    analyze(proto, ROWS[:, 0], tmp_path / "a.h5", metrics=("sid", "ru"), decoder_steps=2)
    with onnxinfo.open(tmp_path / "a.h5") as archive:
        (run,) = archive.values()
        values, closed = run.values("sid"), 0.5 * np.log(run.recipe["alpha"]) + 0.5 * np.log(2 * np.pi * np.e)
        assert run.sample_shape == ()
    assert values["converged"].all()
    # With one unit, D is the square of the slope, so sigma is the square root of alpha.
    np.testing.assert_allclose(values["value"], closed, atol=1e-3)


def test_a_sparse_initializer_that_declares_too_much() -> None:
    values = helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])
    sparse = helper.make_sparse_tensor(values, helper.make_tensor("at", TensorProto.INT64, [1], [5]), [8 * 10**12, 10])
    nodes = [
        helper.make_node("Gather", ["w", "i"], ["row"]),
        helper.make_node("ReduceSum", ["row"], ["sum"], keepdims=0),
        helper.make_node("Add", ["x", "sum"], ["y"]),
    ]
    proto = model(nodes, [graphs.constant("i", [0])])
    proto.graph.sparse_initializer.append(sparse)
    with pytest.raises(ModelError, match="sparse initializer 'w' cannot be written out: of shape"):
        onnxinfo.convert(proto)


@pytest.mark.parametrize("operators", [["ArgMax", "Cast"], ["Cast to integer", "Cast"]])
def test_a_layer_that_only_steps(operators: list[str], tmp_path: Path) -> None:
    first = helper.make_node("ArgMax", ["x"], ["i"], axis=1)
    if operators[0] != "ArgMax":
        first = helper.make_node("Cast", ["x"], ["i"], to=TensorProto.INT64)
    proto = model([first, helper.make_node("Cast", ["i"], ["y"], to=TensorProto.FLOAT)])
    with pytest.raises(OnnxinfoError, match="no gradient reaches layer 'y'"):
        analyze(proto, ROWS, tmp_path / "a.h5", solver="reference")


@pytest.mark.parametrize("external", [False, True], ids=["inside", "in a file"])
def test_a_rank_beyond_every_engine(external: bool, tmp_path: Path) -> None:
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["r"]), helper.make_node("Relu", ["r"], ["y"])]
    proto = model(nodes, [graphs.constant("shape", [-1, *[1] * 999])])
    onnx.save_model(proto, tmp_path / "m.onnx", save_as_external_data=external, size_threshold=0)
    # Inference reads shapes: even thousands of them are not weights.
    assert len(onnxinfo.list_layers(tmp_path / "m.onnx")) == 2
    with pytest.raises(ModelError, match="number of dimensions"):
        analyze(tmp_path / "m.onnx", ROWS, tmp_path / "a.h5")


def test_a_long_list_of_axes(tmp_path: Path) -> None:
    shape, axes = graphs.constant("shape", [4, *[1] * 600, -1]), graphs.constant("axes", range(1, 601))
    nodes = [helper.make_node("Reshape", ["w", "shape"], ["r"]), helper.make_node("Squeeze", ["r", "axes"], ["s"])]
    proto = model([*nodes, helper.make_node("MatMul", ["x", "s"], ["y"])], [graphs.weight("w", 4, 3), shape, axes])
    (layer,) = (layer for layer in onnxinfo.list_layers(proto) if layer.name == "y")
    assert layer.shape == ("N", 3)


def test_positions_of_the_greatest(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("TopK", ["x", "k"], ["values", "places"]),
        helper.make_node("Cast", ["places"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["floats", "values"], ["y"]),
    ]
    proto = model(nodes, [graphs.constant("k", [2])])
    with pytest.raises(OnnxinfoError, match=r"no gradient reaches layer 'floats': node 'TopK_0' \(ai.onnx.TopK"):
        analyze(proto, ROWS, tmp_path / "a.h5", layers=["floats"], solver="reference")
    analyze(proto, ROWS, tmp_path / "a.h5", layers=["y"], limit=2)


def test_a_scalar_on_the_way_to_what_is_not_finite(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["total"], keepdims=0),
        helper.make_node("Sub", ["total", "total"], ["zero"]),
        helper.make_node("Div", ["x", "zero"], ["y"]),
    ]
    with pytest.raises(
        OnnxinfoError, match=r"layer 'y' is not finite at sample input\[0\]: infinity first in tensor 'y'"
    ):
        analyze(model(nodes, shape=(1, 4)), ROWS, tmp_path / "a.h5", layers=["y"])


def test_a_node_that_crashes_onnx_runtime_without_elements() -> None:
    nodes = [
        helper.make_node("Slice", ["x", "none", "none", "axis"], ["cut"]),
        helper.make_node("InstanceNormalization", ["cut", "w", "w"], ["y"]),
    ]
    constants = [graphs.constant("none", [0]), graphs.constant("axis", [2]), graphs.weight("w", 2)]
    proto = model(nodes, constants, [1, 2, 4])
    with pytest.raises(ModelError, match="InstanceNormalization of tensor 'cut', which has no elements"):
        onnxinfo.check_model(proto)


def test_a_graph_that_is_made_for_small_batches(tmp_path: Path) -> None:
    nodes = [helper.make_node("Slice", ["x", "none", "most", "none"], ["y"])]
    proto = model(nodes, [graphs.constant("none", [0]), graphs.constant("most", [10])])
    with pytest.raises(OnnxinfoError, match=r"a layer has 10 rows for \d+ inputs evaluated at once"):
        analyze(proto, ROWS, tmp_path / "a.h5")


def test_a_batch_axis_that_is_squeezed(tmp_path: Path) -> None:
    """A graph for one input may give a layer without any axis."""
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [0])
    nodes = [helper.make_node("HardSwish", ["x"], ["h"]), helper.make_node("Squeeze", ["h", "axes"], ["y"])]
    samples = np.array([1.0, 2.0], np.float32)
    result = analyze(model(nodes, [axes], [1]), samples, tmp_path / "a.h5", layers=["y"])
    with onnxinfo.open(result.archive) as archive:
        assert archive[result.run].values("sid")["done"].all()


def test_a_tensor_larger_than_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small files declare such tensors; ONNX Runtime would ask for their memory."""
    monkeypatch.setattr("onnxinfo.torch_graph.runtime.MEMORY", 4 * 5 * 4 - 1)
    with pytest.raises(ModelError, match="has 20 elements, more than the machine's memory holds"):
        onnxinfo.check_model(model([helper.make_node("Relu", ["x"], ["y"])], shape=[5, 4]))
