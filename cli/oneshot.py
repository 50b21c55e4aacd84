"""The whole pipeline: ``oneshot``."""

from __future__ import annotations

import time
from typing import Any

import click

from .analyze import show
from .options import force, inputs
from .progress import progress_bar
from .settings import config_file, settings
from .verbosity import quiet


@click.command(no_args_is_help=True)
@click.argument("model", type=click.Path())
@inputs
@click.option("-o", "--output", required=True, type=click.Path(), metavar="OUTDIR", help="Folder for the results.")
@config_file
@settings()
@force
def oneshot(model: str, inputs: str, output: str, **options: Any) -> None:
    """Analyze MODEL, draw plots and write a report.

    The files NAME.h5, NAME-curve.png, NAME-maps.png and NAME.html in OUTDIR are named after MODEL.

    \b
    Example:
      onnxinfo oneshot resnet20.onnx --inputs images/ --preset imagenet --limit 32 -o results
    """
    from onnxinfo import oneshot as run_all

    began = time.monotonic()
    with progress_bar(output) as report:
        made = run_all(model, inputs, output, progress=report, **options)
    if not quiet():
        show(made.result, time.monotonic() - began)
        for path in made.plots:
            click.echo(f"plot: {path}")
        click.echo(f"report: {made.report}")
