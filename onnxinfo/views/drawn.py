"""Results that are drawn by a method of theirs, each in one figure."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Unpack

from .canvas import Canvas
from .figure import claim_figure
from .style import FigureStyle, StyleOptions

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Drawn(ABC):
    """A result with a figure."""

    @abstractmethod
    def _draw(self, canvas: Canvas) -> None:
        """Draw it."""

    def plot(
        self, output: str | os.PathLike[str] | None = None, *, force: bool = False, **style: Unpack[StyleOptions]
    ) -> Figure:
        """Draw the result; see the class for what the figure shows.

        Parameters
        ----------
        output
            PNG, SVG or PDF file. An existing picture is replaced, other files are not. None: only return the figure.
        force
            Replace an existing file whatever it contains.
        **style
            ``theme``, ``width``, ``size`` and ``dpi``, as for :func:`onnxinfo.plot`.

        Returns
        -------
        matplotlib.figure.Figure
            The figure.

        Raises
        ------
        UsageError
            The file may not be replaced, its suffix is not supported, or the style is invalid.
        ArchiveError
            The file cannot be written.
        """
        target = None if output is None else claim_figure(output, force=force)
        canvas = Canvas(FigureStyle.named(**style), type(self).__name__)
        with canvas.context():
            self._draw(canvas)
        if target is not None:
            canvas.write(target)
        return canvas.root
