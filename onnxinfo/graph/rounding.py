"""Rounding in a graph: which values are scales rather than content, and which round the same value again."""

from __future__ import annotations

from collections.abc import Set

from .dataflow import Dataflow
from .protos import AnyNode

#: Operators that map real numbers to integers and back.
ROUNDING = {"Cast", "DequantizeLinear", "DynamicQuantizeLinear", "QuantizeLinear"}
# Operators whose operands after the first are a scale and a zero point.
_SCALED = {"DequantizeLinear", "QuantizeLinear"}


def scales(flow: Dataflow, influenced: Set[str]) -> set[str]:
    """Find the scales and zero points that are computed from values, and what is computed for and from them alone.

    Dynamic quantization multiplies integers by a scale that depends on the values that were rounded. The scale carries
    none of the content of a layer: a block continues through the multiplication.

    Parameters
    ----------
    flow
        Dataflow of the graph.
    influenced
        Values that depend on the analysis input.
    """
    found: set[str] = set()
    for node in flow.nodes:
        if node.op_type == "DynamicQuantizeLinear":
            found.update(name for name in node.output[1:] if name in influenced)
        elif node.op_type in _SCALED:
            found.update(name for name in node.input[1:] if name in influenced and name != node.input[0])
    if not found:
        return found
    for i, node in enumerate(flow.nodes):
        operands = [name for name in flow.needs[i] if name in influenced]
        if operands and found.issuperset(operands) and flow.sees(i):
            found.update(name for name in node.output if name in influenced)
    for i in reversed(range(len(flow.nodes))):
        for name in flow.nodes[i].output:
            readers = flow.consumers.get(name, ())
            if readers and name not in flow.outputs and all(_only_scales(flow.nodes[j], found) for j in readers):
                found.add(name)
    return found & influenced


def _only_scales(node: AnyNode, found: Set[str]) -> bool:
    return all(name in found for name in node.output if name)


def repeated(flow: Dataflow) -> dict[str, str]:
    """Map each result of rounding a value in the same way again to the first such result.

    Some quantization tools give every reader of a tensor a ``QuantizeLinear`` or ``DequantizeLinear`` of its own.
    """
    first: dict[tuple[object, ...], str] = {}
    same: dict[str, str] = {}
    for node in flow.nodes:
        if node.op_type not in ROUNDING or len(node.output) != 1 or node.output[0] in flow.outputs:
            continue
        operands = tuple(same.get(name, name) for name in node.input)
        attributes = sorted(each.SerializeToString(deterministic=True) for each in node.attribute)
        original = first.setdefault((node.domain, node.op_type, operands, *attributes), node.output[0])
        if original != node.output[0]:
            same[node.output[0]] = original
    return same
