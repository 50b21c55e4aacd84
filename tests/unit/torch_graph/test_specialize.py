"""Graphs specialized to the shapes of their inputs."""

from __future__ import annotations

import pytest
import torch
from graphs import constant, model, node, residual_net, value
from onnx import TensorProto, helper, numpy_helper

from onnxinfo import convert
from onnxinfo.errors import UsageError
from onnxinfo.torch_graph.conversions import conversion_report


def _operators(module: torch.fx.GraphModule) -> list[str]:
    return [str(each.target).split("_")[-1] for each in module.graph.nodes if each.op == "call_module"]


def test_shape_arithmetic_becomes_constant() -> None:
    x = torch.randn(2, 3, 6, 6)
    plain, special = convert(residual_net()), convert(residual_net(), shapes={"x": (2, 3, 6, 6)})
    assert {"Shape", "Gather", "Concat"} <= set(_operators(plain))
    assert not {"Shape", "Gather", "Concat"} & set(_operators(special))
    assert torch.equal(special(x)[0], plain(x)[0])


def test_what_depends_on_values_may_depend_on_shapes_alone() -> None:
    """Positions written as the nonzero elements of ones, as an exporter does."""
    ones = helper.make_node("ConstantOfShape", ["s"], ["o"], value=numpy_helper.from_array(constant_array()))
    nodes = [node("Shape", "x", "s"), ones, node("NonZero", "o", "y")]
    proto = model(nodes, [value("x")], [value("y", None, TensorProto.INT64)])
    special = convert(proto, shapes={"x": (2, 4)})
    assert _operators(special) == []
    assert torch.equal(special(torch.zeros(2, 4))[0], convert(proto)(torch.zeros(2, 4))[0])


def constant_array() -> object:
    return numpy_helper.to_array(constant("one", [1]))


def test_a_free_size_stays_free() -> None:
    module = convert(residual_net(), shapes={"x": (None, 3, 6, 6)})
    assert [len(module(torch.zeros(n, 3, 6, 6))[0]) for n in (1, 4)] == [1, 4]


def test_another_shape_is_refused_when_the_graph_runs() -> None:
    module = convert(residual_net(), shapes={"x": (2, 3, 6, 6)})
    with pytest.raises(
        UsageError, match=r"input 'x' has shape \[1, 3, 6, 6\]; the graph was converted for \[2, 3, 6, 6\]"
    ):
        module(torch.zeros(1, 3, 6, 6))


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"z": (1, 4)}, "shapes: there is no graph input 'z', expected one of ['a', 'b']"),
        ({"a": (1, 4, 1)}, "shapes: input 'a' was given as [1, 4, 1], but it has 2 axes"),
        ({"a": (1, 5)}, "shapes: input 'a' was given as [1, 5], but the model fixes axis 1 at 4"),
        ({"a": (1, 4), "b": (2, 4)}, "shapes: input 'b' was given as [2, 4], but 'N' is 1 in input 'a'"),
    ],
)
def test_contradictions_are_refused_in_one_line(shapes: dict[str, tuple[int, ...]], message: str) -> None:
    proto = model([node("Add", "a b", "y")], [value("a"), value("b")], [value("y")])
    with pytest.raises(UsageError) as error:
        convert(proto, shapes=shapes)
    assert str(error.value) == message


def test_a_symbolic_size_is_that_of_every_input() -> None:
    nodes = [node("Shape", "b", "s"), node("Expand", "one s", "e"), node("Add", "a e", "y")]
    proto = model(nodes, [value("a"), value("b")], [value("y")], [constant("one", [1.0], "float32")])
    module = convert(proto, shapes={"a": (3, 4)})
    assert _operators(module) == ["Add"]
    assert module(torch.ones(3, 4), torch.zeros(3, 4))[0].tolist() == [[2.0] * 4] * 3


def test_known_sizes_are_constants_beside_a_free_one() -> None:
    """As exporters write it: the batch size and a known size are taken from one shape."""
    sizes = [constant("zero", 0), constant("two", [2]), constant("end", [2**63 - 1]), constant("minus", [-1])]
    nodes = [
        *(node("Shape", "x", "s"), node("Cast", "s", "c", to=TensorProto.INT64), node("Slice", "c two end", "last")),
        *(node("Gather", "s zero", "n"), node("Reshape", "n minus", "rows"), node("Concat", "rows last", "t", axis=0)),
        node("Expand", "x t", "y"),
    ]
    nodes += [node("Gather", "c two", "taken"), node("ConstantOfShape", "taken", "o"), node("NonZero", "o", "z")]
    proto = model(nodes, [value("x", (None, 1, 3))], [value("y", None), value("z", None, TensorProto.INT64)], sizes)
    special = convert(proto, shapes={"x": (None, 1, 3)})
    assert _operators(special) == ["Shape", "Gather", "Reshape", "Concat", "Expand"]
    assert [c.operator for c in conversion_report(proto) if c.reads] == ["ai.onnx.NonZero"]
    assert not any(c.reads for c in conversion_report(proto, shapes={"x": (None, 1, 3)}))
    for n in (2, 5):
        for ours, theirs in zip(special(torch.ones(n, 1, 3)), convert(proto)(torch.ones(n, 1, 3)), strict=True):
            assert torch.equal(ours, theirs)


def test_a_free_size_is_that_of_the_input_even_if_the_model_fixes_it() -> None:
    nodes = [node("Shape", "x", "s"), node("Expand", "one s", "y")]
    proto = model(nodes, [value("x", (1, 4))], [value("y", None)], [constant("one", [1.0], "float32")])
    assert convert(proto, shapes={"x": (None, 4)})(torch.zeros(3, 4))[0].shape == (3, 4)


def test_a_free_axis_may_have_the_symbol_of_a_fixed_one() -> None:
    """Exporters give all open sizes the same name."""
    proto = model([node("Relu", "x", "y")], [value("x", ("N", "N"))], [value("y", None)])
    assert convert(proto, shapes={"x": (None, 4)})(torch.zeros(3, 4))[0].shape == (3, 4)
