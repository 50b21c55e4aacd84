"""The decoders of an analysis: loaded from a folder, or trained and saved there."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..config import (
    Config,
    DecoderConfig,
    recipe,
)
from ..errors import UsageError
from ..inputs.foreground import crops_of, open_foreground
from ..inputs.left_out import report_left_out
from ..inputs.unit_mask import digest_of
from ..metrics.decoder import Plan
from ..metrics.decoder_store import DecoderKey, claim_decoder, load_decoder, save_decoder
from ..metrics.decoder_training import DecoderSettings, Material, Trained, demand_enough, train_decoders
from ..metrics.input_provider import InputProvider, open_samples_of
from ..metrics.joint import joined_samples, open_provider
from ..metrics.network import Network
from ..text import quoted
from .job import Job, conditioning_tensors
from .masks import unit_mask_of
from .settings import Progress, Report

logger = logging.getLogger(__name__)


@dataclass
class DecoderCache:
    """Folder of decoders; missing ones are trained.

    Attributes
    ----------
    folder
        The folder; created if missing.
    provider
        Training samples of the analyzed model.
    settings
        Training settings.

    Raises
    ------
    UsageError
        Several inputs are perturbed, and one of them has positions: the decoder would not see its grid.
    """

    folder: Path
    provider: InputProvider
    settings: DecoderSettings

    def __post_init__(self) -> None:
        check_parts(self.provider)

    @property
    def recipe(self) -> Mapping[str, object]:
        """Settings that determine the decoders, besides model and layers."""
        return {
            "ru_decoder": asdict(self.settings),
            "ru_decoder_samples_sha256": self.provider.samples.digest(),
        }

    def claim(self, job: Job) -> None:
        """Check, before any training, that the decoders can be trained and saved.

        Raises
        ------
        InputError
            Too few samples.
        OnnxinfoError
            A missing decoder would replace another file.
        """
        if self._missing(job):
            demand_enough(len(self.provider), ", by decoder_inputs=... or a larger decoder_limit=...")

    def of(self, job: Job, report: Report = lambda _: None) -> list[Trained]:
        """Return decoders for all layers of a job, in order.

        Raises
        ------
        InputError
            Decoders cannot be read, written or trained.
        """
        keys, missing = self.keys(job), self._missing(job)
        logger.info("decoders: %d in %s, %d to train", len(keys) - len(missing), self.folder, len(missing))
        if missing:
            trained = self._train(job, missing, [keys[i].plan.feature for i in missing], report)
            for i, each in zip(missing, trained, strict=True):
                save_decoder(self.folder, keys[i], each)
        # Read them back, so that the first run uses exactly what later runs load.
        found = (load_decoder(self.folder, key) for key in keys)
        return [trained for trained in found if trained is not None]

    def _missing(self, job: Job) -> list[int]:
        """Positions of the layers whose decoders must be trained; checks that they can be saved."""
        keys = self.keys(job)
        missing = [i for i, key in enumerate(keys) if load_decoder(self.folder, key) is None]
        if self.folder.is_dir():
            for i in missing:
                claim_decoder(self.folder, keys[i])
        return missing

    def keys(self, job: Job) -> list[DecoderKey]:
        """Return the keys of the decoders for a job's layers."""
        digest, counted = self.provider.samples.digest(), self.provider.counted
        shapes = job.network.shapes(*job.inputs([0]))
        return [
            DecoderKey(
                job.provider.model.identity,
                layer.name,
                job.provider.input_tensor,
                digest,
                self.settings,
                Plan(shape, job.shape, job.provider.axes(), self.settings.width),
                "" if counted is None else digest_of(counted),
            )
            for layer, shape in zip(job.layers, shapes, strict=True)
        ]

    def _train(
        self, job: Job, layers: Sequence[int], shapes: Sequence[tuple[int, ...]], report: Report
    ) -> list[Trained]:
        names = ", ".join(job.layers[i].name for i in layers)
        network = on_training_inputs(job, self.provider).part(layers)

        def tell(step: int, steps: int, loss: float) -> None:
            report(Progress("decoder", step, steps, names, loss))

        return train_decoders(Material(network, self.provider, shapes, job.device), self.settings, tell)


def check_parts(provider: InputProvider) -> None:
    """Check that a decoder can reconstruct the analysis input.

    Raises
    ------
    UsageError
        Several inputs are perturbed, and one of them has positions: the decoder would not see its grid.
    """
    for part in provider.parts:
        if len(part.shape) > 1:
            raise UsageError(
                f"a decoder reconstructs one input, or several without positions, and among the "
                f"{len(provider.parts)} inputs is {quoted(part.name)} ({', '.join(part.axes)}); name one input by "
                f"input_tensor=..."
            )


def on_training_inputs(job: Job, provider: InputProvider) -> Network:
    """Network of a job with the conditioning inputs of training samples."""
    if not job.network.conditioning_inputs:
        return job.network
    return job.network.with_conditioning_inputs(conditioning_tensors(provider, job.conditioning_inputs, job.device))


def decoder_settings(decoder: DecoderConfig, seed: int) -> DecoderSettings:
    """Return the training settings, which determine a decoder together with model, layer and samples."""
    return DecoderSettings(**recipe(decoder), seed=seed)


def decoder_folder(config: Config, output: Path) -> Path:
    """Return the folder of the decoders: the configured one, else one beside the archive."""
    named = config.ru.decoder.folder
    return output.with_suffix(".decoders") if named is None else Path(named)


def training_inputs(job: Job) -> InputProvider:
    """Open the training samples of the decoders: by default the analyzed samples."""
    decoder, provider, chosen = job.config.ru.decoder, job.provider, job.config.input
    if decoder.inputs is None and decoder.limit is None:
        return provider
    crops: dict[str, Any] = {}
    if decoder.inputs is None and chosen.foreground is not None:
        crops = crops_of(open_foreground(chosen.foreground), chosen.crop_to_box)
    spec = job.source if decoder.inputs is None else decoder.inputs
    joined = joined_samples(provider)
    model = provider.model if joined is None else joined.model
    samples = open_samples_of(model, spec, limit=decoder.limit, **chosen.reading(), **crops)
    if decoder.inputs is not None:
        report_left_out(samples, anonymous=job.config.out.anonymous_names)
    training, mask = open_provider(model, samples, provider.tensors), chosen.unit_mask
    # A mask given as an array has one row per analyzed sample.
    if mask is None or (isinstance(mask, str) and mask in samples.inputs):
        found = unit_mask_of(mask, training)
        training.counted = None if found is None else found.units
    return training
