"""Anchors: the nodes with which blocks start, matrix operators and residual sums, and their parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import onnx

from . import protos
from .dataflow import Dataflow
from .function_bodies import Bodies
from .functions import Key, function_key
from .influence import Influence
from .operators import LAYOUT, MATRIX, POINTWISE, PRODUCTS, SKIPS, SUMS

# Operators that compute a residual sum, also with its normalization.
_ADDING = SUMS | SKIPS


@dataclass
class Anchors:
    """Nodes that start blocks, among those that depend on an analysis input.

    Parameters
    ----------
    influence
        What depends on the analysis input.
    functions
        Model-local functions.
    """

    influence: Influence
    functions: Mapping[Key, onnx.FunctionProto]
    _found: dict[int, dict[str, int]] = field(default_factory=dict, repr=False)
    _sums: dict[int, bool] = field(default_factory=dict, repr=False)

    @property
    def flow(self) -> Dataflow:
        """Dataflow of the graph."""
        return self.influence.flow

    @cached_property
    def matrices(self) -> list[bool]:
        """Whether each node is a matrix operator or has one in its bodies."""
        return [
            node.op_type in MATRIX
            or (bool(node.attribute) and any(inner.op_type in MATRIX for inner in protos.nested([node])))
            for node in self.flow.nodes
        ]

    def parameters(self, position: int) -> dict[str, int]:
        """Parameters of a node, including those inside a function that it calls."""
        if position in self._found:
            return self._found[position]
        key = self._called(position)
        inside = {} if key is None else self._bodies.parameters(key)
        names = self.influence.names
        alone = not self.flow.nodes[position].attribute and set(self.flow.needs[position]) <= names
        own = {} if alone else self.flow.parameters_of(position, names)
        self._found[position] = inside | own
        return self._found[position]

    def _weight(self, position: int) -> int:
        """Number of layers with parameters that a node adds to a path."""
        if (key := self._called(position)) is not None:
            return self._bodies.depth(key)
        return int(self.matrices[position] and bool(self.parameters(position)))

    def _called(self, position: int) -> Key | None:
        """The model's function that a node calls."""
        key = function_key(self.flow.nodes[position]) if self.functions else None
        return key if key in self.functions else None

    def is_anchor(self, position: int) -> bool:
        """Whether a block starts with a node: a matrix operator or residual sum that depends on the analysis input."""
        if not self.influence.passes[position]:
            return False
        if (key := self._called(position)) is not None:
            return self._bodies.depth(key) > 0
        if self.matrices[position]:
            return self._is_layer(position)
        return self.is_sum(position)

    def _is_layer(self, position: int) -> bool:
        """Whether a matrix operator is other than a transform computed by the graph, such as a cosine's matrix.

        Such a matrix has no parameters and depends on no graph input.
        """
        node = self.flow.nodes[position]
        if node.op_type not in PRODUCTS or self.parameters(position) or len(self.influence.operands(position)) > 1:
            return True
        return any(name in self.flow.driven for name in node.input if name not in self.influence.names)

    def is_sum(self, position: int) -> bool:
        """Whether a node adds two values elementwise that are not both pointwise functions of the same value.

        Without matrix operators there are no residual sums: an SVM or AdaBoost adds up the votes of its parts. A mask
        is no part of a residual sum.
        """
        if position not in self._sums:
            adds = self.adds(position) and self._has_matrix
            roots = {self._roots[name] for name in self.influence.operands(position)}
            added = [name for name in roots if self.flow.element_type(name) != onnx.TensorProto.BOOL]
            self._sums[position] = adds and len(added) > 1
        return self._sums[position]

    def adds(self, position: int) -> bool:
        """Whether a node adds values elementwise."""
        return self.flow.nodes[position].op_type in _ADDING or position in self.influence.stack_of

    @cached_property
    def _has_matrix(self) -> bool:
        """Whether the graph, or a function of the model, has a matrix operator."""
        nodes = [*self.flow.nodes, *(node for function in self.functions.values() for node in function.node)]
        return any(node.op_type in MATRIX for node in protos.nested(nodes))

    @cached_property
    def _bodies(self) -> Bodies:
        return Bodies(self.functions)

    @cached_property
    def _roots(self) -> dict[str, str]:
        """The value that each value is computed from by pointwise operators alone."""
        roots = {name: name for name in self.influence.names}
        for i, node in enumerate(self.flow.nodes):
            found = {roots[name] for name in self.influence.operands(i)}
            if node.op_type in POINTWISE | LAYOUT and len(found) == 1:
                roots.update(dict.fromkeys(self.influence.names & set(node.output), found.pop()))
        return roots

    def depth(self) -> dict[str, int]:
        """Number of layers with parameters on the longest path from the analysis input to each value."""
        depth: dict[str, int] = {}
        for i, node in enumerate(self.flow.nodes):
            if not self.influence.passes[i]:
                continue
            before = max([depth.get(name, 0) for name in self.flow.needs[i] if name in self.influence.names])
            here = before + self._weight(i)
            for name in node.output:
                depth[name] = here
        return depth
