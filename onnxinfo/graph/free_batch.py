"""A model of fixed batch size as a model of any batch size, to evaluate many inputs at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import onnx

from . import protos
from .dataflow import Dataflow
from .model import Model

#: Name of the batch size in the changed model.
_NAME = "batch"


def with_free_batch(model: Model) -> Model:
    """Remove the fixed batch size from a model's inputs and from the constant target shapes of its reshapes.

    The result is a guess: constants that the exporter computed from the batch size may remain, so its values must be
    compared with those of `model`.

    Parameters
    ----------
    model
        A loaded model whose batch axes are known.

    Returns
    -------
    Model
        A model without inferred shapes; `model` itself if no input has a fixed batch size.
    """
    sizes = [dim.dim_value for dim in _batch_dims(model, model.proto) if dim.dim_value > 0]
    if not sizes:
        return model
    proto = protos.copy_into(onnx.ModelProto(), model.proto)
    for dim in _batch_dims(model, proto):
        dim.dim_param = _NAME
    graph = proto.graph
    del graph.value_info[:]
    for output in graph.output:
        output.type.tensor_type.ClearField("shape")
    added = [
        tensor
        for position, node in enumerate(graph.node)
        if node.op_type == "Reshape" and not node.domain
        for tensor in _freed(model.flow, position, node, sizes[0])
    ]
    graph.initializer.extend(added)
    return dataclasses.replace(model, proto=proto)


def with_batch_of_one(model: Model) -> Model:
    """Fix the batch size of a model's inputs at one sample.

    Parameters
    ----------
    model
        A loaded model whose batch axes are known.
    """
    proto = protos.copy_into(onnx.ModelProto(), model.proto)
    for dim in _batch_dims(model, proto):
        dim.dim_value = 1
    return dataclasses.replace(model, proto=proto)


def _batch_dims(model: Model, proto: onnx.ModelProto) -> Iterator[onnx.TensorShapeProto.Dimension]:
    """Batch axis of each input that has one."""
    for value in proto.graph.input:
        axis, dims = model.batch_axes.get(value.name, 0), value.type.tensor_type.shape.dim
        if value.name in model.flow.inputs and 0 <= axis < len(dims):
            yield dims[axis]


def _freed(flow: Dataflow, position: int, node: onnx.NodeProto, size: int) -> Iterator[onnx.TensorProto]:
    """Let a reshape of samples, changed in place, keep their number; yield its new target shape."""
    target, shape = flow.constant(node.input[1]), flow.shape(node.input[0])
    if target is None or not shape or shape[0] != size or node.input[0] not in flow.driven:
        return
    sizes = onnx.numpy_helper.to_array(target).reshape(-1).copy()
    if len(sizes) and sizes[0] == size:
        # Only one size may be left open; 0 is that of the input's first axis.
        sizes[0] = 0 if -1 in sizes[1:] else -1
        name = f"{_NAME}/shape_{position}"
        node.input[1] = name
        yield onnx.numpy_helper.from_array(sizes.astype(np.int64), name)
