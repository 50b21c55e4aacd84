"""What depends on an analysis input: the nodes that pass it on, and who reads what."""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from functools import cached_property

from . import protos
from .dataflow import Dataflow
from .operators import LAYOUT
from .rounding import repeated, scales
from .stacks import stacked_sums


@dataclass
class Influence:
    """Nodes and values of a graph that depend on an analysis input.

    Parameters
    ----------
    flow
        Dataflow of the graph.
    names
        Values that depend on the analysis input.
    """

    flow: Dataflow
    names: Set[str]
    _operands_of: dict[int, set[str]] = field(default_factory=dict, repr=False)

    @cached_property
    def passes(self) -> list[bool]:
        """Whether each node passes the influence of the analysis input on."""
        return [
            not self.names.isdisjoint(self.flow.needs[i])
            and not self.names.isdisjoint(node.output)
            and self.flow.sees(i)
            for i, node in enumerate(self.flow.nodes)
        ]

    @cached_property
    def _sum_of(self) -> dict[int, int]:
        """Nodes that sum a stack of values, by those that stack them."""
        return stacked_sums(self.flow)

    @cached_property
    def stack_of(self) -> dict[int, int]:
        """Nodes that stack values, by those that sum the stack."""
        return {position: stack for stack, position in self._sum_of.items()}

    @cached_property
    def _scales(self) -> set[str]:
        return scales(self.flow, self.names)

    @cached_property
    def _repeated(self) -> dict[str, str]:
        return repeated(self.flow)

    @cached_property
    def _copies(self) -> dict[str, list[str]]:
        """Values that are the same rounding of the same value as the first of them, by the first."""
        copies: dict[str, list[str]] = {}
        for name, first in self._repeated.items():
            copies.setdefault(first, []).append(name)
        return copies

    def readers(self, name: str) -> list[int]:
        """Nodes that read a value and pass on its content, also if each reader has a rounding of its own.

        Of a value that is stacked to be summed, the reader is the sum.
        """
        every = (i for each in (name, *self._copies.get(name, ())) for i in self.flow.consumers.get(each, ()))
        readers = [self._sum_of.get(i, i) for i in every]
        return [i for i in sorted(set(readers)) if self.passes[i] and not self.only_rescales(i)]

    def operands(self, position: int) -> set[str]:
        """Values that a node computes with and that depend on the analysis input, without scales."""
        if position not in self._operands_of:
            needs = self.flow.needs[self.stack_of.get(position, position)]
            names = (name for name in needs if name in self.names and name not in self._scales)
            self._operands_of[position] = {self._repeated.get(name, name) for name in names}
        return self._operands_of[position]

    def used_outputs(self, node: protos.AnyNode) -> Iterator[str]:
        """List the outputs of a node that are read or outputs of the graph."""
        for name in node.output:
            if name in self.names and (name in self.flow.outputs or self.readers(name)):
                yield name

    def only_rescales(self, position: int) -> bool:
        """Whether a node computes only scales, or rounds a value in the same way as a node before it."""
        outputs = [name for name in self.flow.nodes[position].output if name]
        return all(name in self._scales or name in self._repeated for name in outputs)

    def before_layout(self, name: str) -> Iterator[str]:
        """List a value and those of which it is only a different layout or rounding, backward."""
        yield name
        while name in self.flow.producer and (node := self.flow.nodes[self.flow.producer[name]]).op_type in LAYOUT:
            name = node.input[0]
            yield name

    def all_before_layout(self, names: Set[str]) -> set[str]:
        """Values, and all of which they are only a different layout or rounding."""
        found: set[str] = set()
        for name in names:
            for before in self.before_layout(name):
                if before in found:
                    break
                found.add(before)
        return found
