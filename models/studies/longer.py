"""The paper's claims with networks trained for longer (its Figs. 3a, 3b, 4a, 4b, 5a and 5b).

``python -m onnxinfo.models.studies.longer epochs cifar10.npz -o study/longer --seeds 0 1 2``; the file holds
``x_train``, ``y_train``, ``x_test`` and ``y_test``. Networks have batch norm while they are trained, and are measured
without it. ``pruning``, ``damage``, ``depth`` and ``autoencoders`` take the trained VGG from the study ``epochs`` if it
is in the same folder; else they train it, once for all. ``distillation`` needs ``--teacher``, the ONNX file of a
classifier of the same images.

Networks are trained anew for each seed, and measured on held-out images drawn for it. What is in the folder already is
not done again: more seeds and images add to ``epochs.csv`` and the others, which ``claims.py`` reads.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pandas
import torch
from onnx import numpy_helper
from torch import Tensor, nn

import onnxinfo

from .common import ALEXNET, VGG, Array, Step, accuracy, scores, to_onnx
from .normalized import (
    BATCH,
    CALIBRATED,
    RATE,
    batches,
    descend,
    folded,
    normalized_autoencoder,
    normalized_classifier,
    shifted,
)
from .training import Data, Models, Rows, add, keep, measured, networks, open_data, standardized

#: VGGs by name whose stages, which end with pooling, have fewer or more convolutions.
SIZES: dict[str, list[Step]] = {
    "3 convolutions": [(16, 3, 1), None, (32, 3, 1), None, (64, 3, 1), None],
    "5 convolutions": VGG,
    "8 convolutions": [*[(16, 3, 1)] * 3, None, *[(32, 3, 1)] * 3, None, *[(64, 3, 1)] * 2, None],
}
#: Steps of the first epoch, as fractions of it, after which the VGG is kept besides the ends of all epochs.
EARLY = (0.1, 0.5)
#: Layers whose SID is followed over the epochs, and the first, for its rise through the trained network.
HIGH, FIRST = ("relu_11", "relu_15", "linear_16"), ("relu_1",)
#: The convolutions of the VGG, and what they compute.
CONVOLUTIONS = ("relu_1", "relu_3", "relu_6", "relu_8", "relu_11", "maxpool2d_12")
#: Fractions of weights left, the epochs of retraining, and its highest learning rate as a fraction of that of training.
LEVELS, RETRAINED, SLOWER = (1.0, 0.38, 0.128, 0.08), 5, 0.2
#: Highest learning rate of autoencoders, whose gradients are smaller, as a multiple of that of classifiers.
FASTER = 4.0
#: Temperature that softens the teacher's answers, and their weight relative to the labels.
TEMPERATURE, TEACHING = 4.0, 0.9
#: Seed of the views that teacher and students share, and number of images whose training loss is computed.
VIEW_SEED, FITTED = 1000, 2000


@dataclass(frozen=True)
class Source:
    """What a study starts from.

    Attributes
    ----------
    data
        Images, number of epochs, and seed.
    folder
        The folder of all studies.
    teacher, views
        Path of the teacher, and number of views of each image that it answers.
    bfloat16
        Whether networks compute in bfloat16 while they are trained; their weights are float32 in any case.
    """

    data: Data
    folder: Path
    teacher: Path | None
    views: int
    bfloat16: bool = False


def epochs(source: Source) -> Models:
    """Return a VGG before training, twice within its first epoch, and after each, in the second half every second."""
    data = source.data
    torch.manual_seed(data.seed)
    network = normalized_classifier(VGG, data.side, data.classes)
    steps = -(-len(data.x) // BATCH)
    names = {max(1, round(steps * share)): f"epoch {share:g}" for share in EARLY}
    late = data.epochs // 2
    noted = [*range(1, late + 1), *range(data.epochs, late, -2)]
    names |= {steps * epoch: f"epoch {epoch}" for epoch in noted}
    found = {"epoch 0": exported(network, data)}

    def note(step: int) -> None:
        if step in names:
            found[names[step]] = exported(network, data)

    descend(network, data.epochs, steps, lambda epoch: label_losses(network, source), note)
    return found


def exported(network: nn.Sequential, data: Data) -> onnx.ModelProto:
    """Return an ONNX model of a network in its current state, without batch norm."""
    return to_onnx(folded(network, data.x[:CALIBRATED]), data.side)


def label_losses(network: nn.Module, source: Source) -> Iterator[Tensor]:
    """Yield the loss of each batch of an epoch."""
    data = source.data
    for rows in batches(len(data.x)):
        yield nn.functional.cross_entropy(computed(network, shifted(data.x[rows]), source), data.y[rows])


def computed(network: nn.Module, x: Tensor, source: Source) -> Tensor:
    """Return a network's scores while it is trained, as float32."""
    with torch.autocast("cpu", torch.bfloat16, enabled=source.bfloat16):
        found: Tensor = network(x)
    return found.float()


def view(data: Data, number: int) -> Tensor:
    """Return all training images as shifted and mirrored for one view, the same in every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(VIEW_SEED + number)
        return shifted(data.x).contiguous()


def answers(source: Source) -> Array:
    """Return the teacher's scores (V, N, classes) for each view of the training images; they are kept in the folder."""
    path = source.folder / f"answers-{source.views}-{len(source.data.x)}.npy"
    if not path.exists():
        assert source.teacher is not None
        teacher = onnx.load(source.teacher)
        found = []
        for number in range(source.views):
            found.append(scores(teacher, view(source.data, number).numpy()))
            right = (found[-1].argmax(1) == source.data.y.numpy()).mean()
            print(f"answered: view {number + 1} of {source.views}, accuracy {right:.3f}", flush=True)
        print(f"teacher: accuracy {accuracy(teacher, standardized(source.data.held_out), source.data.labels):.3f}")
        np.save(path, np.stack(found))
    given: Array = np.load(path)
    return given


def distillation(source: Source) -> Models:
    """Return an AlexNet trained on the labels, and one on the teacher's answers, with the same weights at the start."""
    given = torch.from_numpy(answers(source))
    return {name: student(source, given, taught) for name, taught in (("without", 0.0), ("distilled", TEACHING))}


def student(source: Source, given: Tensor, taught: float) -> onnx.ModelProto:
    """Return an AlexNet trained on the views in turn: on the labels, and by so much on the answers given for them."""
    data = source.data
    torch.manual_seed(data.seed)
    network = normalized_classifier(ALEXNET, data.side, data.classes)

    def losses(epoch: int) -> Iterator[Tensor]:
        number = epoch % source.views
        shown, soft = view(data, number), (given[number] / TEMPERATURE).softmax(1)
        for rows in batches(len(shown)):
            found = computed(network, shown[rows], source)
            loss = (1 - taught) * nn.functional.cross_entropy(found, data.y[rows])
            if taught:
                told = nn.functional.cross_entropy(found / TEMPERATURE, soft[rows])
                loss = loss + taught * TEMPERATURE**2 * told
            yield loss

    descend(network, data.epochs, -(-len(data.x) // BATCH), losses)
    return exported(network, data)


def pruning(source: Source) -> Models:
    """Return the trained VGG, and versions with some of its weights left, retrained."""
    trained = trained_vgg(source)
    return {"trained": trained} | {f"{share:g} kept": retrained(trained, share, source) for share in LEVELS}


def trained_vgg(source: Source) -> onnx.ModelProto:
    """Return the VGG after the last epoch: that of the study of epochs if it is there, else trained here."""
    kept = networks(source.folder / f"epochs-{source.data.seed}")
    return onnx.load([*kept.values()][-1]) if kept else trained_once("5 convolutions", source)


def trained_once(name: str, source: Source) -> onnx.ModelProto:
    """Return a VGG of one of the sizes, which is trained only if the folder does not have it."""
    path = source.folder / f"vgg-{source.data.seed}-{name}.onnx"
    if not path.exists():
        unfinished = path.with_suffix(".unfinished")
        onnx.save(trained_by(SIZES[name], source), unfinished)
        unfinished.rename(path)
    return onnx.load(path)


def trained_by(plan: Sequence[Step], source: Source) -> onnx.ModelProto:
    """Return a network of another plan, trained as the VGG is."""
    data = source.data
    torch.manual_seed(data.seed)
    network = normalized_classifier(plan, data.side, data.classes)
    descend(network, data.epochs, -(-len(data.x) // BATCH), lambda epoch: label_losses(network, source))
    return exported(network, data)


def depth(source: Source) -> Models:
    """Return VGGs of all sizes."""
    return {name: trained_vgg(source) if plan is VGG else trained_once(name, source) for name, plan in SIZES.items()}


def autoencoders(source: Source) -> Models:
    """Return the trained VGG, and an autoencoder whose convolutions started with the same weights."""
    data = source.data
    torch.manual_seed(data.seed)
    network = normalized_autoencoder(VGG, data.side, data.classes)
    steps = -(-len(data.x) // BATCH)
    descend(network, data.epochs, steps, lambda epoch: image_losses(network, source), rate=RATE * FASTER)
    return {"classifier": trained_vgg(source), "autoencoder": exported(network, data)}


def image_losses(network: nn.Module, source: Source) -> Iterator[Tensor]:
    """Yield the squared error of an autoencoder for each batch of an epoch."""
    for rows in batches(len(source.data.x)):
        shown = shifted(source.data.x[rows])
        yield nn.functional.mse_loss(computed(network, shown, source), shown)


def stage_ends(model: onnx.ModelProto) -> dict[str, str]:
    """Return names for the tensors that are pooled, in order: ``stage 1`` and so on."""
    pooled = [node.input[0] for node in model.graph.node if node.op_type == "MaxPool"]
    return {name: f"stage {number}" for number, name in enumerate(pooled, 1)}


def damage(source: Source) -> Models:
    """Return the trained VGG, and one with a damaged convolution: replaced by four 7 x 7 filters."""
    return {"original": trained_vgg(source), "damaged": trained_by([*VGG[:4], (4, 7, 1), *VGG[5:]], source)}


def retrained(trained: onnx.ModelProto, share: float, source: Source) -> onnx.ModelProto:
    """Return a network trained further with the smallest weights at zero; with a share of 1, all are trained."""
    data = source.data
    torch.manual_seed(data.seed)
    network = with_weights(onnxinfo.prune(trained, share).proto, data)
    masks = [(weight, (weight != 0).float()) for weight in network.parameters() if weight.dim() > 1]

    def mask() -> None:
        with torch.no_grad():
            for weight, left in masks:
                weight.mul_(left)

    steps = -(-len(data.x) // BATCH)
    descend(network, RETRAINED, steps, lambda epoch: label_losses(network, source), rate=RATE * SLOWER, after=mask)
    return to_onnx(network.to(memory_format=torch.contiguous_format), data.side)


def with_weights(model: onnx.ModelProto, data: Data) -> nn.Sequential:
    """Return a VGG with the weights of one that was exported."""
    network = data.network(VGG)
    weights = {each.name: torch.from_numpy(numpy_helper.to_array(each).copy()) for each in model.graph.initializer}
    network.load_state_dict(weights)
    return network.to(memory_format=torch.channels_last)


@dataclass(frozen=True)
class Study:
    """How a study's networks are trained and where they are measured.

    Attributes
    ----------
    train
        Returns the networks of one seed.
    layers, last
        The layers that are measured (none: all), and more in the last network.
    stages
        Whether the ends of stages are measured, and called so.
    """

    train: Callable[[Source], Models]
    layers: tuple[str, ...] = ()
    last: tuple[str, ...] = ()
    stages: bool = False


STUDIES = {
    "epochs": Study(epochs, HIGH, FIRST),
    "distillation": Study(distillation),
    "pruning": Study(pruning, HIGH),
    "damage": Study(damage),
    "depth": Study(depth, stages=True),
    "autoencoders": Study(autoencoders, CONVOLUTIONS),
}


def facts(model: onnx.ModelProto, data: Data) -> dict[str, float]:
    """Return what a network reached for held-out and for unmodified training images.

    Accuracy and loss of a classifier; of an autoencoder the squared error relative to the images' variance about the
    mean training image.
    """
    found = {}
    for kind, x, y in (
        ("", standardized(data.held_out), data.labels),
        ("train_", data.x[:FITTED].numpy(), data.y[:FITTED].numpy()),
    ):
        given = torch.from_numpy(scores(model, x))
        if given.dim() > 2:
            error, variance = (np.mean(np.square(each - x)) for each in (given.numpy(), data.x.mean(0).numpy()))
            found[f"{kind}error"] = float(error / variance)
            continue
        target = torch.from_numpy(np.asarray(y)).long()
        found[f"{kind}accuracy"] = float((given.argmax(1) == target).float().mean())
        found[f"{kind}loss"] = float(nn.functional.cross_entropy(given, target))
    return found


def piece(name: str, source: Source, limit: int, normalizer: str) -> pandas.DataFrame:
    """Train and measure the networks of one seed: one row per network, layer and image."""
    data, study = source.data, STUDIES[name]
    trained = source.folder / f"{name}-{data.seed}"
    if not trained.exists():
        keep(study.train(source), trained)
    archive = source.folder / f"{name}-{data.seed}-{normalizer}.h5"
    rows: Rows = []
    paths = networks(trained)
    for network, path in paths.items():
        model = onnx.load(path)
        names = stage_ends(model) if study.stages else {}
        layers = (*names, *study.layers, *(study.last if network == [*paths][-1] else ()))
        shared = {"seed": data.seed, "normalizer": normalizer, "network": network, **facts(model, data)}
        found = measured(model, data, archive, network, limit, normalizer, layers)
        rows += [shared | row | {"layer": names.get(row["layer"], row["layer"])} for row in found]
        kind = "accuracy" if "accuracy" in shared else "error"
        print(f"measured: {name}, seed {data.seed}, {network}, {kind} {shared[kind]:.3f}", flush=True)
    return pandas.DataFrame(rows)


def run(name: str, source: Source, seeds: Sequence[int], limit: int, normalizer: str) -> None:
    """Add what is missing to the table of a study, seed by seed."""
    for seed in seeds:
        found = piece(name, replace(source, data=replace(source.data, seed=seed)), limit, normalizer)
        add(found, source.folder / f"{name}.csv")


def main() -> None:
    """Train, measure, and write the models, the archives and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=[*STUDIES])
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--images", type=int, default=10000, help="Number of training images.")
    parser.add_argument("--limit", type=int, default=16, help="Number of held-out images of each seed.")
    parser.add_argument("--normalize-by", choices=["sample", "dataset"], default="sample")
    parser.add_argument("--teacher", type=Path, help="ONNX file of the teacher, for distillation.")
    parser.add_argument("--views", type=int, default=3, help="Number of views of each image that the teacher answers.")
    parser.add_argument("--bfloat16", action="store_true", help="Train in bfloat16; faster on some processors.")
    chosen = parser.parse_args()
    if chosen.study == "distillation" and chosen.teacher is None:
        parser.error("distillation needs a teacher: --teacher resnet44.onnx")
    chosen.output.mkdir(parents=True, exist_ok=True)
    data = open_data(chosen.data, epochs=chosen.epochs, images=chosen.images)
    source = Source(data, chosen.output, chosen.teacher, chosen.views, chosen.bfloat16)
    run(chosen.study, source, chosen.seeds, chosen.limit, chosen.normalize_by)


if __name__ == "__main__":
    main()
