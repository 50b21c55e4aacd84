"""``rescale``, ``coherency`` and ``robustness``: the paper's diagnoses of a model."""

from __future__ import annotations

import json
from typing import Any

import click

from onnxinfo.config import COHERENCY_METRICS, RESCALE_FACTOR

from .models import load_for
from .options import NUMBER, force, selection
from .options import inputs as samples
from .outcome import completed, finite, formats
from .progress import progress_bar
from .settings import config_file, settings
from .tables import FORMATS, print_rows, write_stdout
from .verbosity import print_info

COLUMNS = ("layer", "metric", "rescaled", "before", "after", "difference", "ratio", "samples", "unproven")
_factor = click.option(
    "--factor",
    type=NUMBER,
    default=RESCALE_FACTOR,
    show_default=True,
    help="Factor that the first layer of each pair is divided by and the second multiplied by.",
)
_archive = click.option(
    "-o", "--output", required=True, type=click.Path(), help="Archive (HDF5). If it exists, runs are added."
)


@click.command(no_args_is_help=True)
@click.argument("model", type=click.Path())
@click.option("-o", "--output", required=True, metavar="OUT.onnx", help="Model file to write.")
@_factor
@selection("all that can be rescaled")
@force
def rescale(
    model: str,
    output: str,
    factor: float,
    layers: tuple[str, ...],
    exclude: tuple[str, ...],
    force: bool,
) -> None:
    """Rescale pairs of consecutive layers of MODEL without changing its outputs.

    By default all pairs of layers are rescaled that are separated only by ReLU, pooling and similar operators; --layers
    and --exclude select pairs by the tensors between them.

    \b
    Example:
      onnxinfo rescale resnet20.onnx --factor 4 -o rescaled.onnx
    """
    from onnxinfo import rescale as rescale_layers
    from onnxinfo import save
    from onnxinfo.graph.rescale import select_pairs

    loaded = load_for(model, output, force)
    save(rescale_layers(loaded, factor, layers, exclude), output, force=force)
    print_info(f"{output}: {len(select_pairs(loaded, layers, exclude))} pairs of layers rescaled by {factor:g}")


@click.command(no_args_is_help=True)
@click.argument("model", type=click.Path())
@samples
@_archive
@_factor
@click.option(
    "--pairs",
    multiple=True,
    metavar="P",
    help="Tensors between the layers to rescale, as patterns; repeatable. Default: all.",
)
@config_file
@settings(leave_out=["run"], metrics=COHERENCY_METRICS)
@click.option("--format", type=click.Choice(FORMATS), default="table", show_default=True, help="Output format.")
def coherency(model: str, inputs: str, output: str, format: str, **options: Any) -> None:
    """Tabulate how metrics and baselines of each layer change when MODEL's layers are rescaled.

    The runs 'original' and 'rescaled' are written to the archive.

    \b
    Example:
      onnxinfo coherency resnet20.onnx --inputs images/ --preset imagenet --limit 8 -o coherency.h5
    """
    from onnxinfo import coherency as compare_rescaled

    with progress_bar(output) as report:
        found, error = completed(lambda: compare_rescaled(model, inputs, output, progress=report, **options))
    rows = [{name: getattr(change, name) for name in COLUMNS} for change in found.changes]
    print_rows(rows, COLUMNS, format)
    if error is not None:
        raise error


@click.command(no_args_is_help=True)
@click.argument("model", type=click.Path())
@samples
@_archive
@config_file
@settings("input", "sid", "ru", "ru.decoder", "sensitivity", "execution", "output")
@formats
def robustness(model: str, inputs: str, output: str, format: str, **options: Any) -> None:
    """Measure how far the samples are from MODEL's most probable wrong classes.

    The mean L2 norm, in standard deviations of the input, of the smallest perturbations to the 20 most probable wrong
    classes (or fewer, if the model has fewer), found by Carlini and Wagner's attack. Needs --labels.

    \b
    Example:
      onnxinfo robustness resnet20.onnx --inputs c.npz:x_test --labels c.npz:y_test --limit 32 -o robustness.h5
    """
    from onnxinfo import robustness as measure

    with progress_bar(output) as report:
        found, error = completed(lambda: measure(model, inputs, output, progress=report, **options))
    if format == "json":
        described = {"archive": str(found.result.archive), "run": found.result.run, "unchanged": found.result.unchanged}
        numbers = {
            each: finite(getattr(found, each)) for each in ("value", "stderr", "samples", "converged", "accuracy")
        }
        write_stdout(json.dumps(described | numbers, indent=2, ensure_ascii=False) + "\n")
    else:
        click.echo(f"robustness {found.value:.5f} +- {found.stderr:.5f} standard deviations (mean L2 norm)")
        click.echo(f"{found.converged} of {found.samples} samples reached every target; accuracy {found.accuracy:.3f}")
    if error is not None:
        raise error
