"""Drawing and map functions shared by several plots."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from ..text import printable, shorten
from .diverging import color_map
from .run_values import RunValues
from .run_view import RunView
from .style import COLORS, SEQUENTIAL, UNPROVEN, FigureStyle, number_text, short_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

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


def grid_behind(axes: Axes, axis: Literal["both", "x", "y"] = "y") -> None:
    """Draw a grid behind the data."""
    axes.grid(axis=axis)
    axes.set_axisbelow(True)


def tensors_by_depth(axes: Axes, names: Sequence[str]) -> None:
    """Label the rows of a panel, from the top, by the names of tensors."""
    axes.set_yticks(range(len(names)), short_names(names, 32))
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_ylabel("tensor, by depth")


def log_x(axes: Axes, shown: npt.ArrayLike) -> None:
    """Make the x axis logarithmic, with plain numbers; `shown` are the drawn values, all above 0."""
    from matplotlib.ticker import LogLocator, NullFormatter

    values = np.asarray(shown, dtype=np.float64)
    # A narrow range may contain no power of ten.
    is_narrow = values.size and values.max() < 30 * values.min()
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if is_narrow else (1,)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())


def blank(axes: Axes) -> None:
    """Remove ticks and frame from axes that hold an image."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def title_column(axes: Axes, title: str, style: FigureStyle, room: float = 0) -> None:
    """Label a column of images: at an angle, so that long names do not overlap, unless they fit `room` inches."""
    if room:
        axes.set_title(title, fontsize=style.font * 0.8)
        return
    axes.set_title(title, fontsize=style.font * 0.8, rotation=30, ha="left", x=0.1)


def width_of_names(captions: Iterable[Sequence[str]], style: FigureStyle) -> float:
    """Return the width in inches of the captions beside the rows of a grid."""
    longest = max((len(line) for lines in captions for line in lines), default=0)
    return (longest * 0.58 + 2) * style.font * 0.8 / 72


def name_beside(axes: Axes, lines: Sequence[str], style: FigureStyle) -> None:
    """Write a caption at the left of axes that hold an image."""
    size = style.font * 0.8
    axes.set_ylabel("\n".join(lines), fontsize=size, rotation=0, ha="right", va="center", linespacing=1.25)


def draw_map(
    axes: Axes,
    map_: npt.NDArray[np.float32],
    limits: tuple[float, float],
    picture: npt.NDArray[np.uint8] | None = None,
    colors: str = SEQUENTIAL,
) -> AxesImage:
    """Draw a map, half-transparent over the gray of a picture if one is given."""
    if picture is not None:
        # Both use the map's pixels as coordinates, whatever the picture's size.
        rows, columns = map_.shape
        gray = picture.mean(axis=-1)
        axes.imshow(gray, cmap="gray", vmin=0, vmax=255, extent=(-0.5, columns - 0.5, rows - 0.5, -0.5))
    low, high = limits
    return axes.imshow(
        map_,
        alpha=1.0 if picture is None else 0.6,
        cmap=color_map(colors),
        vmin=low,
        vmax=high,
        interpolation="nearest",
        aspect=aspect_of(map_),
    )


def mark_unproven(axes: Axes, style: FigureStyle) -> None:
    """Mark a map whose value is unproven: a question mark in its corner, and a dashed frame."""
    axes.text(
        0.04,
        0.96,
        "?",
        transform=axes.transAxes,
        ha="left",
        va="top",
        fontsize=style.font * 0.85,
        weight="bold",
        color=style.theme.ink,
        bbox={"boxstyle": "square,pad=0.15", "facecolor": style.theme.paper, "edgecolor": "none"},
    )
    frame = {"visible": True, "color": UNPROVEN, "linewidth": 1.2, "linestyle": (0, (3, 2))}
    axes.spines[:].set(**frame)


def is_cut(limits: tuple[float, float], maps: Iterable[npt.NDArray[Any]]) -> tuple[bool, bool]:
    """Return whether a color scale leaves out smaller, and larger values of maps, which have the color of its ends."""
    finite = [known for each in maps if (known := each[np.isfinite(each)]).size]
    low, high = limits
    return any(known.min() < low for known in finite), any(known.max() > high for known in finite)


def cut_ends(limits: tuple[float, float], maps: Iterable[npt.NDArray[Any]]) -> Literal["neither", "min", "max", "both"]:
    """Return which ends of a color bar are pointed, as matplotlib names them: those where its scale is cut."""
    below, above = is_cut(limits, maps)
    return "both" if below and above else "min" if below else "max" if above else "neither"


def range_texts(limits: tuple[float, float], maps: Iterable[npt.NDArray[Any]] = ()) -> tuple[str, str]:
    """Return the ends of a color scale as short numbers that differ, with ``≤`` and ``≥`` where it cuts maps."""
    below, above = is_cut(limits, maps)
    low, high = _short_range(limits)
    return f"≤\u2009{low}" if below else low, f"≥\u2009{high}" if above else high


def _short_range(limits: tuple[float, float]) -> list[str]:
    low, high = limits
    width = high - low
    decimals = min(6, max(0, 1 - math.floor(math.log10(width)))) if width > 0 else 2
    if max(abs(low), abs(high)) >= 10_000:
        return [number_text(each, ".2e") for each in limits]
    return [number_text(each, f".{decimals}f") for each in limits]


def name_row(axes: Axes, name: str, room: float, style: FigureStyle) -> None:
    """Label a row of maps, `room` inches high: vertically if the name fits, else horizontally."""
    size = style.font * 0.8
    fits = max(map(len, name.split("\n"))) * 0.6 * size / 72 < room
    across: dict[str, Any] = {"rotation": 0, "ha": "right", "va": "center"}
    axes.set_ylabel(name, fontsize=size, **({} if fits else across))


def name_layers(axes: Axes, found: RunValues, style: FigureStyle) -> None:
    """Label as many layers as fit; they are at positions 0, 1, 2, ..."""
    texts = short_names([row.name for row in found.layers], 22)
    step = max(1, math.ceil(len(texts) * 0.17 * style.font / 8 / (style.width * 0.85)))
    axes.set_xticks(range(0, len(texts), step), texts[::step], rotation=40, ha="right", rotation_mode="anchor")
    axes.set_xticks(range(len(texts)), minor=True)
    axes.set_xlabel("layer, from the input to the output")


def tick_layers(axes: Axes, names: Sequence[str], at: npt.NDArray[np.float64], style: FigureStyle) -> None:
    """Label the positions of layers with as many of their names as fit without touching."""
    texts = short_names(names, 18)
    close = float(np.ptp(at)) * 0.17 * style.font / 8 / (style.width * 0.85)
    ticks: list[int] = []
    # From the end on, so that the last layer is named.
    for number in reversed(np.argsort(at, kind="stable").tolist()):
        if not ticks or at[ticks[-1]] - at[number] >= close:
            ticks.append(number)
    axes.set_xticks(
        [float(at[i]) for i in ticks], [texts[i] for i in ticks], rotation=40, ha="right", rotation_mode="anchor"
    )
    axes.set_xticks([float(each) for each in at if each not in at[ticks]], minor=True)


def layer_groups(axes: Axes, names: Sequence[str], at: npt.NDArray[np.float64], style: FigureStyle) -> None:
    """Shade the blocks of a network, if the names of its layers tell them: parts between ``/`` or ``.`` in a row."""
    keys = [_block_of(name) for name in names]
    blocks: list[tuple[str, float, float]] = []
    for key, place in zip(keys, at.tolist(), strict=True):
        if blocks and blocks[-1][0] == key:
            blocks[-1] = (key, blocks[-1][1], place)
        else:
            blocks.append((key, place, place))
    named = [block for block in blocks if block[0] and block[2] > block[1]]
    if not 2 <= len(named) <= 8 or len({block[0] for block in named}) < len(named):
        return
    half = 0.5 * float(np.min(np.diff(np.unique(at))))
    for number, (key, low, high) in enumerate(named):
        if number % 2 == 0:
            axes.axvspan(low - half, high + half, color=style.theme.missing, alpha=0.45, linewidth=0, zorder=0)
        axes.text(
            (low + high) / 2,
            0.985,
            shorten(key, 14),
            transform=axes.get_xaxis_transform(),
            ha="center",
            va="top",
            fontsize=style.font * 0.9,
            color=style.theme.muted,
        )


def _block_of(name: str) -> str:
    """Return the name of the block that a layer's name starts with; empty without one."""
    parts = [part for part in printable(name).replace(".", "/").split("/") if part]
    return parts[0] if len(parts) > 1 else ""


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


def color_limits(
    maps: Iterable[npt.NDArray[Any]], percentiles: tuple[float, float] = PERCENTILES
) -> tuple[float, float]:
    """Return the limits of a common color scale for maps: percentiles of their values; NaN and infinity are ignored.

    The upper limit exceeds the lower one even if all values are equal or there are none.
    """
    finite = [each[np.isfinite(each)] for each in maps]
    numbers = np.concatenate(finite) if finite else np.zeros(0)
    low, high = np.percentile(numbers, percentiles) if numbers.size else (0.0, 1.0)
    return float(low), float(high if high > low else low + 1e-6)


def aspect_of(map_: npt.NDArray[Any]) -> Literal["auto", "equal"]:
    """Return the aspect ratio of a map's pixels: square, except that a single row fills its axes."""
    return "auto" if map_.shape[0] == 1 else "equal"


def height_over_width(map_: npt.NDArray[Any]) -> float:
    """Return the height-to-width ratio at which a map is drawn; extreme shapes are moderated."""
    rows, columns = map_.shape
    return min(2.0, max(0.35, float(rows / columns)))


def spread_out(count: int) -> npt.NDArray[np.float64]:
    """Return deterministic horizontal offsets that keep the points of a layer apart; a single one is in the middle."""
    if count == 1:
        return np.zeros(1)
    # Multiples of the golden ratio fill an interval evenly, for any count.
    return ((np.arange(count, dtype=np.float64) * 0.6180339887) % 1 - 0.5) * 0.5
