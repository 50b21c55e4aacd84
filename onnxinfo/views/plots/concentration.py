"""Concentration: whether a layer discards the background or the object."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..archive.means import layer_summary
from .figure import COLOURS, SEQUENTIAL, claim_figure, cut, drawing, evenly, look
from .plot_curve import plot_curve
from .plot_maps import flat_map
from .plot_samples import name_layers
from .query import Names, Paths, select_views
from .reading_runs import metric_label, read_runs, run_values
from .wording import unproven_text

_PICTURES = 5


def plot_concentration(
    path: Paths,
    output: str | os.PathLike[str],
    *,
    run: Names = (),
    layers: Names = (),
    samples: Sequence[str | int] = (),
    theme: str = "light",
    width: str = "page",
    force: bool = False,
) -> Path:
    """Draw concentration by layer, and below it samples with their foreground outlined on the deepest layer's map.

    Several runs, or runs without masks, are drawn as curves alone.

    Parameters
    ----------
    path, output, run, layers, samples, theme, width, force
        See :func:`onnxinfo.plot_curve`.

    Returns
    -------
    Path
        The figure's path.

    Raises
    ------
    UsageError
        Something asked for is not there; concentration needs an analysis with a foreground.
    ArchiveError
        An archive cannot be read, or the figure cannot be written.
    """
    target = claim_figure(output, path, force=force)
    chosen = look(theme, width)
    several = len(read_runs(path, "concentration", run=run, layers=layers, samples=samples)) > 1
    # A view can be read only until the next one is asked for.
    views = select_views(path, run=run, layers=layers, metrics=["concentration"], samples=samples)
    view = next(view for view, _ in views)
    foreground, pictures = view.run.foreground, view.thumbnails
    if several or foreground is None or pictures is None:
        return plot_curve(
            path,
            output,
            run=run,
            layers=layers,
            metric="concentration",
            samples=samples,
            theme=theme,
            width=width,
            force=force,
        )
    masks = foreground[view.sample_positions]
    objects = [i for i in range(view.shape[1]) if masks[i].any()]
    shown = [objects[i] for i in evenly(len(objects), _PICTURES)]
    found = run_values(view, "concentration")
    deepest = [row.name for row in view.run.layers].index(found.layers[-1].name)
    maps = [view.run.maps("sid", deepest, [view.sample_positions[i]])[0] for i in shown]
    with drawing(target, chosen) as figure:
        figure.set_size_inches(chosen.size.width, chosen.size.width * 0.95)
        rows: list[Any] = [["curve"] * _PICTURES]
        rows += [[f"{kind}{i}" for i in range(_PICTURES)] for kind in ("input", "map")]
        axes: Any = figure.subplot_mosaic(
            rows,
            height_ratios=[1.3, 1, 1],
        )
        top = axes["curve"]
        means = layer_summary(found.values)
        top.errorbar(range(len(found.layers)), means["value"], means["stderr"], fmt="o-", color=COLOURS[0], capsize=3)
        top.axhline(0, color=chosen.theme.ink, linewidth=0.8, linestyle=(0, (4, 3)))
        top.set_ylabel(metric_label(found.metric).replace(" of the ", "\nof the "))
        remark = unproven_text([found.values])
        top.set_title(
            f"{found.name}: above zero, the background is discarded more than the object\n"
            "mean ± standard error over all samples" + (f"; {remark}" if remark else ""),
            loc="left",
        )
        top.grid(axis="y")
        name_layers(top, found, chosen)
        low, high = np.nanpercentile(np.concatenate([each.ravel() for each in maps]), (0.5, 99.5)) if maps else (0, 1)
        for i in range(_PICTURES):
            for kind in ("input", "map"):
                each = axes[f"{kind}{i}"]
                each.set_xticks([])
                each.set_yticks([])
                each.spines[:].set_visible(False)
            if i >= len(shown):
                continue
            mask = masks[shown[i]]
            extent = (-0.5, mask.shape[1] - 0.5, mask.shape[0] - 0.5, -0.5)
            axes[f"input{i}"].imshow(pictures[shown[i]], extent=extent, interpolation="nearest")
            axes[f"input{i}"].set_title(cut(view.sample_names[shown[i]], 16), fontsize=chosen.size.font * 0.8)
            drawn = axes[f"map{i}"].imshow(flat_map(maps[i], view.axes), cmap=SEQUENTIAL, vmin=low, vmax=high)
            for kind in ("input", "map"):
                for colour, line in (("black", 2.2), ("white", 1.0)):
                    axes[f"{kind}{i}"].contour(mask, levels=[0.5], colors=colour, linewidths=line)
        if shown:
            axes["input0"].set_ylabel("input and\nforeground")
            axes["map0"].set_ylabel("SID map")
            bar = figure.colorbar(drawn, ax=[axes[f"map{i}"] for i in range(_PICTURES)], fraction=0.03, pad=0.01)
            bar.set_label(
                f"SID at '{cut(found.layers[-1].name, 18)}'\nnats per input unit", fontsize=chosen.size.font * 0.8
            )
    return Path(output)
