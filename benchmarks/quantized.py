"""Analysis of quantized versions of a network: time against the float network, and values of ``--dequantize``.

``python benchmarks/quantized.py resnet20.onnx --inputs cifar10.npz:x_test --calibration cifar10.npz:x_train
--preset imagenet --layers relu relu_6 relu_12``: seconds of CPU time in one process, the shortest of several runs that
take turns. The first table has one evaluation of a batch, and one with its gradient; the last whole analyses, at the
budget given by ``--alpha``, which should be above the rounding.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from common import analysis_parser, machine

import onnxinfo
from onnxinfo.graph.engine import Engine
from onnxinfo.models.studies.common import sample_shape
from onnxinfo.models.studies.quantisation import FLOAT, counterparts
from onnxinfo.models.studies.quantise import quantized
from onnxinfo.models.studies.script import as_script
from onnxinfo.torch_graph.dequantize import dequantize

VERSIONS = ("int8 QDQ", "int8 QOperator", "int8 dynamic")


def main() -> None:
    """Quantize, measure in turns, and print the tables."""
    parser = analysis_parser(__doc__)
    parser.add_argument("--calibration", required=True)
    parser.add_argument("--alpha", type=float, default=0.01)
    parser.add_argument("--limit", type=int, default=4)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--versions", nargs="+", choices=VERSIONS, default=list(VERSIONS))
    options = parser.parse_args()
    model = onnx.load(options.model)
    common: dict[str, Any] = {"shape": sample_shape(model), "preset": options.preset}
    x = onnxinfo.open_samples(options.inputs, limit=options.batch, **common).batch(range(options.batch))
    calibration = onnxinfo.open_samples(options.calibration, limit=32, **common).batch(range(32))
    versions = quantized(model, calibration)
    models = {FLOAT: model, **{name: versions[name] for name in options.versions}}
    print(machine())
    print_passes(models, x, options.repeats)
    print_scores(models, x)
    print_analyses(models, x[: options.limit], options)


def print_passes(models: Mapping[str, onnx.ModelProto], x: np.ndarray, repeats: int) -> None:
    """Print the time of an evaluation, without and with its gradient, relative to the float network's."""
    modules = {name: onnxinfo.convert(model) for name, model in models.items()}
    spent: dict[str, list[float]] = {name: [np.inf, np.inf] for name in models}
    for _ in range(5 * repeats):
        for name, module in modules.items():
            for i in range(2):
                began = time.process_time()
                leaf = torch.from_numpy(x).requires_grad_(bool(i))
                score = module(leaf)[0]
                if i:
                    score.sum().backward()
                spent[name][i] = min(spent[name][i], time.process_time() - began)
    print("\n| version | evaluation | with gradient |\n| --- | ---: | ---: |")
    for name, seconds in spent.items():
        ratios = [f"{a / b:.2f}" for a, b in zip(seconds, spent[FLOAT], strict=True)]
        print(f"| {name} | {ratios[0]} | {ratios[1]} |")


def print_scores(models: Mapping[str, onnx.ModelProto], x: np.ndarray) -> None:
    """Print the largest difference of the outputs from the float network's, in percent of the largest output."""
    name = models[FLOAT].graph.input[0].name
    exact = Engine(models[FLOAT]).run({name: x})[0]
    print("\n| version | output | dequantized |\n| --- | ---: | ---: |")
    for version in list(models)[1:]:
        found = [Engine(proto).run({name: x})[0] for proto in (models[version], dequantize(models[version]).proto)]
        off = [f"{100 * np.abs(each - exact).max() / np.abs(exact).max():.1f} %" for each in found]
        print(f"| {version} | {off[0]} | {off[1]} |")


def print_analyses(models: Mapping[str, onnx.ModelProto], x: np.ndarray, options: Any) -> None:
    """Print time and SID of whole analyses, of every version as it is and dequantized."""
    runs = {(name, False): layers_of(models, name, options.layers) for name in models}
    runs |= {(name, True): options.layers for name in options.versions if "QOperator" not in name}
    spent = dict.fromkeys(runs, np.inf)
    values: dict[tuple[str, bool], Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(options.repeats):
            for run, layers in runs.items():
                began = time.process_time()
                result = onnxinfo.analyze(
                    models[run[0]], x, Path(folder) / "a.h5", layers=layers, dequantize=run[1], mean=0.0, std=1.0,
                    alpha=options.alpha, device=options.device, overwrite=True,
                )  # fmt: skip
                spent[run] = min(spent[run], time.process_time() - began)
                with onnxinfo.open(result.archive) as archive:
                    values[run] = archive[result.run].values("sid")
    exact = values[FLOAT, False]["value"]
    print(f"\nalpha {options.alpha:g}, {len(x)} samples; SID less the float network's, on average over the samples")
    print("\n| version | time | unproven |", *(f"{layer} |" for layer in options.layers))
    print("| --- |", "---: |" * (2 + len(options.layers)))
    for run, found in values.items():
        name = f"{run[0]}, dequantized" if run[1] else run[0]
        differences = " | ".join(f"{each:+.3f}" for each in np.mean(found["value"] - exact, axis=1))
        print(f"| {name} | {spent[run] / spent[FLOAT, False]:.2f} | {(found['mark'] != 0).sum()} | {differences} |")


def layers_of(models: Mapping[str, onnx.ModelProto], name: str, layers: Sequence[str]) -> list[str]:
    """Return the tensors of a version that correspond to layers of the float network."""
    return list(layers) if name == FLOAT else counterparts(models[FLOAT], layers, models[name])


if __name__ == "__main__":
    as_script(main)
