"""Batch sizes: the largest that the memory budget allows and that improves speed."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..torch_graph.evaluation import evaluates
from .freed_memory import return_freed_tensors
from .network import Network
from .recompute import counted, storages

logger = logging.getLogger(__name__)

#: Default memory for activations: bytes on the CPU, a fraction of the free memory on a GPU.
CPU_BYTES = 512 * 2**20
GPU_SHARE = 0.6
#: Batch sizes beyond which no device gets faster; on the CPU, a batch is limited in bytes, too.
CPU_INPUTS, GPU_INPUTS = 64, 4096
CPU_CACHED_BYTES = 64 * 2**20
#: Inputs at once below which memory matters more than time.
FEW_INPUTS = 4
#: Inputs that the memory limit must hold for a process to stay within 20 % of its base and the limit.
PROMISED_INPUTS = 3
#: Numbers of inputs whose peaks are compared on a GPU.
PEAK_INPUTS = 1, 3
#: Memory of an ONNX Runtime evaluation, as a multiple of the input size: the value for a ResNet on small images.
EVALUATED_ACTIVATIONS = 32


def device_of(name: str) -> torch.device:
    """Torch device for ``auto`` (a GPU if there is one), ``cpu``, ``cuda`` or ``cuda:N``.

    Raises
    ------
    UsageError
        The device does not exist.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, index = name.partition(":")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"device '{name}' was asked for, but {torch.cuda.device_count()} CUDA devices are there; use cpu"
        )
    return torch.device(name)


def fit(network: Network, x: Tensor, rows: Tensor, memory: int | None) -> int:
    """Batch size at which a network is to evaluate noisy inputs.

    If the activations of a single input exceed the budget, the network is checkpointed, in as few segments as suffice.

    Parameters
    ----------
    network
        Network whose batching strategy is set.
    x, rows, memory
        As for :func:`inputs_at_once`.
    """
    budget = memory if memory is not None else _default_budget(x.device)
    per_input = _per_input(network, x, rows, budget)
    if x.device.type == "cpu" and per_input * FEW_INPUTS > budget:
        return_freed_tensors()
    if per_input * PROMISED_INPUTS > budget:
        logger.warning(
            "the memory limit of %d MiB holds fewer than %d inputs of %d MiB each; the process may take more than it",
            budget >> 20,
            PROMISED_INPUTS,
            per_input >> 20,
        )
    if per_input > budget:
        segments = network.recompute(budget - _beside(x), x, rows)
        logger.info("activations of one input exceed %d MiB: recomputed in %d segments", budget >> 20, segments)
        return 1
    return _together(per_input, budget, x.device)


def activation_bytes(network: Network, x: Tensor, rows: Tensor, batch: int, memory: int | None) -> int:
    """Memory in bytes that the activations of a batch take: at most the budget.

    Parameters
    ----------
    network, x, rows, memory
        As for :func:`fit`, which was called before.
    batch
        Number of inputs evaluated at once.
    """
    budget = memory if memory is not None else _default_budget(x.device)
    return min(budget, batch * _per_input(network, x, rows, budget))


def inputs_at_once(
    function: Callable[[Tensor, Tensor], object], x: Tensor, rows: Tensor, memory: int | None, *modules: nn.Module
) -> int:
    """Number of noisy inputs that fit into the memory budget, including activations kept for the backward pass.

    Parameters
    ----------
    function
        Function to evaluate; measured on one input.
    x, rows
        At least one input, (B, *shape), and its row.
    memory
        Budget in bytes; None: 512 MiB on a CPU, 60 % of the free memory on a GPU.
    modules
        Modules that hold the weights, which take memory anyway.
    """
    budget = memory if memory is not None else _default_budget(x.device)
    return _together(_bytes_of(function, x, rows, storages(*modules)), budget, x.device)


def peak_of(network: Network, x: Tensor, rows: Tensor, device: torch.device) -> int:
    """Bytes that one more input takes at the peak of a forward and a backward pass, as a GPU's allocator counts them.

    What does not grow with the number of inputs, such as a kernel's workspace, is left to the share of the memory that
    is not used.

    Parameters
    ----------
    network, x, rows
        As for :func:`fit`.
    device
        The GPU.
    """
    peaks = []
    for count in PEAK_INPUTS:
        leaf = x[:1].repeat(count, *[1] * (x.dim() - 1)).requires_grad_(True)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        total = sum((f.sum() for f in network(leaf, rows[:1].repeat(count)) if f.requires_grad), leaf.sum())
        torch.autograd.grad(total, leaf)
        peaks.append(torch.cuda.max_memory_allocated(device) - before)
    few, many = PEAK_INPUTS
    return max(1, (peaks[1] - peaks[0]) // (many - few))


def _per_input(network: Network, x: Tensor, rows: Tensor, budget: int) -> int:
    per_input = _bytes_of(network, x, rows, storages(network.module))
    if PEAK_INPUTS[-1] * per_input <= budget and x.device.type == "cuda":
        per_input = peak_of(network, x, rows, x.device) + _beside(x)
    if evaluates(network.module):
        # The measurement does not include ONNX Runtime's own memory.
        per_input += EVALUATED_ACTIVATIONS * x[0].numel() * x.element_size()
    return per_input


def _together(per_input: int, budget: int, device: torch.device) -> int:
    most = GPU_INPUTS
    if device.type == "cpu":
        most = max(CPU_INPUTS, min(GPU_INPUTS, CPU_CACHED_BYTES // per_input))
    return max(1, min(most, budget // per_input))


def _bytes_of(function: Callable[[Tensor, Tensor], object], x: Tensor, rows: Tensor, weights: set[int]) -> int:
    leaf = x[:1].detach().clone().requires_grad_(True)
    with counted(weights) as kept:
        function(leaf, rows[:1])
    # In addition to saved tensors, the backward pass holds gradients and workspace.
    return kept.total + 4 * kept.largest + _beside(x)


def _beside(x: Tensor) -> int:
    """Bytes of noise samples and estimates for one input."""
    return 8 * x[0].numel() * x.element_size()


def _default_budget(device: torch.device) -> int:
    if device.type != "cuda":
        return CPU_BYTES
    free, _ = torch.cuda.mem_get_info(device)
    return int(free * GPU_SHARE)


def is_exhaustion(error: BaseException) -> bool:
    """Whether an error means that a device is out of memory."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
