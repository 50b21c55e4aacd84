"""Pictures of an archive: ``plot``."""

from __future__ import annotations

from typing import Any

import click


@click.command(no_args_is_help=True)
@click.argument("archives", nargs=-1, required=True, type=click.Path(), metavar="FILE... curve|maps")
@click.option("-o", "--output", required=True, type=click.Path(), help="The figure: .png, .svg or .pdf.")
@click.option("--run", multiple=True, metavar="NAME", help="Only this run; repeatable.")
@click.option("--layers", multiple=True, metavar="P", help="Only layers of this pattern; repeatable.")
@click.option("--samples", multiple=True, metavar="S", help="Only these samples, by position or name; repeatable.")
@click.option("--metric", default="sid", show_default=True, help="The metric drawn.")
@click.option("--theme", type=click.Choice(["light", "dark"]), default="light", show_default=True)
@click.option("--width", type=click.Choice(["column", "page", "slide"]), default="page", show_default=True)
def plot(archives: tuple[str, ...], **options: Any) -> None:
    r"""Draw what FILE holds: ``curve`` (a metric by depth) or ``maps`` (samples down, layers across).

    \b
    Example:
      onnxinfo plot demo/digits.h5 curve -o curve.png
    """
    from onnxinfo import UsageError, plot_curve, plot_maps

    kinds = {"curve": plot_curve, "maps": plot_maps}
    *files, kind = archives
    if kind not in kinds or not files:
        raise UsageError(f"'{kind}' is no plot: use onnxinfo plot FILE.h5 curve or maps")
    options["output"] = str(options["output"])
    drawn = kinds[kind](files, **options)
    click.echo(drawn)
