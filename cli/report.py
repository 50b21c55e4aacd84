"""``report``: all results as one HTML file."""

from __future__ import annotations

from typing import Any

import click

from .options import force, only_layers, only_metrics, only_runs
from .verbosity import print_info


@click.command(no_args_is_help=True)
@click.argument("files", nargs=-1, required=True, type=click.Path(), metavar="FILE.h5...")
@click.option("-o", "--output", default="report.html", show_default=True, type=click.Path(), help="HTML file to write.")
@only_runs
@only_layers
@only_metrics("Only this metric; repeatable. Default: all.")
@click.option(
    "--model", type=click.Path(), help="ONNX file of the runs, from which the connections between layers are read."
)
@click.option("--title", default="", help="Title of the page.")
@force
def report(files: tuple[str, ...], output: str, **options: Any) -> None:
    """Write one self-contained HTML file with curves, the model's graph, maps and tables.

    \b
    Example:
      onnxinfo report result.h5 -o report.html
    """
    from onnxinfo import report as write_report

    print_info(write_report(files, output, **options))
