"""Drawing of the model: its analyzed layers from the input down, with lines that show their connections."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...graph.model import ModelSource

BOX = (190, 40)
GAP = (24, 34)


@dataclass(frozen=True)
class Drawing:
    """Positions of boxes and of the lines between them, in pixels.

    Attributes
    ----------
    width, height
        Size of the drawing.
    boxes
        Upper left corner of each layer's box.
    lines
        Paths in SVG syntax.
    known
        Whether the lines are the model's own, or only follow the order of depth.
    """

    width: int
    height: int
    boxes: list[tuple[int, int]]
    lines: list[str]
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


def draw_graph(depths: Sequence[int], edges: Sequence[tuple[int, int]] | None) -> Drawing:
    """Arrange layers in ranks, with the input's at the top.

    Parameters
    ----------
    depths
        Depth of each layer.
    edges
        As returned by :func:`model_edges`; None if the model is not available: ranks then follow depth, and each layer
        is connected to the next rank.
    """
    ranks = _ranks(depths, edges)
    by_rank: dict[int, list[int]] = {}
    for layer in sorted(range(len(depths)), key=lambda i: (ranks[i], depths[i], i)):
        by_rank.setdefault(ranks[layer], []).append(layer)
    widest = max(map(len, by_rank.values()), default=1)
    width = widest * (BOX[0] + GAP[0]) + 3 * GAP[0]
    boxes = [(0, 0)] * len(depths)
    for row, rank in enumerate(sorted(by_rank)):
        members = by_rank[rank]
        start = (width - len(members) * (BOX[0] + GAP[0]) + GAP[0]) // 2
        for column, layer in enumerate(members):
            boxes[layer] = (start + column * (BOX[0] + GAP[0]), 10 + row * (BOX[1] + GAP[1]))
    rows = {rank: row for row, rank in enumerate(sorted(by_rank))}
    ordered = sorted(by_rank)
    order = [(by_rank[above][0], by_rank[below][0]) for above, below in pairwise(ordered)]
    joined = order if edges is None else edges
    lines = [_line(boxes[a], boxes[b], rows[ranks[b]] - rows[ranks[a]], width) for a, b in joined]
    return Drawing(width, 20 + len(by_rank) * (BOX[1] + GAP[1]), boxes, lines, edges is not None)


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


def _line(start: tuple[int, int], end: tuple[int, int], ranks: int, width: int) -> str:
    x1, y1 = start[0] + BOX[0] // 2, start[1] + BOX[1]
    x2, y2 = end[0] + BOX[0] // 2, end[1]
    if ranks > 1 and abs(x1 - x2) < BOX[0]:
        # Route the line around the boxes in between.
        side = min(width - 6, max(start[0], end[0]) + BOX[0] + GAP[0])
        return (
            f"M{start[0] + BOX[0]} {y1 - BOX[1] // 2} C{side} {y1}, {side} {y2}, {end[0] + BOX[0]} {y2 + BOX[1] // 2}"
        )
    middle = (y1 + y2) // 2
    return f"M{x1} {y1} C{x1} {middle}, {x2} {middle}, {x2} {y2}"
