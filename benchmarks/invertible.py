"""What does discarding mean where nothing can be lost? SID and RU of invertible classifiers beside a ResNet.

    OMP_NUM_THREADS=1 python benchmarks/invertible.py run FOLDER --seeds 0 1 2
    OMP_NUM_THREADS=1 python benchmarks/invertible.py longer FOLDER
    python benchmarks/invertible.py show benchmarks/results/invertible.csv
    python benchmarks/invertible.py draw benchmarks/results/invertible.csv docs/pictures/invertible.png

``run`` trains the networks of ``invertible_networks.py`` on scikit-learn's digits, exports them to ONNX and analyzes
them on held-out images; it resumes, and writes ``FOLDER/invertible.csv`` with one line per seed, network and layer:

- ``sid``: mean over the images, each with a budget relative to its own D, and ``unproven`` of them;
- ``full``: what SID would be if the noise of units could be correlated, ``.5 log(alpha D / n) - log|det J| / n + C``,
  from the singular values of the exact Jacobian J; infinite where J is singular;
- ``rank``: number of singular values above 1e-5 of the largest: the dimensions of the image that the layer keeps;
- ``inverse_error``: root mean square error of the image from the layer by the network's own inverse, in standard
  deviations of the pixels;
- ``ru``, ``ru_unproven``, ``decoder_error``: RU with a trained decoder; ``ru_inverse_excess``,
  ``ru_inverse_unproven``: RU with the inverse as decoder, minus SID of the same
  images; not for i-ResNets, whose inverse takes hundreds of steps.

``longer`` trains decoders of the last block for more steps, with the networks of one seed.
"""

from __future__ import annotations

import argparse
import copy
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pandas
import torch
from common import add_views
from invertible_networks import BLOCKS, BY_FORMULA, INVERTIBLE, KINDS, Classifier, Inverse, export, train
from torch import Tensor

import onnxinfo
from onnxinfo.archive.means import mean_and_stderr, unproven
from onnxinfo.config import SidConfig
from onnxinfo.metrics.linearization import linearize
from onnxinfo.metrics.network import Network
from onnxinfo.metrics.noise import ENTROPY, make_tie
from onnxinfo.metrics.probe import LayerProbe
from onnxinfo.metrics.reconstruction import Reconstruction
from onnxinfo.metrics.ru import Problem, RuSolution, solve_ru
from onnxinfo.models.datasets import Split, digits
from onnxinfo.models.studies.script import as_script
from onnxinfo.views.style import COLORS

#: Mean and standard deviation of the training images' pixels, as fractions of the largest value.
MEAN, STD = 0.3056, 0.3760
ALPHA, SIGMA_MAX = 1.5e-4, SidConfig.sigma_max
FLOOR = 0.5 * math.log(ALPHA) + ENTROPY
#: Images for SID, for RU, and for RU with the inverse.
IMAGES, RU_IMAGES, INVERSE_IMAGES = 32, 8, 4
#: Training of the decoders, one for each block.
DECODER = {"decoder_steps": 400, "decoder_width": 16}
LAYERS = [f"block_{depth}" for depth in range(1, BLOCKS + 1)]
SINGULAR, TOGETHER = 1e-5, 4096
Array = npt.NDArray[Any]


def standardized(images: Array) -> Tensor:
    """Return images (N, 8, 8) as the networks take them, (N, 1, 8, 8)."""
    return ((torch.from_numpy(images).float() / 255 - MEAN) / STD)[:, None]


def trained(kind: str, seed: int, data: Split) -> Classifier:
    """Train a network."""
    torch.manual_seed(seed)
    network = Classifier(KINDS[kind])
    train(network, standardized(data.x_train), torch.from_numpy(data.y_train))
    return network


def analyzed(
    model: onnx.ModelProto, data: Split, archive: Path, run: str, seed: int
) -> Iterator[tuple[dict[str, Any], float]]:
    """Yield SID and RU of each layer, measured by onnxinfo, and SID of the images for RU with the inverse alone."""
    shared = {
        "mean": MEAN, "std": STD, "alpha": ALPHA, "normalize_by": "sample", "seed": seed, "overwrite": True,
        "threads": 1, "device": "cpu",
    }  # fmt: skip
    onnxinfo.analyze(model, data.x_test[:IMAGES], archive, layers=[*LAYERS, "logits"], run=run, **shared)
    onnxinfo.analyze(
        model, data.x_test[:RU_IMAGES], archive, layers=LAYERS, run=f"{run}, RU", metrics=["ru"],
        decoder_inputs=data.x_train, decoders=archive.with_name("decoders"), **DECODER, **shared,
    )  # fmt: skip
    with onnxinfo.open(archive) as opened:
        sid, ru = cells_by_layer(opened[run], "sid"), cells_by_layer(opened[f"{run}, RU"], "ru")
    for layer in (*LAYERS, "logits"):
        found = {"layer": layer, "sid": sid[layer]["value"].mean(), "unproven": int(unproven(sid[layer]).sum())}
        if layer in ru:
            found |= {"ru": ru[layer]["value"].mean(), "ru_unproven": int(unproven(ru[layer]).sum())}
            found["decoder_error"] = ru[layer]["decoder_error"][0]
        yield found, float(sid[layer]["value"][:INVERSE_IMAGES].mean())


def cells_by_layer(run: onnxinfo.Run, metric: str) -> dict[str, dict[str, Array]]:
    """Return the cells of each layer."""
    values = run.values(metric)
    return {layer.name: {key: each[i] for key, each in values.items()} for i, layer in enumerate(run.layers)}


def jacobians(network: Classifier, x: Tensor, depth: int) -> Tensor:
    """Return the Jacobian of a block's output, or of the class scores at depth 0, at each image, in float64."""
    single = torch.func.jacrev(lambda image: network.feature(image[None], depth)[0])
    return torch.func.vmap(single)(x.double()).flatten(2)


def local(network: Classifier, x: Tensor, depth: int) -> dict[str, float]:
    """Return what the Jacobian says: full SID, and the dimensions that are kept."""
    values = torch.linalg.svdvals(jacobians(copy.deepcopy(network).double(), x, depth))
    units = x[0].numel()
    squares = torch.nn.functional.pad(values.square(), (0, units - values.shape[1]))
    kept = values > SINGULAR * values[:, :1]
    whole = kept.sum(1) == units
    full = torch.where(whole, FLOOR + 0.5 * (squares.mean(1).log() - squares.log().mean(1)), math.inf)
    return {"full": float(full.mean()), "rank": float(kept.sum(1).float().mean())}


def inverse_error(network: Classifier, x: Tensor, depth: int) -> float:
    """Return the root mean square error of the images that the inverse computes from a block's output."""
    return float((Inverse(network, depth)(network.feature(x, depth)) - x).square().mean().sqrt())


def ru_by_inverse(network: Classifier, model: onnx.ModelProto, x: Tensor, depth: int) -> RuSolution:
    """Solve RU of a block of the ONNX model with the network's inverse as its decoder."""
    streams, rows = [torch.Generator().manual_seed(stream) for stream in range(3)], torch.arange(len(x))
    converted = Network(onnxinfo.convert(model, [f"block_{depth}"]))
    unit = torch.ones_like(x[:1])
    start = linearize(converted, x, unit, rows, streams[2])[0]
    feature = LayerProbe(converted, x, unit, rows, streams[0], streams[1], TOGETHER)
    reconstruction = Reconstruction(feature, Inverse(network, depth), "input")
    tie = make_tie("unit", tuple(x.shape[1:]), ("channel", "y", "x"))
    return solve_ru(Problem.of(reconstruction, start, ALPHA * start.normalizer, tie, SIGMA_MAX))


def piece(kind: str, seed: int, folder: Path) -> list[dict[str, Any]]:
    """Train, export and measure one network: one row per layer."""
    data = digits()
    network = trained(kind, seed, data)
    model, x = export(network), standardized(data.x_test)
    onnx.save(model, folder / f"{kind}-{seed}.onnx")
    accuracy = float((network(x)[0].argmax(1).numpy() == data.y_test).mean())
    rows = []
    for found, first in analyzed(model, data, folder / "invertible.h5", f"{kind} {seed}", seed):
        depth = 0 if found["layer"] == "logits" else int(found["layer"].removeprefix("block_"))
        row = {"network": kind, "seed": seed, "accuracy": accuracy, **found, **local(network, x[:IMAGES], depth)}
        if kind in INVERTIBLE and depth:
            row["inverse_error"] = inverse_error(network, x[:IMAGES], depth)
        if "ru" in row and kind in BY_FORMULA:
            solution = ru_by_inverse(network, model, x[:INVERSE_IMAGES], depth)
            row["ru_inverse_excess"] = float(solution.entropy.mean()) - first
            row["ru_inverse_unproven"] = int((~solution.certificate.converged).sum())
        rows.append(row)
    return rows


def run(chosen: argparse.Namespace) -> None:
    """Measure the networks that are not in the file yet."""
    torch.set_num_threads(1)
    chosen.folder.mkdir(parents=True, exist_ok=True)
    results = chosen.folder / "invertible.csv"
    rows = pandas.read_csv(results).to_dict("records") if results.exists() else []
    done = {(row["network"], row["seed"]) for row in rows}
    for seed in chosen.seeds:
        for kind in KINDS:
            if (kind, seed) not in done:
                rows += piece(kind, seed, chosen.folder)
                pandas.DataFrame(rows).to_csv(results, index=False, float_format="%.6g")
                print(f"measured: {kind}, seed {seed}, accuracy {rows[-1]['accuracy']:.3f}", flush=True)


def train_longer(chosen: argparse.Namespace) -> None:
    """Print the held-out error of decoders of the last block that are trained for more steps."""
    torch.set_num_threads(1)
    data, layer = digits(), f"block_{BLOCKS}"
    print("| network | steps | done | decoder's error |\n| --- | ---: | ---: | ---: |")
    for kind in KINDS:
        for steps in chosen.steps:
            folder = chosen.folder / f"decoders-{kind}-{steps}"
            (found,) = onnxinfo.train_decoder(
                chosen.folder / f"{kind}-{chosen.seed}.onnx", data.x_train, folder, layers=[layer], steps=steps,
                width=DECODER["decoder_width"], mean=MEAN, std=STD, seed=chosen.seed, device="cpu",
            )  # fmt: skip
            print(f"| {kind} | {steps} | {found.steps} | {found.error:.3f} |", flush=True)


def tables(path: Path) -> str:
    """Return the tables of the study: means over training seeds, with their standard errors."""
    found = pandas.read_csv(path)
    lines = ["| network | accuracy |", "| --- | ---: |"]
    lines += [
        f"| {kind} | {text(found[(found.network == kind) & (found.layer == 'logits')].accuracy)} |" for kind in KINDS
    ]
    lines += ["", "| layer | network | SID | unproven | dimensions kept | full SID | error of the inverse |"]
    lines.append("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    for layer, kind, rows in groups(found, [*LAYERS, "logits"]):
        cells = [layer, kind, text(rows.sid), share(rows.unproven, IMAGES), f"{rows['rank'].mean():.1f}"]
        cells.append("∞" if np.isinf(rows.full).any() else text(rows.full))
        cells.append("" if rows.inverse_error.isna().any() else f"{rows.inverse_error.max():.0e}")
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| layer | network | decoder's error | RU, decoder | unproven | RU, inverse, - SID | unproven |"]
    lines.append("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    for layer, kind, rows in groups(found, LAYERS):
        cells = [layer, kind, text(rows.decoder_error), text(rows.ru), share(rows.ru_unproven, RU_IMAGES)]
        exact = kind in BY_FORMULA
        cells += (
            [text(rows.ru_inverse_excess, "+"), share(rows.ru_inverse_unproven, INVERSE_IMAGES)] if exact else ["", ""]
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def groups(found: pandas.DataFrame, layers: Sequence[str]) -> Iterator[tuple[str, str, pandas.DataFrame]]:
    """Yield the rows of all seeds by layer and network."""
    for layer in layers:
        for kind in KINDS:
            yield layer, kind, found[(found.layer == layer) & (found.network == kind)]


def text(values: pandas.Series, sign: str = "") -> str:
    """Return a mean over seeds with its standard error."""
    mean, stderr, _ = mean_and_stderr(values)
    return f"{mean:{sign}.3f} ± {stderr:.3f}"


def share(counts: pandas.Series, of: int) -> str:
    """Return how many of the cells of all seeds are unproven."""
    return f"{int(counts.sum())} of {of * len(counts)}"


def draw(chosen: argparse.Namespace) -> None:
    """Draw SID, the dimensions kept, and RU, by block, with two standard errors over seeds."""
    import matplotlib.pyplot as plt

    found = pandas.read_csv(chosen.results)
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(7.2, 2.7), layout="constrained")
    for place, kind in enumerate(KINDS):
        style = {
            "color": COLORS[(0, 2, 4, 5)[place]],
            "marker": "osD^"[place],
            "markersize": 4,
            "capsize": 2,
            "linewidth": 1.2,
        }
        rows = found[(found.network == kind) & (found.layer != "logits")]
        depths = rows.layer.str.removeprefix("block_").astype(int)
        for panel, column in ((left, "sid"), (middle, "rank"), (right, "ru")):
            by_depth = rows[column].groupby(depths).apply(lambda each: mean_and_stderr(each)[:2]).dropna()
            by_depth = by_depth[[np.isfinite(mean) for mean, _ in by_depth]]
            panel.errorbar(
                by_depth.index + 0.06 * (place - 1.5), [mean for mean, _ in by_depth],
                [2 * stderr for _, stderr in by_depth], label=kind, **style,
            )  # fmt: skip
        if kind in BY_FORMULA:
            exact = (rows.ru_inverse_excess + rows.sid).groupby(depths).mean().dropna()
            right.plot(
                exact.index + 0.06 * (place - 1.5),
                exact,
                linestyle=":",
                **{k: v for k, v in style.items() if k != "capsize"},
            )
    left.axhline(FLOOR, color="0.4", linestyle="--", linewidth=0.8)
    left.set_ylim(FLOOR - 0.03)
    left.annotate("floor", (6, FLOOR), xytext=(0, -9), ha="right", textcoords="offset points", fontsize=7, color="0.3")
    for panel, title in ((left, "SID, nats"), (middle, "dimensions kept, of 64"), (right, "RU, nats")):
        panel.set_title(title, fontsize=9)
        panel.set_xlabel("block", fontsize=8)
        panel.tick_params(labelsize=7)
        panel.spines[["top", "right"]].set_visible(False)
    middle.set_ylim(0, 68)
    right.set_ylim(-3.2, -0.1)
    right.annotate("trained decoders", (0.97, 0.93), xycoords="axes fraction", ha="right", fontsize=7, color="0.3")
    right.annotate("inverse as decoder", (0.97, 0.2), xycoords="axes fraction", ha="right", fontsize=7, color="0.3")
    middle.legend(fontsize=7, frameon=False, loc="lower left")
    figure.savefig(chosen.picture, dpi=150)


def main() -> None:
    """Run, show or draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    running = commands.add_parser("run")
    running.add_argument("folder", type=Path)
    running.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    running.set_defaults(do=run)
    longer = commands.add_parser("longer")
    longer.add_argument("folder", type=Path, help="folder of run")
    longer.add_argument("--steps", type=int, nargs="+", default=[400, 1600])
    longer.add_argument("--seed", type=int, default=0)
    longer.set_defaults(do=train_longer)
    add_views(commands, tables, draw)
    chosen = parser.parse_args()
    chosen.do(chosen)


if __name__ == "__main__":
    as_script(main)
