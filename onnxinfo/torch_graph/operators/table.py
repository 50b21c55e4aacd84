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
A parameter annotated ``Unsupported`` is an input or attribute that must be absent or zero in a convertible node. Any
other annotation is rejected when the function is registered. A keyword-only parameter ``outputs`` receives the number
of outputs that the node names. An operator whose meaning changed between opsets has one function per version range.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import onnx
import torch
from torch import Tensor, nn

from ...errors import ConversionError
from ..nodes import Converted, Graph, Node

MICROSOFT = "com.microsoft"

# Markers for parameters that hold shape arithmetic; the functions receive plain lists.
Ints = Annotated[list[int] | None, "shape arithmetic"]
Floats = Annotated[list[float] | None, "shape arithmetic"]
# Marker for parameters that a function knows but does not support.
Unsupported = Annotated[Any, "unsupported"]
_MARKERS = {"Ints": Ints, "Floats": Floats, "Unsupported": Unsupported}

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


class Operator(nn.Module):
    """A function of the table, with the constants and attributes of one node bound to it.

    Parameters
    ----------
    function
        Function from the table.
    constants
        By position: operands known before the model runs, as lists (shape arithmetic), tensors or None (absent).
    listed
        Positions at which the function expects a list of numbers.
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
        """Call the function; return a single output by itself, several as a tuple.

        Raises
        ------
        ConversionError
            The function rejects the operands; out-of-memory errors are passed on unchanged.
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
        """Name of the function."""
        return self.function.__name__


def _on_one_device(operands: tuple[Any, ...]) -> tuple[Any, ...]:
    """Shape arithmetic stays on the host; combined with tensors on an accelerator, it is moved there."""
    target = None
    mixed = False
    for operand in operands:
        if isinstance(operand, Tensor) and operand.device != target:
            mixed = target is not None
            target = operand.device if target is None or target.type == "cpu" else target
    if not mixed:
        return operands
    return tuple(operand.to(target) if isinstance(operand, Tensor) else operand for operand in operands)


def bind(function: Function, node: Node, graph: Graph, **attributes: Any) -> Converted:
    """Convert a node to a function of the table; attributes given here take precedence over the node's own."""
    listed = _listed_parameters(function, len(node.inputs))
    constants: dict[int, Any] = {}
    dynamic: list[str] = []
    for i, name in enumerate(node.inputs):
        value = _constant_operand(name, graph, listed=i in listed)
        if value is _DYNAMIC:
            dynamic.append(name)
        else:
            constants[i] = value
    attributes = {name: v for name, v in node.attributes.items() if name not in _MEANINGLESS} | attributes
    if "outputs" in _signature(function).parameters:
        attributes["outputs"] = len(node.outputs)
    _check_call(function, node.inputs, attributes)
    module = Operator(function, constants, listed, attributes, len(node.outputs), graph.describe(node))
    return Converted(module, tuple(dynamic))


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


_DYNAMIC = object()
_INTEGERS = {number for name, number in onnx.TensorProto.DataType.items() if re.fullmatch(r"U?INT\d+|BOOL", name)}


def _constant_operand(name: str, graph: Graph, *, listed: bool) -> Any:
    if name == "":
        return None
    if name not in graph.initializers:
        return _DYNAMIC
    if listed:
        return graph.constant(name).reshape(-1).tolist()
    # Float constants are weights: they become buffers of the module, are shared and move with it.
    proto = graph.initializers[name]
    small = len(proto.dims) < 2 and proto.data_type in _INTEGERS
    return graph.constant(name) if small else _DYNAMIC


def _listed_parameters(function: Function, count: int) -> frozenset[int]:
    """Positions (among the first ``count`` operands) where the function expects lists of numbers."""
    parameters = [*_signature(function).parameters.values()][:count]
    return frozenset(i for i, parameter in enumerate(parameters) if parameter.annotation in (Ints, Floats))
