"""The change that noise causes in a feature, carried through the network in bfloat16.

A product of bfloat16 numbers takes half the time of one of float32 numbers, but rounding whole activations would drown
the small change that the noise causes. Here only the change is rounded. With the activations ``a`` at the sample known,
each operator maps the change ``d`` of its input to that of its output: a linear operator to ``W d``, any other to
``f(a + d) - f(a)``. Each rounding is then a fraction of a percent of the change itself, and independent from unit to
unit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx

from ..torch_graph.convert import CONVERSION
from .network import Network
from .rows import as_rows

#: Type of the changes.
NARROW = torch.bfloat16
#: Linear operators with weights as their second operand, whose bias drops out.
_WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
#: Other linear operators without an offset.
_LINEAR = frozenset(
    {"AveragePool", "GlobalAveragePool", "ReduceMean", "ReduceSum", "Flatten", "Reshape", "Transpose", "Identity"}
    | {"Dropout", "Slice", "Squeeze", "Unsqueeze", "DepthToSpace", "SpaceToDepth"}
)
#: Operators evaluated at both ends, in float32.
_CURVED = frozenset(
    {"MaxPool", "GlobalMaxPool", "LeakyRelu", "PRelu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Elu"}
    | {"Celu", "Selu", "Softplus", "Softsign", "Mish", "Gelu", "Erf", "Softmax", "Mul"}
)

#: Maps the changes of a node's varying operands and its kept tensors to the change of its output.
Compute = Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]


class UnsupportedGraphError(Exception):
    """The graph has something that changes cannot be carried through."""


@dataclass(frozen=True)
class _Step:
    """One node: its varying operands, how their changes are mapped, and tensors of each sample that this takes.

    ``last`` are the operands that no later node needs.
    """

    name: str
    operands: tuple[str, ...]
    compute: Compute
    kept: tuple[Tensor, ...] = ()
    last: tuple[str, ...] = ()

    def at(self, index: Tensor) -> _Step:
        return replace(self, kept=tuple(_innermost(tensor[index]) for tensor in self.kept))


@dataclass(frozen=True)
class Differences:
    """Changes ``h(x + d) - h(x)`` of one layer at S samples.

    Attributes
    ----------
    steps
        The nodes that depend on the input, in order; the last one computes the layer.
    input
        Name of the input.
    products
        Floating-point operations of the products with weights, for one input.
    """

    steps: tuple[_Step, ...]
    input: str
    products: float

    def at(self, index: Tensor) -> Differences:
        """Changes at a subset of the samples."""
        return replace(self, steps=tuple(step.at(index) for step in self.steps))

    def __call__(self, d: Tensor) -> Tensor:
        """Map changes of the input, (draws * S, *shape), to those of the feature, (draws * S, m), in bfloat16.

        The feature's entries are in the order of its memory, channels last.
        """
        found = {self.input: _innermost(d.to(NARROW))}
        for step in self.steps:
            found[step.name] = step.compute([found[name] for name in step.operands], step.kept)
            for name in step.last:
                del found[name]
        last = found[self.steps[-1].name]
        return as_rows(last.permute(0, 2, 3, 1) if last.dim() == 4 else last)


def differences(network: Network, x: Tensor) -> Differences:
    """Prepare the changes of a network's only layer at samples (S, *shape).

    Raises
    ------
    UnsupportedGraphError
        They cannot be carried through an operator, or the layer depends on more than x.
    """
    if network.mode != "channels last" or network.segments > 1 or network.conditioning_inputs or x.dim() != 4:
        raise UnsupportedGraphError("only images that are evaluated channels last are supported")
    recorder = _Recorder(network.module)
    with torch.no_grad():
        recorder.run(_innermost(x))
    return recorder.differences()


class _Recorder(fx.Interpreter):
    """Evaluate a graph at the samples, and turn each node that depends on the input into a step."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self._steps: list[_Step] = []
        self._varying: set[fx.Node] = set()
        self._output: fx.Node | None = None
        self._products = 0.0

    def differences(self) -> Differences:
        """The recorded steps."""
        if not self._steps or self._output is None or self._output.name != self._steps[-1].name:
            raise UnsupportedGraphError("the last node is not the layer")
        (start,) = (node.name for node in self._varying if node.op == "placeholder")
        steps: list[_Step] = []
        needed: set[str] = set()
        for step in reversed(self._steps):
            steps.append(replace(step, last=tuple(set(step.operands) - needed)))
            needed.update(step.operands)
        return Differences(tuple(reversed(steps)), start, self._products)

    def run_node(self, n: fx.Node) -> Any:
        """Evaluate a node, and record its step."""
        if n.op == "output":
            (self._output,) = n.all_input_nodes
            return super().run_node(n)
        value = super().run_node(n)
        if n.op == "placeholder":
            self._varying.add(n)
        elif any(node in self._varying for node in n.all_input_nodes):
            self._varying.add(n)
            self._steps.append(self._step(n, value))
        return value

    def _step(self, n: fx.Node, value: Any) -> _Step:
        if n.args and isinstance(n.args[0], fx.Node) and value is self.env[n.args[0]]:
            # Checks a shape, or would convert another type.
            return _Step(n.name, (n.args[0].name,), lambda moved, _: moved[0])
        if n.op != "call_module" or CONVERSION not in n.meta or n.kwargs or not isinstance(value, Tensor):
            raise UnsupportedGraphError(f"node {n.name}")
        constants: list[Any] = [self.env[each] if isinstance(each, fx.Node) else each for each in n.args]
        places = [i for i, each in enumerate(n.args) if each in self._varying]
        points = [constants[i] for i in places]
        if any(each.dtype != torch.float32 for each in (value, *points)):
            raise UnsupportedGraphError(f"node {n.name} is not in float32")
        operator = n.meta[CONVERSION].operator.removeprefix("ai.onnx.")
        node = _Node(operator, self.fetch_attr(str(n.target)), constants, places, value)
        self._products += node.products
        compute, kept = _mapped(node)
        return _Step(n.name, tuple(str(n.args[i]) for i in places), compute, kept)


@dataclass(frozen=True)
class _Node:
    """An operator, its operands at the samples, the positions of those that vary, and its value."""

    operator: str
    module: Callable[..., Tensor]
    operands: list[Any]
    places: list[int]
    value: Tensor

    @property
    def only_first(self) -> bool:
        """Whether the first operand varies, and no other one."""
        return self.places == [0]

    @property
    def rest(self) -> list[Any]:
        return self.operands[1:]

    @property
    def weights(self) -> Tensor | None:
        """The second operand of an operator that multiplies by weights; None for others."""
        is_weighted = self.operator in _WEIGHTED and self.only_first and len(self.operands) > 1
        return self.operands[1] if is_weighted and isinstance(self.operands[1], Tensor) else None

    @property
    def products(self) -> float:
        """Operations for one input, about, if the second operand holds weights."""
        weights = self.weights
        if weights is None:
            return 0.0
        return 2 * weights.numel() / max(1, weights.shape[0 if self.operator == "Conv" else -1]) * self.value[0].numel()


def _mapped(node: _Node) -> tuple[Compute, tuple[Tensor, ...]]:
    """How the changes of a node's operands become that of its value, and what has to be kept of the samples."""
    if node.operator == "Relu":
        return _relu, ((-node.operands[0]).to(NARROW),)
    if node.operator in _CURVED:
        points = [node.operands[place] for place in node.places]
        return _curved(node.module, node.operands, node.places), (*points, node.value)
    compute = _of_one(node) if node.only_first else None
    compute = compute or _of_sum(node)
    if compute is None:
        raise UnsupportedGraphError(f"operator {node.operator}")
    return compute, ()


def _of_one(node: _Node) -> Compute | None:
    """Linear operators of one varying operand; None for others."""
    if node.weights is not None:
        weights = _innermost(node.weights.to(NARROW))
        return lambda moved, _: node.module(moved[0], weights)
    if node.operator in _LINEAR:
        return lambda moved, _: node.module(_Arranged.apply(moved[0]), *node.rest)
    if node.operator not in ("Pad", "BatchNormalization"):
        return None
    offset = node.module(torch.zeros_like(node.operands[0][:1]), *node.rest)
    if node.operator == "Pad":
        padding = offset.to(NARROW)
        return lambda moved, _: node.module(moved[0], *node.rest) - padding
    factor = (node.module(torch.ones_like(node.operands[0][:1]), *node.rest) - offset).to(NARROW)
    return lambda moved, _: moved[0] * factor


def _of_sum(node: _Node) -> Compute | None:
    """Sums and concatenations; None for other operators, and where a constant changes the shape."""
    every = len(node.places) == len(node.operands)
    if node.operator == "Concat" and every:
        return lambda moved, _: node.module(*moved)
    same = all(node.operands[place].shape == node.value.shape for place in node.places)
    if node.operator not in ("Add", "Sub") or not same:
        return None
    if every:
        return lambda moved, _: node.module(*moved)
    # A constant drops out.
    return (lambda moved, _: moved[0]) if node.operator == "Add" or node.only_first else None


def _innermost(values: Tensor) -> Tensor:
    """Store the channels of images innermost."""
    return values.contiguous(memory_format=torch.channels_last) if values.dim() == 4 else values


def _relu(moved: Sequence[Tensor], kept: Sequence[Tensor]) -> Tensor:
    found: Tensor = _Rectified.apply(moved[0], kept[0])
    return found


class _Rectified(torch.autograd.Function):
    """``relu(a + d) - relu(a)`` as ``max(d, b) - relu(b)`` with ``b = -a``: the rounding of b matters only near d."""

    @staticmethod
    def forward(ctx: Any, d: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(d, b)
        return torch.maximum(_draws(d, b), b).sub_(b.clamp(min=0)).flatten(0, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        d, b = ctx.saved_tensors
        gradient: Tensor = torch.ops.aten.threshold_backward(gradients[0], (_draws(d, b) - b).flatten(0, 1), 0)
        return gradient, None


class _Arranged(torch.autograd.Function):
    """The identity, with a gradient whose channels are innermost: sums of gradients in two layouts are slow."""

    @staticmethod
    def forward(ctx: Any, d: Tensor) -> Tensor:
        return d.view_as(d)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _innermost(gradients[0])


def _draws(d: Tensor, kept: Tensor) -> Tensor:
    """Changes (draws * S, ...) as (draws, S, ...)."""
    return d.reshape(-1, len(kept), *d.shape[1:])


def _curved(module: Callable[..., Tensor], constants: Sequence[Any], places: Sequence[int]) -> Compute:
    """``f(a + d) - f(a)``, from the kept operands and result."""

    def compute(moved: Sequence[Tensor], kept: Sequence[Tensor]) -> Tensor:
        *points, value = kept
        operands = list(constants)
        for place, d, point in zip(places, moved, points, strict=True):
            operands[place] = (_draws(d.float(), point) + point).flatten(0, 1)
        return (_draws(module(*operands), value) - value).flatten(0, 1).to(NARROW)

    return compute
