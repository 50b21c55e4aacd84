"""Gradients of every operator that has one, in float64, at the inputs of ONNX's own backend cases."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import onnx
import pytest
import torch
from onnx.backend.test.case.test_case import TestCase
from onnx.backend.test.loader import load_model_tests
from torch import Tensor

from onnxinfo import convert
from onnxinfo.torch_graph.operators.values import to_torch

# Small tensors: threads cost more than they save.
torch.set_num_threads(1)

# Rounding: the straight-through gradient is not the function's own, which is zero.
STRAIGHT_THROUGH = {"Ceil", "DynamicQuantizeLinear", "Floor", "QLinearConv", "QLinearMatMul", "QuantizeLinear", "Round"}
# What they compute is discrete, or does not depend on the values of a float input.
WITHOUT_GRADIENT = {
    "ArgMax",
    "ArgMin",
    "Bernoulli",
    "Equal",
    "EyeLike",
    "Greater",
    "GreaterOrEqual",
    "Hardmax",
    "IsInf",
    "IsNaN",
    "Less",
    "LessOrEqual",
    "MelWeightMatrix",
    "NonMaxSuppression",
    "NonZero",
    "OptionalHasElement",
    "Shape",
    "Size",
}
# Inputs that decide on shapes or positions, which torch takes as numbers.
NUMBERS = {
    "CastLike": ["target_type"],
    "Dropout": ["ratio"],
    "OneHot": ["depth"],
    "Pad": ["constant_value"],
    "Range": ["start", "limit", "delta"],
    "Resize": ["roi", "scales"],
}
FLOATS = {onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE}
# Cases without a gradient to check, by regular expression, and why.
EXCLUDED = {
    r"^training_dropout(_default)?(_mask)?$": "random numbers are refused",
    r"^mod_float_edge_cases": "infinities",
    r"_empty_set": "no elements",
}
# Their input has to stay between minus one and one.
BOUNDED = {"Acos", "Asin", "Atanh"}


def _cases() -> Iterator[Any]:
    """One case per operator by default, all of them among the slow tests."""
    seen: set[str] = set()
    for case in load_model_tests(kind="node"):
        name = case.name.removeprefix("test_")
        if not _is_single_float_node(case) or any(re.search(pattern, name) for pattern in EXCLUDED):
            continue
        op_type = case.model.graph.node[0].op_type
        marks = [pytest.mark.slow] if op_type in seen else []
        seen.add(op_type)
        yield pytest.param(case, id=name, marks=marks)


def _is_single_float_node(case: TestCase) -> bool:
    if case.model is None or len(case.model.graph.node) != 1 or not _differentiable_inputs(case):
        return False
    node = case.model.graph.node[0]
    types = [output.type.tensor_type.elem_type for output in case.model.graph.output]
    if node.op_type in ("Cast", "CastLike", "BitCast"):
        # Differences are too coarse in float32.
        return types == [onnx.TensorProto.DOUBLE]
    discrete = node.op_type in WITHOUT_GRADIENT | STRAIGHT_THROUGH
    # A type of zero: a sequence or an optional.
    return not node.domain and (discrete or any(type in FLOATS | {0} for type in types))


def _differentiable_inputs(case: TestCase) -> list[int]:
    node = case.model.graph.node[0]
    names = [value.name for value in case.model.graph.input]
    types = [value.type.tensor_type.elem_type for value in case.model.graph.input]
    parameters = onnx.defs.get_schema(node.op_type, domain=node.domain).inputs
    numbers = NUMBERS.get(node.op_type, ())
    return [
        names.index(name)
        for position, name in enumerate(node.input)
        if name in names
        and types[names.index(name)] in FLOATS
        and parameters[min(position, len(parameters) - 1)].name not in numbers
    ]


def _away_from_kinks(x: Tensor, op_type: str) -> Tensor:
    """Move inputs off the round numbers and ties that examples are made of, in float64."""
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (x.double() * (0.9 if op_type in BOUNDED else 1) + 0.01 + 0.02 * noise).requires_grad_()


def _operand(value: Any) -> Any:
    """What a case holds, in float64: arrays, sequences, and tensors of types that numpy does not have."""
    x = to_torch(onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value)
    return x.double() if isinstance(x, Tensor) and x.is_floating_point() else x


@pytest.mark.parametrize("case", _cases())
def test_gradient(case: TestCase) -> None:
    op_type = case.model.graph.node[0].op_type
    module = convert(case.model, fallback=False).double()
    operands = [_operand(value) for value in case.data_sets[0][0]]
    positions = _differentiable_inputs(case)
    leaves = [_away_from_kinks(operands[i], op_type) for i in positions]

    def outputs(*values: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(positions, values, strict=True))
        # What is infinite, such as a masked score, has no differences.
        return tuple(
            torch.where(y.isfinite(), y, 0.0)
            for y in _tensors(module(*(given.get(i, x) for i, x in enumerate(operands))))
            if y.is_floating_point() and y.requires_grad
        )

    results = outputs(*leaves)
    if op_type in WITHOUT_GRADIENT:
        assert results == ()
    elif op_type in STRAIGHT_THROUGH:
        gradients = torch.autograd.grad([y.sum() for y in results], leaves, allow_unused=True)
        assert any(g is not None and bool(g.any()) for g in gradients)
    else:
        assert results
        assert torch.autograd.gradcheck(outputs, leaves, fast_mode=True)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, Tensor):
        yield value
