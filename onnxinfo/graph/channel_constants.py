"""Values of channels that are constant: what becomes of channels that are zero at a tensor, in the tensors after it."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt
import onnx

from .channel_ties import COMBINING, UNARY, Port, Tie, View
from .constants import Constant, Evaluator
from .dataflow import Dataflow
from .stored import StoredValues, named

Floats = npt.NDArray[np.float64]
#: Values of channels, NaN where they are not constant, by tensor and axis.
Values = Mapping[tuple[str, int], Floats]

_POINTWISE = (UNARY | COMBINING | {"BatchNormalization", "DequantizeLinear", "QuantizeLinear"}) - {"Dropout"}
# Operators whose output has the values of their operands, if these are constant.
_MOVING = frozenset({
    "Concat", "Dropout", "Flatten", "GlobalAveragePool", "GlobalMaxPool", "MaxPool", "ReduceMax", "ReduceMean",
    "ReduceMin", "Reshape", "Resize", "Slice", "Squeeze", "Transpose", "Unsqueeze", "Upsample",
})  # fmt: skip
# Operators whose output is zero if their operands are.
_ZERO = frozenset({"AveragePool", "LpPool", "ReduceL1", "ReduceL2", "ReduceSum", "ReduceSumSquare"})
_BUDGET = 1 << 28


def is_unpadded(view: View) -> bool:
    """Whether a convolution or pooling sees only its operand, and no zeros around it."""
    return not any(view.attribute("pads", ())) and view.attribute("auto_pad", b"NOTSET") in (b"NOTSET", b"VALID")


class ConstantChannels:
    """Computes the values of constant channels, node by node.

    Parameters
    ----------
    flow
        The graph.
    stored
        Its stored values.
    imports
        Versions of its operators.
    """

    def __init__(self, flow: Dataflow, stored: StoredValues, imports: Iterable[onnx.OperatorSetIdProto]) -> None:
        self._flow, self._stored, self._imports = flow, stored, [*imports]

    def after(self, view: View, tie: Tie, values: Values) -> Floats:
        """Values of the channels of a node's output, from those of its operands."""
        (out,) = (port for port in tie.ports if port.output)
        op = view.node.op_type
        if op in _POINTWISE:
            return self._pointwise(view, tie, out, values)
        if op in ("Conv", "ConvTranspose"):
            return _convolved(view, tie, out, self._joint(view, tie, values))
        moved = self._joint(view, tie, values)[out.places]
        if op == "Dropout" and view.has(2):
            return np.full(out.size, np.nan)
        if op in _MOVING or (op == "AveragePool" and is_unpadded(view) and not view.attribute("ceil_mode", 0)):
            return moved
        if op in _ZERO or (op == "Pad" and _pads_zeros(view)):
            return np.where(moved == 0, 0.0, np.nan)
        return np.full(out.size, np.nan)

    def _joint(self, view: View, tie: Tie, values: Values) -> Floats:
        """Values of a tie's channels: NaN where the operands' are not the same constant."""
        found, seen = np.full(tie.size, np.nan), np.zeros(tie.size, bool)
        for port in tie.ports:
            if not port.output and view.node.input[port.position] in self._flow.driven:
                own = values.get((view.node.input[port.position], port.axis), np.full(port.size, np.nan))
                for place, value in zip(port.places, own, strict=True):
                    found[place] = value if not seen[place] or found[place] == value else np.nan
                    seen[place] = True
        return found

    def _pointwise(self, view: View, tie: Tie, out: Port, values: Values) -> Floats:
        ports = {port.position: port for port in tie.ports if not port.output}
        known, zero = np.ones(out.size, bool), np.zeros(out.size, bool)
        scope: dict[str, Constant | None] = {}
        for i, name in enumerate(view.node.input):
            tensor = self._stored.get(name)
            if not name or tensor is not None:
                if tensor is not None:
                    scope[name] = Constant.known(named(tensor, name))
                continue
            own = values.get((name, ports[i].axis)) if i in ports else None
            own = np.full(out.size, np.nan) if own is None else own
            known &= np.isfinite(own)
            zero |= own == 0
            shape = [1] * len(view.shape(i))
            if i in ports:
                shape[ports[i].axis] = out.size
                dtype = onnx.helper.tensor_dtype_to_np_dtype(self._flow.element_type(name) or onnx.TensorProto.FLOAT)
                array = np.nan_to_num(own).reshape(shape).astype(dtype)
                scope[name] = Constant.known(onnx.numpy_helper.from_array(array, name))
        found = self._computed(view, out, scope) if known.any() else np.full(out.size, np.nan)
        found = np.where(known, found, np.nan)
        return np.where(zero, 0.0, found) if view.node.op_type == "Mul" else found

    def _computed(self, view: View, out: Port, scope: dict[str, Constant | None]) -> Floats:
        """Run a node on one value of each channel."""
        evaluator = Evaluator(self._imports, _BUDGET)
        found = evaluator.evaluate(view.node.proto, ChainMap(scope))
        evaluator.compute()
        if found is None or found[0].tensor is None:
            return np.full(out.size, np.nan)
        rows = np.moveaxis(found[0].array.astype(np.float64), out.axis, 0).reshape(out.size, -1)
        same = np.isfinite(rows).all(1) & (rows == rows[:, :1]).all(1)
        return np.where(same, rows[:, 0], np.nan)


def _pads_zeros(view: View) -> bool:
    if view.attribute("mode", b"constant") != b"constant":
        return True
    value = view.constant(2) if view.has(2) else np.float32(view.attribute("value", 0.0))
    return value is not None and not np.any(value)


def _convolved(view: View, tie: Tie, out: Port, joint: Floats) -> Floats:
    """Outputs of whole groups of a convolution, if they are constant."""
    bias = view.constant(2) if view.has(2) else np.zeros(out.size)
    weight = view.constant(1)
    if bias is None or all(port.output or port.position != 0 for port in tie.ports):
        return np.full(out.size, np.nan)
    zero = joint[out.places] == 0
    found = np.where(zero, bias.astype(np.float64), np.nan)
    if view.node.op_type == "Conv" and is_unpadded(view) and weight is not None:
        sums = weight.astype(np.float64).reshape(*weight.shape[:2], -1).sum((1, 2))
        found = np.where(zero, found, joint[out.places] * sums + bias)
    return found


def absorbed(view: View, removed: npt.NDArray[np.bool_], values: Floats) -> Floats | None:
    """What removed channels of the first operand contribute to each output of a node that sums over its channels.

    Parameters
    ----------
    view
        A convolution or matrix product.
    removed
        Which channels are removed.
    values
        Their values.

    Returns
    -------
    array or None
        By output; None if that is not the same at every position, or if there is no bias to add it to.
    """
    weight, op = view.constant(1), view.node.op_type
    stored = not view.has(2) or view.constant(2) is not None
    if weight is None or not stored or op not in ("Conv", "Gemm") or (op == "Conv" and not is_unpadded(view)):
        return None
    wide: Floats = weight.astype(np.float64)
    if op == "Gemm":
        wide = wide if view.attribute("transB", 0) else wide.T
        beta = view.attribute("beta", 1.0)
        factor = view.attribute("alpha", 1.0) / beta if beta else np.nan
    else:
        wide, factor = wide.reshape(*wide.shape[:2], -1).sum(2), 1.0
    added: Floats = wide[:, removed] @ values[removed] * factor
    return added if np.isfinite(added).all() else None
