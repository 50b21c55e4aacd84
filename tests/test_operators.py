"""Gradients of every operator that has one, in float64, at the inputs of ONNX's own backend cases."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx.backend.test.case.test_case import TestCase
from onnx.backend.test.loader import load_model_tests
from torch import Tensor

from onnxinfo import ConversionError, convert
from onnxinfo.graph import protos
from onnxinfo.torch_graph.operators.values import to_torch
from onnxinfo.torch_graph.precision import to_float32

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
FLOATS = {onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
# Cases without a gradient to check, by regular expression, and why.
EXCLUDED = {
    r"training_dropout(_default)?(_mask)?$": "random numbers are refused",
    r"^bernoulli": "random numbers are refused",
    r"^mod_float_edge_cases": "infinities",
    r"_empty_set": "no elements",
    r"^operator_(pow|sqrt)$": "undefined at the negative numbers of the case",
    r"softmax_precision$": "computes the softmax in float32, where differences are too coarse",
}
# Their input has to stay between minus one and one.
BOUNDED = {"Acos", "Asin", "Atanh"}
KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator")


def _cases() -> Iterator[Any]:
    """One case of a single node per operator by default, all of them among the slow tests."""
    seen: set[str] = set()
    for kind in KINDS:
        for case in load_model_tests(kind=kind):
            name = case.name.removeprefix("test_")
            model = _model(case)
            # An operator's expansion casts to float32, where differences are too coarse; the operator itself is here.
            expanded = kind == "node" and len(model.graph.node) > 1
            if expanded or any(re.search(pattern, name) for pattern in EXCLUDED) or not _has_gradient(model):
                continue
            op_type = model.graph.node[0].op_type
            first = kind == "node" and op_type not in seen
            if first:
                seen.add(op_type)
            yield pytest.param(case, id=name, marks=[] if first else [pytest.mark.slow])


def _has_gradient(model: onnx.ModelProto) -> bool:
    """Whether there is a float input, and an output in which differences are not too coarse."""
    if not _differentiable_inputs(model):
        return False
    if model.graph.node[0].op_type in ("Cast", "CastLike", "BitCast"):
        return [output.type.tensor_type.elem_type for output in model.graph.output] == [onnx.TensorProto.DOUBLE]
    return True


@functools.cache
def _read(folder: str) -> onnx.ModelProto:
    return onnx.load(Path(folder) / "model.onnx")


def _model(case: TestCase) -> onnx.ModelProto:
    """The case's model, half precision widened as an analysis does."""
    return to_float32(case.model if case.model is not None else _read(case.model_dir)).proto


def _values(case: TestCase, model: onnx.ModelProto) -> list[Any]:
    if case.data_sets is not None:
        return list(case.data_sets[0][0])
    return [_stored(value, i, Path(case.model_dir) / "test_data_set_0") for i, value in enumerate(_given(model))]


def _stored(value: onnx.ValueInfoProto, position: int, folder: Path) -> Any:
    data = (folder / f"input_{position}.pb").read_bytes()
    if value.type.HasField("sequence_type"):
        return onnx.numpy_helper.to_list(onnx.SequenceProto.FromString(data))
    return onnx.numpy_helper.to_array(onnx.TensorProto.FromString(data))


def _given(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Graph inputs that are no initializers."""
    initial = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in initial]


def _differentiable_inputs(model: onnx.ModelProto) -> list[int]:
    """Positions of the float inputs whose values a gradient can reach."""
    node = model.graph.node[0]
    values = _given(model)
    floats = [i for i, value in enumerate(values) if value.type.tensor_type.elem_type in FLOATS]
    if len(model.graph.node) > 1 or not onnx.defs.has(node.op_type, domain=node.domain):
        return floats
    parameters = onnx.defs.get_schema(node.op_type, domain=node.domain).inputs
    numbers = {
        name
        for position, name in enumerate(node.input)
        if parameters[min(position, len(parameters) - 1)].name in NUMBERS.get(node.op_type, ())
    }
    return [i for i in floats if values[i].name not in numbers]


def _away_from_kinks(x: Tensor, operators: set[str]) -> Tensor:
    """Move inputs off the round numbers and ties that examples are made of, in float64."""
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    # Some cases hold numbers as they lay in memory: so large that differences would be lost in them.
    moderate = x.double().clamp(-1e3, 1e3)
    return (moderate * (0.9 if operators & BOUNDED else 1) + 0.01 + 0.02 * noise).requires_grad_()


def _operand(value: Any) -> Any:
    """What a case holds, in float64: arrays, sequences, and tensors of types that numpy does not have."""
    x = to_torch(onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value)
    return x.double() if isinstance(x, Tensor) and x.is_floating_point() else x


@pytest.mark.parametrize("case", _cases())
def test_gradient(case: TestCase) -> None:
    model = _model(case)
    operators = {node.op_type for node in protos.nested(model.graph.node)}
    try:
        module = convert(model, fallback=False).double()
    except ConversionError:
        pytest.skip("not served natively")
    operands = [_operand(value) for value in _values(case, model)]
    positions = _differentiable_inputs(model)
    leaves = [_away_from_kinks(operands[i], operators) for i in positions]

    def outputs(*values: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(positions, values, strict=True))
        # What is infinite, such as a masked score, has no differences.
        return tuple(
            torch.where(y.isfinite(), y, 0.0)
            for y in _tensors(module(*(given.get(i, x) for i, x in enumerate(operands))))
            if y.is_floating_point() and y.requires_grad
        )

    results = outputs(*leaves)
    if not results:
        assert operators & WITHOUT_GRADIENT or not _has_float_output(model)
    elif operators & STRAIGHT_THROUGH:
        gradients = torch.autograd.grad([y.sum() for y in results], leaves, allow_unused=True)
        assert any(g is not None and bool(g.any()) for g in gradients)
    else:
        assert torch.autograd.gradcheck(outputs, leaves, fast_mode=True)


def _has_float_output(model: onnx.ModelProto) -> bool:
    return any(output.type.tensor_type.elem_type in FLOATS for output in model.graph.output)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, Tensor):
        yield value
