"""One-node models, run by ONNX Runtime and as converted torch graphs, for the tests of operators."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import helper, numpy_helper

from onnxinfo import convert

onnxruntime.set_default_logger_severity(4)

Array = np.ndarray[Any, Any]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def floats(*shape: int, seed: int = 0) -> Array:
    return rng(seed).standard_normal(shape).astype(np.float32)


def node_model(
    op_type: str,
    inputs: Sequence[Array | None],
    outputs: int = 1,
    *,
    domain: str = "",
    opset: int = 22,
    constants: Collection[int] = (),
    declared: Sequence[onnx.ValueInfoProto] = (),
    attributes: Mapping[str, Any] = MappingProxyType({}),
    **more_attributes: Any,
) -> onnx.ModelProto:
    """Model of one node; absent inputs are None, those at ``constants`` become initializers.

    Types and shapes of the outputs are those that ONNX infers, else ONNX Runtime, unless ``declared``.
    """
    names = [f"input_{i}" if value is not None else "" for i, value in enumerate(inputs)]
    results = [f"output_{i}" for i in range(outputs)]
    node = helper.make_node(op_type, names, results, domain=domain, **attributes, **more_attributes)
    given = [(i, name, value) for i, (name, value) in enumerate(zip(names, inputs, strict=True)) if value is not None]
    graph = helper.make_graph(
        [node],
        op_type,
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
            for i, name, value in given
            if i not in constants
        ],
        declared or [helper.make_empty_tensor_value_info(name) for name in results],
        [numpy_helper.from_array(value, name) for i, name, value in given if i in constants],
    )
    versions = {"": opset, "com.microsoft": 1, "ai.onnx.ml": 3}
    opsets = [helper.make_opsetid(name, version) for name, version in versions.items()]
    model = onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=opsets, ir_version=10))
    if not all(output.type.tensor_type.HasField("shape") for output in model.graph.output):
        outputs_ = [output_info(o.name, o.type, o.shape) for o in _session(model).get_outputs()]
        model.graph.ClearField("output")
        model.graph.output.extend(outputs_)
    return model


def output_info(name: str, type_: str, shape: Sequence[int | str | None]) -> onnx.ValueInfoProto:
    """Declare an output of a type as ONNX Runtime calls it: "tensor(float)", "tensor(uint8)"."""
    element = type_.removeprefix("tensor(").removesuffix(")").upper()
    return helper.make_tensor_value_info(name, onnx.TensorProto.DataType.Value(element), shape)


def feeds_of(model: onnx.ModelProto, inputs: Sequence[Array | None]) -> dict[str, Array]:
    named = {f"input_{i}": value for i, value in enumerate(inputs) if value is not None}
    return {value.name: named[value.name] for value in model.graph.input}


def run_onnxruntime(model: onnx.ModelProto, feeds: dict[str, Array]) -> list[Array]:
    return _session(model).run(None, feeds)


def _session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run_converted(model: onnx.ModelProto, feeds: dict[str, Array]) -> list[Array]:
    results = convert(model, fallback=False)(*(torch.from_numpy(value) for value in feeds.values()))
    return [result.detach().numpy() for result in results]


def assert_same(
    op_type: str,
    inputs: Sequence[Array | None],
    outputs: int = 1,
    *,
    rtol: float = 1e-4,
    atol: float = 1e-5,
    **settings: Any,
) -> None:
    """Compare the converted node with ONNX Runtime; quantized values may be represented by another type."""
    model = node_model(op_type, inputs, outputs, **settings)
    feeds = feeds_of(model, inputs)
    for ours, theirs in zip(run_converted(model, feeds), run_onnxruntime(model, feeds), strict=True):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours.astype(np.float64), theirs.astype(np.float64), rtol=rtol, atol=atol)


def gradcheck(op_type: str, inputs: Sequence[Array | None], outputs: int = 1, **settings: Any) -> None:
    """Check the gradients with respect to all float inputs in double precision."""
    model = node_model(op_type, inputs, outputs, **settings)
    module = convert(model, fallback=False).double()
    feeds = [torch.from_numpy(value) for value in feeds_of(model, inputs).values()]
    feeds = [x.double().requires_grad_() if x.is_floating_point() else x for x in feeds]
    assert torch.autograd.gradcheck(
        lambda *x: tuple(y for y in module(*x) if y.is_floating_point() and y.requires_grad), feeds, fast_mode=True
    )
