"""Quantized networks: SID of a float network and of its quantized versions, below and above the rounding.

``python -m onnxinfo.models.studies.quantisation resnet20.onnx --inputs cifar10.npz:x_test --labels cifar10.npz:y_test \
--calibration cifar10.npz:x_train --preset imagenet --layers relu_6 relu_12 relu_18 logits -o study``
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import onnxinfo
from onnxinfo.archive.means import pair_up, select_cells

from .common import SEED, accuracy, sample_shape, versions_parser
from .quantise import quantized
from .script import RESUMES, as_script
from .tables import difference_text, mean_text, write_table

FLOAT = "float"


def main() -> None:
    """Quantize, measure every version at every alpha, and write the models, the archives, the table and the figure."""
    parser = versions_parser(__doc__)
    parser.add_argument("--calibration", required=True, help="Samples that determine the ranges of activations.")
    parser.add_argument("--layers", nargs="+", required=True, help="Tensors of the float model.")
    parser.add_argument(
        "--alphas", type=float, nargs=2, default=(1.5e-4, 0.01), help="One below and one above the rounding."
    )
    parser.add_argument("--calibrated", type=int, default=64, help="Number of samples for the calibration.")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    model = onnx.load(options.model)
    common: dict[str, Any] = {"shape": sample_shape(model), "preset": options.preset}
    samples = onnxinfo.open_samples(options.inputs, labels=options.labels, limit=options.scored, **common)
    calibration = onnxinfo.open_samples(options.calibration, limit=options.calibrated, **common)
    assert samples.labels is not None
    x, labels = samples.batch(range(len(samples))), np.asarray(samples.labels)
    models = {FLOAT: model, **quantized(model, calibration.batch(range(len(calibration))))}
    archives = [options.output / f"quantisation-{alpha:g}.h5" for alpha in options.alphas]
    scored = {}
    for run, version in models.items():
        onnx.save(version, options.output / f"{run.replace(',', '').replace(' ', '-')}.onnx")
        scored[run] = accuracy(version, x, labels)
        layers = counterparts(model, options.layers, version)
        for alpha, archive in zip(options.alphas, archives, strict=True):
            onnxinfo.analyze(
                version, options.inputs, archive, layers=layers, limit=options.limit, preset=options.preset,
                alpha=alpha, run=run, seed=SEED, overwrite=True,
            )  # fmt: skip
        print(f"measured: {run}, accuracy {scored[run]:.3f}", flush=True)
    rows = table(options.layers, dict(zip(options.alphas, archives, strict=True)), scored)
    write_table(rows, options.output / "quantisation")
    onnxinfo.plot(archives[-1], "curve", options.output / "quantisation.png")


def counterparts(model: onnx.ModelProto, layers: Sequence[str], version: onnx.ModelProto) -> list[str]:
    """Return the tensors of a quantized version that correspond to given tensors of the float model.

    That is the tensor after rounding, if it is rounded; in the QOperator format the integers. A ReLU may have been
    fused into the rounding, whose range then starts at zero: in that case, the tensor with its input's name is its
    output.
    """
    outputs = {value.name for value in version.graph.output}
    known = {layer.name for layer in onnxinfo.list_layers(version)}
    source = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "Relu"}
    found = []
    for name in layers:
        rounded = [f"{name}_DequantizeLinear_Output", f"{name}_quantized", f"{source.get(name)}_quantized"]
        found.append(name if name in outputs else next(each for each in (*rounded, name) if each in known))
    return found


def table(
    layers: Sequence[str], archives: Mapping[float, Path], accuracies: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Return one row per layer and version: accuracy, SID at each alpha, the smallest sound one, difference from float.

    That alpha is the largest value, over the images, of the smallest alpha at which rounding causes less than half of
    the deviation, as measured at the first alpha. The difference is at the last alpha.
    """
    rows: list[dict[str, Any]] = []
    values = {}
    for alpha, archive in archives.items():
        with onnxinfo.open(archive) as opened:
            values[alpha] = {run: opened[run].values("sid") for run in accuracies}
    usual, sound = archives
    for i, layer in enumerate(layers):
        for run, share in accuracies.items():
            least = float(values[usual][run]["resolution_alpha"][i].max())
            row: dict[str, Any] = {"layer": layer, "version": run, "accuracy": f"{share:.3f}"}
            row["smallest sound alpha"] = f"{least:.1g}"
            row |= {f"SID at alpha {alpha:g}": mean_text(values[alpha][run], i) for alpha in archives}
            pairs = pair_up(select_cells(values[sound][FLOAT], i), select_cells(values[sound][run], i))
            row[f"difference at {sound:g}"] = "" if run == FLOAT else difference_text(pairs)
            rows.append(row)
    return rows


if __name__ == "__main__":
    as_script(main, RESUMES)
