"""Tables of the studies: in Markdown for reading, and in JSON with all digits."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import onnxinfo
from onnxinfo.archive.means import Pairs, layer_summary, pair_up, select_cells

from .common import Array

Rows = Sequence[Mapping[str, Any]]


def write_table(rows: Rows, path: Path, *, shown: Rows | None = None, **facts: Any) -> None:
    """Write rows as a Markdown table, and with additional facts as JSON beside it; print the table.

    Parameters
    ----------
    rows
        Columns by name.
    path
        Path of the files, to which ``.md`` and ``.json`` are appended.
    shown
        Replacement for the rows in the Markdown table.
    facts
        Additional facts for the JSON file.
    """
    _write([rows if shown is None else shown], rows, path, facts)


def write_layers(archive: Path, metrics: Sequence[str], path: Path, **facts: Any) -> None:
    """Write the layers' means in all runs of an archive, and the samplewise differences between runs.

    Each table shows runs with equal numbers of layers side by side: the means of the first, and the differences of the
    others from it over the samples that have a value in both.

    Parameters
    ----------
    archive
        An archive whose runs have the same samples.
    metrics
        Names of metrics.
    path
        Path of the files, to which ``.md`` and ``.json`` are appended.
    facts
        Additional facts for the JSON file.
    """
    tables, rows = [], []
    with onnxinfo.open(archive) as opened:
        for metric in metrics:
            runs = {run: opened[run].values(metric) for run in opened}
            names = {run: [layer.name for layer in opened[run].layers] for run in opened}
            for run, values in runs.items():
                rows += [{"model": run, "metric": metric, **row} for row in _means(names[run], values)]
            tables += [_beside(metric, group, runs) for group in _alike(names)]
    _write(tables, rows, path, facts)


def _means(names: Sequence[str], values: Mapping[str, Array]) -> list[dict[str, Any]]:
    found = layer_summary(values)
    columns = [found[key].tolist() for key in ("value", "stderr", "n", "n_converged", "n_missing")]
    return [
        {"layer": name, "mean": mean, "stderr": stderr, "samples": n, "converged": converged, "missing": missing}
        for name, mean, stderr, n, converged, missing in zip(names, *columns, strict=True)
    ]


def _alike(names: Mapping[str, list[str]]) -> list[dict[str, list[str]]]:
    """Group runs with equal numbers of layers, with the layers' names; the first run's group comes first."""
    depths = dict.fromkeys(len(layers) for layers in names.values())
    return [{run: layers for run, layers in names.items() if len(layers) == depth} for depth in depths]


def _beside(
    metric: str, names: Mapping[str, list[str]], runs: Mapping[str, Mapping[str, Array]]
) -> list[dict[str, Any]]:
    first, *others = names
    rows = []
    for i, layers in enumerate(zip(*names.values(), strict=True)):
        cells = select_cells(runs[first], i)
        label = " / ".join(dict.fromkeys(layers))
        row = {"layer": label, f"{metric.upper()} of {first}": mean_text(runs[first], i)}
        for other in others:
            row[f"{other}, difference"] = difference_text(pair_up(cells, select_cells(runs[other], i)))
        rows.append(row)
    return rows


def mean_text(cells: Mapping[str, Array], layer: int) -> str:
    """Return a layer's mean over all samples with a value, their number, and the number of unproven ones."""
    found = {key: data[layer] for key, data in layer_summary(cells).items()}
    n = int(found["n"] - found["n_missing"])
    return _text(f"{found['value']:.3f} ± {found['stderr']:.3f}", n, n - int(found["n_converged"]))


def difference_text(pairs: Pairs, digits: int = 3) -> str:
    """Return the mean difference between two runs, the number of samples, and the number of unproven ones."""
    return _text(f"{pairs.difference:+.{digits}f} ± {pairs.stderr:.{digits}f}", pairs.n, pairs.n_unproven)


def _text(number: str, n: int, unproven: int) -> str:
    if not n:
        return "no value"
    return f"{number} ({n}, {unproven} unproven)" if unproven else f"{number} ({n})"


def results_options(description: str | None) -> tuple[Path, Path]:
    """Return where results are, and the folder of what is made from them, from the command line; make the folder.

    Parameters
    ----------
    description
        What the script does.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, help="file or folder of results")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of tables and figures")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    return options.path, options.output


def show(text: str, path: Path) -> None:
    """Write a text to a file, and print it."""
    path.write_text(text, encoding="utf-8")
    print(text, end="", flush=True)


def _write(tables: Sequence[Rows], rows: Rows, path: Path, facts: Mapping[str, Any]) -> None:
    text = "\n".join(map(markdown, tables))
    path.with_suffix(".json").write_text(json.dumps({**facts, "rows": list(rows)}, indent=1), encoding="utf-8")
    show(text, path.with_suffix(".md"))


def markdown(rows: Rows) -> str:
    """Return rows as a Markdown table; empty if there is none."""
    if not rows:
        return ""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(map(_cell, row.values())) for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float | np.floating) else str(value)
