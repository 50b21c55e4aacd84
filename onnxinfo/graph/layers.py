"""Layers that can be analyzed: the tensors of a graph that depend on the analysis input; and their selection."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import ModelError, UsageError
from ..moved import renamed_keywords
from ..text import quoted
from .blocks import LAYOUT, MATRIX, Blocks
from .dataflow import Dataflow
from .dataflow import Shape as Shape
from .functions import function_key
from .model import ModelSource, load
from .patterns import matching


@dataclass(frozen=True)
class Layer:
    """A tensor that can be analyzed.

    Parameters
    ----------
    index
        Index among all layers of the model, in the order of the file's nodes.
    name
        Name of the tensor in the ONNX file.
    op, node
        Operator and name of the node that computes it.
    shape
        Sizes: numbers, names of symbolic dimensions, None if unknown; None instead of a tuple if the rank is unknown.
    parameters
        Number of parameters: those of the whole block if the tensor is the end of one (a residual sum includes the
        blocks that only it uses), else those of the node.
    depth
        Number of layers with parameters (convolution, matrix product, recurrence) on the longest path to the tensor.
    default
        Whether it is selected if no patterns are given.

    Examples
    --------
    >>> layer = onnxinfo.list_layers("digits-cnn.onnx")[1]
    >>> layer.name, layer.op, layer.shape, layer.depth, layer.default
    ('relu', 'Relu', ('batch', 16, 8, 8), 1, True)
    """

    index: int
    name: str
    op: str
    node: str
    shape: Shape | None
    parameters: int
    depth: int
    default: bool


@renamed_keywords(perturb="input_tensor")
def list_layers(model: ModelSource, input_tensor: str | None = None) -> list[Layer]:
    """List the tensors that can be analyzed, in the order of the file's nodes.

    These are the float tensors of the main graph whose values depend on those of the analysis input (not constants or
    shape arithmetic, which depends on shapes only), and the integers that quantized operators compute. Tensors inside
    functions and bodies of control flow have no name outside and are not listed, except for those in a branch that a
    constant decides, which :func:`onnxinfo.load` makes part of the main graph.

    The default layers are those that people usually mean:

    - blocks: the output of a convolution, matrix product, recurrent layer, attention operator, or of a function or
      control flow node that contains one, after its bias, normalization and activation, even if those are written
      in elementary operators (``x * sigmoid(x)``, GELU by ``Erf``, layer normalization by ``ReduceMean``);
    - residual sums, ``Add`` or ``Sum`` of two values that depend on the analysis input, after their normalization
      and activation; a block whose output is only used by a sum is part of it;
    - the graph's outputs, and what outputs that are no features (labels, maps from label to probability) are
      computed from, except for a final softmax or sigmoid and what is computed from it alone: probabilities
      saturate, and the scores before them carry the same information. A softmax inside an attention is part of its
      block.

    In quantized networks, blocks include the rescaling of integers, and a block that is rounded ends after
    ``DequantizeLinear``: an activation may be part of the rounding, and the next layer reads the rounded values.

    Parameters
    ----------
    model
        See :func:`onnxinfo.load`.
    input_tensor
        Name of the analysis input; default: see :func:`perturbed_tensor`.

    Returns
    -------
    list of Layer
        Their ``index`` is the position in this list.

    Raises
    ------
    ModelError
        The model cannot be loaded, or has no tensor that noise can be added to.
    UsageError
        ``input_tensor`` is not a float tensor of the graph.

    Examples
    --------
    >>> layers = onnxinfo.list_layers("digits-cnn.onnx")
    >>> len(layers), [layer.name for layer in layers if layer.default][-2:]
    (22, ['relu_6', 'logits'])
    """
    loaded = load(model)
    source = perturbed_tensor(loaded, input_tensor)
    flow = loaded.flow
    influenced = flow.influenced(source)
    blocks = Blocks(flow, influenced, {function_key(f): f for f in loaded.proto.functions})
    depth = blocks.depth()
    names = [name for node in flow.nodes for name in node.output]
    analyzable = [name for name in names if name in influenced and name != source and flow.is_feature(name)]
    return [
        Layer(
            index=index,
            name=name,
            op=flow.nodes[flow.producer[name]].op_type,
            node=flow.nodes[flow.producer[name]].name,
            shape=flow.shape(name),
            parameters=blocks.parameters(name),
            depth=depth[name],
            default=name in blocks.ends,
        )
        for index, name in enumerate(analyzable)
    ]


def select_layers(layers: Sequence[Layer], patterns: Sequence[str] = (), exclude: Sequence[str] = ()) -> list[Layer]:
    """Select layers by patterns.

    A pattern is, in this order of precedence:

    - the exact name of a tensor;
    - ``re:EXPRESSION``: a regular expression found anywhere in the name (``^`` and ``$`` anchor it);
    - ``op:OPERATOR``: a case-insensitive glob over operators, as in ``op:Relu`` or ``op:*Norm*``;
    - ``5``: an index; ``-1``: the last layer, ``-2`` the one before it; ``3-7``: a range, inclusive; ``3-``: to
      the end;
    - otherwise a glob over names: ``*`` and ``?`` match any characters including dots and slashes, ``[ab]`` a choice.

    Parameters
    ----------
    layers
        From :func:`list_layers`.
    patterns
        Layers that match any of them are selected; without patterns, the default layers.
    exclude
        Layers that match any of them are excluded.

    Returns
    -------
    list of Layer
        Selected layers without duplicates, in the order of ``layers``.

    Raises
    ------
    UsageError
        A pattern matches no layer (the message names similar names), or no layer is left.

    Examples
    --------
    >>> layers = onnxinfo.list_layers("digits-cnn.onnx")
    >>> [layer.name for layer in onnxinfo.select_layers(layers, ["op:Relu", "-1"], exclude=["*_[3-6]"])]
    ['relu', 'relu_1', 'relu_2', 'logits']
    """
    if patterns:
        chosen = set().union(*(matching(pattern, layers) for pattern in patterns))
    else:
        chosen = {layer.index for layer in layers if layer.default}
    left_out = set().union(*(matching(pattern, layers) for pattern in exclude))
    selected = [layer for layer in layers if layer.index in chosen - left_out]
    if not selected:
        raise UsageError(f"the patterns choose none of the {len(layers)} layers; exclude less")
    return selected


@renamed_keywords(perturb="input_tensor")
def perturbed_tensor(model: ModelSource, input_tensor: str | None = None) -> str:
    """Return the name of the analysis input: the tensor that noise is added to.

    By default this is the first float graph input that a convolution, matrix product or recurrent layer depends on,
    else the first that any float tensor depends on. If the inputs are integers, or floats that are only cast to
    integers and look up parameters, it is the output of the first parameter lookup by the first input that has one
    (the embedding), else the first float tensor computed from an input.

    Parameters
    ----------
    model
        See :func:`onnxinfo.load`.
    input_tensor
        A float tensor of the graph to add noise to instead.

    Raises
    ------
    ModelError
        The model cannot be loaded, or no float tensor depends on any input.
    UsageError
        ``input_tensor`` is not a float tensor of the graph, or nothing depends on it.

    Examples
    --------
    >>> onnxinfo.perturbed_tensor("digits-cnn.onnx")
    'image'
    """
    flow = load(model).flow
    if input_tensor is not None:
        return _checked(flow, input_tensor)
    ids = {name for name in flow.inputs if flow.is_float(name) and holds_ids(flow, name) and _embeddings(flow, name)}
    inputs = [name for name in flow.inputs if flow.is_float(name) and name not in ids]
    floats = [name for name in inputs if _influences_features(flow, name)]
    for name in floats:
        influenced = flow.influenced(name)
        if any(n.op_type in MATRIX and any(o in influenced for o in n.output) for n in flow.nodes):
            return name
    others = [name for name in flow.inputs if name not in inputs]
    candidates = floats + [e for name in others for e in _embeddings(flow, name)] + _computed_floats(flow, others)
    for name in candidates:
        if _influences_features(flow, name):
            return name
    raise ModelError("no float tensor of the model depends on any of its inputs: there is nothing to perturb")


def _checked(flow: Dataflow, name: str) -> str:
    known = {*flow.producer, *flow.initializers, *(value.name for value in flow.graph.input)}
    if name not in known:
        close = ", ".join(f"{quoted(n)}" for n in difflib.get_close_matches(name, known, n=3)) or "list the layers"
        raise UsageError(f"the graph has no tensor {quoted(name)} to perturb; close to it: {close}")
    if not flow.is_float(name):
        raise UsageError(f"tensor {quoted(name)} cannot be perturbed: it does not hold floats; name one that does")
    if not _influences_features(flow, name):
        raise UsageError(f"nothing depends on tensor {quoted(name)}; name another one to perturb")
    return name


def _influences_features(flow: Dataflow, name: str) -> bool:
    return any(flow.is_feature(other) for other in flow.influenced(name) - {name})


# Operators through which a value stays an id, and those that look at a value without a gradient.
_KEEPING_IDS = LAYOUT - {"Cast", "DequantizeLinear", "DynamicQuantizeLinear", "QuantizeLinear"} | {
    "Ceil", "Clip", "Concat", "Expand", "Floor", "Gather", "GatherND", "Round", "Slice", "Split", "Tile",
}  # fmt: skip
_WITHOUT_GRADIENT = {"Equal", "Greater", "GreaterOrEqual", "IsNaN", "Less", "LessOrEqual", "Shape", "Size"}


def holds_ids(flow: Dataflow, name: str) -> bool:
    """Whether every path from a float graph input is cast to integers before anything computes with its values."""
    pending, seen, is_cast = [name], {name}, False
    while pending:
        value = pending.pop()
        for position in flow.consumers.get(value, ()):
            node = flow.nodes[position]
            if node.domain or (node.op_type not in _KEEPING_IDS and node.op_type not in {"Cast", *_WITHOUT_GRADIENT}):
                return False
            if node.op_type in _WITHOUT_GRADIENT:
                continue
            floats = [output for output in node.output if flow.is_float(output)]
            is_cast |= node.op_type == "Cast" and not floats
            pending += [output for output in floats if output not in seen]
            seen.update(floats)
    return is_cast and not seen & flow.outputs


def _embeddings(flow: Dataflow, source: str) -> list[str]:
    """Outputs of lookups of float parameters by indices that depend on an input."""
    influenced = flow.influenced(source)
    found = []
    for i, node in enumerate(flow.nodes):
        lookup = node.op_type in ("Gather", "EmbedLayerNormalization") and any(n in influenced for n in flow.needs[i])
        if lookup and flow.is_float(node.output[0]) and flow.parameters_of(i, influenced):
            found.append(node.output[0])
    return found


def _computed_floats(flow: Dataflow, sources: Sequence[str]) -> list[str]:
    influenced = set().union(*(flow.influenced(name) for name in sources))
    return [n for node in flow.nodes for n in node.output if n in influenced and flow.is_float(n)]
