"""Values that the host knows while a graph runs: shapes and what is computed from them, as Python numbers.

A shape is known before the elements of its tensor are. Arithmetic with shapes in tensors would make an accelerator wait
whenever a number is read back, and a compiler or exporter cannot follow it at all. A :class:`HostValue` therefore holds
Python numbers, or symbolic ones if a compiler leaves a size open, and becomes a tensor only where a tensor is needed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor, nn

#: Largest number of elements that are computed one by one on the host.
LARGEST = 64


class HostValue(NamedTuple):
    """A small tensor whose elements are Python numbers.

    Parameters
    ----------
    values
        Elements in row-major order; a size that a compiler leaves open is symbolic.
    shape
        Shape, without symbolic sizes.
    dtype
        Element type.
    device
        Device of the tensor that it was derived from; None: unknown.
    """

    values: tuple[Any, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device | None = None


def is_host(value: Any) -> TypeGuard[HostValue]:
    """Whether a value is a host value."""
    return isinstance(value, HostValue)


def host_value(tensor: Tensor) -> HostValue:
    """Read a constant, on the CPU, when a model is converted."""
    return HostValue(tuple(tensor.reshape(-1).tolist()), tuple(tensor.shape), tensor.dtype)


def vector(values: Iterable[Any], device: torch.device | None = None) -> HostValue:
    """Return integers, such as a shape, as a host value with one axis."""
    elements = tuple(values)
    return HostValue(elements, (len(elements),), torch.int64, device)


def scalar(value: Any, dtype: torch.dtype = torch.int64, device: torch.device | None = None) -> HostValue:
    """Return a number as a host value without axes."""
    return HostValue((value,), (), dtype, device)


def materialized(value: Any, device: torch.device | None = None) -> Any:
    """Turn a host value into a tensor; other values are returned as they are.

    Parameters
    ----------
    value
        Any value of the graph.
    device
        Device of the tensor; default: the host value's own, else the CPU.
    """
    if not isinstance(value, HostValue):
        return value
    device = device or value.device
    if all(isinstance(number, (bool, int, float)) for number in value.values):
        return uploaded(torch.tensor(value.values, dtype=value.dtype), device).reshape(value.shape)
    numbers = [torch.scalar_tensor(number, dtype=value.dtype, device=device) for number in value.values]
    return torch.stack(numbers).reshape(value.shape)


def uploaded(tensor: Tensor, device: torch.device | None) -> Tensor:
    """Return a tensor of the CPU on a device; the host does not wait until the device has it."""
    return tensor if device is None else tensor.to(device, non_blocking=True)


def like(x: Tensor, numbers: Iterable[float]) -> Tensor:
    """Return numbers as a tensor of the type, and on the device, of another one; the host does not wait for it."""
    return uploaded(torch.tensor([*numbers], dtype=x.dtype), x.device)


def first_device(*values: Any) -> torch.device | None:
    """Return the device of the first tensor or host value whose device is known."""
    return next((v.device for v in values if isinstance(v, (Tensor, HostValue)) and v.device is not None), None)


def numbers(value: Any) -> list[Any]:
    """Return the elements of a host value, tensor or list; those of a tensor are read from its device."""
    if isinstance(value, HostValue):
        return list(value.values)
    return value.reshape(-1).tolist() if isinstance(value, Tensor) else list(value)


class OnTensors(nn.Module):
    """A module that knows only tensors; host values among its operands become tensors."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *operands: Any) -> Any:
        """Call the module."""
        device = first_device(*operands)
        return self.module(*(materialized(operand, device) for operand in operands))
