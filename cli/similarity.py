"""``similarity``: CKA between the layers of two networks."""

from __future__ import annotations

from typing import Any

import click

from onnxinfo.config import PARALLEL

from .options import force
from .options import inputs as samples
from .progress import progress_bar
from .settings import config_file, setting, settings
from .tables import FORMATS, claim_table, print_rows


@click.command(no_args_is_help=True)
@click.argument("model", type=click.Path())
@click.argument("other", type=click.Path())
@samples
@config_file
@setting("layers", help="Layers to compare, of both networks: patterns, see 'onnxinfo layers --help'; repeatable.")
@click.option(
    "--other-layers", multiple=True, metavar="P", help="Layers of the other network, if not the same; repeatable."
)
@settings("input", "execution", leave_out=PARALLEL)
@click.option("--format", type=click.Choice(FORMATS), default="table", show_default=True, help="Output format.")
@click.option("-o", "--output", default="-", type=click.Path(), help="File to write; - is standard output.")
@force
def similarity(
    model: str,
    other: str,
    inputs: str,
    other_layers: tuple[str, ...],
    format: str,
    output: str,
    force: bool,
    **options: Any,
) -> None:
    """Print how similar each layer of MODEL is to each layer of OTHER on the same samples: linear CKA.

    1 means equal up to a rotation and a factor, 0 unrelated. The bias is corrected by the jackknife, so that values
    slightly above 1 or below 0 occur for few samples. See docs/representations.md.

    \b
    Example:
      onnxinfo similarity resnet20.onnx resnet32.onnx --inputs images/ --preset imagenet --limit 100
    """
    from onnxinfo import similarity as compare_layers

    target = claim_table(output, format, [model, other, inputs], force)
    with progress_bar() as report:
        rows = compare_layers(model, other, inputs, other_layers=other_layers or None, progress=report, **options)
    print_rows(rows, [*rows[0]], format, target)
