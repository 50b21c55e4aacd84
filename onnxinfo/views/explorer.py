"""Ids of nodes in Google's Model Explorer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import onnx

from ..graph.protos import bodies_of


def explorer_ids(graph: onnx.GraphProto) -> list[str]:
    """Return the id that Model Explorer's adapter for ONNX gives every node of :meth:`.own.OwnGraph.nodes`.

    It numbers nodes without a name, and repeated names of a graph, with counters that all graphs of the model share,
    and then draws the branches of an ``If`` beside it, under its name.
    """
    return [*_ids(graph, Counter(), "", shown=True)]


def _ids(graph: onnx.GraphProto, counters: Counter[str], prefix: str, *, shown: bool) -> Iterator[str]:
    used: set[str] = set()
    for node in graph.node:
        wanted = name = node.name or "node"
        while name in used:
            counters[wanted] += 1
            name = f"{wanted}_{counters[wanted]}"
        used.add(name)
        if shown:
            yield prefix + name
        branches = shown and node.op_type == "If" and not node.domain
        for attribute in node.attribute:
            for body in bodies_of(attribute):
                yield from _ids(body, counters, f"{prefix}{name}/{attribute.name}/", shown=branches)
