"""ONNX's reference evaluator in place of ONNX Runtime, for models in versions that the latter does not support."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from . import protos
from .interruption import interruptible
from .reference import Reference, means_the_same
from .versions import nodes_with_opset

Array = npt.NDArray[Any]


class ReferenceEngine:
    """A model in the reference evaluator, with the interface of :class:`.engine.Engine`.

    Parameters
    ----------
    proto
        A checked model that contains all its weights.

    Raises
    ------
    NotImplementedError
        An operator is not on the list of permitted operators, is not implemented in the model's opset, or is a
        control-flow operator: a loop could not be interrupted.
    """

    def __init__(self, proto: onnx.ModelProto) -> None:
        own = {(function.domain, function.name) for function in proto.functions}
        for node, opsets in nodes_with_opset(proto):
            if any(protos.bodies(node)):
                raise NotImplementedError(f"the reference evaluator is given no control flow ({node.op_type})")
            known = not node.domain and means_the_same(node, opsets.get("", 1))
            if not known and (node.domain, node.op_type) not in own:
                operator = f"{node.domain or 'ai.onnx'}.{node.op_type}"
                version = opsets.get(node.domain, 1)
                raise NotImplementedError(f"the reference evaluator does not have {operator} of opset {version}")
        self._reference = Reference(proto)
        initial = {tensor.name for tensor in proto.graph.initializer}
        self.inputs = [value.name for value in proto.graph.input if value.name not in initial]
        self.outputs = [value.name for value in proto.graph.output]
        self._types = [value.type.tensor_type.elem_type for value in proto.graph.output]

    def run(self, feeds: Mapping[str, Array]) -> list[Any]:
        """Compute all graph outputs, in the element types that the model declares.

        Raises
        ------
        ModelError
            The computation exceeds the time limit.
        Exception
            Any error raised by the evaluator.
        """
        values = interruptible(lambda: self._run(feeds), self._reference.stop)
        return [_as(value, element) for value, element in zip(values, self._types, strict=True)]

    def _run(self, feeds: Mapping[str, Array]) -> list[Any]:
        with np.errstate(all="ignore"):
            return self._reference.run(feeds)


def _as(value: Any, element: int) -> Any:
    """Convert a float value to an element type, because some operators of the evaluator return wider floats."""
    dtype = onnx.helper.tensor_dtype_to_np_dtype(element) if element else None
    if dtype is None or dtype.kind != "f" or np.asarray(value).dtype.kind != "f":
        return value
    with np.errstate(over="ignore"):
        return np.asarray(value, dtype)
