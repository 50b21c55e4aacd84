"""Operators whose outputs saturate: which scores a tensor saturates, and how."""

from __future__ import annotations

from typing import NamedTuple

from .dataflow import Dataflow
from .operators import LAYOUT
from .protos import AnyNode

_SHARES, _EACH, _SIGNS = "shares", "each", "signs"
# Operators by the way in which their outputs saturate: rows of shares that sum to 1, numbers in [0, 1], or in [-1, 1].
_KINDS = {"Softmax": _SHARES, "Sigmoid": _EACH, "HardSigmoid": _EACH, "Tanh": _SIGNS}
# Transformations at the end of classifiers of ai.onnx.ml; that of two classes returns both shares.
_POST_TRANSFORMS = {b"SOFTMAX", b"SOFTMAX_ZERO", b"LOGISTIC"}


class Saturating(NamedTuple):
    """How a tensor saturates.

    Attributes
    ----------
    kind
        ``shares``, ``each`` or ``signs``.
    scores
        Name of the tensor that is saturated; empty if it is none of the graph.
    """

    kind: str
    scores: str


def saturating(flow: Dataflow, name: str) -> Saturating | None:
    """Tell whether a float tensor is the output of a saturating operator, possibly laid out anew.

    Parameters
    ----------
    flow
        Dataflow of the graph.
    name
        Name of a tensor.
    """
    if not flow.is_float(name):
        return None
    while name in flow.producer:
        node = flow.nodes[flow.producer[name]]
        if node.op_type in LAYOUT or node.op_type == "Normalizer":
            name = node.input[0]
        elif node.op_type == "Exp" and (scores := _normalized(flow, node.input[0])) is not None:
            return Saturating(_SHARES, scores)
        elif node.op_type in _KINDS and not node.domain:
            return Saturating(_KINDS[node.op_type], node.input[0])
        else:
            return Saturating(_SHARES, "") if _transforms(node, name) else None
    return None


def _normalized(flow: Dataflow, name: str) -> str | None:
    """What a LogSoftmax, possibly laid out anew, is computed from; None for another tensor."""
    while name in flow.producer:
        node = flow.nodes[flow.producer[name]]
        if node.op_type == "LogSoftmax" and not node.domain:
            return str(node.input[0])
        if node.op_type not in LAYOUT:
            return None
        name = node.input[0]
    return None


def _transforms(node: AnyNode, name: str) -> bool:
    transforms = (attribute.s for attribute in node.attribute if attribute.name == "post_transform")
    probabilities = node.op_type == "SVMClassifier" and any(a.name == "prob_a" for a in node.attribute)
    return (probabilities or next(transforms, b"") in _POST_TRANSFORMS) and name in node.output[1:]
