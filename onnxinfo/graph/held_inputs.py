"""Float graph inputs that hold no data: scalars, states of recurrent layers, and attention masks."""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterable, Iterator
from itertools import chain

from .dataflow import Dataflow
from .operators import ATTENTION, LAYOUT, RECURRENT, SOFTMAX
from .protos import AnyNode, Node

# Operators that select or repeat values without computing with them.
_MOVING = LAYOUT | {"Concat", "Expand", "Gather", "GatherElements", "GatherND", "Pad", "Slice", "Split", "Tile"}
# First operand of a recurrent operator that holds an initial state.
_FIRST_STATE = 5

# Elementwise operators that turn a mask into what attention adds to its scores.
_ON_MASKS = LAYOUT | {
    "Add", "And", "Clip", "Div", "Equal", "Expand", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Min",
    "Mul", "Neg", "Not", "Or", "ReduceSum", "Slice", "Sub", "Tile", "Where",
}  # fmt: skip
# Operators that weigh values by the probabilities of an attention.
_WEIGHING = {"Einsum", "FusedMatMul", "MatMul"}
# Operators that combine a mask with attention scores.
_MASKING = {"Add", "Min", "Mul", "Sub", "Where"}

_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
# Words that distinguish a state before a step from the one after it.
_BEFORE_OR_AFTER = {
    "0", "in", "init", "initial", "input", "last", "n", "new", "next", "out", "output", "past", "present", "prev",
    "previous", "update", "updated",
}  # fmt: skip
_STATES = {
    "c", "cache", "caches", "cell", "cells", "cx", "gru", "h", "hidden", "hx", "lstm", "mem", "memory", "mems", "rnn",
    "state", "states",
}  # fmt: skip
# What a cache of attention holds, beside the values, whether or not the model returns it with the new tokens.
_KEYS = {"key", "keys", "kv"}


def held_inputs(flow: Dataflow, inputs: Iterable[str]) -> dict[str, str]:
    """Find the float graph inputs that hold no data, and to which noise is not added unless they are named.

    Parameters
    ----------
    flow
        Dataflow of the model.
    inputs
        Names of float graph inputs.

    Returns
    -------
    dict
        By name, what the input is: ``scalar``, a single number for all samples; ``mask``, by its name or because
        attention adds it to its scores; ``state``, because a recurrent layer starts from it, or because the model
        returns it for the next step. Other inputs are omitted.
    """
    found = {}
    for name in inputs:
        kind = _kind(flow, name)
        if kind:
            found[name] = kind
    return found


def _kind(flow: Dataflow, name: str) -> str:
    shape = flow.shape(name)
    if shape in ((), (1,)):
        return "scalar"
    if "mask" in _words(name) or name.lower().endswith("mask") or _masks_attention(flow, name):
        return "mask"
    return "state" if _starts_recurrence(flow, name) or _is_returned(flow, name) else ""


def _words(name: str) -> list[str]:
    return [word.lower() for word in _WORDS.findall(name)]


def _is_returned(flow: Dataflow, name: str) -> bool:
    """Whether the model returns a state for the next step: an output whose name differs only in words like ``next``."""
    words = _words(name)
    if "past" in words:
        is_cache = not _KEYS.isdisjoint(words[words.index("past") :])
        return is_cache or any("present" in _words(output) for output in flow.outputs)
    core = _core(name)
    return not _STATES.isdisjoint(core) and any(_core(output) == core for output in flow.outputs if output != name)


def _core(name: str) -> list[str]:
    """Words of a name without those for before and after; ``hn`` and ``h0`` are ``h``."""
    words = [word for word in _words(name) if word not in _BEFORE_OR_AFTER]
    return [word[0] if word in ("hn", "cn") else word for word in words]


def _starts_recurrence(flow: Dataflow, name: str) -> bool:
    """Whether an input is, apart from layout and selection, the initial state of a recurrent layer or a scan."""
    pending, seen = [name], {name}
    while pending:
        value = pending.pop()
        for node in _consumers(flow, value):
            if value in _initial_states(node):
                return True
            if node.op_type in _MOVING:
                fresh = [output for output in node.output if output and output not in seen]
                seen.update(fresh)
                pending += fresh
    return False


def _initial_states(node: AnyNode) -> list[str]:
    if node.op_type in RECURRENT and not node.domain.startswith("ai.onnx.ml"):
        return list(node.input)[_FIRST_STATE : _FIRST_STATE + 2]
    if node.op_type == "Scan" and not node.domain:
        scanned = next(attribute.i for attribute in node.attribute if attribute.name == "num_scan_inputs")
        return list(node.input)[: len(node.input) - scanned]
    return []


def _masks_attention(flow: Dataflow, name: str) -> bool:
    """Whether an input, changed elementwise at most, enters the scores of an attention and nothing but products."""
    alone, found, seen = {name}, False, set[int]()
    pending = list(flow.consumers.get(name, ()))
    while pending:
        position = heapq.heappop(pending)
        if position in seen or not flow.sees(position):
            continue
        seen.add(position)
        node, needed = flow.nodes[position], flow.needs[position]
        if node.op_type in _ON_MASKS and all(other in alone for other in needed if other in flow.driven):
            alone.update(filter(None, node.output))
            for consumer in chain.from_iterable(flow.consumers.get(output, ()) for output in node.output):
                heapq.heappush(pending, consumer)
        elif node.op_type in ATTENTION and alone.isdisjoint(list(node.input)[:3]):
            found = True
        elif node.op_type in _MASKING:
            found |= _is_scored(flow, node)
        else:
            return False
    return found


def _is_scored(flow: Dataflow, node: AnyNode) -> bool:
    """Whether a node's output goes into a softmax that weighs the rows of a matrix, apart from layout."""
    pending, wanted = list(node.output[:1]), SOFTMAX
    while pending:
        for consumer in _consumers(flow, pending.pop()):
            if consumer.op_type in wanted and wanted is not SOFTMAX:
                return True
            if consumer.op_type in wanted:
                wanted = _WEIGHING
            if consumer.op_type in LAYOUT | SOFTMAX | {"Where"}:
                pending += consumer.output[:1]
    return False


def _consumers(flow: Dataflow, name: str) -> Iterator[Node]:
    return (flow.nodes[position] for position in flow.consumers.get(name, ()))
