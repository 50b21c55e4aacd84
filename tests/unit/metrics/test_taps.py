"""Noise and gradients at every tensor of a graph against finite differences by ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from graphs import model, node, value, weight
from onnx import TensorProto, helper

import onnxinfo
from onnxinfo.models import path

STEP = 0.01


def moved(given: onnx.ModelProto, tensor: str, target: str) -> onnx.ModelProto:
    """A model with another input, ``shift``, that is added to a tensor wherever it is read."""
    changed = onnx.ModelProto()
    changed.CopyFrom(given)
    for each in changed.graph.node:
        for i, name in enumerate(each.input):
            if name == tensor:
                each.input[i] = "moved"
    maker = next(i for i, each in enumerate(changed.graph.node) if tensor in each.output)
    changed.graph.node.insert(maker + 1, helper.make_node("Add", [tensor, "shift"], ["moved"]))
    changed.graph.input.append(helper.make_tensor_value_info("shift", TensorProto.FLOAT, None))
    del changed.graph.output[:]
    changed.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in (target, tensor)
    )
    return changed


def trace(given: onnx.ModelProto, x: np.ndarray, tensor: str, target: str) -> float:
    """Sum of squared central differences of the target by each entry of a tensor, of a single sample."""
    session = onnxruntime.InferenceSession(moved(given, tensor, target).SerializeToString())
    feed = {given.graph.input[0].name: x}
    shape = session.run(None, feed | {"shift": np.zeros(1, np.float32)})[1].shape
    found = 0.0
    for i in range(int(np.prod(shape))):
        shift = np.zeros(shape, np.float32)
        shift.flat[i] = STEP
        ends = [session.run(None, feed | {"shift": sign * shift})[0].astype(np.float64) for sign in (1, -1)]
        found += float((((ends[0] - ends[1]) / (2 * STEP)) ** 2).sum())
    return found


def scanned() -> onnx.ModelProto:
    """Running sums of tanh over three steps, all of them and the last."""
    body = helper.make_graph(
        [
            helper.make_node("Add", ["s", "p"], ["a"]),
            helper.make_node("Tanh", ["a"], ["n"]),
            helper.make_node("Identity", ["n"], ["each"]),
        ],
        "body",
        [value("s", ("N", 4)), value("p", ("N", 4))],
        [value("n", ("N", 4)), value("each", ("N", 4))],
    )
    nodes = [
        node("Gemm", "x w", "h"),
        node("Unsqueeze", "h axes", "u"),
        node("Tile", "u times", "p"),
        node("Scan", "h p", "last all", body=body, num_scan_inputs=1, scan_input_axes=[1], scan_output_axes=[1]),
        node("ReduceSum", "all axes", "sum", keepdims=0),
        node("Mul", "sum last", "m"),
        node("Gemm", "m v", "y"),
    ]
    numbers = [onnx.numpy_helper.from_array(np.array(v), name) for name, v in (("axes", [1]), ("times", [1, 3, 1]))]
    return model(nodes, [value("x")], [value("y")], [weight("w", 4, 4), weight("v", 4, 4), *numbers])


def passed_on(op: str, **attributes: object) -> onnx.ModelProto:
    """An operator that returns what it is given, and both are read."""
    nodes = [
        node("Gemm", "x w", "h"),
        node("Tanh", "h", "a"),
        node(op, "a", "i", **attributes),
        node("Mul", "i i", "square"),
        node("Add", "square a", "y"),
    ]
    return model(nodes, [value("x")], [value("y")], [weight("w", 4, 4)])


SMALL = np.random.default_rng(3).normal(size=(2, 4)).astype(np.float32)


@pytest.mark.parametrize(
    ("given", "tensors"),
    [
        (scanned(), ["last", "all", "m"]),
        (passed_on("Identity"), ["a", "i"]),
        (passed_on("Dropout"), ["a", "i"]),
        (passed_on("Cast", to=TensorProto.FLOAT), ["a", "i"]),
        (passed_on("Sum"), ["a", "i"]),
        (passed_on("Flatten"), ["a", "i"]),
    ],
    ids=["Scan", "Identity", "Dropout", "Cast", "Sum", "Flatten"],
)
def test_squared_jacobians_are_those_of_finite_differences(given: onnx.ModelProto, tensors: list[str]) -> None:
    found = onnxinfo.sensitivity(given, SMALL, layers=tensors, target="y").to_dataframe().set_index("tensor")
    for tensor in tensors:
        expected = np.mean([trace(given, row[None], tensor, "y") for row in SMALL])
        assert (found.mark[tensor], found.trace[tensor]) == ("", pytest.approx(expected, rel=2e-3))


def test_outputs_of_loops_move_the_scores() -> None:
    gru, images = path("keras-digits-gru.onnx"), f"{path('digits.npz')}:images"
    given, options = onnx.load(gru), {"scale": 1 / 255, "limit": 1, "change": "absolute:0.01"}
    found = onnxinfo.sensitivity(gru, images, layers=["*while_loop:5"], **options).to_dataframe()
    with np.load(path("digits.npz")) as file:
        pixels = file["images"][:1].astype(np.float32) / 255
    shape = [each.dim_value for each in given.graph.input[0].type.tensor_type.shape.dim][1:]
    assert len(found) == 2
    for row in found.itertuples():
        expected = trace(given, pixels.reshape(1, *shape), row.tensor, "digits_gru_1/class_1/BiasAdd:0")
        assert row.trace == pytest.approx(expected, rel=0.01)
        assert row.mark == ""


def test_noise_on_outputs_of_loops_costs_accuracy() -> None:
    """So much noise leaves no more than guessing: ONNX Runtime's own accuracy with it is .13 at most."""
    options = {"scale": 1 / 255, "limit": 30, "labels": f"{path('digits.npz')}:labels", "noise": 20.0}
    found = onnxinfo.leakage(path("keras-digits-gru.onnx"), f"{path('digits.npz')}:images", **options).to_dataframe()
    loops = found[found.tensor.str.contains("while_loop")]
    assert len(loops)
    assert (loops.accuracy < 0.4).all()
