"""The paper's coherency revision: neighboring layers are rescaled without changing the network's function.

If two layers are separated only by positively homogeneous operators (``h(c x) = c h(x)`` for c > 0, such as ReLU), the
first can be divided by a factor and the second multiplied by it (the paper's section 4).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from ..arguments import Names
from ..config import RESCALE_FACTOR
from ..errors import ModelError, UsageError
from ..text import quoted
from . import protos
from .dataflow import Dataflow
from .layers import list_layers, select_layers
from .model import Model, ModelSource, load

# Operators that are positively homogeneous in one operand and do not compute with the values of others.
_HOMOGENEOUS = frozenset({
    "Abs", "AveragePool", "Expand", "Flatten", "GlobalAveragePool", "GlobalMaxPool", "Identity", "LeakyRelu", "LpPool",
    "MaxPool", "PRelu", "ReduceMax", "ReduceMean", "ReduceSum", "Relu", "Reshape", "Slice", "Squeeze", "Transpose",
    "Unsqueeze",
})  # fmt: skip
# Layers that are linear in their first operand and in their second, with a bias as the third; if several operands could
# be the weights, the constant one is.
_LINEAR = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_BIAS = {"Conv": 2, "ConvTranspose": 2, "Gemm": 2}


@dataclass(frozen=True)
class Pair:
    """Two neighboring layers between which scale can be moved.

    Attributes
    ----------
    first, second
        Names of their nodes.
    between
        Names of the tensors from the first layer's output to the second one's input, which the rescaling divides.
    divided, multiplied
        Operands, as (position of the node, position of the input).
    """

    first: str
    second: str
    between: tuple[str, ...]
    divided: tuple[tuple[int, int], ...]
    multiplied: tuple[tuple[int, int], ...]


def neighbors(model: ModelSource) -> list[Pair]:
    """List the pairs of layers that can be rescaled, in the order of the graph's nodes.

    The first layer is a convolution, matrix product (with its bias, wherever it is added) or batch normalization whose
    weights are initializers, the second a convolution or matrix product. Only positively homogeneous operators are
    between them; the tensors between them have no other consumers and are not outputs of the graph. If a layer is
    followed by a batch normalization, the normalization is the first layer.

    Raises
    ------
    ModelError
        The model cannot be loaded.
    """
    flow = load(model).flow
    return [pair for position in range(len(flow.nodes)) if (pair := _pair(flow, position)) is not None]


def select_pairs(model: ModelSource, layers: Names = (), exclude: Names = ()) -> list[Pair]:
    """Select those of the :func:`neighbors` of a model that :func:`rescale` changes, by the same patterns.

    Raises
    ------
    UsageError
        No pair is selected, or the model has none.
    ModelError
        The model cannot be loaded.
    """
    loaded = load(model)
    pairs = neighbors(loaded)
    if not pairs:
        raise UsageError("no two layers of the model are separated by positively homogeneous operators only")
    if not (layers or exclude):
        return pairs
    # Any tensor between layers may be named, not only default layers.
    chosen = {layer.name for layer in select_layers(list_layers(loaded), layers or ["0-"], exclude)}
    pairs = [pair for pair in pairs if chosen.intersection(pair.between)]
    if not pairs:
        raise UsageError("the patterns choose no tensor between two layers that can be rescaled; choose others")
    return pairs


def rescale(
    model: ModelSource,
    factor: float = RESCALE_FACTOR,
    layers: Names = (),
    exclude: Names = (),
    *,
    example: Any = None,
) -> Model:
    """Divide layers by a factor and multiply the following layers by it, so that the outputs stay the same.

    For layers L and L+1: ``W(L) / factor``, ``b(L) / factor``, ``W(L+1) * factor``, the bias of L+1 unchanged.

    Parameters
    ----------
    model
        See :func:`onnxinfo.load`.
    factor
        Positive factor; powers of two cause no rounding.
    layers, exclude
        Patterns, see :func:`onnxinfo.select_layers`: a pair is rescaled if a tensor between its layers is selected.
        Default: all of :func:`neighbors`.
    example
        Input of a torch module, see :func:`onnxinfo.load`.

    Returns
    -------
    Model
        The rescaled model; names and structure are unchanged.

    Raises
    ------
    UsageError
        The factor is not a positive number, no pair is selected, or the model has none.
    ModelError
        The model cannot be loaded, or a rescaled weight overflows its type.

    Examples
    --------
    >>> import torch
    >>> model = onnxinfo.rescale("digits-cnn.onnx", 4.0, layers=["relu_1"])
    >>> before, after = (onnxinfo.convert(each)(torch.ones(1, 1, 8, 8))[0] for each in ("digits-cnn.onnx", model))
    >>> torch.allclose(before, after, atol=1e-4)
    True
    """
    if not (math.isfinite(factor) and factor > 0):
        raise UsageError(f"factor {factor} is not usable: give a positive number, such as 4")
    loaded = load(model, example=example)
    pairs = select_pairs(loaded, layers, exclude)
    proto = protos.copy_into(onnx.ModelProto(), loaded.proto)
    operands = _Operands(proto.graph)
    for pair in pairs:
        for at in pair.divided:
            operands.multiply(*at, 1 / factor)
        for at in pair.multiplied:
            operands.multiply(*at, factor)
    return dataclasses.replace(loaded, proto=proto)


def _pair(flow: Dataflow, position: int) -> Pair | None:
    divided = list(_own_parameters(flow, position))
    if not divided:
        return None
    name = flow.nodes[position].output[0]
    between = [name]
    while (reader := _only_reader(flow, name)) is not None:
        node = flow.nodes[reader]
        weights = _weights(flow, reader, name)
        if weights is not None:
            return Pair(flow.nodes[position].name, node.name, tuple(between), tuple(divided), ((reader, weights),))
        bias = _added(flow, reader, name)
        if bias is not None and len(between) == 1:
            divided.append((reader, bias))
        elif not _is_homogeneous(flow, reader, name):
            return None
        name = node.output[0]
        between.append(name)
    return None


def _own_parameters(flow: Dataflow, position: int) -> Iterator[tuple[int, int]]:
    """Operands that a layer's output is proportional to, taken together; none if it is not such a layer."""
    node = flow.nodes[position]
    if node.domain:
        return
    if node.op_type == "BatchNormalization":
        found = [1, 2]
    elif node.op_type in _LINEAR:
        weights = [i for i, name in enumerate(node.input[:2]) if name in flow.initializers]
        if len(weights) != 1:
            return
        bias = _BIAS.get(node.op_type, len(node.input))
        found = weights + ([bias] if len(node.input) > bias and node.input[bias] else [])
    else:
        return
    if all(node.input[i] in flow.initializers and flow.is_float(node.output[0]) for i in found):
        yield from ((position, i) for i in found)


def _weights(flow: Dataflow, position: int, name: str) -> int | None:
    """Position of a linear layer's weights, if the named value is another operand and only that."""
    node = flow.nodes[position]
    operands = list(node.input[:2])
    if (
        node.op_type not in _LINEAR
        or node.domain
        or operands.count(name) != 1
        or (node.op_type.startswith("Conv") and operands[0] != name)
    ):
        return None
    other = 1 - operands.index(name)
    return other if node.input[other] in flow.initializers and name not in node.input[2:] else None


def _added(flow: Dataflow, position: int, name: str) -> int | None:
    """Position of an Add's bias on the named value."""
    node = flow.nodes[position]
    if node.op_type != "Add" or node.domain or list(node.input).count(name) != 1:
        return None
    other = 1 - list(node.input).index(name)
    return other if node.input[other] in flow.initializers else None


def _only_reader(flow: Dataflow, name: str) -> int | None:
    """The only consumer of a value, if there is exactly one."""
    readers = [i for i in flow.consumers[name] if flow.sees(i)]
    return readers[0] if len(readers) == 1 and name not in flow.outputs else None


def _is_homogeneous(flow: Dataflow, position: int, name: str) -> bool:
    node = flow.nodes[position]
    if node.domain or list(node.input).count(name) != 1 or node.input[0] != name:
        return False
    if node.op_type == "Dropout":
        # In training mode it draws random numbers; the mode is an optional operand.
        return len(node.input) < 3 or not node.input[2]
    if node.op_type == "Pad":
        return len(node.input) < 3 or not node.input[2] or _is_zero(flow, node.input[2])
    return node.op_type in _HOMOGENEOUS


def _is_zero(flow: Dataflow, name: str) -> bool:
    return name in flow.initializers and not onnx.numpy_helper.to_array(flow.initializers[name]).any()


class _Operands:
    """Initializers of a graph as operands of single nodes."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph, self._flow = graph, Dataflow(graph)
        self._own: dict[tuple[int, int], onnx.TensorProto] = {}
        self._taken = {*protos.initial_names(graph), *self._flow.producer, *(value.name for value in graph.input)}

    def multiply(self, node: int, operand: int, factor: float) -> None:
        """Multiply an operand of one node, but not of others that share it."""
        tensor = self._separate(node, operand)
        values = onnx.numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):
            scaled = (values.astype(np.float64) * factor).astype(values.dtype)
        if not np.isfinite(scaled.astype(np.float64)).all():
            raise ModelError(
                f"{quoted(tensor.name)} times {factor:g} exceeds the range of its type; choose another factor"
            )
        tensor.CopyFrom(onnx.numpy_helper.from_array(scaled, tensor.name))

    def _separate(self, node: int, operand: int) -> onnx.TensorProto:
        if (node, operand) in self._own:
            return self._own[node, operand]
        # The graph changes here, its dataflow does not.
        nodes = self._graph.node
        name = nodes[node].input[operand]
        tensor = self._flow.initializers[name]
        uses = sum(list(other.input).count(name) for other in nodes)
        captured = any(name in self._flow.needs[i] and name not in nodes[i].input for i in self._flow.consumers[name])
        if uses > 1 or captured or name in self._flow.outputs or any(v.name == name for v in self._graph.input):
            tensor = self._graph.initializer.add()
            protos.copy_into(tensor, self._flow.initializers[name])
            tensor.name = self._free_name(name)
            nodes[node].input[operand] = tensor.name
        self._own[node, operand] = tensor
        return tensor

    def _free_name(self, name: str) -> str:
        number = 1
        while f"{name}_rescaled_{number}" in self._taken:
            number += 1
        self._taken.add(f"{name}_rescaled_{number}")
        return f"{name}_rescaled_{number}"
