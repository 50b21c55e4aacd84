"""``annotate``: metrics in the model file, for ONNX viewers."""

from __future__ import annotations

from typing import Any

import click

from .options import force, only_metrics
from .verbosity import print_info


@click.command(no_args_is_help=True)
@click.argument("model", type=click.Path())
@click.argument("archive", metavar="FILE.h5", type=click.Path())
@click.option("-o", "--output", required=True, metavar="OUT.onnx", type=click.Path(), help="Model file to write.")
@click.option("--run", metavar="NAME", help="Run to use. Default: the only run of MODEL.")
@only_metrics("Metric to write; repeatable. Default: all.")
@force
def annotate(model: str, archive: str, output: str, **options: Any) -> None:
    """Write MODEL with the metrics in FILE.h5 as metadata of its nodes.

    Netron and other viewers show them. The outputs of the model stay bitwise identical.

    \b
    Example:
      onnxinfo annotate model.onnx result.h5 -o annotated.onnx
    """
    from onnxinfo import annotate as write_annotated

    count = write_annotated(model, archive, output, **options)
    print_info(f"{output}: {count} nodes annotated; open it in Netron and click on a node")
