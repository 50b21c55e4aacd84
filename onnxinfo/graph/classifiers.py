"""Classifiers of ``ai.onnx.ml`` that turn their scores into probabilities: compute the two in separate nodes."""

from __future__ import annotations

from collections import Counter
from typing import Any

import onnx

from . import protos

_ML = "ai.onnx.ml"
_OPERATORS = {b"LOGISTIC": "Sigmoid", b"SOFTMAX": "Softmax"}
#: Version of the main operators for a model that imports none.
_OPSET = 11


def separate_scores(proto: onnx.ModelProto) -> bool:
    """Let a ``Softmax`` or ``Sigmoid`` after each classifier of the main graph compute its probabilities.

    Probabilities saturate; the scores before them become a tensor, named after the probabilities with ``_scores``
    behind it. Values do not change.

    Parameters
    ----------
    proto
        A checked model; modified in place. Shapes of the scores are not inferred yet.

    Returns
    -------
    bool
        Whether there was such a classifier.
    """
    found = [node for node in proto.graph.node if _separable(node)]
    if not found:
        return False
    taken = Counter(name for node in protos.nested(proto.graph.node) for name in (*node.input, *node.output, node.name))
    after: dict[str, onnx.NodeProto] = {}
    for node in found:
        transform = next(each for each in node.attribute if each.name == "post_transform")
        probabilities, scores = node.output[1], _free(f"{node.output[1]}_scores", taken)
        after[scores] = onnx.helper.make_node(_OPERATORS[transform.s], [scores], [probabilities], probabilities)
        transform.s = b"NONE"
        node.output[1] = scores
    kept = [each for node in proto.graph.node for each in (node, after.get(_second(node))) if each is not None]
    del proto.graph.node[:]
    proto.graph.node.extend(kept)
    if not any(not opset.domain for opset in proto.opset_import):
        proto.opset_import.append(onnx.helper.make_opsetid("", _OPSET))
    return True


def _second(node: onnx.NodeProto) -> str:
    return node.output[1] if len(node.output) > 1 else ""


def _separable(node: onnx.NodeProto) -> bool:
    """Whether an elementary operator turns the scores of a classifier into what it returns."""
    given = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
    transform = given.get("post_transform", b"NONE")
    if node.domain != _ML or not _second(node) or transform not in _OPERATORS:
        return False
    if node.op_type == "LinearClassifier":
        return len(given.get("intercepts", ())) > 1
    return node.op_type == "TreeEnsembleClassifier" and _has_plain_scores(given, transform)


def _has_plain_scores(given: dict[str, Any], transform: bytes) -> bool:
    """Whether trees have a score for each class, or one that is positive for the second class and negative else.

    Of two classes, trees may know the score of one only. If no weight is negative, it is already its probability.
    """
    classes = max(len(given.get("classlabels_int64s", ())), len(given.get("classlabels_strings", ())))
    if classes != 2 or len(set(given.get("class_ids", ()))) != 1:
        return classes > 1
    weights = given.get("class_weights_as_tensor", given.get("class_weights", ()))
    values = onnx.numpy_helper.to_array(weights) if isinstance(weights, onnx.TensorProto) else weights
    return transform == b"LOGISTIC" and any(value < 0 for value in values)


def _free(name: str, taken: Counter[str]) -> str:
    while taken[name]:
        name += "_"
    taken[name] += 1
    return name
