"""Figures for paper and slide: a fixed look, deterministic files, no influence of a user's matplotlib settings."""

from __future__ import annotations

import logging
import os
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..kinds import PDF, PNG, SVG, Kind
from ..outputs import Output, claim
from ..text import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

SUFFIXES: dict[str, Kind] = {".png": PNG, ".svg": SVG, ".pdf": PDF}

#: Okabe and Ito's colours, which people with any colour vision tell apart; black or white is left to the text.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
#: Of equal perceived steps, also in grey and to the colour-blind.
SEQUENTIAL = "cividis"
#: Two-sided, white or dark at zero, without red and green.
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
    """Colours of paper and ink."""

    paper: str
    ink: str
    faint: str
    missing: str


THEMES = {
    "light": Theme("#ffffff", "#1a1a1a", "#c8c8c8", "#e4e4e4"),
    "dark": Theme("#16181d", "#eceff4", "#4a4f59", "#30343c"),
}


@dataclass(frozen=True)
class Look:
    """How a figure is to look: its theme and size."""

    theme: Theme
    size: Size

    def settings(self) -> dict[str, Any]:
        """Return matplotlib's settings."""
        ink, faint, paper = self.theme.ink, self.theme.faint, self.theme.paper
        font = self.size.font
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
            # Layer names are no formulas.
            "text.parse_math": False,
            # Identifiers in the file do not change from one time to the next.
            "svg.hashsalt": "onnxinfo",
            "pdf.fonttype": 42,
        }


def look(theme: str, width: str) -> Look:
    """Return the look of that theme and width.

    Raises
    ------
    UsageError
        The theme or width is unknown.
    """
    if theme not in THEMES:
        raise UsageError(f"theme '{theme}' is unknown; choose one of {', '.join(THEMES)}")
    if width not in SIZES:
        raise UsageError(f"width '{width}' is unknown; choose one of {', '.join(SIZES)}")
    return Look(THEMES[theme], SIZES[width])


def claim_figure(output: str | os.PathLike[str], *inputs: object, force: bool = False) -> Output:
    """Decide whether a figure may be written, before it is drawn; see :func:`onnxinfo.outputs.claim`.

    Raises
    ------
    UsageError
        The suffix is none that can be written, or the file may not be.
    ArchiveError
        The folder or the file is write-protected.
    """
    suffix = Path(output).suffix.lower()
    if suffix not in SUFFIXES:
        raise UsageError(f"{output}: cannot draw '{suffix}'; name a file that ends in {', '.join(SUFFIXES)}")
    return claim(output, SUFFIXES[suffix], inputs=inputs, force=force)


@contextmanager
def drawing(output: Output, look: Look) -> Iterator[Figure]:
    """Yield an empty figure, which is written to the file once the block has succeeded.

    The same data give the same bytes.

    Parameters
    ----------
    output
        Of :func:`claim_figure`.
    look
        The figure's look. Its height is the block's to set.

    Raises
    ------
    ArchiveError
        The file cannot be written.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    kind = next(suffix for suffix, kind in SUFFIXES.items() if kind is output.kind).removeprefix(".")
    dates: dict[str, dict[str, str | None]] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}
    # Not the user's settings but matplotlib's own, and ours; the backend is no setting of a figure.
    own: dict[Any, Any] = {key: value for key, value in matplotlib.rcParamsDefault.items() if key != "backend"}
    with warnings.catch_warnings(), matplotlib.rc_context():
        # A glyph that the font lacks is drawn as a box; nothing to tell the user about.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        # Deprecated settings warn when they are set, to whatever value.
        warnings.simplefilter("ignore", matplotlib.MatplotlibDeprecationWarning)
        matplotlib.rcParams.update(own | look.settings())
        figure = Figure(figsize=(look.size.width, look.size.width), dpi=look.size.dpi, layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        with output.writing() as part:
            figure.savefig(part, format=kind, dpi=look.size.dpi, metadata=dates[kind])
        width, height = figure.get_size_inches()
        logger.info("wrote %s: %.2f x %.2f inches", output.path, width, height)


def short_names(names: Sequence[str], size: int) -> list[str]:
    """Return short forms of layer names, different where the names are.

    What all names begin and end with is left out, in whole parts between ``/``; what is still longer than `size` is cut
    in its middle.
    """
    parts = [printable(name).split("/") for name in names]
    if len(set(map(tuple, parts))) > 1:
        while min(map(len, parts)) > 1 and len({part[0] for part in parts}) == 1:
            parts = [part[1:] for part in parts]
        while min(map(len, parts)) > 1 and len({part[-1] for part in parts}) == 1:
            parts = [part[:-1] for part in parts]
    # ``layer1/layer1.0``: the second says it all.
    parts = [
        [part for part, following in zip(each, [*each[1:], ""], strict=True) if not following.startswith(f"{part}.")]
        for each in parts
    ]
    short = [cut("/".join(part).removesuffix("_output_0") or "/", size) for part in parts]
    if len(set(short)) < len(set(names)):
        short = [cut(f"{number}: {name}", size) for number, name in enumerate(short)]
    return short


def wrapped(text: str, inches: float, look: Look) -> str:
    """Return a label in lines that fit beside an axis of that length."""
    return "\n".join(textwrap.wrap(text, max(12, int(inches * 72 / (0.56 * look.size.font)))))


def cut(text: str, size: int) -> str:
    """Return text cut in its middle to at most `size` characters."""
    if len(text) <= size:
        return text
    head = (size - 1) // 2
    return f"{text[:head]}…{text[len(text) - (size - 1 - head) :]}"


def evenly(count: int, most: int) -> list[int]:
    """Return at most that many of `count` positions, evenly spaced, with the first and the last."""
    if count <= most:
        return [*range(count)]
    if most == 1:
        return [count - 1]
    return sorted({round(i * (count - 1) / (most - 1)) for i in range(most)})
