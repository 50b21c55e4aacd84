"""The main commands: ``analyze`` and ``demo``."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from .options import force, inputs
from .progress import progress_bar
from .settings import config_file, settings
from .tables import print_run
from .verbosity import quiet

if TYPE_CHECKING:
    from onnxinfo import Result


@click.command(no_args_is_help=True)
@click.argument("model", type=click.Path())
@inputs
@click.option("-o", "--output", required=True, type=click.Path(), help="Archive (HDF5). If it exists, a run is added.")
@config_file
@settings()
def analyze(model: str, inputs: str, output: str, **options: Any) -> None:
    """Measure how much of the input each layer of MODEL discards.

    If an analysis is interrupted, finished cells are kept; rerun the same command to resume.

    \b
    Example:
      onnxinfo analyze resnet20.onnx --inputs images/ --preset imagenet --limit 32 -o result.h5
    """
    from onnxinfo import analyze as run_analysis

    began = time.monotonic()
    with progress_bar(output) as report:
        result = run_analysis(model, inputs, output, progress=report, **options)
    if not quiet():
        show(result, time.monotonic() - began)


@click.command()
@click.option("-o", "--output", default="demo", show_default=True, type=click.Path(), help="Folder for the results.")
@force
def demo(output: str, force: bool) -> None:
    """Analyze a small trained network on bundled images; write a table, an archive and plots.

    \b
    Example:
      onnxinfo demo -o demo
    """
    from onnxinfo import demo as run_demo

    began = time.monotonic()
    with progress_bar(output) as report:
        made = run_demo(output, progress=report, force=force)
    if not quiet():
        show(made.result, time.monotonic() - began)
        for path in made.plots:
            click.echo(f"plot: {path}")


def show(result: Result, seconds: float) -> None:
    """Print the closing table of an analysis."""
    from onnxinfo import open as open_archive
    from onnxinfo.text import quoted

    with open_archive(result.archive) as archive:
        run = archive[result.run]
        if result.unchanged:
            layers, samples = run.shape
            click.echo(f"complete: run {quoted(run.name)} has everything already ({layers} layers, {samples} samples)")
        print_run(run, str(result.archive), seconds)
        if without := run.recipe.get("without_foreground"):
            click.echo(f"without a foreground: {without} of {run.shape[1]} samples, excluded from concentration")
