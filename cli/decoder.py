"""``onnxinfo decoder``: the networks that reconstruct a model's input from its layers, for the metric ``ru``."""

from __future__ import annotations

from typing import Any

import click

from .former import Group
from .options import units
from .progress import progress_bar
from .settings import config_file, setting, settings
from .tables import FORMATS, print_rows, write_stdout

COLUMNS = ("layer", "width", "error", "steps", "file", "model")


@click.group(cls=Group)
def decoder() -> None:
    """Train, list and show the decoders that the reconstruction uncertainty needs."""


@decoder.command()
@click.argument("model", type=click.Path())
@click.option(
    "--inputs", required=True, metavar="SPEC", help="Training samples, ideally thousands, as for 'onnxinfo analyze'."
)
@click.option("-o", "--output", required=True, type=click.Path(), help="Folder in which decoders are stored.")
@config_file
@units
@setting("layers")
@setting("exclude")
@settings("input", leave_out=["labels", "unit_mask", "foreground", "crop_to_box"])
@setting("decoder_width", "width")
@setting("decoder_steps", "steps")
@setting("decoder_batch", "batch")
@setting("decoder_learning_rate", "learning_rate")
@setting("decoder_horizontal_flip", "horizontal_flip")
@setting("seed", help="Seed of the validation split, the initial weights and the order of samples.")
@setting("device")
def train(model: str, inputs: str, output: str, **options: Any) -> None:
    """Train a decoder for each selected layer of MODEL; existing decoders are kept.

    \b
    Example:
      onnxinfo decoder train resnet20.onnx --inputs train.npz:x --preset cifar10 --layers relu_18 -o decoders
    """
    from onnxinfo import train_decoder

    with progress_bar(output) as report:
        stored = train_decoder(model, inputs, output, progress=report, **options)
    print_rows([_row(each) for each in stored], COLUMNS, "table")


@decoder.command("list")
@click.argument("folder", type=click.Path())
@click.option("--format", type=click.Choice(FORMATS), default="table", show_default=True, help="Output format.")
def list_command(folder: str, format: str) -> None:
    """List the decoders in FOLDER: layer, width, error relative to the samples' variance, steps.

    \b
    Example:
      onnxinfo decoder list decoders
    """
    from onnxinfo import list_decoders

    print_rows([_row(each) for each in list_decoders(folder)], COLUMNS, format)


@decoder.command()
@click.argument("folder", type=click.Path())
@click.argument("layer")
def show(folder: str, layer: str) -> None:
    """Print the descriptions of the decoders of LAYER in FOLDER as JSON.

    \b
    Example:
      onnxinfo decoder show decoders relu_18
    """
    from onnxinfo import describe_decoder

    write_stdout(describe_decoder(folder, layer) + "\n")


def _row(stored: Any) -> dict[str, Any]:
    return {
        "layer": stored.tensor,
        "width": stored.width,
        "error": stored.error,
        "steps": stored.steps,
        "file": stored.path.with_suffix(".safetensors").name,
        "model": stored.model_sha256[:12],
    }
