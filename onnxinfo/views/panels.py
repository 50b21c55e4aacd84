"""Drawing and map functions shared by several plots."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from ..text import printable, shorten
from .run_values import RunValues
from .run_view import RunView
from .style import COLORS, FigureStyle, short_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Default numbers of rows and columns of maps; if there are more, evenly spaced ones are shown.
MOST_SAMPLES, MOST_LAYERS = 8, 9
#: Percentiles of all shown values that a color scale spans; values outside get the color of the nearest end.
PERCENTILES = (0.5, 99.5)
Line = Literal["-", "--", "-.", ":"]
_LINES: tuple[Line, ...] = ("-", "--", "-.", ":")
_MARKERS = ("o", "s", "D", "^", "v")


def run_style(number: int) -> tuple[str, Line, str]:
    """Return color, line style and marker of the n-th run, chosen such that coinciding runs remain visible."""
    return COLORS[number % len(COLORS)], _LINES[number % len(_LINES)], _MARKERS[number % len(_MARKERS)]


def set_height(figure: Figure, style: FigureStyle, height: float) -> None:
    """Set the height, in inches, of a figure that has the style's width."""
    figure.set_size_inches(style.width, height)


def grid_behind(axes: Axes, axis: Literal["both", "x", "y"] = "y") -> None:
    """Draw a grid behind the data."""
    axes.grid(axis=axis)
    axes.set_axisbelow(True)


def zero_line(axes: Axes, style: FigureStyle, at: float = 0) -> None:
    """Draw a dashed reference line across the axes."""
    axes.axhline(at, color=style.theme.ink, linewidth=0.8, linestyle=(0, (4, 3)))


def blank(axes: Axes) -> None:
    """Remove ticks and frame from axes that hold an image."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def title_column(axes: Axes, title: str, style: FigureStyle) -> None:
    """Label a column of images at an angle, so that long names do not overlap."""
    axes.set_title(title, fontsize=style.font * 0.8, rotation=30, ha="left", x=0.1)


def name_row(axes: Axes, name: str, room: float, style: FigureStyle) -> None:
    """Label a row of maps, `room` inches high: vertically if the name fits, else horizontally."""
    size = style.font * 0.8
    fits = max(map(len, name.split("\n"))) * 0.6 * size / 72 < room
    across: dict[str, Any] = {"rotation": 0, "ha": "right", "va": "center"}
    axes.set_ylabel(name, fontsize=size, **({} if fits else across))


def name_layers(axes: Axes, found: RunValues, style: FigureStyle) -> None:
    """Label as many layers as fit; they are at positions 0, 1, 2, ..."""
    texts = short_names([row.name for row in found.layers], 22)
    step = max(1, round(len(texts) * 0.17 * style.font / 8 / (style.width * 0.85)))
    axes.set_xticks(range(0, len(texts), step), texts[::step], rotation=40, ha="right", rotation_mode="anchor")
    axes.set_xticks(range(len(texts)), minor=True)
    axes.set_xlabel("layer, from the input to the output")


def sample_title(view: RunView, sample: int) -> str:
    """Return a sample's name and label as one line."""
    label = "" if view.labels is None else f", label {printable(view.labels[sample])}"
    return shorten(printable(view.sample_names[sample]), 40) + label


def mean_of_known(values: npt.NDArray[Any], axes: tuple[int, ...]) -> npt.NDArray[Any]:
    """Average finite values over axes; NaN if there are none, as for excluded units."""
    found: npt.NDArray[Any] = np.ma.masked_invalid(values).mean(axis=axes).filled(np.nan).astype(values.dtype)
    return found


def flat_map(values: npt.NDArray[np.float32], axes: Sequence[str]) -> npt.NDArray[np.float32]:
    """Return a map as rows and columns: averaged over channels or embedding; a single axis becomes one row."""
    dropped = tuple(i for i, axis in enumerate(axes) if axis in ("channel", "embedding"))
    flat = mean_of_known(values, dropped) if dropped else values
    rows: npt.NDArray[np.float32] = flat.reshape(1, -1) if flat.ndim < 2 else flat.reshape(-1, flat.shape[-1])
    return rows


def color_limits(maps: Iterable[npt.NDArray[Any]]) -> tuple[float, float]:
    """Return the limits of a common color scale for maps, see :data:`PERCENTILES`; NaN and infinity are ignored.

    The upper limit exceeds the lower one even if all values are equal or there are none.
    """
    finite = [each[np.isfinite(each)] for each in maps]
    numbers = np.concatenate(finite) if finite else np.zeros(0)
    low, high = np.percentile(numbers, PERCENTILES) if numbers.size else (0.0, 1.0)
    return float(low), float(high if high > low else low + 1e-6)


def aspect_of(map_: npt.NDArray[Any]) -> Literal["auto", "equal"]:
    """Return the aspect ratio of a map's pixels: square, except that a single row fills its axes."""
    return "auto" if map_.shape[0] == 1 else "equal"


def height_over_width(map_: npt.NDArray[Any]) -> float:
    """Return the height-to-width ratio at which a map is drawn; extreme shapes are moderated."""
    rows, columns = map_.shape
    return min(2.0, max(0.35, float(rows / columns)))


def spread_out(count: int) -> npt.NDArray[np.float64]:
    """Return deterministic horizontal offsets that keep the points of a layer apart."""
    # Multiples of the golden ratio fill an interval evenly, for any count.
    return ((np.arange(count, dtype=np.float64) * 0.6180339887) % 1 - 0.5) * 0.5
