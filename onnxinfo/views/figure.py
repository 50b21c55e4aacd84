"""Figure files: reproducible bytes, independent of the user's matplotlib settings."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..kinds import PDF, PNG, SVG, Kind
from ..outputs import Output, claim
from .style import FigureStyle, wrapped

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

SUFFIXES: dict[str, Kind] = {".png": PNG, ".svg": SVG, ".pdf": PDF}


def claim_figure(output: str | os.PathLike[str], *inputs: object, force: bool = False) -> Output:
    """Check, before drawing, that a figure may be written; see :func:`onnxinfo.outputs.claim`.

    Raises
    ------
    UsageError
        The suffix is not supported, or the file may not be written.
    ArchiveError
        The folder or the file is write-protected.
    """
    suffix = Path(output).suffix.lower()
    if suffix not in SUFFIXES:
        raise UsageError(f"{output}: cannot draw '{suffix}'; name a file that ends in {', '.join(SUFFIXES)}")
    return claim(output, SUFFIXES[suffix], inputs=inputs, force=force)


@contextmanager
def new_figure(output: Output, style: FigureStyle) -> Iterator[Figure]:
    """Yield an empty figure, which is written to the file if the block succeeds.

    The same data produce the same bytes.

    Parameters
    ----------
    output
        Output returned by :func:`claim_figure`.
    style
        Style of the figure. The block sets the height.

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
    # matplotlib's defaults plus our settings, not the user's; the backend is not a property of the figure.
    own: dict[Any, Any] = {key: value for key, value in matplotlib.rcParamsDefault.items() if key != "backend"}
    with warnings.catch_warnings(), matplotlib.rc_context():
        # A glyph missing from the font is drawn as a box; the user need not be told.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        # Deprecated settings warn whenever they are set, to any value.
        warnings.simplefilter("ignore", matplotlib.MatplotlibDeprecationWarning)
        matplotlib.rcParams.update(own | style.settings())
        figure = Figure(figsize=(style.width, style.width), dpi=style.size.dpi, layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        with output.writing() as part:
            figure.savefig(part, format=kind, dpi=style.size.dpi, metadata=dates[kind])
        width, height = figure.get_size_inches()
        logger.info("wrote %s: %.2f x %.2f inches", output.path, width, height)


def write_below(figure: Figure, text: str, style: FigureStyle) -> None:
    """Write text below a finished figure, which grows by its lines."""
    lines = wrapped(text, style.width * 0.9, style)
    before = figure.get_supxlabel()
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + (lines.count("\n") + 1) * style.font * 1.2 / 72)
    figure.supxlabel(f"{before}\n{lines}" if before else lines, fontsize=style.font * 0.85)
