"""Framework of the plots: make a plot from a drawing function, and draw any plot.

A plot is a file in :mod:`onnxinfo.views.plots`, named after it, with one function::

    @figure_plot("history", metrics=ONE)
    def draw_history(canvas, selection, style):
        ...

The function reads the selected data and draws into the canvas. Options, style and output file are handled here for
all plots.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack, overload

from ..arguments import Names, values_of
from ..errors import UsageError
from ..registry import PLOTS
from .comparable import caution_of
from .figure import claim_figure
from .selection import Paths, Selection
from .style import FigureStyle

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Spread = Literal["stderr", "iqr"]
#: Where layers are placed along an axis.
Place = Literal["depth", "relative", "index"]
#: Number of metrics that a plot shows: `NONE` that can be chosen, `ONE`, or `SEVERAL`.
Metrics = Literal["none", "one", "several"]
NONE: Metrics = "none"
ONE: Metrics = "one"
SEVERAL: Metrics = "several"
#: Options that concern the figure and not the panels in it.
_OF_FIGURE = ("theme", "width", "size", "dpi", "force")


class PlotOptions(TypedDict, total=False):
    """Options common to all plots, see :func:`plot`."""

    run: Names
    layers: Names
    metric: Names
    samples: Sequence[str | int]
    input: Names
    title: str
    theme: str
    width: str
    size: tuple[float, float]
    dpi: int
    force: bool


class CurveOptions(PlotOptions, total=False):
    """Options of :func:`plot_curve`."""

    spread: Spread
    x: Place


class MapsOptions(PlotOptions, total=False):
    """Options of :func:`plot_maps`."""

    overlay: bool
    scale: Literal["layer", "shared"]
    change: bool
    sort: Literal["sample", "class"]
    class_means: bool


@dataclass(frozen=True)
class Plot:
    """A plot. Call it with archives and options; see :func:`plot`.

    Attributes
    ----------
    name
        Name of the plot.
    draw
        ``draw(canvas, selection, style, **own)`` draws the selection; keyword parameters are the plot's own options.
    metrics
        Number of metrics that it shows.
    default
        Default selection.
    files
        Own options that name files to read; these files are never overwritten.
    maps
        Whether it needs a metric with maps.
    also
        Metrics that it shows besides the chosen ones.
    animated
        Whether it can be written as a GIF file: the drawing function then sets the canvas's ``animation``.
    free
        Settings that may differ between runs without a caution.
    """

    name: str
    draw: Callable[..., None]
    metrics: Metrics
    default: dict[str, tuple[Any, ...]]
    files: tuple[str, ...]
    maps: bool
    also: tuple[str, ...]
    animated: bool
    free: tuple[str, ...] = ()

    @property
    def options(self) -> list[str]:
        """Names of all options."""
        own = [*inspect.signature(self.draw).parameters][3:]
        chosen = ["run", "layers", *(["metric"] if self.metrics != NONE else []), "samples"]
        return [*chosen, "input", *own, "title", *_OF_FIGURE]

    def __call__(
        self, path: Paths, output: str | os.PathLike[str] | None = None, *, ax: Axes | None = None, **options: Any
    ) -> Figure:
        """Draw the plot, into a file if one is named, and return the figure; see :func:`plot`."""
        from .canvas import Canvas

        _check_options(self.name, self.options, options)
        if ax is not None:
            _check_axes(output, options)
        force = options.pop("force", False)
        read = (path, *(options.get(name) for name in self.files))
        target = None if output is None else claim_figure(output, *read, force=force, animated=self.animated)
        title = str(options.pop("title", ""))
        figure = {name: options.pop(name) for name in _OF_FIGURE if name in options}
        selection = self._selection(path, options)
        canvas = Canvas(FigureStyle.named(**figure), self.name, ax)
        with canvas.context():
            self.draw(canvas, selection, canvas.style, **options)
            shown = self._shown(selection, options)
            canvas.finish(title, caution_of(replace(selection, metrics=()), shown, self.free))
        if target is not None:
            canvas.write(target)
        return canvas.root

    def _shown(self, selection: Selection, options: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the metrics that are drawn, also by the option ``against``; none: all."""
        against = inspect.signature(self.draw).parameters.get("against")
        more = self.also if against is None else (options.get("against", against.default),)
        # What is against the metric by default depends on the run, so that a caution is about all.
        return (*selection.metrics, *more) if selection.metrics and all(more) else ()

    def _selection(self, path: Paths, options: dict[str, Any]) -> Selection:
        """Split the selection off the options."""
        names = ("run", "layers", "metric", "samples", "input")
        chosen = {name: tuple(values_of(options.pop(name, ()), name)) for name in names}
        run, layers, metrics, samples, inputs = ((chosen[name] or self.default.get(name, ())) for name in chosen)
        if self.metrics == ONE and len(metrics) > 1:
            raise UsageError(f"plot '{self.name}' shows one metric, and {len(metrics)} are given")
        found = Selection.of(path, run=run, layers=layers, metrics=metrics, samples=samples, input=inputs)
        return found if chosen["metric"] else self._with_present_metric(found)

    def _with_present_metric(self, selection: Selection) -> Selection:
        """Return the selection with a metric that a run has, if SID is the default one and in none."""
        if selection.metrics != ("sid",):
            return selection
        known = {each.name: each for view, _ in replace(selection, metrics=()).views() for each in view.run.metrics}
        fitting = [name for name, each in known.items() if each.has_map or not self.maps]
        if selection.metrics[0] in known or not known or (self.also and not fitting):
            return selection
        if not fitting:
            raise UsageError(
                f"plot '{self.name}' shows maps, and no metric of the runs has any: {', '.join(map(repr, known))}"
            )
        return replace(selection, metrics=(fitting[0],))


def figure_plot(  # noqa: PLR0913 - one parameter for each property of a plot
    name: str,
    *,
    metrics: Metrics = ONE,
    metric: tuple[str, ...] = ("sid",),
    samples: tuple[int, ...] = (),
    files: tuple[str, ...] = (),
    maps: bool = False,
    also: tuple[str, ...] = (),
    animated: bool = False,
    free: tuple[str, ...] = (),
) -> Callable[[Callable[..., None]], Plot]:
    """Return a decorator that makes a plot from a drawing function; see :class:`Plot`.

    Parameters
    ----------
    name
        Name of the plot.
    metrics
        Number of metrics that it shows.
    metric, samples
        Default metric and samples; empty: all. If no run has the metric, the first one that a run has is drawn.
    files
        Own options that name files to read.
    maps, also, animated, free
        See :class:`Plot`.
    """
    default = {"metric": metric if metrics != NONE else (), "samples": samples}
    return lambda draw: Plot(name, draw, metrics, default, files, maps, also, animated, free)


@overload
def plot(
    path: Paths, kind: str, output: str | os.PathLike[str] | None = None, *, ax: None = None, **options: Any
) -> Figure: ...
@overload
def plot(path: Paths, kind: str, output: None = None, *, ax: Axes, **options: Any) -> Axes: ...
def plot(
    path: Paths,
    kind: str,
    output: str | os.PathLike[str] | None = None,
    *,
    ax: Axes | None = None,
    **options: Any,
) -> Figure | Axes:
    """Draw a plot of the given kind.

    Notebooks show the figure that is returned. It is a matplotlib figure, which can be changed and saved, and belongs
    to no window and no state of pyplot.

    Parameters
    ----------
    path
        An archive, or several; or results, opened archives or runs.
    kind
        ``overview``, ``curve``, ``maps``, ``difference``, ``distribution``, ``certificate``, ``scatter``, ``history``,
        ``concentration``, ``coherency``, ``units``, ``compare``, ``columns``, ``sensitivity`` or ``ranking``; or a name
        in :data:`onnxinfo.registry.PLOTS`.
    output
        File to write: its suffix is .png, .svg or .pdf; for ``maps`` also .gif, animated through the layers. By
        default, none is written.
    ax
        Axes of a matplotlib figure to draw into, for plots of one panel; the colors and sizes are those of the axes.
    **options
        For all kinds: ``run``, ``layers`` and ``samples`` select the data, as for :func:`onnxinfo.query`; ``metric``
        selects the metric, or several for ``curve`` and ``coherency``, by default SID, or the first one if no run has
        SID; ``input`` selects perturbed inputs of a run with noise on several: values are means over the units of
        these; ``title`` is written above; ``theme`` is ``light`` or ``dark``; ``width`` is ``column`` (3.5 in),
        ``page`` (7.2 in) or ``slide`` (12 in) and sets the size of the text, too; ``size`` is width and height in
        inches, such as ``(7.2, 4)``, instead; ``dpi`` is the resolution; ``force`` replaces an existing file whatever
        it contains, but never a file that is read (by default only a figure of the same format is replaced).
        For some kinds: ``x``, the place of layers, as for :func:`onnxinfo.plot_curve`, of ``curve``, ``overview``,
        ``distribution``, ``certificate``, ``concentration`` and ``coherency``; ``spread`` of ``curve``, and the options
        of ``maps``, see :func:`onnxinfo.plot_curve` and :func:`onnxinfo.plot_maps`; ``against`` of ``scatter``, the
        metric on the vertical axis, by default ``ru``, else another one; ``by`` and ``unpaired`` of ``compare``, see
        :func:`onnxinfo.compare`; ``texts`` of ``units``, a file with one line of tokens per sample, or one name per
        feature.

    Returns
    -------
    Figure or Axes
        The matplotlib figure; with `ax`, the axes, so that a notebook shows the figure that they belong to only once.

    Raises
    ------
    UsageError
        The kind is unknown or does not have one of the options, part of the selection does not exist, none of it is
        finished, or the plot has several panels and `ax` is given.
    ArchiveError
        An archive cannot be read, or the figure cannot be written.

    Examples
    --------
    >>> figure = onnxinfo.plot("result.h5", "certificate", "certificate.svg", theme="dark")
    >>> [axes.get_ylabel() for axes in onnxinfo.plot("result.h5", "distribution").axes]
    ['SID, nats per input unit']
    """
    draw = PLOTS.get(kind)
    if not isinstance(draw, Plot):
        _check_options(kind, [*inspect.signature(draw).parameters][2:], options)
    given = options if ax is None else {"ax": ax, **options}
    drawn: Figure = draw(path, output, **given)
    return drawn if ax is None else ax


def _check_options(plot: str, known: Sequence[str], options: Mapping[str, Any]) -> None:
    for name in options:
        if name not in known:
            raise UsageError(f"plot '{plot}' does not take '{name}'; it takes {', '.join(known)}")


def _check_axes(output: object, options: Mapping[str, Any]) -> None:
    """Refuse what concerns the figure as a whole if axes of the caller's are given."""
    given = [name for name in _OF_FIGURE if name in options] + ["output"] * (output is not None)
    if given:
        raise UsageError(f"ax and {given[0]} are given; the figure of ax is yours: leave out {given[0]}")


@overload
def plot_curve(
    path: Paths,
    output: str | os.PathLike[str] | None = None,
    *,
    ax: None = None,
    **options: Unpack[CurveOptions],
) -> Figure: ...
@overload
def plot_curve(path: Paths, output: None = None, *, ax: Axes, **options: Unpack[CurveOptions]) -> Axes: ...
def plot_curve(
    path: Paths,
    output: str | os.PathLike[str] | None = None,
    *,
    ax: Axes | None = None,
    **options: Unpack[CurveOptions],
) -> Figure | Axes:
    """Draw metrics by depth with their spread over samples, one line per run.

    All samples that have a value are included; layers with unproven samples have hollow markers.

    Parameters
    ----------
    path, output, ax
        See :func:`onnxinfo.plot`.
    **options
        See :func:`onnxinfo.plot`; each metric has its own panel. ``spread`` is the band: ``stderr``, mean and standard
        error, or ``iqr``, the samples' median and quartiles. ``x`` places the layers: by ``depth``, the number of
        layers with parameters before them; by ``relative`` depth, divided by that of the run's deepest layer, so that
        networks of different depth have the same width; or by ``index``, at equal distances.

    Returns
    -------
    Figure or Axes
        The matplotlib figure; with `ax`, the axes.

    Raises
    ------
    UsageError, ArchiveError
        See :func:`onnxinfo.plot`.

    Examples
    --------
    >>> figure = onnxinfo.plot_curve(["result.h5", "pruned.h5"], "curve.svg", spread="iqr", x="relative")
    >>> figure.axes[0].get_xlabel()
    'relative depth of the layer'
    """
    given: Any = {**options} if ax is None else {"ax": ax, **options}
    drawn: Figure | Axes = plot(path, "curve", output, **given)
    return drawn


def plot_maps(
    path: Paths,
    output: str | os.PathLike[str] | None = None,
    **options: Unpack[MapsOptions],
) -> Figure:
    """Draw the maps of a metric in one run: one row per sample, one column per layer.

    Images are averaged over their channels; a map with one axis (features, time, tokens averaged over the embedding) is
    drawn as a strip. Unfinished cells stay empty; unproven ones have a question mark and a dashed frame.

    Parameters
    ----------
    path, output
        See :func:`onnxinfo.plot`; if an archive has several runs, name one.
    **options
        See :func:`onnxinfo.plot`; by default as many evenly spaced layers and samples are drawn as are legible. With
        ``overlay``, half-transparent maps are drawn over the gray pictures. Each layer has a color scale of its own;
        with ``scale="shared"``, all layers have the same one. ``change`` draws each map minus that of the layer before:
        what a layer discards that the one before it kept; here one scale for all layers is the default, in which noise
        looks like noise, and ``scale="layer"`` is the option. ``sort="class"`` sorts the samples by label, and
        ``class_means`` draws the mean map of each class.

    Returns
    -------
    Figure
        The matplotlib figure.

    Raises
    ------
    UsageError, ArchiveError
        See :func:`onnxinfo.plot`.

    Examples
    --------
    >>> figure = onnxinfo.plot_maps("result.h5", "maps.png", layers=["logits"], samples=[0], title="First sample")
    >>> Path("maps.png").exists()
    True
    """
    return plot(path, "maps", output, **options)
