"""Weights that cannot be computed with: NaN, infinite, or too large to be squared."""

from __future__ import annotations

import numpy as np
import onnx

from ..errors import ModelError
from ..text import quoted
from .blocks import MATRIX
from .dataflow import FLOATS
from .model import Model

# A weight beyond this part of the root of the largest number of its type has a square that overflows in sums.
_SHARE = 1e-2


def check_weights(part: Model) -> None:
    """Refuse weights that are not finite, or whose squares overflow.

    Infinite constants have their uses, as masks and bounds; the weights of convolutions, matrix products and the like,
    and NaN anywhere, have not.

    Parameters
    ----------
    part
        The part of a model between the perturbed tensor and the layers.

    Raises
    ------
    ModelError
        Names the initializer and the node that uses it.
    """
    flow = part.flow
    influenced = flow.driven
    for position, node in enumerate(flow.nodes):
        weights = flow.parameters_of(position, influenced) if node.op_type in MATRIX else {}
        for name in (*weights, *node.input):
            tensor = flow.initializers.get(name)
            if tensor is None or tensor.data_type not in FLOATS:
                continue
            reason = _complaint(tensor, weight=name in weights)
            if reason:
                raise ModelError(
                    f"initializer {quoted(name)} of node {quoted(node.name or node.output[0])} ({node.op_type}) "
                    f"{reason}; export the model with weights that can be computed with"
                )


def _complaint(tensor: onnx.TensorProto, *, weight: bool) -> str:
    values = onnx.numpy_helper.to_array(tensor)
    wide = values.astype(np.float64)
    if np.isnan(wide).any():
        return f"holds NaN ({int(np.isnan(wide).sum())} of {wide.size} values)"
    largest = float(np.abs(wide).max(initial=0))
    if not weight:
        return ""
    if np.isinf(largest):
        return f"holds infinity ({int(np.isinf(wide).sum())} of {wide.size} values)"
    limit = np.sqrt(np.finfo(values.dtype if wide.itemsize == values.itemsize else np.float32).max) * _SHARE
    return f"holds {largest:.2g}, whose square overflows" if largest > limit else ""
