"""Coherency (the paper's Fig. 1): what rescaling neighbouring layers changes in each metric, and what it does not.

``python -m onnxinfo.models.studies.coherency resnet20.onnx --inputs cifar10.npz:x_test --preset imagenet -o study``
"""

from __future__ import annotations

import argparse
from pathlib import Path

import onnxinfo

from .common import SEED, write_table

METRICS = ("sid", "ru", "gradient", "gradcam")


def main() -> None:
    """Rescale, measure both, and write the archive, the table and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--inputs", required=True)
    parser.add_argument("--preset")
    parser.add_argument("--layers", nargs="*", default=[])
    parser.add_argument("--limit", type=int, default=4)
    parser.add_argument("--decoder-inputs", help="Samples that decoders are trained on.")
    parser.add_argument("--decoder-limit", type=int, default=1000)
    parser.add_argument("--metric", nargs="*", default=METRICS)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    archive = options.output / "coherency.h5"
    found = onnxinfo.coherency(
        options.model, options.inputs, archive, metrics=options.metric, preset=options.preset, layers=options.layers,
        limit=options.limit, decoder_inputs=options.decoder_inputs, seed=SEED, overwrite=True,
        decoder_limit=options.decoder_limit if options.decoder_inputs else None,
    )  # fmt: skip
    rows = [
        {
            "layer": change.layer,
            "metric": change.metric,
            "divided": "yes" if change.rescaled else "no",
            "before": change.before,
            "after": change.after,
            "difference": change.difference,
            "ratio": change.ratio,
            "samples": change.samples,
        }
        for change in found.changes
    ]
    write_table(rows, options.output / "coherency")
    onnxinfo.plot(archive, "coherency", options.output / "coherency.png", samples=[0])


if __name__ == "__main__":
    main()
