"""What a model itself does to its input's values first: whether it scales and centers them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx

from .dataflow import Dataflow
from .protos import AnyNode
from .tensor_data import is_external

_MOVES = frozenset({"Cast", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
_MOST_VALUES = 4096
_EPSILON = 1e-5


@dataclass(frozen=True)
class OwnScaling:
    """Scaling that a model starts with.

    Attributes
    ----------
    factor
        Factor that the input is multiplied by, the mean over the channels; 1 if the model does not scale it.
    centers
        Whether the model subtracts a mean.
    """

    factor: float = 1.0
    centers: bool = False


def own_scaling(flow: Dataflow, tensor: str) -> OwnScaling:
    """Return the scaling that a tensor goes through before any other operator.

    Parameters
    ----------
    flow
        The model.
    tensor
        Name of a graph input.
    """
    factor, centers = 1.0, False
    seen: set[str] = set()
    while tensor not in seen:
        seen.add(tensor)
        consumers = flow.consumers.get(tensor, ())
        if len(consumers) != 1:
            break
        node = flow.nodes[consumers[0]]
        step = _step(flow, node, tensor) if node.domain in ("", "ai.onnx") else None
        if step is None:
            break
        factor, centers, tensor = factor * step[0], centers or step[1], node.output[0]
    return OwnScaling(factor, centers)


def _step(flow: Dataflow, node: AnyNode, tensor: str) -> tuple[float, bool] | None:
    """Return the factor of one operator and whether it centers; None for an operator that does neither."""
    if node.op_type in _MOVES:
        return (1.0, False) if node.input[0] == tensor else None
    if node.op_type == "BatchNormalization" and node.input[0] == tensor:
        scale, variance = _constant(flow, node.input[1]), _constant(flow, node.input[4])
        if scale is None or variance is None:
            return None
        return _size(scale / np.sqrt(np.maximum(variance, 0) + _EPSILON)), True
    if node.op_type not in ("Add", "Sub", "Mul", "Div") or node.input[0] == node.input[1]:
        return None
    if node.op_type == "Div" and node.input[0] != tensor:
        return None
    number = _constant(flow, node.input[1] if node.input[0] == tensor else node.input[0])
    if number is None:
        return None
    if node.op_type in ("Add", "Sub"):
        return 1.0, True
    size = _size(number)
    if not size:
        return None
    return (size, False) if node.op_type == "Mul" else (1 / size, False)


def _constant(flow: Dataflow, name: str) -> npt.NDArray[np.float64] | None:
    tensor = flow.constant(name)
    if tensor is None or is_external(tensor) or np.prod(tensor.dims, dtype=float) > _MOST_VALUES:
        return None
    array = onnx.numpy_helper.to_array(tensor)
    return array.astype(np.float64) if array.dtype.kind in "fiu" and array.size else None


def _size(numbers: npt.NDArray[np.float64]) -> float:
    return float(np.abs(numbers).mean())
