"""Whether a graph computes real numbers with the size of an axis, which then cannot change."""

from __future__ import annotations

from .channel_ties import View
from .dataflow import Dataflow
from .stored import StoredValues

#: Operators that read sizes, which follow when channels are removed.
READING = frozenset({"Shape", "Size"})


def computes_with_size(flow: Dataflow, stored: StoredValues, position: int, axis: int, opset: int) -> int | None:
    """Return the position of a node that turns the size of an axis into a real number; None if there is none.

    Parameters
    ----------
    flow, stored
        The graph and its stored values.
    position
        Position of a node that reads the sizes of a tensor.
    axis
        The axis.
    opset
        Version of ONNX's operators.
    """
    # Entries that depend on the size, by name; None: all.
    found: dict[str, set[int] | None] = {}
    pending = [position]
    while pending:
        current = pending.pop(0)
        view = View(flow, stored, current, opset)
        entries = _entries_of_sizes(view, axis) if current == position else _entries_after(view, found)
        if entries is not None and not entries:
            continue
        for name in view.node.output:
            if name in found:
                continue
            if flow.is_float(name) and view.node.op_type == "Cast":
                return current
            if not flow.is_float(name):
                found[name] = entries
                pending += flow.consumers.get(name, ())
    return None


def _entries_of_sizes(view: View, axis: int) -> set[int] | None:
    if view.node.op_type == "Size":
        return None
    rank = len(view.shape(0))
    first, end, _ = slice(view.attribute("start", 0), view.attribute("end", rank)).indices(rank)
    return {axis - first} if first <= axis < end else set()


def _entries_after(view: View, found: dict[str, set[int] | None]) -> set[int] | None:
    """Entries of a node's output that depend on those of its operands; None: all."""
    before = found.get(view.node.input[0]) if view.node.input else None
    if before is None or view.node.input[0] not in found or view.node.domain:
        return None
    if view.node.op_type == "Gather" and (chosen := view.constant(1)) is not None:
        rank = (view.shape(0) or (0,))[0]
        places = [int(each) + (rank if each < 0 and isinstance(rank, int) else 0) for each in chosen.ravel()]
        return {i for i, each in enumerate(places) if each in before}
    if view.node.op_type == "Slice" and isinstance(size := (view.shape(0) or (None,))[0], int):
        bounds = [view.attribute(name, view.constant(i)) for name, i in (("starts", 1), ("ends", 2))]
        steps = view.constant(4) if view.has(4) else [1]
        if any(each is None for each in (*bounds, steps)):
            return None
        chosen_places = range(size)[slice(*(int(each[0]) for each in (*bounds, steps)))]
        return {i for i, each in enumerate(chosen_places) if each in before}
    return before if view.node.op_type in ("Cast", "Identity") else None
