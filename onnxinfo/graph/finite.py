"""Detect unusable weights: NaN, infinite, or too large to be squared."""

from __future__ import annotations

import numpy as np
import onnx

from ..errors import ModelError
from ..text import quoted
from .dataflow import FLOATS
from .model import Model
from .operators import MATRIX

# Fraction of the square root of a type's largest number beyond which a weight's square overflows in sums.
_SHARE = 1e-2


def check_weights(part: Model) -> None:
    """Raise if weights are not finite, or their squares overflow.

    Infinite constants are legitimate as masks and bounds; as weights of convolutions, matrix products and the like they
    are not, nor is NaN anywhere.

    Parameters
    ----------
    part
        The part of a model between the analysis input and the layers.

    Raises
    ------
    ModelError
        The message names the initializer and the node that uses it.
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
