"""Recompute activations in the backward pass if keeping all of them takes too much memory.

A graph is cut into consecutive segments of about equal size. Only values that cross a cut are kept; each segment is
evaluated again when the backward pass reaches it (gradient checkpointing, after Chen et al., "Training deep nets with
sublinear memory cost", 2016).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.split_module import split_module
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

#: Keys of the node metadata: bytes kept for the backward pass, and bytes of the node's value.
_KEPT, _VALUE = "onnxinfo_kept", "onnxinfo_value"


def profile_memory(module: fx.GraphModule, inputs: Sequence[Tensor]) -> None:
    """Record for each node how many bytes it keeps for the backward pass, and the size of its value.

    Parameters
    ----------
    module
        The graph; nodes of graphs made from it inherit the sizes.
    inputs
        Values of its placeholders for one sample, with ``requires_grad`` as in the real evaluation. Nothing of the
        evaluation is kept.
    """
    _Scale(module).run(*inputs)


def peak_bytes(module: fx.GraphModule, segments: int) -> int:
    """Peak bytes of a profiled graph that is cut into segments: at the cuts, and within one segment."""
    nodes, ends = list(module.graph.nodes), _ends(module, segments)
    position = {node: i for i, node in enumerate(nodes)}
    crossing: list[int] = [
        sum(node.meta.get(_VALUE, 0) for node in nodes[:end] if any(position[user] >= end for user in node.users))
        for end in ends[1:-1]
    ]
    within: list[int] = [sum(node.meta.get(_KEPT, 0) for node in nodes[start:end]) for start, end in pairwise(ends)]
    return sum(crossing) + max(within)


def recomputed(module: fx.GraphModule, segments: int) -> fx.GraphModule:
    """The same function with gradient checkpointing of its profiled graph."""
    ends = _ends(module, segments)
    position = {node: i for i, node in enumerate(module.graph.nodes)}

    def segment(node: fx.Node) -> int:
        return sum(position[node] >= end for end in ends[1:-1])

    whole = split_module(module, module, segment, keep_original_order=True)
    for node in whole.graph.nodes:
        if node.op == "call_module":
            whole.set_submodule(node.target, _CheckpointedSegment(whole.get_submodule(node.target)))
    return whole


def _ends(module: fx.GraphModule, segments: int) -> list[int]:
    """Start positions of the segments, and the end, such that all segments keep about equally many bytes."""
    kept = [node.meta.get(_KEPT, 0) for node in module.graph.nodes]
    share = max(1, sum(kept)) / segments
    ends, total = [0], 0
    for i, bytes_ in enumerate(kept):
        if total >= share * len(ends) and total:
            ends.append(i)
        total += bytes_
    return [*ends, len(kept)]


class _CheckpointedSegment(nn.Module):
    """A segment that is evaluated again in the backward pass."""

    def __init__(self, segment: nn.Module) -> None:
        super().__init__()
        self.segment = segment

    def forward(self, *inputs: Any) -> Any:
        if not torch.is_grad_enabled():
            return self.segment(*inputs)
        # Early stopping raises an exception, which operators would report.
        with set_checkpoint_early_stop(False):
            return checkpoint(self.segment, *inputs, use_reentrant=False, preserve_rng_state=False)


class _Scale(fx.Interpreter):
    """Interpreter that keeps only the sizes of tensors saved for the backward pass."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self._weights = storages(module)

    def run_node(self, n: fx.Node) -> Any:
        with counted(self._weights) as kept:
            value = super().run_node(n)
        n.meta[_KEPT] = kept.total
        # Weights exist anyway.
        activations = () if n.op == "get_attr" else _tensors(value)
        n.meta[_VALUE] = sum(tensor.numel() * tensor.element_size() for tensor in activations)
        return value


@dataclass
class Kept:
    """Bytes kept for the backward pass: total, and of the largest tensor."""

    total: int = 0
    largest: int = 0


@contextmanager
def counted(weights: Set[int]) -> Iterator[Kept]:
    """Count the tensors saved for the backward pass instead of saving them.

    Parameters
    ----------
    weights
        Storages that exist anyway; see :func:`storages`.
    """
    kept = Kept()

    def note(tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            size = min(storage.nbytes(), tensor.numel() * tensor.element_size())
            kept.total += size
            kept.largest = max(kept.largest, size)

    with torch.autograd.graph.saved_tensors_hooks(note, _never):
        yield kept


def storages(*modules: nn.Module) -> set[int]:
    """Addresses of the storages of parameters and buffers."""
    tensors = (tensor for module in modules for tensor in (*module.parameters(), *module.buffers()))
    return {tensor.untyped_storage().data_ptr() for tensor in tensors}


def _never(_: object) -> Tensor:
    raise AssertionError("what is only counted has no backward pass")


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
