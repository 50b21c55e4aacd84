"""Compression and robustness (the paper's Fig. 4b and Appendix A): a network pruned to several levels.

``python -m onnxinfo.models.studies.compression resnet20.onnx --inputs cifar10.npz:x_test --labels cifar10.npz:y_test \
--preset imagenet -o study``
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import onnxinfo
from onnxinfo.archive.means import pair_up, select_cells

from .common import SEED, accuracy, mean_and_stderr, sample_shape, versions_parser
from .tables import write_table

LEVELS = (1.0, 0.7, 0.5, 0.38, 0.2)


def main() -> None:
    """Prune, measure every level, and write the models, the archives, the table and the figure."""
    parser = versions_parser(__doc__)
    parser.add_argument("--keep", type=float, nargs="*", default=LEVELS)
    parser.add_argument("--layers", nargs="*", default=[])
    parser.add_argument("--attacked", type=int, default=8, help="Number of samples to attack; 0 to skip robustness.")
    parser.add_argument("--normalize-by", choices=["dataset", "sample"], default="dataset")
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
    scored = {}
    for keep in options.keep:
        pruned, run = onnxinfo.prune(model, keep), f"{keep:g} kept"
        onnxinfo.save(pruned, options.output / f"kept-{keep:g}.onnx")
        common = {"preset": options.preset, "run": run, "seed": SEED, "overwrite": True}
        onnxinfo.analyze(
            pruned, options.inputs, archive, layers=options.layers, limit=options.limit, metrics=["sid"],
            normalize_by=options.normalize_by, **common,
        )  # fmt: skip
        scored[run] = accuracy(pruned.proto, x, labels)
        if options.attacked:
            onnxinfo.robustness(
                pruned, options.inputs, attacks, labels=options.labels, limit=options.attacked, **common
            )
        print(f"measured: {run}, accuracy {scored[run]:.3f}", flush=True)
    write_table(table(archive, attacks if options.attacked else None, scored), options.output / "compression")
    onnxinfo.plot(archive, "curve", options.output / "compression.png")


def table(archive: Path, attacks: Path | None, accuracies: Mapping[str, float]) -> list[dict[str, Any]]:
    """Return one row per level.

    SID, in nats, is the mean over the samples that have a value at all levels, followed by the difference in the last
    layer from the first level, its standard error, and the number of its images with an unproven value. The norm, in
    standard deviations of the input, is the mean over samples of that over the wrong classes reached.
    """
    rows: list[dict[str, Any]] = []
    with onnxinfo.open(archive) as opened:
        names = [layer.name for layer in opened[next(iter(accuracies))].layers]
        found = {run: opened[run].values("sid") for run in accuracies}
    attacked = {}
    if attacks:
        with onnxinfo.open(attacks) as opened:
            attacked = {run: opened[run].values("robustness") for run in accuracies}
    there = np.all([np.isfinite(values["value"]) for values in found.values()], axis=0)
    first = select_cells(next(iter(found.values())), -1)
    for run, share in accuracies.items():
        row: dict[str, Any] = {"run": run, "accuracy": share}
        values = found[run]["value"]
        row |= {f"SID of {name}": mean_and_stderr(values[i][there[i]])[0] for i, name in enumerate(names)}
        change = pair_up(first, select_cells(found[run], -1))
        row |= {"last, change": change.difference, "its stderr": change.stderr, "images": change.n}
        row["unproven"] = change.n_unproven
        if run in attacked:
            row["mean L2 norm"], row["stderr"], _ = mean_and_stderr(attacked[run]["value"][0])
            row["reached"] = float(attacked[run]["reached"].sum() / attacked[run]["targets"].sum())
        rows.append(row)
    return rows


if __name__ == "__main__":
    main()
