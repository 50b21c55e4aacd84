"""Inner tensors of a network as places at which gradients end and noise is added."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor, fx, nn

from ..torch_graph.ends import ENDS
from ..torch_graph.host import materialized
from .network import Network, rows_of

#: Batching strategies that evaluate a whole batch at once.
_TOGETHER = ("batch", "channels last")


class Tap(nn.Module):
    """Passes a tensor on and keeps it.

    Attributes
    ----------
    noise
        Returns what is added to the tensor; None: nothing.
    seen
        The tensor of the last call.
    """

    def __init__(self) -> None:
        super().__init__()
        self.noise: Callable[[Tensor], Tensor] | None = None
        self.seen = torch.empty(0)

    def forward(self, value: Tensor) -> Tensor:
        """Pass a tensor on; if gradients are recorded, they end here unless they also have a way to the input."""
        if self.noise is not None:
            value = value + self.noise(value)
        if torch.is_grad_enabled() and value.is_floating_point():
            # A tensor of its own: operators such as Identity return the one that they are given.
            value = value.view_as(value) if value.requires_grad else value.detach().requires_grad_(True)
        self.seen = value
        return value


class TappedNetwork:
    """A network whose layers are tapped, and one of its layers, the target, as a function of the others.

    Parameters
    ----------
    network
        Network whose batching strategy is set.
    target
        Position of the target among its outputs.
    """

    def __init__(self, network: Network, target: int) -> None:
        self._network, self._target = network, target
        self._module, self.taps, self._nodes = _tapped(network.module)
        self._together = network.mode in _TOGETHER
        self._interpreter = fx.Interpreter(self._module, garbage_collect_values=False)
        self._suffixes: dict[int, list[fx.Node]] = {}

    def parts(self, x: Tensor, rows: Tensor) -> Iterator[tuple[slice, list[Tensor]]]:
        """Yield inputs of the graph that are evaluated at once, with their places among the samples.

        Parameters
        ----------
        x, rows
            Samples, (S, *shape), and their rows, (S,).
        """
        network = self._network
        given = [x, *(tensor[rows] for tensor in network.conditioning_inputs)]
        if self._together:
            if network.mode == "channels last":
                given[0] = x.contiguous(memory_format=torch.channels_last)
            yield slice(0, len(x)), given
            return
        copies = network.batch or 1
        for i in range(len(x)):
            yield slice(i, i + 1), [t[i : i + 1].expand(copies, *t.shape[1:]).contiguous() for t in given]

    def rows(self, value: Tensor, position: int, count: int) -> Tensor:
        """Return a tensor of a layer, (count, n), for ``count`` samples.

        Parameters
        ----------
        value
            Tensor of the layer's shape in the graph.
        position
            Position of the layer.
        count
            Number of samples evaluated at once.
        """
        axis, copies = self._network.axes[position], self._network.batch or 1
        if self._together:
            return rows_of(value, count, axis)
        return value.reshape(1, -1) if copies == 1 else rows_of(value, copies, axis)[:1]

    def forward(self, given: Sequence[Tensor], count: int) -> Tensor:
        """Evaluate the graph and return the target, (count, m), recording gradients that end at the taps."""
        with torch.enable_grad():
            return self.rows(self._module(*given)[self._target], self._target, count).float()

    def seen(self) -> list[Tensor]:
        """Return the layers' tensors of the last evaluation."""
        return [tap.seen for tap in self.taps]

    def begin(self, given: Sequence[Tensor], count: int) -> tuple[Tensor, dict[fx.Node, object]]:
        """Evaluate the graph without noise; return the target, (count, m), and all values for :meth:`resume`."""
        with torch.no_grad():
            outputs = self._interpreter.run(*given)
        values = dict(self._interpreter.env)
        return self.rows(outputs[self._target], self._target, count).float(), values

    def resume(
        self, values: dict[fx.Node, object], position: int, noise: Callable[[Tensor], Tensor], count: int
    ) -> Tensor:
        """Add noise to one layer, and evaluate only what depends on it.

        Parameters
        ----------
        values
            Values without noise, from :meth:`begin`.
        position
            Position of the layer.
        noise
            Takes the layer's tensor and returns what is added to it.
        count
            Number of samples evaluated at once.

        Returns
        -------
        Tensor
            The target, (count, m).
        """
        tap, interpreter = self.taps[position], self._interpreter
        interpreter.env = dict(values)
        tap.noise = noise
        try:
            with torch.no_grad():
                for node in self._suffix(position):
                    interpreter.env[node] = interpreter.run_node(node)
        finally:
            tap.noise = None
        value = interpreter.env[_outputs(self._module.graph)[self._target]]
        return self.rows(value, self._target, count).float()

    def _suffix(self, position: int) -> list[fx.Node]:
        """Nodes that depend on a layer and that the target depends on, in order."""
        if position not in self._suffixes:
            graph = self._module.graph
            end = _outputs(graph)[self._target]
            after = _reach([self._nodes[position]], lambda node: node.users)
            before = _reach([end], lambda node: node.all_input_nodes)
            self._suffixes[position] = [node for node in graph.nodes if node in after and node in before]
        return self._suffixes[position]


def _reach(start: list[fx.Node], step: Callable[[fx.Node], Iterable[fx.Node]]) -> set[fx.Node]:
    found, pending = set(start), list(start)
    while pending:
        for node in step(pending.pop()):
            if node not in found:
                found.add(node)
                pending.append(node)
    return found


def _outputs(graph: fx.Graph) -> Sequence[fx.Node]:
    output = next(node for node in reversed(graph.nodes) if node.op == "output")
    values = output.args[0]
    assert isinstance(values, tuple)
    return values


def _tapped(module: fx.GraphModule) -> tuple[fx.GraphModule, list[Tap], list[fx.Node]]:
    """Insert a tap after every node that computes an output; return the taps and their nodes by output."""
    graph = copy.deepcopy(module.graph)
    tapped = fx.GraphModule(module, graph)
    made: dict[fx.Node, tuple[Tap, fx.Node]] = {}
    found = []
    for value in _outputs(graph):
        source = _source(value)
        if source not in made:
            name, tap = f"tap_{len(made)}", Tap()
            tapped.add_submodule(name, tap)
            with graph.inserting_after(source):
                node = graph.call_module(name, (source,))
            source.replace_all_uses_with(node)
            node.replace_input_with(node, source)
            made[source] = made[node] = tap, node
        found.append(made[source])
    tapped.recompile()
    return tapped, [tap for tap, _ in found], [node for _, node in found]


def _source(value: fx.Node) -> fx.Node:
    """Node that computes an output in the model's own type and axes, as the other nodes read it."""
    while value.op == "call_function" and value.target in (*ENDS, materialized):
        (value,) = value.all_input_nodes
    return value
