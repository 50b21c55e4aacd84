"""Coherency (the paper's Fig. 1): effect of rescaling neighboring layers on each metric.

``python -m onnxinfo.models.studies.coherency resnet20.onnx --inputs cifar10.npz:x_test --preset imagenet -o study``

What is in the folder already is not done again: an interrupted study resumes, and may get more images.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import onnxinfo
from onnxinfo.config import COHERENCY_METRICS

from .common import SEED, add_decoder_options, decoder_options
from .tables import write_table


def main() -> None:
    """Rescale, measure both networks, and write the archive, the table and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--inputs", required=True)
    parser.add_argument("--preset")
    parser.add_argument("--layers", nargs="*", default=[])
    parser.add_argument("--limit", type=int, default=4)
    add_decoder_options(parser)
    parser.add_argument("--metric", nargs="*", help="Default: sid, gradient, gradcam, and ru if there are decoders.")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    archive = options.output / "coherency.h5"
    metrics = options.metric or [*COHERENCY_METRICS] + (["ru"] if options.decoder_inputs else [])
    found = onnxinfo.coherency(
        options.model, options.inputs, archive, metrics=metrics, preset=options.preset, layers=options.layers,
        limit=options.limit, seed=SEED, **decoder_options(options),
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
            "unproven": change.unproven,
        }
        for change in found.changes
    ]
    write_table(rows, options.output / "coherency")
    onnxinfo.plot(archive, "coherency", options.output / "coherency.png", samples=[0])


if __name__ == "__main__":
    main()
