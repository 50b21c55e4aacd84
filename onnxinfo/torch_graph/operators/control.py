"""Control flow: bodies are graphs of their own, with captured outer values as additional inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx
import torch
from torch import Tensor, fx, nn

from ..element_types import torch_type
from ..host import HostValue, materialized, numbers, scalar
from ..nodes import HOST_OUTPUTS, Converted, Graph, Node
from .table import converter

Values = list[Any]


@converter("If")
def _if(node: Node, graph: Graph) -> Converted:
    then_branch, then_captured = graph.subgraph(node.attributes["then_branch"])
    else_branch, else_captured = graph.subgraph(node.attributes["else_branch"])
    module = If(then_branch, else_branch, len(then_captured))
    return Converted(module, (*node.inputs, *then_captured, *else_captured), _read(node.inputs, graph))


@converter("Loop")
def _loop(node: Node, graph: Graph) -> Converted:
    proto = node.attributes["body"]
    body, captured = graph.subgraph(proto)
    carried = len(proto.input) - 2
    module = Loop(body, carried, [_empty_scan(output) for output in proto.output[1 + carried :]])
    limit_and_condition = (*node.inputs, "", "")[:2]
    # The body's condition decides after every iteration.
    decided = () if body.meta[HOST_OUTPUTS][0] else (proto.output[0].name,)
    reads = (*_read(limit_and_condition, graph), *decided)
    return Converted(module, (*limit_and_condition, *node.inputs[2:], *captured), reads)


def _read(names: Sequence[str], graph: Graph) -> tuple[str, ...]:
    """Those of the values that are neither constants nor host values."""
    return tuple(n for n in names if n and n not in graph.initializers and not graph.may_be_host(n))


@converter("Scan", versions=(9, None))
def _scan(node: Node, graph: Graph) -> Converted:
    attributes = dict(node.attributes)
    proto = attributes.pop("body")
    body, captured = graph.subgraph(proto)
    module = Scan(body, len(proto.input), len(proto.output), **attributes)
    return Converted(module, (*node.inputs, *captured))


@converter("Scan", versions=(8, 8))
def _scan_8(node: Node, graph: Graph) -> Converted:
    if node.inputs[0]:
        raise NotImplementedError("sequence lengths of Scan 8 have no converter; write the model in opset 9 or later")
    proto = node.attributes["body"]
    body, captured = graph.subgraph(proto)
    directions = node.attributes.get("directions")
    scans = node.attributes["num_scan_inputs"]
    scan = Scan(body, len(proto.input), len(proto.output), num_scan_inputs=scans, scan_input_directions=directions)
    return Converted(BatchedScan(scan), (*node.inputs[1:], *captured))


@converter("SequenceMap")
def _sequence_map(node: Node, graph: Graph) -> Converted:
    body, captured = graph.subgraph(node.attributes["body"])
    module = SequenceMap(body, len(node.inputs))
    return Converted(module, (*node.inputs, *captured))


def _empty_scan(output: onnx.ValueInfoProto) -> Tensor:
    """Scan output of a loop without iterations; unspecified dimensions are empty, too."""
    tensor = output.type.tensor_type
    return torch.empty(0, *(d.dim_value for d in tensor.shape.dim), dtype=torch_type(tensor.elem_type))


def _unpacked(values: Values) -> Any:
    """Return the only output of a node by itself, several as a list."""
    return values[0] if len(values) == 1 else values


def _first(value: Tensor | HostValue) -> Any:
    """Return the only element of a limit or condition."""
    return numbers(value)[0]


class If(nn.Module):
    """Run one of two graphs."""

    def __init__(self, then_branch: fx.GraphModule, else_branch: fx.GraphModule, then_captured: int) -> None:
        super().__init__()
        self.then_branch = then_branch
        self.else_branch = else_branch
        self.then_captured = then_captured

    def forward(self, condition: Tensor | HostValue, *captured: Any) -> Any:
        """Run the branch selected by the condition, on the outer values that it uses."""
        if _first(condition):
            return _unpacked(self.then_branch(*captured[: self.then_captured]))
        return _unpacked(self.else_branch(*captured[self.then_captured :]))


class Loop(nn.Module):
    """Repeat a graph on its own results, up to a number of iterations and while a condition holds.

    A condition computed by the body ends the loop even if the node has no condition input, as in ONNX Runtime.

    Parameters
    ----------
    body
        Takes iteration number, condition, carried values and captured values; returns condition, carried values and
        the current iteration's part of each scan output.
    carried
        Number of values passed from one iteration to the next.
    empty
        Value of each scan output for a loop without iterations.
    """

    def __init__(self, body: fx.GraphModule, carried: int, empty: list[Tensor]) -> None:
        super().__init__()
        self.body = body
        self.carried = carried
        self.empty = empty

    def forward(self, limit: Tensor | HostValue | None, condition: Tensor | HostValue | None, *operands: Any) -> Any:
        """Run the loop; return the carried values after the last iteration, then the stacked scan outputs."""
        carried, captured = operands[: self.carried], operands[self.carried :]
        end = None if limit is None else _first(limit)
        condition = scalar(True, torch.bool) if condition is None else condition
        steps: list[Values] = []
        while (end is None or len(steps) < end) and _first(condition):
            condition, *values = self.body(scalar(len(steps)), condition, *carried, *captured)
            carried = tuple(values[: self.carried])
            steps.append([materialized(value) for value in values[self.carried :]])
        scanned = [torch.stack(parts) for parts in zip(*steps, strict=True)] if steps else self.empty
        return _unpacked([*carried, *scanned])


class Scan(nn.Module):
    """Run a graph over slices of tensors, passing state from one slice to the next.

    Parameters
    ----------
    body
        Takes state, one slice of each scanned input and captured values; returns state and slices of the outputs.
    inputs, outputs
        Numbers of values that the body takes (without captured ones) and returns.
    num_scan_inputs, scan_input_axes, scan_input_directions, scan_output_axes, scan_output_directions
        As ONNX defines them; absent lists are zeros.
    """

    def __init__(
        self,
        body: fx.GraphModule,
        inputs: int,
        outputs: int,
        *,
        num_scan_inputs: int,
        scan_input_axes: list[int] | None = None,
        scan_input_directions: list[int] | None = None,
        scan_output_axes: list[int] | None = None,
        scan_output_directions: list[int] | None = None,
    ) -> None:
        super().__init__()
        self.body = body
        self.inputs = inputs
        self.states = inputs - num_scan_inputs
        scans = outputs - self.states
        self.input_axes = scan_input_axes or [0] * num_scan_inputs
        self.input_reversed = scan_input_directions or [0] * num_scan_inputs
        self.output_axes = scan_output_axes or [0] * scans
        self.output_reversed = scan_output_directions or [0] * scans

    def forward(self, *operands: Any) -> Any:
        """Run the scan; return the final state, then the scanned outputs."""
        operands = (*map(materialized, operands[: self.inputs]), *operands[self.inputs :])
        state = operands[: self.states]
        captured = operands[self.inputs :]
        slices = [
            list(reversed(tensor.unbind(axis))) if backward else tensor.unbind(axis)
            for tensor, axis, backward in zip(
                operands[self.states : self.inputs], self.input_axes, self.input_reversed, strict=True
            )
        ]
        steps: list[Values] = []
        for parts in zip(*slices, strict=True):
            values = [materialized(value) for value in self.body(*state, *parts, *captured)]
            state = tuple(values[: self.states])
            steps.append(values[self.states :])
        scanned = [
            torch.stack(parts[::-1] if backward else parts, axis)
            for parts, axis, backward in zip(
                zip(*steps, strict=True), self.output_axes, self.output_reversed, strict=True
            )
        ]
        return _unpacked([*state, *scanned])


class BatchedScan(nn.Module):
    """Scan of opset 8: operands have a leading batch axis, and each sample is scanned separately."""

    def __init__(self, scan: Scan) -> None:
        super().__init__()
        self.scan = scan

    def forward(self, *operands: Any) -> Any:
        """Run the scan on every sample; return final states and scanned outputs, stacked."""
        batched, captured = map(materialized, operands[: self.scan.inputs]), operands[self.scan.inputs :]
        results = [self.scan(*sample, *captured) for sample in zip(*batched, strict=True)]
        if isinstance(results[0], Tensor):
            return torch.stack(results)
        return [torch.stack(values) for values in zip(*results, strict=True)]


class SequenceMap(nn.Module):
    """Run a graph on every element of a sequence; tensor inputs are passed to every run."""

    def __init__(self, body: fx.GraphModule, inputs: int) -> None:
        super().__init__()
        self.body = body
        self.inputs = inputs

    def forward(self, sequence: Values, *operands: Any) -> Any:
        """Return one sequence per output of the body."""
        operands = tuple(map(materialized, operands))
        arguments, captured = operands[: self.inputs - 1], operands[self.inputs - 1 :]
        results = [
            self.body(element, *(a[i] if isinstance(a, list) else a for a in arguments), *captured)
            for i, element in enumerate(sequence)
        ]
        return _unpacked([[materialized(value) for value in values] for values in zip(*results, strict=True)])


#: Modules that pass on host values: the iteration number of a loop, the results of a body.
CONTROL = (If, Loop, Scan, BatchedScan, SequenceMap)
