"""What plots draw into: a figure of their own, or axes of the caller's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy.typing as npt

from ..errors import UsageError
from ..kinds import GIF
from ..outputs import Output
from .drawing import Drawing
from .figure import room_for_axes, write_figure
from .style import FigureStyle, wrapped

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from matplotlib.legend import Legend


class Canvas:
    """A figure to draw a plot into, or axes of the caller's, which take a plot of one panel.

    Parameters
    ----------
    style
        Style of the figure.
    plot
        Name of the plot, for messages.
    axes
        Axes of the caller's; None: a figure is made.

    Attributes
    ----------
    figure
        The figure that is drawn into.
    alt
        Text that says what it shows.
    title
        Title, unless the caller gives another one.
    animation
        Function that writes an animation to a path, of plots that have one.
    """

    def __init__(self, style: FigureStyle, plot: str = "", axes: Axes | None = None) -> None:
        self._plot, self._axes = plot, axes
        self.alt = self.title = ""
        self.animation: Callable[[Path], None] | None = None
        self._notes: list[str] = []
        self._legends: dict[Literal["upper", "right"], Legend] = {}
        self._own = None
        if axes is not None:
            self.figure: Figure | SubFigure = _figure_of(axes)
            self.style = FigureStyle.of_axes(axes)
            return
        self.style = style
        self.figure = self._own = Drawing(style)
        if style.height is not None:
            self._own.set_size_inches(style.width, style.height)

    def context(self) -> AbstractContextManager[None]:
        """Return a context to draw in: in the style, or, in axes of the caller's, in the caller's settings."""
        return self.style.context() if self._own else nullcontext()

    @property
    def height(self) -> float:
        """Height in inches that is drawn into."""
        if self._axes is not None:
            return float(self._axes.get_position().height * self.root.get_figheight())
        return float(self.root.get_figheight())

    def set_height(self, height: float) -> None:
        """Set the height in inches that the plot needs, unless the caller has chosen a size."""
        if self._own and self.style.height is None:
            self._own.set_size_inches(self.style.width, height)

    def whole(self) -> Drawing:
        """Return the figure, for plots of several panels.

        Raises
        ------
        UsageError
            The caller gave axes.
        """
        if self._own is None:
            raise UsageError(f"plot '{self._plot}' has several panels here and does not fit into ax; leave ax out")
        return self._own

    def compressed(self) -> Drawing:
        """Return the figure, for panels of a fixed shape, which it moves together where there is room between them."""
        figure = self.whole()
        figure.set_layout_engine("compressed")
        return figure

    def panel(self) -> Axes:
        """Return the axes of a plot of one panel."""
        return self.whole().add_subplot() if self._axes is None else self._axes

    def panels(self, rows: int, columns: int = 1, **options: Any) -> npt.NDArray[Any]:
        """Return axes of shape (rows, columns); `options` are those of :meth:`matplotlib.figure.Figure.subplots`."""
        import numpy as np

        if self._axes is not None and rows == columns == 1:
            return np.array([[self._axes]], dtype=object)
        made: npt.NDArray[Any] = self.whole().subplots(rows, columns, squeeze=False, **options)
        return made

    def legend(
        self,
        handles: Sequence[Artist] = (),
        texts: Sequence[str] = (),
        *,
        title: str = "",
        columns: int = 1,
        side: Literal["upper", "right"] = "upper",
    ) -> None:
        """Draw a legend beside the panels, where it covers nothing; into given axes where it covers least.

        Parameters
        ----------
        handles, texts
            Its entries; none: what is labeled in the panels.
        title, columns
            Its title, and the number of columns.
        side
            Where it is drawn.
        """
        if not handles:
            found = [axes.get_legend_handles_labels() for axes in (self._axes and [self._axes]) or self.figure.axes]
            pairs = dict(pair for each in found for pair in zip(each[1], each[0], strict=True))
            handles, texts = [*pairs.values()], [*pairs]
        if not handles and not title:
            return
        options: dict[str, Any] = {"title": title or None, "alignment": "left"}
        if self._axes is not None:
            self._axes.legend(handles, texts, **options)
            return
        where: Any = "outside upper left" if side == "upper" else "outside right upper"
        self._legends[side] = self.figure.legend(handles, texts, loc=where, ncols=columns, **options)

    def note(self, text: str) -> None:
        """Add a note below the figure; empty ones are ignored."""
        if text:
            self._notes.append(text)

    def finish(self, title: str = "", caution: str = "") -> None:
        """Write title, notes and a caution around the panels; the figure grows by them unless its size was chosen."""
        self.title = title = title or self.title
        if self._axes is not None:
            if title:
                self._axes.set_title(title)
            lines = [self._axes.get_xlabel(), *self._notes, caution]
            self._axes.set_xlabel("\n".join(wrapped(line, self.style.width, self.style) for line in lines if line))
            return
        self._write_below(caution)
        self._write_title(title)
        figure = self.whole()
        figure.title, figure.alt = title or self._plot, self.alt

    def write(self, output: Output) -> None:
        """Write the figure to a file, or, to a GIF file, its animation."""
        if output.kind is not GIF:
            write_figure(self.whole(), output)
            return
        assert self.animation is not None
        with output.writing() as part, room_for_axes(self.style.width, self.height):
            self.animation(part)

    @property
    def root(self) -> Figure:
        """The figure as a whole, which axes in a part of it belong to."""
        root = self.figure.get_figure(root=True)
        assert root is not None
        return root

    def _write_below(self, caution: str) -> None:
        style, figure = self.style, self.whole()
        room = style.width * 0.96 / 0.85
        notes = wrapped("; ".join(self._notes), room, style) if self._notes else ""
        warning = wrapped(caution, room, style) if caution else ""
        text = "\n".join(part for part in (notes, warning) if part)
        if not text:
            return
        self._grow((text.count("\n") + 1) * style.font * 1.2 / 72)
        size = style.font * 0.85
        figure.supxlabel(text, fontsize=size, x=0.01, ha="left", color=style.theme.muted, linespacing=1.3)

    def _write_title(self, title: str) -> None:
        if not title:
            return
        style, figure = self.style, self.whole()
        size = style.font * 1.25
        text = wrapped(title, style.width * 0.96 * style.font / size, style)
        room = ((text.count("\n") + 1) * 1.25 + 0.9) * size / 72
        self._grow(room)
        top = 1 - room / figure.get_figheight()
        figure.text(0.01, 1 - 0.45 * (1 - top) / (text.count("\n") + 2), text, fontsize=size, weight="bold", va="top")
        self._move_legends(top)

    def _move_legends(self, top: float) -> None:
        """Place legends and panels below the title; the layout would place legends at the top edge, too."""
        figure, inches = self.whole(), self.style.font * 0.5 / 72
        right, below = 1.0, top
        for side, legend in self._legends.items():
            # With another place than the layout's, it keeps no room for them.
            legend.set_loc("upper left" if side == "upper" else "upper right")
            legend.set_bbox_to_anchor((0, 0, 1, top), figure.transFigure)
            found = legend.get_window_extent().transformed(figure.transFigure.inverted())
            if side == "upper":
                below = min(below, found.y0 - inches / figure.get_figheight())
            else:
                right = min(right, found.x0 - inches / figure.get_figwidth())
        engine: Any = figure.get_layout_engine()
        engine.set(rect=(0, 0, right, below))

    def _grow(self, inches: float) -> None:
        self.set_height(self.height + inches)


def _figure_of(axes: Any) -> Figure | SubFigure:
    from matplotlib.axes import Axes

    figure = axes.get_figure() if isinstance(axes, Axes) else None
    if figure is None:
        raise UsageError(f"ax is {type(axes).__name__}; give axes of a matplotlib figure, such as plt.gca()")
    found: Figure | SubFigure = figure
    return found
