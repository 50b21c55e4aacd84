"""Layers that ONNX Runtime evaluates within a converted graph: they have no gradient and need no converter."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx, nn

from ..errors import ModelError
from ..graph.free_batch import with_free_batch
from ..graph.interruption import interruptible
from ..graph.model import Model
from ..graph.surgery import extract
from .operators.values import array_from, to_torch
from .runtime import Session

logger = logging.getLogger(__name__)

Array = npt.NDArray[Any]

#: Time for which inputs are evaluated in one thread, if each of them is fast.
MOST_SECONDS = 1.0

#: Number of copies of an input that evaluations compute at once, without other inputs; None: all inputs at once.
_COPIES: ContextVar[int | None] = ContextVar("copies", default=None)


@contextmanager
def one_by_one(copies: int) -> Iterator[None]:
    """Let evaluations compute each input of a batch separately, in a batch of copies of it.

    Their outputs are then stacked along a new first axis: (inputs, *shape of one output).
    """
    token = _COPIES.set(copies)
    try:
        yield
    finally:
        _COPIES.reset(token)


class Evaluation(nn.Module):
    """Module that computes one tensor of a model by ONNX Runtime.

    A fixed batch size of the model is removed if possible; whether batches of another size have the same values is to
    be tried.

    Parameters
    ----------
    part
        A model whose only output is that tensor.
    """

    def __init__(self, part: Model) -> None:
        super().__init__()
        self._session = _session(part)
        graph = part.proto.graph
        self._types = {value.name: value.type.tensor_type.elem_type for value in graph.input}
        self._axes = [part.batch_axes.get(name, 0) for name in self.inputs]

    @property
    def inputs(self) -> list[str]:
        """Names of the tensors that it takes, in order."""
        return self._session.inputs

    def forward(self, *given: Tensor) -> Tensor:
        """Evaluate the model on tensors in the order of `inputs`.

        Returns
        -------
        Tensor
            The output, on the device of the first tensor; non-float values are returned as float32. Within
            :func:`one_by_one`, one output per input of the batch.

        Raises
        ------
        MemoryError
            ONNX Runtime cannot allocate the memory for the batch.
        ModelError
            The evaluation fails for any other reason.
        """
        pairs = zip(self.inputs, given, strict=True)
        feeds = [array_from(tensor.detach().cpu(), self._types[name]) for name, tensor in pairs]
        copies = _COPIES.get()
        try:
            found = self._together(feeds) if copies is None else self._separately(feeds, copies)
        except ModelError as error:
            if "allocate memory" in str(error) or "bad allocation" in str(error):
                raise MemoryError(str(error)) from None
            raise
        value: Tensor = to_torch(found, given[0].device)
        return value if value.is_floating_point() else value.float()

    def _together(self, feeds: Sequence[Array]) -> Any:
        (found,) = self._session.run(dict(zip(self.inputs, feeds, strict=True))).values()
        return found

    def _separately(self, feeds: Sequence[Array], copies: int) -> Array:
        """Outputs for each input of a batch, (inputs, *shape of one output)."""
        batches = [np.repeat(np.moveaxis(feed, axis, 0)[:, None], copies, axis=1) for feed, axis in self._placed(feeds)]
        found: list[Any] = []
        seconds, count = 0.0, len(batches[0])
        while len(found) < count:
            # One thread for many inputs: it takes longer to start than a small model takes to run.
            some = min(1 + int(MOST_SECONDS / seconds), 2 * len(found)) if found else 1
            began = time.perf_counter()
            found += interruptible(partial(self._some, batches, range(len(found), min(len(found) + some, count))))
            seconds = (time.perf_counter() - began) / some
        return np.stack(found)

    def _some(self, batches: Sequence[Array], chosen: Iterable[int]) -> list[Any]:
        """Outputs for the inputs at some positions."""
        return [
            self._together([np.moveaxis(batch[i], 0, axis) for batch, axis in self._placed(batches)]) for i in chosen
        ]

    def _placed(self, feeds: Sequence[Array]) -> Iterator[tuple[Array, int]]:
        """Arrays and their batch axes."""
        return zip(feeds, self._axes, strict=True)


def _session(part: Model) -> Session:
    """Session of a model with a free batch size, or of the model itself if ONNX Runtime rejects that."""
    free, threads = with_free_batch(part), torch.get_num_threads()
    if free is not part:
        try:
            return Session(free, threads=threads)
        except ModelError:
            logger.debug("the batch size cannot be removed from the model")
    return Session(part, threads=threads)


def with_evaluations(
    module: fx.GraphModule | None,
    inputs: Sequence[str],
    model: Model,
    input_tensor: str,
    names: Sequence[str],
    evaluated: Sequence[str],
) -> tuple[fx.GraphModule, list[str]]:
    """Add layers evaluated by ONNX Runtime to a converted graph.

    Parameters
    ----------
    module
        Converted graph, modified in place; None: create one.
    inputs
        Names of its inputs other than the analysis input.
    model, input_tensor
        The model and its analysis input.
    names
        All layers, in the order of the outputs.
    evaluated
        Layers to add, a subset of `names`; the others are outputs of `module`, in order.

    Returns
    -------
    tuple
        The graph, and the names of its inputs other than the analysis input.
    """
    graph = fx.Graph() if module is None else module.graph
    root: nn.Module = nn.Module() if module is None else module
    known = dict(zip([input_tensor, *inputs], [n for n in graph.nodes if n.op == "placeholder"], strict=False))
    converted: list[fx.Node] = []
    end = next((node for node in graph.nodes if node.op == "output"), None)
    if end is not None:
        converted += end.args[0]
        graph.erase_node(end)
    evaluations = [Evaluation(extract(model, [input_tensor], [name])) for name in evaluated]
    for name in dict.fromkeys([input_tensor, *(name for each in evaluations for name in each.inputs)]):
        if name not in known:
            known[name] = _placeholder(graph, len(known), list(known.values()))
    outputs = dict(zip((name for name in names if name not in evaluated), converted, strict=True))
    for number, (name, evaluation) in enumerate(zip(evaluated, evaluations, strict=True)):
        root.add_module(f"evaluation_{number}", evaluation)
        given = tuple(known[each] for each in evaluation.inputs)
        outputs[name] = graph.call_module(f"evaluation_{number}", given)
    graph.output(tuple(outputs[name] for name in names))
    return fx.GraphModule(root, graph), [name for name in known if name != input_tensor]


def _placeholder(graph: fx.Graph, number: int, before: Sequence[fx.Node]) -> fx.Node:
    if not before:
        return graph.placeholder(f"evaluated_{number}")
    with graph.inserting_after(before[-1]):
        return graph.placeholder(f"evaluated_{number}")


def evaluates(module: nn.Module) -> bool:
    """Whether ONNX Runtime evaluates any layer of a graph."""
    return any(isinstance(each, Evaluation) for each in module.modules())


def evaluated_outputs(module: fx.GraphModule) -> list[bool]:
    """Whether ONNX Runtime evaluates each output of a graph."""
    end = next(node for node in module.graph.nodes if node.op == "output")
    return [_is_evaluated(module, value) for value in end.args[0]]


def _is_evaluated(module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a value is that of an evaluation, apart from changes of its type or axes."""
    while node.op == "call_function":
        (node,) = node.all_input_nodes[:1]
    return node.op == "call_module" and isinstance(module.get_submodule(str(node.target)), Evaluation)
