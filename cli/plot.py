"""Figures of an archive: ``plot``."""

from __future__ import annotations

import re
from typing import Any

import click

from .completion import files_and_kinds
from .options import force, only_inputs, only_layers, only_metrics, only_runs, only_samples
from .verbosity import print_info

#: Kinds in the help of the command.
_DESCRIBED = re.compile(r"^ {2,}(\w+) ", re.MULTILINE)


class _Plot(click.Command):
    """The command, whose help also lists the kinds of installed packages."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the kinds that the help does not describe."""
        from onnxinfo.registry import PLOTS

        super().format_epilog(ctx, formatter)
        if more := [name for name in PLOTS.names() if name not in _DESCRIBED.findall(self.help or "")]:
            formatter.write_paragraph()
            formatter.write_text(f"Kinds of installed packages: {', '.join(more)}")


class _Size(click.ParamType[tuple[float, float]]):
    """Width and height of a figure in inches, such as ``7.2x4``."""

    name = "WxH"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, float]:
        """Return both numbers."""
        width, _, height = str(value).partition("x")
        try:
            return float(width), float(height)
        except ValueError:
            self.fail(f"'{value}' is not a size; give width and height in inches, such as 7.2x4", param, ctx)


@click.command(cls=_Plot, no_args_is_help=True)
@click.argument(
    "archives", nargs=-1, required=True, type=click.Path(), metavar="FILE... KIND", shell_complete=files_and_kinds
)
@click.option(
    "-o", "--output", required=True, type=click.Path(), help="Figure to write: .png, .svg or .pdf; maps also .gif."
)
@only_runs
@only_layers
@only_inputs
@only_samples
@only_metrics("Metric to draw; repeatable for curve and coherency. Default: sid, else the first.", "metric")
@click.option(
    "--against", metavar="METRIC", help="scatter: metric on the vertical axis. Default: ru, else another one."
)
@click.option("--overlay", is_flag=True, default=None, help="maps: draw the maps over the images.")
@click.option("--change", is_flag=True, default=None, help="maps: draw each map minus that of the layer before.")
@click.option("--sort", type=click.Choice(["sample", "class"]), help="maps: order of the samples. Default: sample.")
@click.option("--class-means", is_flag=True, default=None, help="maps: draw the mean map of each class.")
@click.option(
    "--scale", type=click.Choice(["layer", "shared"]), help="maps: color scale. Default: layer; with --change: shared."
)
@click.option(
    "--x",
    type=click.Choice(["depth", "relative", "index"]),
    help="Plots by layer: place of a layer: its depth, its depth divided by the deepest, or its number. "
    "Default: depth in curve, else index.",
)
@click.option("--spread", type=click.Choice(["stderr", "iqr"]), help="curve: what the band shows. Default: stderr.")
@click.option(
    "--by", type=click.Choice(["layer", "depth"]), help="compare: property that layers are matched by. Default: layer."
)
@click.option(
    "--texts",
    type=click.Path(),
    help="units: text file with one line of tokens per sample, or one line of feature names.",
)
@click.option("--title", metavar="TEXT", help="Title above the figure.")
@click.option(
    "--theme", type=click.Choice(["light", "dark"]), default="light", show_default=True, help="Colors of the figure."
)
@click.option(
    "--width",
    type=click.Choice(["column", "page", "slide"]),
    default="page",
    show_default=True,
    help="Place that the figure is sized for.",
)
@click.option("--size", type=_Size(), help="Width and height in inches, such as 7.2x4; the text is that of --width.")
@click.option("--dpi", type=click.IntRange(10, 2400), metavar="N", help="Dots per inch. Default: that of --width.")
@force
def plot(archives: tuple[str, ...], output: str, **options: Any) -> None:
    """Draw a figure of the runs in FILE.

    \b
    KIND is one of
      overview       the curve with floor and spread, and maps of three samples below
      curve          metrics by depth with their spread, one line per run (paper: Figs. 3, 4, 5a)
      maps           pixel maps: samples down, layers across; alone or over the image
      difference     pixel maps of a second run minus the first's
      distribution   the samples' values in each layer
      certificate    quality of the values: ratio, gap, probes
      scatter        one metric against another, one point per layer
      history        a metric over runs such as epochs, one line per layer (Fig. 5b)
      concentration  concentration by layer, with the foregrounds
      coherency      all metrics side by side: maps and magnitudes (Fig. 1)
      units          inputs that are not images: tokens, features or series
      compare        differences between runs with confidence intervals
      columns        columns of a table: a bar for each, by name
      sensitivity    noise that each tensor tolerates, squared Jacobians, and channels as a heat map
      ranking        order of the layers over runs, such as a sweep of alphas

    \b
    Examples:
      onnxinfo plot result.h5 overview -o overview.png
      onnxinfo plot result.h5 curve -o curve.png
      onnxinfo plot a.h5 b.h5 curve --metric sid --theme dark --width slide -o fig3.svg
      onnxinfo plot result.h5 maps --samples 0-3 --overlay -o maps.pdf
    """
    from onnxinfo import UsageError
    from onnxinfo import plot as draw
    from onnxinfo.registry import PLOTS

    *files, kind = archives
    if not files or (files[0] in PLOTS.names() and kind not in PLOTS.names()):
        raise UsageError("give archives, then the kind of plot: onnxinfo plot result.h5 curve -o curve.png")
    given = {name: value for name, value in options.items() if value not in (None, ())}
    draw(files, kind, output, **given)
    print_info(output)
