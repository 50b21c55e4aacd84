"""Verify the torch graph: compare every tensor with ONNX Runtime, and find the first node that differs."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import Tensor, fx, nn

from ..errors import ConversionError, ModelError, VerificationError
from ..graph.model import Model, ModelSource, load
from ..graph.surgery import expose_only
from ..text import printable, quoted
from .compare import Difference, Tensors
from .convert import convert
from .exact import Evidence, explanation
from .host import is_host, materialized
from .operators.values import to_numpy, to_torch
from .precision import FLOATS, widened
from .runtime import Session, Witness

Array = npt.NDArray[Any]
logger = logging.getLogger(__name__)

# Maximum relative difference accepted as rounding errors that the network amplifies, if every node agrees with ONNX
# Runtime on the same operands.
_AMPLIFIED = 0.05
# Above it, its errors in single precision have to be at most this many times as large as ONNX Runtime's.
_NEAR = 4.0


@dataclass(frozen=True)
class Verification:
    """Result of the comparison, per tensor in graph order; the largest difference over all batches.

    ``witness`` is the engine that the tensors were compared with; ``excused`` says why tensors that differ are right.
    """

    differences: list[Difference]
    witness: Witness
    excused: Mapping[str, str] = field(default_factory=dict)

    @property
    def flips(self) -> int:
        """Number of integers that differ by one."""
        return sum(difference.flips for difference in self.differences)

    @property
    def largest(self) -> Difference:
        """Difference that is largest relative to its tolerance."""
        return max(self.differences, key=lambda difference: difference.relative / difference.tolerance)


def verify(
    model: ModelSource, module: nn.Module, feeds_batches: Iterable[Mapping[str, Array]], tensors: Sequence[str]
) -> Verification:
    """Compare a torch graph with ONNX Runtime on real samples.

    If ONNX Runtime does not support a model's operator versions, ONNX's reference evaluator is used instead.

    The tolerance is relative to the largest magnitude in a tensor and grows with the square root of its depth, like
    independent rounding errors: ``2e-5 * sqrt(1 + depth)`` in float32. A tensor beyond it is accepted only if every
    node of the graph agrees when given the operands computed by ONNX Runtime: then the difference is rounding that the
    network amplifies, and up to 5 % of it is accepted. After quantized values and discrete choices there is no such
    limit: values between two steps may be rounded either way, and either of two nearly equal scores may be the larger.
    A node that differs is also accepted if double precision shows that the torch graph is right, see
    :func:`.exact.explanation`: ONNX Runtime's sigmoid, for example, is accurate only to an absolute 1e-8, which exceeds
    the values in its tail. Tensors computed from such a tensor have no limit either. A network that amplifies rounding
    by more than 5 % is computed in double precision; the torch graph has to be as near to that as ONNX Runtime is.

    Parameters
    ----------
    model
        The model.
    module
        Result of :func:`onnxinfo.convert` for the outputs ``tensors``.
    feeds_batches
        Arrays by graph input name, batch by batch.
    tensors
        Names of the tensors to compare.

    Returns
    -------
    Verification
        The largest difference per tensor.

    Raises
    ------
    VerificationError
        A tensor differs, or the torch graph fails; the message names the first such tensor in graph order, its
        operator, the size of the difference, and the node that causes it.
    ModelError
        ONNX Runtime rejects the model.
    InputError
        ONNX Runtime rejects the feeds.
    """
    exposed = expose_only(model, tensors)
    graph = Tensors(exposed.proto)
    session = Session(exposed)
    worst: dict[str, Difference] = {}
    excused: dict[str, str] = {}
    for feeds in feeds_batches:
        expected = session.run(feeds)
        actual = _run(module, [feeds[name] for name in session.inputs])
        for name, value in zip(tensors, actual, strict=True):
            found = graph.difference(name, expected[name], value)
            if name not in worst or not found.relative <= worst[name].relative:
                worst[name] = found
        wrong = [difference for difference in graph.sorted(worst.values()) if not difference.agrees]
        if wrong:
            excused |= _judge(exposed, module, feeds, wrong, graph, session.witness)
    return Verification(graph.sorted(worst.values()), session.witness, excused)


def bisect(model: ModelSource, feeds: Mapping[str, Array], device: torch.device | str = "cpu") -> Difference | None:
    """Find the first node that gives a different result in torch than in ONNX Runtime for the same operands.

    ONNX Runtime computes every tensor of the main graph; each node of the torch graph gets these as operands, so that a
    difference is its own and not inherited.

    Parameters
    ----------
    model
        The model.
    feeds
        Arrays by graph input name.
    device
        Device of the torch graph.

    Returns
    -------
    Difference or None
        Difference of the node's first output, in graph order; None if all agree.

    Raises
    ------
    VerificationError
        The torch graph fails.
    ModelError, InputError, ConversionError
        The model cannot be run or converted.
    """
    comparison = _compare_nodes(load(model), feeds, device)
    return next((difference for difference in comparison.differences if not difference.agrees), None)


def _compare_nodes(model: Model, feeds: Mapping[str, Array], device: torch.device | str) -> _Comparison:
    graph = Tensors(model.proto)
    exposed = expose_only(model, graph.comparable)
    session = Session(exposed)
    comparison = _Comparison(convert(exposed).to(device), graph, session.run(feeds), model.proto, feeds)
    comparison.run_on([feeds[name] for name in session.inputs])
    return comparison


def _judge(
    model: Model,
    module: nn.Module,
    feeds: Mapping[str, Array],
    wrong: list[Difference],
    graph: Tensors,
    witness: Witness,
) -> dict[str, str]:
    """Raise unless the differences are rounding that the network amplifies; return why single nodes differ."""
    device = _device(module)
    comparison = _compare_nodes(model, feeds, device)
    cause = next((difference for difference in comparison.differences if not difference.agrees), None)
    first = f"the torch graph differs from {witness}: {wrong[0]}"
    if cause is not None:
        node = f"node {quoted(cause.node)}" if cause.node else f"the node of {quoted(cause.tensor)}"
        raise VerificationError(f"{first}; the first node that differs is {node} ({cause.op}), by {cause.relative:.2g}")
    unlimited = graph.stepped.union(*(graph.flow.influenced(name) for name in comparison.excused))
    amplified = [d.tensor for d in wrong if d.relative > _AMPLIFIED and d.tensor not in unlimited]
    if amplified and not _as_near(model, module, feeds, amplified):
        raise VerificationError(f"{first}; every node by itself agrees, so the model amplifies rounding errors")
    arrays = [feeds[name] for name in graph.flow.inputs]
    outputs = [output.name for output in model.proto.graph.output]
    for name, given, own in zip(outputs, _run(module, arrays), _run(convert(model).to(device), arrays), strict=True):
        if not graph.difference(name, to_numpy(own, graph.types[name]), given).agrees:
            raise VerificationError(f"{first}; the torch graph is not what this model converts to, convert it again")
    return comparison.excused


def _as_near(model: Model, module: nn.Module, feeds: Mapping[str, Array], tensors: Collection[str]) -> bool:
    """Whether tensors are as near to what the model gives in double precision as ONNX Runtime's are."""
    names = [output.name for output in model.proto.graph.output]
    session = Session(model)
    try:
        wide = convert(widened(model, FLOATS, onnx.TensorProto.DOUBLE)).to(_device(module))
        arrays = [feeds[name] for name in session.inputs]
        exact = _run(wide, [array.astype(np.float64) if array.dtype.kind == "f" else array for array in arrays])
        ours, theirs = _run(module, arrays), session.run(feeds)
    except (ConversionError, ModelError, VerificationError) as error:
        logger.info("the model does not run in double precision: %s", error)
        return False
    return all(
        _error(ours[i], exact[i]) <= _NEAR * _error(torch.as_tensor(theirs[name]), exact[i])
        for i, name in enumerate(names)
        if name in tensors
    )


def _error(value: Tensor, exact: Tensor) -> float:
    return float((value.double().cpu() - exact.double().cpu()).abs().max())


class _Comparison(fx.Interpreter):
    """Runs a torch graph, each node on the operands computed by ONNX Runtime, and compares the results."""

    def __init__(
        self,
        module: fx.GraphModule,
        graph: Tensors,
        expected: Mapping[str, Array],
        model: onnx.ModelProto,
        feeds: Mapping[str, Array],
    ) -> None:
        super().__init__(module)
        output = next(node for node in reversed(module.graph.nodes) if node.op == "output")
        names = list(expected)
        self.names: dict[fx.Node, list[str]] = {}
        for node, name in zip(output.args[0], names, strict=True):
            self.names.setdefault(node, []).append(name)
            if node.op == "call_function" and node.target is materialized:
                # Other nodes use the value before it is made a tensor.
                self.names.setdefault(node.args[0], []).append(name)
        self._compared: set[str] = set()
        self.described = graph
        self.expected = expected
        self.device = _device(module)
        #: Reasons why tensors that differ by rounding do so, by name.
        self.excused: dict[str, str] = {}
        self._found: list[Difference] = []
        self._model, self._values = model, {**feeds, **expected}

    @property
    def differences(self) -> list[Difference]:
        """Differences of all tensors that are not excused, in graph order."""
        return self.described.sorted(self._found)

    def run_on(self, arrays: Sequence[Array]) -> None:
        """Run the graph on arrays."""
        with _failing():
            self.run(*(to_torch(array, self.device) for array in arrays))

    def run_node(self, n: fx.Node) -> Any:
        """Run a node, compare its result, and pass on the expected one."""
        result = super().run_node(n)
        for name in self.names.get(n, ()):
            if name in self._compared or is_host(result):
                continue
            self._compared.add(name)
            self._compare(name, result)
            result = to_torch(self.expected[name], self.device)
        return result

    def _compare(self, name: str, result: Any) -> None:
        expected = self.expected[name]
        difference = self.described.difference(name, expected, result, depth=0)
        if not difference.agrees and math.isfinite(difference.absolute):
            ours = to_numpy(result, self.described.types[name])
            why = explanation(Evidence(self._model, name, self._values, expected, ours, difference.tolerance))
            if why is not None:
                logger.info("%s: %s", difference, why)
                self.excused[name] = why
                return
        self._found.append(difference)


def _device(module: nn.Module) -> torch.device:
    return next((tensor.device for tensor in (*module.parameters(), *module.buffers())), torch.device("cpu"))


def _run(module: nn.Module, arrays: Sequence[Array]) -> Sequence[Any]:
    """Outputs of a torch graph for arrays, which are moved to the device of its weights."""
    device = _device(module)
    with _failing():
        values: Sequence[Any] = module(*(to_torch(array, device) for array in arrays))
    return values


@contextmanager
def _failing() -> Iterator[None]:
    try:
        with torch.no_grad():
            yield
    except Exception as error:
        # fx appends the module's name and the traced code on further lines.
        reason = printable(str(error).strip().split("\n")[0])[:300]
        raise VerificationError(f"the converted torch graph does not run: {reason}") from error
