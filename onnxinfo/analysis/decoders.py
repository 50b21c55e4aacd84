"""The decoders of an analysis: found in a folder, or trained and put there."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Unpack

from ..config import (
    Config,
    DecoderConfig,
    ExecutionConfig,
    InputConfig,
    RuConfig,
    SelectionConfig,
    SidConfig,
    TrainingOptions,
    configure,
    entries,
    recipe,
)
from ..errors import UsageError
from ..graph.layers import list_layers, perturbed_tensor, select_layers
from ..graph.model import ModelSource
from ..graph.optionals import without_optional_inputs
from ..inputs.foreground import crops_of, open_foreground
from ..metrics.budget import device_of
from ..metrics.decoder import Plan
from ..metrics.decoder_store import DecoderKey, StoredDecoder, claim_decoder, list_decoders, load_decoder, save_decoder
from ..metrics.decoder_training import DecoderSettings, Material, Trained, demand_enough, train_decoders
from ..metrics.feeds import Feeds, open_samples_of
from ..metrics.network import Network
from ..outputs import claim_folder
from ..text import no_such
from ..torch_graph.precision import to_float32
from .job import Job, context_tensors, prepare, prepare_reached
from .settings import Progress, Report

logger = logging.getLogger(__name__)


@dataclass
class Decoders:
    """Where decoders are kept, and how they are made where one is missing.

    Attributes
    ----------
    folder
        Holds them; it is created.
    feeds
        Training samples of the model that is analyzed.
    settings
        How they are trained.
    """

    folder: Path
    feeds: Feeds
    settings: DecoderSettings

    @property
    def recipe(self) -> Mapping[str, object]:
        """What determines the decoders, besides model and layers."""
        return {
            "ru_decoder": asdict(self.settings),
            "ru_decoder_samples_sha256": self.feeds.samples.digest(),
        }

    def claim(self, job: Job) -> None:
        """Refuse, before any training, what cannot be trained or kept.

        Raises
        ------
        InputError
            There are too few samples.
        OnnxinfoError
            A decoder that is missing would replace another file.
        """
        if self._missing(job):
            demand_enough(len(self.feeds))

    def of(self, job: Job, report: Report = lambda _: None) -> list[Trained]:
        """Decoders of all layers of a job, in order.

        Raises
        ------
        InputError
            They cannot be read, written or trained.
        """
        keys, missing = self.keys(job), self._missing(job)
        logger.info("decoders: %d in %s, %d to train", len(keys) - len(missing), self.folder, len(missing))
        if missing:
            trained = self._train(job, missing, [keys[i].plan.feature for i in missing], report)
            for i, each in zip(missing, trained, strict=True):
                save_decoder(self.folder, keys[i], each)
        # Read back, so that a first run computes with just what a later one finds.
        found = (load_decoder(self.folder, key) for key in keys)
        return [trained for trained in found if trained is not None]

    def _missing(self, job: Job) -> list[int]:
        """Positions of the layers whose decoders have to be trained, and can be kept."""
        keys = self.keys(job)
        missing = [i for i, key in enumerate(keys) if load_decoder(self.folder, key) is None]
        if self.folder.is_dir():
            for i in missing:
                claim_decoder(self.folder, keys[i])
        return missing

    def keys(self, job: Job) -> list[DecoderKey]:
        """What decoders of a job's layers are known by."""
        digest = self.feeds.samples.digest()
        shapes = job.network.shapes(*job.inputs([0]))
        return [
            DecoderKey(
                job.feeds.model.sha256,
                layer.name,
                job.feeds.perturb,
                digest,
                self.settings,
                Plan(shape, job.shape, job.feeds.axes(), self.settings.width),
            )
            for layer, shape in zip(job.layers, shapes, strict=True)
        ]

    def _train(
        self, job: Job, layers: Sequence[int], shapes: Sequence[tuple[int, ...]], report: Report
    ) -> list[Trained]:
        names = ", ".join(job.layers[i].name for i in layers)
        network = _with_context(job.network, self.feeds, job).part(layers)

        def tell(step: int, steps: int, loss: float) -> None:
            report(Progress("decoder", step, steps, names, loss))

        return train_decoders(Material(network, self.feeds, shapes, job.device), self.settings, tell)


def _with_context(network: Network, feeds: Feeds, job: Job) -> Network:
    """The network with the training samples' other inputs."""
    if not network.context:
        return network
    return network.with_context(context_tensors(feeds, job.context, job.device))


def train_decoder(
    model: ModelSource,
    inputs: Any,
    folder: str | os.PathLike[str],
    *,
    layers: Sequence[str] = (),
    exclude: Sequence[str] = (),
    input: InputConfig = InputConfig(),
    decoder: DecoderConfig = DecoderConfig(),
    seed: int = SidConfig.seed,
    device: str = ExecutionConfig.device,
    progress: Report | None = None,
    **flat: Unpack[TrainingOptions],
) -> list[StoredDecoder]:
    """Train decoders that reconstruct a model's input from its layers, and keep them for the metric ``ru``.

    Parameters
    ----------
    model, layers, exclude
        As for :func:`onnxinfo.analyze`.
    inputs
        Training samples, see :func:`onnxinfo.open_samples`; a share is held out for validation.
    folder
        Where decoders are kept. What is there already is not trained again.
    input, decoder
        How samples are read, and how decoders are trained; see :mod:`onnxinfo.config`.
    seed
        Seed of split, initial weights and order of samples.
    device
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    progress
        Called with a :class:`~onnxinfo.Progress` as work is done; its value is the loss over the samples' variance.
    **flat
        Single settings, instead of an object or on top of one: ``limit``, ``preset`` and the other fields of `input`;
        ``width``, ``steps``, ``batch``, ``learning_rate`` and ``flips`` of `decoder`.

    Returns
    -------
    list of StoredDecoder
        One for each layer.

    Raises
    ------
    UsageError, ModelError, InputError, ConversionError, VerificationError
        As for :func:`onnxinfo.analyze`.
    ArchiveError
        The folder cannot be made or written.
    """
    full = {each.name: each.setting.flat for each in entries("ru.decoder") if each.setting.recipe}
    known = [*(each.name for each in entries("input")), *full]
    if unknown := [name for name in flat if name not in known]:
        raise UsageError(no_such("option", unknown[0], known, "the training of decoders"))
    named = {full.get(name, name): value for name, value in flat.items()}
    base = Config(
        SelectionConfig(layers, exclude),
        input,
        SidConfig(seed=seed),
        RuConfig(decoder=decoder),
        ExecutionConfig(device=device),
    )
    config = configure(base, named, "input", "ru.decoder")
    claim_folder(folder)
    target = device_of(device)
    loaded = without_optional_inputs(model if config.input.keep_precision else to_float32(model))
    perturbed = perturbed_tensor(loaded, config.input.perturb)
    chosen = select_layers(list_layers(loaded, perturbed), layers, exclude)
    samples = open_samples_of(loaded, inputs, limit=config.input.limit, **config.input.reading())
    feeds = Feeds(loaded, samples, perturbed)
    job = (prepare if layers else prepare_reached)(feeds, chosen, config.sid, target)
    report = progress or (lambda _: None)
    decoders = Decoders(Path(folder), job.feeds, decoder_settings(config.ru.decoder, seed))
    decoders.of(job, report)
    wanted = [key.stem for key in decoders.keys(job)]
    by_stem = {stored.path.stem: stored for stored in list_decoders(folder)}
    return [by_stem[stem] for stem in wanted]


def decoder_settings(decoder: DecoderConfig, seed: int) -> DecoderSettings:
    """Return how decoders are trained: what determines them, besides model, layer and samples."""
    return DecoderSettings(**recipe(decoder), seed=seed)


def decoder_folder(config: Config, output: Path) -> Path:
    """Return where decoders are kept: in the folder that is named, else beside the archive."""
    named = config.ru.decoder.folder
    return output.with_suffix(".decoders") if named is None else Path(named)


def training_feeds(job: Job) -> Feeds:
    """Open the samples that decoders are trained on: those analyzed, unless others or another number are named."""
    decoder, feeds, chosen = job.config.ru.decoder, job.feeds, job.config.input
    if decoder.inputs is None and decoder.limit is None:
        return feeds
    crops: dict[str, Any] = {}
    if decoder.inputs is None and chosen.foreground is not None:
        crops = crops_of(open_foreground(chosen.foreground), chosen.crop_to_box)
    spec = job.source if decoder.inputs is None else decoder.inputs
    samples = open_samples_of(feeds.model, spec, limit=decoder.limit, **chosen.reading(), **crops)
    return Feeds(feeds.model, samples, feeds.perturb)
