"""Model-local functions: how large the model becomes once every call is replaced by the function's body."""

from __future__ import annotations

import onnx

from ..errors import ModelError
from ..text import quoted
from . import protos

#: Most nodes a model may have after inlining; functions calling functions grow exponentially.
MAX_NODES = 2_000_000

Key = tuple[str, str, str]


def function_key(item: onnx.NodeProto | onnx.FunctionProto) -> Key:
    """Domain, name and overload that a node calls or a function has."""
    name = item.op_type if isinstance(item, onnx.NodeProto) else item.name
    return item.domain, name, item.overload


def check_functions(model: onnx.ModelProto) -> None:
    """Refuse functions that call themselves, or that make the model too large.

    Raises
    ------
    ModelError
        A function is recursive, or the inlined model has more than ``MAX_NODES`` nodes.
    """
    functions = {function_key(function): function for function in model.functions}
    sizes: dict[Key, int] = {}
    active: list[Key] = []

    def size(nodes: list[onnx.NodeProto]) -> int:
        total = 0
        for node in nodes:
            key = function_key(node)
            total += 1
            if key in functions:
                total += body_size(key)
            if total > MAX_NODES:
                raise ModelError(f"the model has more than {MAX_NODES} nodes with its functions inlined; simplify it")
        return total

    def body_size(key: Key) -> int:
        if key in active or len(active) > _MAX_DEPTH:
            raise ModelError(f"function {quoted(key[1])} of the model calls itself; export it again")
        if key not in sizes:
            active.append(key)
            sizes[key] = size(list(protos.nested(functions[key].node)))
            active.pop()
        return sizes[key]

    size(list(protos.nested(model.graph.node)))


# Calls deeper than this are refused as recursive would be: tools recurse on them.
_MAX_DEPTH = 100
