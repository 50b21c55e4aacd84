"""Figure files."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError
from ..kinds import GIF, PDF, PNG, SVG, Kind
from ..outputs import Output, claim

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

SUFFIXES: dict[str, Kind] = {".png": PNG, ".svg": SVG, ".pdf": PDF}


def claim_figure(
    output: str | os.PathLike[str], *inputs: object, force: bool = False, animated: bool = False
) -> Output:
    """Check, before drawing, that a figure may be written; see :func:`onnxinfo.outputs.claim`.

    Raises
    ------
    UsageError
        The suffix is not supported, or the file may not be written.
    ArchiveError
        The folder or the file is write-protected.
    """
    suffix = Path(output).suffix.lower()
    known = SUFFIXES | ({".gif": GIF} if animated else {})
    if suffix not in known:
        raise UsageError(f"{output}: cannot draw '{suffix}'; name a file that ends in {', '.join(known)}")
    return claim(output, known[suffix], inputs=inputs, force=force)


@contextmanager
def room_for_axes(width: float, height: float) -> Iterator[None]:
    """Refuse figures in which texts leave no room for the axes; matplotlib only warns, and draws them over each other.

    Raises
    ------
    UsageError
        There is no room.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="constrained_layout not applied", category=UserWarning)
        try:
            yield
        except UserWarning as error:
            raise UsageError(
                f"texts leave no room in {width:.3g} x {height:.3g} inches; choose a larger size"
            ) from error


def write_figure(figure: Figure, output: Output) -> None:
    """Write a figure to a file; the same data produce the same bytes.

    Raises
    ------
    UsageError
        What is drawn does not fit into the figure.
    ArchiveError
        The file cannot be written.
    """
    kind = next(suffix for suffix, kind in SUFFIXES.items() if kind is output.kind).removeprefix(".")
    width, height = figure.get_size_inches()
    with output.writing() as part, room_for_axes(width, height):
        figure.savefig(part, format=kind)
    logger.info("wrote %s: %.2f x %.2f inches", output.path, width, height)
