"""Options that several commands share, and how text becomes their values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from .completion import layer_names

Command = Callable[..., Any]


class Numbers(click.ParamType[list[float]]):
    """One number, or several separated by commas."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[float]:
        """Return the numbers of ``0.485,0.456,0.406``."""
        if isinstance(value, list):
            return value
        try:
            return [float(part) for part in str(value).split(",")]
        except ValueError:
            self.fail(f"{value!r} is no list of numbers such as 0.485,0.456,0.406", param, ctx)


def force(command: Command) -> Command:
    """Whether an existing file of another kind is replaced: ``--force``."""
    text = "Replace an existing file whatever it holds; never an input."
    return click.option("--force", is_flag=True, help=text)(command)


def selection(command: Command) -> Command:
    """Which layers: ``--layers`` and ``--exclude``."""
    patterns = "glob over tensor names, re:REGEX, op:TYPE, INDEX or FIRST-LAST; repeatable"
    shared: dict[str, Any] = {"multiple": True, "metavar": "P", "shell_complete": layer_names}
    command = click.option("--exclude", help=f"Leave out layers: {patterns}.", **shared)(command)
    return click.option("--layers", help=f"Layers: {patterns}. Default: see docs.", **shared)(command)


def preprocessing(command: Command) -> Command:
    """Which samples, and how they are brought to the model."""
    for option in (
        click.option("--size", type=click.IntRange(1), help="Side of the images where the model leaves it open."),
        click.option("--std", type=Numbers(), metavar="N,...", help="Divided into the scaled values, one per channel."),
        click.option("--mean", type=Numbers(), metavar="N,...", help="Subtracted from the scaled values."),
        click.option("--scale", type=float, help="Factor on the stored values; 8-bit images: 1/255."),
        click.option("--preset", type=click.Choice(["imagenet", "cifar10", "unit"]), help="Scale, mean, std by name."),
        click.option("--limit", type=click.IntRange(1), help="Use only the first N samples."),
    ):
        command = option(command)
    return command


def labels(command: Command) -> Command:
    """The samples' right classes."""
    holders = "Labels: FILE.npz:key, .npy or .csv; default: by class folder."
    return click.option("--labels", metavar="SPEC", help=holders)(command)


def where(command: Command) -> Command:
    """What computes."""
    address = "ray: the cluster's; default: the one around, or a new one."
    workers = "Processes; default: one per GPU, on ray all there is room for."
    for option in (
        click.option("--address", metavar="HOST:PORT", help=address),
        click.option("--threads", type=click.IntRange(1), help="Of each worker on a processor."),
        click.option("--workers", type=click.IntRange(1), help=workers),
        click.option("--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True),
        click.option("--memory", metavar="SIZE", help="Budget of each worker for activations, such as 2G."),
        click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N."),
    ):
        command = option(command)
    return command


def recovery(command: Command) -> Command:
    """How the input is reconstructed, for the metric ``ru``."""
    for option in (
        click.option("--decoder-flips", is_flag=True, help="Train them on mirrored images as well."),
        click.option(
            "--decoder-learning-rate", type=float, default=3e-3, show_default=True, help="The greatest of it."
        ),
        click.option(
            "--decoder-batch", type=click.IntRange(1), default=32, show_default=True, help="Samples of a step of it."
        ),
        click.option(
            "--decoder-steps", type=click.IntRange(1), default=400, show_default=True, help="Of their training."
        ),
        click.option("--decoder-width", type=click.IntRange(1), default=32, show_default=True, help="Their channels."),
        click.option("--decoder-limit", type=click.IntRange(1), help="Train on the first N samples only."),
        click.option("--decoder-inputs", metavar="SPEC", help="Samples to train decoders on; default: --inputs."),
        click.option(
            "--decoders", type=click.Path(), metavar="DIR", help="Folder of decoders; default: by the archive."
        ),
        click.option(
            "--center",
            type=click.Choice(["input", "reconstruction"]),
            default="input",
            show_default=True,
            help="What errors of ru are measured from.",
        ),
    ):
        command = option(command)
    return command


def objects(command: Command) -> Command:
    """Where the samples' objects are."""
    crop = "Crop images to N times the box around their foreground; 1.5 in the paper."
    command = click.option("--crop-to-box", type=click.FloatRange(0, min_open=True), metavar="N", help=crop)(command)
    holders = "FILE.npz:key, CSV, COCO JSON, folder of VOC XML or PNG masks"
    return click.option("--foreground", metavar="SPEC", help=f"Boxes or masks of the objects: {holders}.")(command)
