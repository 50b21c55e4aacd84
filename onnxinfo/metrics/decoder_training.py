"""Training decoders for several layers at once: one forward pass of the analyzed network feeds them all."""

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

#: Share of the samples that decoders are validated on, and at most how many.
VALIDATION_SHARE, MOST_VALIDATION = 0.1, 512
LEAST_SAMPLES = 4
#: How often in a training decoders are validated, and after how many validations without gain one is done.
VALIDATIONS, PATIENCE = 10, 4
#: Training samples that locations and scales are learned from.
STANDARDISED_SAMPLES = 256


@dataclass(frozen=True)
class DecoderSettings:
    """How decoders are made; :class:`onnxinfo.config.DecoderConfig` has defaults and validates.

    Attributes
    ----------
    width
        Channels of every block.
    steps, batch
        Optimization steps at most, and samples of each.
    learning_rate
        The greatest; it rises over the first tenth of the steps and falls to zero.
    flips
        Show samples mirrored as well (images only).
    seed
        Of split, initial weights and order of samples.
    """

    width: int
    steps: int
    batch: int
    learning_rate: float
    flips: bool
    seed: int


@dataclass(frozen=True)
class Trained:
    """A decoder, and how well it reconstructs samples it was not trained on.

    Attributes
    ----------
    decoder
        In evaluation mode, without gradients.
    error
        Mean squared error on the validation samples, relative to their variance about the training mean: 1 is what
        the mean sample itself reaches. Over the units that count.
    steps
        Steps after which the kept weights were reached.
    """

    decoder: Decoder
    error: float
    steps: int


@dataclass(frozen=True)
class Material:
    """What decoders are trained on: the network's layers and samples, in the order of `layers`."""

    network: Network
    provider: InputProvider
    shapes: Sequence[tuple[int, ...]]
    device: torch.device

    def inputs(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The perturbed tensor of some samples, and their rows."""
        x = torch.from_numpy(self.provider.perturbed(indices)).to(self.device)
        return x, torch.as_tensor(list(indices), device=self.device)

    def counted(self, indices: Sequence[int]) -> Tensor | None:
        """Which units of some samples count, (B, *sample) bool, or None for all."""
        counted = self.provider.counted
        return None if counted is None else torch.from_numpy(counted[list(indices)]).to(self.device)


@dataclass
class _Pupil:
    """A decoder while it is trained."""

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
    """Train a decoder for every layer by mean squared error (the paper, section 3.2), with early stopping.

    Parameters
    ----------
    material
        Network and samples; a share of the samples is held out.
    settings
        How.
    report
        Called with steps done, steps at most, and the mean over layers of the loss relative to the samples' variance.

    Returns
    -------
    list of Trained
        One for each layer.

    Raises
    ------
    InputError
        Too few samples, or a layer whose values are not finite.
    """
    count = len(material.provider)
    demand_enough(count)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(settings.seed)).tolist()
    held = max(1, min(MOST_VALIDATION, round(VALIDATION_SHARE * count)))
    validation, training = order[:held], order[held:]
    axes = material.provider.axes()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        decoders = [Decoder(_plan(material, shape, axes, settings)) for shape in material.shapes]
    some, rows = material.inputs(training[:STANDARDISED_SAMPLES])
    with torch.no_grad():
        for decoder, feature in zip(decoders, _features(material.network, some, rows), strict=True):
            if not bool(feature.isfinite().all()):
                raise InputError("a layer's values are not finite on the training samples; a decoder cannot be trained")
            decoder.to(material.device).standardise(feature, some)
            if len(decoder.plan.sides) == 2:
                decoder.to(memory_format=torch.channels_last)
    pupils = [_pupil(decoder, settings) for decoder in decoders]
    for step, (x, indices, counted) in enumerate(_batches(material, training, settings), start=1):
        with torch.no_grad():
            features = _features(material.network, x, indices)
        losses = [p.learn(f, x, counted) for p, f in zip(pupils, features, strict=True) if not p.done]
        report(step, settings.steps, float(torch.stack(losses).mean()))
        if step % max(1, settings.steps // VALIDATIONS) == 0 or step == settings.steps:
            errors = _errors(material, [p.decoder for p in pupils], validation, settings.batch)
            for pupil, error in zip(pupils, errors, strict=True):
                pupil.judge(error, step)
            if all(pupil.done for pupil in pupils):
                break
    return [_finished(pupil) for pupil in pupils]


def demand_enough(count: int) -> None:
    """Raise :class:`InputError` where there are too few samples to train on."""
    if count < LEAST_SAMPLES:
        raise InputError(
            f"{count} samples are too few to train a decoder; give at least {LEAST_SAMPLES}, better thousands"
        )


def _plan(material: Material, shape: tuple[int, ...], axes: tuple[str, ...], settings: DecoderSettings) -> Plan:
    sample = tuple(material.provider.perturbed([0]).shape[1:])
    return Plan(shape, sample, axes, settings.width)


def _pupil(decoder: Decoder, settings: DecoderSettings) -> _Pupil:
    optimizer = torch.optim.Adam(decoder.parameters(), lr=settings.learning_rate)
    # One step more than are taken: the schedule refuses to go beyond its end.
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, total_steps=settings.steps + 1, pct_start=0.1
    )
    return _Pupil(decoder, optimizer, schedule)


def _finished(pupil: _Pupil) -> Trained:
    if pupil.best_state is None:
        raise InputError("a decoder's training diverged; give a smaller learning rate")
    pupil.decoder.load_state_dict(pupil.best_state)
    return Trained(pupil.decoder.eval().requires_grad_(False), pupil.best, pupil.best_step)


def _features(network: Network, x: Tensor, rows: Tensor) -> list[Tensor]:
    return [feature.detach() for feature in network(x, rows)]


def _batches(
    material: Material, training: Sequence[int], settings: DecoderSettings
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """Batches without end of epochs' rests, each sample once an epoch: samples, their rows and which units count."""
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
def _errors(material: Material, decoders: Sequence[Decoder], validation: Sequence[int], batch: int) -> list[float]:
    """Relative squared error of every decoder on the units of the validation samples that count."""
    wrong = torch.zeros(len(decoders), dtype=torch.float64)
    spread = 0.0
    for decoder in decoders:
        decoder.eval()
    for start in range(0, len(validation), batch):
        some = validation[start : start + batch]
        x, rows = material.inputs(some)
        counted = material.counted(some)
        counts = torch.ones_like(x, dtype=torch.bool) if counted is None else counted
        spread += float((x - decoders[0].sample_mean)[counts].double().square().sum())
        for i, (decoder, feature) in enumerate(zip(decoders, _features(material.network, x, rows), strict=True)):
            wrong[i] += (decoder(feature) - x)[counts].double().square().sum().cpu()
    return [float(w) / max(spread, torch.finfo(torch.float64).tiny) for w in wrong]
