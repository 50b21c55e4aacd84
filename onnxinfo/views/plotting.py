"""All kinds of plots by name."""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UsageError
from .query import Paths
from .run_view import no_such


@dataclass(frozen=True)
class PlotKind:
    """A kind of plot.

    Attributes
    ----------
    module, function
        Where it is drawn.
    summary
        What it shows, in a few words.
    """

    module: str
    function: str
    summary: str

    def load(self) -> Callable[..., Path]:
        """Import the function."""
        drawn: Callable[..., Path] = getattr(importlib.import_module(f".{self.module}", __package__), self.function)
        return drawn


KINDS = {
    "curve": PlotKind("plot_curve", "plot_curve", "metrics by depth with their spread, a line for each run"),
    "maps": PlotKind("plot_maps", "plot_maps", "pixel maps: samples down, layers across; alone or over the image"),
    "difference": PlotKind("plot_difference", "plot_difference", "pixel maps of a second run minus the first's"),
    "distribution": PlotKind("plot_samples", "plot_distribution", "the samples' values in each layer"),
    "certificate": PlotKind("plot_samples", "plot_certificate", "how well values are known: ratio, gap, probes"),
    "scatter": PlotKind("plot_relations", "plot_scatter", "a metric against another, a point for each layer"),
    "history": PlotKind("plot_relations", "plot_history", "a metric over runs such as epochs, a line for each layer"),
    "concentration": PlotKind("plot_objects", "plot_concentration", "concentration by layer, and the foregrounds"),
    "coherency": PlotKind("plot_coherency", "plot_coherency", "all metrics side by side: maps and magnitudes"),
    "units": PlotKind("plot_units", "plot_units", "inputs that are no images: tokens, features or series"),
    "compare": PlotKind("plot_compare", "plot_compare", "differences between runs with confidence intervals"),
}


def plot(path: Paths, kind: str, output: str | os.PathLike[str], **options: Any) -> Path:
    """Draw a plot of a kind.

    Parameters
    ----------
    path
        An archive, or several.
    kind
        ``curve``, ``maps``, ``difference``, ``distribution``, ``certificate``, ``scatter``, ``history``,
        ``concentration``, ``coherency``, ``units`` or ``compare``.
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
    if kind not in KINDS:
        raise UsageError(no_such("kind of plot", kind, [*KINDS], "onnxinfo"))
    draw = KINDS[kind].load()
    known = inspect.signature(draw).parameters
    for name in options:
        if name not in known:
            raise UsageError(f"plot '{kind}' does not take '{name}'; it takes {', '.join([*known][2:])}")
    if isinstance(options.get("metric"), list | tuple) and known["metric"].annotation == "str":
        if len(options["metric"]) > 1:
            raise UsageError(f"plot '{kind}' shows one metric, and {len(options['metric'])} are given")
        (options["metric"],) = options["metric"]
    return draw(path, output, **options)
