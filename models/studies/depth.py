"""Depth (the paper's Fig. 3): networks of one family with increasing depth, layer by layer.

``python -m onnxinfo.models.studies.depth resnet20.onnx resnet32.onnx resnet44.onnx --inputs cifar10.npz:x_test \
--labels cifar10.npz:y_test --preset imagenet --decoder-inputs cifar10.npz:x_train -o study``
"""

from __future__ import annotations

import argparse
from pathlib import Path

import onnxinfo

from .common import SEED, add_decoder_options, decoder_options
from .tables import write_layers


def main() -> None:
    """Measure all models, and write the archive, the table and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--inputs", required=True)
    parser.add_argument("--labels")
    parser.add_argument("--preset")
    parser.add_argument("--layers", nargs="*", help="For each model, a comma-separated list of layers; default: all.")
    parser.add_argument("--limit", type=int, default=8)
    add_decoder_options(parser)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    archive = options.output / "depth.h5"
    metrics = ["sid", *(["ru"] if options.decoder_inputs else [])]
    chosen = [each.split(",") for each in options.layers] if options.layers else [[]] * len(options.models)
    if len(chosen) != len(options.models):
        parser.error(f"{len(options.models)} models, and layers of {len(chosen)}")
    for model, layers in zip(options.models, chosen, strict=True):
        onnxinfo.analyze(
            model, options.inputs, archive, labels=options.labels, preset=options.preset, layers=layers,
            limit=options.limit, metrics=metrics, run=model.stem, seed=SEED, overwrite=True, **decoder_options(options),
        )  # fmt: skip
        print(f"measured: {model.stem}", flush=True)
    write_layers(archive, metrics, options.output / "depth")
    onnxinfo.plot(archive, "curve", options.output / "depth.png", metric=metrics)


if __name__ == "__main__":
    main()
