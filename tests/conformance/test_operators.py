"""Gradients of every differentiable operator, in float64, at the inputs of ONNX's own backend cases."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx.backend.test.case.test_case import TestCase
from onnx.backend.test.loader import load_model_tests
from torch import Tensor

from onnxinfo import ConversionError, convert, load
from onnxinfo.graph import protos
from onnxinfo.torch_graph.operators.values import to_torch
from onnxinfo.torch_graph.precision import widened

# Tensors are small: threads cost more than they save.
torch.set_num_threads(1)

# Rounding operators: the straight-through gradient differs from the function's own, which is zero.
STRAIGHT_THROUGH = {"Ceil", "DynamicQuantizeLinear", "Floor", "QLinearConv", "QLinearMatMul", "QuantizeLinear", "Round"}
# Operators with discrete results, or results that do not depend on the values of a float input.
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
# Inputs that determine shapes or positions, which torch takes as numbers.
NUMBERS = {
    "CastLike": ["target_type"],
    "Dropout": ["ratio"],
    "OneHot": ["depth"],
    "Pad": ["constant_value"],
    "Range": ["start", "limit", "delta"],
    "Resize": ["roi", "scales"],
}
FLOATS = {onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
NARROW = {number for name, number in onnx.TensorProto.DataType.items() if re.match("FLOAT[468]E", name)}
# Cases without a gradient to check, by regular expression, with the reason.
EXCLUDED = {
    r"training_dropout(_default)?(_mask)?$": "random numbers are refused",
    r"^bernoulli": "random numbers are refused",
    r"^mod_float_edge_cases": "infinities",
    r"_empty_set": "no elements",
    r"^operator_(pow|sqrt)$": "undefined at the negative numbers of the case",
    r"^bitcast": "takes the bits of floats apart",
    r"^castlike_(FLOAT8|FLOAT4|U?INT)\w+_expanded": "the float input gives nothing but its type",
}
# Operators whose input must stay between minus one and one.
BOUNDED = {"Acos", "Asin", "Atanh"}
KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator")


def _cases() -> Iterator[Any]:
    """One case per operator by default; all cases with a float input are slow tests."""
    seen: set[str] = set()
    for kind in KINDS:
        for case in load_model_tests(kind=kind):
            name = case.name.removeprefix("test_")
            model = _given_model(case)
            if any(re.search(pattern, name) for pattern in EXCLUDED) or not _differentiable_inputs(model):
                continue
            op_type = model.graph.node[0].op_type
            first = kind == "node" and len(model.graph.node) == 1 and op_type not in seen
            if first:
                seen.add(op_type)
            yield pytest.param(case, id=name, marks=[] if first else [pytest.mark.slow])


@functools.cache
def _read(folder: str) -> onnx.ModelProto:
    return onnx.load(Path(folder) / "model.onnx")


def _given_model(case: TestCase) -> onnx.ModelProto:
    return case.model if case.model is not None else _read(case.model_dir)


def _model(case: TestCase) -> onnx.ModelProto:
    """Convert the case's model to float64: in float32, finite differences are too coarse."""
    proto = onnx.ModelProto()
    proto.CopyFrom(_given_model(case))
    # Implicit types: those of constants other than tensors, and of zeros.
    for node in protos.nested(proto.graph.node):
        for attribute in node.attribute if node.op_type == "Constant" else ():
            if attribute.type in (onnx.AttributeProto.FLOAT, onnx.AttributeProto.FLOATS):
                value = np.float32(onnx.helper.get_attribute_value(attribute))
                attribute.CopyFrom(onnx.helper.make_attribute("value", onnx.numpy_helper.from_array(value)))
        if node.op_type == "ConstantOfShape" and not node.attribute:
            zero = onnx.numpy_helper.from_array(np.zeros(1, np.float32))
            node.attribute.append(onnx.helper.make_attribute("value", zero))
    return widened(load(proto), FLOATS, onnx.TensorProto.DOUBLE).proto


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
    """Graph inputs that are not initializers."""
    initial = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in initial]


def _differentiable_inputs(model: onnx.ModelProto) -> list[int]:
    """Positions of the float inputs whose values can have a gradient."""
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
    """Move inputs away from the integers and ties that examples consist of, in float64."""
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    # Some cases contain uninitialized memory: numbers so large that differences would be lost.
    moderate = x.double().clamp(-1e3, 1e3)
    return (moderate * (0.9 if operators & BOUNDED else 1) + 0.01 + 0.02 * noise).requires_grad_()


def _operand(value: Any) -> Any:
    """Values of a case in float64: arrays, sequences, and tensors of types that numpy lacks."""
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
        # Infinite values, such as masked scores, have no finite differences.
        return tuple(
            torch.where(y.isfinite(), y, 0.0)
            for y in _tensors(module(*(given.get(i, x) for i, x in enumerate(operands))))
            if y.is_floating_point() and y.requires_grad
        )

    results = outputs(*leaves)
    if not results:
        assert operators & WITHOUT_GRADIENT or not _has_float_output(model)
    elif operators & STRAIGHT_THROUGH or _rounds(model):
        gradients = torch.autograd.grad([y.sum() for y in results], leaves, allow_unused=True)
        assert any(g is not None and bool(g.any()) for g in gradients)
    else:
        assert torch.autograd.gradcheck(outputs, leaves, fast_mode=True)


def _rounds(model: onnx.ModelProto) -> bool:
    """Whether floats are cast to a type of 8 bits or fewer."""
    described = {v.name: v.type.tensor_type.elem_type for v in (*model.graph.input, *model.graph.output)}
    types = {
        described[n.output[0]] for n in model.graph.node if n.op_type.startswith("Cast") and n.output[0] in described
    }
    return bool(types & NARROW)


def _has_float_output(model: onnx.ModelProto) -> bool:
    return any(output.type.tensor_type.elem_type in FLOATS for output in model.graph.output)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, Tensor):
        yield value
