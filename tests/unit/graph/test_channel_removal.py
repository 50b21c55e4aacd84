"""Channels that are removed from graphs, against the same graphs with these channels multiplied by zero."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from graphs import constant, model, node, residual_net, value, weight
from hypothesis import event, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

import onnxinfo
from onnxinfo import UsageError, VerificationError
from onnxinfo.graph.channel_removal import Removal, masked
from onnxinfo.graph.channel_spec import _without_repetitions, channels_of
from onnxinfo.graph.model import load
from onnxinfo.models import path
from onnxinfo.torch_graph.runtime import Session
from onnxinfo.workflows.prune_channels import METADATA

IMAGE = value("x", ("N", 3, 6, 6))
SAME = {"pads": [1, 1, 1, 1]}


def net(
    nodes: Sequence[onnx.NodeProto], *weights: onnx.TensorProto, out: Any = None, **options: Any
) -> onnx.ModelProto:
    """A network from the image to the output ``y``, whose weights are those of the nodes unless they are given."""
    return model(nodes, [IMAGE], [out or value("y", None)], weights, **options)


def conv(before: str, after: str, channels: tuple[int, int], size: int = 3, **attributes: Any) -> list[Any]:
    """A convolution with a bias, and its weights."""
    weights = weight(f"{after}.w", channels[1], channels[0], size, size), weight(f"{after}.b", channels[1])
    return [node("Conv", f"{before} {after}.w {after}.b", after, **attributes), *weights]


def parts(*given: Any) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Nodes and weights from a mixture of both and lists of them."""
    flat = [each for part in given for each in (part if isinstance(part, list) else [part])]
    return [e for e in flat if isinstance(e, onnx.NodeProto)], [e for e in flat if isinstance(e, TensorProto)]


def norm(before: str, after: str, channels: int) -> list[Any]:
    names = [f"{after}.{each}" for each in "sbm"]
    spread = constant(f"{after}.v", np.linspace(0.5, 2, channels), np.float32)
    weights = [weight(name, channels) for name in names]
    return [node("BatchNormalization", f"{before} {' '.join(names)} {after}.v", after), *weights, spread]


def shapes(pruned: onnxinfo.Model) -> dict[str, tuple[int | str | None, ...]]:
    return {name: pruned.flow.shape(name) or () for each in pruned.proto.graph.node for name in each.output}


def check(proto: onnx.ModelProto, spec: dict[str, dict[int, list[int]]]) -> onnxinfo.Model:
    """Remove channels, which compares with the masked model, and check that the sizes are what is left."""
    before, pruned = load(proto), onnxinfo.prune_channels(proto, spec)
    old, new = shapes(before), shapes(pruned)
    for name, axes in spec.items():
        for axis, indices in axes.items():
            assert new[name][axis] == old[name][axis] - len(indices)
    onnx.checker.check_model(pruned.proto, full_check=True)
    return pruned


HEAD = [node("GlobalAveragePool", "last", "pool"), node("Flatten", "pool", "flat"), node("Gemm", "flat g.w g.b", "y")]


def head(channels: int) -> list[Any]:
    return [*HEAD, weight("g.w", channels, 5), weight("g.b", 5)]


CHAINS: dict[str, tuple[list[Any], dict[str, dict[int, list[int]]]]] = {
    "a convolution after an activation": (
        [*conv("x", "c", (3, 6)), node("Relu", "c", "r"), *conv("r", "last", (6, 4), **SAME), *head(4)],
        {"r": {1: [0, 5]}},
    ),
    "both sides of one convolution": (
        [*conv("x", "c", (3, 6)), node("Relu", "c", "r"), *conv("r", "d", (6, 6)), node("Relu", "d", "last"), *head(6)],
        {"r": {1: [0, 5]}, "last": {1: [1, 2, 3]}},
    ),
    "constants after a normalization, without padding": (
        [*conv("x", "c", (3, 6)), *norm("c", "n", 6), node("Sigmoid", "n", "s"), *conv("s", "last", (6, 4)), *head(4)],
        {"c": {1: [1, 4]}},
    ),
    "constants at a convolution without a bias": (
        [
            *conv("x", "c", (3, 6)), node("Sigmoid", "c", "s"), node("Conv", "s d.w", "last"),
            weight("d.w", 4, 6, 1, 1), *head(4),
        ],
        {"c": {1: [1, 4]}},
    ),
    "constants at convolutions that lose outputs, too, with and without a bias": (
        [
            *conv("x", "c", (3, 6)), node("Sigmoid", "c", "s"), *conv("s", "d", (6, 5), 1), node("Sigmoid", "d", "t"),
            node("Conv", "t e.w", "e"), weight("e.w", 4, 5, 1, 1), node("Relu", "e", "last"), *head(4),
        ],
        {"c": {1: [1, 4]}, "d": {1: [0, 4]}, "last": {1: [2]}},
    ),
    "constants at a matrix product": (
        [*conv("x", "c", (3, 6)), node("Exp", "c", "last"), *head(6)],
        {"c": {1: [2]}},
    ),
    "depthwise convolution after zeros": (
        [
            *conv("x", "c", (3, 6)), node("Relu", "c", "r"), node("Conv", "r w v", "d", group=6, **SAME),
            weight("w", 6, 1, 3, 3), weight("v", 6), node("Relu", "d", "s"), *conv("s", "last", (6, 4), 1), *head(4),
        ],
        {"r": {1: [0, 2]}},
    ),
    "depthwise convolution before zeros, with two outputs for each channel": (
        [
            *conv("x", "c", (3, 4)), node("Relu", "c", "r"), node("Conv", "r w", "d", group=4, **SAME),
            weight("w", 8, 1, 3, 3), node("Relu", "d", "last"), *head(8),
        ],
        {"last": {1: [0, 1, 6, 7]}},
    ),
    "constants through a depthwise convolution": (
        [
            *conv("x", "c", (3, 6)), node("Sigmoid", "c", "r"), node("Conv", "r w v", "d", group=6),
            weight("w", 6, 1, 3, 3), weight("v", 6), *conv("d", "last", (6, 4), 1), *head(4),
        ],
        {"c": {1: [0, 2]}},
    ),
    "whole groups": (
        [
            *conv("x", "c", (3, 6)), node("Relu", "c", "r"), node("Conv", "r w v", "d", group=3),
            weight("w", 12, 2, 3, 3), weight("v", 12), node("Relu", "d", "last"), *head(12),
        ],
        {"r": {1: [2, 3]}, "last": {1: [4, 5, 6, 7]}},
    ),
    "transposed convolutions": (
        [
            *conv("x", "c", (3, 6)), node("Relu", "c", "r"), node("ConvTranspose", "r w v", "d", strides=[2, 2]),
            weight("w", 6, 4, 2, 2), weight("v", 4), node("Relu", "d", "last"), *head(4),
        ],
        {"r": {1: [5]}, "last": {1: [0, 3]}},
    ),
    "a sum of branches": (
        [
            *conv("x", "a", (3, 6)), node("Relu", "a", "r"), *conv("r", "b", (6, 6), **SAME), node("Add", "b r", "s"),
            node("Relu", "s", "last"), *head(6),
        ],
        {"r": {1: [1, 3]}, "last": {1: [1, 3]}},
    ),
    "concatenations": (
        [
            *conv("x", "a", (3, 4)), *conv("x", "b", (3, 5)), node("Concat", "a b a", "k", axis=1),
            *norm("k", "n", 13), node("Relu", "n", "last"), *head(13),
        ],
        {"last": {1: [0, 4, 6, 9]}},
    ),
    "a concatenation of zeros": (
        [
            *conv("x", "a", (3, 4)), *conv("x", "b", (3, 5)), node("Relu", "b", "r"),
            node("Concat", "a r", "last", axis=-3), *head(9),
        ],
        {"r": {1: [0, 3]}},
    ),
    "flattened positions": (
        [
            *conv("x", "c", (3, 4)), node("Relu", "c", "r"), node("Flatten", "r", "f"), node("Gemm", "f g.w", "y"),
            weight("g.w", 64, 5),
        ],
        {"r": {1: [2]}},
    ),
    "a stated new shape, and a transposed weight": (
        [
            *conv("x", "c", (3, 4)), node("MaxPool", "c", "p", kernel_shape=[2, 2]), node("Relu", "p", "r"),
            node("Reshape", "r to", "f"), constant("to", [-1, 36]), node("Gemm", "f g.w", "y", transB=1, alpha=0.5),
            weight("g.w", 5, 36),
        ],
        {"r": {1: [0, 1]}},
    ),
    "a shape computed from the batch": (
        [
            *conv("x", "c", (3, 4)), node("Relu", "c", "r"), node("Shape", "r", "sh"), node("Gather", "sh zero", "n"),
            node("Unsqueeze", "n axis", "n1"), node("Concat", "n1 rest", "to", axis=0), node("Reshape", "r to", "f"),
            node("Gemm", "f g.w", "y"), constant("zero", 0), constant("axis", [0]), constant("rest", [64]),
            weight("g.w", 64, 5),
        ],
        {"r": {1: [3]}},
    ),
    "squeeze and excitation": (
        [
            *conv("x", "c", (3, 6)), node("Relu", "c", "r"), node("GlobalAveragePool", "r", "p"),
            *conv("p", "e", (6, 6), 1), node("Sigmoid", "e", "s"), node("Mul", "r s", "last"), *head(6),
        ],
        {"r": {1: [1, 2]}},
    ),
    "a hidden layer of a transformer, its activation in elementary operators": (
        [
            node("Reshape", "x to", "t"), constant("to", [0, 3, 36]), node("MatMul", "t w", "h"), weight("w", 36, 8),
            node("Add", "h b", "i"), weight("b", 8), node("Div", "i two", "j"), constant("two", 1.4, np.float32),
            node("Erf", "j", "k"), node("Add", "k one", "l"), constant("one", 1.0, np.float32),
            node("Mul", "i l", "m"), node("MatMul", "m v", "o"), weight("v", 8, 4), node("Add", "o u", "y"),
            weight("u", 4),
        ],
        {"m": {2: [0, 7]}},
    ),
    "a softmax over positions, and channels last": (
        [
            *conv("x", "c", (3, 6)), node("Transpose", "c", "t", perm=[0, 2, 3, 1]), node("Softmax", "t", "s", axis=1),
            node("ReduceMean", "s", "m", axes=[1, 2], keepdims=0), node("Gemm", "m g.w", "y"), weight("g.w", 6, 2),
        ],
        {"s": {-1: [4]}},
    ),
    "quantized tensors and weights": (
        [
            *conv("x", "c", (3, 6)), node("Relu", "c", "r"), node("QuantizeLinear", "r s z", "q"),
            node("DequantizeLinear", "q s z", "d"), constant("s", 0.05, np.float32), constant("z", 3, np.uint8),
            node("DequantizeLinear", "w ws wz", "dw", axis=0),
            constant("w", np.arange(24).reshape(4, 6, 1, 1), np.int8),
            constant("ws", [0.1, 0.2, 0.3, 0.4], np.float32), constant("wz", [0] * 4, np.int8),
            node("Conv", "d dw", "last"), node("Relu", "last", "u"), node("GlobalAveragePool", "u", "p"),
            node("Flatten", "p", "f"), node("Gemm", "f g.w", "y"), weight("g.w", 4, 2),
        ],
        {"r": {1: [1, 5]}, "u": {1: [2]}},
    ),
    "a quantized bias with a list of one scale": (
        [
            *conv("x", "c", (3, 4)), node("Relu", "c", "r"), node("DequantizeLinear", "b bs bz", "db"),
            constant("b", [3, -5, 7, 9], np.int32), constant("bs", [0.1], np.float32), constant("bz", [0], np.int32),
            weight("w", 4, 4, 1, 1), node("Conv", "r w db", "last"), node("Relu", "last", "u"),
            node("GlobalAveragePool", "u", "p"), node("Flatten", "p", "f"), node("Gemm", "f g.w", "y"),
            weight("g.w", 4, 2),
        ],
        {"r": {1: [0]}, "u": {1: [0, 2]}},
    ),
    "weights in constants that a node passes on": (
        [
            *conv("x", "c", (3, 6)), node("Relu", "c", "r"), node("Identity", "w", "i"), weight("w", 4, 6, 1, 1),
            node("Conv", "r i", "last"), *head(4),
        ],
        {"r": {1: [1, 5]}},
    ),
    "flattened positions, channels last": (
        [
            *conv("x", "c", (3, 4)), node("Relu", "c", "r"), node("Transpose", "r", "t", perm=[0, 2, 3, 1]),
            node("Reshape", "t to", "f"), constant("to", [0, 64]), node("Gemm", "f g.w", "y"), weight("g.w", 64, 5),
        ],
        {"r": {1: [0, 3]}, "t": {3: [0, 3]}},
    ),
    "a factor for all channels, and one for each sample": (
        [
            *conv("x", "c", (3, 6)), node("Mul", "c half", "h"), constant("half", [[[0.5]]], np.float32),
            node("ReduceSum", "x rest", "size"), constant("rest", [1, 2, 3]), node("Relu", "h", "r"),
            node("Mul", "r size", "last"), *head(6),
        ],
        {"last": {1: [0, 2]}},
    ),
    "a divided axis": (
        [
            node("Reshape", "x to", "t"), constant("to", [0, 3, 36]), node("MatMul", "t w", "h"), weight("w", 36, 8),
            node("Relu", "h", "r"), node("Reshape", "r heads", "s"), constant("heads", [0, 3, 4, 2]),
            node("Reshape", "s back", "u"), constant("back", [0, -1, 8]), node("MatMul", "u v", "y"), weight("v", 8, 2),
        ],
        {"s": {2: [1, 3]}},
    ),
    "positions merged into the batch, as many as channels": (
        [
            *conv("x", "c", (3, 6)), node("Transpose", "c", "p", perm=[0, 2, 3, 1]),
            node("Reshape", "p to", "t"), constant("to", [0, 16, 6]), node("MatMul", "t v", "h"), weight("v", 6, 16),
            node("Relu", "h", "r"), node("Reshape", "r rows", "f"), constant("rows", [-1, 16]),
            node("MatMul", "f w", "g"), weight("w", 16, 5), node("Relu", "g", "s"), node("Reshape", "s back", "u"),
            constant("back", [-1, 16, 5]), node("MatMul", "u k", "y"), weight("k", 5, 2),
        ],
        {"r": {2: [0, 7]}, "s": {1: [3]}},
    ),
    "positions merged into the batch, more than channels": (
        [
            *conv("x", "c", (3, 6)), node("Transpose", "c", "p", perm=[0, 2, 3, 1]), node("Relu", "p", "r"),
            node("Reshape", "r rows", "f"), constant("rows", [-1, 6]), node("Gemm", "f w", "y"), weight("w", 6, 5),
        ],
        {"r": {3: [0, 4]}},
    ),
    "a cast weight": (
        [
            *conv("x", "c", (3, 6)), node("Relu", "c", "r"), node("Cast", "w", "v", to=1), node("Conv", "r v", "last"),
            constant("w", np.arange(24).reshape(4, 6, 1, 1), np.float64), *head(4),
        ],
        {"r": {1: [1]}, "last": {1: [0, 2]}},
    ),
    "positions added to a sequence": (
        [
            *conv("x", "c", (3, 6)), node("Add", "c place", "p"), weight("place", 6, 4, 4), node("Relu", "p", "last"),
            *head(6),
        ],
        {"last": {1: [1, 5]}},
    ),
    "slices, scales and padding of positions": (
        [
            *conv("x", "c", (3, 6)), node("Relu", "c", "r"), node("Slice", "r from to ax", "s"), constant("from", [0]),
            constant("to", [2]), constant("ax", [2]), node("Pad", "s pads", "p"),
            constant("pads", [0, 0, 1, 1, 0, 0, 0, 0]), node("Resize", "p  scales", "last"),
            constant("scales", [1, 1, 2, 2], np.float32), *head(6),
        ],
        {"r": {1: [1, 5]}},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CHAINS)
def test_computes_the_same_as_with_zeros(name: str) -> None:
    given, spec = CHAINS[name]
    if name.startswith("slices"):
        next(e for e in given if getattr(e, "op_type", "") == "Resize").input[1:] = ["", "scales"]
    nodes, weights = parts(given)
    axes = {"opset": 17} if name.startswith("a softmax") else {}
    check(net(nodes, *weights, **axes), spec)


def test_quantized_weights_stay_integers() -> None:
    nodes, weights = parts(CHAINS["quantized tensors and weights"][0])
    pruned = check(net(nodes, *weights), {"r": {1: [1, 5]}, "u": {1: [2]}})
    integers = [tuple(e.dims) for e in pruned.proto.graph.initializer if e.data_type == TensorProto.INT8]
    assert sorted(integers) == [(3,), (3, 4, 1, 1)]


def test_masks_are_zeros_in_the_named_channels_and_nothing_else() -> None:
    before = load(path("digits-cnn.onnx"))
    images = np.load(path("digits.npz"))["images"][:4, None].astype(np.float32)
    hidden = Session(onnxinfo.expose(before, ["relu_3"])).run({"image": images})["relu_3"]
    hidden[:, [2, 9]] = 0
    rest = onnxinfo.extract(before, ["relu_3"], ["getitem_12"])
    expected = Session(rest).run({"relu_3": hidden})["getitem_12"]
    zeroed = onnxinfo.expose(masked(before, {"relu_3": {1: [2, 9]}}), ["getitem_12"])
    np.testing.assert_array_equal(Session(zeroed).run({"image": images})["getitem_12"], expected)


def test_adds_what_is_constant_to_the_bias() -> None:
    # sigmoid(0) = 1/2 in a channel that is removed: half of its weights are added.
    nodes, weights = parts(conv("x", "c", (3, 2)), node("Sigmoid", "c", "s"), conv("s", "y", (2, 3), 1))
    pruned = onnxinfo.prune_channels(net(nodes, *weights), {"c": {1: [1]}})
    stored = {each.name: onnx.numpy_helper.to_array(each) for each in pruned.proto.graph.initializer}
    before = {each.name: onnx.numpy_helper.to_array(each) for each in weights}
    last = pruned.proto.graph.node[-1]
    np.testing.assert_allclose(stored[last.input[2]], before["y.b"] + before["y.w"][:, 1, 0, 0] / 2, rtol=1e-6)
    np.testing.assert_array_equal(stored[last.input[1]], before["y.w"][:, :1])
    assert not {"y.w", "y.b", "c.w"} & stored.keys()


def test_shared_constants_are_cut_for_one_node_only() -> None:
    nodes = [
        node("Conv", "x a.w same", "a"), node("Relu", "a", "ra"), node("Conv", "ra b.w same", "b"),
        node("Relu", "b", "last"), *HEAD,
    ]  # fmt: skip
    weights = [
        weight("a.w", 4, 3, 3, 3),
        weight("b.w", 4, 4, 3, 3),
        weight("same", 4),
        weight("g.w", 4, 5),
        weight("g.b", 5),
    ]
    pruned = check(net(nodes, *weights), {"ra": {1: [0]}})
    assert [shapes(pruned)[name][1] for name in ("a", "b")] == [3, 4]


def twins() -> onnx.ModelProto:
    """Two branches of the same weights, which are compared."""
    nodes = [
        *(node("Relu", "x", "rx"), node("Conv", "x a.w a.b", "a"), node("Conv", "rx a.w a.b", "b")),
        *(node("Relu", "a", "ra"), node("Relu", "b", "rb")),
        *(node("Conv", "ra d.w", "da"), node("Conv", "rb d.w", "db"), node("Sub", "da db", "last")),
        *HEAD,
    ]
    wide = [weight("a.w", 8, 3, 3, 3), weight("a.b", 8), weight("d.w", 4, 8, 1, 1)]
    return net(nodes, *wide, weight("g.w", 4, 5), weight("g.b", 5))


def test_weights_that_nodes_share_stay_shared_where_all_lose_the_same(caplog: pytest.LogCaptureFixture) -> None:
    pruned = check(twins(), {"ra": {1: [0, 5]}, "rb": {1: [0, 5]}})
    assert sorted(tuple(each.dims) for each in pruned.proto.graph.initializer) == [
        *((4, 5), (4, 6, 1, 1), (5,), (6,), (6, 3, 3, 3)),
    ]
    assert not caplog.records


def test_weights_that_nodes_share_through_copying_nodes_stay_shared() -> None:
    proto = twins()
    (branch,) = (each for each in proto.graph.node if each.output[0] == "b")
    branch.input[1] = "a.copy"
    proto.graph.node.insert(0, node("Identity", "a.w", "a.copy"))
    pruned = check(proto, {"ra": {1: [0, 5]}, "rb": {1: [0, 5]}})
    assert sum(tuple(each.dims) == (6, 3, 3, 3) for each in pruned.proto.graph.initializer) == 1


def test_copies_of_weights_that_make_the_model_larger_are_told(caplog: pytest.LogCaptureFixture) -> None:
    pruned = check(twins(), {"ra": {1: [0]}})
    (record,) = (json.loads(each.value) for each in pruned.proto.metadata_props if each.key == METADATA)
    assert record["parameters"][1] > record["parameters"][0]
    assert "it shares weights between nodes" in caplog.text


def test_constants_may_be_nodes_or_inputs_with_defaults() -> None:
    nodes, weights = parts(conv("x", "c", (3, 6)), node("Relu", "c", "last"), head(6))
    kept = [each for each in weights if each.name not in ("c.w", "g.w")]
    stored = {each.name: each for each in weights}
    made = node("Constant", "", "c.w", value=stored["c.w"])
    proto = net([made, *nodes], *kept, stored["g.w"])
    proto.graph.input.append(value("g.w", (6, 5)))
    pruned = check(proto, {"last": {1: [0, 1]}})
    assert [each.name for each in pruned.proto.graph.input] == ["x"]
    assert not [each for each in pruned.proto.graph.node if each.op_type == "Constant"]


def test_a_model_can_be_pruned_again() -> None:
    once = onnxinfo.prune_channels(path("digits-cnn.onnx"), {"relu_1": {1: [0, 3]}})
    twice = onnxinfo.prune_channels(once, {"relu_1": {1: [1]}, "relu_3": {1: [0]}})
    assert shapes(twice)["relu_1"][1] == 13
    assert sum(each.key == "onnxinfo_pruned_channels" for each in twice.proto.metadata_props) == 1


def test_a_stage_loses_channels_when_all_its_tensors_are_named() -> None:
    check(residual_net(), {"a": {1: [0]}})
    check(residual_net(), {"stem": {1: [2, 3]}, "block": {1: [2, 3]}})


def test_sizes_of_other_axes_and_resized_axes_do_not_matter() -> None:
    nodes, weights = parts(
        *(conv("x", "c", (3, 6)), node("Relu", "c", "r"), node("Shape", "r", "sizes")),
        *(node("Slice", "sizes two end", "inner"), constant("two", [2]), constant("end", [4])),
        *(node("Gather", "sizes three", "width"), constant("three", 3), node("Cast", "width", "real", to=1)),
        *(node("Cast", "inner", "reals", to=1), node("ReduceProd", "reals", "area", keepdims=0)),
        *(node("Div", "r real", "s"), node("Div", "s area", "t"), node("Resize", "t", "last", axes=[2, 3])),
        *(constant("wanted", [8, 8]), head(6)),
    )
    next(each for each in nodes if each.op_type == "Resize").input.extend(["", "", "wanted"])
    check(net(nodes, *weights, opset=18), {"last": {1: [0, 5]}})


REFUSALS: dict[str, tuple[list[Any], dict[str, dict[int, list[int]]], str]] = {
    "a sum with a branch that keeps them": (
        CHAINS["a sum of branches"][0],
        {"r": {1: [1, 3]}},
        "'flat', cannot be removed: Gemm '/y' reads 'flat'; name channels 1, 3 of it, too",
    ),
    "other channels of a sum": (
        CHAINS["a sum of branches"][0],
        {"r": {1: [1, 3]}, "last": {1: [1, 2]}},
        "Conv '/b' reads 'r'; name channels 2 of it",
    ),
    "a sum of zeros and of what varies": (
        [
            *conv("x", "a", (3, 6)), node("Relu", "a", "r"), *conv("x", "b", (3, 6)), node("Relu", "b", "s"),
            node("Add", "r s", "last"), *head(6),
        ],
        {"r": {1: [1, 3]}, "s": {1: [1]}},
        "'flat', cannot be removed: Gemm '/y' reads 'flat'; name channels 3 of it, too",
    ),
    "a softmax over channels": (
        [*conv("x", "c", (3, 6)), node("Softmax", "c", "last", axis=1), *head(6)],
        {"c": {1: [0]}},
        "Softmax '/last' needs all of them",
    ),
    "a normalization over channels": (
        [*conv("x", "c", (3, 6)), node("LRN", "c", "last", size=3), *head(6)],
        {"last": {1: [0]}},
        "LRN '/last' computes them together",
    ),
    "constants at padding": (
        [*conv("x", "c", (3, 6)), node("Sigmoid", "c", "s"), *conv("s", "last", (6, 4), **SAME), *head(4)],
        {"c": {1: [0]}},
        "which are those of 's', cannot be removed: they are constant but not zero where Conv '/last' reads 's'",
    ),
    "a part of a group": (
        CHAINS["whole groups"][0],
        {"last": {1: [4, 5]}},
        "Gemm '/y' reads 'flat'; name channels 6, 7 of it, too",
    ),
    "a mean of channels": (
        [*conv("x", "c", (3, 6)), node("ReduceMean", "c axis", "y"), constant("axis", [1])],
        {"c": {1: [0]}},
        "ReduceMean '/y' needs all of them",
    ),
    "a shuffle of channels": (
        [
            *conv("x", "c", (3, 6)), node("Reshape", "c to", "t"), constant("to", [0, 3, 8, 4]),
            node("ReduceSum", "t", "y"),
        ],
        {"c": {1: [0]}},
        r"Reshape '/t' needs all of them, because it turns shape \(N, 6, 4, 4\) into \(N, 3, 8, 4\)",
    ),
    "a division by the number of channels": (
        [
            *conv("x", "c", (3, 6)), node("Relu", "c", "r"), node("Shape", "r", "sizes"),
            node("Gather", "sizes place", "n"), constant("place", [-3, 0]), node("Cast", "n", "m", to=1),
            node("ReduceMax", "m", "real", keepdims=0), node("Div", "r real", "last"), *head(6),
        ],
        {"r": {1: [0]}},
        "the channels of 'r' cannot be removed: Cast '/m' computes with their number",
    ),
    "a division by the number of entries": (
        [
            *conv("x", "c", (3, 6)), node("Size", "c", "size"), node("Cast", "size", "real", to=1),
            node("Div", "c real", "last"), *head(6),
        ],
        {"c": {1: [0]}},
        "the channels of 'c' cannot be removed: Cast '/real' computes with their number",
    ),
    "channels merged into the batch": (
        [*conv("x", "c", (3, 6)), node("Reshape", "c to", "t"), constant("to", [-1, 4]), node("ReduceSum", "t", "y")],
        {"c": {1: [0]}},
        r"Reshape '/t' needs all of them, because it turns shape \(N, 6, 4, 4\) into \(.*, 4\), where they are not",
    ),
    "an output": ([*conv("x", "y", (3, 6))], {"y": {1: [0]}}, "'y' is an output of the graph"),
    "an input": ([*conv("x", "y", (3, 6))], {"x": {1: [0]}}, "'x' is an input of the graph"),
    "a product of two computed tensors": (
        [
            *conv("x", "c", (3, 6)), node("Reshape", "c to", "t"), constant("to", [0, 6, 16]),
            node("Transpose", "t", "u", perm=[0, 2, 1]), node("MatMul", "u t", "y"),
        ],
        {"t": {1: [0]}},
        "MatMul '/y' needs all of them",
    ),
    "a recurrence": (
        [
            *conv("x", "c", (3, 6)), node("Reshape", "c to", "t"), constant("to", [16, 1, 6]),
            node("RNN", "t w r", "y", hidden_size=2), weight("w", 1, 2, 6), weight("r", 1, 2, 2),
        ],
        {"t": {2: [0]}},
        "needs all of them|computes them together",
    ),
    "an operator of another domain": (
        [
            *conv("x", "c", (3, 6)), node("QuickGelu", "c", "last", domain="com.microsoft"), *head(6),
        ],
        {"c": {1: [0]}},
        "QuickGelu '/last' needs all of them",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_refuses_in_a_line(name: str) -> None:
    given, spec, reason = REFUSALS[name]
    nodes, weights = parts(given)
    microsoft = [helper.make_opsetid("com.microsoft", 1)] if "domain" in name else []
    with pytest.raises(UsageError, match=reason) as refused:
        onnxinfo.prune_channels(net(nodes, *weights, imports=microsoft), spec)
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith(f"the channels of '{next(iter(spec))}'") or len(spec) > 1


def test_refuses_what_a_branch_captures() -> None:
    inner = helper.make_graph([node("Relu", "c", "inner")], "inner", [], [value("inner", None)])
    other = helper.make_graph([node("Neg", "c", "other")], "other", [], [value("other", None)])
    nodes, weights = parts(
        conv("x", "c", (3, 6)), node("ReduceSum", "x", "t", keepdims=0), node("Cast", "t", "b", to=9)
    )
    nodes.append(node("If", "b", "y", then_branch=inner, else_branch=other))
    with pytest.raises(UsageError, match="If '/y' needs all of them"):
        onnxinfo.prune_channels(net(nodes, *weights), {"c": {1: [0]}})


def test_a_wrong_result_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Removal.model

    def wrong(self: Removal) -> onnxinfo.Model:
        pruned = right(self).proto
        bias = next(each for each in pruned.graph.initializer if each.name == "8.bias")
        bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + 1e-2, bias.name))
        return load(pruned)

    monkeypatch.setattr(Removal, "model", wrong)
    with pytest.raises(VerificationError, match="output 'logits' differs"):
        onnxinfo.prune_channels(path("digits-cnn.onnx"), {"relu_1": {1: [0]}})


SPECS: dict[str, tuple[Any, str]] = {
    "no mapping": ([1], r"expected a mapping \{tensor: \{axis: \[indices\]\}\}"),
    "nothing": ({}, "are none"),
    "no indices": ({"relu": {1: []}}, "are none"),
    "an unknown tensor": ({"rely": {1: [0]}}, "no tensor 'rely' in the graph; did you mean 'relu'"),
    "a number for a tensor": ({3: {1: [0]}}, "expected the name of a tensor"),
    "a weight": ({"0.weight": {1: [0]}}, "no tensor '0.weight'"),
    "a list for axes": ({"relu": [0]}, r"expected a mapping \{axis: \[indices\]\}"),
    "an axis beyond the rank": ({"relu": {4: [0]}}, "an integer from -4 to 3 expected"),
    "an axis that is no number": ({"relu": {"one": [0]}}, "axis 'one' of 'relu'"),
    "a fraction": ({"relu": {1.5: [0]}}, "axis 1.5 of 'relu'"),
    "an axis given twice": ({"relu": {1: [0], "-3": [1]}}, "axis 1 of 'relu' is given twice"),
    "an axis of open size": ({"relu": {0: [0]}}, "has no fixed size"),
    "an index beyond the size": ({"relu": {1: [16]}}, "has no channel 16; give indices from 0 to 15"),
    "a huge index": ({"relu": {1: [10**30]}}, "has no channel 10000"),
    "a negative index": ({"relu": {1: [-1]}}, "has no channel -1"),
    "an index given twice": ({"relu": {1: [2, 2]}}, "channel 2 is given twice"),
    "all channels": ({"relu": {1: [*range(16)]}}, "all 16 channels would be removed"),
    "text for indices": ({"relu": {1: "012"}}, "give a list of indices"),
    "a number for indices": ({"relu": {1: 3}}, "give a list of indices"),
    "truth for an index": ({"relu": {1: [True]}}, "give a list of indices"),
    "fractions for indices": ({"relu": {1: [0.5]}}, "give a list of indices"),
    "nothing for indices": ({"relu": {1: None}}, "give a list of indices"),
}  # fmt: skip


@pytest.mark.parametrize("name", SPECS)
def test_refuses_specifications(name: str) -> None:
    spec, reason = SPECS[name]
    with pytest.raises(UsageError, match=reason) as refused:
        channels_of(spec, load(path("digits-cnn.onnx")).flow)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 300


def test_long_lists_are_refused_quickly() -> None:
    with pytest.raises(UsageError, match="channel 31 is given twice"):
        channels_of({"relu_3": {1: [*range(32), 31]}}, load(path("digits-cnn.onnx")).flow)
    many = "{" + ", ".join(f'"{i}": 1' for i in range(200_000)) + ', "7": 1}'
    began = time.perf_counter()
    with pytest.raises(ValueError, match="'7' occurs twice"):
        json.loads(many, object_pairs_hook=_without_repetitions)
    assert time.perf_counter() - began < 5


FILES = {
    "absent": None,
    "empty": b"",
    "cut off": b'{"relu": {"1": [0',
    "repeated": b'{"relu": {"1": [0]}, "relu": {"1": [1]}}',
    "not text": b"\xff\xfe\x00",
    "deep": b"[" * 200_000,
    "long number": b'{"relu": {"1": [' + b"9" * 10_000 + b"]}}",
    "a list": b"[1, 2]",
    "escapes": b'{"\\u001b[31m": {"1": [0]}}',
}


@pytest.mark.parametrize("name", FILES)
def test_refuses_files(name: str, tmp_path: Any) -> None:
    file = tmp_path / "channels.json"
    if (content := FILES[name]) is not None:
        file.write_bytes(content)
    with pytest.raises((onnxinfo.InputError, UsageError)) as refused:
        channels_of(file, load(path("digits-cnn.onnx")).flow)
    assert str(refused.value).isprintable()


@st.composite
def networks(draw: st.DrawFn) -> tuple[onnx.ModelProto, list[tuple[str, int]]]:
    """Random networks: their tensors after convolutions and activations, with the numbers of channels."""
    given: list[Any] = []
    values, named = [("x", 3)], []
    for i in range(draw(st.integers(2, 7))):
        name, channels = values[draw(st.integers(0, len(values) - 1))]
        equal = [each for each in values if each[1] == channels and each[0] != name and each[0] != "x"]
        kinds = [
            "conv",
            "norm",
            "relu",
            "sigmoid",
            "depthwise",
            "pool",
            "concat",
            *(["add", "mul"] * 2 if equal else []),
        ]
        kind, after = draw(st.sampled_from(kinds)), f"t{i}"
        if kind == "conv" or name == "x":
            channels = draw(st.sampled_from([3, 4, 4]))
            given += conv(
                name, after, (dict(values)[name], channels), draw(st.sampled_from([1, 3])), auto_pad="SAME_UPPER"
            )
        elif kind == "norm":
            given += norm(name, after, channels)
        elif kind in ("relu", "sigmoid"):
            given.append(node(kind.capitalize(), name, after))
        elif kind == "depthwise":
            given += [node("Conv", f"{name} {after}.w {after}.b", after, group=channels, **SAME)]
            given += [weight(f"{after}.w", channels, 1, 3, 3), weight(f"{after}.b", channels)]
        elif kind == "pool":
            pooling = draw(st.sampled_from(["MaxPool", "AveragePool"]))
            given.append(node(pooling, name, after, kernel_shape=[3, 3], **SAME))
        elif kind == "concat":
            other, more = values[draw(st.integers(0, len(values) - 1))]
            given.append(node("Concat", f"{name} {other}", after, axis=1))
            channels += more
        else:
            given.append(node(kind.capitalize(), f"{name} {equal[draw(st.integers(0, len(equal) - 1))][0]}", after))
        values.append((after, channels))
        named.append((after, channels))
    last, channels = values[-1]
    flat = draw(st.booleans())
    tail = [node("Flatten", last if flat else "pool", "flat"), node("Gemm", "flat g.w g.b", "y")]
    given += [*([] if flat else [node("GlobalAveragePool", last, "pool")]), *tail]
    given += [weight("g.w", channels * (36 if flat else 1), 5), weight("g.b", 5)]
    nodes, weights = parts(given)
    return net(nodes, *weights), named


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(st.data())
def test_random_networks_are_pruned_exactly_or_refused(data: st.DataObject) -> None:
    proto, named = data.draw(networks())
    # The same channels of all tensors of a size are often a whole coupled group.
    size = data.draw(st.sampled_from([channels for _, channels in named]))
    indices = data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=size - 1, unique=True))
    chosen = data.draw(st.lists(st.sampled_from([n for n, c in named if c == size]), min_size=1, unique=True))
    spec = {name: {1: indices} for name in chosen}
    try:
        Removal(load(proto), {name: {1: sorted(indices)} for name in chosen})
    except UsageError:
        event("refused")
        return
    event("pruned")
    check(proto, spec)


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(st.data())
def test_chains_without_sums_are_never_refused(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(2, 5), min_size=2, max_size=4))
    given: list[Any] = []
    before, channels, spec = "x", 3, {}
    for i, size in enumerate(sizes):
        given += conv(before, f"c{i}", (channels, size), auto_pad="SAME_UPPER")
        given += norm(f"c{i}", f"n{i}", size) if data.draw(st.booleans()) else [node("Identity", f"c{i}", f"n{i}")]
        given.append(node("Relu", f"n{i}", f"r{i}" if i + 1 < len(sizes) else "last"))
        before, channels = f"r{i}", size
        spec["last" if i + 1 == len(sizes) else before] = {
            1: data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=size - 1, unique=True))
        }
    nodes, weights = parts(given, head(channels))
    check(net(nodes, *weights), spec)
