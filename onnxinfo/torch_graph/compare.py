"""Difference between two values of a tensor, and the part of it that rounding can explain."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from ..graph.anchors import Anchors
from ..graph.dataflow import Dataflow
from ..graph.functions import function_key
from ..graph.influence import Influence
from ..text import quoted
from .operators.values import to_numpy

Array = npt.NDArray[Any]

# Maximum difference of one node's results that rounding explains, relative to the tensor's largest magnitude, by
# element type. Two orders above float32's epsilon: reordered sums of thousands of terms stay below it, replacing a GELU
# by its approximation does not.
_TOLERANCE = {np.dtype(np.float64): 1e-5, np.dtype(np.float32): 2e-5, np.dtype(np.float16): 5e-3}
_COARSE_TOLERANCE = 4e-2
# Differences below this magnitude are always rounding.
_ABSOLUTE = 1e-8
# Types that store quantized values.
_NARROW = {
    number for name, number in onnx.TensorProto.DataType.items() if re.fullmatch(r"U?INT(2|4|8|16)|FLOAT[468]E.*", name)
}
# Types that store positions and discrete results.
_WHOLE = {onnx.TensorProto.BOOL, onnx.TensorProto.INT32, onnx.TensorProto.INT64}
# Fraction of the elements in which integers may differ by one, because a float lies between the two.
_ROUNDED_UNLIKE = 1e-3


@dataclass(frozen=True)
class Difference:
    """Difference between a tensor of the torch graph and ONNX Runtime's.

    Parameters
    ----------
    tensor, op, node
        Name of the tensor, and operator and name of the node that computes it (empty for a graph input).
    absolute
        Largest difference of an element; infinite if NaNs, infinities or shapes differ.
    relative
        The same, relative to the largest finite magnitude in the tensor.
    tolerance
        Largest relative difference that counts as rounding.
    flips
        Number of integers that differ by one, because a float lies between two of them.
    """

    tensor: str
    op: str
    node: str
    absolute: float
    relative: float
    tolerance: float
    flips: int = 0

    @property
    def agrees(self) -> bool:
        """Whether the difference can be due to rounding."""
        return self.absolute <= _ABSOLUTE or self.relative <= self.tolerance

    def __str__(self) -> str:
        where = f"tensor {quoted(self.tensor)} ({self.op})" if self.op else f"input {quoted(self.tensor)}"
        if math.isinf(self.absolute):
            return f"{where} has another shape, or NaN or infinity elsewhere"
        return f"{where} differs by {self.relative:.2g} of its largest value (tolerance {self.tolerance:.2g})"


class Tensors:
    """Tensors of a graph, with the properties that the comparison needs."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.flow = Dataflow(model.graph)
        functions = {function_key(f): f for f in model.functions}
        self.depth = Anchors(Influence(self.flow, self.flow.driven), functions).depth()
        self.types = {v.name: v.type for v in (*model.graph.value_info, *model.graph.input, *model.graph.output)}

    @property
    def comparable(self) -> list[str]:
        """Names of the computed values that are known to be numeric tensors."""
        numbers = set(onnx.TensorProto.DataType.values()) - {onnx.TensorProto.UNDEFINED, onnx.TensorProto.STRING}
        names = (name for node in self.flow.nodes for name in node.output if name in self.types)
        return [name for name in names if self._element(name) in numbers]

    @cached_property
    def stepped(self) -> set[str]:
        """Names of the tensors that depend on quantized values, or on discrete choices between floats, like sorting."""
        reached: set[str] = set()
        for i, (node, needed) in enumerate(zip(self.flow.nodes, self.flow.needs, strict=True)):
            later = not reached.isdisjoint(needed)
            chooses = self.flow.sees(i) and any(self.flow.is_float(name) for name in needed)
            jumps = _NARROW | _WHOLE if chooses else _NARROW
            reached.update(name for name in node.output if name and (later or self._element(name) in jumps))
        return reached

    def _element(self, name: str) -> int:
        return self.types[name].tensor_type.elem_type if name in self.types else onnx.TensorProto.UNDEFINED

    def sorted(self, differences: Iterable[Difference]) -> list[Difference]:
        """Differences sorted in graph order."""
        return sorted(differences, key=lambda difference: self.flow.producer.get(difference.tensor, -1))

    def difference(self, name: str, expected: Array, value: Any, depth: int | None = None) -> Difference:
        """Compare a tensor with ONNX Runtime's; the tolerance grows with ``depth``, by default the tensor's."""
        node = self.flow.nodes[self.flow.producer[name]] if name in self.flow.producer else onnx.NodeProto()
        actual = to_numpy(value, self.types[name])
        absolute, relative = distance(expected, actual)
        depth = self.depth.get(name, 0) if depth is None else depth
        tolerance = _TOLERANCE.get(expected.dtype, _COARSE_TOLERANCE) * math.sqrt(1 + depth)
        flips = _flips(expected, actual) if absolute == 1 else 0
        return Difference(name, node.op_type, node.name, absolute, relative, tolerance, flips)


def distance(expected: Array, actual: Array) -> tuple[float, float]:
    """Largest difference, absolute and relative to the largest finite magnitude."""
    if expected.shape != np.shape(actual):
        return math.inf, math.inf
    if expected.size == 0:
        return 0.0, 0.0
    if expected.dtype.kind in "biu":
        return _integer_distance(expected, actual)
    wide = np.complex128 if expected.dtype.kind == "c" else np.float64
    a, b = expected.astype(wide), np.asarray(actual).astype(wide)
    finite = np.isfinite(a)
    if (finite != np.isfinite(b)).any() or not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return math.inf, math.inf
    if not finite.any():
        return 0.0, 0.0
    absolute = float(np.abs(a[finite] - b[finite]).max())
    scale = float(np.abs(a[finite]).max())
    return absolute, absolute / max(scale, _ABSOLUTE)


def _flips(expected: Array, actual: Array) -> int:
    return int((expected != actual).sum()) if expected.dtype.kind in "iu" else 0


def _integer_distance(expected: Array, actual: Array) -> tuple[float, float]:
    different = expected != actual
    if not different.any():
        return 0.0, 0.0
    # Python integers, because differences of 64-bit integers may overflow.
    absolute = float(np.abs(expected[different].astype(object) - actual[different].astype(object)).max())
    if absolute <= 1 and float(different.mean()) <= _ROUNDED_UNLIKE:
        return absolute, 0.0
    return absolute, absolute / max(1.0, float(np.abs(expected.astype(np.float64)).max()))
