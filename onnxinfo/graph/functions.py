"""Model-local functions: check the size of the model after inlining, and supply default attributes."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count

import onnx

from ..errors import ModelError
from ..text import quoted
from . import protos

#: Maximum number of nodes after inlining, including calls; functions that call functions grow exponentially.
MAX_NODES = 200_000

Key = tuple[str, str, str]


def function_key(item: protos.AnyNode | onnx.FunctionProto) -> Key:
    """Domain, name and overload of a function, or of the function that a node calls."""
    name = item.name if isinstance(item, onnx.FunctionProto) else item.op_type
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
            total += 1
            if functions and (key := function_key(node)) in functions:
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
    operators there would use their own defaults. A function that passes such an attribute on to a function that has a
    default for it is copied without the attribute, so that the latter's default applies.

    Parameters
    ----------
    model
        The model; modified in place.
    """
    functions = {function_key(function): function for function in model.functions}
    copies: dict[tuple[Key, frozenset[str]], str] = {}
    pending = [model.graph.node, *(function.node for function in model.functions)]
    while pending:
        for node in protos.nested(pending.pop()):
            function = functions.get(function_key(node))
            if function is None:
                continue
            given = {attribute.name for attribute in node.attribute}
            node.attribute.extend(a for a in function.attribute_proto if a.name not in given)
            lost = _lost_defaults(function, given, functions)
            if not lost:
                continue
            key = function_key(function), lost
            if key not in copies:
                copy = _without_attributes(model, function, lost)
                functions[function_key(copy)] = copy
                pending.append(copy.node)
                copies[key] = copy.name
            node.op_type = copies[key]


def _lost_defaults(
    function: onnx.FunctionProto, given: set[str], functions: Mapping[Key, onnx.FunctionProto]
) -> frozenset[str]:
    """Names of the attributes without a value in a call that its function passes on to other functions."""
    missing = set(function.attribute) - given
    return frozenset(
        attribute.ref_attr_name
        for node in protos.nested(function.node)
        if function_key(node) in functions
        for attribute in node.attribute
        if attribute.ref_attr_name in missing
    )


def _without_attributes(
    model: onnx.ModelProto, function: onnx.FunctionProto, names: frozenset[str]
) -> onnx.FunctionProto:
    """Append a copy of a function, under a name of its own, whose body does not refer to some of its attributes."""
    copy: onnx.FunctionProto = model.functions.add()
    copy.CopyFrom(function)
    taken = {(other.domain, other.name) for other in model.functions}
    copy.name = next(name for i in count() if (copy.domain, name := f"{function.name}_without_{i}") not in taken)
    kept = [name for name in function.attribute if name not in names]
    del copy.attribute[:]
    copy.attribute.extend(kept)
    for node in protos.nested(copy.node):
        for i in reversed(range(len(node.attribute))):
            if node.attribute[i].ref_attr_name in names:
                del node.attribute[i]
    return copy


# Deeper calls are refused like recursive ones, because tools recurse on them.
_MAX_DEPTH = 100
