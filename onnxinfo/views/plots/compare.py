"""Differences between runs by layer, with confidence intervals."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..text import printable
from .compare import Match, compare
from .figure import claim_figure, cut, drawing, look, short_names
from .plot_curve import run_style
from .query import Names, Paths, select_views
from .reading_runs import metric_label

_MOST = 30


def plot_compare(
    path: Paths,
    output: str | os.PathLike[str],
    *,
    run: Names = (),
    layers: Names = (),
    metric: str = "sid",
    samples: Sequence[str | int] = (),
    by: Match = "layer",
    unpaired: bool = False,
    theme: str = "light",
    width: str = "page",
    force: bool = False,
) -> Path:
    """Draw the differences that :func:`onnxinfo.compare` finds, largest first, with 95 % confidence intervals.

    Parameters
    ----------
    path, run, layers, samples, by, unpaired
        See :func:`onnxinfo.compare`.
    output, theme, width, force
        See :func:`onnxinfo.plot_curve`.
    metric
        The metric.

    Returns
    -------
    Path
        The figure's path.

    Raises
    ------
    UsageError
        The runs cannot be compared.
    ArchiveError
        An archive cannot be read, or the figure cannot be written.
    """
    target = claim_figure(output, path, force=force)
    chosen = look(theme, width)
    rows = compare(path, run=run, layers=layers, metrics=[metric], samples=samples, by=by, unpaired=unpaired)
    names = list(dict.fromkeys(row["layer"] for row in rows))[:_MOST]
    total = len({row["layer"] for row in rows})
    others = list(dict.fromkeys(row["other"] for row in rows))
    with drawing(target, chosen) as figure:
        figure.set_size_inches(chosen.size.width, (len(names) * 1.9 + 8) * chosen.size.font / 72)
        axes = figure.add_subplot()
        for number, other in enumerate(others):
            found = {row["layer"]: row for row in rows if row["other"] == other}
            shown = [name for name in names if name in found]
            x = np.array([found[name]["difference"] for name in shown])
            half = np.array([found[name]["high"] for name in shown]) - x
            y = np.array([names.index(name) for name in shown]) + (number - (len(others) - 1) / 2) * 0.6 / len(others)
            colour, _, marker = run_style(number)
            axes.errorbar(
                x, y, xerr=np.nan_to_num(half), fmt=marker, color=colour, capsize=3, label=cut(printable(other), 40)
            )
        axes.axvline(0, color=chosen.theme.ink, linewidth=0.8)
        axes.set_yticks(range(len(names)), short_names(names, 26))
        axes.margins(y=0.08)
        axes.invert_yaxis()
        axes.grid(axis="x")
        axes.set_axisbelow(True)
        unproven = sum(row["n_unproven"] for row in rows)
        remark = f"; {unproven} of {sum(row['n'] for row in rows)} pairs unproven" if unproven else ""
        axes.set_xlabel(f"difference in {_label(path, metric)}\nbars: 95 % confidence, all samples and noise{remark}")
        skipped = f"; the {len(names)} largest of {total}" if total > len(names) else ""
        axes.set_ylabel(f"layer, largest difference first{skipped}")
        title = f"right of 0: higher than '{cut(printable(rows[0]['run']), 40)}'"
        figure.legend(title=title, loc="outside upper center", ncols=2)
    return Path(output)


def _label(path: Paths, metric: str) -> str:
    labels = [metric_label(view.metrics[0]) for view, _ in select_views(path, metrics=[metric])]
    return labels[0]
