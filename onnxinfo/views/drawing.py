"""Figures that keep their style: the same bytes for the same data, text as text, and a text for who cannot see them."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import IO, Any, cast

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .style import FigureStyle
from .svg import finished_svg

#: Resolution of the screen that notebooks assume when they show a picture in its own size.
_SCREEN_DPI = 96


class Drawing(Figure):
    """A figure of onnxinfo: a matplotlib figure that is saved and shown in its own style, whatever the user's is.

    It belongs to no window and no state of pyplot. Notebooks show it as a picture.

    Parameters
    ----------
    style
        Style of the figure.

    Attributes
    ----------
    alt
        Text that says what the figure shows, stored in PNG, SVG and PDF files and given to notebooks.
    """

    def __init__(self, style: FigureStyle) -> None:
        with style.context():
            super().__init__(figsize=(style.width, style.width), dpi=style.size.dpi, layout="constrained")
        FigureCanvasAgg(self)
        self.style = style
        self.title = ""
        self.alt = ""

    def savefig(self, fname: Any, **options: Any) -> None:
        """Save the figure; see :meth:`matplotlib.figure.Figure.savefig`."""
        kind = options.get("format") or Path(str(fname)).suffix.removeprefix(".").lower() or "png"
        options["metadata"] = self._metadata(kind) | (options.get("metadata") or {})
        with self.style.context():
            if kind != "svg":
                super().savefig(fname, **options)
                return
            made = io.StringIO()
            super().savefig(made, **(options | {"format": "svg"}))
        _write(fname, finished_svg(made.getvalue(), self.title, self.alt))

    def _metadata(self, kind: str) -> dict[str, str | None]:
        """Return what a file says about itself; dates would make equal figures differ."""
        if kind == "svg":
            return {"Date": None}
        if kind == "pdf":
            return {"CreationDate": None, "Title": self.title, "Subject": self.alt}
        return {"Title": self.title, "Description": self.alt} if kind == "png" else {}

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, bytes], dict[str, dict[str, Any]]]:
        """Return the picture that a notebook shows, in the figure's own size, with its text."""
        made = io.BytesIO()
        self.savefig(made, format="png")
        width, height = (round(inches * _SCREEN_DPI) for inches in self.get_size_inches())
        return {"image/png": made.getvalue()}, {"image/png": {"width": width, "height": height, "alt": self.alt}}


def _write(fname: Any, text: str) -> None:
    if isinstance(fname, str | os.PathLike):
        Path(fname).write_text(text, encoding="utf-8")
    elif isinstance(fname, io.TextIOBase):
        fname.write(text)
    else:
        cast(IO[bytes], fname).write(text.encode())
