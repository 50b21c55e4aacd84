"""Values of a graph that are stored in the model, or computed from stored ones alone."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Hashable, Iterable
from functools import cached_property

import onnx

from .constants import RANDOM, Constant, Evaluator
from .dataflow import Dataflow

_BUDGET = 1 << 30
# Operators after which a value is no longer stored: integers take less space than what they stand for.
_ROUNDING = {"DequantizeLinear", "DynamicQuantizeLinear", "QuantizeLinear"}


class StoredValues:
    """Stored values by name, and those computed from them, except by quantization or from quantized values.

    Parameters
    ----------
    flow
        The graph.
    imports
        Versions of its operators.
    """

    def __init__(self, flow: Dataflow, imports: Iterable[onnx.OperatorSetIdProto]) -> None:
        self._flow, self._imports = flow, [*imports]
        self._known: dict[str, onnx.TensorProto | None] = {}
        self._computable: set[str] = set()
        for node in flow.nodes:
            names = [name for name in node.input if name]
            if names and node.op_type not in _ROUNDING | RANDOM and all(map(self.holds, names)):
                self._computable.update(node.output)

    def holds(self, name: str) -> bool:
        """Whether a value is stored, or computed from stored ones."""
        return name in self._computable or self._flow.constant(name) is not None

    def get(self, name: str) -> onnx.TensorProto | None:
        """Return a value; None if it is not stored."""
        if (found := self._flow.constant(name)) is not None:
            return found
        if name in self._computable and name not in self._known:
            self._known[name] = self._computed(name)
        return self._known.get(name)

    def origin(self, name: str) -> Hashable:
        """What a stored value is computed from, and how: equal for values that are equal thereby."""
        return self._origins.get(name, name)

    @cached_property
    def _origins(self) -> dict[str, Hashable]:
        found: dict[str, Hashable] = {}
        numbers: dict[Hashable, int] = {}
        for node in self._flow.nodes:
            if not self._computable.issuperset(node.output) or not node.output:
                continue
            operands = [found.get(name, name) for name in node.input]
            attributes = tuple(sorted(each.SerializeToString(deterministic=True) for each in node.attribute))
            how = (node.op_type, node.domain, attributes, *operands)
            for i, output in enumerate(node.output):
                # A number stands for a computation, so that origins do not grow along chains.
                own = operands[0] if node.op_type == "Identity" else numbers.setdefault((how, i), len(numbers))
                found[output] = own
        return found

    def sources(self, name: str) -> frozenset[str]:
        """Names of the values stored in the model that a stored value is computed from."""
        found, pending, seen = set(), [name], {name}
        while pending:
            current = pending.pop()
            if current not in self._computable:
                found.add(current)
                continue
            fresh = {each for each in self._flow.nodes[self._flow.producer[current]].input if each} - seen
            seen |= fresh
            pending += fresh
        return frozenset(found)

    def computes(self, position: int) -> bool:
        """Whether a node only computes stored values from stored ones."""
        outputs = self._flow.nodes[position].output
        return bool(outputs) and self._computable.issuperset(outputs)

    def _computed(self, name: str) -> onnx.TensorProto | None:
        needed, pending = {self._flow.producer[name]}, [self._flow.producer[name]]
        scope: ChainMap[str, Constant | None] = ChainMap({})
        while pending:
            for operand in self._flow.nodes[pending.pop()].input:
                if (tensor := self._flow.constant(operand)) is not None:
                    scope[operand] = Constant.known(named(tensor, operand))
                elif operand and self._flow.producer[operand] not in needed:
                    needed.add(self._flow.producer[operand])
                    pending.append(self._flow.producer[operand])
        evaluator = Evaluator(self._imports, _BUDGET)
        for position in sorted(needed):
            node = self._flow.nodes[position]
            for output, constant in zip(node.output, evaluator.evaluate(node.proto, scope) or (), strict=False):
                scope[output] = constant
        evaluator.compute()
        found = scope.get(name)
        return None if found is None else found.tensor


def named(tensor: onnx.TensorProto, name: str) -> onnx.TensorProto:
    """Return a tensor under a name."""
    if tensor.name == name:
        return tensor
    copy = onnx.TensorProto()
    copy.CopyFrom(tensor)
    copy.name = name
    return copy
