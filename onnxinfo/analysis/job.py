"""Network and samples of an analysis, verified and loaded on the device."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx

from ..archive.sanity import SanityCard
from ..config import Config, SidConfig
from ..errors import ConversionError, ModelError, UsageError
from ..graph.finite import check_weights
from ..graph.layers import Layer
from ..graph.model import Model
from ..graph.quantization import rounds
from ..graph.saturation import Saturating, saturating
from ..graph.surgery import extract
from ..graph.text_inputs import tensors_of_text
from ..graph.thresholds import thresholds_of
from ..metrics.input_provider import InputProvider, graph_inputs, placed
from ..metrics.intervals import Intervals
from ..metrics.journal import Journal
from ..metrics.network import Network
from ..metrics.noise import Tie, generator, make_joint_tie
from ..metrics.noise_precision import resolved
from ..metrics.probe import LayerProbe
from ..metrics.radial import Integrator, Radial
from ..torch_graph.convert import Conversion
from ..torch_graph.element_types import tensor_from
from ..torch_graph.ends import with_samples_first, with_wide_ends
from ..torch_graph.operators.values import to_torch
from ..torch_graph.reach import convert_reached, describe_obstacle, ends_of_gradient, listed_layers, obstacles
from ..torch_graph.specialize import Shapes
from ..torch_graph.verify import verify

logger = logging.getLogger(__name__)

#: Number of samples that the torch graph is verified on.
VERIFIED_SAMPLES = 2


@dataclass
class Job:
    """Everything the computation needs.

    Attributes
    ----------
    provider
        Model and samples.
    layers
        Analyzed layers, in order.
    network
        Network that computes the layers' features, with its batching strategy set.
    conditioning_inputs
        Graph inputs of the network other than the analysis input.
    unit
        Standardized unit, broadcastable to one sample.
    tie
        Groups of units that share a noise scale.
    settings
        Settings of constraint, noise and solver.
    foreground
        Pixels of the samples' objects, (samples, y, x) of 0 and 1, if known.
    units
        Counted units, (samples, n) of bool on the CPU; None: all.
    batch_size
        Maximum number of inputs evaluated at once.
    memory
        Memory for activations in bytes; None: the default.
    witness
        Reference that the torch graph was compared with; empty in a worker, which compares nothing.
    config
        All settings; a worker has the defaults.
    source, output
        Samples as given by the user, and the archive; unset in a worker.
    evaluated
        Positions of layers that ONNX Runtime evaluates and that have no gradient.
    journal
        Records the unfinished work of the current task.
    card
        What the model receives and makes of it; None in a worker.
    shape
        Shape of one sample of the analysis input.
    """

    provider: InputProvider
    layers: tuple[Layer, ...]
    network: Network
    conditioning_inputs: tuple[str, ...]
    unit: Tensor
    tie: Tie
    settings: SidConfig
    device: torch.device
    foreground: npt.NDArray[np.uint8] | None = None
    units: Tensor | None = None
    batch_size: int = 1
    memory: int | None = None
    witness: str = ""
    config: Config = field(default_factory=Config)
    source: Any = None
    output: Path = Path()
    evaluated: frozenset[int] = frozenset()
    journal: Journal = field(default_factory=Journal)
    card: SanityCard | None = None
    shape: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.shape = tuple(self.provider.perturbed([0]).shape[1:])

    @cached_property
    def saturating(self) -> tuple[Saturating | None, ...]:
        """How each layer saturates; None for layers that do not."""
        flow = self.provider.model.flow
        return tuple(saturating(flow, layer.name) for layer in self.layers)

    @cached_property
    def precision(self) -> str:
        """Precision of the noise; see :func:`.noise_precision.resolved`. It is measured, hence set for a whole run."""
        return resolved(self.settings.noise_precision, self.device)

    def inputs(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Analysis input of some samples, (S, *shape), and their rows, (S,)."""
        x = on_device(self.provider.perturbed(indices), self.device)
        return x, torch.as_tensor(list(indices), device=self.device)

    def counted(self, indices: Sequence[int]) -> Tensor | None:
        """Counted units of some samples, (S, n) bool; None: all."""
        return None if self.units is None else self.units[list(indices)].to(self.device)

    def settings_of(self, layer: int) -> SidConfig:
        """Constraint, noise and solver of a layer."""
        return self.settings.without_gradients() if layer in self.evaluated else self.settings

    def stream(self, *key: object) -> torch.Generator:
        """Random stream that depends only on the run's seed and the key."""
        return generator(self.device, self.settings.seed, *key)

    def feature(self, layer: int, x: Tensor, rows: Tensor, first: int) -> LayerProbe:
        """Probe of one layer at a block of samples; ``first`` is the position of the first sample."""
        # All layers get the same noise, so that differences between them are not due to the draw.
        noise, probes = self.stream("noise", first), self.stream("probes", first)
        network = self.network.part([layer])
        return LayerProbe(network, x, self.unit, rows, noise, probes, self.batch_size, self.journal, self.precision)

    def integrator(self, layer: int) -> Callable[[LayerProbe, Tie, Tensor], Integrator]:
        """Return a factory of the integrator for a layer that is only evaluated.

        It is called with the layer's probe, the groups of units and the counted units, (n,) bool. Trees and comparisons
        with constants are integrated exactly, without shared noise scales.
        """
        name = self.layers[layer].name
        if self.tie.groups == self.tie.units:
            found = thresholds_of(self.provider.model, self.provider.input_tensor, name)
            if found is not None:
                thresholds = [torch.from_numpy(each).to(self.device) for each in found]
                return lambda feature, _, counted: Intervals(feature, thresholds, counted)
        return Radial


def on_device(array: npt.NDArray[Any], device: torch.device) -> Tensor:
    """Copy an array to a tensor.

    Torch's own allocation fixes the alignment and the strides of axes of size one: others may change the last digits of
    the same products.
    """
    copied: Tensor = to_torch(array, device).clone(memory_format=torch.contiguous_format)
    return copied


def prepare(provider: InputProvider, layers: Sequence[Layer], settings: SidConfig, device: torch.device) -> Job:
    """Convert the layers, compare them with ONNX Runtime on some samples, and select a batching strategy.

    Raises
    ------
    ConversionError, VerificationError
        The conversion fails, computes other values, or no gradient reaches a layer.
    ModelError
        A weight is not finite.
    """
    return prepare_reached(provider, layers, settings, device, named=[layer.name for layer in layers])


def prepare_reached(
    provider: InputProvider,
    layers: Sequence[Layer],
    settings: SidConfig,
    device: torch.device,
    named: Collection[str] = (),
) -> Job:
    """Prepare a job like :func:`prepare`, leaving out layers that no gradient reaches.

    Parameters
    ----------
    provider, layers, settings, device
        As for :func:`prepare`.
    named
        Names of layers that must not be left out.

    Raises
    ------
    ConversionError, VerificationError, ModelError
        As in :func:`prepare`, or no gradient reaches a named layer, or any layer.
    """
    names = [layer.name for layer in layers]
    try:
        converted = convert_layers(provider, names)
        ends = {names[position]: node for position, node in converted.ends.items()}
    except ConversionError:
        ends = obstacles(provider.model, provider.tensors, names)
        # The error of the conversion names the layers that could be chosen instead.
        if not ends or not ends.keys().isdisjoint(named):
            raise
    if not ends:
        return settled(provider, layers, settings, converted, device)
    rest = [layer for layer in layers if layer.name not in ends]
    if kept := [name for name in ends if name in named]:
        reached = listed_layers([layer.name for layer in rest])
        raise ConversionError(f"{describe_obstacle(kept[0], ends[kept[0]], provider.input_tensor)}; {reached}")
    remarks = [describe_obstacle(name, node, provider.input_tensor) for name, node in ends.items()]
    if not rest:
        raise ConversionError(f"{remarks[0]}, nor does one reach any other chosen layer; name layers=... before it")
    for remark in remarks:
        logger.warning("left out: %s", remark)
    return prepare_reached(provider, rest, settings, device, named)


@dataclass(frozen=True)
class Converted:
    """A torch graph, its conditioning inputs, the outputs that no gradient reaches, and the verification reference."""

    module: fx.GraphModule
    conditioning_inputs: list[str]
    ends: dict[int, Conversion]
    witness: str


def convert_layers(provider: InputProvider, names: Sequence[str]) -> Converted:
    """Convert layers, and compare them with ONNX Runtime on some samples.

    Raises
    ------
    ConversionError, VerificationError
        The conversion fails or computes other values.
    ModelError
        A weight is not finite.
    """
    module = specialized(provider, names)
    _log_conversions(module.meta["conversions"])
    part = _part(provider, names)
    check_weights(part)
    conditioning_inputs = _others(part, provider.input_tensor)
    given = _some(provider, conditioning_inputs)
    verification = verify(part, module, [given], names)
    logger.info("compared %d tensors with %s; largest: %s", len(names), verification.witness, verification.largest)
    inputs = [to_torch(given[name]) for name in (provider.input_tensor, *conditioning_inputs)]
    ends = ends_of_gradient(module, inputs)
    if provider.parts:
        # A layer with a gradient by one of several tensors may have none by another.
        blocked = obstacles(provider.model, provider.tensors, names)
        ends |= {i: blocked[name] for i, name in enumerate(names) if name in blocked}
    return Converted(module, conditioning_inputs, ends, verification.witness)


def specialized(provider: InputProvider, names: Sequence[str]) -> fx.GraphModule:
    """Convert layers for the shapes of the samples, and any number of them."""
    inputs = [value.name for value in graph_inputs(_part(provider, names))]
    return for_shapes(
        provider, inputs, lambda shapes: convert_reached(provider.model, provider.input_tensor, names, shapes)
    )


def for_shapes(
    provider: InputProvider, inputs: Sequence[str], convert: Callable[[Shapes], fx.GraphModule]
) -> fx.GraphModule:
    """Convert for the shapes of the samples; for any shapes, if what the model declares about them is wrong.

    Parameters
    ----------
    provider
        Model and samples.
    inputs
        Names of the graph's inputs.
    convert
        Takes the inputs' shapes, with a free batch size.
    """
    try:
        return convert(provider.shapes(inputs))
    except (UsageError, ModelError) as error:
        # ONNX Runtime compares ranks and fixed sizes of graph inputs, but neither symbolic nor inner ones.
        module = convert({})
        logger.warning("converted for inputs of any shape, because the model contradicts the samples: %s", error)
        return module


def _part(provider: InputProvider, names: Sequence[str]) -> Model:
    """Part of the model between the analysis input, or tensors computed from text, and layers."""
    held = tensors_of_text(provider.model, provider.input_tensor, names)
    return extract(provider.model, [provider.input_tensor, *held], names)


def conditioning_inputs_of(model: Model, input_tensor: str, names: Sequence[str]) -> list[str]:
    """Graph inputs other than the analysis input that layers depend on, in the order of a converted graph's inputs."""
    return _others(extract(model, [input_tensor], names), input_tensor)


def _others(part: Model, input_tensor: str) -> list[str]:
    return [i.name for i in graph_inputs(part) if i.name != input_tensor]


def _some(provider: InputProvider, conditioning_inputs: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
    """Samples of the graph's inputs for verification, repeated to a fixed batch size."""
    some = list(range(min(VERIFIED_SAMPLES, len(provider))))
    count = provider.fixed_batch or len(some)
    shown = (some * count)[:count]
    with np.errstate(over="ignore"):  # as in InputProvider.given
        perturbed = provider.perturbed(shown).astype(provider.declared)
    perturbed = placed(perturbed, provider.axis)
    return {provider.input_tensor: perturbed, **provider.given(conditioning_inputs, shown)}


def settled(
    provider: InputProvider, layers: Sequence[Layer], settings: SidConfig, converted: Converted, device: torch.device
) -> Job:
    """Move a converted graph to a device, and select its batching strategy."""
    unit = torch.from_numpy(provider.unit())
    job = make_job(provider, layers, settings, converted.module, converted.conditioning_inputs, unit, device)
    job.witness = converted.witness
    mode = job.network.select_batching(
        *job.inputs([0, len(provider) - 1]), job.unit, rounded=rounds(provider.model.proto)
    )
    logger.info("device %s; batching strategy: %s", device, mode)
    return job


def make_job(
    provider: InputProvider,
    layers: Sequence[Layer],
    settings: SidConfig,
    module: fx.GraphModule,
    conditioning_inputs: Sequence[str],
    unit: Tensor,
    device: torch.device,
) -> Job:
    """Create a job from a converted graph, moving the graph and its conditioning inputs (named) to a device."""
    module = with_wide_ends(module, tensor_from(np.empty(0, provider.declared)).dtype).to(device)
    names = (provider.input_tensor, *conditioning_inputs)
    module = with_samples_first(module, [provider.axis_of(name) for name in names])
    network = Network(module, conditioning_tensors(provider, conditioning_inputs, device), provider.fixed_batch)
    tie = make_joint_tie(settings.share_sigma, provider.described_parts()).to(device)
    return Job(provider, tuple(layers), network, tuple(conditioning_inputs), unit.to(device), tie, settings, device)


def conditioning_tensors(provider: InputProvider, names: Sequence[str], device: torch.device) -> list[Tensor]:
    """Named graph inputs of all samples, each (samples, ...)."""
    return [to_torch(array, device) for array in provider.batch(names, range(len(provider))).values()]


def _log_conversions(conversions: Sequence[Conversion]) -> None:
    servers = Counter(conversion.server for conversion in conversions)
    served = ", ".join(f"{count} by {server}" for server, count in servers.most_common())
    logger.info("converted %d nodes: %s", len(conversions), served or "none")
    for conversion in conversions:
        logger.debug("%s (%s): %s %s", conversion.node, conversion.operator, conversion.server, conversion.reason)
