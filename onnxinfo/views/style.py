"""Style of figures: colors, sizes, themes, and labels shortened to fit."""

from __future__ import annotations

import math
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypedDict

from ..errors import UsageError
from ..text import printable, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Okabe and Ito's colors, distinguishable with any color vision; black or white is reserved for text.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
#: Color of what is unproven, beside a mark that needs no color.
UNPROVEN = COLORS[5]
#: Perceptually uniform, also in gray and for color-blind readers.
SEQUENTIAL = "cividis"


class StyleOptions(TypedDict, total=False):
    """Options of figures; see :meth:`FigureStyle.named`."""

    theme: str
    width: str
    size: tuple[float, float]
    dpi: int


@dataclass(frozen=True)
class Size:
    """Width of a figure in inches, its font size in points and its resolution."""

    width: float
    font: float
    dpi: int


SIZES = {"column": Size(3.5, 7, 400), "page": Size(7.2, 8, 250), "slide": Size(12, 14, 160)}


@dataclass(frozen=True)
class Theme:
    """Colors of paper and ink, of notes, grids, and cells without a value."""

    paper: str
    ink: str
    muted: str
    faint: str
    missing: str


THEMES = {
    "light": Theme("#ffffff", "#1a1a1a", "#595959", "#d4d4d4", "#e4e4e4"),
    "dark": Theme("#16181d", "#eceff4", "#aab2bf", "#3a3f48", "#30343c"),
}
#: Limits of a figure: inches of a side, and pixels of a side, which matplotlib can draw.
_SIDES = (1.0, 100.0)
_MOST_PIXELS = 32_000


@dataclass(frozen=True)
class FigureStyle:
    """Style of a figure: theme and size; the height is given, or follows from what is drawn."""

    theme: Theme
    size: Size
    height: float | None = None

    @classmethod
    def named(
        cls,
        theme: str = "light",
        width: str = "page",
        *,
        size: tuple[float, float] | None = None,
        dpi: int | None = None,
    ) -> FigureStyle:
        """Return the style for a theme and a width, or for a size in inches and a resolution.

        Raises
        ------
        UsageError
            The theme or width is unknown, or a figure of this size cannot be drawn.
        """
        if theme not in THEMES:
            raise UsageError(f"theme '{theme}' is unknown; choose one of {', '.join(THEMES)}")
        if width not in SIZES:
            raise UsageError(f"width '{width}' is unknown; choose one of {', '.join(SIZES)}")
        made = cls(THEMES[theme], SIZES[width])
        if size is not None:
            across, height = _checked_size(size)
            made = cls(made.theme, replace(made.size, width=across), height)
        if dpi is not None:
            made = replace(made, size=replace(made.size, dpi=_checked_dpi(dpi)))
        if made.size.dpi * max(made.width, made.height or 0) > _MOST_PIXELS:
            raise UsageError(
                f"a side of {max(made.width, made.height or 0):g} inches at {made.size.dpi} dpi has more than "
                f"{_MOST_PIXELS} pixels; choose a smaller size or dpi"
            )
        return made

    @classmethod
    def of_axes(cls, axes: Axes) -> FigureStyle:
        """Return the style of axes of the caller's: the colors, the font size and the width that they have."""
        import matplotlib
        from matplotlib.colors import to_hex, to_rgb

        paper = to_hex(axes.get_facecolor())
        theme = THEMES["light" if sum(to_rgb(paper)) > 1.5 else "dark"]
        ink = to_hex(matplotlib.rcParams["text.color"])
        font = float(axes.xaxis.label.get_fontsize())
        figure = axes.get_figure(root=True)
        assert figure is not None
        width = axes.get_position().width * figure.get_figwidth()
        return cls(replace(theme, paper=paper, ink=ink), Size(width, font, round(figure.dpi)))

    @property
    def width(self) -> float:
        """Width of the figure in inches."""
        return self.size.width

    @property
    def font(self) -> float:
        """Font size in points."""
        return self.size.font

    @contextmanager
    def context(self) -> Iterator[None]:
        """Draw in this style: matplotlib's defaults plus our settings, not the user's."""
        import matplotlib

        # The backend is not a property of the figure.
        own: dict[Any, Any] = {key: value for key, value in matplotlib.rcParamsDefault.items() if key != "backend"}
        with warnings.catch_warnings(), matplotlib.rc_context():
            # A glyph missing from the font is drawn as a box; the user need not be told.
            warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
            # Deprecated settings warn whenever they are set, to any value.
            warnings.simplefilter("ignore", matplotlib.MatplotlibDeprecationWarning)
            matplotlib.rcParams.update(own | self.settings())
            yield

    def settings(self) -> dict[str, Any]:
        """Return the matplotlib settings."""
        ink, faint, paper = self.theme.ink, self.theme.faint, self.theme.paper
        font = self.font
        return {
            "font.size": font,
            "font.family": ["DejaVu Sans"],
            "axes.titlesize": font,
            "axes.labelsize": font,
            "xtick.labelsize": font * 0.9,
            "ytick.labelsize": font * 0.9,
            "legend.fontsize": font * 0.9,
            "legend.title_fontsize": font * 0.9,
            "legend.frameon": False,
            "legend.borderpad": 0,
            "figure.facecolor": paper,
            "savefig.facecolor": paper,
            "axes.facecolor": paper,
            "legend.facecolor": paper,
            "legend.edgecolor": faint,
            "text.color": ink,
            "axes.labelcolor": ink,
            "axes.edgecolor": ink,
            "xtick.color": ink,
            "ytick.color": ink,
            "grid.color": faint,
            "grid.linewidth": 0.5,
            "axes.linewidth": 0.6,
            "xtick.major.width": 0.6,
            "ytick.major.width": 0.6,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "lines.linewidth": 1.4,
            "lines.markersize": font * 0.55,
            # Layer names are not formulas.
            "text.parse_math": False,
            # Makes identifiers in the file reproducible.
            "svg.hashsalt": "onnxinfo",
            # Text stays text, which can be searched, copied and read aloud.
            "svg.fonttype": "none",
            "pdf.fonttype": 42,
        }


def _checked_size(size: tuple[float, float]) -> tuple[float, float]:
    low, high = _SIDES
    try:
        width, height = (float(side) for side in size)
    except (TypeError, ValueError):
        width = height = math.nan
    if not (low <= width <= high and low <= height <= high):
        raise UsageError(f"size {size!r}; give width and height in inches, {low:g} to {high:g}, such as size=(7.2, 4)")
    return width, height


def _checked_dpi(dpi: int) -> int:
    if isinstance(dpi, bool) or not isinstance(dpi, int) or not 10 <= dpi <= 2400:
        raise UsageError(f"dpi {dpi!r}; give dots per inch as an integer from 10 to 2400")
    return dpi


def number_text(value: float, spec: str = ".2f") -> str:
    """Return a number as figures show it: with a minus sign, not a hyphen."""
    return format(value, spec).replace("-", "\N{MINUS SIGN}")


def short_names(names: Sequence[str], size: int) -> list[str]:
    """Shorten layer names, keeping different names different.

    Common prefixes and suffixes are removed, in whole parts between ``/``; names that are still longer than `size`
    are cut in the middle.
    """
    parts = [printable(name).split("/") for name in names]
    if len(set(map(tuple, parts))) > 1:
        while min(map(len, parts)) > 1 and len({part[0] for part in parts}) == 1:
            parts = [part[1:] for part in parts]
        while min(map(len, parts)) > 1 and len({part[-1] for part in parts}) == 1:
            parts = [part[:-1] for part in parts]
    # ``layer1/layer1.0``: the second part suffices.
    parts = [
        [part for part, following in zip(each, [*each[1:], ""], strict=True) if not following.startswith(f"{part}.")]
        for each in parts
    ]
    short = [shorten("/".join(part).removesuffix("_output_0") or "/", size) for part in parts]
    if len(set(short)) < len(set(names)):
        short = [shorten(f"{number}: {name}", size) for number, name in enumerate(short)]
    return short


def wrapped(text: str, inches: float, style: FigureStyle) -> str:
    """Wrap a label into lines that fit along an axis of this length."""
    return "\n".join(textwrap.wrap(text, max(12, int(inches * 72 / (0.56 * style.font)))))


def evenly(count: int, most: int) -> list[int]:
    """Return at most `most` of `count` positions, evenly spaced, including the first and the last."""
    if count <= most:
        return [*range(count)]
    if most == 1:
        return [count - 1]
    return sorted({round(i * (count - 1) / (most - 1)) for i in range(most)})
