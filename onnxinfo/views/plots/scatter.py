"""Metrics against each other, and layers against runs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..archive.means import layer_summary
from ..errors import UsageError
from .figure import COLOURS, claim_figure, drawing, look, short_names
from .query import Names, Paths
from .reading_runs import metric_label, natural, read_runs
from .run_values import RunValues
from .wording import unproven_text

_MARKERS = "osD^vP*"


def plot_scatter(
    path: Paths,
    output: str | os.PathLike[str],
    *,
    run: Names = (),
    layers: Names = (),
    metric: str = "sid",
    against: str = "ru",
    samples: Sequence[str | int] = (),
    theme: str = "light",
    width: str = "page",
    force: bool = False,
) -> Path:
    """Draw one metric against another: a point with standard errors for each layer, its colour the depth.

    Parameters
    ----------
    path, output, run, layers, samples, theme, width, force
        See :func:`onnxinfo.plot_curve`.
    metric, against
        The metrics on the horizontal and on the vertical axis.

    Returns
    -------
    Path
        The figure's path.

    Raises
    ------
    UsageError
        Something asked for is not there, or no run has both metrics.
    ArchiveError
        An archive cannot be read, or the figure cannot be written.
    """
    target = claim_figure(output, path, force=force)
    chosen = look(theme, width)
    across = read_runs(path, metric, run=run, layers=layers, samples=samples)
    up = {each.name: each for each in read_runs(path, against, run=run, layers=layers, samples=samples)}
    pairs = [(each, up[each.name]) for each in across if each.name in up]
    if not pairs:
        raise UsageError(f"no run has both '{metric}' and '{against}'; analyze with both")
    deepest = max(row.depth for each, _ in pairs for row in each.layers)
    with drawing(target, chosen) as figure:
        figure.set_size_inches(chosen.size.width, chosen.size.width * 0.62)
        axes = figure.add_subplot()
        missing = False
        for number, (first, second) in enumerate(pairs):
            positions = {row.name: i for i, row in enumerate(second.layers)}
            at = [i for i, row in enumerate(first.layers) if row.name in positions]
            x = {key: data[at] for key, data in layer_summary(first.values).items()}
            order = [positions[first.layers[i].name] for i in at]
            y = {key: data[order] for key, data in layer_summary(second.values).items()}
            axes.errorbar(
                x["value"],
                y["value"],
                xerr=np.nan_to_num(x["stderr"]),
                yerr=np.nan_to_num(y["stderr"]),
                fmt="none",
                ecolor=chosen.theme.faint,
                elinewidth=1,
                zorder=1,
            )
            # A thin line in the order of depth: which way the network goes.
            axes.plot(x["value"], y["value"], color=chosen.theme.faint, linewidth=0.8, zorder=1)
            drawn = axes.scatter(
                x["value"],
                y["value"],
                c=[first.layers[i].depth for i in at],
                cmap="cividis",
                vmin=0,
                vmax=max(deepest, 1),
                s=chosen.size.font**2 * 0.5,
                marker=_MARKERS[number % len(_MARKERS)],
                edgecolors=chosen.theme.ink,
                linewidths=0.6,
                zorder=2,
                label=first.name,
            )
            names = short_names([first.layers[i].name for i in at], 18)
            drawable = np.flatnonzero(np.isfinite(x["value"]) & np.isfinite(y["value"])).tolist()
            missing |= len(drawable) < len(first.layers)
            # Runs may lie on each other; the names of one are enough to tell which end is which.
            for i in {drawable[0], drawable[-1]} if number == 0 and drawable else ():
                axes.annotate(
                    names[i],
                    (x["value"][i], y["value"][i]),
                    xytext=(5, 5),
                    textcoords="offset points",
                    fontsize=chosen.size.font * 0.85,
                )
        figure.colorbar(drawn, ax=axes, fraction=0.04, pad=0.02).set_label("depth of the layer")
        axes.set_xlabel(metric_label(pairs[0][0].metric))
        axes.set_ylabel(metric_label(pairs[0][1].metric))
        axes.grid()
        axes.set_axisbelow(True)
        title = f"mean ± standard error over all samples{_remark([run for pair in pairs for run in pair])}"
        title += "; some layers have none" if missing else ""
        figure.legend(title=title, loc="outside upper center", ncols=1 if chosen.size.width < 5 else 2)
    return Path(output)


def plot_history(
    path: Paths,
    output: str | os.PathLike[str],
    *,
    run: Names = (),
    layers: Names = (),
    metric: str = "sid",
    samples: Sequence[str | int] = (),
    theme: str = "light",
    width: str = "page",
    force: bool = False,
) -> Path:
    """Draw a metric over runs, such as epochs or pruning steps: one line for each layer.

    Parameters
    ----------
    path, output, layers, metric, samples, theme, width, force
        See :func:`onnxinfo.plot_curve`; one metric.
    run
        The runs, in this order; by default all, sorted by name, with numbers in names by size.

    Returns
    -------
    Path
        The figure's path.

    Raises
    ------
    UsageError
        Something asked for is not there, or there is only one run.
    ArchiveError
        An archive cannot be read, or the figure cannot be written.
    """
    target = claim_figure(output, path, force=force)
    chosen = look(theme, width)
    runs = read_runs(path, metric, run=run, layers=layers, samples=samples)
    if len(runs) < 2:
        raise UsageError("a history is over several runs, and there is one; give more archives or runs")
    if not run:
        runs.sort(key=lambda each: natural(each.name))
    names = list(dict.fromkeys(row.name for each in runs for row in each.layers))
    summaries = [layer_summary(each.values) for each in runs]
    at = [{row.name: i for i, row in enumerate(each.layers)} for each in runs]
    with drawing(target, chosen) as figure:
        from matplotlib import colormaps

        figure.set_size_inches(chosen.size.width, chosen.size.width * 0.62)
        axes = figure.add_subplot()
        shades = colormaps["viridis"](np.linspace(0, 0.92, max(len(names), 2)))
        for number, (name, short) in enumerate(zip(names, short_names(names, 22), strict=True)):
            shown = [i for i, positions in enumerate(at) if name in positions]
            middle = np.array([summaries[i]["value"][at[i][name]] for i in shown])
            error = np.array([summaries[i]["stderr"][at[i][name]] for i in shown])
            colour = COLOURS[number] if len(names) <= len(COLOURS) else shades[number]
            axes.plot(shown, middle, "-" if number % 2 == 0 else "--", marker="o", color=colour, label=short)
            axes.fill_between(shown, middle - error, middle + error, color=colour, alpha=0.2, linewidth=0)
        axes.set_xticks(range(len(runs)), short_names([each.name for each in runs], 24), rotation=40, ha="right")
        axes.set_xlabel("run")
        axes.set_ylabel(metric_label(runs[0].metric))
        axes.grid(axis="y")
        title = f"mean ± standard error over all samples{_remark(runs)}"
        figure.supxlabel(title, fontsize=chosen.size.font * 0.85)
        if chosen.size.width < 5:
            figure.legend(title="layer, from the input", loc="outside upper center", ncols=3)
        else:
            figure.legend(title="layer, from the input", loc="outside right upper", ncols=1 + len(names) // 25)
    return Path(output)


def _remark(runs: Sequence[RunValues]) -> str:
    text = unproven_text(run.values for run in runs)
    return f" ({text})" if text else ""
