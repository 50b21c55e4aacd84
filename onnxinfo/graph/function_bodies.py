"""What model-local functions contain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx

from . import protos
from .dataflow import Dataflow
from .functions import Key, function_key
from .operators import MATRIX


@dataclass
class Bodies:
    """Contents of model-local functions; each is traversed once, however often it is called."""

    functions: Mapping[Key, onnx.FunctionProto]
    _depth: dict[Key, int] = field(default_factory=dict)
    _parameters: dict[Key, dict[str, int]] = field(default_factory=dict)

    def __contains__(self, key: Key) -> bool:
        return key in self.functions

    def depth(self, key: Key) -> int:
        """Number of matrix operators on the longest path through a function's body."""
        if key not in self._depth:
            self._depth[key] = self._longest(self.functions[key])
        return self._depth[key]

    def _longest(self, function: onnx.FunctionProto) -> int:
        depth: dict[str, int] = {}
        longest = 0
        for node in function.node:
            key = function_key(node)
            if key in self:
                weight = self.depth(key)
            else:
                weight = int(any(inner.op_type in MATRIX for inner in protos.nested([node])))
            here = weight + max((depth.get(name, 0) for name in protos.needed_names(node)), default=0)
            depth.update((name, here) for name in node.output)
            longest = max(longest, here)
        return longest

    def parameters(self, key: Key) -> dict[str, int]:
        """Number of parameters in a function's own body."""
        if key not in self._parameters:
            function = self.functions[key]
            flow = Dataflow(onnx.GraphProto(node=function.node))
            found: dict[str, int] = {}
            for i, node in enumerate(function.node):
                found.update(flow.parameters_of(i, set(function.input)))
                if function_key(node) in self:
                    found.update(self.parameters(function_key(node)))
            self._parameters[key] = found
        return self._parameters[key]
