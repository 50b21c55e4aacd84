"""Tell waveforms and other series from rows of a table: inputs with one axis beside the batch."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .dataflow import Dataflow
from .operators import CONVOLUTIONS, LAYOUT, POINTWISE
from .protos import AnyNode

# Operators that slide a window over an axis.
_SLIDING = CONVOLUTIONS | {"AveragePool", "LpPool", "MaxPool"}
_SPECTRAL = {"DFT", "STFT"}
# Operators that the values of a series pass on the way to the first window.
_KEEPING = (LAYOUT | POINTWISE | {"Concat", "Expand", "Pad", "Slice", "Split"}) - {"Flatten"}
# Names that exporters and authors give to the axis of a series, and to the series itself.
_AXIS = re.compile(r"time|samples|seq|frames|length|^[tl]$", re.IGNORECASE)
_NAME = re.compile(r"audio|speech|wav|pcm|signal|sound", re.IGNORECASE)


def is_series(flow: Dataflow, name: str, size: int | str | None) -> bool:
    """Whether a float input of shape (batch, size) is a series rather than the features of a table.

    The axis is that of a series if it is named so, or if a convolution, pooling or Fourier transform slides over it
    before anything else tells its entries apart.

    Parameters
    ----------
    flow
        Dataflow of the graph.
    name
        Name of the graph input.
    size
        Declared size of the axis.
    """
    if not flow.is_float(name):
        return False
    named = isinstance(size, str) and _AXIS.search(size) is not None
    return named or _NAME.search(name) is not None or _is_windowed(flow, name)


def _is_windowed(flow: Dataflow, name: str) -> bool:
    """Whether every path from a value leads to a window that slides over one axis."""
    if flow.operators.isdisjoint(_SLIDING | _SPECTRAL):
        return False
    pending, seen, windowed = [name], {name}, False
    # What a node tells does not depend on the operand through which it is reached.
    visited: set[int] = set()
    while pending:
        value = pending.pop()
        for position in flow.consumers.get(value, ()):
            if position in visited:
                continue
            visited.add(position)
            node = flow.nodes[position]
            if node.op_type in _SPECTRAL or _slides(flow, node):
                windowed = True
            elif node.op_type == "Shape":
                continue
            elif node.op_type in _KEEPING and _treats_alike(flow, node):
                new = [output for output in node.output if output and output not in seen]
                seen.update(new)
                pending += new
            else:
                return False
    return windowed


def _slides(flow: Dataflow, node: AnyNode) -> bool:
    """Whether a node's window is longer than one entry along exactly one axis, or moves along one axis of frames."""
    if node.op_type not in _SLIDING:
        return False
    sizes: Sequence[object] = next((list(a.ints) for a in node.attribute if a.name == "kernel_shape"), ())
    kernel = next((name for name in node.input[1:] if name in flow.initializers), None)
    if not sizes and kernel is not None:
        sizes = flow.initializers[kernel].dims[2:]
    # The values were cut into frames, (batch, values of a frame, frames), which share the kernel.
    frames = (flow.shape(node.input[0]) or ())[2:]
    return sum(size != 1 for size in sizes) == 1 or (len(sizes) == 1 == len(frames) and frames[0] not in (1, None))


def _treats_alike(flow: Dataflow, node: AnyNode) -> bool:
    """Whether a node has no parameters of its own for each entry, such as the means of a table's columns."""
    if node.op_type not in POINTWISE or not flow.initializers:
        return True
    own = (flow.initializers[name].dims for name in node.input if name in flow.initializers)
    return all(size == 1 for sizes in own for size in sizes)
