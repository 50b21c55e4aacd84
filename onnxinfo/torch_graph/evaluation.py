"""Layers that ONNX Runtime evaluates within a converted graph: they have no gradient and need no converter."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, fx, nn

from ..errors import ModelError
from ..graph.model import Model
from ..graph.surgery import extract
from .operators.values import array_from, to_torch
from .runtime import Session


class Evaluation(nn.Module):
    """Module that computes one tensor of a model by ONNX Runtime.

    Parameters
    ----------
    part
        A model whose only output is that tensor.
    """

    def __init__(self, part: Model) -> None:
        super().__init__()
        self._session = Session(part, threads=torch.get_num_threads())
        self._types = {value.name: value.type.tensor_type.elem_type for value in part.proto.graph.input}

    @property
    def inputs(self) -> list[str]:
        """Names of the tensors that it takes, in order."""
        return self._session.inputs

    def forward(self, *given: Tensor) -> Tensor:
        """Evaluate the model on tensors in the order of `inputs`.

        Returns
        -------
        Tensor
            The output, on the device of the first tensor; non-float values are returned as float32.

        Raises
        ------
        MemoryError
            ONNX Runtime cannot allocate the memory for the batch.
        ModelError
            The evaluation fails for any other reason.
        """
        pairs = zip(self.inputs, given, strict=True)
        feeds = {name: array_from(tensor.detach().cpu(), self._types[name]) for name, tensor in pairs}
        try:
            (found,) = self._session.run(feeds).values()
        except ModelError as error:
            if "allocate memory" in str(error) or "bad allocation" in str(error):
                raise MemoryError(str(error)) from None
            raise
        value: Tensor = to_torch(found, given[0].device)
        return value if value.is_floating_point() else value.float()


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
