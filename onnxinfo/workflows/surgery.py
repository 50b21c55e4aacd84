"""Tensors of a model, and parts of them, as outputs of the graph, of a piece of it, or of a torch module."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ..arguments import Names, names_of
from ..errors import UsageError
from ..graph import surgery
from ..graph.model import Model, ModelSource, load
from ..graph.parts import parted_tensors, with_parts
from ..graph.patterns import part_name
from ..text import quoted

if TYPE_CHECKING:
    from torch import fx


def with_named_parts(model: Model, names: Sequence[str]) -> Model:
    """Return a model with the parts of tensors that names or patterns of layers name.

    Raises
    ------
    UsageError
        A part does not exist.
    """
    if not parted_tensors(model, names):
        return with_parts(model, names)
    # Imported here because a trial for the axis of the samples imports torch.
    from ..config import SelectionConfig
    from .open_model import with_chosen_parts

    return with_chosen_parts(model, SelectionConfig(names))


def expose(model: ModelSource, tensors: Names, *, example: Any = None) -> Model:
    """Make tensors of a model additional outputs, after the original ones.

    Parameters
    ----------
    model
        See :func:`onnxinfo.load`.
    tensors
        Names of tensors of the main graph: computed values, inputs or initializers; or parts of computed values, such
        as ``"logits[3]"``. Existing outputs and duplicates are ignored.
    example
        Input of a torch module, see :func:`onnxinfo.load`.

    Returns
    -------
    Model
        The model with its graph otherwise unchanged.

    Raises
    ------
    ModelError
        The model cannot be loaded, or the type of a tensor is unknown.
    UsageError
        A tensor is not in the graph, or a part does not exist.

    Examples
    --------
    >>> model = onnxinfo.expose("digits-cnn.onnx", ["relu", "relu_1", "logits[3]"])
    >>> [output.name for output in model.proto.graph.output]
    ['logits', 'relu', 'relu_1', 'logits[3]']
    """
    loaded, names = _with_parts(load(model, example=example), names_of(tensors, "tensors"))
    return _as_loaded(surgery.expose(loaded, names))


def extract(model: ModelSource, inputs: Names, outputs: Names, *, example: Any = None) -> Model:
    """Extract the part of a graph between tensors.

    Parameters
    ----------
    model
        See :func:`onnxinfo.load`.
    inputs
        Names of tensors that become graph inputs, in this order; the nodes that compute them are removed. Graph inputs
        and initializers may be named too, and then become required inputs.
    outputs
        Names of tensors that become the only graph outputs, in this order; parts as in :func:`expose` are allowed.
    example
        Input of a torch module, see :func:`onnxinfo.load`.

    Returns
    -------
    Model
        Other graph inputs that ``outputs`` need are kept after ``inputs``.

    Raises
    ------
    ModelError
        The model cannot be loaded, or the type of a tensor is unknown.
    UsageError
        A tensor is not in the graph, a part does not exist or is named as an input, or no output depends on one of the
        inputs.

    Examples
    --------
    >>> model = onnxinfo.extract("digits-cnn.onnx", ["relu_6"], ["logits"])
    >>> [value.name for value in model.proto.graph.input], [node.op_type for node in model.proto.graph.node]
    (['relu_6'], ['AveragePool', 'Reshape', 'Gemm'])
    """
    loaded, heads = load(model, example=example), names_of(inputs, "inputs")
    for name in heads:
        for tensor in parted_tensors(loaded, name):
            raise UsageError(f"{quoted(name)} is a part of {quoted(tensor)}; whole tensors expected as inputs")
    loaded, tails = _with_parts(loaded, names_of(outputs, "outputs"))
    return _as_loaded(surgery.extract(loaded, heads, tails))


def convert(
    model: ModelSource,
    outputs: Names | None = None,
    *,
    fallback: bool = True,
    shapes: Mapping[str, Sequence[int | None]] = MappingProxyType({}),
    example: Any = None,
) -> fx.GraphModule:
    """Convert an ONNX model to a differentiable :class:`torch.fx.GraphModule`.

    Parameters
    ----------
    model
        See :func:`onnxinfo.load`.
    outputs
        Names of the tensors to return, any tensors of the graph, or parts as in :func:`expose`; default: the graph
        outputs. The module contains only the nodes that they need.
    fallback
        Whether a node without a converter may run in ONNX Runtime or the reference evaluator, as a constant through
        which no gradient passes.
    shapes
        Shapes of graph inputs, by name, to which the graph is specialized: what depends on shapes alone is computed
        now, and only inputs of these shapes are accepted. None leaves the size of an axis free.
    example
        Input of a torch module, see :func:`onnxinfo.load`.

    Returns
    -------
    torch.fx.GraphModule
        Positional inputs in the order of the ONNX graph inputs (without those that are also initializers); returns
        a tuple with one tensor per requested output. ``meta["conversions"]`` lists the backend of each node, as
        :func:`.conversions.conversion_report` does.

    Raises
    ------
    ModelError
        The model cannot be loaded.
    UsageError
        An output is not a tensor of the graph, a part does not exist, or the shapes contradict the model or each other.
    ConversionError
        A needed operator has no converter; the message names node, operator and opset version.

    Examples
    --------
    >>> import torch
    >>> module = onnxinfo.convert("digits-cnn.onnx", ["relu_1", "logits", "logits[3]"])
    >>> [tuple(output.shape) for output in module(torch.zeros(2, 1, 8, 8))]
    [(2, 16, 8, 8), (2, 10), (2, 1)]
    """
    from ..torch_graph.convert import convert as convert_graph

    loaded, names = load(model, example=example), None
    if outputs is not None:
        loaded, names = _with_parts(loaded, names_of(outputs, "outputs"))
    return convert_graph(loaded, names, fallback=fallback, shapes=shapes)


def _with_parts(model: Model, names: Sequence[str]) -> tuple[Model, list[str]]:
    """Return a model with the parts that are named, and the names of the tensors."""
    found = with_named_parts(model, names)
    added = found.parts.keys() - model.flow.producer.keys()
    return found, [part if (part := part_name(name)) in added else name for name in names]


def _as_loaded(model: Model) -> Model:
    """Return a model whose parts are tensors like others, as when it is read from a file."""
    return dataclasses.replace(model, parts={}) if model.parts else model
