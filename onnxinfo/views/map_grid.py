"""Grids of maps: rows of samples, columns of layers, with captions, pictures and color bars."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import UsageError
from .diverging import DIVERGING
from .panels import (
    PERCENTILES,
    blank,
    color_limits,
    cut_ends,
    draw_map,
    height_over_width,
    mark_unproven,
    name_beside,
    range_texts,
    title_column,
    width_of_names,
)
from .style import SEQUENTIAL, FigureStyle, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure, SubFigure

#: Percentiles of a layer's values that its color scale spans: a few extreme pixels leave the others their contrast.
_ROBUST = (2.0, 98.0)
#: What the lowest and the highest values of a metric mean, and the lowest and the highest changes.
_ENDS = {"sid": ("kept", "discarded")}
_CHANGES = {"sid": ("kept more", "discarded more")}
_ANY_CHANGE = ("lower", "higher")
Map = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Row:
    """Maps of a sample of a run.

    Attributes
    ----------
    caption
        Lines of text beside it.
    picture
        Picture of the sample, or None.
    maps
        One per column; None where a cell is not finished.
    proven
        Whether each cell is proven.
    """

    caption: list[str]
    picture: npt.NDArray[np.uint8] | None
    maps: list[Map | None]
    proven: list[bool]

    @property
    def aspect(self) -> float:
        """Height of a map over its width."""
        return height_over_width(next(map_ for map_ in self.maps if map_ is not None))


@dataclass
class Band:
    """Rows whose columns are the same layers, with a color scale for each.

    Attributes
    ----------
    titles
        Names of the layers.
    rows
        The rows.
    metric
        Name of the metric.
    colors
        Color map: the sequential one, or, for changes, the diverging one.
    """

    titles: list[str]
    rows: list[Row] = field(default_factory=list)
    metric: str = ""
    colors: str = SEQUENTIAL

    @property
    def ends(self) -> list[str]:
        """What both ends of the color scale mean, such as ``dark: kept`` and ``light: discarded``."""
        is_change = self.colors == DIVERGING
        low, high = _ENDS.get(self.metric, ("low", "high")) if not is_change else _CHANGES.get(self.metric, _ANY_CHANGE)
        dark, light = ("dark (purple)", "light (orange)") if is_change else ("dark", "light")
        return [f"{dark}: {low}", f"{light}: {high}"]

    def column(self, number: int) -> list[Map]:
        """Return the finished maps of a layer."""
        return [map_ for row in self.rows if (map_ := row.maps[number]) is not None]

    def limits(self) -> list[tuple[float, float]]:
        """Return the limits of each layer's color scale."""
        return [scale_limits(self.column(number), self.colors, _ROBUST) for number in range(len(self.titles))]

    def changes(self) -> Band:
        """Return the changes from each layer to the next, such as what a layer discards that earlier ones kept.

        Raises
        ------
        UsageError
            There is one layer.
        """
        if len(self.titles) < 2:
            raise UsageError("a change is from one layer to the next, and one layer is shown; choose several")
        made = Band(self.titles[1:], metric=self.metric, colors=DIVERGING)
        for row in self.rows:
            pairs = zip(row.maps, row.maps[1:], strict=False)
            maps = [None if one is None or other is None else other - one for one, other in pairs]
            proven = [one and other for one, other in zip(row.proven, row.proven[1:], strict=False)]
            if any(map_ is not None for map_ in maps):
                made.rows.append(replace(row, maps=maps, proven=proven))
        if not made.rows:
            raise UsageError("a change is from one layer to the next, and no sample has two that are finished")
        return made


def scale_limits(
    maps: Sequence[Map], colors: str, percentiles: tuple[float, float] = PERCENTILES
) -> tuple[float, float]:
    """Return the limits of a color scale for maps: percentiles of the values, or, around zero, of their size."""
    if colors == SEQUENTIAL:
        return color_limits(maps, percentiles)
    end = color_limits([abs(map_) for map_ in maps], percentiles)[1]
    return -end, end


class MapGrid:
    """Axes for the maps of some bands, sized so that names, pictures and maps fit the figure.

    Attributes
    ----------
    has_pictures
        Whether the samples' pictures are in a first column; below it the ends of the color bars are named.
    """

    def __init__(self, bands: Sequence[Band], style: FigureStyle, overlay: bool = False, largest: float = 0.25) -> None:
        self._bands, self._style, self._overlay = bands, style, overlay
        rows = [row for band in bands for row in band.rows]
        self.has_pictures = any(row.picture is not None for row in rows)
        self._first = int(self.has_pictures)
        self._columns = self._first + max(len(band.titles) for band in bands)
        names = width_of_names((row.caption for row in rows), style)
        # Limit the cell size, so that a grid of a few columns still fits a page.
        self._cell = cell = min((style.width * 0.96 - names) / self._columns, style.width * largest)
        lowest = max(len(row.caption) for row in rows) * style.font * 1.1 / 72
        self._heights = [max(cell * row.aspect, lowest) for row in rows]

    def height(self, is_shared: bool) -> float:
        """Return the height in inches that the grid needs, with one color bar or one for each layer."""
        lines = 4 + (0 if is_shared else 5) * len(self._bands)
        return sum(self._heights) + self._style.font / 72 * lines

    def draw(self, figure: Figure | SubFigure, shared: tuple[float, float] | None, label: str) -> None:
        """Draw all bands; `shared` limits one color scale for all, if there is one."""
        axes = figure.subplots(len(self._heights), self._columns, squeeze=False, height_ratios=self._heights)
        at = 0
        drawn: list[ScalarMappable | None] = []
        for band in self._bands:
            found = self._draw_band(figure, axes[at : at + len(band.rows)], band, shared)
            drawn += found
            at += len(band.rows)
        if shared is not None:
            some = next(each for each in drawn if each is not None)
            maps = [map_ for band in self._bands for row in band.rows for map_ in row.maps if map_ is not None]
            bar = figure.colorbar(some, ax=axes, fraction=0.03, pad=0.015, extend=cut_ends(shared, maps))
            room = max(sum(self._heights), 1.0)
            lines = [wrapped(text, room, self._style) for text in (label, ", ".join(self._bands[0].ends))]
            bar.set_label("\n".join(lines))

    def _draw_band(
        self, figure: Figure | SubFigure, axes: npt.NDArray[Any], band: Band, shared: tuple[float, float] | None
    ) -> list[ScalarMappable | None]:
        titles = ["input"] * self._first + band.titles
        fits = max(map(len, titles)) * 0.58 * self._style.font * 0.8 / 72 < self._cell
        for each, title in zip(axes[0], titles, strict=False):
            title_column(each, title, self._style, self._cell if fits else 0)
        limits = [shared] * len(band.titles) if shared else band.limits()
        drawn: list[ScalarMappable | None] = [None] * len(band.titles)
        for line, row in zip(axes, band.rows, strict=True):
            for number, mappable in enumerate(self._draw_row(line, row, limits, band.colors)):
                drawn[number] = mappable or drawn[number]
        if shared is None:
            self._draw_bars(figure, drawn, axes[:, self._first :].T, band)
        return drawn

    def _draw_row(
        self, line: npt.NDArray[Any], row: Row, limits: Sequence[tuple[float, float]], colors: str
    ) -> list[ScalarMappable | None]:
        for each in line:
            blank(each)
        if self._first and row.picture is not None:
            line[0].imshow(row.picture, interpolation="nearest")
        name_beside(line[0], row.caption, self._style)
        below = row.picture if self._overlay else None
        found: list[ScalarMappable | None] = []
        for axes, map_, is_proven, each in zip(line[self._first :], row.maps, row.proven, limits, strict=False):
            if map_ is None:
                axes.set_facecolor(self._style.theme.missing)
                found.append(None)
                continue
            axes.set_facecolor(self._style.theme.missing)
            found.append(draw_map(axes, map_, each, below, colors))
            if not is_proven:
                mark_unproven(axes, self._style)
        return found

    def _draw_bars(
        self,
        figure: Figure | SubFigure,
        drawn: Sequence[ScalarMappable | None],
        columns: npt.NDArray[Any],
        band: Band,
    ) -> None:
        """Draw a color bar for each layer, with the ends of its scale."""
        texts = [range_texts(limits, band.column(number)) for number, limits in enumerate(band.limits())]
        room = self._cell * 0.85 * 72 / 0.6
        # Ends that do not fit beside each other are below each other, and those that still are too wide smaller.
        size = min(self._style.font * 0.75, room / max(len(text) for ends in texts for text in ends))
        if max(len(low + high) for low, high in texts) * size > room:
            texts = [(low, f"\n{high}") for low, high in texts]
        for number, (found, ends) in enumerate(zip(drawn, texts, strict=True)):
            if found is not None:
                bar = self._draw_bar(figure, found, columns[number], ends, size)
                if self._first and number == 0:
                    self._name_ends(bar, band.ends)

    def _draw_bar(
        self,
        figure: Figure | SubFigure,
        mappable: ScalarMappable,
        column: Iterable[Axes],
        texts: tuple[str, str],
        size: float,
    ) -> Axes:
        """Draw the color bar of a layer below its column, with the texts of its ends."""
        # Without an anchor of its own the column stays beside the pictures.
        bar = figure.colorbar(
            mappable, ax=[*column], location="bottom", fraction=0.05, pad=0.02, aspect=12, panchor=False
        )
        low, high = bar.ax.get_xlim()
        bar.set_ticks([low, high], labels=texts)
        bar.outline.set_visible(False)
        for text, side in zip(bar.ax.get_xticklabels(), ("left", "right"), strict=True):
            text.set(fontsize=size, horizontalalignment=side)
        bar.ax.tick_params(length=0)
        return bar.ax

    def _name_ends(self, bar: Axes, ends: Sequence[str]) -> None:
        """Say beside a color bar, below the pictures, what its ends mean."""
        bar.annotate(
            "\n".join(ends),
            (0, 1),
            xycoords="axes fraction",
            xytext=(-6, 2),
            textcoords="offset points",
            ha="right",
            va="top",
            fontsize=self._style.font * 0.75,
            linespacing=1.25,
            # There is room below the pictures.
            in_layout=False,
        )
