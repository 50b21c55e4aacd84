"""Elementwise arithmetic, comparison and logic.

Rounding has the gradient of the identity (straight-through estimator); comparisons and integers have none.
"""

from __future__ import annotations

import copy
import functools
import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..nodes import Converted, Graph, Node
from .rounding import straight_through
from .table import Function, bind, converter, operator

_SIGNED = {torch.uint16: torch.int32, torch.uint32: torch.int64, torch.uint64: torch.int64}


def any_integer(function: Function) -> Function:
    """Let a function accept the unsigned integers that torch does not compute with.

    They are represented by a wider signed type (64-bit ones up to half their range), and results are converted back.
    """

    @functools.wraps(function)
    def served(*operands, **attributes):
        type = next((x.dtype for x in operands if isinstance(x, Tensor) and x.dtype in _SIGNED), None)
        if type is None:
            return function(*operands, **attributes)
        wide = [x.to(_SIGNED[type]) if isinstance(x, Tensor) and x.dtype == type else x for x in operands]
        return _narrowed(function(*wide, **attributes), type)

    return served


def _narrowed(result: Any, type: torch.dtype) -> Any:
    if isinstance(result, tuple):
        # For a function that returns values and indices, only the values have the operand's type.
        return (_narrowed(result[0], type), *result[1:])
    return result.to(type) if result.dtype == _SIGNED[type] else result


def _rounding(function: Function) -> Function:
    def rounded(X):
        return straight_through(function(X), X)

    return rounded


def _enter_unary(name: str, function: Function) -> None:
    @operator(name)
    def unary(X):
        return function(X)


for _name, _function in {
    "Abs": any_integer(torch.abs),
    "Acos": torch.acos,
    "Acosh": torch.acosh,
    "Asin": torch.asin,
    "Asinh": torch.asinh,
    "Atan": torch.atan,
    "Atanh": torch.atanh,
    "BitwiseNot": any_integer(torch.bitwise_not),
    "Ceil": _rounding(torch.ceil),
    "Cos": torch.cos,
    "Cosh": torch.cosh,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": _rounding(torch.floor),
    "IsNaN": torch.isnan,
    "Log": torch.log,
    "Neg": any_integer(torch.neg),
    "Not": torch.logical_not,
    "Reciprocal": torch.reciprocal,
    "Round": _rounding(torch.round),
    "Sign": any_integer(torch.sign),
    "Sin": torch.sin,
    "Sinh": torch.sinh,
    "Sqrt": torch.sqrt,
    "Tan": torch.tan,
    "Tanh": torch.tanh,
}.items():
    _enter_unary(_name, _function)


def aligned(A: Tensor, B: Tensor, axis: int | None) -> Tensor:
    """Broadcasting before opset 7: the axes of ``B`` correspond to those of ``A`` from ``axis`` on."""
    return B if axis is None else B.reshape(*B.shape, *[1] * (A.dim() - axis % A.dim() - B.dim()))


def _enter_binary(name: str, function: Function) -> None:
    @operator(name, versions=(7, None))
    def binary(A, B):
        return function(A, B)

    @operator(name, versions=(1, 6))
    def binary_1(A, B, *, axis=None, broadcast=0):
        return function(A, aligned(A, B, axis))


@any_integer
def _divide(A, B):
    return torch.div(A, B) if A.is_floating_point() else torch.div(A, B, rounding_mode="trunc")


def _power(X, Y):
    return torch.pow(X, Y.to(_SIGNED.get(Y.dtype, Y.dtype))).to(X.dtype)


for _name, _binary in {
    "Add": any_integer(torch.add),
    "And": torch.logical_and,
    "Div": _divide,
    "Equal": torch.eq,
    "Greater": any_integer(torch.gt),
    "Less": any_integer(torch.lt),
    "Mul": any_integer(torch.mul),
    "Or": torch.logical_or,
    "Pow": any_integer(_power),
    "Sub": any_integer(torch.sub),
    "Xor": torch.logical_xor,
}.items():
    _enter_binary(_name, _binary)


@operator()
@any_integer
def GreaterOrEqual(A, B):
    return A >= B


@operator()
@any_integer
def LessOrEqual(A, B):
    return A <= B


@operator()
def BitwiseAnd(A, B):
    return A & B


@operator()
def BitwiseOr(A, B):
    return A | B


@operator()
def BitwiseXor(A, B):
    return A ^ B


@operator()
@any_integer
def BitShift(X, Y, *, direction):
    return _shifted(X, Y, direction)


def _shifted(X: Tensor, Y: Tensor, direction: str) -> Tensor:
    # torch leaves shifts by at least the type's width undefined; ONNX shifts every bit out.
    bits = torch.iinfo(X.dtype).bits
    outside = (Y < 0) | (Y >= bits)
    if direction == "LEFT":
        return torch.where(outside, 0, X << torch.where(outside, 0, Y))
    return X >> torch.where(outside, bits - 1, Y)


@operator()
@any_integer
def Mod(A, B, *, fmod=0):
    return torch.fmod(A, B) if fmod else torch.remainder(A, B)


@operator()
def IsInf(X, *, detect_negative=1, detect_positive=1):
    # A type without infinities, such as the small float types, contains none to detect.
    positive = X == math.inf
    return (positive & bool(detect_positive)) | ((X == -math.inf) & bool(detect_negative))


@operator()
def Max(*data):
    return functools.reduce(any_integer(torch.maximum), data)


@operator()
def Min(*data):
    return functools.reduce(any_integer(torch.minimum), data)


@operator()
def Sum(*data):
    return functools.reduce(torch.add, data)


@operator()
def Mean(*data):
    return functools.reduce(torch.add, data) / len(data)


@converter("Clip", versions=(11, None))
def _clip(node: Node, graph: Graph) -> Converted:
    """Convert Clip; constant limits become numbers, with which torch needs fewer passes over memory."""
    limits = {word: name for word, name in zip(("min", "max"), node.inputs[1:], strict=False) if name}
    if any(name not in graph.initializers for name in limits.values()):
        return bind(Clip, node, graph)
    alone = copy.copy(node)
    alone.inputs = node.inputs[:1]
    return bind(Clip_1, alone, graph, **{word: graph.constant(name).item() for word, name in limits.items()})


@any_integer
def Clip(input, min=None, max=None):
    return input if min is None and max is None else torch.clamp(input, min, max)


@operator("Clip", versions=(1, 10))
@any_integer
def Clip_1(input, *, max=None, min=None):
    if min is not None and max is not None and min < max and input.is_floating_point():
        # Its gradient takes one pass; that of clamp takes four.
        return functional.hardtanh(input, min, max)
    return Clip(input, min, max)


@operator()
def Where(condition, X, Y):
    return torch.where(condition, X, Y)
