"""Compression and robustness (the paper's Fig. 4b and Appendix A): a network pruned to several levels.

``python -m onnxinfo.models.studies.compression resnet20.onnx --inputs cifar10.npz:x_test --labels cifar10.npz:y_test \
--preset imagenet -o study``

What is in the folder already is not done again: an interrupted study resumes, and may get more images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas

import onnxinfo
from onnxinfo.archive.means import layer_summary, pair_up, select_cells

from .attack import Known, distances
from .common import SEED, Array, accuracy, sample_shape, scores, versions_parser
from .script import RESUMES, as_script
from .tables import Rows, difference_text, markdown, mean_text, write_table
from .verdicts import differences, verdict_row

LEVELS = (1.0, 0.7, 0.5, 0.38, 0.2)
#: Changes in the paper's appendix A between all weights and 8 % of them: of SID in nats, and of the norm, relative.
EFFECT = 0.033
NORM_EFFECT = 1 - 0.00109 / 0.00276


def main() -> None:
    """Prune, measure every level, and write the models, the archive, the attacks, the tables and the figure."""
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
    archive, attacks = options.output / "compression.h5", options.output / "attacks.csv"
    scored = {}
    for keep in options.keep:
        pruned, run = onnxinfo.prune(model, keep), f"{keep:g} kept"
        onnxinfo.save(pruned, options.output / f"kept-{keep:g}.onnx")
        onnxinfo.analyze(
            pruned, options.inputs, archive, layers=options.layers, limit=options.limit, metrics=["sid"],
            normalize_by=options.normalize_by, preset=options.preset, run=run, seed=SEED,
        )  # fmt: skip
        scored[run] = accuracy(pruned.proto, x, labels)
        attack(pruned, run, x, labels, options.attacked, attacks)
        print(f"measured: {run}, accuracy {scored[run]:.3f}", flush=True)
    found = pandas.read_csv(attacks) if options.attacked else None
    rows, shown = table(archive, found, scored)
    write_table(rows, options.output / "compression", shown=shown)
    (options.output / "power.md").write_text(markdown(power_rows(archive, found, scored)), encoding="utf-8")
    onnxinfo.plot(archive, "curve", options.output / "compression.png")


def attack(model: onnxinfo.Model, run: str, x: Array, labels: Array, count: int, path: Path) -> None:
    """Add the distances of the first samples to each wrong class, unless they are there."""
    done = pandas.read_csv(path) if path.exists() else pandas.DataFrame({"run": [], "image": []})
    left = [i for i in range(count) if not ((done.run == run) & (done.image == i)).any()]
    if not left:
        return
    known = Known(x, scores(model.proto, x).argmax(1))
    network = onnxinfo.convert(model, [model.proto.graph.output[0].name])
    for i in left:
        targets = [each for each in range(int(labels.max()) + 1) if each != labels[i]]
        norms = distances(lambda y: network(y)[0], x[i], known, targets)
        rows = pandas.DataFrame({"run": run, "image": i, "target": targets, "norm": norms})
        rows.to_csv(path, mode="a", index=False, header=not path.exists(), float_format="%.6g")


def table(
    archive: Path, attacks: pandas.DataFrame | None, accuracies: Mapping[str, float]
) -> tuple[list[dict[str, Any]], Rows]:
    """Return one row per level: numbers, and text with errors.

    SID, in nats, is the mean over all samples with a value. From the second level on, the text shows differences from
    the first. Norms, in standard deviations of the input, are means over samples of the mean over the wrong classes
    reached, and of the smallest.
    """
    first = next(iter(accuracies))
    with onnxinfo.open(archive) as opened:
        names = [layer.name for layer in opened[first].layers]
        found = {run: opened[run].values("sid") for run in accuracies}
    rows, shown = [], []
    for run, share in accuracies.items():
        row: dict[str, Any] = {"run": run, "accuracy": share}
        text = {"run": run, "accuracy": f"{share:.3f}"}
        means = layer_summary(found[run])["value"]
        for i, name in enumerate(names):
            change = pair_up(select_cells(found[first], i), select_cells(found[run], i))
            row[f"SID of {name}"] = float(means[i])
            row[f"change of {name}"] = vars(change)
            text[f"SID of {name}"] = mean_text(found[run], i) if run == first else difference_text(change)
        if attacks is not None:
            more, words = _norms(attacks, first, run)
            row, text = row | more, text | words
        rows.append(row)
        shown.append(text)
    return rows, shown


def _norms(attacks: pandas.DataFrame, first: str, run: str) -> tuple[dict[str, float], dict[str, str]]:
    before, after = (norms(attacks, each) for each in (first, run))
    row, text = {"reached": float(np.isfinite(after).mean())}, {}
    for name, kind in (("mean L2 norm", np.nanmean), ("to the nearest", np.nanmin)):
        own = differences(kind(after, axis=1), 0)
        change = differences(kind(after, axis=1) - kind(before, axis=1), 0)
        row |= {name: own.difference, f"change of {name}": change.difference, "its stderr": change.stderr}
        text[name] = f"{own.difference:.2f} ± {own.stderr:.2f}" if run == first else difference_text(change, 2)
    return row, text | {"reached": f"{row['reached']:.3f}"}


def norms(attacks: pandas.DataFrame, run: str) -> Array:
    """Return the norms for each image and wrong class, (S, classes - 1); NaN where a class was not reached."""
    found = attacks[attacks.run == run].sort_values(["image", "target"])
    each = found.norm.to_numpy().reshape(found.image.nunique(), -1)
    return np.where(np.isfinite(each), each, np.nan)


def power_rows(
    archive: Path, attacks: pandas.DataFrame | None, accuracies: Mapping[str, float]
) -> Sequence[dict[str, Any]]:
    """Return a line for each pruned level: whether SID of the last layer falls, and whether robustness does."""
    first, *others = accuracies
    with onnxinfo.open(archive) as opened:
        last = {run: select_cells(opened[run].values("sid"), -1) for run in accuracies}
        name = opened[first].layers[-1].name
    lines = [
        verdict_row(
            f"pruning: SID of {name} falls, {run}, accuracy {accuracies[run]:.3f}",
            EFFECT, pair_up(last[first], last[run]), -1,
        )
        for run in others
    ]  # fmt: skip
    return lines + ([] if attacks is None else norm_rows(attacks, [*accuracies]))


def norm_rows(attacks: pandas.DataFrame, runs: Sequence[str]) -> list[dict[str, Any]]:
    """Return a line for each run but the first: whether the mean norm over the wrong classes is lower than there."""
    first, *others = runs
    before = norms(attacks, first)
    effect = NORM_EFFECT * float(np.nanmean(before))
    return [
        verdict_row(
            f"pruning: the norm of perturbations falls, {run}",
            effect, differences(np.nanmean(norms(attacks, run) - before, axis=1), 0), -1,
        )
        for run in others
    ]  # fmt: skip


if __name__ == "__main__":
    as_script(main, RESUMES)
