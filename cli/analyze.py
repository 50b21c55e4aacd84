"""The main job on the command line: ``analyze`` and ``demo``."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from .options import force, labels, objects, preprocessing, recovery, selection, where
from .progress import live
from .tables import print_run
from .verbosity import quiet

if TYPE_CHECKING:
    from onnxinfo import Result


@click.command(no_args_is_help=True)
@click.argument("model", type=click.Path())
@click.option(
    "--inputs", required=True, metavar="SPEC", help="Folder or glob of images, FILE.npz:key, .npy, FILE.h5:/set."
)
@click.option("-o", "--output", required=True, type=click.Path(), help="The archive; a run is added if it exists.")
@selection
@click.option("--metric", "metrics", multiple=True, default=["sid"], show_default=True, help="Metric; repeatable.")
@click.option("--run", metavar="NAME", help="Name of the run; default: the model's.")
@click.option("--perturb", metavar="TENSOR", help="Perturbed tensor; default: the float input, or the embedding.")
@click.option(
    "--unit-mask", metavar="NAME|SPEC", help="Units that count: an input, FILE.npz:key, none; default: attention mask."
)
@click.option("--keep-precision", is_flag=True, help="Compute float16 and bfloat16 as they are, not in float32.")
@labels
@preprocessing
@objects
@recovery
@where
@click.option("--alpha", type=float, default=1.5e-4, show_default=True, help="Strength of the constraint.")
@click.option("--normalizer", type=click.Choice(["dataset", "image"]), default="dataset", show_default=True)
@click.option("--tie", default="unit", show_default=True, metavar="unit|pixel|grid:N", help="Units sharing one sigma.")
@click.option("--cap", type=float, default=1.0, show_default=True, help="Greatest sigma, in standard deviations.")
@click.option("--solver", type=click.Choice(["auto", "reference"]), default="auto", show_default=True)
@click.option("--seed", type=int, default=0, show_default=True, help="Of all noise.")
@click.option("--compression", type=click.Choice(["rounded", "lossless", "float16", "none"]), default="rounded")
@click.option("--overwrite", is_flag=True, help="Replace a finished run of the same name.")
def analyze(model: str, inputs: str, output: str, **options: Any) -> None:
    """Measure how much of the input each layer of MODEL discards.

    The same command goes on where an interrupted one stopped.

    \b
    Example:
      onnxinfo analyze resnet20.onnx --inputs images/ --preset imagenet --limit 32 -o result.h5
    """
    from onnxinfo import analyze as run_analysis

    began = time.monotonic()
    with live(output) as report:
        result = run_analysis(model, inputs, output, progress=report, **options)
    if not quiet():
        show(result, time.monotonic() - began)


@click.command()
@click.option("-o", "--output", default="demo", show_default=True, type=click.Path(), help="Folder for the results.")
@force
def demo(output: str, force: bool) -> None:
    """Analyze a small trained network on bundled images: a table, an archive and plots.

    \b
    Example:
      onnxinfo demo -o demo
    """
    from onnxinfo import demo as run_demo

    began = time.monotonic()
    with live(output) as report:
        made = run_demo(output, progress=report, force=force)
    if not quiet():
        show(made.result, time.monotonic() - began)
        for path in made.plots:
            click.echo(f"plot: {path}")


def show(result: Result, seconds: float) -> None:
    """Print the closing table of an analysis."""
    from onnxinfo import open as open_archive

    with open_archive(result.archive) as archive:
        run = archive[result.run]
        print_run(run, str(result.archive), seconds)
        if without := run.recipe.get("without_foreground"):
            click.echo(f"without a foreground: {without} of {run.shape[1]} samples, left out of concentration")
