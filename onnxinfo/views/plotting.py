"""Plots: how one is made of a function that draws, and how any of them is drawn into a file.

A plot is one file of :mod:`onnxinfo.views.plots`, named after it, with one function::

    @figure_plot("history", metrics=ONE)
    def draw_history(figure, selection, style):
        ...

The function reads what is selected and draws into the figure. Reading the command's options, choosing the style, and
writing the file are the same for all plots and done here.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack

from ..errors import UsageError
from ..registry import PLOTS
from .figure import claim_figure, new_figure
from .selection import Names, Paths, Selection, names_of
from .style import FigureStyle

Spread = Literal["stderr", "iqr"]
#: How many metrics a plot shows: `NONE` that can be chosen, `ONE`, or `SEVERAL`.
Metrics = Literal["none", "one", "several"]
NONE: Metrics = "none"
ONE: Metrics = "one"
SEVERAL: Metrics = "several"


class PlotOptions(TypedDict, total=False):
    """Options of every plot, see :func:`plot`."""

    run: Names
    layers: Names
    metric: Names
    samples: Sequence[str | int]
    theme: str
    width: str
    force: bool


class CurveOptions(PlotOptions, total=False):
    """Options of :func:`plot_curve`."""

    spread: Spread


class MapsOptions(PlotOptions, total=False):
    """Options of :func:`plot_maps`."""

    overlay: bool


@dataclass(frozen=True)
class Plot:
    """A plot. Called with archives, the figure's path and options, it draws; see :func:`plot`.

    Attributes
    ----------
    name
        Its name.
    draw
        ``draw(figure, selection, style, **own)`` draws what is selected; keyword parameters are the plot's own options.
    metrics
        How many metrics it shows.
    default
        What is selected where nothing is chosen.
    files
        Those of its own options that name files it reads: they are never overwritten.
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
        return [*chosen, *own, "theme", "width", "force"]

    def __call__(self, path: Paths, output: str | os.PathLike[str], **options: Any) -> Path:
        """Draw the plot into a file and return its path; see :func:`plot`."""
        _check_options(self.name, self.options, options)
        force = options.pop("force", False)
        target = claim_figure(output, path, *(options.get(name) for name in self.files), force=force)
        style = FigureStyle.named(options.pop("theme", "light"), options.pop("width", "page"))
        selection = self._selection(path, options)
        with new_figure(target, style) as figure:
            self.draw(figure, selection, style, **options)
        return Path(output)

    def _selection(self, path: Paths, options: dict[str, Any]) -> Selection:
        """Take from the options what is selected."""
        chosen = {name: tuple(names_of(options.pop(name, ()))) for name in ("run", "layers", "metric", "samples")}
        run, layers, metrics, samples = ((chosen[name] or self.default.get(name, ())) for name in chosen)
        if self.metrics == ONE and len(metrics) > 1:
            raise UsageError(f"plot '{self.name}' shows one metric, and {len(metrics)} are given")
        return Selection.of(path, run=run, layers=layers, metrics=metrics, samples=samples)


def figure_plot(
    name: str,
    *,
    metrics: Metrics = ONE,
    metric: tuple[str, ...] = ("sid",),
    samples: tuple[int, ...] = (),
    files: tuple[str, ...] = (),
) -> Callable[[Callable[..., None]], Plot]:
    """Return a decorator that makes a plot of a function that draws; see :class:`Plot`.

    Parameters
    ----------
    name
        The plot's name.
    metrics
        How many metrics it shows.
    metric, samples
        What it shows where nothing is chosen; empty shows all.
    files
        Those of its own options that name files it reads.
    """
    default = {"metric": metric if metrics != NONE else (), "samples": samples}
    return lambda draw: Plot(name, draw, metrics, default, files)


def plot(path: Paths, kind: str, output: str | os.PathLike[str], **options: Any) -> Path:
    """Draw a plot of a kind.

    Parameters
    ----------
    path
        An archive, or several.
    kind
        ``curve``, ``maps``, ``difference``, ``distribution``, ``certificate``, ``scatter``, ``history``,
        ``concentration``, ``coherency``, ``units``, ``compare`` or ``columns``; or a name in
        :data:`onnxinfo.registry.PLOTS`.
    output
        The figure: a file that ends in .png, .svg or .pdf.
    **options
        Of all kinds: ``run``, ``layers`` and ``samples``, what is drawn, as for :func:`onnxinfo.query`; ``metric``, the
        metric, of ``curve`` and ``coherency`` also several; ``theme``, ``light`` or ``dark``; ``width``, ``column``
        (3.5 in), ``page`` (7.2 in) or ``slide`` (12 in); ``force``, replace an existing file whatever it holds, but
        never a file that is read (by default only a figure of the same format is replaced).
        Of one kind: ``spread`` of ``curve`` and ``overlay`` of ``maps``, see :func:`onnxinfo.plot_curve` and
        :func:`onnxinfo.plot_maps`; ``against`` of ``scatter``, the metric on the vertical axis, ``ru`` by default;
        ``by`` and ``unpaired`` of ``compare``, see :func:`onnxinfo.compare`; ``texts`` of ``units``, a file with a line
        of tokens for each sample, or of a name for each feature.

    Returns
    -------
    Path
        The figure's path.

    Raises
    ------
    UsageError
        The kind is unknown or does not take one of the options, something asked for is not there, or nothing of it is
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
    """Draw metrics by depth with their spread over samples, one line for each run.

    Values are over all samples that have one; a layer of which some samples are unproven has a hollow marker.

    Parameters
    ----------
    path, output
        See :func:`onnxinfo.plot`.
    **options
        See :func:`onnxinfo.plot`; several metrics have a panel each. ``spread`` is the band: ``stderr``, the mean and
        its standard error, or ``iqr``, the samples' median and quartiles.

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
    """Draw a metric's maps of one run: a row for each sample, a column for each layer.

    Images are averaged over their channels; a map with one axis (features, time, tokens averaged over the embedding) is
    drawn as a strip. Cells that are not finished stay empty; those that are not proven are crossed by a line.

    Parameters
    ----------
    path, output
        See :func:`onnxinfo.plot`; of an archive with several runs, name one.
    **options
        See :func:`onnxinfo.plot`; by default as many evenly spaced layers and samples are drawn as are legible. With
        ``overlay`` the maps are laid over the pictures in grey, half transparent, instead of being drawn alone.

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
