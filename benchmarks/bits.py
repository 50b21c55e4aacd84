"""Accuracy of real quantized models whose activations have few bits, divided among tensors by several scores.

    OMP_NUM_THREADS=1 python benchmarks/bits.py run results.jsonl cifar10.npz resnet20.onnx resnet32.onnx resnet44.onnx
    python benchmarks/bits.py show results.jsonl

``run`` resumes: finished combinations in the file are skipped. ONNX Runtime's quantizer makes each QDQ model, with int8
weights per channel and 8-bit activations; ``TensorQuantOverrides`` give the block outputs scales and zero points with
2^b values, b between 2 and 8. The seed chooses 64 calibration images, without labels, which also give all scores:

- ``uniform``: the same number of bits everywhere;
- ``sqnr``: power of the rounding errors over that of the values, measured;
- ``kl``: divergence of the class probabilities if only this tensor is rounded, one run per tensor and number of bits;
- ``hessian``: half the trace of J^T F J, with the Fisher information F of the probabilities, times step^2/12;
- ``jacobian``: trace of J^T J of the logits times step^2/12;
- ``recommended``: what ``onnxinfo recommend bits`` gives: the same, and averages are rounded to the scale of their
  operand, as the quantizer does.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

import onnxinfo
from onnxinfo.analysis.bits import Grid, allocate, uniform_noise
from onnxinfo.analysis.sensitivity import Measured, measure_sensitivity
from onnxinfo.config import Config, configure
from onnxinfo.metrics.sensitivity import Divergence
from onnxinfo.metrics.taps import TappedNetwork
from onnxinfo.models.studies.script import as_script
from onnxinfo.workflows.sensitivity import Opened, open_sensitivity

CHOICES, MEANS, METHODS = range(2, 9), (3, 4), ("uniform", "sqnr", "kl", "hessian", "jacobian", "recommended")
MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
Array = npt.NDArray[Any]


def prepared(images: Array) -> Array:
    """Return images as the networks take them."""
    return np.ascontiguousarray(((images / np.float32(255) - MEAN) / STD).transpose(0, 3, 1, 2).astype(np.float32))


class Reader(CalibrationDataReader):
    """Feeds calibration images one by one."""

    def __init__(self, name: str, images: Array) -> None:
        self._feeds = iter([{name: image[None]} for image in images])

    def get_next(self) -> dict[str, Array] | None:
        return next(self._feeds, None)


def quantized(model: Path, images: Array, overrides: dict[str, Any]) -> onnx.ModelProto:
    """Return the QDQ model of ONNX Runtime's quantizer."""
    name = onnx.load(model).graph.input[0].name
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "quantized.onnx"
        quantize_static(
            str(model), str(target), Reader(name, images), quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            op_types_to_quantize=["Conv", "Gemm", "AveragePool"], extra_options={"TensorQuantOverrides": overrides},
        )  # fmt: skip
        return onnx.load(target)


def override(grid: Grid) -> list[dict[str, Any]]:
    """Return the entry of one tensor in ``TensorQuantOverrides``."""
    return [{
        "scale": np.array(grid.step, np.float32), "zero_point": np.array(grid.zero_point, np.uint8),
        "quant_type": QuantType.QUInt8,
    }]  # fmt: skip


def predictions(model: onnx.ModelProto, images: Array) -> Array:
    """Return the predicted classes."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    parts = [session.run(None, {name: images[at : at + 100]})[0] for at in range(0, len(images), 100)]
    return np.concatenate(parts).argmax(1)


def scores(opened: Opened, found: list[Measured], fisher: list[Measured], grids: list[list[Grid]]) -> dict[str, Array]:
    """Return the loss of each tensor at each number of bits, by method."""
    job = opened.job
    network = TappedNetwork(job.network, next(i for i, each in enumerate(job.layers) if each.name == opened.target))
    places = {layer.name: i for i, layer in enumerate(job.layers)}
    x, rows = job.inputs(range(len(job.provider)))
    ((_, given),) = network.parts(x, rows)
    clean, values = network.begin(given, len(x))
    seen = network.seen()
    noise = np.array([uniform_noise(float(e.low.min()), float(e.high.max()), CHOICES) for e in found])
    sqnr, divergence = np.zeros_like(noise), np.zeros_like(noise)
    for i, each in enumerate(found):
        place = places[each.layer.name]
        for j, grid in enumerate(grids[i]):
            error = grid.rounded(seen[place]) - seen[place]
            sqnr[i, j] = float(error.double().square().sum() / seen[place].double().square().sum())
            moved = network.resume(values, place, lambda value, grid=grid: grid.rounded(value) - value, len(x))
            divergence[i, j] = float(Divergence().measure(clean, moved).mean())
    return {
        "sqnr": sqnr,
        "kl": divergence,
        "hessian": np.array([each.effect.mean() for each in fisher])[:, None] * noise,
        "jacobian": np.array([each.trace.mean() for each in found])[:, None] * noise,
    }


def run(chosen: argparse.Namespace) -> None:
    """Measure what is not in the file yet."""
    torch.set_num_threads(1)
    with np.load(chosen.data) as data:
        train, test, labels = data["x_train"], prepared(data["x_test"]), data["y_test"]
    results = Path(chosen.results)
    done = {key(row) for row in rows_of(results)} if results.exists() else set()
    for seed in range(chosen.seeds):
        for model in map(Path, chosen.models):
            wanted = [(m, b) for m in METHODS for b in MEANS if (model.stem, seed, m, b) not in done]
            if not wanted:
                continue
            began = time.perf_counter()
            picked = np.sort(np.random.default_rng(seed).choice(len(train), 64, replace=False))
            images = prepared(train[picked])
            for method, mean, bits, predicted in measured(model, images, test, wanted):
                row = {
                    "model": model.stem, "seed": seed, "method": method, "mean": mean, "bits": bits,
                    "images": len(labels), "correct": np.packbits(predicted == labels).tobytes().hex(),
                }  # fmt: skip
                with results.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                accuracy = float((predicted == labels).mean())
                print(f"{model.stem} seed {seed} {method} {mean}: {accuracy:.3f}", flush=True)
            print(f"{time.perf_counter() - began:.0f} s", flush=True)


def measured(
    model: Path, images: Array, test: Array, wanted: list[tuple[str, int]]
) -> Iterator[tuple[str, int, list[int], Array]]:
    """Yield predictions of quantized models, by method and mean number of bits."""
    opened, found = sensitivity(model, images, "relative:0.01")
    _, fisher = sensitivity(model, images, "kl:0.01")
    base = quantized(model, images, {each.layer.name: override(grids_of(each)[-1]) for each in found})
    rounded = {each.name for each in base.graph.initializer}
    # The quantizer leaves tensors alone that only pooling reads.
    found, fisher = ([e for e in each if f"{e.layer.name}_scale" in rounded] for each in (found, fisher))
    grids = [grids_of(each) for each in found]
    losses = scores(opened, found, fisher, grids)
    for method, mean in wanted:
        bits = divided(method, mean, losses, model, images, [each.layer.name for each in found])
        chosen = {each.layer.name: grid[CHOICES.index(b)] for each, grid, b in zip(found, grids, bits, strict=True)}
        made = quantized(model, images, {name: override(grid) for name, grid in chosen.items()})
        yield method, mean, bits, predictions(made, test)


def divided(
    method: str, mean: int, losses: dict[str, Array], model: Path, images: Array, tensors: list[str]
) -> list[int]:
    """Return the bits of tensors."""
    if method == "uniform":
        return [mean] * len(tensors)
    if method != "recommended":
        return allocate(losses[method], CHOICES, mean)
    options: dict[str, Any] = {"scale": 1.0, "mean": 0.0, "std": 1.0, "layers": tensors}
    plan = onnxinfo.recommend_bits(model, images, mean_bits=mean, **options)
    found = {each.tensor: each.bits for each in plan.tensors}
    return [found[name] for name in tensors]


def grids_of(each: Measured) -> list[Grid]:
    """Return the grids of a tensor, by number of bits."""
    return [Grid(float(each.low.min()), float(each.high.max()), bits) for bits in CHOICES]


def sensitivity(model: Path, images: Array, change: str) -> tuple[Opened, list[Measured]]:
    """Return the sensitivity of the logits to all block outputs, without corrections by noise."""
    config = configure(Config(), {"change": change, "scale": 1.0, "mean": 0.0, "std": 1.0})
    opened = open_sensitivity(str(model), images, config)
    names = opened.shown - {opened.target}
    return opened, measure_sensitivity(opened.job, opened.target, names, lambda _: None, measure=False)


def rows_of(results: Path) -> list[dict[str, Any]]:
    """Return the finished rows."""
    return [json.loads(line) for line in results.read_text().splitlines()]


def correct(row: dict[str, Any]) -> Array:
    """Return 1 for each test image that is classified as labeled, else 0."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(row["correct"]), np.uint8))[: row["images"]].astype(int)


def key(row: dict[str, Any]) -> tuple[str, int, str, int]:
    """Return what a row is about."""
    return row["model"], row["seed"], row["method"], row["mean"]


def show(chosen: argparse.Namespace) -> None:
    """Print the mean accuracy over seeds, and the difference of ``recommended`` with paired bootstrap errors."""
    found = {key(row): correct(row) for row in rows_of(Path(chosen.results))}
    models = [*dict.fromkeys(name for name, *_ in found)]
    print(
        "| network | mean bits | "
        + " | ".join(METHODS)
        + " | "
        + " | ".join(f"recommended - {m}" for m in METHODS[:-1])
        + " |"
    )
    print("| --- " * (2 + 2 * len(METHODS) - 1) + "|")
    for model in models:
        for mean in MEANS:
            seeds = [s for s in range(100) if all((model, s, m, mean) in found for m in METHODS)]
            grids = {m: np.stack([found[model, s, m, mean] for s in seeds]) for m in METHODS}
            accuracies = [f"{grids[m].mean():.3f}" for m in METHODS]
            differences = [bootstrap(grids["recommended"] - grids[m]) for m in METHODS[:-1]]
            print(f"| {model} ({len(seeds)} seeds) | {mean} | " + " | ".join([*accuracies, *differences]) + " |")


def bootstrap(difference: Array) -> str:
    """Return a mean difference with its error: seeds and test images are drawn anew, the same for both methods."""
    random = np.random.default_rng(0)
    seeds, images = difference.shape
    means = [
        difference[random.integers(seeds, size=seeds)][:, random.integers(images, size=images)].mean()
        for _ in range(2000)
    ]
    return f"{difference.mean():+.3f} ± {np.std(means):.3f}"


def main() -> None:
    """Run a part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(required=True)
    part = parts.add_parser("run")
    part.add_argument("results")
    part.add_argument("data", help=".npz with x_train, x_test and y_test, 8-bit images of 32 x 32 pixels")
    part.add_argument("models", nargs="+")
    part.add_argument("--seeds", type=int, default=5)
    part.set_defaults(work=run)
    part = parts.add_parser("show")
    part.add_argument("results")
    part.set_defaults(work=show)
    chosen = parser.parse_args()
    chosen.work(chosen)


if __name__ == "__main__":
    as_script(main)
