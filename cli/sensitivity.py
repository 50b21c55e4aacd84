"""``onnxinfo sensitivity``: how much noise each tensor of a network tolerates."""

from __future__ import annotations

from typing import Any

import click

from onnxinfo.config import PARALLEL

from .options import inputs as samples
from .options import units
from .progress import progress_bar
from .settings import config_file, setting, settings, without_idle
from .tables import FORMATS, print_rows

COLUMNS = ("tensor", "op", "depth", "trace", "stderr", "std", "tolerance", "tolerance_std")
#: Columns of tolerances that were measured.
MEASURED = ("predicted", "achieved", "achieved_stderr")


@click.command(no_args_is_help=True)
@click.argument("model", type=click.Path())
@samples
@click.option(
    "-o", "--output", type=click.Path(), help="Archive (HDF5). If it exists, a run is added. Default: no archive."
)
@config_file
@units
@setting("layers")
@setting("exclude")
@settings("input", "sensitivity", "execution", "output")
@setting("seed", help="Seed of noise and random directions.")
@click.option("--format", type=click.Choice(FORMATS), default="table", show_default=True, help="Output format.")
def sensitivity(model: str, inputs: str, output: str | None, format: str, **options: Any) -> None:
    """Print how much noise each tensor of MODEL tolerates, in its own units.

    tolerance is the standard deviation of noise on the tensor that causes the change of the target, by default of 1 %
    of the variance of the class scores. tolerance_std is the same in units of the tensor's standard deviation: compare
    tensors by it, the smallest need their precision most. trace is the mean squared Jacobian of the target. See
    docs/sensitivity.md.

    \b
    Examples:
      onnxinfo sensitivity resnet20.onnx --inputs cifar10.npz:x_test --preset imagenet --limit 64
      onnxinfo sensitivity resnet20.onnx --inputs images/ --change kl:0.01 -o result.h5
    """
    from onnxinfo import sensitivity as measure
    from onnxinfo.text import printable

    if output is None:
        options = without_idle(options, "output", *PARALLEL)
    with progress_bar() as report:
        found = measure(model, inputs, output, progress=report, **options)
    table = found.table()
    rows = [dict(zip(table, values, strict=True)) for values in zip(*table.values(), strict=True)]
    columns = [*COLUMNS, *(MEASURED if found.measured else ()), *(["mark"] if any(table["mark"]) else [])]
    print_rows(rows, columns, format)
    if format == "table":
        click.echo(f"target: {printable(found.target)}; change: {found.change}; {found.samples} samples", err=True)
