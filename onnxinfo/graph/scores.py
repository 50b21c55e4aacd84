"""Class scores of a classifier, before they are turned into probabilities."""

from __future__ import annotations

from ..errors import UsageError
from .model import ModelSource, load

_AFTER = frozenset({"Softmax", "LogSoftmax", "Sigmoid", "Identity", "Cast"})
# Between pooled features and scores: one linear layer, its bias, and operators that only move values.
_MOVES = frozenset({"Flatten", "Reshape", "Squeeze", "Identity", "Dropout"})
_LINEAR = frozenset({"Gemm", "MatMul", "Conv"})
_POOLS = frozenset({"GlobalAveragePool", "AveragePool", "ReduceMean"})


def score_tensor(model: ModelSource) -> str:
    """Name of the tensor (batch, classes) with the class scores.

    It is the first float output of the graph with two dimensions and at least two classes, before a final softmax or
    sigmoid.

    Raises
    ------
    ModelError
        The model cannot be loaded.
    UsageError
        The model has no such output, hence is not a classifier.
    """
    flow = load(model).flow
    for name in flow.results:
        shape = flow.shape(name)
        if shape is None or len(shape) != 2 or not flow.is_float(name) or shape[1] in (0, 1):
            continue
        while name in flow.producer and flow.nodes[flow.producer[name]].op_type in _AFTER:
            before: str = flow.nodes[flow.producer[name]].input[0]
            if not flow.is_float(before):
                break
            name = before
        return name
    raise UsageError("the model has no float output (batch, classes) of class scores: it is not a classifier")


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
