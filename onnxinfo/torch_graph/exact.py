"""Result of a node in double precision by ONNX's reference evaluator, to decide which of two engines rounds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from ..graph import protos
from ..graph.reference import Reference

Array = npt.NDArray[Any]


def is_exact(model: onnx.ModelProto, output: str, values: Mapping[str, Array], result: Array, tolerance: float) -> bool:
    """Whether a result equals its node's result in double precision, up to rounding.

    Parameters
    ----------
    model
        Model that contains the node that computes the tensor.
    output
        Name of the tensor.
    values
        Operands from which the result was computed, by name; initializers may be omitted.
    result
        The result to check.
    tolerance
        Largest difference that counts as rounding, relative to the largest magnitude.

    Returns
    -------
    bool
        False if the reference evaluator cannot run the node in double precision.
    """
    exact = _exact(model, output, values)
    if exact is None or exact.shape != result.shape or exact.dtype != np.float64 or not np.isfinite(exact).all():
        return False
    error = np.abs(result.astype(np.float64) - exact).max(initial=0)
    return bool(error <= tolerance * np.abs(exact).max(initial=0))


def _exact(model: onnx.ModelProto, output: str, values: Mapping[str, Array]) -> Array | None:
    node = next(n for n in model.graph.node if output in n.output)
    if any(True for _ in protos.bodies(node)):
        return None
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer if t.name in node.input}
    try:
        operands = {name: _wide({**stored, **values}[name]) for name in protos.needed_names(node)}
        inputs = [onnx.helper.make_tensor_value_info(n, _number(v), None) for n, v in operands.items()]
        outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
        graph = onnx.helper.make_graph([node], "node", inputs, outputs)
        single = onnx.helper.make_model(graph, opset_imports=model.opset_import, functions=model.functions)
        return np.asarray(dict(zip(_names(node), Reference(single).run(operands), strict=True))[output])
    except Exception:
        # The evaluator raises all kinds of errors on unsupported operators and types.
        return None


def _names(node: onnx.NodeProto) -> list[str]:
    return [name for name in node.output if name]


def _wide(array: Array) -> Array:
    return array.astype(np.float64) if array.dtype.kind == "f" else array


def _number(array: Array) -> int:
    return onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
