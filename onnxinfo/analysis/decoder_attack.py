"""Reconstruction of the input from noisy features by trained decoders, on samples that they were not trained on."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..archive.means import mean_and_stderr
from ..errors import UsageError
from ..metrics.decoder_training import Material, Trained, demand_enough, train_decoders
from ..metrics.input_provider import InputProvider
from ..text import listed
from .decoders import check_parts, decoder_settings, on_training_inputs, training_inputs
from .job import Job
from .settings import Progress, Report

logger = logging.getLogger(__name__)

Floats = npt.NDArray[np.float64]
#: Samples that are read at a time to compare their contents.
_READ = 64


@dataclass(frozen=True)
class Attack:
    """Result of an attack on one layer.

    Attributes
    ----------
    errors
        Mean squared error per input unit of the reconstruction of each analyzed sample, (S,).
    steps
        Training steps after which the decoder was best on validation samples.
    converged
        Whether the error fell by at most its standard error when the steps were last doubled; None: they were not.
    """

    errors: Floats
    steps: int
    converged: bool | None = None


def attack_inputs(job: Job) -> InputProvider:
    """Open the training samples of an attack.

    Raises
    ------
    UsageError
        No training samples are named, they are the analyzed ones, or the input is none that a decoder can reconstruct.
    InputError
        There are too few.
    """
    if job.config.ru.decoder.inputs is None:
        raise UsageError(
            "an attack is trained on other samples than those it is measured on; give them by decoder_inputs=..."
        )
    check_parts(job.provider)
    training = training_inputs(job)
    if training.samples.digest() == job.provider.samples.digest():
        raise UsageError(
            "decoder_inputs=... are the analyzed samples, which the attack must not have seen; give others"
        )
    demand_enough(len(training), ", by decoder_inputs=... or a larger decoder_limit=...")
    return training


def count_seen(analyzed: InputProvider, training: InputProvider) -> int:
    """Count the analyzed samples whose contents are among the training samples, and warn of them.

    Parameters
    ----------
    analyzed, training
        The samples, which are compared as the network gets them, whatever file they come from.
    """
    known = set(_contents(training))
    seen = sum(content in known for content in _contents(analyzed))
    if seen:
        logger.warning(
            "%d of %d samples are among the training samples of the attack, whose error on them is too small; give "
            "others by decoder_inputs=...",
            seen,
            len(analyzed),
        )
    return seen


def _contents(provider: InputProvider) -> Iterator[bytes]:
    for start in range(0, len(provider), _READ):
        for sample in provider.perturbed(range(start, min(start + _READ, len(provider)))):
            # Adding zero makes negative zeros positive.
            yield hashlib.sha256(np.ascontiguousarray(sample + 0).tobytes()).digest()


def attack(
    job: Job, training: InputProvider, noise: Mapping[int, float], unit: Tensor, report: Report, doublings: int = 0
) -> dict[int, Attack]:
    """Attack layers, with more and more training steps as long as the errors fall.

    Parameters
    ----------
    job, training, noise, unit, report
        As for :func:`attack_once`.
    doublings
        Largest number of times that the steps are doubled. An error falls if it does by more than its standard error.

    Returns
    -------
    dict
        The better of the last two attacks on each layer.
    """
    steps, falling = job.config.ru.decoder.steps, dict(noise)
    found = attack_once(job, training, falling, unit, report, steps)
    for _ in range(doublings):
        steps *= 2
        for layer, longer in attack_once(job, training, falling, unit, report, steps).items():
            (before, _, _), (after, stderr, _) = (mean_and_stderr(each.errors) for each in (found[layer], longer))
            better = longer if after < before else found[layer]
            found[layer] = replace(better, converged=bool(before - after <= stderr))
        falling = {layer: scale for layer, scale in falling.items() if not found[layer].converged}
        if not falling:
            break
    if doublings and falling:
        names = listed([job.layers[layer].name for layer in falling])
        logger.warning("errors of decoders still fall at %d steps, at %s; double the steps more often", steps, names)
    return found


def attack_once(
    job: Job, training: InputProvider, noise: Mapping[int, float], unit: Tensor, report: Report, steps: int
) -> dict[int, Attack]:
    """Train decoders on noisy features, and measure their errors on the analyzed samples.

    Parameters
    ----------
    job
        Network and analyzed samples.
    training
        Training samples.
    noise
        Standard deviation of the noise by layer.
    unit
        Unit of the errors, broadcastable to a sample.
    report
        Receives progress.
    steps
        Training steps.

    Returns
    -------
    dict
        The attack on each layer.
    """
    layers = [*noise]
    settings = replace(decoder_settings(job.config.ru.decoder, job.settings.seed), steps=steps)
    shapes = job.network.shapes(*job.inputs([0]))
    network = on_training_inputs(job, training).part(layers)
    scales = tuple(noise[layer] for layer in layers)
    material = Material(network, training, [shapes[layer] for layer in layers], job.device, scales)
    names = ", ".join(job.layers[layer].name for layer in layers)

    def tell(step: int, steps: int, loss: float) -> None:
        report(Progress("decoder", step, steps, names, loss))

    trained = train_decoders(material, settings, tell)
    held_out = replace(material, network=job.network.part(layers), provider=job.provider)
    errors = _errors(job, held_out, trained, unit, settings.batch)
    return {layer: Attack(errors[i], trained[i].steps) for i, layer in enumerate(layers)}


@torch.no_grad()
def _errors(job: Job, material: Material, trained: Sequence[Trained], unit: Tensor, batch: int) -> Floats:
    """Mean squared error per counted unit by layer and analyzed sample, (T, S)."""
    found = np.zeros((len(trained), len(job.provider)))
    streams = material.streams(job.settings.seed, "analyzed samples")
    for start in range(0, len(job.provider), batch):
        some = [*range(start, min(start + batch, len(job.provider)))]
        x, rows = job.inputs(some)
        counted = job.counted(some)
        weight = torch.ones_like(x).flatten(1) if counted is None else counted.to(x)
        for i, feature in enumerate(material.features(x, rows, streams)):
            squares = ((trained[i].decoder(feature) - x) / unit).flatten(1).square().double()
            found[i, some] = ((squares * weight).sum(1) / weight.sum(1)).cpu().numpy()
    return found
