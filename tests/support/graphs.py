"""Small ONNX models used by several tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Dims = Sequence[int | str | None] | None

MICROSOFT = helper.make_opsetid("com.microsoft", 1)


def value(name: str, dims: Dims = ("N", 4), element: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, element, dims)


def weight(name: str, *shape: int, seed: int = 0, scale: float = 0.5) -> onnx.TensorProto:
    array = np.random.default_rng([seed, *name.encode()]).standard_normal(shape) * scale
    return numpy_helper.from_array(array.astype(np.float32), name)


def constant(name: str, values: Any, dtype: Any = np.int64) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(values, dtype=dtype), name)


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    """A node with operands given as text, ``"x w"``; it is named after its first output."""
    return helper.make_node(
        op, inputs.split(), outputs.split(), name=attributes.pop("name", f"/{outputs.split()[0]}"), **attributes
    )


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    initializers: Sequence[onnx.TensorProto] = (),
    *,
    opset: int = 20,
    imports: Sequence[onnx.OperatorSetIdProto] = (),
    functions: Sequence[onnx.FunctionProto] = (),
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "graph", inputs, outputs, initializers)
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset), *imports], ir_version=10, functions=functions
    )


def relu_model(**options: Any) -> onnx.ModelProto:
    return model([node("Relu", "x", "y")], [value("x")], [value("y")], **options)


def residual_net() -> onnx.ModelProto:
    """Stem and one residual block with explicit batch normalization, and shape arithmetic before the classifier."""
    nodes = [
        node("Conv", "x stem.w", "stem.conv", pads=[1, 1, 1, 1]),
        node("BatchNormalization", "stem.conv bn.s bn.b bn.m bn.v", "stem.bn"),
        node("Relu", "stem.bn", "stem"),
        node("Conv", "stem a.w a.b", "a.conv", pads=[1, 1, 1, 1]),
        node("Relu", "a.conv", "a"),
        node("Conv", "a b.w b.b", "b.conv", pads=[1, 1, 1, 1]),
        node("Add", "b.conv stem", "sum"),
        node("Relu", "sum", "block"),
        node("GlobalAveragePool", "block", "pool"),
        node("Shape", "pool", "shape"),
        node("Gather", "shape zero", "batch", axis=0),
        node("Unsqueeze", "batch axis", "batch1"),
        node("Concat", "batch1 minus", "target", axis=0),
        node("Reshape", "pool target", "flat"),
        node("Gemm", "flat fc.w fc.b", "logits"),
    ]
    initializers = [
        *(weight("stem.w", 8, 3, 3, 3), weight("bn.s", 8), weight("bn.b", 8), weight("bn.m", 8)),
        constant("bn.v", np.ones(8), np.float32),
        *(weight("a.w", 8, 8, 3, 3), weight("a.b", 8), weight("b.w", 8, 8, 3, 3), weight("b.b", 8)),
        *(constant("zero", 0), constant("axis", [0]), constant("minus", [-1])),
        *(weight("fc.w", 8, 5), weight("fc.b", 5)),
    ]
    return model(nodes, [value("x", ("N", 3, 6, 6))], [value("logits", ("N", 5))], initializers)


def branch_model() -> onnx.ModelProto:
    """An If whose branches capture values of the main graph and of a Constant node."""

    def branch(op: str, name: str) -> onnx.GraphProto:
        return helper.make_graph([node(op, "hidden half", name)], name, [], [value(name, None)])

    nodes = [
        node("Relu", "x", "hidden"),
        node("Abs", "x", "unneeded"),
        node("Constant", "", "half", value=constant("", 0.5, np.float32)),
        node("ReduceSum", "x", "total", keepdims=0),
        node("Greater", "total zero", "positive"),
        node("If", "positive", "y", then_branch=branch("Mul", "then"), else_branch=branch("Add", "else")),
    ]
    return model(nodes, [value("x")], [value("y"), value("unneeded")], [constant("zero", 0, np.float32)])


def function_model() -> onnx.ModelProto:
    """A dense layer as a model-local function that calls another one."""
    opset = helper.make_opsetid("", 20)
    local = helper.make_opsetid("local", 1)
    scale = helper.make_function("local", "Twice", ["a"], ["b"], [node("Add", "a a", "b")], [opset])
    dense = helper.make_function(
        "local",
        "Dense",
        ["a", "w"],
        ["c"],
        [node("MatMul", "a w", "p"), node("Twice", "p", "q", domain="local"), node("Relu", "q", "c")],
        [opset, local],
    )
    nodes = [node("Dense", "x w", "h", domain="local"), node("Dense", "h w", "y", domain="local")]
    return model(nodes, [value("x")], [value("y")], [weight("w", 4, 4)], imports=[local], functions=[scale, dense])


def feeds(proto: onnx.ModelProto, count: int = 2, seed: int = 0) -> dict[str, Any]:
    """Random values for the graph inputs; symbolic first sizes are ``count``, others 5."""
    random = np.random.default_rng(seed)
    initial = {tensor.name for tensor in proto.graph.initializer}
    found = {}
    for entry in proto.graph.input:
        if entry.name in initial:
            continue
        type = entry.type.tensor_type
        shape = [d.dim_value or (5 if axis else count) for axis, d in enumerate(type.shape.dim)]
        dtype = helper.tensor_dtype_to_np_dtype(type.elem_type)
        values = random.standard_normal(shape) if dtype.kind == "f" else random.integers(0, 3, shape)
        found[entry.name] = values.astype(dtype)
    return found


def quantized(step: float) -> onnx.ModelProto:
    """A linear layer whose output is rounded to multiples of a step."""
    weight = np.random.default_rng(0).normal(size=(32, 32)).astype(np.float32) / 6
    nodes = [
        helper.make_node("MatMul", ["x", "W"], ["h"]),
        helper.make_node("QuantizeLinear", ["h", "step", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "step", "zero"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "quantised",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 32])],
        [
            numpy_helper.from_array(weight, "W"),
            numpy_helper.from_array(np.float32(step), "step"),
            numpy_helper.from_array(np.int16(0), "zero"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def rewritten() -> onnx.ModelProto:
    """A model that loading rewrites: a decided ``If`` in a decided ``If``, whose branches share names, and a function.

    Nodes lack names or repeat them, also in a loop's body, and have doc strings of several lines.
    """
    make = helper.make_graph
    inner_then = make([node("Relu", "a", "deep"), node("Neg", "deep", "end")], "i_then", [], [value("end")])
    inner_else = make([node("Abs", "a", "end")], "i_else", [], [value("end")])
    then = [
        node("Mul", "x two", "a", name=""),
        node("If", "yes", "in", then_branch=inner_then, else_branch=inner_else, name="n"),
        node("Add", "in x", "shared"),
    ]
    body = make(
        [node("Identity", "go", "gone"), node("Add", "s two", "t"), node("Neg", "t", "u", name="n")],
        "body",
        [value("i", (), TensorProto.INT64), value("go", (), TensorProto.BOOL), value("s")],
        [value("gone", (), TensorProto.BOOL), value("u")],
    )
    nodes = [
        node("If", "yes", "y", name="if", then_branch=make(then, "then", [], [value("shared")]),
             else_branch=make([node("Neg", "x", "shared")], "else", [], [value("shared")])),
        node("Loop", "three yes y", "l", body=body),
        node("Twice", "l", "f", domain="own"),
        node("Relu", "f", "z", name="n"),
        node("Neg", "z", "w"),
        node("Softmax", "w", "out", name="n", domain="ai.onnx", axis=1),
    ]  # fmt: skip
    proto = model(
        nodes,
        [value("x")],
        [value("out")],
        [constant("two", 2, np.float32), constant("yes", True, np.bool_), constant("three", 3, np.int64)],
    )
    proto.opset_import.append(helper.make_opsetid("own", 1))
    proto.functions.append(
        helper.make_function(
            "own", "Twice", ["p"], ["q"], [node("Add", "p p", "q", name="n")], [helper.make_opsetid("", 17)]
        )
    )
    for each in (*proto.graph.node, *proto.graph.node[0].attribute[0].g.node):
        each.doc_string = 'File "a.py", line 1\r\n\tonnxinfo.sid of it\n\n'
        each.metadata_props.add(key="namespace", value="a/b")
    proto.metadata_props.add(key="author", value="me")
    proto.training_info.add().algorithm.name = "training"
    return proto
