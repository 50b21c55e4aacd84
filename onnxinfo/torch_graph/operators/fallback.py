"""Operators without a torch function: ONNX Runtime or the reference evaluator runs them as constants of the graph."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import onnx
from torch import Tensor, nn

from ...errors import ConversionError
from ...graph.engine import Engine
from ...graph.reference import Reference
from ..nodes import Converted, Graph, Node
from .values import to_numpy, to_torch

Feeds = dict[str, Any]
Run = Callable[[Feeds], list[Any]]

# Newest format version that ONNX Runtime is known to read; a single node needs nothing newer.
_IR_VERSION = 10


class Fallback(nn.Module):
    """A node that runs outside torch; its results have no gradient.

    Parameters
    ----------
    model
        The node as a model of its own; ONNX Runtime is tried before the reference evaluator.
    label
        Description of the node for errors.

    Raises
    ------
    NotImplementedError
        Neither engine has the operator.
    """

    def __init__(self, model: onnx.ModelProto, label: str) -> None:
        super().__init__()
        self.model = model
        self.label = label
        self.engines = _engines(model)

    def forward(self, *operands: Any) -> Any:
        """Run the node on the operands' values; results are on the operands' device.

        Raises
        ------
        ConversionError
            No engine accepts the operands.
        """
        device = next((value.device for value in operands if isinstance(value, Tensor)), "cpu")
        inputs = self.model.graph.input
        results = self._run({i.name: to_numpy(value, i.type) for i, value in zip(inputs, operands, strict=True)})
        computed = dict(zip((output.name for output in self.model.graph.output), results, strict=True))
        values = [to_torch(computed.get(name), device) for name in self.model.graph.node[0].output]
        return values[0] if len(values) == 1 else values

    def _run(self, feeds: Feeds) -> list[Any]:
        *others, last = self.engines
        for engine in others:
            # An engine may have the operator, but not for these element types.
            with contextlib.suppress(Exception):
                return engine(feeds)
        try:
            return last(feeds)
        except MemoryError:
            raise
        except Exception as error:
            raise ConversionError(f"{self.label} cannot run: {' '.join(str(error).split())}") from error

    def __getstate__(self) -> dict[str, Any]:
        """Omit the engines, which can be neither copied nor pickled."""
        return {**super().__getstate__(), "engines": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.engines = _engines(self.model)


def fallback(node: Node, graph: Graph) -> Converted:
    """Convert a node to a :class:`Fallback`."""
    inputs = tuple(dict.fromkeys(name for name in node.inputs if name))
    outputs = [name for name in node.outputs if name]
    single = onnx.helper.make_model(
        onnx.helper.make_graph(
            [node.proto],
            node.op_type,
            [_declared(name, graph) for name in inputs],
            [_declared(name, graph) for name in outputs],
        ),
        opset_imports=[onnx.helper.make_opsetid("" if d == "ai.onnx" else d, v) for d, v in graph.opsets.items()],
        ir_version=_IR_VERSION,
    )
    return Converted(Fallback(single, graph.describe(node)), inputs)


def _declared(name: str, graph: Graph) -> onnx.ValueInfoProto:
    """Name and type of a value; its shape is left open, because the batch size may change."""
    if name in graph.initializers:
        return onnx.helper.make_tensor_value_info(name, graph.initializers[name].data_type, None)
    declared = onnx.ValueInfoProto()
    declared.name = name
    if name in graph.value_info:
        declared.type.CopyFrom(graph.value_info[name].type)
    if declared.type.HasField("tensor_type"):
        declared.type.tensor_type.ClearField("shape")
    return declared


def _engines(model: onnx.ModelProto) -> list[Run]:
    engines: list[Run] = []
    for engine in (lambda: Engine(model).run, lambda: Reference(model).run):
        with contextlib.suppress(Exception):
            engines.append(engine())
    if not engines:
        node = model.graph.node[0]
        known = onnx.defs.has(node.op_type, domain=node.domain)
        help = "" if known else " (custom operators are given with onnxinfo.register_ort_library(...))"
        raise NotImplementedError(f"neither ONNX Runtime nor the reference evaluator runs it{help}")
    return engines
