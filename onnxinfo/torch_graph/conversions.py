"""Report which backend implements each node, without building a torch graph."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

import onnx
from torch import fx

from ..errors import ConversionError
from ..graph import protos
from ..graph.model import Model, ModelSource
from ..graph.weights import detach_weights
from .convert import Conversion, Scope, needed_part
from .nodes import HOST_OUTPUTS, Node
from .specialize import Shapes


def conversion_report(
    model: ModelSource, outputs: Sequence[str] | None = None, *, shapes: Shapes = MappingProxyType({})
) -> list[Conversion]:
    """Report the backend of every node that ``outputs`` (default: the graph outputs) need.

    Nodes in the bodies of control flow precede the node that they belong to.

    Parameters
    ----------
    model, outputs, shapes
        As for :func:`onnxinfo.convert`. A node whose result depends on shapes that are given is not reported.

    Raises
    ------
    ModelError
        The model cannot be loaded.
    UsageError
        An output is not a tensor of the graph.
    """
    scope = _Report.of(*needed_part(model, outputs, shapes), shapes=shapes)
    scope.convert_all()
    return scope.conversions


def reported_part(part: Model) -> tuple[onnx.GraphProto, list[Conversion]]:
    """Report the backend of every node of a model whose outputs need all of its nodes.

    Returns
    -------
    graph
        The normalized graph, without its large initializers.
    conversions
        As from :func:`conversion_report`.
    """
    scope = _Report.of(*detach_weights(part.proto))
    scope.convert_all()
    return scope.proto, scope.conversions


class _Report(Scope):
    """A graph of which only the backends of its nodes are of interest: no torch graph is built."""

    def convert_all(self) -> None:
        """Record the backend of every node; nodes that differ only in names are converted once."""
        alike: dict[Any, Conversion] = {}
        for node in self.nodes:
            key = self._likeness(node)
            if key in alike:
                same = alike[key]
                self.conversions.append(
                    Conversion(node.name, same.operator, same.version, same.server, node.outputs, same.reason)
                )
                if self.host:
                    ahead = zip(node.outputs, same.outputs, strict=False)
                    self.host.update(name for name, first in ahead if first in self.host)
                continue
            with contextlib.suppress(ConversionError):
                self.convert_node(node)
            last = self.conversions[-1]
            if key is not None and last.server == "onnxinfo" and not last.reads:
                alike[key] = last

    def _likeness(self, node: Node) -> tuple[Any, ...] | None:
        """Everything about a node that its conversion depends on, except names; None if it has constants or bodies."""
        attributes = node.proto.attribute
        if not self.initializers.keys().isdisjoint(node.inputs) or (attributes and any(protos.bodies(node.proto))):
            return None
        types = [self.element_type(name) if name else None for name in (*node.inputs, *node.outputs)]
        host = [name in self.host for name in node.inputs] if self.host else [False] * len(node.inputs)
        given = sorted(attribute.SerializeToString(deterministic=True) for attribute in attributes)
        return (node.domain, node.op_type, len(node.inputs), len(node.outputs), *types, *host, *given)

    def subgraph(self, proto: onnx.GraphProto) -> tuple[fx.GraphModule, tuple[str, ...]]:
        """Convert the nodes of a body, without connecting them."""
        body = _Report(proto, self.opsets, self.fallback, self)
        for node in body.nodes:
            body.convert_node(node)
        return _no_body(tuple(map(body.may_be_host, body.outputs))), ()


@functools.cache
def _no_body(host_outputs: tuple[bool, ...]) -> fx.GraphModule:
    module = fx.GraphModule({}, fx.Graph())
    module.meta[HOST_OUTPUTS] = host_outputs
    return module
