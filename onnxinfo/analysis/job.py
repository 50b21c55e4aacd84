"""Network and samples of an analysis, verified and ready on their device."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx

from ..graph.layers import Layer
from ..graph.model import Model
from ..graph.surgery import extract
from ..metrics.feeds import Feeds, graph_inputs
from ..metrics.network import Network
from ..metrics.noise import Tie, generator, make_tie
from ..metrics.probe import Feature
from ..torch_graph.convert import Conversion
from ..torch_graph.ends import with_wide_ends
from ..torch_graph.operators.table import tensor_from
from ..torch_graph.operators.values import to_torch
from ..torch_graph.reach import convert_reached
from ..torch_graph.verify import verify
from .settings import Settings

if TYPE_CHECKING:
    from .decoders import Decoders, Ready

logger = logging.getLogger(__name__)

#: Samples the torch graph is verified on.
VERIFIED_SAMPLES = 2


@dataclass
class Job:
    """Everything the computation needs.

    Attributes
    ----------
    feeds
        Model and samples.
    layers
        The analyzed layers, in order.
    network
        Their features; settled on the fastest way to evaluate many inputs at once.
    context
        Graph inputs that it takes besides the perturbed tensor.
    unit
        Standardised unit, broadcastable to one sample.
    tie
        Units that share a noise scale.
    foreground
        Pixels of the samples' objects, (samples, y, x) of 0 and 1, if they are known.
    chunk
        Most inputs evaluated at once.
    memory
        Budget for activations in bytes, None for the usual.
    decoders
        Of the layers, for the reconstruction uncertainty.
    shape
        Shape of one sample of the perturbed tensor.
    """

    feeds: Feeds
    layers: tuple[Layer, ...]
    network: Network
    context: tuple[str, ...]
    unit: Tensor
    tie: Tie
    settings: Settings
    device: torch.device
    foreground: npt.NDArray[np.uint8] | None = None
    chunk: int = 1
    memory: int | None = None
    decoders: Decoders | Ready | None = None
    shape: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.shape = tuple(self.feeds.perturbed([0]).shape[1:])

    def inputs(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The perturbed tensor of some samples, (S, *shape), and their rows, (S,)."""
        x = on_device(self.feeds.perturbed(indices), self.device)
        return x, torch.as_tensor(list(indices), device=self.device)

    def stream(self, *key: object) -> torch.Generator:
        """A random stream of the run's seed that depends on the key alone."""
        return generator(self.device, self.settings.seed, *key)

    def feature(self, layer: int, x: Tensor, rows: Tensor, first: int) -> Feature:
        """One layer's feature around a block of samples, the first of which has the given number."""
        # The noise is the same for all layers: what differs between them is then not the draw.
        noise, probes = self.stream("noise", first), self.stream("probes", first)
        return Feature(self.network.part([layer]), x, self.unit, rows, noise, probes, self.chunk)


def on_device(array: npt.NDArray[Any], device: torch.device) -> Tensor:
    """Copy an array to a tensor.

    Where it begins in memory, and the strides of axes of one element, are then torch's own: with others the same
    products may end in other digits.
    """
    copied: Tensor = to_torch(array, device).clone(memory_format=torch.contiguous_format)
    return copied


def prepare(feeds: Feeds, layers: Sequence[Layer], settings: Settings, device: torch.device) -> Job:
    """Convert the layers, compare them with ONNX Runtime on some samples, and settle how to evaluate many at once.

    Raises
    ------
    ConversionError, VerificationError
        The torch graph cannot be made, or computes something else.
    """
    names = [layer.name for layer in layers]
    module = convert_reached(feeds.model, feeds.perturb, names)
    _log_conversions(module.meta["conversions"])
    graph = extract(feeds.model, [feeds.perturb], names)
    context = [i.name for i in graph_inputs(graph) if i.name != feeds.perturb]
    _verify(feeds, graph, context, module)
    job = make_job(feeds, layers, settings, module, context, torch.from_numpy(feeds.unit()), device)
    mode = job.network.settle_batching(*job.inputs([0, len(feeds) - 1]), job.unit)
    logger.info("device %s; many inputs at once: %s", device, mode)
    return job


def make_job(
    feeds: Feeds,
    layers: Sequence[Layer],
    settings: Settings,
    module: fx.GraphModule,
    context: Sequence[str],
    unit: Tensor,
    device: torch.device,
) -> Job:
    """Put a converted graph, whose further inputs are the named graph inputs, and their samples on a device."""
    module = with_wide_ends(module, tensor_from(np.empty(0, feeds.declared)).dtype).to(device)
    network = Network(module, context_tensors(feeds, context, device), feeds.batch_size)
    tie = make_tie(settings.tie, feeds.perturbed([0]).shape[1:], feeds.axes()).to(device)
    return Job(feeds, tuple(layers), network, tuple(context), unit.to(device), tie, settings, device)


def context_tensors(feeds: Feeds, names: Sequence[str], device: torch.device) -> list[Tensor]:
    """The named graph inputs of all samples, each (samples, ...)."""
    return [to_torch(array, device) for array in feeds.given(names, range(len(feeds))).values()]


def _verify(feeds: Feeds, graph: Model, context: Sequence[str], module: fx.GraphModule) -> None:
    names = [info.name for info in graph.proto.graph.output]
    some = list(range(min(VERIFIED_SAMPLES, len(feeds))))
    count = feeds.batch_size or len(some)
    shown = (some * count)[:count]
    given = feeds.given(context, shown)
    given[feeds.perturb] = feeds.perturbed(shown).astype(feeds.declared)
    verification = verify(graph, module, [given], names)
    logger.info("compared %d tensors with ONNX Runtime; largest: %s", len(names), verification.largest)


def _log_conversions(conversions: Sequence[Conversion]) -> None:
    servers = Counter(conversion.server for conversion in conversions)
    served = ", ".join(f"{count} by {server}" for server, count in servers.most_common())
    logger.info("converted %d nodes: %s", len(conversions), served or "none")
    for conversion in conversions:
        logger.debug("%s (%s): %s %s", conversion.node, conversion.operator, conversion.server, conversion.reason)
