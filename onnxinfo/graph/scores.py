"""Class scores of a classifier, before they are turned into probabilities."""

from __future__ import annotations

from ..errors import UsageError
from .dataflow import Dataflow
from .model import ModelSource, load
from .operators import LAYOUT

# What stands between scores and an output besides the softmax or sigmoid itself.
_KEEPING = LAYOUT | {"Clip"}
_SHARES = frozenset({"Softmax", "LogSoftmax"})
_PASSING = frozenset({"Identity", "Cast"})
# Between pooled features and scores: one linear layer, its bias, and operators that only move values.
_MOVES = frozenset({"Flatten", "Reshape", "Squeeze", "Identity", "Dropout"})
_LINEAR = frozenset({"Gemm", "MatMul", "Conv"})
_POOLS = frozenset({"GlobalAveragePool", "AveragePool", "ReduceMean"})


def score_tensor(model: ModelSource) -> str:
    """Name of the tensor (batch, classes) with the class scores.

    It is what a final softmax or sigmoid is computed from, also if the probabilities are then laid out anew, clipped or
    quantized; without these, the output itself. Of several float outputs, the first that is a softmax of scores counts,
    or else the first with two dimensions and at least two classes.

    Raises
    ------
    ModelError
        The model cannot be loaded.
    UsageError
        The model has no such output, hence is not a classifier.
    """
    flow = load(model).flow
    tables = [name for name in flow.results if _is_table(flow, name)]
    shares = [name for name in flow.results if _is_table(flow, _before(flow, name, _SHARES))]
    if not tables and not shares:
        raise UsageError("the model has no float output (batch, classes) of class scores: it is not a classifier")
    name = next(iter(shares or tables))
    name = _before(flow, name, _SHARES | {"Sigmoid"}) or name
    while name in flow.producer and flow.nodes[flow.producer[name]].op_type in _PASSING:
        before: str = flow.nodes[flow.producer[name]].input[0]
        if not flow.is_float(before):
            break
        name = before
    return name


def makes_probabilities(model: ModelSource, name: str) -> bool:
    """Whether a softmax is computed from a tensor, possibly laid out anew or quantized."""
    flow = load(model).flow
    pending, seen = [name], {name}
    while pending:
        for position in flow.consumers.get(pending.pop(), ()):
            node = flow.nodes[position]
            if node.op_type in _SHARES:
                return True
            if node.op_type in LAYOUT and node.output[0] not in seen:
                seen.add(node.output[0])
                pending.append(node.output[0])
    return False


def _is_table(flow: Dataflow, name: str | None) -> bool:
    shape = None if name is None else flow.shape(name)
    return name is not None and shape is not None and len(shape) == 2 and flow.is_float(name) and shape[1] not in (0, 1)


def _before(flow: Dataflow, name: str, operators: frozenset[str]) -> str | None:
    """What one of some operators is computed from, if a value is its output or keeps its values; None otherwise."""
    while name in flow.producer:
        node = flow.nodes[flow.producer[name]]
        if node.op_type in operators:
            return str(node.input[0]) if flow.is_float(node.input[0]) else None
        if node.op_type not in _KEEPING:
            return None
        name = node.input[0]
    return None


def pooled_feature(model: ModelSource, scores: str) -> str | None:
    """Name of the feature whose spatial average is mapped to the scores by a single linear layer; None without one.

    Class activation maps require such a head (Zhou et al., 2016).
    """
    flow = load(model).flow
    name, linear = scores, 0
    while name in flow.producer:
        node = flow.nodes[flow.producer[name]]
        if node.op_type in _POOLS and not node.domain:
            return node.input[0] if linear == 1 else None
        if node.op_type in _LINEAR or (node.op_type == "Add" and linear == 0):
            linear += node.op_type in _LINEAR
            computed = [n for n in node.input if n in flow.producer and n not in flow.initializers]
            if len(computed) != 1:
                return None
            name = computed[0]
        elif node.op_type in _MOVES:
            name = node.input[0]
        else:
            return None
    return None
