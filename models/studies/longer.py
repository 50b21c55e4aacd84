"""The paper's claims with networks trained for longer (its Figs. 3a, 3b, 4a, 4b, 5a and 5b).

``python -m onnxinfo.models.studies.longer epochs cifar10.npz --family vgg -o study/longer --seeds 0 1 2``; the file
holds ``x_train``, ``y_train``, ``x_test`` and ``y_test``. Networks have batch norm while they are trained, and are
measured without it. ``pruning``, ``damage``, ``depth`` and ``autoencoders`` take the trained network from the study
``epochs`` if it is in the same folder; else they train it, once for all. ``distillation`` needs ``--teacher``, the ONNX
file of a classifier of the same images. Each family has a folder of its own.

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

from .common import Array, accuracy, scores, to_onnx
from .families import FAMILIES, Build, Family
from .normalized import (
    BATCH,
    CALIBRATED,
    RATE,
    batches,
    descend,
    folded,
    normalized_autoencoder,
    shifted,
    unfolded,
)
from .script import RESUMES, as_script
from .training import (
    Data,
    Models,
    Rows,
    Wanted,
    add,
    attacked,
    keep,
    measured,
    networks,
    open_data,
    standardized,
)

#: Steps of the first epoch, as fractions of it, after which the network is kept besides the ends of all epochs.
EARLY = (0.1, 0.5)
#: Fractions of weights left, the epochs of retraining, and its highest learning rate as a fraction of that of training.
LEVELS, RETRAINED, SLOWER = (1.0, 0.38, 0.128, 0.08), 5, 0.5
#: Highest learning rate of autoencoders, whose gradients are smaller, as a multiple of that of classifiers.
FASTER = 4.0
#: Temperature that softens the teacher's answers, and their weight relative to the labels.
TEMPERATURE, TEACHING = 4.0, 0.9
#: Operators before which a stage ends, besides the 1 x 1 convolutions of blocks.
POOLINGS = ("MaxPool", "GlobalAveragePool")
#: Seed of the views that teacher and students share, and number of images whose training loss is computed.
VIEW_SEED, FITTED = 1000, 2000


@dataclass(frozen=True)
class Source:
    """What a study starts from.

    Attributes
    ----------
    family
        The networks that are trained.
    data
        Images, number of epochs, and seed.
    folder
        The folder of all studies of the family; what all families share is in the one above.
    teacher, views
        Path of the teacher, and number of views of each image that it answers.
    bfloat16
        Whether networks compute in bfloat16 while they are trained; their weights are float32 in any case.
    """

    family: Family
    data: Data
    folder: Path
    teacher: Path | None
    views: int
    bfloat16: bool = False

    def untrained(self, build: Build) -> nn.Sequential:
        """Return a network with the weights of the seed."""
        torch.manual_seed(self.data.seed)
        return build(self.data.side, self.data.classes).to(memory_format=torch.channels_last)


def epochs(source: Source) -> Models:
    """Return a network before training, twice in its first epoch, after each, in the second half after every second."""
    data, network = source.data, source.untrained(source.family.build)
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
    """Return the teacher's scores (V, N, classes) for each view of the training images, kept in the folder above."""
    path = source.folder.parent / f"answers-{source.views}-{len(source.data.x)}.npy"
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
    """Return a network trained on the labels, and one on the teacher's answers, with the same weights at the start."""
    given = torch.from_numpy(answers(source))
    return {name: student(source, given, taught) for name, taught in (("without", 0.0), ("distilled", TEACHING))}


def student(source: Source, given: Tensor, taught: float) -> onnx.ModelProto:
    """Return a network trained on the views in turn: on the labels, and by so much on the answers given for them."""
    data, network = source.data, source.untrained(source.family.build)

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
    """Return the trained network, and versions with some of its weights left, retrained."""
    found = trained(source)
    return {"trained": found} | {f"{share:g} kept": retrained(found, share, source) for share in LEVELS}


def trained(source: Source) -> onnx.ModelProto:
    """Return the network after the last epoch: that of the study of epochs if it is there, else trained here."""
    kept = networks(source.folder / f"epochs-{source.data.seed}")
    return onnx.load([*kept.values()][-1]) if kept else trained_once(source.family.size, source)


def trained_once(name: str, source: Source) -> onnx.ModelProto:
    """Return a network of one of the sizes, which is trained only if the folder does not have it."""
    path = source.folder / f"{source.family.name}-{source.data.seed}-{name}.onnx"
    if not path.exists():
        unfinished = path.with_suffix(".unfinished")
        onnx.save(trained_by(source.family.sizes[name], source), unfinished)
        unfinished.rename(path)
    return onnx.load(path)


def trained_by(build: Build, source: Source) -> onnx.ModelProto:
    """Return a network trained on the labels."""
    data, network = source.data, source.untrained(build)
    descend(network, data.epochs, -(-len(data.x) // BATCH), lambda epoch: label_losses(network, source))
    return exported(network, data)


def depth(source: Source) -> Models:
    """Return networks of all sizes."""
    family = source.family
    return {name: trained(source) if name == family.size else trained_once(name, source) for name in family.sizes}


def autoencoders(source: Source) -> Models:
    """Return the trained network, and an autoencoder whose convolutions started with the same weights."""
    data = source.data
    network = normalized_autoencoder(source.untrained(source.family.build), data.side)
    steps = -(-len(data.x) // BATCH)
    descend(network, data.epochs, steps, lambda epoch: image_losses(network, source), rate=RATE * FASTER)
    return {"classifier": trained(source), "autoencoder": exported(network, data)}


def image_losses(network: nn.Module, source: Source) -> Iterator[Tensor]:
    """Yield the squared error of an autoencoder for each batch of an epoch."""
    for rows in batches(len(source.data.x)):
        shown = shifted(source.data.x[rows])
        yield nn.functional.mse_loss(computed(network, shown, source), shown)


def stage_ends(model: onnx.ModelProto) -> dict[str, str]:
    """Return names for the tensors that are pooled, or that a 1 x 1 convolution reads: ``stage 1`` and so on."""
    ends = [node.input[0] for node in model.graph.node if node.op_type in POOLINGS or is_shortcut(node)]
    return {name: f"stage {number}" for number, name in enumerate(ends, 1)}


def is_shortcut(node: onnx.NodeProto) -> bool:
    """Return whether a node is the 1 x 1 convolution beside a block."""
    return any(each.name == "kernel_shape" and [*each.ints] == [1, 1] for each in node.attribute)


def damage(source: Source) -> Models:
    """Return the trained network, and one with a damaged convolution: replaced by four 7 x 7 filters."""
    return {"original": trained(source), "damaged": trained_by(source.family.damaged, source)}


def retrained(model: onnx.ModelProto, share: float, source: Source) -> onnx.ModelProto:
    """Return a network trained further with the smallest weights at zero; with a share of 1, all are trained.

    It has batch norm again while it is trained.
    """
    data = source.data
    torch.manual_seed(data.seed)
    network = unfolded(with_weights(onnxinfo.prune(model, share).proto, source), data.x[:CALIBRATED])
    masks = [(weight, (weight != 0).float()) for weight in network.parameters() if weight.dim() > 1]

    def mask() -> None:
        with torch.no_grad():
            for weight, left in masks:
                weight.mul_(left)

    steps = -(-len(data.x) // BATCH)
    descend(network, RETRAINED, steps, lambda epoch: label_losses(network, source), rate=RATE * SLOWER, after=mask)
    return exported(network, data)


def with_weights(model: onnx.ModelProto, source: Source) -> nn.Sequential:
    """Return a network without batch norm, with the weights of one that was exported."""
    network = folded(source.untrained(source.family.build), source.data.x[:2])
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
        Give the layers of a family that are measured, and more in the last network.
    stages
        Whether the ends of stages are measured, too, and called so.
    measure
        Returns a row for each layer and image.
    shared
        The study whose networks these are, if it has the same ones.
    """

    train: Callable[[Source], Models]
    layers: Callable[[Family], tuple[str, ...]] = lambda family: family.layers
    last: Callable[[Family], tuple[str, ...]] = lambda family: ()
    stages: bool = False
    measure: Callable[[onnx.ModelProto, Data, Wanted], Rows] = measured
    shared: str = ""


STUDIES = {
    "epochs": Study(epochs, lambda family: family.high, lambda family: family.layers[:1]),
    "distillation": Study(distillation),
    "pruning": Study(pruning, lambda family: family.high),
    "damage": Study(damage),
    "depth": Study(depth, lambda family: (), stages=True),
    "autoencoders": Study(autoencoders, lambda family: family.convolutions),
    "robustness": Study(pruning, lambda family: (), measure=attacked, shared="pruning"),
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
    data, study, family = source.data, STUDIES[name], source.family
    folder = source.folder / f"{study.shared or name}-{data.seed}"
    if not folder.exists():
        keep(study.train(source), folder)
    archive = source.folder / f"{name}-{data.seed}-{normalizer}.h5"
    rows: Rows = []
    paths = networks(folder)
    for network, path in paths.items():
        model = onnx.load(path)
        names = stage_ends(model) if study.stages else {}
        layers = (*names, *study.layers(family), *(study.last(family) if network == [*paths][-1] else ()))
        shared = {"seed": data.seed, "normalizer": normalizer, "network": network, **facts(model, data)}
        found = study.measure(model, data, Wanted(archive, network, limit, normalizer, layers))
        rows += [shared | row | {"layer": names.get(row["layer"], row["layer"])} for row in found]
        kind = "accuracy" if "accuracy" in shared else "error"
        print(f"measured: {family.name}, {name}, seed {data.seed}, {network}, {kind} {shared[kind]:.3f}", flush=True)
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
    parser.add_argument("--family", choices=[*FAMILIES], default="vgg")
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
    folder = chosen.output / chosen.family
    folder.mkdir(parents=True, exist_ok=True)
    data = open_data(chosen.data, epochs=chosen.epochs, images=chosen.images)
    source = Source(FAMILIES[chosen.family], data, folder, chosen.teacher, chosen.views, chosen.bfloat16)
    run(chosen.study, source, chosen.seeds, chosen.limit, chosen.normalize_by)


if __name__ == "__main__":
    as_script(main, RESUMES)
