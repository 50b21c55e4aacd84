"""Probabilities and labels, which say less than the scores that they are computed from."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from functools import cached_property

from .anchors import Anchors
from .dataflow import Dataflow
from .influence import Influence
from .operators import LAYOUT, SATURATING

# Operators that softmax and sigmoid are composed of, before the division that ends them.
_OF_PROBABILITIES = {"Add", "Exp", "Mul", "Neg", "ReduceMax", "ReduceSum", "Sub"} | LAYOUT
# Operators whose first result is the class with the largest score, or a score's sign.
_CHOOSING = {"ArgMax", "ArgMin", "LinearClassifier", "SVMClassifier", "Sign", "TreeEnsembleClassifier"}
# Operators that end a softmax or sigmoid in elementary operators.
_DIVISIONS = {"Div", "Reciprocal"}
# Largest number of values of a softmax in elementary operators, with those that round.
_LARGEST = 96


@dataclass
class Probabilities:
    """Values that are computed from the scores of classes alone.

    Parameters
    ----------
    anchors
        Nodes that start blocks.
    """

    anchors: Anchors
    #: Values that other values, or layers, are computed from together with what is computed from these.
    _accompanied: set[str] = field(default_factory=set, repr=False)

    @property
    def influence(self) -> Influence:
        """What depends on the analysis input."""
        return self.anchors.influence

    @property
    def flow(self) -> Dataflow:
        """Dataflow of the graph."""
        return self.influence.flow

    def last_features(self) -> set[str]:
        """Features that lead only to outputs which are none, such as labels or maps from label to probability."""
        found: set[str] = set()
        if all(self.flow.is_feature(name) for name in self.flow.outputs & self.influence.names):
            return found
        # Values that are no features, or labels, and from which no other is computed: whether they lead to an output.
        quiet: dict[str, bool] = {}
        for i in reversed(range(len(self.flow.nodes))):
            for name in self.influence.used_outputs(self.flow.nodes[i]):
                readers = (self.flow.nodes[j] for j in self.influence.readers(name))
                computed = [other for reader in readers for other in self.influence.used_outputs(reader)]
                if not all(other in quiet for other in computed):
                    continue
                leads = any(quiet[other] for other in computed)
                if not self.flow.is_feature(name) or (name in self._labels and name not in self.flow.outputs):
                    quiet[name] = leads or name in self.flow.outputs
                elif leads and name not in self.flow.outputs:
                    found.add(name)
        return found

    @cached_property
    def _labels(self) -> set[str]:
        """Values that are computed from a class alone: the position of the largest score, or the score's sign."""
        found: set[str] = set()
        for i, node in enumerate(self.flow.nodes):
            if not self.influence.passes[i]:
                continue
            if node.op_type in _CHOOSING:
                found.update(node.output[:1])
            elif (operands := self.influence.operands(i)) and operands <= found:
                found.update(node.output)
        return found

    def that_saturate(self, ends: Set[str]) -> tuple[set[str], set[str]]:
        """Values that merely saturate a layer: its scores are more informative, and vary even at 0 or 1.

        Parameters
        ----------
        ends
            Values with which blocks end.

        Returns
        -------
        tuple
            The values, and those of their scores that no block ends with, though an output is computed from them.
        """
        found, layers = set[str](), set(ends)
        # The ends of blocks, and the same values in another layout.
        ended = set(ends)
        for i, node in enumerate(self.flow.nodes):
            if node.op_type in LAYOUT and node.input[0] in ended:
                ended.update(node.output)
            if node.output[0] not in self.influence.names or node.output[0] in found:
                continue
            scores = node.input[0] if node.op_type in SATURATING else self._divided(i, layers) or self._normalized(i)
            if scores is None or not (scores in ended or self._is_last_score(scores)):
                continue
            derived = self.derived_alone(node.output[0]) or set()
            found |= derived
            if scores not in ended and derived & self.flow.outputs:
                layers.add(scores)
        return found, layers - ends

    def _is_last_score(self, value: str) -> bool:
        """Whether a value may be the scores of a final softmax although no block ends with it."""
        return value in self.influence.names and value in self.flow.producer and self.flow.is_float(value)

    def _normalized(self, position: int) -> str | None:
        """The scores whose softmax is written as ``exp(scores - logsumexp(scores))`` and ends here; None otherwise.

        The difference may be a LogSoftmax.
        """
        below = self._before(position, "Exp")
        for name in () if below is None else self.influence.before_layout(below):
            if name in self.flow.producer and self.flow.nodes[self.flow.producer[name]].op_type == "LogSoftmax":
                return str(self.flow.nodes[self.flow.producer[name]].input[0])
        position = -1 if below is None else self.flow.producer[below]
        if below is None or self.flow.nodes[position].op_type != "Sub" or len(self.flow.nodes[position].input) != 2:
            return None
        scores, total = self.flow.nodes[position].input
        sums = (self.flow.producer.get(name) for name in self.influence.before_layout(total))
        return scores if any(i is not None and self._before(i, "ReduceLogSumExp") == scores for i in sums) else None

    def _before(self, position: int, operator: str) -> str | None:
        """The computed operand of a node, if it has a certain operator; None otherwise."""
        node = self.flow.nodes[position]
        return node.input[0] if node.op_type == operator and node.input[0] in self.flow.producer else None

    def scores_of_last(self, value: str, before: Mapping[str, str]) -> str | None:
        """Which of some values are the scores, if a value is the last softmax or sigmoid in elementary operators."""
        position = self.flow.producer[value]
        if self.flow.nodes[position].op_type not in _DIVISIONS:
            return None
        near = sorted(self._divided_values(position) & before.keys(), key=self.flow.producer.__getitem__)
        scores = next((name for name in near if self._divided(position, {name}) == name), None)
        if scores is None or self.derived_alone(value) is None:
            return None
        while (biased := self._biased(scores)) in near:
            scores = biased
        return scores

    def _biased(self, value: str) -> str:
        """The sum of a value and a constant, if the value is used for nothing else; otherwise empty."""
        readers = self.influence.readers(value)
        if len(readers) != 1 or self.influence.operands(readers[0]) != {value}:
            return ""
        node = self.flow.nodes[readers[0]]
        return node.output[0] if node.op_type == "Add" else ""

    def _divided_values(self, position: int) -> set[str]:
        """Values from which operators of a softmax or sigmoid compute the operands of a division."""
        seen: set[str] = set()
        pending = [position]
        while pending and len(seen) <= _LARGEST:
            fresh = self.influence.operands(pending.pop()) - seen
            seen |= fresh
            before = (self.flow.producer.get(name) for name in fresh)
            pending += [i for i in before if i is not None and self.flow.nodes[i].op_type in _OF_PROBABILITIES]
        return seen

    def _divided(self, position: int, stops: Set[str]) -> str | None:
        """The scores whose softmax or sigmoid in elementary operators ends with a division; None for other nodes.

        `stops` are the values that may be scores.
        """
        if self.flow.nodes[position].op_type not in _DIVISIONS:
            return None
        scores, exponentials, seen = set[str](), 0, set[str]()
        pending = [position]
        while pending and len(seen) <= _LARGEST:
            for name in self.influence.operands(pending.pop()) - seen:
                seen.add(name)
                producer = None if name in stops else self.flow.producer.get(name)
                if producer is None or self.flow.nodes[producer].op_type not in _OF_PROBABILITIES:
                    scores.add(name)
                else:
                    exponentials += self.flow.nodes[producer].op_type == "Exp"
                    pending.append(producer)
        return scores.pop() if len(scores) == exponentials == 1 else None

    def derived_alone(self, value: str) -> set[str] | None:
        """All that is computed from a value; None if a layer, a logarithm or another value takes part in it."""
        if value in self._accompanied:
            return None
        found = {value}
        pending = self.influence.readers(value)
        heapq.heapify(pending)
        last = -1
        while pending:
            i = heapq.heappop(pending)
            if i == last:
                continue
            last = i
            if (
                not self.influence.operands(i) <= found
                or self.anchors.is_anchor(i)
                or self.flow.nodes[i].op_type == "Log"
            ):
                self._note_accompanied(i, found)
                return None
            for name in filter(None, self.flow.nodes[i].output):
                found.add(name)
                for reader in self.influence.readers(name):
                    heapq.heappush(pending, reader)
        return found

    def _note_accompanied(self, position: int, values: Set[str]) -> None:
        """Note those of some values from which a node is computed that takes more than what is computed from them."""
        pending = [position]
        while pending:
            fresh = (self.influence.operands(pending.pop()) & values) - self._accompanied
            self._accompanied |= fresh
            pending += [self.flow.producer[name] for name in fresh if name in self.flow.producer]
