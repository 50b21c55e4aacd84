"""Depth (the paper's Fig. 3): networks of one family with increasing depth, layer by layer.

``python -m onnxinfo.models.studies.depth resnet20.onnx resnet32.onnx resnet44.onnx --inputs cifar10.npz:x_test \
--labels cifar10.npz:y_test --preset imagenet --decoder-inputs cifar10.npz:x_train -o study``

What is in the folder already is not done again: an interrupted study resumes, and may get more images.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

import onnxinfo
from onnxinfo.archive.means import layer_summary, pair_up, select_cells
from onnxinfo.views.style import COLORS

from .common import SEED, Array, add_decoder_options, decoder_options
from .script import RESUMES, as_script
from .tables import markdown, write_layers
from .verdicts import FRACTION, verdict_row


def main() -> None:
    """Measure all models, and write the archives, the tables and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--inputs", required=True)
    parser.add_argument("--labels")
    parser.add_argument("--preset")
    parser.add_argument("--layers", nargs="*", help="For each model, a comma-separated list of layers; default: all.")
    parser.add_argument("--limit", type=int, default=8, help="Number of samples for SID.")
    parser.add_argument("--ru-limit", type=int, help="Number of samples for RU; default: as for SID.")
    parser.add_argument("--normalize-by", choices=["dataset", "sample"], default="dataset")
    parser.add_argument("--effect", type=float, help="Reference effect in nats; default: a tenth of the first rise.")
    add_decoder_options(parser)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    chosen = [each.split(",") for each in options.layers] if options.layers else [[]] * len(options.models)
    if len(chosen) != len(options.models):
        parser.error(f"{len(options.models)} models, and layers of {len(chosen)}")
    limits = {"sid": options.limit} | ({"ru": options.ru_limit or options.limit} if options.decoder_inputs else {})
    archives = {metric: options.output / f"{metric}.h5" for metric in limits}
    for metric, archive in archives.items():
        decoders = decoder_options(options) if metric == "ru" else {}
        for model, layers in zip(options.models, chosen, strict=True):
            onnxinfo.analyze(
                model, options.inputs, archive, labels=options.labels, preset=options.preset, layers=layers,
                limit=limits[metric], metrics=[metric], normalize_by=options.normalize_by, run=model.stem, seed=SEED,
                **decoders,
            )  # fmt: skip
            print(f"measured: {metric} of {model.stem}", flush=True)
        write_layers(archive, [metric], options.output / f"depth-{metric}")
    rows = [row for metric, archive in archives.items() for row in power_rows(archive, metric, options.effect)]
    (options.output / "power.md").write_text(markdown(rows) if rows else "", encoding="utf-8")
    draw(archives, options.output / "depth.png")


def power_rows(archive: Path, metric: str, effect: float | None = None) -> Iterator[dict[str, Any]]:
    """Yield a line for each layer and each deeper network: whether its value is higher than that of the first.

    Parameters
    ----------
    archive
        Archive with a run of each network.
    metric
        The metric.
    effect
        Smallest difference that would matter, in nats. By default a tenth of the first network's rise from its first
        layer to its last, and no lines if there is none, as with one layer.
    """
    with onnxinfo.open(archive) as opened:
        first, *others = opened
        cells = {run: opened[run].values(metric) for run in opened}
        names = {run: [layer.name for layer in opened[run].layers] for run in opened}
    ends = [select_cells(cells[first], i) for i in (0, -1)]
    effect = FRACTION * pair_up(*ends).difference if effect is None else effect
    for run in others:
        if len(names[run]) != len(names[first]) or effect <= 0:
            continue
        for i, (shallow, deep) in enumerate(zip(names[first], names[run], strict=True)):
            found = pair_up(select_cells(cells[first], i), select_cells(cells[run], i))
            claim = f"depth: {metric.upper()} is higher in {run} ({deep}) than in {first} ({shallow})"
            yield verdict_row(claim, effect, found)


def draw(archives: Mapping[str, Path], path: Path) -> None:
    """Draw the means of each metric by layer, with two standard errors, for all networks."""
    figure, panels = plt.subplots(1, len(archives), figsize=(4 * len(archives), 3), layout="constrained", squeeze=False)
    for panel, (metric, archive) in zip(panels[0], archives.items(), strict=True):
        with onnxinfo.open(archive) as opened:
            found = {run: layer_summary(opened[run].values(metric)) for run in opened}
        for place, (run, means) in enumerate(found.items()):
            _line(panel, means, place, label=run)
        panel.set_xlabel("stage" if len(means["value"]) == 3 else "layer", fontsize=8)
        panel.set_ylabel(f"{metric.upper()}, nats", fontsize=8)
        panel.set_xticks(np.arange(len(means["value"])), np.arange(1, 1 + len(means["value"])))
        panel.tick_params(labelsize=7)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0, 0].legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _line(panel: Axes, means: Mapping[str, Array], place: int, label: str) -> None:
    x = np.arange(len(means["value"])) + 0.05 * place
    panel.errorbar(
        x, means["value"], 2 * means["stderr"], color=COLORS[place % len(COLORS)], marker="os^vD"[place % 5],
        markersize=4, capsize=2, linewidth=1.2, label=label,
    )  # fmt: skip


if __name__ == "__main__":
    as_script(main, RESUMES)
