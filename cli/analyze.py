"""The main commands: ``analyze`` and ``demo``."""

from __future__ import annotations

import time
from typing import Any

import click

from .estimate import dry_run, print_estimate
from .options import force, inputs, units
from .outcome import completed, formats, present
from .progress import progress_bar
from .settings import config_file, settings


class _OneAlpha(click.Command):
    """A command that takes one alpha: click would use the last one, and not tell."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuse several alphas."""
        _, _, given = self.make_parser(ctx).parse_args(list(args))
        if sum(each.name == "alpha" for each in given) > 1:
            raise click.UsageError("--alpha is given more than once; 'onnxinfo sweep' compares several alphas", ctx)
        return super().parse_args(ctx, args)


@click.command(cls=_OneAlpha, no_args_is_help=True)
@click.argument("model", type=click.Path())
@inputs
@click.option("-o", "--output", required=True, type=click.Path(), help="Archive (HDF5). If it exists, a run is added.")
@config_file
@units
@settings()
@formats
@dry_run
def analyze(model: str, inputs: str, output: str, format: str, dry_run: bool, **options: Any) -> None:
    """Measure how much of the input each layer of MODEL discards.

    If an analysis is interrupted, finished cells are kept; rerun the same command to resume. With more samples, layers
    or metrics, the run grows.

    \b
    Example:
      onnxinfo analyze resnet20.onnx --inputs images/ --preset imagenet --limit 32 -o result.h5
    """
    from onnxinfo import analyze as run_analysis

    if dry_run:
        print_estimate(model, inputs, output, format, options)
        return
    began = time.monotonic()
    with progress_bar(output) as report:
        result, error = completed(lambda: run_analysis(model, inputs, output, progress=report, **options))
    present(result, began, format, error=error)


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
    present(made.result, began, files={"plots": [str(path) for path in made.plots]})
