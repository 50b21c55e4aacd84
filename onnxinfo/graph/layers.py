"""Layers that can be analyzed: the tensors of a graph that depend on the analysis input; and their selection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..arguments import Names, names_of
from ..errors import UnknownLayerError, UsageError
from ..moved import renamed_keywords
from .anchors import Anchors
from .blocks import Blocks
from .branches import why_not_listed
from .dataflow import Shape as Shape
from .functions import function_key
from .influence import Influence
from .joint import is_joining
from .model import Model, ModelSource, load
from .parts import whole_layers
from .patterns import matching, part_name
from .perturbed import TensorNames, perturbed_tensors


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
def list_layers(model: ModelSource, input_tensor: TensorNames = None, *, example: Any = None) -> list[Layer]:
    """List the tensors that can be analyzed, in the order of the file's nodes.

    These are the float tensors of the main graph whose values depend on those of the analysis input (not constants or
    shape arithmetic, which depends on shapes only), and the integers that quantized operators compute. Tensors inside
    functions and bodies of control flow have no name outside and are not listed, except for those in a branch that a
    constant decides, which :func:`onnxinfo.load` makes part of the main graph.

    The default layers are those that people usually mean:

    - blocks: the output of a convolution, matrix product, recurrent layer, attention operator, or of a function or
      control flow node that contains one, after its bias, normalization and activation, even if those are written
      in elementary operators (``x * sigmoid(x)``, GELU by ``Erf``, layer normalization by ``ReduceMean``). A gate
      that is computed from the means of a block and multiplies it (squeeze and excitation) is part of the block, the
      weights of an attention are part of its output, and the final states of a recurrence are part of its output at
      all steps. A product with a matrix that the graph computes from constants alone, such as a Fourier transform
      by cosines, is no block;
    - residual sums, ``Add``, ``Sum`` or the sum of a stack of values that depend on the analysis input, after their
      normalization and activation; a block whose output is only used by a sum is part of it;
    - the graph's outputs, and what outputs that are no features (labels, maps from label to probability) are
      computed from. What is computed from the position of a largest score, or a score's sign, alone is a label, too;
    - the scores before a final softmax or sigmoid, also in elementary operators, instead of it and of what is
      computed from it alone: probabilities saturate, and the scores before them carry the same information.

    In quantized networks, blocks include the rescaling of integers, and a block that is rounded ends after
    ``DequantizeLinear``: an activation may be part of the rounding, and the next layer reads the rounded values.

    Parameters
    ----------
    model
        See :func:`onnxinfo.load`.
    input_tensor
        Names of the tensors that noise is added to; default: see :func:`perturbed_tensors`.
    example
        Input of a torch module, see :func:`onnxinfo.load`.

    Returns
    -------
    list of Layer
        Their ``index`` is the position in this list.

    Raises
    ------
    ModelError
        The model cannot be loaded, or has no tensor that noise can be added to.
    UsageError
        A tensor in ``input_tensor`` is not a float tensor of the graph.

    Examples
    --------
    >>> layers = onnxinfo.list_layers("digits-cnn.onnx")
    >>> len(layers), [layer.name for layer in layers if layer.default][-2:]
    (22, ['relu_6', 'logits'])
    """
    loaded = load(model, example=example)
    own = _own_layers(whole_layers(loaded), input_tensor)
    return own + _parts(loaded, own)


def _own_layers(loaded: Model, input_tensor: TensorNames) -> list[Layer]:
    """List the tensors of a model without parts."""
    sources = perturbed_tensors(loaded, input_tensor)
    flow = loaded.flow
    influenced = flow.influenced(*sources)
    anchors = Anchors(Influence(flow, influenced), {function_key(f): f for f in loaded.proto.functions})
    blocks, depth = Blocks(anchors), anchors.depth()
    names = [name for node in flow.nodes if not is_joining(node) for name in node.output]
    analyzable = [name for name in names if name in influenced and name not in sources and flow.is_feature(name)]
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


def _parts(model: Model, layers: Sequence[Layer]) -> list[Layer]:
    """List the parts of layers that were added to a model, in the layers' order."""
    flow, whole = model.flow, {layer.name: layer for layer in layers}
    names = [name for name, tensor in model.parts.items() if tensor in whole and name in flow.producer]
    names.sort(key=lambda name: whole[model.parts[name]].index)
    return [
        replace(
            whole[model.parts[name]],
            index=len(layers) + i,
            name=name,
            op=flow.nodes[flow.producer[name]].op_type,
            node=flow.nodes[flow.producer[name]].name,
            shape=flow.shape(name),
            parameters=0,
            default=False,
        )
        for i, name in enumerate(names)
    ]


def select_layers(layers: Sequence[Layer], patterns: Names = (), exclude: Names = ()) -> list[Layer]:
    """Select layers by patterns.

    A pattern is, in this order of precedence:

    - the exact name of a tensor;
    - ``relu[5]``, ``relu[5,2:6,2:6]``, ``logits[3]``: a part of the layer of that name, indexed as in numpy over its
      axes without the batch. Analyses and lists of a model's layers add the part as a layer; here, it is the name of
      a layer in `layers`;
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
        Layers that match any of them are selected; without patterns, the default layers. One pattern need not be in a
        list, and an index may be a number.
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
    wanted = names_of(patterns, "layers")
    if wanted:
        chosen = set().union(*(matching(pattern, layers) for pattern in wanted))
    else:
        chosen = {layer.index for layer in layers if layer.default}
    chosen = chosen.difference(*(matching(pattern, layers) for pattern in names_of(exclude, "exclude")))
    selected = [layer for layer in layers if layer.index in chosen]
    if not selected:
        raise UsageError(f"the patterns choose none of the {len(layers)} layers; exclude less")
    return selected


def spelled_out(layers: Sequence[Layer], patterns: Names) -> frozenset[str]:
    """Return the names of the layers that patterns spell out, and do not only match."""
    wanted = names_of(patterns, "layers")
    return frozenset({*wanted, *map(part_name, wanted)}.intersection(layer.name for layer in layers))


def choose_layers(
    model: Model, input_tensors: Sequence[str], patterns: Names = (), exclude: Names = ()
) -> tuple[list[Layer], list[Layer]]:
    """List a model's layers and select some by patterns, as :func:`list_layers` and :func:`select_layers` do.

    Parameters
    ----------
    model
        A loaded model.
    input_tensors
        The tensors that noise is added to.
    patterns, exclude
        Patterns. Parts of layers that they name must be in the model, see :func:`.parts.with_parts`.

    Returns
    -------
    tuple
        All layers, and the selected ones.

    Raises
    ------
    UsageError
        As in :func:`select_layers`. If the layers that a pattern names are inside control flow, the message says why
        they are not listed.
    """
    listed = list_layers(model, input_tensors)
    parts = {layer.name: layer for layer in listed if layer.name in model.parts}
    whole = [layer for layer in listed if layer.name not in parts]
    wanted = names_of(patterns, "layers")
    named = {part_name(pattern) for pattern in wanted}.intersection(parts)
    others = [pattern for pattern in wanted if part_name(pattern) not in named]
    try:
        chosen = select_layers(whole, others, exclude) if others or not named else []
        return listed, [*chosen, *(layer for name, layer in parts.items() if name in named)]
    except UnknownLayerError:
        reason = why_not_listed(
            model.flow, input_tensors, [*names_of(patterns, "layers"), *names_of(exclude, "exclude")]
        )
        if reason is None:
            raise
        raise UnknownLayerError(reason) from None
