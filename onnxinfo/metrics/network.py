"""The analyzed network: features of the selected layers as functions of the analysis input, for any batch size."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor, fx

from ..errors import ConversionError
from ..torch_graph.evaluation import evaluated_outputs, one_by_one
from .batching import same_features, try_alone
from .recompute import peak_bytes, profile_memory, recomputed
from .rows import as_rows

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Separates the strategy for converted outputs from that for evaluated ones.
_BESIDE = "; evaluated layers: "
#: Numbers of checkpointed segments, tried in order.
SEGMENTS = (1, 2, 4, 8, 16, 32, 64, 128)
#: Number of random entries that never repeat themselves in practice, and maximum number of evaluations to draw so many.
SURELY_DIFFERENT, MOST_REPETITIONS = 64, 16


class Network:
    """Features ``h(x)`` of several layers of one model.

    Parameters
    ----------
    module
        Graph module whose first input is the analysis input (batch axis first) and whose outputs are the layers'
        tensors, in order; the remaining inputs are the model's other inputs.
    conditioning_inputs
        The other inputs for all samples, each (samples, ...).
    batch
        Fixed batch size of the graph; None: any.
    """

    def __init__(
        self,
        module: fx.GraphModule,
        conditioning_inputs: Sequence[Tensor] = (),
        batch: int | None = None,
        *,
        mode: str = "batch",
    ) -> None:
        self.module = module.eval().requires_grad_(False)
        self.conditioning_inputs = list(conditioning_inputs)
        self.batch = batch
        self.mode = mode
        # Position of the batch axis in each output.
        self.axes = [0] * len(_outputs(self.module.graph))
        # Whether ONNX Runtime evaluates each output.
        self.evaluated = evaluated_outputs(self.module)
        self.segments = 1
        # Function that evaluates the graph.
        self.evaluate: Callable[..., tuple[Tensor, ...]] = self.module
        self._parts: dict[tuple[int, ...], Network] = {}

    def part(self, layers: Sequence[int]) -> Network:
        """Network that computes only the given layers (positions among the outputs)."""
        key = tuple(layers)
        if key not in self._parts:
            module = _restrict(self.module, key)
            mode = self._mode_of(evaluated_outputs(module))
            part = Network(module, self.conditioning_inputs, self.batch, mode=mode)
            part.axes = [self.axes[i] for i in key]
            part.checkpoint(self.segments)
            self._parts[key] = part
        return self._parts[key]

    def __call__(self, x: Tensor, rows: Tensor) -> list[Tensor]:
        """Compute the features of noisy inputs.

        Parameters
        ----------
        x
            (B, *shape), in the model's units.
        rows
            Sample of each input, (B,); selects its conditioning inputs.

        Returns
        -------
        list of Tensor
            One (B, m) tensor per layer.
        """
        if _BESIDE in self.mode:
            return self._by_kind(lambda part: part(x, rows))
        conditioning_inputs = [tensor[rows] for tensor in self.conditioning_inputs]
        return _MODES[self.mode](self, x, conditioning_inputs)

    def _mode_of(self, evaluated: Sequence[bool]) -> str:
        """Batching strategy of a part, by whether ONNX Runtime evaluates its outputs."""
        converted, beside, by_runtime = self.mode.partition(_BESIDE)
        if not beside or (any(evaluated) and not all(evaluated)):
            return self.mode
        return by_runtime if all(evaluated) else converted

    def _by_kind(self, function: Callable[[Network], Sequence[T]]) -> list[T]:
        """Apply a function to the converted outputs and to the evaluated ones; return its results for all outputs."""
        found: dict[int, T] = {}
        for kind in (False, True):
            positions = [i for i, evaluated in enumerate(self.evaluated) if evaluated == kind]
            found.update(zip(positions, function(self.part(positions)), strict=True))
        return [found[i] for i in range(len(found))]

    def with_conditioning_inputs(self, conditioning_inputs: Sequence[Tensor]) -> Network:
        """Copy of the network with the conditioning inputs of other samples."""
        other = Network(self.module, conditioning_inputs, self.batch, mode=self.mode)
        other.axes, other.segments, other.evaluate = list(self.axes), self.segments, self.evaluate
        return other

    def recompute(self, budget: int, x: Tensor, rows: Tensor) -> int:
        """Checkpoint the graph so that evaluating one input keeps at most ``budget`` bytes, or as few as possible.

        Parameters
        ----------
        budget
            Memory budget in bytes.
        x, rows
            At least one input.

        Returns
        -------
        int
            Number of segments whose activations are recomputed for the backward pass.
        """
        inputs = [x[0].detach().clone().requires_grad_(True), *(tensor[rows[0]] for tensor in self.conditioning_inputs)]
        profile_memory(self.module, [_fill(tensor, self.batch or 1) for tensor in inputs])
        found = {count: peak_bytes(self.module, count) for count in SEGMENTS}
        enough = [count for count, kept in found.items() if kept <= budget]
        self.checkpoint(enough[0] if enough else min(found, key=lambda count: found[count]))
        return self.segments

    def checkpoint(self, segments: int) -> None:
        """Recompute activations in this many segments; :meth:`recompute` must have profiled the graph."""
        self.segments = segments
        self.evaluate = self.module if segments == 1 else recomputed(self.module, segments)
        if segments > 1 and self.mode.partition(_BESIDE)[0] == "vmap":
            # A checkpointed graph cannot be evaluated by vmap.
            self.mode = self.mode.replace("vmap", "loop", 1)
        self._parts.clear()

    def shapes(self, x: Tensor, rows: Tensor) -> list[tuple[int, ...]]:
        """Shape of one sample's feature for every layer; its product is the m of ``__call__``."""
        count = self.batch or 1
        with torch.no_grad():
            outputs = self.module(
                *(_fill(t, count) for t in (x[0], *(tensor[rows[0]] for tensor in self.conditioning_inputs)))
            )
        return [_shape(_samples_first(o, count, a)[0], a) for o, a in zip(outputs, self.axes, strict=True)]

    def select_batching(self, x: Tensor, rows: Tensor, unit: Tensor | float = 1.0, *, rounded: bool = False) -> str:
        """Select, and set, the fastest batching strategy that is correct for this graph.

        A graph may have a fixed batch size, merge the batch axis with others, not have it first, or let the samples of
        a batch influence each other. Each strategy is tried on noisy copies of the samples, in batches of several
        sizes; values and gradients are compared with those of inputs evaluated one by one. Outputs that ONNX Runtime
        evaluates may get another strategy than converted ones.

        Parameters
        ----------
        x
            Two samples, (2, *shape), which may be the same.
        rows
            Rows of the samples.
        unit
            Standardized unit, broadcastable to x.
        rounded
            Whether the network rounds its activations; see :meth:`.batching.Trial.holds`.

        Raises
        ------
        ConversionError
            No strategy works, results differ from run to run, or the graph has a fixed batch size above one and its
            samples influence each other.
        """
        if any(self.evaluated) and not all(self.evaluated):
            modes: list[str] = []

            def select(part: Network) -> list[int]:
                modes.append(part.select_batching(x, rows, unit, rounded=rounded))
                return part.axes

            axes = self._by_kind(select)
            self.set_batching(modes[0] if modes[0] == modes[1] else _BESIDE.join(modes), axes)
            return self.mode
        try:
            self.axes = _batch_axes(self, x, [tensor[rows] for tensor in self.conditioning_inputs])
            trial = try_alone(self._loop, x, rows, unit)
            repeated = self._repeats_itself(x, rows)
            mixed = self.batch not in (None, 1) and not self._neighbors_do_not_matter(x, rows)
        except Exception as error:
            raise ConversionError(f"the converted graph does not run: {' '.join(str(error).split())[:300]}") from error
        if not repeated:
            raise ConversionError("the graph gives other values each time it is evaluated; export it for inference")
        if mixed:
            raise ConversionError(
                f"the samples of a batch influence each other, and the model is made for {self.batch} at once; "
                f"export it for one sample"
            )
        for mode in _MODES:
            self.mode = mode
            try:
                if trial.holds(self, rounded=rounded):
                    self.set_batching(mode, self.axes)
                    break
            except Exception as error:
                # Graphs raise all kinds of errors on a batch size that they were not exported for; then try the next
                # strategy.
                logger.debug("batching strategy %s fails: %s", mode, error)
                continue
            if mode == "batch":
                logger.warning("the samples of a batch influence each other in this model: evaluating them one by one")
        return self.mode

    def _loop(self, x: Tensor, rows: Tensor) -> list[Tensor]:
        return _one_by_one(self, x, [tensor[rows] for tensor in self.conditioning_inputs])

    def _repeats_itself(self, x: Tensor, rows: Tensor) -> bool:
        """Whether the graph has no random numbers; few of them may be equal by chance, so they are drawn more often."""
        with torch.no_grad():
            first = self._loop(x, rows)
            entries = max(1, min(output.numel() for output in first))
            times = min(MOST_REPETITIONS, math.ceil(SURELY_DIFFERENT / entries))
            return all(all(map(same_features, first, self._loop(x, rows))) for _ in range(times))

    def _neighbors_do_not_matter(self, x: Tensor, rows: Tensor) -> bool:
        """Whether the first sample of a fixed-size batch gives the same result next to copies and next to others."""
        count = self.batch or 1
        inputs = [
            torch.cat([t[:1], _fill(t[-1], count - 1)])
            for t in (x, *(tensor[rows] for tensor in self.conditioning_inputs))
        ]
        inputs[0][1:] += torch.linspace(-1, 1, x[0].numel()).reshape(x[0].shape).to(x)
        with torch.no_grad():
            beside = self.evaluate(*inputs)
            rows_ = [rows_of(output, count, axis)[:1] for output, axis in zip(beside, self.axes, strict=True)]
            return all(map(same_features, rows_, self._loop(x[:1], rows[:1])))

    def set_batching(self, mode: str, axes: Sequence[int]) -> None:
        """Use the batching strategy that was selected for another network of the same graph.

        Parameters
        ----------
        mode, axes
            Strategy and batch axes of that network.
        """
        self.mode, self.axes = mode, list(axes)
        if mode.partition(_BESIDE)[0] == "channels last":
            # Convert once; otherwise convolutions would reorder their weights at every call.
            self.module.to(memory_format=torch.channels_last)
        self._parts.clear()


def _batch_axes(network: Network, x: Tensor, conditioning_inputs: list[Tensor]) -> list[int]:
    """Batch axis of each output; recurrent layers, for example, do not have it first."""
    if network.batch is None:
        try:
            two, three = (network.module(*(_fill(t[0], count) for t in (x, *conditioning_inputs))) for count in (2, 3))
        except Exception:
            # The graph accepts one sample at a time, whatever it declares; the axes are not needed then.
            return network.axes
        pairs = [list(zip(a.shape, b.shape, strict=True)) for a, b in zip(two, three, strict=True)]
        return [_first(3 * m == 2 * n for m, n in sizes) for sizes in pairs]
    count = network.batch
    inputs = [_fill(t[0], count) for t in (x, *conditioning_inputs)]
    before = network.module(*inputs)
    wave = torch.linspace(0, 100, x[0].numel(), dtype=x.dtype, device=x.device).cos().reshape(x[0].shape)
    inputs[0] = torch.cat([x[:1] + (1 + x[0].abs().max()) * wave, inputs[0][1:]])
    return [_first(_unmixed(a != b, count)) for a, b in zip(before, network.module(*inputs), strict=True)]


def _unmixed(changed: Tensor, count: int) -> Iterator[bool]:
    """Whether each axis is the batch axis: of ``count`` parts, only the first, whose sample changed, has changed."""
    for axis, size in enumerate(changed.shape):
        yield size % count == 0 and not _samples_first(changed, count, axis)[1:].any()


def _first(found: Iterable[bool]) -> int:
    return next((axis for axis, is_it in enumerate(found) if is_it), 0)


def _samples_first(output: Tensor, count: int, axis: int) -> Tensor:
    """Split the batch axis from axes merged with it, and move it to the front."""
    # A scalar is of the only sample.
    shape = output.shape or (1,)
    return output.reshape(*shape[:axis], count, shape[axis] // count, *shape[axis + 1 :]).movedim(axis, 0)


def _shape(feature: Tensor, axis: int) -> tuple[int, ...]:
    """Shape without the rest of the batch axis, unless that holds other entries too."""
    shape = tuple(feature.shape)
    return shape[:axis] + shape[axis + 1 :] if shape[axis] == 1 else shape


def _whole(network: Network, x: Tensor, conditioning_inputs: list[Tensor]) -> list[Tensor]:
    outputs = network.evaluate(x, *conditioning_inputs)
    return [rows_of(output, len(x), axis) for output, axis in zip(outputs, network.axes, strict=True)]


def _channels_last(network: Network, x: Tensor, conditioning_inputs: list[Tensor]) -> list[Tensor]:
    """The whole batch in channels-last memory format, which is faster for convolutions."""
    if x.dim() != 4:
        raise ValueError("channels are innermost in images only")
    return _whole(network, x.contiguous(memory_format=torch.channels_last), conditioning_inputs)


def rows_of(output: Tensor, count: int, axis: int) -> Tensor:
    """Return the output of a graph as one row per sample, (count, n), given the position of its batch axis."""
    if output.dim() > axis and output.shape[axis] % count:
        # Smaller batches work: something in the graph, such as a slice, limits the batch size.
        raise ConversionError(
            f"a layer has {output.shape[axis]} rows for {count} inputs evaluated at once, expected as many for each; "
            f"export the model without what cuts or fills its batches"
        )
    if count == 1 and output.dim() <= axis:
        # A graph for a single input may squeeze its batch axis.
        return output.reshape(1, -1)
    return as_rows(_samples_first(output, count, axis))


def _evaluated_one_by_one(network: Network, x: Tensor, conditioning_inputs: list[Tensor]) -> list[Tensor]:
    """The whole batch in torch, and its inputs one by one in ONNX Runtime, in as few calls as possible."""
    if not any(network.evaluated):
        raise ValueError("ONNX Runtime evaluates no layer")
    copies = network.batch or 1
    with one_by_one(copies):
        outputs = network.evaluate(x, *conditioning_inputs)
    return [
        _of_copies(output, copies, axis) if evaluated else rows_of(output, len(x), axis)
        for output, axis, evaluated in zip(outputs, network.axes, network.evaluated, strict=True)
    ]


def _of_copies(outputs: Tensor, copies: int, axis: int) -> Tensor:
    """Rows of outputs that were computed for copies of each input, (inputs, *shape of one output)."""
    if copies == 1:
        return as_rows(outputs)
    return torch.stack([rows_of(output, copies, axis)[0] for output in outputs])


def _mapped(network: Network, x: Tensor, conditioning_inputs: list[Tensor]) -> list[Tensor]:
    def one(*inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(_alone(network, inputs))

    mapped = torch.func.vmap(one, randomness="same")
    return [output.reshape(len(x), -1) for output in mapped(x, *conditioning_inputs)]


def _one_by_one(network: Network, x: Tensor, conditioning_inputs: list[Tensor]) -> list[Tensor]:
    outputs = [_alone(network, inputs) for inputs in zip(x, *conditioning_inputs, strict=True)]
    return [torch.stack(parts) for parts in zip(*outputs, strict=True)]


def _alone(network: Network, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Flat outputs of one sample, from a batch of the graph's fixed size."""
    count = network.batch or 1
    outputs = network.evaluate(*(_fill(sample, count) for sample in inputs))
    if count == 1:
        return [output.flatten() for output in outputs]
    return [rows_of(output, count, axis)[0] for output, axis in zip(outputs, network.axes, strict=True)]


def _fill(sample: Tensor, count: int) -> Tensor:
    return sample.unsqueeze(0).expand(count, *sample.shape)


_MODES: dict[str, Callable[[Network, Tensor, list[Tensor]], list[Tensor]]] = {
    "channels last": _channels_last,
    "batch": _whole,
    "one by one in ONNX Runtime": _evaluated_one_by_one,
    "vmap": _mapped,
    "loop": _one_by_one,
}


def _outputs(graph: fx.Graph) -> tuple[fx.Node, ...]:
    output = next(node for node in reversed(graph.nodes) if node.op == "output")
    values = output.args[0]
    assert isinstance(values, tuple)
    return values


def _restrict(module: fx.GraphModule, layers: Sequence[int]) -> fx.GraphModule:
    """Graph module without the other outputs and the nodes that only they need; parameters are shared."""
    graph = copy.deepcopy(module.graph)
    output = next(node for node in reversed(graph.nodes) if node.op == "output")
    values = _outputs(graph)
    output.args = (tuple(values[i] for i in layers),)
    for node in reversed(list(graph.nodes)):
        if node.op not in ("output", "placeholder") and not node.users:
            graph.erase_node(node)
    return fx.GraphModule(module, graph)
