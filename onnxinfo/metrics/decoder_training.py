"""Train decoders for several layers at once; they share one forward pass of the analyzed network."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import InputError
from .decoder import Decoder, Plan
from .input_provider import InputProvider
from .network import Network
from .noise import generator

#: Fraction of the samples held out for validation, and their maximum number.
VALIDATION_SHARE, MOST_VALIDATION = 0.1, 512
LEAST_SAMPLES = 4
#: Validations per training, and patience: validations without improvement before training stops.
VALIDATIONS, PATIENCE = 10, 4
#: Training samples from which locations and scales are computed.
STANDARDIZED_SAMPLES = 256


@dataclass(frozen=True)
class DecoderSettings:
    """Training settings of decoders; :class:`onnxinfo.config.DecoderConfig` has defaults and validates.

    Attributes
    ----------
    width
        Channels per block.
    steps, batch
        Maximum number of optimization steps, and batch size.
    learning_rate
        Peak learning rate; it is reached after a tenth of the steps and falls to zero.
    flips
        Augment images by horizontal flips.
    seed
        Random seed of split, initial weights and order of samples.
    """

    width: int
    steps: int
    batch: int
    learning_rate: float
    flips: bool
    seed: int


@dataclass(frozen=True)
class Trained:
    """A decoder with its validation error.

    Attributes
    ----------
    decoder
        The decoder in evaluation mode, without gradients.
    error
        Mean squared error on the validation samples, relative to their variance about the training mean: the mean
        sample has error 1. Only counted units contribute.
    steps
        Steps after which the kept weights were reached.
    """

    decoder: Decoder
    error: float
    steps: int


@dataclass(frozen=True)
class Material:
    """Training material of decoders: the network's layers and samples, in the order of `layers`.

    Attributes
    ----------
    network, provider, shapes, device
        Network, samples, shapes of the layers' features, and device.
    noise
        Standard deviations of Gaussian noise that the decoders see on each layer's feature; empty: no noise.
    """

    network: Network
    provider: InputProvider
    shapes: Sequence[tuple[int, ...]]
    device: torch.device
    noise: Sequence[float] = ()

    def features(self, x: Tensor, rows: Tensor, streams: Sequence[torch.Generator]) -> list[Tensor]:
        """Features as the decoders see them, each (S, m), with noise from one stream for each layer."""
        with torch.no_grad():
            clean = self.network(x, rows)
        if not self.noise:
            return clean
        return [
            feature + scale * torch.randn(feature.shape, generator=stream, dtype=feature.dtype, device=feature.device)
            for feature, scale, stream in zip(clean, self.noise, streams, strict=True)
        ]

    def streams(self, seed: int, use: str) -> list[torch.Generator]:
        """Sources of the noise for a use, one for each layer: equal ones, so that none depends on the other layers."""
        return [generator(self.device, seed, "noise on features", use) for _ in self.noise]

    def inputs(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Analysis input of some samples, and their rows."""
        x = torch.from_numpy(self.provider.perturbed(indices)).to(self.device)
        return x, torch.as_tensor(list(indices), device=self.device)

    def counted(self, indices: Sequence[int]) -> Tensor | None:
        """Counted units of some samples, (B, *sample) bool; None for all."""
        counted = self.provider.counted
        return None if counted is None else torch.from_numpy(counted[list(indices)]).to(self.device)


@dataclass
class _Pupil:
    """A decoder in training."""

    decoder: Decoder
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    best: float = math.inf
    best_state: dict[str, Tensor] | None = None
    best_step: int = 0
    waited: int = 0

    @property
    def done(self) -> bool:
        return self.waited >= PATIENCE

    def learn(self, feature: Tensor, x: Tensor, counted: Tensor | None) -> Tensor:
        self.decoder.train()
        with torch.autocast(x.device.type, torch.bfloat16, enabled=x.device.type == "cuda"):
            shown = self.decoder(feature).to(x.dtype)
            if counted is not None:
                shown, x = shown[counted], x[counted]
            loss = nn.functional.mse_loss(shown, x) / self.decoder.sample_std.square()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.schedule.step()
        return loss.detach()

    def judge(self, error: float, step: int) -> None:
        if error < self.best:
            self.best, self.best_step, self.waited = error, step, 0
            self.best_state = copy.deepcopy(self.decoder.state_dict())
        else:
            self.waited += 1


def train_decoders(
    material: Material,
    settings: DecoderSettings,
    report: Callable[[int, int, float], None] = lambda step, steps, loss: None,
) -> list[Trained]:
    """Train a decoder for every layer on the mean squared error (the paper, section 3.2), with early stopping.

    Parameters
    ----------
    material
        Network and samples; a fraction of the samples is held out.
    settings
        Training settings.
    report
        Called with steps done, maximum steps, and the loss relative to the samples' variance, averaged over layers.

    Returns
    -------
    list of Trained
        One per layer.

    Raises
    ------
    InputError
        Too few samples, or a layer with non-finite values.
    """
    count = len(material.provider)
    demand_enough(count)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(settings.seed)).tolist()
    held = max(1, min(MOST_VALIDATION, round(VALIDATION_SHARE * count)))
    validation, training = order[:held], order[held:]
    axes = material.provider.axes()
    decoders = [_untrained(_plan(material, shape, axes, settings), settings.seed) for shape in material.shapes]
    some, rows = material.inputs(training[:STANDARDIZED_SAMPLES])
    streams = material.streams(settings.seed, "training")
    with torch.no_grad():
        for decoder, feature in zip(decoders, material.features(some, rows, streams), strict=True):
            if not bool(feature.isfinite().all()):
                raise InputError("a layer's values are not finite on the training samples; a decoder cannot be trained")
            decoder.to(material.device).standardize(feature, some)
            if len(decoder.plan.sides) == 2:
                decoder.to(memory_format=torch.channels_last)
    pupils = [_pupil(decoder, settings) for decoder in decoders]
    for step, (x, indices, counted) in enumerate(_batches(material, training, settings), start=1):
        features = material.features(x, indices, streams)
        losses = [p.learn(f, x, counted) for p, f in zip(pupils, features, strict=True) if not p.done]
        report(step, settings.steps, float(torch.stack(losses).mean()))
        if step % max(1, settings.steps // VALIDATIONS) == 0 or step == settings.steps:
            errors = _errors(material, [p.decoder for p in pupils], validation, settings)
            for pupil, error in zip(pupils, errors, strict=True):
                pupil.judge(error, step)
            if all(pupil.done for pupil in pupils):
                break
    return [_finished(pupil) for pupil in pupils]


def demand_enough(count: int, remedy: str = "") -> None:
    """Raise :class:`InputError` if there are too few training samples.

    Parameters
    ----------
    count
        Number of training samples.
    remedy
        How to give more, appended to the message.

    Raises
    ------
    InputError
        Too few samples.
    """
    if count < LEAST_SAMPLES:
        raise InputError(
            f"{count} samples are too few to train a decoder; give at least {LEAST_SAMPLES}, better thousands{remedy}"
        )


def _plan(material: Material, shape: tuple[int, ...], axes: tuple[str, ...], settings: DecoderSettings) -> Plan:
    sample = tuple(material.provider.perturbed([0]).shape[1:])
    return Plan(shape, sample, axes, settings.width)


def _untrained(plan: Plan, seed: int) -> Decoder:
    """A decoder whose initial weights depend on nothing else, such as the other layers that are trained with it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Decoder(plan)


def _pupil(decoder: Decoder, settings: DecoderSettings) -> _Pupil:
    optimizer = torch.optim.Adam(decoder.parameters(), lr=settings.learning_rate)
    # One more than the number of steps: the schedule raises beyond its end.
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, total_steps=settings.steps + 1, pct_start=0.1
    )
    return _Pupil(decoder, optimizer, schedule)


def _finished(pupil: _Pupil) -> Trained:
    if pupil.best_state is None:
        raise InputError("a decoder's training diverged; give a smaller learning rate")
    pupil.decoder.load_state_dict(pupil.best_state)
    return Trained(pupil.decoder.eval().requires_grad_(False), pupil.best, pupil.best_step)


def _batches(
    material: Material, training: Sequence[int], settings: DecoderSettings
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """Endless batches without the incomplete ones: samples, their rows and counted units; each sample once an epoch."""
    stream = generator(torch.device("cpu"), settings.seed, "decoder")
    queue: list[int] = []
    mirrored = material.provider.axes().index("x") + 1 if settings.flips and "x" in material.provider.axes() else None
    for _ in range(settings.steps):
        while len(queue) < settings.batch:
            queue += [training[i] for i in torch.randperm(len(training), generator=stream).tolist()]
        indices, queue = queue[: settings.batch], queue[settings.batch :]
        x, rows = material.inputs(indices)
        counted = material.counted(indices)
        if mirrored is not None:
            chosen = torch.rand(len(x), generator=stream) < 0.5
            for each in (x, counted):
                if each is not None:
                    each[chosen] = each[chosen].flip(mirrored)
        yield x, rows, counted


@torch.no_grad()
def _errors(
    material: Material, decoders: Sequence[Decoder], validation: Sequence[int], settings: DecoderSettings
) -> list[float]:
    """Relative squared error of every decoder on the counted units of the validation samples."""
    wrong = torch.zeros(len(decoders), dtype=torch.float64)
    spread = 0.0
    for decoder in decoders:
        decoder.eval()
    # The same noise at every validation.
    streams = material.streams(settings.seed, "validation")
    for start in range(0, len(validation), settings.batch):
        some = validation[start : start + settings.batch]
        x, rows = material.inputs(some)
        counted = material.counted(some)
        counts = torch.ones_like(x, dtype=torch.bool) if counted is None else counted
        spread += float((x - decoders[0].sample_mean)[counts].double().square().sum())
        for i, (decoder, feature) in enumerate(zip(decoders, material.features(x, rows, streams), strict=True)):
            wrong[i] += (decoder(feature) - x)[counts].double().square().sum().cpu()
    return [float(w) / max(spread, torch.finfo(torch.float64).tiny) for w in wrong]
