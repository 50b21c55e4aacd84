"""Compression and robustness (the paper's Fig. 4b and Appendix A): a network pruned to several levels.

``python -m onnxinfo.models.studies.compression resnet20.onnx --inputs cifar10.npz:x_test --labels cifar10.npz:y_test \
--preset imagenet -o study``
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import onnxinfo

from .common import SEED, accuracy, converged_means, sample_shape, write_table

LEVELS = (1.0, 0.7, 0.5, 0.38, 0.2)


def main() -> None:
    """Prune, measure every level, and write the models, the archives, the table and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--inputs", required=True)
    parser.add_argument("--labels", required=True)
    parser.add_argument("--preset")
    parser.add_argument("--keep", type=float, nargs="*", default=LEVELS)
    parser.add_argument("--layers", nargs="*", default=[])
    parser.add_argument("--limit", type=int, default=8, help="Samples that SID is measured on.")
    parser.add_argument("--attacked", type=int, default=8, help="Samples that are attacked; 0 for no robustness.")
    parser.add_argument("--scored", type=int, default=1000, help="Samples that accuracy is measured on.")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    model = onnxinfo.load(options.model)
    samples = onnxinfo.open_samples(
        options.inputs,
        shape=sample_shape(model.proto),
        labels=options.labels,
        preset=options.preset,
        limit=options.scored,
    )
    assert samples.labels is not None
    x, labels = samples.batch(range(len(samples))), np.asarray(samples.labels)
    archive, attacks = options.output / "compression.h5", options.output / "robustness.h5"
    rows = []
    for keep in options.keep:
        pruned, run = onnxinfo.prune(model, keep), f"{keep:g} kept"
        onnxinfo.save(pruned, options.output / f"kept-{keep:g}.onnx")
        common = {"preset": options.preset, "run": run, "seed": SEED, "overwrite": True}
        onnxinfo.analyze(
            pruned, options.inputs, archive, layers=options.layers, limit=options.limit, metrics=["sid"], **common
        )
        row = {"kept": keep, "accuracy": accuracy(pruned.proto, x, labels)}
        row |= {f"SID of {layer}": mean for layer, mean, _, _ in converged_means(archive, "sid")[run]}
        if options.attacked:
            found = onnxinfo.robustness(
                pruned, options.inputs, attacks, labels=options.labels, limit=options.attacked, **common
            )
            row |= {"mean L2 norm": found.value, "stderr": found.stderr, "attacked": found.converged}
        rows.append(row)
        print(row, flush=True)
    write_table(rows, options.output / "compression")
    onnxinfo.plot(archive, "curve", options.output / "compression.png")


if __name__ == "__main__":
    main()
