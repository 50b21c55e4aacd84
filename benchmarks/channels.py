"""Accuracy of networks without some of their channels, chosen by several scores, without training afterwards.

    OMP_NUM_THREADS=1 python benchmarks/channels.py run results.jsonl cifar10.npz resnet20.onnx resnet32.onnx
    python benchmarks/channels.py show results.jsonl
    python benchmarks/channels.py draw results.jsonl channels.png

``run`` resumes: finished combinations in the file are skipped. The inner channels of all residual blocks, those between
the two convolutions, are removed at once, the same share in each block, by ``onnxinfo.prune_channels``; those of the
sums stay. The smaller ONNX models classify 1,000 test images. The seed chooses 64 calibration images from the training
images for all scores of a channel with values a, unit by unit:

- ``joint``: squared change of the logits by all removed channels together, ``|sum of J a|^2`` to first order, chosen
  one by one, with new Jacobians after each quarter, as ``onnxinfo recommend channels`` does;
- ``joint-once``: the same without new Jacobians;
- ``taylor-joint``: with labels, channels chosen one by one so that the sum of their ``g a`` is small, in the mean
  square, with the gradient g of the cross entropy;
- ``effect``: the squared change by each channel alone, ``|J a|^2``;
- ``jacobian``: squared Jacobian of the logits, ``tr(J^T J)``;
- ``taylor``: with labels, ``|g a|`` (Molchanov et al., 2017);
- ``activation``: mean of a;
- ``l1``: sum of the absolute weights that compute the channel;
- ``random``: chance.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from bits import bootstrap, predictions, prepared
from torch.nn.functional import cross_entropy

import onnxinfo
from onnxinfo import Model
from onnxinfo.analysis.channels import ChannelChooser, choose
from onnxinfo.analysis.sensitivity import measure_sensitivity
from onnxinfo.config import Config, configure
from onnxinfo.graph.channel_removal import Removal
from onnxinfo.metrics.taps import TappedNetwork
from onnxinfo.models.studies.script import as_script
from onnxinfo.workflows.sensitivity import open_sensitivity

COLORS = ("#000000", "#0072b2", "#56b4e9", "#d55e00", "#009e73", "#cc79a7", "#999999")
METHODS = ("joint", "effect", "jacobian", "taylor", "activation", "l1", "random")
JOINT = ("joint", "joint-once", "taylor-joint")
SHARES, CALIBRATION = (0.25, 0.5), 64
Scores = dict[str, np.ndarray[Any, Any]]
Chooser = Callable[[dict[str, int]], dict[str, list[int]]]


def inner(model: Model) -> list[str]:
    """Return the default layers whose channels can be removed from the model."""
    found = []
    for layer in onnxinfo.list_layers(model):
        try:
            if layer.default:
                Removal(model, {layer.name: {1: [0]}})
                found.append(layer.name)
        except onnxinfo.UsageError:
            continue
    return found


def scores(
    model: Model, names: list[str], images: Any, labels: Any, seed: int
) -> tuple[dict[str, Scores], dict[str, Chooser]]:
    """Return the scores of all channels by method and tensor, and what chooses several channels together."""
    config = configure(Config(), {"change": "absolute:1", "scale": 1.0, "mean": 0.0, "std": 1.0})
    opened = open_sensitivity(model, images, config)
    found = measure_sensitivity(opened.job, opened.target, names, lambda _: None, measure=False)
    chooser = ChannelChooser(opened.job, opened.target, dict.fromkeys(names, 1), lambda _: None)
    effects, _ = chooser.measure({})
    network = TappedNetwork(opened.job.network, [each.name for each in opened.job.layers].index(opened.target))
    places = {layer.name: i for i, layer in enumerate(opened.job.layers)}
    x, rows = opened.job.inputs(range(len(images)))
    ((_, given),) = network.parts(x, rows)
    logits = network.forward(given, len(x))
    values = [network.seen()[places[name]] for name in names]
    gradients = torch.autograd.grad(cross_entropy(logits, torch.from_numpy(labels), reduction="sum"), values)
    moves = {name: (g * a.detach()).sum((2, 3)).T.numpy() for name, g, a in zip(names, gradients, values, strict=True)}
    random = np.random.default_rng([seed, 1])
    return {
        "effect": {name: np.square(each).sum(1) for name, each in effects.items()},
        "jacobian": {each.layer.name: each.channels for each in found},
        "taylor": {name: np.abs(each).mean(1) for name, each in moves.items()},
        "activation": {name: a.detach().mean((0, 2, 3)).numpy() for name, a in zip(names, values, strict=True)},
        "l1": {name: absolute_weights(model, name) for name in names},
        "random": {name: random.random(len(effects[name])) for name in names},
    }, {
        "joint": lambda counts: chooser.choose(counts).removed,
        "joint-once": lambda counts: chooser.choose(counts, 1).removed,
        "taylor-joint": lambda counts: choose(moves, counts),
    }


def absolute_weights(model: Model, name: str) -> np.ndarray[Any, Any]:
    """Return the sum of the absolute weights that compute each channel of a tensor."""
    node = model.flow.nodes[model.flow.producer[name]]
    while node.op_type != "Conv":
        node = model.flow.nodes[model.flow.producer[node.input[0]]]
    weight = model.flow.constant(node.input[1])
    assert weight is not None
    return np.asarray(np.abs(onnx.numpy_helper.to_array(weight)).sum((1, 2, 3)))


def pruned(
    model: Model, images: Any, labels: Any, seed: int, wanted: list[tuple[str, float]]
) -> Iterator[tuple[str, float, Model]]:
    """Yield smaller models by method and share."""
    names = inner(model)
    found, choosers = scores(model, names, images, labels, seed)
    for method, share in wanted:
        counts = {name: round(share * len(each)) for name, each in found["random"].items()}
        if method in choosers:
            chosen = choosers[method](counts)
        else:
            ranked = {name: np.argsort(each, kind="stable") for name, each in found[method].items()}
            chosen = {name: ranked[name][: counts[name]].tolist() for name in names}
        yield method, share, onnxinfo.prune_channels(model, {name: {1: chosen[name]} for name in names})


def run(chosen: argparse.Namespace) -> None:
    """Measure what is not in the file yet."""
    torch.set_num_threads(1)
    with np.load(chosen.data) as data:
        train, answers = data["x_train"], data["y_train"].astype(np.int64)
        test, labels = prepared(data["x_test"]), data["y_test"]
    results = Path(chosen.results)
    done = {key(row) for row in rows_of(results)} if results.exists() else set()
    asked = [(method, share) for share in SHARES for method in {**dict.fromkeys(METHODS + JOINT)}]
    for seed in range(chosen.first, chosen.first + chosen.seeds):
        for path in map(Path, chosen.models):
            wanted = [each for each in asked if (path.stem, seed, *each) not in done]
            if not wanted:
                continue
            began, model = time.perf_counter(), onnxinfo.load(path)
            if (path.stem, seed, "none", 0.0) not in done:
                write(results, path.stem, seed, "none", 0.0, model, test, labels)
            picked = np.sort(np.random.default_rng(seed).choice(len(train), CALIBRATION, replace=False))
            for method, share, smaller in pruned(model, prepared(train[picked]), answers[picked], seed, wanted):
                write(results, path.stem, seed, method, share, smaller, test, labels)
            print(f"{time.perf_counter() - began:.0f} s", flush=True)


def write(results: Path, name: str, seed: int, method: str, share: float, model: Model, test: Any, labels: Any) -> None:
    """Classify the test images, and append a row to the results."""
    correct = predictions(model.proto, test) == labels
    row = {
        "model": name,
        "seed": seed,
        "method": method,
        "share": share,
        "correct": "".join("01"[int(c)] for c in correct),
    }
    with results.open("a") as file:
        file.write(json.dumps(row) + "\n")
    print(f"{name} seed {seed} {method} {share}: {correct.mean():.3f}", flush=True)


def rows_of(results: Path) -> list[dict[str, Any]]:
    """Return the finished rows."""
    return [json.loads(line) for line in results.read_text().splitlines()]


def key(row: dict[str, Any]) -> tuple[str, int, str, float]:
    """Return what a row is about."""
    return row["model"], row["seed"], row["method"], row["share"]


def show(chosen: argparse.Namespace) -> None:
    """Print mean accuracies over seeds, and the differences of ``joint`` with paired bootstrap errors."""
    found = {key(row): np.array([*map(int, row["correct"])]) for row in rows_of(Path(chosen.results))}
    for methods in (METHODS, JOINT):
        columns = [*methods, *(f"joint - {method}" for method in methods[1:])]
        print(f"| network | share | {' | '.join(columns)} |\n| {' | '.join(['---'] * (2 + len(columns)))} |")
        for model in [*dict.fromkeys(name for name, *_ in found)]:
            for share in SHARES:
                seeds = [s for s in range(100) if all((model, s, m, share) in found for m in methods)]
                if seeds:
                    grids = {m: np.stack([found[model, s, m, share] for s in seeds]) for m in methods}
                    cells = [f"{grids[m].mean():.3f}" for m in methods]
                    cells += [bootstrap(grids["joint"] - grids[m]) for m in methods[1:]]
                    print(f"| {model} ({len(seeds)} seeds) | {share} | {' | '.join(cells)} |")


def draw(chosen: argparse.Namespace) -> None:
    """Draw the mean accuracy over seeds against the share of removed channels."""
    from matplotlib.figure import Figure

    found = {key(row): row["correct"].count("1") / len(row["correct"]) for row in rows_of(Path(chosen.results))}
    models = [*dict.fromkeys(name for name, *_ in found)]
    figure = Figure((9, 3.2), layout="constrained")
    panels = figure.subplots(1, len(models), sharey=True, squeeze=False)[0]
    for axes, model in zip(panels, models, strict=True):
        seeds = [s for s in range(100) if all((model, s, m, share) in found for m in METHODS for share in SHARES)]
        for method, color in zip(METHODS, COLORS, strict=True):
            drawn = (
                [found[model, seed, "none", 0.0] for seed in seeds],
                *([found[model, seed, method, share] for seed in seeds] for share in SHARES),
            )
            means, spreads = [np.mean(each) for each in drawn], [np.std(each, ddof=1) for each in drawn]
            axes.errorbar((0, *SHARES), means, spreads, label=method, color=color, marker="o", markersize=3, lw=1.3)
        axes.axhline(0.1, color="0.6", lw=0.8, ls=":")
        axes.set_title(model.partition("-")[0].replace("resnet", "ResNet-"))
        axes.set_xticks((0, *SHARES), [f"{share:.0%}" for share in (0, *SHARES)])
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("accuracy, without training")
    panels[len(models) // 2].set_xlabel("channels removed from each block")
    panels[-1].legend(frameon=False, fontsize=8)
    figure.savefig(chosen.picture, dpi=150)


def main() -> None:
    """Run a part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(required=True)
    part = parts.add_parser("run")
    part.add_argument("results")
    part.add_argument("data", help=".npz with x_train, y_train, x_test and y_test, 8-bit images of 32 x 32 pixels")
    part.add_argument("models", nargs="+")
    part.add_argument("--first", type=int, default=3, help="first seed; 0 to 2 served to choose ``joint``")
    part.add_argument("--seeds", type=int, default=5)
    part.set_defaults(work=run)
    part = parts.add_parser("show")
    part.add_argument("results")
    part.set_defaults(work=show)
    part = parts.add_parser("draw")
    part.add_argument("results")
    part.add_argument("picture")
    part.set_defaults(work=draw)
    chosen = parser.parse_args()
    chosen.work(chosen)


if __name__ == "__main__":
    as_script(main)
