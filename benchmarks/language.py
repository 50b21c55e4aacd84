"""Which words do the layers of a transformer and of an LSTM use? Token-level SID under three normalizers.

    pip download --no-deps --no-binary vaderSentiment vaderSentiment==3.3.2
    OMP_NUM_THREADS=1 python benchmarks/language.py run FOLDER vaderSentiment-3.3.2.tar.gz --seeds 0 1 2
    OMP_NUM_THREADS=1 python benchmarks/language.py extend FOLDER vaderSentiment-3.3.2.tar.gz --seeds 0 1 2
    python benchmarks/language.py summarize FOLDER benchmarks/results/language.csv
    python benchmarks/language.py show benchmarks/results/language.csv
    python benchmarks/language.py draw benchmarks/results/language.csv docs/pictures/language.png

``run`` trains the networks of ``language_networks.py``, exports them to ONNX and analyzes held-out sentences with one
sigma per word (``share_sigma="pixel"``), before and after training; it resumes, and writes ``FOLDER/language.csv`` with
one line per seed, network, layer, normalizer and sentence: the mean H of the sentence's stop words, of its sentiment
words, and of its other words, and whether the cell is unproven. ``extend`` then measures the class scores of the
trained networks on all suitable sentences, and ``summarize`` writes means and paired differences. Words that the
vocabulary lacks count in none of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pandas
import torch
from common import add_views
from language_networks import (
    KINDS,
    UNKNOWN,
    Classifier,
    Sentences,
    export,
    mask_of,
    prepared,
    read_sentences,
    train,
    words_of,
)

import onnxinfo
from onnxinfo.archive.means import mean_and_stderr, unproven
from onnxinfo.models.studies.script import as_script
from onnxinfo.views.style import COLORS

STOP = words_of("""
    a an the and or but of to in on at by for from with as that this these it its it's is are was were be been has have
    had his her he she they their there so if than then which who what you your i we our all some about into
""")
SENTIMENT = words_of("""
    good great best better funny fun beautiful brilliant charming clever compelling delightful enjoyable entertaining
    excellent fascinating fine fresh gorgeous heart hilarious honest interesting intelligent love lovely masterpiece
    moving original perfect powerful pretty smart solid strong sweet touching warm witty wonderful worth bad boring
    cliched contrived dull fails flat lacks lame mess mediocre pointless predictable silly slow stupid tedious
    terrible tired ugly unfunny weak worst worse awful disappointing lack nothing never not no hardly too
""")
GROUPS = ("stop", "sentiment", "other")
#: Sentences that are analyzed, with at least this many words of each group.
SENTENCES, LEAST = 64, {"stop": 2, "sentiment": 1, "other": 2}
NORMALIZERS = ("sample", "dataset", "feature")
LAYERS = ("layer_1", "layer_2", "mean", "logits")
STATES, ALL = ("trained", "random weights"), "trained, all sentences"
Array = npt.NDArray[Any]


def groups_of(sentences: Sentences) -> dict[str, Array]:
    """Return which places belong to each group, (N, MOST) bool."""
    places = {word: i for i, word in enumerate(sentences.vocabulary)}
    found = {
        name: np.isin(sentences.tokens, [places[word] for word in words if word in places])
        for name, words in (("stop", STOP), ("sentiment", SENTIMENT))
    }
    return {**found, "other": (sentences.tokens > UNKNOWN) & ~found["stop"] & ~found["sentiment"]}


def chosen_sentences(held_out: Sentences, most: int | None = SENTENCES) -> Sentences:
    """Return the first held-out sentences with enough words of each group; all of them if no number is given."""
    groups = groups_of(held_out)
    enough = np.all([groups[name].sum(1) >= least for name, least in LEAST.items()], axis=0)
    return held_out.part(np.nonzero(enough)[0][:most])


def token_sid(model: onnx.ModelProto, sentences: Sentences, archive: Path, **options: Any) -> onnxinfo.Result:
    """Analyze the layers with one sigma per word."""
    feeds = {"tokens": sentences.tokens, "attention_mask": mask_of(torch.from_numpy(sentences.tokens)).numpy()}
    shared = {"layers": LAYERS, "share_sigma": "pixel", "threads": 1, "device": "cpu", "overwrite": True}
    return onnxinfo.analyze(model, feeds, archive, **(shared | options))


def rows_of(run: onnxinfo.Run, sentences: Sentences) -> Iterator[dict[str, Any]]:
    """Yield the mean H of each group of words, by layer and sentence."""
    groups = groups_of(sentences)
    cells = run.values("sid")
    for i, layer in enumerate(run.layers):
        words = run.maps("sid", i).mean(-1)  # All units of a word have the same value.
        failed = unproven({key: each[i] for key, each in cells.items()})
        for row in range(len(sentences.tokens)):
            means = {name: float(words[row][groups[name][row]].mean()) for name in GROUPS}
            yield {
                "layer": layer.name,
                "sentence": row,
                **means,
                "value": cells["value"][i, row],
                "unproven": int(failed[row]),
            }


def accuracy(model: onnx.ModelProto, sentences: Sentences) -> float:
    """Return the accuracy under ONNX Runtime."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    mask = mask_of(torch.from_numpy(sentences.tokens)).numpy()
    scores = session.run(["logits"], {"tokens": sentences.tokens, "attention_mask": mask})[0]
    return float((scores.argmax(1) == sentences.labels).mean())


def piece(kind: str, seed: int, state: str, data: tuple[Sentences, Sentences], folder: Path) -> list[dict[str, Any]]:
    """Train unless the weights are to be random, export and measure one network."""
    training, held_out = data
    torch.manual_seed(seed)
    network = Classifier(kind, len(training.vocabulary))
    if state == "trained":
        train(network, training)
    model, sentences, name = export(network), chosen_sentences(held_out), f"{kind} {seed} {state}"
    onnx.save(model, folder / f"{name.replace(' ', '-')}.onnx")
    shared = {"network": kind, "seed": seed, "state": state, "accuracy": accuracy(model, held_out)}
    rows = []
    for normalizer in NORMALIZERS if state == "trained" else NORMALIZERS[:1]:
        run = f"{name} {normalizer}"
        token_sid(model, sentences, folder / "language.h5", run=run, normalize_by=normalizer, seed=seed)
        with onnxinfo.open(folder / "language.h5") as archive:
            rows += [{**shared, "normalizer": normalizer, **row} for row in rows_of(archive[run], sentences)]
    return rows


def extended(kind: str, seed: int, held_out: Sentences, folder: Path) -> list[dict[str, Any]]:
    """Measure the class scores of a trained network on all suitable sentences."""
    model, sentences, name = onnx.load(folder / f"{kind}-{seed}-trained.onnx"), chosen_sentences(held_out, None), ALL
    shared = {
        "network": kind,
        "seed": seed,
        "state": name,
        "accuracy": accuracy(model, held_out),
        "normalizer": "sample",
    }
    archive, run = folder / "language-all.h5", f"{kind} {seed}"
    token_sid(model, sentences, archive, run=run, layers=("logits",), normalize_by="sample", seed=seed)
    with onnxinfo.open(archive) as opened:
        return [{**shared, **row} for row in rows_of(opened[run], sentences)]


def extend(chosen: argparse.Namespace) -> None:
    """Measure all suitable sentences with the networks that are not in the file yet."""
    torch.set_num_threads(1)
    results = chosen.folder / "language-all.csv"
    rows = pandas.read_csv(results).to_dict("records") if results.exists() else []
    done = {(row["network"], row["seed"]) for row in rows}
    _, held_out = prepared(*read_sentences(chosen.distribution))
    for seed in chosen.seeds:
        for kind in KINDS:
            if (kind, seed) not in done:
                rows += extended(kind, seed, held_out, chosen.folder)
                pandas.DataFrame(rows).to_csv(results, index=False, float_format="%.5g")
                print(f"measured: {kind}, seed {seed}, {len(rows)} cells in all", flush=True)


def run(chosen: argparse.Namespace) -> None:
    """Measure the networks that are not in the file yet."""
    torch.set_num_threads(1)
    chosen.folder.mkdir(parents=True, exist_ok=True)
    results = chosen.folder / "language.csv"
    rows = pandas.read_csv(results).to_dict("records") if results.exists() else []
    done = {(row["network"], row["seed"], row["state"]) for row in rows}
    data = prepared(*read_sentences(chosen.distribution))
    for seed in chosen.seeds:
        for kind in KINDS:
            for state in STATES:
                if (kind, seed, state) not in done:
                    rows += piece(kind, seed, state, data, chosen.folder)
                    pandas.DataFrame(rows).to_csv(results, index=False, float_format="%.5g")
                    print(f"measured: {kind}, seed {seed}, {state}, accuracy {rows[-1]['accuracy']:.3f}", flush=True)


def summary(found: pandas.DataFrame) -> pandas.DataFrame:
    """Return one row per network, state, normalizer and layer, for each seed and for all of them together.

    ``stop_other`` and ``sentiment_other`` are paired differences of H between groups of words of a sentence, averaged
    over the sentences. Their standard errors are over sentences; for all seeds together, that of the seeds'
    mean over sentences or that over seeds, whichever is larger. ``correlation`` is that of the sentences' SID, averaged
    over seeds, with SID under the first normalizer.
    """
    pairs = found.assign(stop_other=found.stop - found.other, sentiment_other=found.sentiment - found.other)
    rows: list[dict[str, Any]] = []
    reference: dict[tuple[str, str, str], pandas.Series] = {}
    for key, part in pairs.groupby(["network", "state", "normalizer", "layer"], sort=False):
        shared = dict(zip(("network", "state", "normalizer", "layer"), key, strict=True))
        for seed, cells in part.groupby("seed"):
            rows.append({**shared, "seed": seed, **summarized(cells)})
        mean = part.groupby("sentence").mean(numeric_only=True)
        row = {**shared, "seed": "all", **summarized(mean), "unproven": part.unproven.sum(), "cells": len(part)}
        for name in ("value", "stop_other", "sentiment_other"):
            over_seeds = mean_and_stderr(part.groupby("seed")[name].mean())[1]
            row[f"{name}_stderr"] = max(row[f"{name}_stderr"], float(over_seeds))
        reference.setdefault((key[0], key[1], key[3]), mean["value"])
        row["correlation"] = mean["value"].corr(reference[key[0], key[1], key[3]])
        rows.append(row)
    return pandas.DataFrame(rows)


def summarized(cells: pandas.DataFrame) -> dict[str, Any]:
    """Return the means over sentences, with standard errors."""
    row: dict[str, Any] = {"accuracy": cells.accuracy.mean(), "cells": len(cells), "unproven": cells.unproven.sum()}
    row["value_sd"] = cells["value"].std()
    for name in ("value", "stop_other", "sentiment_other"):
        mean, stderr, _ = mean_and_stderr(cells[name])
        row |= {name: float(mean), f"{name}_stderr": float(stderr)}
    return row


def with_controls(found: pandas.DataFrame) -> pandas.DataFrame:
    """Add the differences between the trained network and random weights, for the same sentences and seeds."""
    keys = ["network", "normalizer", "layer", "seed", "sentence"]
    numbers = ["stop", "sentiment", "other", "value"]
    trained, other = (found[found.state == state].set_index(keys) for state in STATES)
    both = trained.index.intersection(other.index)
    change = (trained.loc[both, numbers] - other.loc[both, numbers]).reset_index()
    unproven_too = (trained.loc[both].unproven + other.loc[both].unproven).clip(upper=1).to_numpy()
    return pandas.concat([found, change.assign(state="change", unproven=unproven_too, accuracy=np.nan)])


def summarize(chosen: argparse.Namespace) -> None:
    """Write the summary of a folder's results."""
    found = summary(with_controls(pandas.read_csv(chosen.folder / "language.csv")))
    found = pandas.concat([found, summary(pandas.read_csv(chosen.folder / "language-all.csv"))])
    found.to_csv(chosen.results, index=False, float_format="%.4f")


def tables(path: Path) -> str:
    """Return the tables of the study."""
    found = pandas.read_csv(path)
    total = found[found.seed == "all"].set_index(["network", "state", "normalizer", "layer"])
    lines = [
        "| network | layer | SID | unproven | stop - other | sentiment - other | stop - other, random weights "
        "| sentiment - other, random weights |"
    ]
    lines.append("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for kind in KINDS:
        for layer in LAYERS:
            row, control = (total.loc[(kind, state, "sample", layer)] for state in STATES)
            cells = [kind, layer, text(row, "value", ""), f"{row.unproven} of {row.cells}"]
            cells += [text(each, name) for each in (row, control) for name in ("stop_other", "sentiment_other")]
            lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "| network | layer | trained - random weights: stop - other | sentiment - other |",
        "| --- | --- | ---: | ---: |",
    ]
    for kind in KINDS:
        for layer in LAYERS:
            row = total.loc[(kind, "change", "sample", layer)]
            lines.append(f"| {kind} | {layer} | {text(row, 'stop_other')} | {text(row, 'sentiment_other')} |")
    lines += ["", "| network, class scores | sentences | unproven | stop - other | sentiment - other |"]
    lines.append("| --- | ---: | ---: | ---: | ---: |")
    for kind in KINDS:
        row = total.loc[(kind, ALL, "sample", "logits")]
        seeds = len(found[(found.network == kind) & (found.state == ALL)]) - 1
        cells = [kind, str(row.cells // seeds), f"{row.unproven} of {row.cells}"]
        lines.append(f"| {' | '.join([*cells, text(row, 'stop_other'), text(row, 'sentiment_other')])} |")
    head = " | ".join(f"SID of {layer}" for layer in LAYERS)
    rest = "sd of sentences | correlation | stop - other | sentiment - other | unproven"
    lines += ["", f"| network | normalizer | {head} | {rest} |"]
    lines.append(f"| --- | --- |{' ---: |' * (len(LAYERS) + 5)}")
    for kind in KINDS:
        for normalizer in NORMALIZERS:
            rows = [total.loc[(kind, "trained", normalizer, layer)] for layer in LAYERS]
            cells = [kind, normalizer, *(f"{row['value']:.3f}" for row in rows), f"{rows[-1].value_sd:.3f}"]
            cells.append(f"{rows[-1].correlation:.2f}")
            cells += [text(rows[-1], name) for name in ("stop_other", "sentiment_other")]
            cells.append(f"{sum(int(row.unproven) for row in rows)} of {sum(int(row.cells) for row in rows)}")
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def text(row: pandas.Series, name: str, sign: str = "+") -> str:
    """Return a mean with its standard error."""
    return f"{row[name]:{sign}.3f} ± {row[f'{name}_stderr']:.3f}"


def draw(chosen: argparse.Namespace) -> None:
    """Draw the differences between groups of words by layer, and the profile of SID under each normalizer."""
    import matplotlib.pyplot as plt

    found = pandas.read_csv(chosen.results)
    total = found[found.seed == "all"].set_index(["network", "state", "normalizer", "layer"])
    figure, panels = plt.subplots(1, 3, figsize=(7.2, 3.2), layout="constrained")
    places = np.arange(len(LAYERS))
    for panel, kind in zip(panels, KINDS, strict=False):
        for color, marker, name, label in (
            (COLORS[0], "o", "stop_other", "stop words"), (COLORS[5], "s", "sentiment_other", "sentiment words"),
        ):  # fmt: skip
            for state, style in zip(STATES, ("-", ":"), strict=True):
                rows = total.loc[[(kind, state, "sample", layer) for layer in LAYERS]]
                panel.errorbar(
                    places, rows[name], 2 * rows[f"{name}_stderr"], color=color, marker=marker, markersize=4,
                    linestyle=style, capsize=2, linewidth=1.2, markerfacecolor=color if state == "trained" else "white",
                    label=label if state == "trained" else f"{label}, {state}",
                )  # fmt: skip
        panel.axhline(0, color="0.5", linewidth=0.8)
        panel.set_title(f"{kind}: H minus that of\nother words, nats", fontsize=9)
    for kind, color in zip(KINDS, (COLORS[2], COLORS[3]), strict=True):
        for normalizer, style in zip(NORMALIZERS, ("-", "--", ":"), strict=True):
            values = np.array([total.loc[(kind, "trained", normalizer, layer)]["value"] for layer in LAYERS])
            panels[2].plot(
                places, values - values[0], color=color, linestyle=style, marker=".", label=f"{kind}, {normalizer}"
            )
    panels[2].set_title("SID minus that of\nthe first layer, nats", fontsize=9)
    for panel in panels:
        panel.set_xticks(places, LAYERS, rotation=30, fontsize=7)
        panel.tick_params(labelsize=7)
        panel.spines[["top", "right"]].set_visible(False)
    for panel, place in ((panels[0], "left"), (panels[2], "right")):
        figure.legend(
            *panel.get_legend_handles_labels(), loc=f"outside lower {place}", ncols=2, fontsize=7, frameon=False
        )
    figure.savefig(chosen.picture, dpi=150)


def main() -> None:
    """Run, summarize, show or draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for name, function in (("run", run), ("extend", extend)):
        running = commands.add_parser(name)
        running.add_argument("folder", type=Path)
        running.add_argument("distribution", type=Path, help="source distribution of vaderSentiment")
        running.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
        running.set_defaults(do=function)
    summarizing = commands.add_parser("summarize")
    summarizing.add_argument("folder", type=Path)
    summarizing.add_argument("results", type=Path)
    summarizing.set_defaults(do=summarize)
    add_views(commands, tables, draw)
    chosen = parser.parse_args()
    chosen.do(chosen)


if __name__ == "__main__":
    as_script(main)
