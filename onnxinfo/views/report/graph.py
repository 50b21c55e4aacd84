"""Graph of the model: its analyzed layers from the input on, and their connections."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...graph.model import ModelSource


@dataclass(frozen=True)
class Layout:
    """Columns of layers in a drawing, and the lines between them.

    Attributes
    ----------
    ranks
        Column of each layer, from 0 on, without gaps.
    lines
        Pairs of positions of layers.
    known
        Whether the lines are the model's own, or only follow the order of depth.
    """

    ranks: list[int]
    lines: list[tuple[int, int]]
    known: bool


def model_edges(model: ModelSource, layers: Sequence[str]) -> list[tuple[int, int]] | None:
    """Return which layers are computed from which, without another of the layers in between.

    Parameters
    ----------
    model
        See :func:`onnxinfo.load`.
    layers
        Names of tensors.

    Returns
    -------
    list of tuple or None
        Pairs of positions in `layers`, (from, to). None if the model lacks one of the layers.
    """
    from ...graph.model import load

    graph = load(model).proto.graph
    producer = {tensor: node for node in graph.node for tensor in node.output if tensor}
    if not producer.keys() >= set(layers):
        return None
    position = {name: i for i, name in enumerate(layers)}
    edges = []
    for target, name in enumerate(layers):
        seen = {name}
        waiting = deque([name])
        while waiting:
            node = producer.get(waiting.popleft())
            for tensor in () if node is None else node.input:
                if tensor in seen:
                    continue
                seen.add(tensor)
                if tensor in position:
                    edges.append((position[tensor], target))
                else:
                    waiting.append(tensor)
    return sorted(edges)


def graph_layout(depths: Sequence[int], edges: Sequence[tuple[int, int]] | None) -> Layout:
    """Order layers from the input on, as columns of a drawing whose width the page decides.

    Parameters
    ----------
    depths
        Depth of each layer.
    edges
        As returned by :func:`model_edges`; None if the model is not available: ranks then follow depth, and each layer
        is connected to the next rank.
    """
    found = _ranks(depths, edges)
    dense = {rank: place for place, rank in enumerate(sorted(set(found)))}
    ranks = [dense[rank] for rank in found]
    first: dict[int, int] = {}
    for layer, rank in enumerate(ranks):
        first.setdefault(rank, layer)
    order = [*pairwise(first[rank] for rank in sorted(first))]
    return Layout(ranks, [*(order if edges is None else edges)], edges is not None)


def _ranks(depths: Sequence[int], edges: Sequence[tuple[int, int]] | None) -> list[int]:
    if edges is None:
        order = {depth: rank for rank, depth in enumerate(sorted(set(depths)))}
        return [order[depth] for depth in depths]
    sources: dict[int, list[int]] = {}
    for first, second in edges:
        sources.setdefault(second, []).append(first)
    ranks = [0] * len(depths)
    # Longest paths from the input: at most as many rounds as layers, whatever their order.
    for _ in depths:
        before = ranks.copy()
        for layer, parents in sources.items():
            ranks[layer] = 1 + max(ranks[parent] for parent in parents)
        if ranks == before:
            break
    return ranks
