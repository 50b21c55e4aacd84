"""Where two runs differ: maps of one minus maps of the other."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..errors import UsageError
from ..text import printable
from .comparable import check_precision
from .figure import DIVERGING, claim_figure, cut, drawing, evenly, look, short_names, wrapped
from .plot_maps import MOST_LAYERS, MOST_SAMPLES, flat_map, name_row
from .query import Names, Paths, names_of, select_views
from .reading_runs import metric_label, run_values
from .run_values import RunValues
from .wording import unproven_text

_PERCENTILE = 99.5


@dataclass(frozen=True)
class _Maps:
    """Maps of a run by layer name and sample name, as rows and columns."""

    name: str
    label: str
    layers: tuple[str, ...]
    samples: tuple[str, ...]
    maps: dict[tuple[str, str], npt.NDArray[np.float32]]
    pictures: dict[str, npt.NDArray[np.uint8]]
    values: RunValues


def plot_difference(
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
    """Draw, unit by unit, a second run's maps minus the first run's, of layers and samples that both have.

    Parameters
    ----------
    path
        An archive, or several.
    output
        The figure: a file that ends in .png, .svg or .pdf.
    run
        The two runs, in this order; may be left out where there are just two.
    layers, samples
        What is drawn, see :func:`onnxinfo.query`; matched by name.
    metric
        The metric.
    theme, width, force
        See :func:`onnxinfo.plot_maps`.

    Returns
    -------
    Path
        The figure's path.

    Raises
    ------
    UsageError
        There are not two runs, or they have no layer and sample of the same name.
    ArchiveError
        An archive cannot be read, or the figure cannot be written.
    """
    target = claim_figure(output, path, force=force)
    chosen = look(theme, width)
    first, second = _two(path, run, layers, metric, samples)
    cells = [cell for cell in first.maps if cell in second.maps]
    same = [cell for cell in cells if first.maps[cell].shape == second.maps[cell].shape]
    if not same:
        raise UsageError(
            f"runs '{first.name}' and '{second.name}' share no layer and sample of the same name and size; "
            "compare them by depth with 'onnxinfo compare --by depth'"
        )
    shared_layers = [layer for layer in first.layers if any(cell[0] == layer for cell in same)]
    shared_samples = [sample for sample in first.samples if any(cell[1] == sample for cell in same)]
    columns = [shared_layers[i] for i in evenly(len(shared_layers), MOST_LAYERS)]
    rows = [shared_samples[i] for i in evenly(len(shared_samples), MOST_SAMPLES)]
    differences = {cell: second.maps[cell] - first.maps[cell] for cell in same}
    shown = np.concatenate([abs(differences[c, r]).ravel() for c in columns for r in rows if (c, r) in differences])
    bound = max(float(np.nanpercentile(shown, _PERCENTILE)), 1e-6)
    with drawing(target, chosen) as figure:
        pictures = int(bool(first.pictures))
        shape = next(iter(differences.values())).shape
        cell_size = chosen.size.width * 0.84 / (len(columns) + pictures)
        height = cell_size * min(2.0, max(0.35, shape[0] / shape[1])) * len(rows) + chosen.size.font / 72 * 7
        figure.set_size_inches(chosen.size.width, max(height, chosen.size.width * 0.25))
        axes = figure.subplots(len(rows), len(columns) + pictures, squeeze=False)
        titles = ["input"][:pictures] + short_names(columns, 18)
        for each, title in zip(axes[0], titles, strict=True):
            each.set_title(title, fontsize=chosen.size.font * 0.8, rotation=30, ha="left", x=0.1)
        for line, sample in zip(axes, rows, strict=True):
            for each in line:
                each.set_xticks([])
                each.set_yticks([])
                each.spines[:].set_visible(False)
            name_row(line[0], cut(printable(sample), 14), height / (len(rows) + 1), chosen)
            if pictures:
                line[0].imshow(first.pictures[sample], interpolation="nearest")
            for each, layer in zip(line[pictures:], columns, strict=True):
                if (layer, sample) not in differences:
                    each.set_facecolor(chosen.theme.missing)
                    continue
                found = differences[layer, sample]
                aspect = "auto" if found.shape[0] == 1 else "equal"
                drawn = each.imshow(found, cmap=DIVERGING, vmin=-bound, vmax=bound, aspect=aspect)
        bar = figure.colorbar(drawn, ax=axes, fraction=0.03, pad=0.015, extend="both")
        bar.set_label(wrapped(f"difference in {first.label}", figure.get_size_inches()[1], chosen))
        figure.supxlabel(
            f"orange: '{cut(second.name, 30)}' is higher; purple: '{cut(first.name, 30)}' is higher"
            + (f"\n{remark}" if (remark := unproven_text([first.values.values, second.values.values])) else ""),
            fontsize=chosen.size.font * 0.9,
        )
    return Path(output)


def _two(path: Paths, run: Names, layers: Names, metric: str, samples: Sequence[str | int]) -> tuple[_Maps, _Maps]:
    found: list[_Maps] = []
    for view, _ in select_views(path, run=run, layers=layers, metrics=[metric], samples=samples):
        if len(found) == 2:
            raise UsageError("a difference is between two runs, and there are more; name two with --run A --run B")
        measured = run_values(view, metric)
        done = view.values(metric)["done"]
        names = [row.name for row in view.layers]
        maps = {
            (names[layer], view.sample_names[sample]): flat_map(view.map(metric, layer, sample), view.axes)
            for layer in evenly(view.shape[0], 4 * MOST_LAYERS)
            for sample in evenly(view.shape[1], 8 * MOST_SAMPLES)
            if done[layer, sample]
        }
        thumbnails = view.thumbnails
        pictures = {} if thumbnails is None else dict(zip(view.sample_names, thumbnails, strict=True))
        label = metric_label(view.metrics[0])
        samples_found = tuple(view.sample_names)
        found.append(_Maps(printable(view.name), label, tuple(names), samples_found, maps, pictures, measured))
    if len(found) != 2:
        raise UsageError(f"a difference is between two runs, and there is {len(found)}; give two archives or runs")
    check_precision([each.values for each in found])
    wanted = names_of(run)
    if found[0].name in wanted and wanted.index(found[0].name) == 1:
        found.reverse()
    return found[0], found[1]
