"""The tensors that noise is added to: all float inputs that hold data, or the embedding of token ids."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Sequence, Set
from typing import Any

from ..errors import ModelError, UsageError
from ..moved import renamed_keywords, warn_former
from ..text import quoted
from .dataflow import Dataflow
from .held_inputs import held_inputs
from .model import ModelSource, load
from .operators import LAYOUT
from .protos import Node

#: Names of tensors given by the user: one, several, or none for the default.
TensorNames = str | Sequence[str] | None


@renamed_keywords(perturb="input_tensor")
def perturbed_tensors(model: ModelSource, input_tensor: TensorNames = None, *, example: Any = None) -> list[str]:
    """Return the names of the tensors that noise is added to.

    By default these are all float graph inputs that hold data and that some float tensor depends on. Scalars, attention
    masks and states of recurrent layers are held, unless the model has no other float input to perturb. Floats that are
    only cast to integers and look up parameters are ids. If all inputs that hold data are integers or ids, it is the
    output of the first parameter lookup by the first input that has one (the embedding), else the first float tensor
    computed from an input.

    Parameters
    ----------
    model
        See :func:`onnxinfo.load`.
    input_tensor
        One or several float tensors of the graph to add noise to instead.
    example
        Input of a torch module, see :func:`onnxinfo.load`.

    Raises
    ------
    ModelError
        The model cannot be loaded, or no float tensor depends on any input.
    UsageError
        A tensor in ``input_tensor`` is not a float tensor of the graph, is given twice or depends on another one, or
        nothing depends on it.

    Examples
    --------
    >>> onnxinfo.perturbed_tensors("digits-cnn.onnx")
    ['image']
    """
    flow = load(model, example=example).flow
    if input_tensor:
        return _given(flow, [input_tensor] if isinstance(input_tensor, str) else list(input_tensor))
    ids = {name for name in flow.inputs if flow.is_float(name) and holds_ids(flow, name) and _looks_up(flow, name)}
    inputs = [name for name in flow.inputs if flow.is_float(name) and name not in ids]
    floats = [name for name in inputs if _influences_features(flow, name)]
    held = held_inputs(flow, floats)
    if data := [name for name in floats if name not in held]:
        return data
    others = [name for name in flow.inputs if name not in inputs]
    candidates = [e for name in others for e in _embeddings(flow, name)]
    candidates += [e for name in others for e in _embeddings_of_vectors(flow, name)] + _computed_floats(flow, others)
    candidates += sorted(floats, key=lambda name: ("state", "scalar", "mask").index(held[name]))
    for name in candidates:
        if _influences_features(flow, name):
            return [name]
    raise ModelError("no float tensor of the model depends on any of its inputs: there is nothing to perturb")


def perturbed_tensor(model: ModelSource, input_tensor: str | None = None) -> str:
    """Return the first of :func:`perturbed_tensors`.

    .. deprecated:: 0.2
        Noise may be added to several inputs; use :func:`perturbed_tensors`.
    """
    warn_former("'perturbed_tensor' is now 'perturbed_tensors', a list; the next release drops the former name")
    return perturbed_tensors(model, input_tensor)[0]


def _given(flow: Dataflow, names: list[str]) -> list[str]:
    known = {*flow.producer, *flow.initializers, *(value.name for value in flow.graph.input)}
    for name in names:
        _check(flow, name, known)
    for name, times in Counter(names).items():
        if times > 1:
            raise UsageError(f"tensor {quoted(name)} is given twice; name each tensor to perturb once")
        others = names if name in flow.producer else ()
        ahead = [other for other in others if other != name and name in flow.influenced(other)]
        if ahead:
            raise UsageError(
                f"tensor {quoted(name)} depends on {quoted(ahead[0])}: noise on both would be added twice; name one of "
                f"them"
            )
    return names


def _check(flow: Dataflow, name: str, known: Set[str]) -> None:
    if name not in known:
        close = ", ".join(f"{quoted(n)}" for n in difflib.get_close_matches(name, known, n=3)) or "list the layers"
        raise UsageError(f"the graph has no tensor {quoted(name)} to perturb; close to it: {close}")
    if not flow.is_float(name):
        raise UsageError(f"tensor {quoted(name)} cannot be perturbed: it does not hold floats; name one that does")
    if not _influences_features(flow, name):
        raise UsageError(f"nothing depends on tensor {quoted(name)}; name another one to perturb")


def _influences_features(flow: Dataflow, name: str) -> bool:
    return name in flow.before_features


# Operators through which a value stays an id, and those that look at a value without a gradient.
_KEEPING_IDS = LAYOUT - {"Cast", "DequantizeLinear", "DynamicQuantizeLinear", "QuantizeLinear"} | {
    "Ceil", "Clip", "Concat", "Expand", "Floor", "Gather", "GatherND", "Round", "Slice", "Split", "Tile",
}  # fmt: skip
_LOOKUPS = {"EmbedLayerNormalization", "Gather"}
_PRODUCTS = {"Gemm", "MatMul"}
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


def _looks_up(flow: Dataflow, source: str) -> bool:
    return bool(_embeddings(flow, source) or _embeddings_of_vectors(flow, source))


def _embeddings(flow: Dataflow, source: str) -> list[str]:
    """Outputs of lookups of float parameters by indices that depend on an input."""
    return _lookups(flow, source, lambda node: node.op_type in _LOOKUPS)


def _embeddings_of_vectors(flow: Dataflow, source: str) -> list[str]:
    """Outputs of products of float parameters and one-hot vectors that depend on an input.

    They come after the others: types of tokens are often looked up like this, tokens seldom.
    """
    return _lookups(
        flow, source, lambda node: node.op_type in _PRODUCTS and any(_is_one_hot(flow, n) for n in node.input[:2])
    )


def _lookups(flow: Dataflow, source: str, looks_up: Callable[[Node], bool]) -> list[str]:
    influenced = flow.influenced(source)
    found = []
    for i, node in enumerate(flow.nodes):
        lookup = looks_up(node) and any(n in influenced for n in flow.needs[i])
        if lookup and flow.is_float(node.output[0]) and flow.parameters_of(i, influenced):
            found.append(node.output[0])
    return found


def _is_one_hot(flow: Dataflow, name: str) -> bool:
    while name in flow.producer:
        node = flow.nodes[flow.producer[name]]
        if node.op_type not in LAYOUT:
            return node.op_type == "OneHot" and not node.domain
        name = node.input[0]
    return False


def _computed_floats(flow: Dataflow, sources: Sequence[str]) -> list[str]:
    influenced = flow.influenced(*sources)
    return [n for node in flow.nodes for n in node.output if n in influenced and flow.is_float(n)]
