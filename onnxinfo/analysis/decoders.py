"""The decoders of an analysis: found in a folder, or trained and put there."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..graph.layers import list_layers, perturbed_tensor, select_layers
from ..graph.model import ModelSource
from ..graph.optionals import without_optional_inputs
from ..inputs.unit_mask import digest_of, find_unit_mask
from ..metrics.budget import device_of
from ..metrics.decoder import Plan
from ..metrics.decoder_store import DecoderKey, StoredDecoder, claim_decoder, list_decoders, load_decoder, save_decoder
from ..metrics.decoder_training import DecoderSettings, Material, Trained, train_decoders
from ..metrics.feeds import Feeds, open_samples_of
from ..metrics.network import Network
from ..outputs import claim_folder
from ..torch_graph.precision import to_float32
from .job import Job, context_tensors, prepare, prepare_reached
from .settings import Progress, Report, Settings

logger = logging.getLogger(__name__)

CENTERS = ("input", "reconstruction")


@dataclass(frozen=True)
class Ready:
    """Decoders as they were found or trained.

    Attributes
    ----------
    trained
        Of all layers, in order.
    center, recipe
        As of :class:`Decoders`.
    """

    trained: list[Trained]
    center: str
    recipe: Mapping[str, object]

    def of(self, job: Job) -> list[Trained]:
        """Decoders of all layers of the job that they were made for."""
        return self.trained


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
    center
        What errors are measured from, ``input`` or ``reconstruction``.
    report
        Called while one is trained.
    """

    folder: Path
    feeds: Feeds
    settings: DecoderSettings
    center: str = "input"
    report: Report = field(default=lambda _: None, repr=False)

    def __post_init__(self) -> None:
        if self.center not in CENTERS:
            raise UsageError(f"center '{self.center}' is unknown: use {' or '.join(CENTERS)}")

    @property
    def recipe(self) -> Mapping[str, object]:
        """What determines the decoders, besides model and layers."""
        return {
            "ru_center": self.center,
            "ru_decoder": asdict(self.settings),
            "ru_decoder_samples_sha256": self.feeds.samples.digest(),
        }

    def of(self, job: Job) -> list[Trained]:
        """Decoders of all layers of a job, in order.

        Raises
        ------
        InputError
            They cannot be read, written or trained.
        """
        keys = self.keys(job)
        found = {i: load_decoder(self.folder, key) for i, key in enumerate(keys)}
        missing = [i for i, trained in found.items() if trained is None]
        logger.info("decoders: %d in %s, %d to train", len(keys) - len(missing), self.folder, len(missing))
        if missing:
            if self.folder.is_dir():
                for i in missing:
                    claim_decoder(self.folder, keys[i])
            for i, trained in zip(
                missing, self._train(job, missing, [keys[i].plan.feature for i in missing]), strict=True
            ):
                save_decoder(self.folder, keys[i], trained)
                # Read back, so that a first run computes with just what a later one finds.
                found[i] = load_decoder(self.folder, keys[i])
        return [trained for trained in found.values() if trained is not None]

    def keys(self, job: Job) -> list[DecoderKey]:
        """What decoders of a job's layers are known by."""
        digest, counted = self.feeds.samples.digest(), self.feeds.counted
        shapes = job.network.shapes(*job.inputs([0]))
        return [
            DecoderKey(
                job.feeds.model.sha256,
                layer.name,
                job.feeds.perturb,
                digest,
                self.settings,
                Plan(shape, job.shape, job.feeds.axes(), self.settings.width),
                "" if counted is None else digest_of(counted),
            )
            for layer, shape in zip(job.layers, shapes, strict=True)
        ]

    def _train(self, job: Job, layers: Sequence[int], shapes: Sequence[tuple[int, ...]]) -> list[Trained]:
        names = ", ".join(job.layers[i].name for i in layers)
        network = _with_context(job.network, self.feeds, job).part(layers)

        def tell(step: int, steps: int, loss: float) -> None:
            self.report(Progress("decoder", step, steps, names, loss))

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
    perturb: str | None = None,
    limit: int | None = None,
    preset: str | None = None,
    scale: float | None = None,
    mean: Sequence[float] | float | None = None,
    std: Sequence[float] | float | None = None,
    size: int | tuple[int, int] | None = None,
    width: int = 32,
    steps: int = 400,
    batch: int = 32,
    learning_rate: float = 3e-3,
    flips: bool = False,
    seed: int = 0,
    device: str = "auto",
    progress: Report | None = None,
) -> list[StoredDecoder]:
    """Train decoders that reconstruct a model's input from its layers, and keep them for the metric ``ru``.

    Parameters
    ----------
    model, layers, exclude, perturb
        As for :func:`onnxinfo.analyze`.
    inputs, limit, preset, scale, mean, std, size
        Training samples, see :func:`onnxinfo.open_samples`; a share is held out for validation.
    folder
        Where decoders are kept. What is there already is not trained again.
    width, steps, batch, learning_rate, flips, seed
        See :class:`~onnxinfo.metrics.decoder_training.DecoderSettings`.
    device
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    progress
        Called with a :class:`~onnxinfo.Progress` as work is done; its value is the loss over the samples' variance.

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
    claim_folder(folder)
    settings = DecoderSettings(width, steps, batch, learning_rate, flips, seed)
    target = device_of(device)
    loaded = without_optional_inputs(to_float32(model))
    perturbed = perturbed_tensor(loaded, perturb)
    chosen = select_layers(list_layers(loaded, perturbed), layers, exclude)
    samples = open_samples_of(loaded, inputs, limit=limit, preset=preset, scale=scale, mean=mean, std=std, size=size)
    feeds = Feeds(loaded, samples, perturbed)
    mask = find_unit_mask(samples, feeds.perturbed([0]).shape[1:], feeds.axes())
    feeds.counted = None if mask is None else mask.units
    job = (prepare if layers else prepare_reached)(feeds, chosen, Settings(seed=seed), target)
    decoders = Decoders(Path(folder), job.feeds, settings, report=progress or (lambda _: None))
    decoders.of(job)
    wanted = [key.stem for key in decoders.keys(job)]
    by_stem = {stored.path.stem: stored for stored in list_decoders(folder)}
    return [by_stem[stem] for stem in wanted]
