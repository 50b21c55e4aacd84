"""A simulated accelerator: a device that computes on the CPU, refuses to mix devices, and counts what is read back.

Tensors on the device ``simgpu`` wrap tensors on the CPU. Operators on them compute there, so the numbers are the CPU's;
what a real accelerator refuses or has to wait for is an error or is counted, on every machine::

    with Accelerator() as accelerator:
        x = torch.ones(3, device=DEVICE)
    accelerator.reads  # by kind and place

Not simulated: forward mode, ``torch.Generator`` on the device, streams and events.
"""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor, fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "simgpu"
_setup_privateuseone_for_python_backend(NAME)
DEVICE = torch.device(NAME, 0)
# Autocasting asks for it, even if it is off.
torch.get_device_module(NAME).get_amp_supported_dtype = lambda: [torch.bfloat16]

_aten = torch.ops.aten
# Copies are the only operators whose operands may be on several devices.
_COPIES = (_aten.copy_.default, _aten._to_copy.default)


class Simulated(Tensor):
    """A tensor on the simulated device."""

    real_: Tensor

    @staticmethod
    def __new__(cls, real: Tensor) -> Simulated:
        self: Simulated = Tensor._make_wrapper_subclass(
            cls,
            real.size(),
            strides=real.stride(),
            storage_offset=real.storage_offset(),
            dtype=real.dtype,
            device=DEVICE,
            requires_grad=False,
        )
        self.real_ = real
        return self

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # Threads of the backward pass, and functions that disable the mode, arrive here.
        if not _active:
            raise RuntimeError(f"{func}: a tensor on {NAME} is used outside of the accelerator")
        return _active[-1].run(func, args, kwargs or {})

    def __getitem__(self, index: Any) -> Any:
        # A list would become a tensor below the dispatch mode.
        whole = index if isinstance(index, tuple) else (index,)
        return super().__getitem__(tuple(torch.tensor(i, device=DEVICE) if isinstance(i, list) else i for i in whole))

    def new_tensor(self, data: Any, *, dtype: torch.dtype | None = None, **options: Any) -> Tensor:
        # It would write to storage below the dispatch mode.
        return torch.tensor(data, dtype=dtype or self.dtype, **{"device": DEVICE, **options})

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.real_.untyped_storage()

    def __repr__(self, **_: Any) -> str:
        return f"Simulated({self.real_})"


_active: list[Accelerator] = []


class Accelerator(TorchDispatchMode):
    """The device; tensors on it work only inside this context.

    Attributes
    ----------
    reads
        Number of times that the host waits for a value: by place ("pass": within a call of a graph module, or within a
        backward pass; "between"). "upload": number of times that it waits within a pass until a value is on the device.
    operators
        Number of calls of each operator.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reads: collections.Counter[str] = collections.Counter()
        self.operators: collections.Counter[str] = collections.Counter()
        self._depth = 0
        self._open = contextlib.ExitStack()

    def __enter__(self) -> Accelerator:
        for name in ("tensor", "as_tensor"):
            self._open.enter_context(mock.patch.object(torch, name, _made_on_cpu(getattr(torch, name))))
        self._open.enter_context(mock.patch.object(fx.GraphModule, "__call__", self._counted(fx.GraphModule.__call__)))
        for name in ("grad", "backward"):
            inside = self._counted(getattr(torch.autograd, name))
            self._open.enter_context(mock.patch.object(torch.autograd, name, inside))
        # Otherwise, a module that moves would keep its parameters and take only their data.
        swapped = torch.__future__.get_swap_module_params_on_conversion()
        torch.__future__.set_swap_module_params_on_conversion(True)
        self._open.callback(torch.__future__.set_swap_module_params_on_conversion, swapped)
        _active.append(self)
        self._open.callback(_active.pop)
        super().__enter__()
        return self

    def __exit__(self, *details: Any) -> None:
        super().__exit__(*details)
        self._open.close()

    def _counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def within(*args: Any, **kwargs: Any) -> Any:
            self._depth += 1
            try:
                return function(*args, **kwargs)
            finally:
                self._depth -= 1

        return within

    def _read(self) -> None:
        self.reads["pass" if self._depth else "between"] += 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.run(func, args, kwargs or {})

    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Run an operator on the CPU, on behalf of the device of its operands."""
        tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
        here = any(isinstance(x, Simulated) for x in tensors)
        if here and func not in _COPIES and any(x.dim() for x in tensors if not isinstance(x, Simulated)):
            raise RuntimeError(f"{func}: expected all tensors to be on the same device")
        if here:
            self.operators[str(func)] += 1
        real_args, real_kwargs = tree_map(_real, args), tree_map(_real, kwargs)
        on_device = here
        if (device := kwargs.get("device")) is not None:
            on_device = torch.device(device).type == NAME
            real_kwargs["device"] = torch.device("cpu")
        elif func is _aten.copy_.default:
            on_device = isinstance(args[0], Simulated)
        if here and not (on_device and func is not _aten._local_scalar_dense.default):
            self._read()
        if self._depth and on_device and func in _COPIES and _waits(func, args, kwargs):
            self.reads["upload"] += 1
        out = _FUSED.get(func, func)(*real_args, **real_kwargs)
        written = func._schema.arguments and func._schema.arguments[0].alias_info
        if written and written.is_write:
            return args[0]
        return tree_map(_simulated, out) if on_device else out


def _lstm_cell(
    given: Tensor, hidden: Tensor, cell: Tensor, b_given: Tensor | None = None, b_hidden: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute one step of an LSTM as the fused kernels of accelerators do, for which torch has no code on the CPU."""
    gates = given + hidden
    if b_given is not None and b_hidden is not None:
        gates = gates + b_given + b_hidden
    i, f, c, o = gates.chunk(4, 1)
    i, f, c, o = i.sigmoid(), f.sigmoid(), c.tanh(), o.sigmoid()
    new = f * cell + i * c
    return o * new.tanh(), new, torch.cat([i, f, c, o], 1)


def _lstm_cell_backward(
    grad_hidden: Tensor | None, grad_cell: Tensor | None, cell: Tensor, new: Tensor, gates: Tensor, has_bias: bool
) -> tuple[Tensor | None, ...]:
    i, f, c, o = gates.chunk(4, 1)
    bent = new.tanh()
    by_hidden = torch.zeros_like(new) if grad_hidden is None else grad_hidden
    by_cell = by_hidden * o * (1 - bent.square())
    by_cell = by_cell if grad_cell is None else by_cell + grad_cell
    parts = [by_cell * c * i * (1 - i), by_cell * cell * f * (1 - f), by_cell * i * (1 - c.square())]
    by_gates = torch.cat([*parts, by_hidden * bent * o * (1 - o)], 1)
    return by_gates, by_cell * f, by_gates.sum(0) if has_bias else None


def _gru_cell(
    given: Tensor, hidden: Tensor, state: Tensor, b_given: Tensor | None = None, b_hidden: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Compute one step of a GRU as the fused kernels do."""
    if b_given is not None and b_hidden is not None:
        given, hidden = given + b_given, hidden + b_hidden
    (r, z, n), (hr, hz, hn) = given.chunk(3, 1), hidden.chunk(3, 1)
    r, z = (r + hr).sigmoid(), (z + hz).sigmoid()
    n = (n + r * hn).tanh()
    return n + z * (state - n), torch.cat([r, z, n, state, hn], 1)


def _gru_cell_backward(grad: Tensor, gates: Tensor, has_bias: bool) -> tuple[Tensor | None, ...]:
    r, z, n, state, hn = gates.chunk(5, 1)
    by_z, by_n = grad * (state - n) * (1 - z) * z, grad * (1 - z) * (1 - n.square())
    by_r = by_n * hn * (1 - r) * r
    by_given, by_hidden = torch.cat([by_r, by_z, by_n], 1), torch.cat([by_r, by_z, by_n * r], 1)
    biases = (by_given.sum(0), by_hidden.sum(0)) if has_bias else (None, None)
    return by_given, by_hidden, grad * z, *biases


_FUSED: dict[Any, Callable[..., Any]] = {
    _aten._thnn_fused_lstm_cell.default: _lstm_cell,
    _aten._thnn_fused_lstm_cell_backward_impl.default: _lstm_cell_backward,
    _aten._thnn_fused_gru_cell.default: _gru_cell,
    _aten._thnn_fused_gru_cell_backward.default: _gru_cell_backward,
}


def _waits(copy: Any, args: Any, kwargs: dict[str, Any]) -> bool:
    """Whether the host waits while a copy brings a tensor to the device."""
    source, *others = args[1:] if copy is _aten.copy_.default else args
    return not isinstance(source, Simulated) and not kwargs.get("non_blocking", any(others))


def _real(value: Any) -> Any:
    return value.real_ if isinstance(value, Simulated) else value


def _simulated(value: Any) -> Any:
    # A wrapper cannot carry the lazy bits of conjugates and negatives.
    return Simulated(value.resolve_conj().resolve_neg()) if isinstance(value, Tensor) else value


def _made_on_cpu(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Replace a function that writes to storage below the dispatch mode: the tensor is made on the CPU, then moved."""

    def made(*args: Any, device: Any = None, **kwargs: Any) -> Tensor:
        if device is None or torch.device(device).type != NAME:
            return original(*args, **kwargs, **({} if device is None else {"device": device}))
        return original(*args, **kwargs).to(device)

    return made


@contextlib.contextmanager
def analyses_on_it() -> Iterator[Accelerator]:
    """Let analyses run on the simulated device, with the random streams and the batch sizes of the CPU."""
    from onnxinfo.analysis import job
    from onnxinfo.metrics import budget, decoder_training, linearization
    from onnxinfo.workflows import analyze, decoders

    together, generator = budget._together, job.generator
    on_cpu = torch.device("cpu")
    replaced: list[tuple[Any, str, Callable[..., Any]]] = [
        *((workflow, "device_of", lambda name: DEVICE) for workflow in (analyze, decoders)),
        *(
            (module, "generator", lambda _, *key: generator(on_cpu, *key))
            for module in (job, decoder_training, linearization)
        ),
        (budget, "_together", lambda per_input, most, _: together(per_input, most, on_cpu)),
    ]
    with contextlib.ExitStack() as patches:
        for module, name, replacement in replaced:
            patches.enter_context(mock.patch.object(module, name, replacement))
        yield patches.enter_context(Accelerator())
