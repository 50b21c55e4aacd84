"""The table of ONNX operators and the torch functions that implement them.

An operator is a plain function named as ONNX names it. Its positional parameters are the operator's inputs, its
keyword-only parameters the attributes with ONNX's defaults; it returns a tensor, or a tuple for several outputs::

    @operator()
    def Elu(X, *, alpha=1.0):
        return torch.where(X > 0, X, alpha * torch.expm1(X))

    @operator(versions=(13, None))
    def Squeeze(data, axes: Ints = None):
        ...

A parameter annotated ``Ints`` or ``Floats`` holds shape arithmetic: the function receives a list of Python numbers
(or None if the optional input is absent), whether the operand is a constant of the model or computed at run time.
Parameters annotated ``Sizes`` or ``Either`` receive a host value (:mod:`..host`) as it is; others receive a tensor made
of it. A tensor given for ``Ints``, ``Floats``, ``Sizes`` or ``Values`` is read while the function runs, which
:func:`~onnxinfo.torch_graph.conversions.conversion_report` tells; a tensor given for ``Either`` is not.
A parameter annotated ``Unsupported`` is an input or attribute that must be absent or zero in a convertible node. Any
other annotation is rejected when the function is registered. A keyword-only parameter ``outputs`` receives the number
of outputs that the node names. An operator whose meaning changed between opsets has one function per version range.
"""

from __future__ import annotations

import functools
import inspect
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import onnx
import torch
from torch import Tensor, nn

from ...errors import ConversionError
from ..host import LARGEST, HostValue, host_value, is_host, materialized, numbers
from ..nodes import Converted, Graph, Node
from .shape_arithmetic import HOST

MICROSOFT = "com.microsoft"

# Markers for parameters that hold shape arithmetic; the functions receive plain lists.
Ints = Annotated[list[int] | None, "shape arithmetic"]
Floats = Annotated[list[float] | None, "shape arithmetic"]
# Markers for parameters that may be host values; the functions receive either those or tensors.
Sizes = Annotated[Any, "host value, or a tensor that is read"]
Either = Annotated[Any, "host value or tensor"]
# Marker for tensors on whose elements the size of the result, or the course of the computation, depends.
Values = Annotated[Any, "a tensor that is read"]
# Marker for parameters that a function knows but does not support.
Unsupported = Annotated[Any, "unsupported"]
_MARKERS = {
    "Ints": Ints,
    "Floats": Floats,
    "Sizes": Sizes,
    "Either": Either,
    "Values": Values,
    "Unsupported": Unsupported,
}


Function = Callable[..., Any]
Converter = Callable[[Node, Graph], Converted]


class Versions(NamedTuple):
    """A closed range of operator versions; ``last`` is None for an open end."""

    first: int
    last: int | None

    def __contains__(self, version: object) -> bool:
        return isinstance(version, int) and self.first <= version and (self.last is None or version <= self.last)


@dataclass(frozen=True)
class Entry:
    """A row of the table: the implementation of an operator for a range of its versions."""

    domain: str
    op_type: str
    versions: Versions
    converter: Converter


#: Rows by domain ("" for ONNX's standard operators) and operator; if several match a version, the last one wins.
TABLE: dict[tuple[str, str], list[Entry]] = {}


def _enter(domain: str, op_type: str, versions: tuple[int, int | None], converter: Converter) -> None:
    TABLE.setdefault((domain, op_type), []).append(Entry(domain, op_type, Versions(*versions), converter))


def operator(
    name: str | None = None, *, domain: str = "", versions: tuple[int, int | None] = (1, None)
) -> Callable[[Function], Function]:
    """Add a function to the table, under its own name unless ``name`` is given.

    Raises
    ------
    TypeError
        A parameter has an unknown annotation.
    """

    def enter(function: Function) -> Function:
        _signature(function)

        def convert(node: Node, graph: Graph) -> Converted:
            return bind(function, node, graph)

        _enter(domain, name or function.__name__.rstrip("_"), versions, convert)
        return function

    return enter


def converter(
    *op_types: str, domain: str = "", versions: tuple[int, int | None] = (1, None)
) -> Callable[[Converter], Converter]:
    """Add a converter to the table, for operators that need more than their operands' values."""

    def enter(function: Converter) -> Converter:
        for op_type in op_types:
            _enter(domain, op_type, versions, function)
        return function

    return enter


@functools.cache
def _signature(function: Function) -> inspect.Signature:
    """Return a function's signature with resolved annotations, whether or not they are written as strings.

    Raises
    ------
    TypeError
        An annotation is not a marker, or names nothing that the module imports.
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


class Parameters(NamedTuple):
    """What a function expects of its operands.

    Parameters
    ----------
    listed
        Positions of lists of numbers.
    raw
        Positions of operands that may be host values.
    read
        Positions of operands whose elements are read.
    on_host
        Computes the operator if all operands are host values; None if nothing does.
    """

    listed: frozenset[int]
    raw: frozenset[int]
    read: frozenset[int]
    on_host: Function | None


#: What a function of tensors alone expects.
TENSORS_ONLY = Parameters(frozenset(), frozenset(), frozenset(), None)


class Operator(nn.Module):
    """A function of the table, with the constants and attributes of one node bound to it.

    Parameters
    ----------
    function
        Function from the table.
    constants
        By position: operands known before the model runs, as host values or None (absent).
    expects
        What the function expects of its operands.
    attributes
        The node's attributes.
    outputs
        Number of outputs that the node names; a single one receives the first value of a tuple.
    label
        Name of the node in errors.
    """

    def __init__(
        self,
        function: Function,
        constants: dict[int, HostValue | None],
        expects: Parameters,
        attributes: dict[str, Any],
        outputs: int,
        label: str,
    ) -> None:
        super().__init__()
        self.function = function
        self.constants = constants
        self.expects = expects
        self.attributes = attributes
        self.outputs = outputs
        self.label = label
        for i, value in constants.items():
            if value is not None and i not in expects.listed | expects.raw:
                # The tensor moves with the module, so that no pass copies it from the host.
                self.register_buffer(f"constant_{i}", materialized(value), persistent=False)

    def forward(self, *operands: Any) -> Any:
        """Call the function; return a single output by itself, several as a tuple.

        Raises
        ------
        ConversionError
            The function rejects the operands; out-of-memory errors are passed on unchanged.
        """
        try:
            result = self._computed(self._with_constants(operands) if self.constants else operands)
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            raise ConversionError(f"{self.label} cannot run: {' '.join(str(error).split())}") from error
        several = isinstance(result, tuple) and not is_host(result)
        if self.outputs == 1:
            return result[0] if several else result
        if not several and not isinstance(result, list):
            raise ConversionError(f"{self.label} cannot run: its outputs other than the first are not computed")
        return result

    def _computed(self, operands: tuple[Any, ...]) -> Any:
        on_host = self.expects.on_host
        if on_host is not None and all(operand is None or is_host(operand) for operand in operands):
            result = on_host(*operands, **self.attributes)
            if result is not NotImplemented:
                return result
        return self.function(*self._prepared(operands), **self.attributes)

    def _with_constants(self, operands: tuple[Any, ...]) -> tuple[Any, ...]:
        arguments = iter(operands)
        total = len(operands) + len(self.constants)
        return tuple(self.constants[i] if i in self.constants else next(arguments) for i in range(total))

    def _prepared(self, operands: tuple[Any, ...]) -> list[Any]:
        """Bring operands into the form that the function expects, all tensors on one device."""
        listed, raw = self.expects.listed, self.expects.raw
        target = _device(operands)
        prepared: list[Any] = []
        for i, operand in enumerate(operands):
            if operand is None or i in raw:
                prepared.append(operand)
            elif i in listed:
                prepared.append(numbers(operand))
            elif is_host(operand):
                tensor = getattr(self, f"constant_{i}") if i in self.constants else materialized(operand, target)
                prepared.append(tensor if target is None or tensor.device == target else tensor.to(target))
            elif isinstance(operand, Tensor) and operand.device != target:
                prepared.append(operand.to(target))
            else:
                prepared.append(operand)
        return prepared

    def extra_repr(self) -> str:
        """Name of the function."""
        return self.function.__name__


def _device(operands: tuple[Any, ...]) -> torch.device | None:
    """Device on which an operator computes: that of its tensors, an accelerator if they are on several."""
    target = None
    for operand in operands:
        if isinstance(operand, Tensor) and (target is None or target.type == "cpu"):
            target = operand.device
    return target


def bind(function: Function, node: Node, graph: Graph, **attributes: Any) -> Converted:
    """Convert a node to a function of the table; attributes given here take precedence over the node's own."""
    attributes = {name: v for name, v in node.attributes.items() if name not in _MEANINGLESS} | attributes
    if "outputs" in _signature(function).parameters:
        attributes["outputs"] = len(node.outputs)
    _check_call(function, node.inputs, attributes)
    on_host = _host_function(node, attributes)
    expects = _expectations(function, len(node.inputs), on_host)
    host = on_host is not None and all(n in graph.initializers or graph.may_be_host(n) for n in node.inputs if n)
    constants: dict[int, HostValue | None] = {}
    dynamic: list[str] = []
    for i, name in enumerate(node.inputs):
        if name == "":
            constants[i] = None
        elif name in graph.initializers and (
            i in expects.listed or is_small(graph.initializers[name], host or i in expects.raw)
        ):
            constants[i] = host_value(graph.constant(name))
        else:
            dynamic.append(name)
    module = Operator(function, constants, expects, attributes, len(node.outputs), graph.describe(node))
    # Host values are known, unless the function takes a tensor made of them.
    known = {i for i in expects.listed | expects.raw if graph.may_be_host(node.inputs[i])}
    read = tuple(name for i, name in enumerate(node.inputs) if i in expects.read - known and name in dynamic)
    return Converted(module, tuple(dynamic), read)


def _host_function(node: Node, attributes: dict[str, Any]) -> Function | None:
    """Return the operator's implementation on host values, if it has one for these operands and attributes."""
    function = HOST.get(node.op_type) if node.domain == "ai.onnx" else None
    if function is None:
        return None
    try:
        inspect.signature(function).bind(*node.inputs, **attributes)
    except TypeError:
        return None
    return function


# Early versions of many operators told executors which inputs they may overwrite.
_MEANINGLESS = {"consumed_inputs"}


def _check_call(function: Function, operands: tuple[str, ...], attributes: dict[str, Any]) -> None:
    """Reject early what a run would reject: an unknown or unsupported attribute, a missing or surplus operand."""
    signature = _signature(function)
    try:
        given = signature.bind(*operands, **attributes).arguments
    except TypeError as error:
        raise NotImplementedError(str(error)) from None
    for name, parameter in signature.parameters.items():
        if parameter.annotation == Unsupported and given.get(name):
            raise NotImplementedError(f"'{name}' is not supported")


_INTEGERS = {number for name, number in onnx.TensorProto.DataType.items() if re.fullmatch(r"U?INT\d+|BOOL", name)}


def is_small(constant: onnx.TensorProto, of_any_type: bool = False) -> bool:
    """Whether a constant becomes a host value; others are weights, which are shared buffers of the whole module."""
    if math.prod(constant.dims) > LARGEST or constant.data_type == onnx.TensorProto.STRING:
        return False
    return of_any_type or (len(constant.dims) < 2 and constant.data_type in _INTEGERS)


def _expectations(function: Function, count: int, on_host: Function | None = None) -> Parameters:
    """Derive from a function's annotations what it expects of its first ``count`` operands."""
    annotations = [parameter.annotation for parameter in _signature(function).parameters.values()][:count]

    def marked(*markers: Any) -> frozenset[int]:
        return frozenset(i for i, marker in enumerate(annotations) if marker in markers)

    return Parameters(marked(Ints, Floats), marked(Sizes, Either), marked(Ints, Floats, Sizes, Values), on_host)
