"""``annotate``: metrics in the model file, for ONNX viewers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from .options import force, only_metrics
from .verbosity import print_info


@click.command(no_args_is_help=True)
@click.argument("model", type=click.Path())
@click.argument("archive", metavar="FILE.h5", type=click.Path())
@click.option("-o", "--output", required=True, metavar="FILE", type=click.Path(), help="File to write.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["onnx", "model-explorer"]),
    default="onnx",
    show_default=True,
    help="The model with metadata, or node data of one metric for Model Explorer (JSON).",
)
@click.option("--run", metavar="NAME", help="Run to use. Default: the only run of MODEL.")
@only_metrics("Metric to write; repeatable. Default: all.")
@force
def annotate(model: str, archive: str, form: str, **options: Any) -> None:
    """Write MODEL with the metrics in FILE.h5 as metadata of its nodes.

    Netron and other viewers show them: onnxinfo.sid is the mean over the samples, onnxinfo.sid.stderr its standard
    error. The rest of the model stays as it is. MODEL may be an annotated copy itself: its annotations are replaced.
    With --format model-explorer, a file of node data is written, by which Model Explorer colors the nodes.

    \b
    Examples:
      onnxinfo annotate model.onnx result.h5 -o annotated.onnx
      onnxinfo annotate model.onnx result.h5 --format model-explorer --metric sid -o sid.json
    """
    _WRITERS[form](model, archive, **options)


def _into_the_model(model: str, archive: str, output: str, **options: Any) -> None:
    from onnxinfo import annotate as write_annotated

    count = write_annotated(model, archive, output, **options)
    print_info(f"{output}: {count} nodes annotated; open it in Netron and click on a node")


def _beside_it(model: str, archive: str, output: str, *, metrics: Sequence[str], **options: Any) -> None:
    from onnxinfo import node_data

    if len(metrics) > 1:
        raise click.UsageError(f"--metric was given {len(metrics)} times; a file of node data has one metric")
    count = node_data(model, archive, output, metric=next(iter(metrics), None), **options)
    print_info(f"{output}: {count} nodes; open MODEL in Model Explorer, and load this file as node data")


_WRITERS = {"onnx": _into_the_model, "model-explorer": _beside_it}
