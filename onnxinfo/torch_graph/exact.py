"""Explain differences between two engines on a node by its result in double precision and by rounded operands."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.inliner

from ..graph import protos
from ..graph.engine import Engine
from ..graph.functions import supply_defaults
from ..graph.reference import Reference
from .compare import distance
from .precision import FLOATS, widen

Array = npt.NDArray[Any]
Run = Callable[[dict[str, Array]], Array]

# Number of draws of rounded operands, and the largest accepted difference in multiples of their spread.
_DRAWS = 8
_SPREAD = 8.0
# Perturbation of operands in multiples of their rounding error if ONNX Runtime computes the spread, and the largest
# accepted difference in multiples of its largest entry. Such nodes round to 8 bits within, hundreds of times in a
# recurrent layer: smaller perturbations may turn none of these roundings over, and another engine turns over others.
_EPSILONS, _TURNED = 64.0, 4.0
# Engines compute these as the operand times a sum that cancels in the tail: accurate to a few units in the last place
# of the operand, but not of the result.
_CANCELLING = {"BiasGelu", "FastGelu", "Gelu", "QuickGelu"}
_FLOOR = 4.0
_UNSATURATED = "where ONNX Runtime's 8-bit products do not saturate, "


@dataclass(frozen=True)
class Evidence:
    """One tensor on which two engines differ, and the operands of its node.

    Parameters
    ----------
    model
        Model that contains the node that computes the tensor, and the node's initializers.
    output
        Name of the tensor.
    values
        Operands from which both results were computed, by name; initializers may be absent.
    expected, result
        The tensor computed by ONNX Runtime and by the torch graph.
    tolerance
        Largest difference that counts as rounding, relative to the largest magnitude.
    """

    model: onnx.ModelProto
    output: str
    values: Mapping[str, Array]
    expected: Array
    result: Array
    tolerance: float


def explanation(evidence: Evidence) -> str | None:
    """Explain why a difference is due to rounding and not to an error of the torch graph.

    ONNX's reference evaluator in double precision is the arbiter: the torch graph is correct if it agrees within the
    tolerance, or within the effect of rounding the operands, element by element. GELUs may differ by a few units in
    the last place of the operand. If the reference evaluator lacks an operator, ONNX Runtime computes it without
    saturation, and with rounded operands: a node with internal rounding, such as the dynamically quantized LSTM, then
    differs from itself. Integers have to be the reference evaluator's, or ONNX Runtime's without saturation.

    Parameters
    ----------
    evidence
        The two results and their operands.

    Returns
    -------
    str or None
        Clause for a report; None if nothing explains the difference.
    """
    if evidence.expected.shape != evidence.result.shape or evidence.expected.dtype.kind not in "fiu":
        return None
    difference = np.abs(_wide(evidence.result) - _wide(evidence.expected))
    if not np.isfinite(difference).all():
        return None
    node = next(n for n in evidence.model.graph.node if evidence.output in n.output)
    operands = _operands(evidence, node)
    if operands is None:
        return None
    if evidence.expected.dtype.kind != "f":
        return _in_integers(evidence, node, operands)
    if node.op_type in _CANCELLING and (difference <= _floor(evidence, operands)).all():
        return "the operator's own sum cancels there"
    try:
        return _in_double_precision(evidence, node, operands)
    except Exception:
        # The evaluator raises various errors on operators or types that it does not support.
        return _in_onnx_runtime(evidence, node, operands)


def _floor(evidence: Evidence, operands: Mapping[str, Array]) -> float:
    floats = [np.abs(value).max(initial=0) for value in operands.values() if value.dtype.kind == "f"]
    return _FLOOR * float(np.finfo(evidence.expected.dtype).eps) * float(max([1.0, *floats]))


def _in_double_precision(evidence: Evidence, node: onnx.NodeProto, operands: Mapping[str, Array]) -> str | None:
    single = _single(evidence, node, operands)
    widen(single, FLOATS, onnx.TensorProto.DOUBLE)
    reference = Reference(single)
    position = [output.name for output in single.graph.output].index(evidence.output)

    def run(given: dict[str, Array]) -> Array:
        return np.asarray(reference.run(given)[position])

    wide = {name: _wide(value) for name, value in operands.items()}
    exact = run(wide)
    if exact.shape != evidence.result.shape or exact.dtype != np.float64 or not np.isfinite(exact).all():
        return None
    ours = np.abs(_wide(evidence.result) - exact)
    limit = evidence.tolerance * np.abs(exact).max(initial=0)
    if (ours <= limit).all():
        return "it is what double precision gives"
    spread = _spread(run, wide, exact, _unit(evidence))
    if (ours <= limit + _SPREAD * spread).all():
        return "rounding the operands changes as much"
    return None


def _in_integers(evidence: Evidence, node: onnx.NodeProto, operands: Mapping[str, Array]) -> str | None:
    with contextlib.suppress(Exception):
        # The evaluator raises various errors on operators or types that it does not support.
        single = _single(evidence, node, operands)
        position = [output.name for output in single.graph.output].index(evidence.output)
        if _is_same(evidence, np.asarray(Reference(single).run(dict(operands))[position])):
            return "it is what the reference evaluator gives"
    return _in_onnx_runtime(evidence, node, operands)


def _is_same(evidence: Evidence, values: Array) -> bool:
    """Whether the torch graph's result is the same but for integers that may be rounded to either side."""
    return distance(values, evidence.result)[1] <= (evidence.tolerance if values.dtype.kind == "f" else 0)


def _in_onnx_runtime(evidence: Evidence, node: onnx.NodeProto, operands: Mapping[str, Array]) -> str | None:
    for is_wide, where in ((False, ""), (True, _UNSATURATED)):
        with contextlib.suppress(Exception):
            run, given = _runtime(evidence, node, operands, is_wide)
            if (why := _compared(evidence, run, given)) is not None:
                return where + why
    return None


def _runtime(
    evidence: Evidence, node: onnx.NodeProto, operands: Mapping[str, Array], is_wide: bool
) -> tuple[Run, dict[str, Array]]:
    """A node in ONNX Runtime, and its operands but for constants.

    Stored weights stay constants, which some operators demand. If products must not saturate, computed int8 weights
    become constants, too.
    """
    stored = [t for t in evidence.model.graph.initializer if t.name in operands and t.name not in evidence.values]
    given = {name: value for name, value in operands.items() if name in evidence.values}
    if is_wide:
        weights = [name for name, value in given.items() if value.dtype == np.int8 and name != node.input[0]]
        stored += [onnx.numpy_helper.from_array(np.ascontiguousarray(given.pop(name)), name) for name in weights]
    single = _single(evidence, node, given)
    protos.copy_tensors(single.graph.initializer, stored)
    _separate(single.graph)
    position = [output.name for output in single.graph.output].index(evidence.output)
    engine = Engine(single, threads=1, is_wide=is_wide)
    return lambda values: np.asarray(engine.run(values)[position]), given


def _separate(graph: onnx.GraphProto) -> None:
    """Give each operand a stored tensor of its own: ONNX Runtime would convert shared ones twice."""
    stored = {tensor.name: tensor for tensor in graph.initializer}
    seen: set[str] = set()
    for node in graph.node:
        for position, name in enumerate(node.input):
            if name in stored and name in seen:
                node.input[position] = f"{name}, operand {position}"
                graph.initializer.add().CopyFrom(stored[name])
                graph.initializer[-1].name = node.input[position]
            seen.add(name)


def _compared(evidence: Evidence, run: Run, operands: dict[str, Array]) -> str | None:
    alone = run(operands)
    if _is_same(evidence, alone):
        # Each thread rounds its share of the samples with a scale of its own.
        return "it is what ONNX Runtime gives with one thread"
    if evidence.expected.dtype.kind != "f":
        return None
    ours = np.abs(_wide(evidence.result) - _wide(alone)).max(initial=0)
    spread = _spread(run, operands, alone, _EPSILONS * _unit(evidence))
    return "roundings within the node fall to either side" if ours <= _TURNED * spread.max(initial=0) else None


def _unit(evidence: Evidence) -> float:
    """Largest relative error of rounding to the tensor's type."""
    return float(np.finfo(evidence.expected.dtype).eps) / 2


def _spread(run: Run, operands: Mapping[str, Array], exact: Array, epsilon: float) -> Array:
    """Elementwise root mean square of the changes caused by random relative errors of the operands."""
    random = np.random.default_rng(0)
    squares = np.zeros(exact.shape)
    for _ in range(_DRAWS):
        rounded = {name: _rounded(value, random, epsilon) for name, value in operands.items()}
        squares += (_wide(run(rounded)) - _wide(exact)) ** 2
    return np.sqrt(squares / _DRAWS)


def _rounded(value: Array, random: np.random.Generator, epsilon: float) -> Array:
    if value.dtype.kind != "f":
        return value
    return (value * (1 + epsilon * random.choice([-1.0, 1.0], value.shape))).astype(value.dtype)


def _operands(evidence: Evidence, node: onnx.NodeProto) -> dict[str, Array] | None:
    initial = {t.name: t for t in evidence.model.graph.initializer}
    found = {}
    for name in protos.needed_names(node):
        if name not in evidence.values and name not in initial:
            return None
        stored = evidence.values.get(name)
        found[name] = np.asarray(onnx.numpy_helper.to_array(initial[name]) if stored is None else stored)
    return found


def _single(evidence: Evidence, node: onnx.NodeProto, operands: Mapping[str, Array]) -> onnx.ModelProto:
    """Build a model of the node alone, with function calls inlined.

    Raises
    ------
    NotImplementedError
        The node contains a loop, which cannot be interrupted.
    """
    if any(inner.op_type == "Loop" for inner in protos.nested([node])):
        raise NotImplementedError("a loop cannot be stopped")
    inputs = [onnx.helper.make_tensor_value_info(n, _number(v), None) for n, v in operands.items()]
    outputs = _outputs(evidence.model, [name for name in node.output if name])
    graph = onnx.helper.make_graph([node], "node", inputs, outputs)
    single = onnx.helper.make_model(
        graph,
        opset_imports=evidence.model.opset_import,
        functions=evidence.model.functions,
        ir_version=evidence.model.ir_version,
    )
    if single.functions:
        supply_defaults(single)
        single = onnx.inliner.inline_local_functions(single)
    return single


def _outputs(model: onnx.ModelProto, names: Sequence[str]) -> list[onnx.ValueInfoProto]:
    types = {v.name: v.type.tensor_type.elem_type for v in (*model.graph.value_info, *model.graph.output)}
    return [
        onnx.helper.make_tensor_value_info(name, types[name], None) if name in types else onnx.ValueInfoProto(name=name)
        for name in names
    ]


def _wide(array: Array) -> Array:
    return array.astype(np.float64) if array.dtype.kind == "f" else array


def _number(array: Array) -> int:
    return onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
