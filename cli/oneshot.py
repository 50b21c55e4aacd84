"""The whole pipeline: ``oneshot``."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from .estimate import dry_run, print_estimate
from .options import force, inputs, units
from .outcome import completed, formats, present
from .progress import progress_bar
from .settings import config_file, settings


@click.command(no_args_is_help=True)
@click.argument("model", type=click.Path())
@inputs
@click.option("-o", "--output", required=True, type=click.Path(), metavar="OUTDIR", help="Folder for the results.")
@config_file
@units
@settings()
@force
@formats
@dry_run
def oneshot(model: str, inputs: str, output: str, format: str, dry_run: bool, **options: Any) -> None:
    """Analyze MODEL, draw plots and write a report.

    The files NAME.h5, NAME-curve.png, NAME-maps.png and NAME.html in OUTDIR are named after MODEL.

    \b
    Example:
      onnxinfo oneshot resnet20.onnx --inputs images/ --preset imagenet --limit 32 -o results
    """
    from onnxinfo import oneshot as run_all

    if dry_run:
        with tempfile.TemporaryDirectory() as empty:
            folder = output if os.path.isdir(output) else empty
            archive = os.path.join(folder, f"{Path(model).stem}.h5")
            del options["force"]
            print_estimate(model, inputs, archive, format, options)
        return
    began = time.monotonic()
    with progress_bar(output) as report:
        made, error = completed(lambda: run_all(model, inputs, output, progress=report, **options))
    files = {"plots": [str(path) for path in made.plots], "report": str(made.report)}
    present(made.result, began, format, files, error)
