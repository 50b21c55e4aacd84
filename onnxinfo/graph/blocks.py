"""Blocks of a network: its conventional layers, residual sums and final outputs."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from . import protos
from .anchors import Anchors
from .dataflow import Dataflow
from .operators import (
    ATTENTION,
    INTEGRAL,
    LAYOUT,
    MATRIX,
    POINTWISE,
    PRODUCTS,
    RECURRENT,
    REDUCTIONS,
    SATURATING,
    SOFTMAX,
)
from .probabilities import Probabilities
from .rounding import ROUNDING

# Operators of layout after which a block ends where it did before. A layer that is rounded ends after DequantizeLinear:
# an activation may be part of the rounding, and its readers see the rounded values.
_KEEPING = LAYOUT - {"DequantizeLinear"}
# Reductions from which a gate is computed that multiplies what was reduced, as in squeeze and excitation.
_SUMMARIES = {"GlobalAveragePool", "GlobalMaxPool", "ReduceMax", "ReduceMean"}
# A GELU or a layer normalization in elementary operators has up to 12 nodes, not counting those that round.
_LARGEST_REGION = 24
# The same, and a softmax, with those that round.
_LARGEST_WITH_ROUNDING = 4 * _LARGEST_REGION


class _Content:
    """Parameters of the nodes of a block, which grows: their names and numbers of elements."""

    def __init__(self) -> None:
        self._found: dict[str, int] = {}
        self.total = 0

    def add(self, parameters: Mapping[str, int]) -> None:
        """Add the parameters of a node."""
        for name, number in parameters.items():
            if name not in self._found:
                self._found[name] = number
                self.total += number

    def absorb(self, other: _Content) -> None:
        """Add the parameters of a block that is not needed any more."""
        if len(other._found) > len(self._found):
            self._found, other._found = other._found, self._found
            self.total, other.total = other.total, self.total
        self.add(other._found)

    def copy(self) -> _Content:
        """Copy the content of a block with several outputs, which grow apart."""
        copy = _Content()
        copy.add(self._found)
        return copy


@dataclass
class Blocks:
    """Layers of a graph that depend on an analysis input.

    Parameters
    ----------
    anchors
        Nodes that start blocks.
    """

    anchors: Anchors
    #: Number of parameters of the block that ends with a tensor, by tensor name.
    totals: dict[str, int] = field(default_factory=dict)
    #: Names of the default layers' tensors.
    ends: set[str] = field(default_factory=set)
    #: Matrix operators inside the block of another one.
    _inside: set[int] = field(default_factory=set, repr=False)

    @property
    def flow(self) -> Dataflow:
        """Dataflow of the graph."""
        return self.influence.flow

    def __post_init__(self) -> None:
        self.influence, self.probabilities = self.anchors.influence, Probabilities(self.anchors)
        absorbed: dict[int, _Content] = {}
        for i, node in enumerate(self.flow.nodes):
            if i not in self._inside and self.anchors.is_anchor(i):
                content = absorbed.pop(i, _Content())
                content.add(self.anchors.parameters(i))
                starts = self._layer_outputs(node)
                contents = [content.copy() for _ in starts[1:]] + [content]
                for name, own in zip(starts, contents, strict=False):
                    self._follow(name, own, absorbed)
        outputs = {name for name in self.flow.outputs & self.influence.names if self.flow.is_feature(name)}
        saturated, scores = self.probabilities.that_saturate(self.ends)
        self.ends |= scores | ((outputs | self.probabilities.last_features()) - saturated)
        # The same values in another layout are the same layer: the output, which has the better-known name.
        self.ends -= self.influence.all_before_layout(outputs) - outputs

    def _layer_outputs(self, node: protos.AnyNode) -> list[str]:
        """Outputs of a node that start a block: of a recurrence or an attention, the first without its final states."""
        used = list(self.influence.used_outputs(node))
        return used[:1] if node.op_type in RECURRENT | ATTENTION else used

    @cached_property
    def _leads_to_matrix(self) -> set[str]:
        """Values that a matrix operator depends on."""
        leading: set[str] = set()
        for i in reversed(range(len(self.flow.nodes))):
            node = self.flow.nodes[i]
            if node.op_type in MATRIX or any(name in leading for name in node.output):
                leading.update(self.flow.needs[i])
        return leading

    def parameters(self, name: str) -> int:
        """Number of parameters of the block that ends with a tensor; without one, of the node that computes it."""
        if name in self.totals:
            return self.totals[name]
        return sum(self.anchors.parameters(self.flow.producer[name]).values())

    def _follow(self, start: str, content: _Content, absorbed: dict[int, _Content]) -> None:
        """Find the end of the block that starts with a value; a sum absorbs the blocks that only it uses."""
        end, name = start, start
        self.totals[start] = content.total
        # The end of the block if it ends with each of the values passed so far.
        passed = {start: start}
        while (region := self._region(name)) is not None:
            scores = self.probabilities.scores_of_last(region[0], passed)
            if scores is not None:
                end, name = passed[scores], scores
                break
            name, inside = region
            for i in inside:
                content.add(self.anchors.parameters(i))
            self.totals.setdefault(name, content.total)
            changed = any(self.flow.nodes[i].op_type not in _KEEPING for i in inside)
            as_floats = self.flow.is_float(name) and not self.flow.is_float(end)
            if as_floats or (changed and self.flow.is_feature(name)):
                end = name
            passed[name] = end
        consumers = self.influence.readers(name)
        absorbs = len(consumers) == 1 and (self.anchors.is_sum(consumers[0]) or self._weighs(end, consumers[0]))
        if absorbs and name not in self.flow.outputs:
            absorbed.setdefault(consumers[0], _Content()).absorb(content)
        elif self.flow.is_feature(end) and name not in self.flow.outputs:
            self.ends.add(end)

    def _weighs(self, end: str, reader: int) -> bool:
        """Whether a value are the weights of an attention that a node applies."""
        before = (self.flow.producer.get(name) for name in self.influence.before_layout(end))
        softmax = any(i is not None and self.flow.nodes[i].op_type in SOFTMAX for i in before)
        return softmax and self.flow.nodes[reader].op_type in PRODUCTS and len(self.influence.operands(reader)) > 1

    def _region(self, start: str) -> tuple[str, set[int]] | None:
        """Smallest set of pointwise nodes after a value that is used only by them and has a single value leading out.

        Returns
        -------
        tuple or None
            The value that leads out, and the nodes.
        """
        if start in self.flow.outputs:
            return None
        inside: set[int] = set()
        values, summaries = {start}, set[str]()
        pending = self.influence.readers(start)
        heapq.heapify(pending)
        while (
            pending
            and len(inside) < _LARGEST_WITH_ROUNDING
            and sum(self.flow.nodes[i].op_type not in ROUNDING for i in inside) < _LARGEST_REGION
        ):
            i = heapq.heappop(pending)
            if i in inside:
                continue
            node = self.flow.nodes[i]
            outputs = list(self.influence.used_outputs(node))
            operands = self.influence.operands(i)
            gate = operands <= summaries and node.op_type in MATRIX
            if len(outputs) != 1 or not operands <= values or not (gate or self._continues(node, outputs[0])):
                return None
            inside.add(i)
            values.add(outputs[0])
            if operands <= summaries or node.op_type in _SUMMARIES:
                summaries.add(outputs[0])
            for consumer in self.influence.readers(outputs[0]):
                heapq.heappush(pending, consumer)
            others = values - {outputs[0]}
            closed = not others & self.flow.outputs and all(
                j in inside for name in others for j in self.influence.readers(name)
            )
            if closed and ((node.op_type in REDUCTIONS and not self.anchors.adds(i)) or outputs[0] in summaries):
                return None
            if closed:
                self._inside |= {j for j in inside if self.anchors.matrices[j]}
                return outputs[0], inside
        return None

    def _continues(self, node: protos.AnyNode, output: str) -> bool:
        """Whether a node belongs to the block before it; final probabilities are a layer of their own."""
        if node.op_type in SOFTMAX:
            return output in self._leads_to_matrix
        if node.op_type in INTEGRAL and output in self.flow.outputs:
            return False
        if node.op_type in SATURATING and self.probabilities.derived_alone(output) is not None:
            return False
        return node.op_type in POINTWISE | LAYOUT
