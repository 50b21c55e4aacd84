"""Framework of the plots: make a plot from a drawing function, and draw any plot into a file.

A plot is a file in :mod:`onnxinfo.views.plots`, named after it, with one function::

    @figure_plot("history", metrics=ONE)
    def draw_history(figure, selection, style):
        ...

The function reads the selected data and draws into the figure. Options, style and output file are handled here for
all plots.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack

from ..arguments import Names, values_of
from ..errors import UsageError
from ..registry import PLOTS
from .comparable import caution_of
from .figure import claim_figure, new_figure, write_below
from .selection import Paths, Selection
from .style import FigureStyle

Spread = Literal["stderr", "iqr"]
#: Number of metrics that a plot shows: `NONE` that can be chosen, `ONE`, or `SEVERAL`.
Metrics = Literal["none", "one", "several"]
NONE: Metrics = "none"
ONE: Metrics = "one"
SEVERAL: Metrics = "several"


class PlotOptions(TypedDict, total=False):
    """Options common to all plots, see :func:`plot`."""

    run: Names
    layers: Names
    metric: Names
    samples: Sequence[str | int]
    input: Names
    theme: str
    width: str
    force: bool


class CurveOptions(PlotOptions, total=False):
    """Options of :func:`plot_curve`."""

    spread: Spread


class MapsOptions(PlotOptions, total=False):
    """Options of :func:`plot_maps`."""

    overlay: bool
    scale: Literal["layer", "shared"]


@dataclass(frozen=True)
class Plot:
    """A plot. Call it with archives, the figure's path and options; see :func:`plot`.

    Attributes
    ----------
    name
        Name of the plot.
    draw
        ``draw(figure, selection, style, **own)`` draws the selection; keyword parameters are the plot's own options.
    metrics
        Number of metrics that it shows.
    default
        Default selection.
    files
        Own options that name files to read; these files are never overwritten.
    """

    name: str
    draw: Callable[..., None]
    metrics: Metrics
    default: dict[str, tuple[Any, ...]]
    files: tuple[str, ...]

    @property
    def options(self) -> list[str]:
        """Names of all options."""
        own = [*inspect.signature(self.draw).parameters][3:]
        chosen = ["run", "layers", *(["metric"] if self.metrics != NONE else []), "samples"]
        return [*chosen, "input", *own, "theme", "width", "force"]

    def __call__(self, path: Paths, output: str | os.PathLike[str], **options: Any) -> Path:
        """Draw the plot into a file and return its path; see :func:`plot`."""
        _check_options(self.name, self.options, options)
        force = options.pop("force", False)
        target = claim_figure(output, path, *(options.get(name) for name in self.files), force=force)
        style = FigureStyle.named(options.pop("theme", "light"), options.pop("width", "page"))
        selection = self._selection(path, options)
        with new_figure(target, style) as figure:
            self.draw(figure, selection, style, **options)
            if text := caution_of(selection, self._shown(selection, options)):
                write_below(figure, text, style)
        return Path(output)

    def _shown(self, selection: Selection, options: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the metrics that are drawn, also by the option ``against``; none: all."""
        against = inspect.signature(self.draw).parameters.get("against")
        return (*selection.metrics, *([] if against is None else [options.get("against", against.default)]))

    def _selection(self, path: Paths, options: dict[str, Any]) -> Selection:
        """Split the selection off the options."""
        names = ("run", "layers", "metric", "samples", "input")
        chosen = {name: tuple(values_of(options.pop(name, ()), name)) for name in names}
        run, layers, metrics, samples, inputs = ((chosen[name] or self.default.get(name, ())) for name in chosen)
        if self.metrics == ONE and len(metrics) > 1:
            raise UsageError(f"plot '{self.name}' shows one metric, and {len(metrics)} are given")
        return Selection.of(path, run=run, layers=layers, metrics=metrics, samples=samples, input=inputs)


def figure_plot(
    name: str,
    *,
    metrics: Metrics = ONE,
    metric: tuple[str, ...] = ("sid",),
    samples: tuple[int, ...] = (),
    files: tuple[str, ...] = (),
) -> Callable[[Callable[..., None]], Plot]:
    """Return a decorator that makes a plot from a drawing function; see :class:`Plot`.

    Parameters
    ----------
    name
        Name of the plot.
    metrics
        Number of metrics that it shows.
    metric, samples
        Default metric and samples; empty: all.
    files
        Own options that name files to read.
    """
    default = {"metric": metric if metrics != NONE else (), "samples": samples}
    return lambda draw: Plot(name, draw, metrics, default, files)


def plot(path: Paths, kind: str, output: str | os.PathLike[str], **options: Any) -> Path:
    """Draw a plot of the given kind.

    Parameters
    ----------
    path
        An archive, or several.
    kind
        ``curve``, ``maps``, ``difference``, ``distribution``, ``certificate``, ``scatter``, ``history``,
        ``concentration``, ``coherency``, ``units``, ``compare`` or ``columns``; or a name in
        :data:`onnxinfo.registry.PLOTS`.
    output
        The figure: a file with suffix .png, .svg or .pdf.
    **options
        For all kinds: ``run``, ``layers`` and ``samples`` select the data, as for :func:`onnxinfo.query`; ``metric``
        selects the metric, or several for ``curve`` and ``coherency``; ``input`` selects perturbed inputs of a run with
        noise on several: values are means over the units of these; ``theme`` is ``light`` or ``dark``; ``width`` is
        ``column`` (3.5 in), ``page`` (7.2 in) or ``slide`` (12 in); ``force`` replaces an existing file whatever it
        contains, but never a file that is read (by default only a figure of the same format is replaced).
        For one kind: ``spread`` of ``curve``, and ``overlay`` and ``scale`` of ``maps``, see
        :func:`onnxinfo.plot_curve` and :func:`onnxinfo.plot_maps`; ``against`` of ``scatter``, the metric on the
        vertical axis, by default ``ru``; ``by`` and ``unpaired`` of ``compare``, see :func:`onnxinfo.compare`;
        ``texts`` of ``units``, a file with one line of tokens per sample, or one name per feature.

    Returns
    -------
    Path
        The figure's path.

    Raises
    ------
    UsageError
        The kind is unknown or does not have one of the options, part of the selection does not exist, or none of it is
        finished.
    ArchiveError
        An archive cannot be read, or the figure cannot be written.

    Examples
    --------
    >>> onnxinfo.plot("result.h5", "certificate", "certificate.svg", theme="dark").name
    'certificate.svg'
    """
    draw = PLOTS.get(kind)
    if not isinstance(draw, Plot):
        _check_options(kind, [*inspect.signature(draw).parameters][2:], options)
    drawn: Path = draw(path, output, **options)
    return drawn


def _check_options(plot: str, known: Sequence[str], options: Mapping[str, Any]) -> None:
    for name in options:
        if name not in known:
            raise UsageError(f"plot '{plot}' does not take '{name}'; it takes {', '.join(known)}")


def plot_curve(path: Paths, output: str | os.PathLike[str], **options: Unpack[CurveOptions]) -> Path:
    """Draw metrics by depth with their spread over samples, one line per run.

    All samples that have a value are included; layers with unproven samples have hollow markers.

    Parameters
    ----------
    path, output
        See :func:`onnxinfo.plot`.
    **options
        See :func:`onnxinfo.plot`; each metric has its own panel. ``spread`` is the band: ``stderr``, mean and standard
        error, or ``iqr``, the samples' median and quartiles.

    Returns
    -------
    Path
        The figure's path.

    Raises
    ------
    UsageError, ArchiveError
        See :func:`onnxinfo.plot`.

    Examples
    --------
    >>> onnxinfo.plot_curve(["result.h5", "pruned.h5"], "curve.svg", spread="iqr").name
    'curve.svg'
    """
    return plot(path, "curve", output, **options)


def plot_maps(path: Paths, output: str | os.PathLike[str], **options: Unpack[MapsOptions]) -> Path:
    """Draw the maps of a metric in one run: one row per sample, one column per layer.

    Images are averaged over their channels; a map with one axis (features, time, tokens averaged over the embedding) is
    drawn as a strip. Unfinished cells stay empty; unproven ones are crossed out by a line.

    Parameters
    ----------
    path, output
        See :func:`onnxinfo.plot`; if an archive has several runs, name one.
    **options
        See :func:`onnxinfo.plot`; by default as many evenly spaced layers and samples are drawn as are legible. With
        ``overlay``, half-transparent maps are drawn over the gray pictures. Each layer has a color scale of its own;
        with ``scale="shared"``, all layers have the same one.

    Returns
    -------
    Path
        The figure's path.

    Raises
    ------
    UsageError, ArchiveError
        See :func:`onnxinfo.plot`.

    Examples
    --------
    >>> onnxinfo.plot_maps("result.h5", "maps.png", layers=["logits"], samples=[0]).name
    'maps.png'
    """
    return plot(path, "maps", output, **options)
