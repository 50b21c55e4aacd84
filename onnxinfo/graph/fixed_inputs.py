"""Graph inputs with a fixed value, which becomes a constant of the graph."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from ..errors import UsageError
from ..text import no_such, quoted
from . import protos
from .batch_axes import BatchAxis
from .dataflow import Shape
from .model import Model, load

Array = npt.NDArray[Any]


def with_fixed_inputs(model: Model, values: Mapping[str, Any], axes: Mapping[str, BatchAxis]) -> Model:
    """Replace graph inputs by constants.

    Parameters
    ----------
    model
        A loaded model.
    values
        Number, text or array by graph input, broadcast to the input's shape. An array may omit the batch axis.
    axes
        Batch axes of all graph inputs. The value of an input with an open batch axis is repeated to the batch size of
        the inputs that remain.

    Returns
    -------
    Model
        The model without these inputs, or `model` itself if `values` is empty.

    Raises
    ------
    UsageError
        A named input does not exist, a value does not fit its input, or no input remains.
    """
    if not values:
        return model
    graph = model.proto.graph
    declared = {value.name: value for value in graph.input}
    for name in values:
        if name not in declared:
            raise UsageError(f"set: {no_such('input', name, list(declared), 'the model')}")
    if not set(model.flow.inputs) - set(values):
        raise UsageError("set fixes every input of the model, and none is left that takes samples; leave one out")
    proto = protos.copy_into(onnx.ModelProto(), model.proto)
    kept = [value for value in graph.input if value.name not in values]
    tensors = [tensor for tensor in graph.initializer if tensor.name not in values]
    del proto.graph.input[:], proto.graph.initializer[:], proto.graph.node[:]
    proto.graph.input.extend(kept)
    protos.copy_tensors(proto.graph.initializer, tensors)
    reference = _reference(model, axes, values)
    for name, value in values.items():
        _fix(proto.graph, model, name, _typed(value, declared[name]), axes.get(name, BatchAxis(None, False)), reference)
    proto.graph.node.extend(graph.node)
    return dataclasses.replace(load(proto), sha256=model.sha256, name=model.name, path=model.path)


def _reference(model: Model, axes: Mapping[str, BatchAxis], values: Mapping[str, Any]) -> tuple[str, int] | None:
    """Name and batch axis of the remaining input that determines the batch size of fixed inputs; None if none does."""
    for name, each in axes.items():
        if name not in values and each.axis is not None:
            return name, each.axis
    return None


def _typed(value: Any, declared: onnx.ValueInfoProto) -> Array:
    """Convert a value to an array of the input's type.

    Raises
    ------
    UsageError
        The value cannot be represented in that type.
    """
    dtype = onnx.helper.tensor_dtype_to_np_dtype(declared.type.tensor_type.elem_type)
    wanted = f"set: {quoted(declared.name)} holds {dtype}"
    try:
        array = np.asarray(_parsed(value, dtype))
        found = array.astype(dtype)
    except (TypeError, ValueError, OverflowError):
        raise UsageError(f"{wanted}, and {quoted(value)} is no such value; give {_expected(dtype)}") from None
    if dtype.kind in "biu" and not np.array_equal(found.astype(np.float64), array.astype(np.float64)):
        raise UsageError(f"{wanted}, which cannot hold {quoted(value)}; give {_expected(dtype)}")
    return found


def _expected(dtype: np.dtype[Any]) -> str:
    return "true or false" if dtype.kind == "b" else "integers" if dtype.kind in "iu" else "numbers"


def _parsed(value: Any, dtype: np.dtype[Any]) -> Any:
    if not isinstance(value, str) or dtype.kind == "O":
        return value
    parts = [_number(part.strip()) for part in value.split(",")]
    return parts[0] if len(parts) == 1 else parts


def _number(text: str) -> float | int | bool:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return int(text)
    except ValueError:
        return float(text)


def _fix(
    graph: onnx.GraphProto,
    model: Model,
    name: str,
    value: Array,
    batch: BatchAxis,
    reference: tuple[str, int] | None,
) -> None:
    """Add the constant that replaces a graph input, repeated to the batch size of `reference` if its batch is open."""
    shape = model.flow.shape(name)
    if shape is None:
        graph.initializer.append(onnx.numpy_helper.from_array(value, name))
        return
    axis = batch.axis if reference is not None and batch.axis is not None and _is_open(shape, batch) else None
    sample = _broadcast(name, value, shape, axis)
    if axis is None or reference is None:
        graph.initializer.append(onnx.numpy_helper.from_array(sample, name))
        return
    _repeat(graph, name, sample, axis, reference)


def _is_open(shape: Shape, batch: BatchAxis) -> bool:
    return batch.axis is not None and not isinstance(shape[batch.axis], int)


def _broadcast(name: str, value: Array, shape: Shape, axis: int | None) -> Array:
    """Broadcast a value to the input's shape, with size 1 along the batch axis.

    Raises
    ------
    UsageError
        The value does not fit the shape, or the model leaves sizes open that the value does not determine.
    """
    if axis is not None and value.ndim == len(shape) - 1:
        value = np.expand_dims(value, axis)
    sizes = [1 if position == axis else size for position, size in enumerate(shape)]
    if value.ndim == len(shape):  # the value determines the sizes that the model leaves open
        sizes = [size if isinstance(size, int) else value.shape[i] for i, size in enumerate(sizes)]
    elif any(not isinstance(size, int) for size in sizes):
        raise UsageError(
            f"set: the model leaves sizes of {quoted(name)} open, {_text(shape)}; give an array of its shape, such as "
            f"FILE.npy"
        )
    try:
        return np.array(np.broadcast_to(value, [int(size) for size in sizes if size is not None]))
    except ValueError:
        raise UsageError(
            f"set: {quoted(name)} has shape {_text(shape)}, the value {_text(value.shape)}; give one number, or an "
            f"array of that shape"
        ) from None


def _text(shape: Shape) -> str:
    return "x".join("?" if size is None else str(size) for size in shape) or "scalar"


def _repeat(graph: onnx.GraphProto, name: str, sample: Array, axis: int, reference: tuple[str, int]) -> None:
    """Add nodes that repeat the value of one sample to the batch size of the reference input."""
    source, at = reference
    parts = {"sample": sample, "at": np.array([at]), "head": np.array(sample.shape[:axis], np.int64)}
    parts["tail"] = np.array(sample.shape[axis + 1 :], np.int64)
    names = {part: f"{name}/fixed/{part}" for part in (*parts, "shape", "batch", "sizes")}
    graph.initializer.extend(onnx.numpy_helper.from_array(array, names[part]) for part, array in parts.items())
    make = onnx.helper.make_node
    graph.node.extend(
        [
            make("Shape", [source], [names["shape"]], names["shape"]),
            make("Gather", [names["shape"], names["at"]], [names["batch"]], names["batch"]),
            make("Concat", [names["head"], names["batch"], names["tail"]], [names["sizes"]], names["sizes"], axis=0),
            make("Expand", [names["sample"], names["sizes"]], [name], f"{name}/fixed"),
        ]
    )
