"""Model-local functions: check the size of the model after inlining, and supply default attributes."""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from ..errors import ModelError
from ..text import quoted
from . import protos

#: Maximum number of nodes after inlining, including calls; functions that call functions grow exponentially.
MAX_NODES = 200_000

Key = tuple[str, str, str]


def function_key(item: onnx.NodeProto | onnx.FunctionProto) -> Key:
    """Domain, name and overload of a function, or of the function that a node calls."""
    name = item.op_type if isinstance(item, onnx.NodeProto) else item.name
    return item.domain, name, item.overload


def check_functions(model: onnx.ModelProto) -> None:
    """Raise for functions that are recursive or make the model too large.

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


def supply_defaults(model: onnx.ModelProto) -> None:
    """Set omitted attributes of function calls to the functions' defaults.

    ONNX's inliner ignores these defaults: an attribute omitted by a call would vanish from the function's body, and the
    operators there would use their own defaults.

    Parameters
    ----------
    model
        The model; modified in place.

    Raises
    ------
    ModelError
        A call omits an attribute without default that its function passes on to a function with a default for it.
    """
    functions = {function_key(function): function for function in model.functions}
    for nodes in (model.graph.node, *(function.node for function in model.functions)):
        for node in protos.nested(nodes):
            function = functions.get(function_key(node))
            if function is not None:
                given = {attribute.name for attribute in node.attribute}
                node.attribute.extend(a for a in function.attribute_proto if a.name not in given)
                _refuse_lost_defaults(function, given, functions)


def _refuse_lost_defaults(
    function: onnx.FunctionProto, given: set[str], functions: Mapping[Key, onnx.FunctionProto]
) -> None:
    """Raise for a call whose missing attribute refers to another function's default."""
    missing = set(function.attribute) - given
    for node in protos.nested(function.node):
        callee = functions.get(function_key(node))
        defaults = {attribute.name for attribute in callee.attribute_proto} if callee is not None else set()
        lost = [a.ref_attr_name for a in node.attribute if a.ref_attr_name in missing and a.name in defaults]
        if lost:
            raise ModelError(
                f"a call of function {quoted(function.name)} leaves out attribute {quoted(lost[0])}, which "
                f"{quoted(node.op_type)} has a default for; give it in the call"
            )


# Deeper calls are refused like recursive ones, because tools recurse on them.
_MAX_DEPTH = 100
