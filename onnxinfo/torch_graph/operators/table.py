"""How an ONNX operator becomes a torch function: the table, and its registration with onnx2torch.

An operator is a plain function named as ONNX names it. Its positional parameters are the operator's inputs, its
keyword-only parameters the attributes with ONNX's defaults; it returns a tensor, or a tuple for several outputs::

    @operator()
    def Elu(X, *, alpha=1.0):
        return torch.where(X > 0, X, alpha * torch.expm1(X))

    @operator(versions=(13, None))
    def Squeeze(data, axes: Ints = None):
        ...

A parameter annotated ``Ints`` or ``Floats`` holds shape arithmetic: the function receives a list of Python numbers
(or None where the optional input is absent), whether the operand is a constant of the model or computed at run time.
A parameter annotated ``Unsupported`` is an input or attribute that a convertible node leaves out or sets to zero. Any
other annotation is refused when the function is put into the table. A keyword-only parameter ``outputs`` receives how
many outputs the node names. An operator whose meaning changed between opsets has one function per range of versions.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import ml_dtypes
import numpy as np
import onnx
import torch
from onnx2torch.node_converters import registry
from onnx2torch.onnx_graph import OnnxGraph
from onnx2torch.onnx_node import OnnxNode
from onnx2torch.utils.common import OnnxMapping, OperationConverterResult
from torch import Tensor, nn

from ...errors import ConversionError
from ...registry import OPERATORS

MICROSOFT = "com.microsoft"

# Markers for parameters that hold shape arithmetic; the functions see plain lists.
Ints = Annotated[list[int] | None, "shape arithmetic"]
Floats = Annotated[list[float] | None, "shape arithmetic"]
# Marker for what a function knows of but does not do.
Unsupported = Annotated[Any, "unsupported"]
_MARKERS = {"Ints": Ints, "Floats": Floats, "Unsupported": Unsupported}

Function = Callable[..., Any]
Converter = Callable[[OnnxNode, OnnxGraph], OperationConverterResult]


class Versions(NamedTuple):
    """A closed range of operator versions; ``last`` is None for "and every later one"."""

    first: int
    last: int | None

    def __contains__(self, version: object) -> bool:
        return isinstance(version, int) and self.first <= version and (self.last is None or version <= self.last)


@dataclass(frozen=True)
class Entry:
    """One row of the table: what serves an operator for a range of its versions."""

    domain: str
    op_type: str
    versions: Versions
    converter: Converter


TABLE: list[Entry] = []


def operator(
    name: str | None = None, *, domain: str = "", versions: tuple[int, int | None] = (1, None)
) -> Callable[[Function], Function]:
    """Put a function into the table, under its own name unless ``name`` is given.

    Raises
    ------
    TypeError
        A parameter has an annotation that is not understood.
    """

    def enter(function: Function) -> Function:
        _signature(function)

        def convert(node: OnnxNode, graph: OnnxGraph) -> OperationConverterResult:
            return bind(function, node, graph)

        op_type = name or function.__name__.rstrip("_")
        TABLE.append(Entry(domain, op_type, Versions(*versions), convert))
        return function

    return enter


def converter(
    *op_types: str, domain: str = "", versions: tuple[int, int | None] = (1, None)
) -> Callable[[Converter], Converter]:
    """Put an onnx2torch converter into the table, for operators that need more than their operands' values."""

    def enter(function: Converter) -> Converter:
        TABLE.extend(Entry(domain, op_type, Versions(*versions), function) for op_type in op_types)
        return function

    return enter


@functools.cache
def _signature(function: Function) -> inspect.Signature:
    """Return a function's signature, annotations as the objects that they name, however the module spells them.

    Raises
    ------
    TypeError
        An annotation is no marker, or names nothing that the module imports.
    """
    where = f"operator function {function.__module__}.{function.__qualname__}"
    expected = f"annotate parameters with {', '.join(_MARKERS)} of {__name__}, or not at all"
    try:
        signature = inspect.signature(function, eval_str=True)
    except NameError as error:
        raise TypeError(f"{where}: {error}; {expected}") from None
    for parameter in signature.parameters.values():
        if parameter.annotation not in (inspect.Parameter.empty, *_MARKERS.values()):
            raise TypeError(f"{where}: '{parameter}' is not understood; {expected}")
    return signature


class Operator(nn.Module):
    """A function of the table with the constants and attributes of one node bound to it.

    Parameters
    ----------
    function
        The function of the table.
    constants
        By position: operands known before the model runs, as lists (shape arithmetic), tensors or None (absent).
    listed
        Positions at which the function expects a list of numbers.
    attributes
        The node's attributes.
    outputs
        How many outputs the node names; of a function's tuple a single one receives the first value.
    label
        What errors call the node.
    """

    def __init__(
        self,
        function: Function,
        constants: dict[int, Any],
        listed: frozenset[int],
        attributes: dict[str, Any],
        outputs: int,
        label: str,
    ) -> None:
        super().__init__()
        self.function = function
        self.constants = constants
        self.listed = listed
        self.attributes = attributes
        self.outputs = outputs
        self.label = label

    def forward(self, *operands: Any) -> Any:
        """Call the function; a node with one output gets it as it is, others a tuple.

        Raises
        ------
        ConversionError
            The function refuses the operands; a lack of memory is passed on as it is.
        """
        try:
            if self.constants or self.listed:
                operands = self._with_constants(operands)
            result = self.function(*_on_one_device(operands), **self.attributes)
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            raise ConversionError(f"{self.label} cannot run: {' '.join(str(error).split())}") from error
        if self.outputs == 1:
            return result[0] if isinstance(result, tuple) else result
        if isinstance(result, Tensor):
            raise ConversionError(f"{self.label} cannot run: its outputs other than the first are not computed")
        return result

    def _with_constants(self, operands: tuple[Any, ...]) -> tuple[Any, ...]:
        arguments = iter(operands)
        total = len(operands) + len(self.constants)
        bound = [self.constants[i] if i in self.constants else next(arguments) for i in range(total)]
        for i in self.listed:
            if isinstance(bound[i], Tensor):
                bound[i] = bound[i].reshape(-1).tolist()
        return tuple(bound)

    def extra_repr(self) -> str:
        """Name the function."""
        return self.function.__name__


def _on_one_device(operands: tuple[Any, ...]) -> tuple[Any, ...]:
    """Shape arithmetic stays on the host; where it meets tensors of an accelerator, it follows them there."""
    target = None
    mixed = False
    for operand in operands:
        if isinstance(operand, Tensor) and operand.device != target:
            mixed = target is not None
            target = operand.device if target is None or target.type == "cpu" else target
    if not mixed:
        return operands
    return tuple(operand.to(target) if isinstance(operand, Tensor) else operand for operand in operands)


def bind(function: Function, node: OnnxNode, graph: OnnxGraph, **attributes: Any) -> OperationConverterResult:
    """Convert a node to a function of the table; attributes given here come before the node's own."""
    listed = _listed_parameters(function, len(node.input_values))
    constants: dict[int, Any] = {}
    dynamic: list[str] = []
    for i, name in enumerate(node.input_values):
        value = _constant_operand(name, graph, listed=i in listed)
        if value is _DYNAMIC:
            dynamic.append(name)
        else:
            constants[i] = value
    attributes = {a.name: attribute_value(a) for a in node.proto.attribute if a.name not in _MEANINGLESS} | attributes
    if "outputs" in _signature(function).parameters:
        attributes["outputs"] = len(node.output_values)
    _check_call(function, node.input_values, attributes)
    module = Operator(function, constants, listed, attributes, len(node.output_values), graph.describe(node))
    return OperationConverterResult(module, OnnxMapping(tuple(dynamic), tuple(node.output_values)))


# The first versions of many operators told an executor which inputs it may overwrite.
_MEANINGLESS = {"consumed_inputs"}


def _check_call(function: Function, operands: tuple[str, ...], attributes: dict[str, Any]) -> None:
    """Refuse at once what a run would refuse: an unknown or unsupported attribute, a missing or surplus operand."""
    signature = _signature(function)
    try:
        given = signature.bind(*operands, **attributes).arguments
    except TypeError as error:
        raise NotImplementedError(str(error)) from None
    for name, parameter in signature.parameters.items():
        if parameter.annotation == Unsupported and given.get(name):
            raise NotImplementedError(f"'{name}' is not supported")


_DYNAMIC = object()
_INTEGERS = {number for name, number in onnx.TensorProto.DataType.items() if re.fullmatch(r"U?INT\d+|BOOL", name)}


def _constant_operand(name: str, graph: OnnxGraph, *, listed: bool) -> Any:
    if name == "":
        return None
    if name not in graph.initializers:
        return _DYNAMIC
    if listed:
        return initializer_value(name, graph).reshape(-1).tolist()
    # Float constants are weights: they belong to the module's buffers, shared and moved with it.
    proto = graph.initializers[name].proto
    small = len(proto.dims) < 2 and proto.data_type in _INTEGERS
    return initializer_value(name, graph) if small else _DYNAMIC


def _listed_parameters(function: Function, count: int) -> frozenset[int]:
    """Positions (of the first ``count`` operands) that the function wants as lists of numbers."""
    parameters = [*_signature(function).parameters.values()][:count]
    return frozenset(i for i, parameter in enumerate(parameters) if parameter.annotation in (Ints, Floats))


def attribute_value(attribute: onnx.AttributeProto) -> Any:
    """A node's attribute as Python value: bytes become str, tensors torch tensors; graphs stay protos."""
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode()
    if attribute.type == onnx.AttributeProto.STRINGS:
        return [item.decode() for item in value]
    if isinstance(value, onnx.TensorProto):
        return tensor_from(onnx.numpy_helper.to_array(value))
    if attribute.type in (onnx.AttributeProto.INTS, onnx.AttributeProto.FLOATS):
        return list(value)
    return value


# Element types numpy knows through ml_dtypes only, and the torch type that holds their values.
_TORCH_TYPES = {
    np.dtype(ml_dtypes.bfloat16): torch.bfloat16,
    np.dtype(ml_dtypes.float8_e4m3fn): torch.float8_e4m3fn,
    np.dtype(ml_dtypes.float8_e4m3fnuz): torch.float8_e4m3fnuz,
    np.dtype(ml_dtypes.float8_e5m2): torch.float8_e5m2,
    np.dtype(ml_dtypes.float8_e5m2fnuz): torch.float8_e5m2fnuz,
    np.dtype(ml_dtypes.float8_e8m0fnu): torch.float8_e8m0fnu,
}
_WIDER_TYPES = {
    np.dtype(ml_dtypes.int2): np.int8,
    np.dtype(ml_dtypes.int4): np.int8,
    np.dtype(ml_dtypes.uint2): np.uint8,
    np.dtype(ml_dtypes.uint4): np.uint8,
    np.dtype(ml_dtypes.float4_e2m1fn): np.float32,
    np.dtype(ml_dtypes.float6_e2m3fn): np.float32,
    np.dtype(ml_dtypes.float6_e3m2fn): np.float32,
}


def tensor_from(array: np.ndarray[Any, Any]) -> Tensor:
    """Copy an array into a torch tensor; types of 2 to 6 bits widen to the next type torch computes with."""
    if array.dtype in _TORCH_TYPES:
        raw = array.view(f"u{array.dtype.itemsize}").copy()
        return torch.from_numpy(raw).view(_TORCH_TYPES[array.dtype])
    return torch.from_numpy(array.astype(_WIDER_TYPES.get(array.dtype, array.dtype)))


def single(x: Tensor) -> Tensor:
    """Convert to float32 what has less precision than it."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def torch_type(element_type: int) -> torch.dtype:
    """Return the torch type that holds values of an ONNX element type."""
    return tensor_from(np.empty(0, onnx.helper.tensor_dtype_to_np_dtype(element_type))).dtype


def element_type(name: str, graph: OnnxGraph) -> int:
    """Return the ONNX element type of a tensor of the graph, 0 where it is not known."""
    if name in graph.initializers:
        return int(graph.initializers[name].proto.data_type)
    return int(graph.value_info[name].type.tensor_type.elem_type) if name in graph.value_info else 0


def initializer_value(name: str, graph: OnnxGraph) -> Any:
    """Read a constant of the model as torch tensor; strings as array."""
    array = onnx.numpy_helper.to_array(graph.initializers[name].proto)
    return array if array.dtype == object else tensor_from(array)


@contextmanager
def registered() -> Iterator[None]:
    """Register the table with onnx2torch for as long as the context lasts.

    Precedence: a converter somebody else registered with onnx2torch, then this table, then onnx2torch's own. The
    registry is left as it was found, so registering one's own converter works before and after.
    """
    OPERATORS.load_installed()
    converters = registry._CONVERTER_REGISTRY
    before = dict(converters)
    try:
        converters.update({k: ours for k, ours in _by_version().items() if not _somebody_elses(before.get(k))})
        yield
    finally:
        converters.clear()
        converters.update(before)


def _somebody_elses(converter: Any) -> bool:
    return converter is not None and not converter.__module__.startswith("onnx2torch.")


def _by_version() -> dict[registry.OperationDescription, Converter]:
    """Spell the table out for every version of an operator."""
    return _spelled_out(len(TABLE))


@functools.cache
def _spelled_out(entries: int) -> dict[registry.OperationDescription, Converter]:
    """Spell the table out, which only ever grows, at the given number of entries."""
    history: dict[tuple[str, str], set[int]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        history.setdefault((schema.domain, schema.name), set()).add(schema.since_version)
    # ONNX Runtime writes this one into models older than its standard.
    history["", "LayerNormalization"].update(range(1, 17))
    # Without a schema every version of the operator set stands for the operator as it is.
    unknown = set(range(1, onnx.defs.onnx_opset_version() + 1))
    return {
        registry.OperationDescription(entry.domain, entry.op_type, version): entry.converter
        for entry in TABLE[:entries]
        for version in history.get((entry.domain, entry.op_type), unknown)
        if version in entry.versions
    }
