"""Arithmetic on host values gives what the operators give on tensors, in values, shapes and types."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from graphs import constant, feeds, model, node, value
from nodes import node_model
from onnx import TensorProto, helper

from onnxinfo.errors import ConversionError
from onnxinfo.torch_graph.conversions import conversion_report
from onnxinfo.torch_graph.convert import convert
from onnxinfo.torch_graph.host import HostValue, host_value, is_host, materialized, scalar, vector
from onnxinfo.torch_graph.operators import TABLE
from onnxinfo.torch_graph.operators.shape_arithmetic import HOST, HOST_SOURCES

INT32 = TensorProto.INT32
FLOAT = TensorProto.FLOAT


def _t(values: Any, dtype: torch.dtype = torch.int64) -> torch.Tensor:
    return torch.tensor(values, dtype=dtype)


MATRIX = _t([[1, 2, 3], [4, 5, 6]])
FLOATS = _t([0.3, -2.5, 7.0], torch.float32)
BOOLS = _t([True, False], torch.bool)
# Operator, operands and attributes.
CASES: list[tuple[str, list[Any], dict[str, Any]]] = [
    ("Identity", [MATRIX], {}),
    ("Shape", [MATRIX], {}),
    ("Shape", [MATRIX], {"start": -1}),
    ("Size", [MATRIX], {}),
    ("Cast", [MATRIX], {"to": INT32}),
    ("Cast", [MATRIX], {"to": FLOAT}),
    ("Cast", [_t([2**40 + 5, -(2**31) - 1])], {"to": INT32}),
    ("Cast", [_t([2**24 + 1, 2**53 + 1])], {"to": FLOAT}),
    ("Cast", [FLOATS], {"to": TensorProto.INT64}),
    ("Cast", [_t([0, 3])], {"to": TensorProto.BOOL}),
    ("Cast", [BOOLS], {"to": TensorProto.INT64}),
    ("Reshape", [MATRIX, _t([3, -1])], {}),
    ("Reshape", [MATRIX, _t([0, 3, 1])], {}),
    ("Flatten", [MATRIX], {"axis": 0}),
    ("Squeeze", [_t([[5]])], {}),
    ("Squeeze", [_t([[5]]), _t([-1])], {}),
    ("Unsqueeze", [_t(3), _t([0])], {}),
    ("Unsqueeze", [_t([3, 4]), _t([0, -1])], {}),
    ("Transpose", [MATRIX], {}),
    ("Transpose", [MATRIX], {"perm": [1, 0]}),
    ("Expand", [_t([[1], [2]]), _t([3, 1, 2])], {}),
    ("Tile", [MATRIX, _t([2, 2])], {}),
    ("ConstantOfShape", [_t([2, 3])], {"value": host_value(_t([7]))}),
    ("Range", [_t(1), _t(8), _t(3)], {}),
    ("Range", [_t(5), _t(0), _t(-2)], {}),
    ("Concat", [_t([1]), _t([2, 3])], {"axis": 0}),
    ("Concat", [MATRIX, MATRIX], {"axis": -1}),
    ("Gather", [_t([4, 5, 6]), _t(-1)], {}),
    ("Gather", [MATRIX, _t([[1], [0]])], {"axis": 1}),
    ("Slice", [_t([1, 2, 3, 4]), _t([-3]), _t([2**31]), _t([0]), _t([2])], {}),
    ("Slice", [MATRIX, _t([-1]), _t([-(2**31)]), _t([0]), _t([-1])], {}),
    ("Split", [_t([1, 2, 3, 4, 5])], {"num_outputs": 2}),
    ("Split", [MATRIX, _t([1, 2])], {"axis": 1}),
    ("Where", [BOOLS, _t([1, 2]), _t(9)], {}),
    ("Clip", [_t([1, 5, 9]), _t(2), _t(7)], {}),
    ("Max", [_t([1, 5]), _t([4])], {}),
    ("Min", [_t([1, 5]), _t([4])], {}),
    ("Sum", [_t([1, 5]), _t([4]), _t(1)], {}),
    ("Mod", [_t([7, -7]), _t(3)], {}),
    ("Div", [_t([7, -7, 8]), _t([2, 2, -3])], {}),
    ("Div", [FLOATS, _t(3.0, torch.float32)], {}),
    ("Add", [_t([2**62, 1]), _t([2**62, 1])], {}),
    ("Sub", [MATRIX, _t([[1], [2]])], {}),
    ("Mul", [FLOATS, FLOATS], {}),
    ("Mul", [_t([2**20], torch.int32), _t([2**20 + 1], torch.int32)], {}),
    ("Equal", [MATRIX, _t(2)], {}),
    ("Greater", [MATRIX, _t(2)], {}),
    ("GreaterOrEqual", [MATRIX, _t(2)], {}),
    ("Less", [MATRIX, _t(2)], {}),
    ("LessOrEqual", [MATRIX, _t(2)], {}),
    ("And", [BOOLS, _t([True, True], torch.bool)], {}),
    ("Or", [BOOLS, _t([False, False], torch.bool)], {}),
    ("Not", [BOOLS], {}),
    ("Neg", [MATRIX], {}),
    ("Abs", [_t([-3, 3])], {}),
    ("Floor", [FLOATS], {}),
    ("Ceil", [FLOATS], {}),
    ("ReduceMax", [_t([3, 9, 4]), _t([0])], {"keepdims": 0}),
    ("ReduceMin", [_t([3, 9, 4])], {}),
    ("ReduceProd", [_t([3, 9, 4])], {"keepdims": 0}),
    ("ReduceSum", [_t([3, 9, 4]), _t([-1])], {}),
]


def _on_tensors(op: str, operands: list[Any], attributes: dict[str, Any]) -> Any:
    """Run the operator's torch function, by a model of one node whose operands are graph inputs."""
    if isinstance(attributes.get("value"), HostValue):
        attributes = attributes | {"value": onnx.numpy_helper.from_array(materialized(attributes["value"]).numpy())}
    arrays = [x.numpy() for x in operands]
    proto = node_model(op, arrays, 2 if op == "Split" else 1, opset=21, attributes=attributes)
    return convert(proto)(*operands)


@pytest.mark.parametrize(("op", "operands", "attributes"), CASES, ids=[f"{i}-{c[0]}" for i, c in enumerate(CASES)])
def test_like_tensors(op: str, operands: list[Any], attributes: dict[str, Any]) -> None:
    found = HOST[op](*map(host_value, operands), **attributes)
    expected = _on_tensors(op, operands, attributes)
    several = isinstance(found, tuple) and not is_host(found)
    for ours, theirs in zip(found if several else [found], expected, strict=True):
        assert is_host(ours)
        tensor = materialized(ours)
        assert (tensor.dtype, tensor.shape) == (theirs.dtype, theirs.shape)
        assert tensor.tolist() == theirs.tolist()


def test_every_operator_is_tested() -> None:
    assert set(HOST) - {op for op, _, _ in CASES} == {"CastLike"}


def test_implementations_are_of_operators_in_the_table() -> None:
    known = {op for domain, op in TABLE if not domain}
    assert set(HOST) | HOST_SOURCES <= known
    assert all(inspect.isfunction(function) for function in HOST.values())


@pytest.mark.parametrize(
    ("op", "operands", "attributes"),
    [
        ("Expand", [scalar(1), vector([100])], {}),
        ("Tile", [vector([1, 2]), vector([100])], {}),
        ("ConstantOfShape", [vector([100])], {"value": scalar(1)}),
        ("Range", [scalar(0), scalar(100), scalar(1)], {}),
        ("Mod", [scalar(1), scalar(2)], {"fmod": 1}),
        ("Cast", [scalar(1)], {"to": TensorProto.FLOAT16}),
        ("Add", [scalar(1, torch.uint8), scalar(1, torch.uint8)], {}),
        ("ReduceSum", [host_value(MATRIX)], {}),
    ],
)
def test_the_rest_is_left_to_tensors(op: str, operands: list[Any], attributes: dict[str, Any]) -> None:
    assert HOST[op](*operands, **attributes) is NotImplemented


@pytest.mark.parametrize(
    ("op", "operands", "message"),
    [
        ("Gather", [vector([1, 2]), scalar(2)], "index 2 is out of range, expected -2 to 1"),
        ("Reshape", [vector([1, 2]), vector([3])], r"2 elements cannot be arranged in shape \[3\]"),
        ("Add", [vector([1, 2]), vector([1, 2, 3])], r"shapes \[2\], \[3\] cannot be broadcast"),
        ("Div", [scalar(1), scalar(0)], "division by zero"),
        ("Cast", [scalar(float("inf"), torch.float32)], "inf cannot be converted to an integer"),
    ],
)
def test_errors(op: str, operands: list[Any], message: str) -> None:
    with pytest.raises((ArithmeticError, LookupError, ValueError), match=message):
        HOST[op](*operands, **({"to": TensorProto.INT64} if op == "Cast" else {}))


def _shape_model(nodes: list[onnx.NodeProto], *constants: onnx.TensorProto) -> onnx.ModelProto:
    outputs = [value("y", None, TensorProto.INT64)]
    return model([node("Shape", "x", "s"), *nodes], [value("x", ("N", 4))], outputs, constants)


def test_a_shape_that_is_returned_is_a_tensor() -> None:
    (y,) = convert(_shape_model([node("Mul", "s two", "y")], constant("two", 2)))(torch.zeros(3, 4))
    assert isinstance(y, torch.Tensor)
    assert y.tolist() == [6, 8]


def test_an_operand_that_is_out_of_range_is_refused_in_one_line() -> None:
    module = convert(_shape_model([node("Gather", "s five", "y")], constant("five", 5)))
    with pytest.raises(ConversionError, match=r"Gather .* cannot run: index 5 is out of range, expected -2 to 1"):
        module(torch.zeros(3, 4))


def test_a_loop_counts_on_the_host() -> None:
    """Number of iterations and position in the loop are Python numbers, so nothing is read."""
    body = helper.make_graph(
        [node("Gather", "rows i", "row"), node("Add", "carried row", "next"), node("Identity", "more", "again")],
        "body",
        [value("i", (), TensorProto.INT64), value("more", (), TensorProto.BOOL), value("carried", None)],
        [value("again", (), TensorProto.BOOL), value("next", None)],
    )
    nodes = [
        node("Transpose", "x", "rows", perm=[1, 0]),
        node("Shape", "x", "s"),
        node("Gather", "s one", "count"),
        node("ReduceSum", "rows zero", "start", keepdims=0),
        helper.make_node("Loop", ["count", "", "start"], ["y"], body=body),
    ]
    proto = model(nodes, [value("x")], [value("y", None)], [constant("one", 1), constant("zero", [0])])
    (y,) = convert(proto)(x := torch.from_numpy(feeds(proto)["x"]))
    torch.testing.assert_close(y, 2 * x.sum(1))
    assert not [c for c in conversion_report(proto) if c.reads]
    torch.export.export(convert(proto), (x,), strict=False)


def test_the_report_names_what_is_read() -> None:
    nodes = [node("NonZero", "x", "n"), node("Shape", "n", "s"), node("TopK", "x k", "y i")]
    proto = model(nodes, [value("x"), value("k", (1,), TensorProto.INT64)], [value("y", None), value("s", None, 7)])
    found = {c.operator.split(".")[-1]: c.reads for c in conversion_report(proto)}
    assert found == {"NonZero": ("x",), "Shape": (), "TopK": ("k",)}


def test_small_integers_move_with_the_module() -> None:
    proto = model(
        [node("Gather", "x picked", "y", axis=1)], [value("x")], [value("y", None)], [constant("picked", [1, 3])]
    )
    module = convert(proto).to("meta")
    assert {buffer.device.type for buffer in module.buffers()} <= {"meta"}
    assert module(torch.empty(2, 4, device="meta"))[0].shape == (2, 2)
    assert np.array_equal(convert(proto)(torch.eye(4))[0], np.eye(4)[:, [1, 3]])
