"""Maps animated through the layers: samples side by side, and below each its map of one layer after the other."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from ...errors import UsageError
from ..drawing import Drawing
from ..map_grid import Band
from ..panels import blank, draw_map, mark_unproven, range_texts
from ..style import FigureStyle

_MILLISECONDS = 700
#: Dots per inch: a page is 720 pixels wide.
_DPI = 100
_MOST_SAMPLES = 8


def write_animation(
    path: Path,
    bands: Sequence[Band],
    style: FigureStyle,
    label: str,
    title: str,
    shared: tuple[float, float] | None = None,
) -> None:
    """Write a GIF file with one frame for each layer.

    Parameters
    ----------
    path
        The file.
    bands
        What is drawn, of one band.
    style
        Style of the frames.
    label
        The metric with its unit.
    title
        Title of all frames.
    shared
        Limits of the color scale of all frames; None: each has its own.

    Raises
    ------
    UsageError
        The runs have different layers.
    """
    if len(bands) > 1:
        raise UsageError("an animation goes through the layers of one network, and the runs have other ones; name one")
    style = replace(style, size=replace(style.size, dpi=min(style.size.dpi, _DPI)))
    limits = [shared] * len(bands[0].titles) if shared else bands[0].limits()
    pictures = _frames(bands[0], limits, style, label, title)
    frames = [picture.convert("P", palette=Image.Palette.ADAPTIVE, colors=255) for picture in pictures]
    frames[0].save(path, "GIF", save_all=True, append_images=frames[1:], duration=_MILLISECONDS, loop=0)


def _frames(
    band: Band, scales: Sequence[tuple[float, float]], style: FigureStyle, label: str, title: str
) -> Iterator[Image.Image]:
    rows = band.rows[:_MOST_SAMPLES]
    first = int(any(row.picture is not None for row in rows))
    cell = style.width / len(rows) * 0.85
    lines = 3.5 + max(len(row.caption) for row in rows)
    height = cell * max(row.aspect for row in rows) * (1 + first) + lines * style.font * 1.3 / 72
    ends = band.ends
    for number, (name, limits) in enumerate(zip(band.titles, scales, strict=True)):
        figure = Drawing(style)
        figure.set_size_inches(style.width, style.height or height)
        with style.context():
            axes = figure.subplots(1 + first, len(rows), squeeze=False)
            for column, row in zip(axes.T, rows, strict=True):
                for each in column:
                    blank(each)
                if first and row.picture is not None:
                    column[0].imshow(row.picture, interpolation="nearest")
                column[0].set_title("\n".join(row.caption), fontsize=style.font * 0.8)
                map_ = row.maps[number]
                if map_ is None or not np.isfinite(map_).any():
                    column[-1].set_facecolor(style.theme.missing)
                    continue
                draw_map(column[-1], map_, limits, colors=band.colors)
                if not row.proven[number]:
                    mark_unproven(column[-1], style)
            low, high = range_texts(limits, band.column(number))
            text = f"{title}\n{number + 1} of {len(band.titles)}: {name}"
            figure.suptitle(text, x=0.01, ha="left", weight="bold", size=style.font * 1.1)
            figure.supxlabel(
                f"{label}: {low} ({ends[0]}) to {high} ({ends[1]})", x=0.01, ha="left", size=style.font * 0.85
            )
        made = io.BytesIO()
        figure.savefig(made, format="png")
        yield Image.open(made).convert("RGB")
