"""Style of figures: colors, sizes, themes, and labels shortened to fit."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import UsageError
from ..text import printable, shorten

#: Okabe and Ito's colors, distinguishable with any color vision; black or white is reserved for text.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
#: Perceptually uniform, also in gray and for color-blind readers.
SEQUENTIAL = "cividis"
#: Diverging, white or dark at zero, without red and green.
DIVERGING = "PuOr_r"


@dataclass(frozen=True)
class Size:
    """Width of a figure in inches, its font size in points and its resolution."""

    width: float
    font: float
    dpi: int


SIZES = {"column": Size(3.5, 7, 400), "page": Size(7.2, 8, 250), "slide": Size(12, 14, 160)}


@dataclass(frozen=True)
class Theme:
    """Colors of paper and ink."""

    paper: str
    ink: str
    faint: str
    missing: str


THEMES = {
    "light": Theme("#ffffff", "#1a1a1a", "#c8c8c8", "#e4e4e4"),
    "dark": Theme("#16181d", "#eceff4", "#4a4f59", "#30343c"),
}


@dataclass(frozen=True)
class FigureStyle:
    """Style of a figure: theme and size."""

    theme: Theme
    size: Size

    @classmethod
    def named(cls, theme: str = "light", width: str = "page") -> FigureStyle:
        """Return the style for a theme and a width.

        Raises
        ------
        UsageError
            The theme or width is unknown.
        """
        if theme not in THEMES:
            raise UsageError(f"theme '{theme}' is unknown; choose one of {', '.join(THEMES)}")
        if width not in SIZES:
            raise UsageError(f"width '{width}' is unknown; choose one of {', '.join(SIZES)}")
        return cls(THEMES[theme], SIZES[width])

    @property
    def width(self) -> float:
        """Width of the figure in inches."""
        return self.size.width

    @property
    def font(self) -> float:
        """Font size in points."""
        return self.size.font

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
            "pdf.fonttype": 42,
        }


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
