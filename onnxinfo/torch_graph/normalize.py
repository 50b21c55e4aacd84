"""Normalize a graph for conversion: inline functions and fold constants."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
import onnx.inliner

from ..errors import ModelError
from ..graph.functions import supply_defaults
from ..graph.inference import infer_shapes
from ..text import printable, quoted
from .folding import fold


def normalize(proto: onnx.ModelProto, weights: Mapping[str, onnx.TensorProto]) -> onnx.ModelProto:
    """Inline functions, turn constant nodes into initializers and fold what depends on no graph input.

    Parameters
    ----------
    proto
        A checked model; may be modified.
    weights
        Its initializers, by name, whose data are not in the model.

    Returns
    -------
    onnx.ModelProto
        An equivalent model; the weights that it still needs are not in it either. Names of graph inputs and outputs,
        and of values that are still computed, are kept; values inside functions get new names.

    Raises
    ------
    ModelError
        A function cannot be inlined, or a sparse initializer cannot be made dense.
    """
    if proto.functions:
        supply_defaults(proto)
        proto = infer_shapes(_inlined(proto))
    folded = fold(proto, weights)
    for sparse in proto.graph.sparse_initializer:
        raise ModelError(
            f"sparse initializer {quoted(sparse.values.name)} cannot be written out: of shape {list(sparse.dims)}, it "
            f"is damaged or takes far more memory than the model"
        )
    return infer_shapes(proto) if folded else proto


def _inlined(proto: onnx.ModelProto) -> onnx.ModelProto:
    try:
        return onnx.inliner.inline_local_functions(proto, convert_version=True)
    except Exception as error:
        reason = printable(" ".join(str(error).split()))[:300]
        raise ModelError(f"the model's functions cannot be inlined: {reason}") from None
