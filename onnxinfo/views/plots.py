"""All kinds of plots by name."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..registry import PLOTS
from .query import Paths


def plot(path: Paths, kind: str, output: str | os.PathLike[str], **options: Any) -> Path:
    """Draw a plot of a kind.

    Parameters
    ----------
    path
        An archive, or several.
    kind
        ``curve``, ``maps``, ``difference``, ``distribution``, ``certificate``, ``scatter``, ``history``,
        ``concentration``, ``coherency``, ``units`` or ``compare``; or a name in :data:`onnxinfo.registry.PLOTS`.
    output
        The figure: a file that ends in .png, .svg or .pdf.
    **options
        Of the function that draws the kind, such as :func:`onnxinfo.plot_curve`; each takes ``force``.

    Returns
    -------
    Path
        The figure's path.

    Raises
    ------
    UsageError
        The kind is unknown, or does not take one of the options.
    """
    draw = PLOTS.get(kind)
    known = inspect.signature(draw).parameters
    for name in options:
        if name not in known:
            raise UsageError(f"plot '{kind}' does not take '{name}'; it takes {', '.join([*known][2:])}")
    if isinstance(options.get("metric"), list | tuple) and known["metric"].annotation == "str":
        if len(options["metric"]) > 1:
            raise UsageError(f"plot '{kind}' shows one metric, and {len(options['metric'])} are given")
        (options["metric"],) = options["metric"]
    drawn: Path = draw(path, output, **options)
    return drawn
